//! A store of any place that can load and swap.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use tollway_core::{
    Capabilities, Cell, Change, Clock, Decision, Part, Policy, Reply, Request, State, States, Store, StoreError,
    StoreErrorKind, adjust, carry_states, decide, read_states, store_key, write_states,
};

use crate::SystemClock;

/// How often a swap may be lost to others before the caller is told.
const TRIES: u32 = 64;

/// Makes a [`Store`] of a [`Cell`]: load, decide, swap, and again when somebody was quicker.
///
/// Two round trips for each key, one when it refuses. Several keys of one request are swapped one
/// after the other, and given back when a later one refuses: never more than the limits, but others
/// may meanwhile be refused by what is given back.
///
/// ```
/// use std::collections::HashMap;
/// use std::future::ready;
/// use std::sync::{Arc, Mutex};
/// use std::time::Duration;
/// use tollway_core::{Cell, Loaded, Reply};
/// use tollway_stores::cas::CasStore;
///
/// /// A map for a backend: its version is the value itself.
/// #[derive(Debug, Default)]
/// struct Map(Mutex<HashMap<String, Vec<u8>>>);
///
/// impl Cell for Map {
///     fn name(&self) -> &str {
///         "map://"
///     }
///
///     fn load(&self, key: &str) -> Reply<Option<Loaded>> {
///         let found = self.0.lock().unwrap().get(key).cloned();
///         Box::pin(ready(Ok(found.map(|bytes| Loaded { version: bytes.clone(), bytes }))))
///     }
///
///     fn swap(&self, key: &str, expected: Option<Vec<u8>>, bytes: Option<Vec<u8>>, _: Duration) -> Reply<bool> {
///         let mut map = self.0.lock().unwrap();
///         let holds = map.get(key) == expected.as_ref();
///         match bytes {
///             Some(bytes) if holds => drop(map.insert(key.to_owned(), bytes)),
///             None if holds => drop(map.remove(key)),
///             _ => {}
///         }
///         Box::pin(ready(Ok(holds)))
///     }
/// }
///
/// let store = CasStore::new(Arc::new(Map::default()), "tollway");
/// # let waker = std::task::Waker::noop();
/// # let suite = tollway_core::conformance::run(Arc::new(store), "doc");
/// # assert!(std::pin::pin!(suite).poll(&mut std::task::Context::from_waker(waker)).is_ready());
/// ```
#[derive(Clone, Debug)]
pub struct CasStore {
    cell: Arc<dyn Cell>,
    prefix: Arc<str>,
    clock: Arc<dyn Clock>,
}

/// One charge of a request, owned, with its key as the cell knows it.
#[derive(Debug)]
struct Due {
    policy: Arc<Policy>,
    key: String,
    cost: u32,
}

/// What a key held when it was loaded.
#[derive(Debug, Default)]
struct Held {
    version: Option<Vec<u8>>,
    states: Option<States>,
}

impl CasStore {
    /// A store over `cell`, with the host's clock.
    pub fn new(cell: Arc<dyn Cell>, prefix: &str) -> Self {
        Self::with_clock(cell, prefix, Arc::new(SystemClock::new()))
    }

    /// The same on another clock.
    pub fn with_clock(cell: Arc<dyn Cell>, prefix: &str, clock: Arc<dyn Clock>) -> Self {
        Self { cell, prefix: prefix.into(), clock }
    }

    fn due(&self, policy: &Arc<Policy>, key: &str, cost: u32) -> Due {
        Due { policy: Arc::clone(policy), key: store_key(&self.prefix, policy.name(), key), cost }
    }

    async fn load(&self, due: &Due) -> Result<Held, StoreError> {
        let Some(found) = self.cell.load(&due.key).await? else { return Ok(Held::default()) };
        let saved = read_states(&found.bytes).map_err(|flaw| {
            let detail = format!("key {:?} holds a {flaw}; reset the key or use another prefix", due.key);
            StoreError::new(StoreErrorKind::Corrupt, self.cell.name(), detail)
        })?;
        let old: SmallVec<[_; 2]> = saved.iter().map(|(limit, state)| (limit, state.clone())).collect();
        let states = carry_states(&old, &due.policy, self.clock.now());
        Ok(Held { version: Some(found.version), states: Some(states) })
    }

    async fn swap(&self, due: &Due, expected: Option<Vec<u8>>, states: &[State]) -> Result<bool, StoreError> {
        // Twice, since as much as can be spent can be owed.
        let ttl = Duration::from_nanos(due.policy.lifetime().saturating_mul(2));
        self.cell.swap(&due.key, expected, Some(write_states(&due.policy, states)), ttl).await
    }

    async fn answer(&self, dues: &[Due], peek: bool) -> Result<Decision, StoreError> {
        for _ in 0..TRIES {
            let mut held = Vec::with_capacity(dues.len());
            for due in dues {
                held.push(self.load(due).await?);
            }
            let now = self.clock.now();
            let mut parts: SmallVec<[Part<'_>; 4]> = SmallVec::new();
            for (charge, (due, held)) in dues.iter().zip(&held).enumerate() {
                parts.extend(parts_of(due, held, charge as u16));
            }
            let (decision, next) = decide(&mut parts, now);
            drop(parts);
            let arrived =
                || dues.iter().zip(&held).any(|(due, held)| due.policy.notes_arrivals() && held.states.is_none());
            if peek || !(decision.allowed || arrived()) || self.spend(dues, held, &next, &decision).await? {
                return Ok(decision);
            }
        }
        Err(self.contended(&dues[0].key))
    }

    /// Swaps every key's states, or none: those swapped before one was lost are given back.
    async fn spend(
        &self,
        dues: &[Due],
        held: Vec<Held>,
        next: &[State],
        decision: &Decision,
    ) -> Result<bool, StoreError> {
        let mut next = next;
        for (number, (due, held)) in dues.iter().zip(held).enumerate() {
            let (own, rest) = next.split_at(due.policy.limits().len());
            next = rest;
            if !self.swap(due, held.version, own).await? {
                for due in dues[..number].iter().filter(|_| decision.allowed) {
                    self.change(due, Change::Refund(due.cost)).await?;
                }
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Charges or gives back without asking.
    async fn change(&self, due: &Due, change: Change) -> Result<Decision, StoreError> {
        for _ in 0..TRIES {
            let held = self.load(due).await?;
            let mut parts: SmallVec<[Part<'_>; 4]> = parts_of(due, &held, 0).collect();
            let (decision, states) = adjust(&mut parts, self.clock.now(), change);
            drop(parts);
            if !decision.allowed || self.swap(due, held.version, &states).await? {
                return Ok(decision);
            }
        }
        Err(self.contended(&due.key))
    }

    fn contended(&self, key: &str) -> StoreError {
        let detail = format!("key {key:?} was changed by others {TRIES} times in a row");
        StoreError::new(StoreErrorKind::Conflict, self.cell.name(), detail)
    }
}

/// A charge's limits with what is known of its key.
fn parts_of<'a>(due: &'a Due, held: &'a Held, charge: u16) -> impl Iterator<Item = Part<'a>> {
    due.policy.limits().iter().enumerate().map(move |(index, limit)| Part {
        limit,
        state: held.states.as_ref().map(|states| states[index].clone()),
        cost: due.cost,
        charge,
        index: index as u16,
    })
}

impl Store for CasStore {
    fn name(&self) -> &str {
        self.cell.name()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { native_expiry: true, ..Capabilities::default() }
    }

    fn apply(&self, requests: &[Request<'_>]) -> Reply<Vec<Decision>> {
        let due = |charge: &tollway_core::Charge<'_>| self.due(charge.policy, charge.key, charge.cost);
        let asked: Vec<(Vec<Due>, bool)> =
            requests.iter().map(|request| (request.charges.iter().map(due).collect(), request.peek)).collect();
        let store = self.clone();
        Box::pin(async move {
            let mut answers = Vec::with_capacity(asked.len());
            for (dues, peek) in &asked {
                answers.push(store.answer(dues, *peek).await?);
            }
            Ok(answers)
        })
    }

    fn adjust(&self, policy: &Arc<Policy>, key: &str, change: Change) -> Reply<Decision> {
        let (store, due) = (self.clone(), self.due(policy, key, 0));
        Box::pin(async move { store.change(&due, change).await })
    }

    fn reset(&self, policy: &Arc<Policy>, key: &str) -> Reply<()> {
        let (store, due) = (self.clone(), self.due(policy, key, 0));
        Box::pin(async move {
            for _ in 0..TRIES {
                let Some(found) = store.cell.load(&due.key).await? else { return Ok(()) };
                if store.cell.swap(&due.key, Some(found.version), None, Duration::ZERO).await? {
                    return Ok(());
                }
            }
            Err(store.contended(&due.key))
        })
    }

    fn ping(&self) -> Reply<()> {
        let (store, key) = (self.clone(), format!("{}:ping", self.prefix));
        Box::pin(async move { store.cell.load(&key).await.map(|_| ()) })
    }
}
