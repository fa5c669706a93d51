//! Requests as they travel to the driver, and what becomes of the rows they name.

use std::collections::BTreeMap;
use std::sync::Arc;

use smallvec::SmallVec;
use tollway_core::{
    Change, Charge, Decision, Part, Policy, Request, Saved, States, StoreError, StoreErrorKind, Timestamp, adjust,
    carry_states, decide, read_states, store_key, write_states,
};

/// The requests of one caller, owned.
pub(super) type Asks = SmallVec<[Ask; 1]>;

/// One request, owned.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    kind: Kind,
    dues: SmallVec<[Due; 1]>,
}

#[derive(Clone, Debug)]
enum Kind {
    Check,
    Peek,
    /// Without asking.
    Adjust(Change),
}

/// One charge, owned, with its key as the table spells it.
#[derive(Clone, Debug)]
struct Due {
    policy: Arc<Policy>,
    key: Arc<str>,
    cost: u32,
}

impl Ask {
    pub(super) fn new(store: &str, prefix: &str, request: &Request<'_>) -> Result<Self, StoreError> {
        let refuse = |why: &str| Err(StoreError::new(StoreErrorKind::Unsupported, store, why));
        if request.charges.is_empty() {
            return refuse("a request without a charge: give it at least one");
        }
        let due = |charge: &Charge<'_>| Due::new(prefix, charge.policy, charge.key, charge.cost);
        let dues: SmallVec<[Due; 1]> = request.charges.iter().map(due).collect();
        for (index, due) in dues.iter().enumerate().skip(1) {
            if dues[..index].iter().any(|other| other.key == due.key) {
                return refuse("a request charges one policy and key twice: add the costs up");
            }
        }
        Ok(Self { kind: if request.peek { Kind::Peek } else { Kind::Check }, dues })
    }

    pub(super) fn adjust(prefix: &str, policy: &Arc<Policy>, key: &str, change: Change) -> Self {
        Self { kind: Kind::Adjust(change), dues: SmallVec::from_iter([Due::new(prefix, policy, key, 0)]) }
    }

    /// Whether it may be carried out again when nobody knows whether it was. A check may: it counts
    /// twice at worst. What gives permits back may not: it would free more than was spent.
    pub(super) fn may_repeat(&self) -> bool {
        !matches!(self.kind, Kind::Adjust(Change::Refund(_) | Change::Release { .. }))
    }

    /// How many keys it names.
    pub(super) fn size(&self) -> usize {
        self.dues.len()
    }
}

impl Due {
    fn new(prefix: &str, policy: &Arc<Policy>, key: &str, cost: u32) -> Self {
        Self { policy: Arc::clone(policy), key: store_key(prefix, policy.name(), key).into(), cost }
    }
}

/// A row as it was read.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) key: String,
    pub(super) state: Vec<u8>,
}

/// A row to be written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Put {
    pub(super) key: Arc<str>,
    pub(super) state: Vec<u8>,
    /// Seconds since 1970 from which on it may be deleted.
    pub(super) expires_at: i64,
}

/// What a batch wants to be written: nothing when it is empty.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Puts {
    /// Rows that were not there.
    pub(super) new: Vec<Put>,
    /// Rows that were read, and are locked.
    pub(super) known: Vec<Put>,
}

impl Puts {
    pub(super) fn is_empty(&self) -> bool {
        self.new.is_empty() && self.known.is_empty()
    }
}

/// What a key holds while a batch is decided.
#[derive(Debug)]
enum Held {
    /// As it was read.
    Saved(Box<Saved>),
    /// As the batch has left it.
    Next(Arc<Policy>, States),
    /// Something that does not read.
    Flawed(StoreError),
}

/// The decisions of one caller, or why there are none.
pub(super) type Answers = Result<Vec<Decision>, StoreError>;

/// The distinct keys of some callers' requests, in order: the order in which rows are locked.
pub(super) fn keys<'a>(callers: impl Iterator<Item = &'a Asks>) -> Vec<Arc<str>> {
    let dues = callers.flatten().flat_map(|ask| &ask.dues);
    let mut keys: Vec<Arc<str>> = dues.map(|due| Arc::clone(&due.key)).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// Decides the callers' requests one after the other on the rows that were found at `now`.
pub(super) fn settle<'a>(
    callers: impl Iterator<Item = &'a Asks>,
    rows: Vec<Row>,
    now: Timestamp,
    store: &str,
) -> (Vec<Answers>, Puts) {
    let mut table = Table { held: BTreeMap::new(), now };
    let mut loaded = BTreeMap::new();
    for row in rows {
        let held = match read_states(&row.state) {
            Ok(saved) => Held::Saved(Box::new(saved)),
            Err(flaw) => {
                let detail = format!("key {:?} holds a {flaw}; reset the key or use another prefix", row.key);
                Held::Flawed(StoreError::new(StoreErrorKind::Corrupt, store, detail))
            }
        };
        let key: Arc<str> = row.key.into();
        table.held.insert(Arc::clone(&key), held);
        loaded.insert(key, row.state);
    }
    let answers = callers.map(|asks| asks.iter().map(|ask| table.answer(ask)).collect()).collect();
    let mut puts = Puts::default();
    for (key, held) in table.held {
        let Held::Next(policy, states) = held else { continue };
        let before = loaded.get(&key);
        let state = write_states(&policy, &states);
        if before != Some(&state) {
            let put = Put { key, state, expires_at: expiry(&policy, now) };
            if before.is_some() { puts.known.push(put) } else { puts.new.push(put) }
        }
    }
    (answers, puts)
}

struct Table {
    held: BTreeMap<Arc<str>, Held>,
    now: Timestamp,
}

impl Table {
    fn states(&self, due: &Due) -> Result<Option<States>, StoreError> {
        match self.held.get(&due.key) {
            None => Ok(None),
            Some(Held::Flawed(flaw)) => Err(flaw.clone()),
            Some(Held::Next(policy, states)) if Arc::ptr_eq(policy, &due.policy) => Ok(Some(states.clone())),
            Some(Held::Next(policy, states)) => {
                let old: SmallVec<[_; 2]> = policy.limits().iter().zip(states.iter().cloned()).collect();
                Ok(Some(carry_states(&old, &due.policy, self.now)))
            }
            Some(Held::Saved(saved)) => {
                let old: SmallVec<[_; 2]> = saved.iter().map(|(limit, state)| (limit, state.clone())).collect();
                Ok(Some(carry_states(&old, &due.policy, self.now)))
            }
        }
    }

    fn answer(&mut self, ask: &Ask) -> Result<Decision, StoreError> {
        let held = ask.dues.iter().map(|due| self.states(due)).collect::<Result<SmallVec<[_; 2]>, _>>()?;
        let arrived = ask.dues.iter().zip(&held).any(|(due, held)| due.policy.notes_arrivals() && held.is_none());
        let mut parts: SmallVec<[Part<'_>; 4]> = SmallVec::new();
        for (charge, (due, held)) in ask.dues.iter().zip(held).enumerate() {
            let mut states = held.into_iter().flatten();
            for (index, limit) in due.policy.limits().iter().enumerate() {
                let state = states.next();
                parts.push(Part { limit, state, cost: due.cost, charge: charge as u16, index: index as u16 });
            }
        }
        let (decision, next) = match ask.kind {
            Kind::Check | Kind::Peek => decide(&mut parts, self.now),
            Kind::Adjust(change) => adjust(&mut parts, self.now, change),
        };
        if matches!(ask.kind, Kind::Peek) || !(decision.allowed || arrived) {
            return Ok(decision);
        }
        let mut next = next.into_iter();
        for due in &ask.dues {
            let states = next.by_ref().take(due.policy.limits().len()).collect();
            self.held.insert(Arc::clone(&due.key), Held::Next(Arc::clone(&due.policy), states));
        }
        Ok(decision)
    }
}

/// When a row may go, in seconds since 1970.
///
/// Twice the policy's lifetime, since as much as can be spent can be owed. Rounded up to a coarse
/// grid, so that a busy row's expiry seldom changes and its index entry stays as it is.
fn expiry(policy: &Policy, now: Timestamp) -> i64 {
    const SECOND: u64 = 1_000_000_000;
    let lifetime = policy.lifetime().saturating_mul(2);
    let grid = (lifetime / SECOND / 4).max(1).next_power_of_two();
    let at = now.nanos().saturating_add(lifetime).div_ceil(SECOND);
    i64::try_from(at.div_ceil(grid).saturating_mul(grid)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollway_core::Algorithm;

    const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

    fn check(policy: &Arc<Policy>, key: &str) -> Asks {
        let charges = [Charge { policy, key, cost: 1 }];
        Asks::from_iter([Ask::new("s", "p", &Request { charges: &charges, peek: false }).unwrap()])
    }

    fn policy(rates: &str) -> Arc<Policy> {
        Arc::new(Policy::new("q", rates, Algorithm::Gcra).unwrap())
    }

    #[test]
    fn callers_are_served_in_order_and_rows_in_the_order_of_their_keys() {
        let two = policy("2/h");
        let callers: Vec<_> = ["b", "a", "b", "b"].map(|key| check(&two, key)).into();
        assert_eq!(keys(callers.iter()), ["p:q:{a}", "p:q:{b}"].map(Arc::<str>::from));
        let (answers, puts) = settle(callers.iter(), Vec::new(), NOW, "s");
        let allowed: Vec<_> = answers.iter().map(|answer| answer.as_ref().unwrap()[0].allowed).collect();
        assert_eq!(allowed, [true, true, true, false]);
        assert_eq!(puts.new.iter().map(|put| &*put.key).collect::<Vec<_>>(), ["p:q:{a}", "p:q:{b}"]);
        assert!(puts.known.is_empty());
    }

    #[test]
    fn what_changes_nothing_is_not_written() {
        let one = policy("1/h");
        let first = check(&one, "a");
        let (_, puts) = settle([&first].into_iter(), Vec::new(), NOW, "s");
        let row = || vec![Row { key: "p:q:{a}".into(), state: puts.new[0].state.clone() }];
        let (answers, again) = settle([&first].into_iter(), row(), NOW, "s");
        assert!(!answers[0].as_ref().unwrap()[0].allowed && again.is_empty());
        let free = Asks::from_iter([Ask::adjust("p", &one, "a", Change::Charge(0))]);
        assert!(settle([&free].into_iter(), row(), NOW, "s").1.is_empty());
    }

    #[test]
    fn a_row_that_does_not_read_concerns_its_own_callers_only() {
        let one = policy("1/h");
        let callers = [check(&one, "a"), check(&one, "b")];
        let rows = vec![Row { key: "p:q:{a}".into(), state: vec![9] }];
        let (answers, puts) = settle(callers.iter(), rows, NOW, "s");
        let error = answers[0].as_ref().unwrap_err();
        assert!(error.kind == StoreErrorKind::Corrupt && error.detail.contains("p:q:{a}"), "{error}");
        assert!(answers[1].as_ref().unwrap()[0].allowed);
        assert_eq!(puts.new.len(), 1);
    }

    #[test]
    fn an_expiry_is_late_enough_and_seldom_changes() {
        let minute = policy("5/m");
        let seconds = |second: u64| expiry(&minute, Timestamp::from_secs(1_700_000_000 + second)) - 1_700_000_000;
        assert!((0..600).all(|second| seconds(second) >= second as i64 + 120));
        let mut distinct: Vec<_> = (0..600).map(seconds).collect();
        distinct.dedup();
        assert!(distinct.len() < 25, "{distinct:?}");
    }
}
