//! `memory://`: state in this process, in flat lock-free tables.
//!
//! A check of a policy with one limit is one exchange of one word, the same whatever the number of
//! hits; nobody waits for anybody. There is no background thread: a table grows and pushes idle keys
//! out as keys come in. Other policies are kept in a map under short locks.
//!
//! What is promised: never more is admitted than a limit allows, on any number of threads. A refusal
//! has charged nothing once it has returned. Charges of one request pass together or not at all; while
//! such a request is being answered on one thread, others may briefly see a part of it charged that
//! is then handed back, so they may be refused too early, never too late. When every slot a new key
//! may take is held by a key with something spent, the one that loses least is pushed out, and the
//! newcomer starts with what that key had spent: a flood refuses newcomers, it frees nobody.

mod cell;
mod map;
mod own;
mod policies;
mod shard;

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use ahash::RandomState;
use smallvec::SmallVec;
use tollway_core::{
    Capabilities, Change, Charge, Clock, Decision, Part, Policy, Reply, Request, Store, StoreError, StoreErrorKind,
    Timestamp, decide, decide_one,
};

use crate::SystemClock;
use crate::own::has_own;
use crate::prefixes::MOST;
use crate::table::{Applied, Moment, Room, Together, together};
use map::{Before, Map};
use own::Own;
use policies::{Known, Policies};
use shard::Kept;

/// A bounded table of keys in this process.
///
/// ```
/// use std::sync::Arc;
/// use tollway_core::{Algorithm, Charge, Policy, Request, Store};
/// use tollway_stores::memory::MemoryStore;
///
/// let store = MemoryStore::new(1_000_000);
/// let policy = Arc::new(Policy::new("login", "5/m", Algorithm::Gcra)?);
/// let charges = [Charge { policy: &policy, key: "203.0.113.7", cost: 1 }];
/// let decision = store.apply_now(&Request { charges: &charges, peek: false }).unwrap().unwrap();
/// assert!(decision.allowed && decision.remaining == 4);
/// # Ok::<(), tollway_core::ConfigError>(())
/// ```
pub struct MemoryStore {
    clock: Time,
    hasher: RandomState,
    max_keys: usize,
    room: Room,
    policies: Policies,
    map: Map,
    own: Own,
}

impl MemoryStore {
    /// A store for at most `max_keys` keys, rounded to whole buckets (at least 16 a policy).
    ///
    /// Once they are taken, each further policy may still have a sixteenth of them, so that a flood
    /// on one policy leaves the others their part. Policies kept in the map have `max_keys` together.
    /// Set it to one and a half times the keys you expect to have something spent at one time.
    pub fn new(max_keys: usize) -> Self {
        Self::on(max_keys, Time::System(SystemClock::new()))
    }

    /// The same on another clock: for tests.
    pub fn with_clock(max_keys: usize, clock: Arc<dyn Clock>) -> Self {
        Self::on(max_keys, Time::Other(clock))
    }

    fn on(max_keys: usize, clock: Time) -> Self {
        let shared: Arc<dyn Clock> = match &clock {
            Time::System(_) => Arc::new(SystemClock::new()),
            Time::Other(clock) => Arc::clone(clock),
        };
        Self {
            own: Own::new(shared, max_keys),
            clock,
            hasher: RandomState::new(),
            max_keys,
            room: Room::new(max_keys),
            policies: Policies::new(),
            map: Map::new(max_keys),
        }
    }

    /// Keys held now, expired ones included. Reads every slot: for tests and slow gauges.
    pub fn len(&self) -> usize {
        self.policies.held() + self.map.held() + self.own.held()
    }

    /// Whether no key is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A seeded fingerprint stands for a key in its policy's table.
    #[inline]
    fn id(&self, policy: &Policy, key: &str) -> u64 {
        ((self.hasher.hash_one(key) ^ self.map.mix(policy, key)) >> 16).max(1)
    }

    #[inline]
    fn known<T>(&self, policy: &Arc<Policy>, now: Timestamp, step: impl FnOnce(&Known) -> T) -> T {
        self.policies.with(policy, &self.room, self.max_keys, now, step)
    }

    #[inline]
    fn answer(&self, request: &Request<'_>) -> Decision {
        let mut moment = Moment::new(&self.clock, self.clock.now());
        if let [charge] = request.charges {
            if let (false, Some(home)) = (request.peek, self.policies.seen(charge.policy).and_then(Known::flat))
                && let Some(verdict) =
                    home.table.charge_plainly(self.id(charge.policy, charge.key), charge.cost, moment.now)
            {
                return Decision::of_one(home.table.layout().limit(), verdict, charge.cost, moment.now);
            }
            return self.known(charge.policy, moment.now, |known| self.one(known, charge, request.peek, &mut moment));
        }
        let parts: SmallVec<[(usize, Charge<'_>); 4]> = request.charges.iter().copied().enumerate().collect();
        let Ok(decision) = together(self, &parts, request.peek, &mut moment);
        decision
    }

    #[inline(never)]
    fn one(&self, known: &Known, charge: &Charge<'_>, peek: bool, moment: &mut Moment<'_>) -> Decision {
        let id = self.id(charge.policy, charge.key);
        if let (true, Some(home)) = (known.is_flat, &known.home) {
            let limit = home.table.layout().limit();
            let verdict = if peek {
                let state = home.table.look(id, moment.now, &self.room);
                state.map(|state| decide_one(limit, state, moment.now, charge.cost).0)
            } else {
                home.table.charge(id, charge.cost, moment, &self.room).map(|charged| charged.verdict)
            };
            if let Ok(verdict) = verdict {
                return Decision::of_one(limit, verdict, charge.cost, moment.now);
            }
        }
        self.map.charge(charge, before(known, id), moment.now, peek, false).decision
    }

    fn settle(&self, policy: &Arc<Policy>, key: &str, change: Change) -> Decision {
        let id = self.id(policy, key);
        let mut moment = Moment::new(&self.clock, self.clock.now());
        self.known(policy, moment.now, |known| {
            if let (true, Some(home)) = (known.is_flat, &known.home)
                && let Ok(state) = home.table.adjust(id, change, &mut moment, &self.room)
            {
                let limit = home.table.layout().limit();
                return Decision::of_one(limit, decide_one(limit, state, moment.now, 0).0, 0, moment.now);
            }
            self.map.adjust(policy, key, change, before(known, id), moment.now)
        })
    }

    fn forget(&self, policy: &Arc<Policy>, key: &str) {
        let (id, now) = (self.id(policy, key), self.clock.now());
        self.known(policy, now, |known| {
            if let (true, Some(home)) = (known.is_flat, &known.home)
                && home.table.reset(id, now, &self.room).is_ok()
            {
                return;
            }
            self.map.reset(policy, key, before(known, id), now);
        });
    }
}

impl Together<(usize, Charge<'_>)> for MemoryStore {
    type Before = Option<Kept>;
    type After = Kept;
    type Error = Infallible;

    fn look(&self, (_, charge): &(usize, Charge<'_>), moment: &mut Moment<'_>) -> Result<Option<Kept>, Infallible> {
        let (id, now) = (self.id(charge.policy, charge.key), moment.now);
        Ok(self.known(charge.policy, now, |known| {
            if let (true, Some(home)) = (known.is_flat, &known.home)
                && let Ok(state) = home.table.look(id, now, &self.room)
            {
                return state.map(|state| Kept::from_iter([state]));
            }
            self.map.look(charge, before(known, id), now)
        }))
    }

    fn charge(
        &self,
        (number, charge): &(usize, Charge<'_>),
        moment: &mut Moment<'_>,
    ) -> Result<Applied<Option<Kept>, Kept>, Infallible> {
        let id = self.id(charge.policy, charge.key);
        let mut applied = self.known(charge.policy, moment.now, |known| {
            if let (true, Some(home)) = (known.is_flat, &known.home)
                && let Ok(charged) = home.table.charge(id, charge.cost, moment, &self.room)
            {
                let layout = home.table.layout();
                return Applied {
                    decision: Decision::of_one(layout.limit(), charged.verdict, charge.cost, moment.now),
                    before: layout.state(charged.before).map(|state| Kept::from_iter([state])),
                    after: layout.state(charged.after).into_iter().collect(),
                };
            }
            self.map.charge(charge, before(known, id), moment.now, false, true)
        });
        applied.decision.charge = *number as u16;
        Ok(applied)
    }

    fn refund(
        &self,
        (_, charge): &(usize, Charge<'_>),
        after: &Kept,
        moment: &mut Moment<'_>,
    ) -> Result<(), Infallible> {
        let (id, now) = (self.id(charge.policy, charge.key), moment.now);
        self.known(charge.policy, now, |known| {
            if let (true, Some(home), [charged]) = (known.is_flat, &known.home, &after[..])
                && home.table.refund(id, charged, charge.cost, now, &self.room).is_ok()
            {
                return;
            }
            self.map.refund(charge.policy, charge.key, after, charge.cost, now);
        });
        Ok(())
    }

    fn decide(&self, charges: &[(usize, Charge<'_>)], states: &[Option<Kept>], moment: &Moment<'_>) -> Decision {
        let mut parts: SmallVec<[Part<'_>; 8]> = SmallVec::new();
        for ((number, charge), states) in charges.iter().zip(states) {
            parts.extend(shard::parts(charge, states.clone(), *number as u16));
        }
        decide(&mut parts, moment.now).0
    }
}

/// The store's own clock, called directly, or another.
#[derive(Debug)]
enum Time {
    System(SystemClock),
    Other(Arc<dyn Clock>),
}

impl Clock for Time {
    #[inline]
    fn now(&self) -> Timestamp {
        match self {
            Self::System(clock) => clock.now(),
            Self::Other(clock) => clock.now(),
        }
    }
}

/// The closed table a key may have to be taken out of. One that is open closes before keys go to the map.
fn before(known: &Known, id: u64) -> Option<Before<'_>> {
    known.home.as_deref().map(|home| Before { home, id })
}

fn too_many_prefixes() -> StoreError {
    let detail = format!("{MOST} different prefixes have been reset, and no more are remembered: reset single keys");
    StoreError::new(StoreErrorKind::Unsupported, "memory://", detail)
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("max_keys", &self.max_keys).finish_non_exhaustive()
    }
}

impl Store for MemoryStore {
    fn name(&self) -> &str {
        "memory://"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            multi_key_atomic: true,
            server_clock: false,
            native_expiry: true,
            batch: true,
            approximate: false,
        }
    }

    fn apply(&self, requests: &[Request<'_>]) -> Reply<Vec<Decision>> {
        if has_own(requests) {
            return self.own.apply(requests, |request| self.answer(request));
        }
        let decisions = requests.iter().map(|request| self.answer(request)).collect();
        Box::pin(std::future::ready(Ok(decisions)))
    }

    #[inline]
    fn apply_now(&self, request: &Request<'_>) -> Option<Result<Decision, StoreError>> {
        if has_own(std::slice::from_ref(request)) {
            return None;
        }
        Some(Ok(self.answer(request)))
    }

    fn adjust(&self, policy: &Arc<Policy>, key: &str, change: Change) -> Reply<Decision> {
        if !policy.is_built_in() {
            return self.own.store().adjust(policy, key, change);
        }
        Box::pin(std::future::ready(Ok(self.settle(policy, key, change))))
    }

    fn reset(&self, policy: &Arc<Policy>, key: &str) -> Reply<()> {
        if !policy.is_built_in() {
            return self.own.store().reset(policy, key);
        }
        self.forget(policy, key);
        Box::pin(std::future::ready(Ok(())))
    }

    /// Errors when 1024 different prefixes have been reset: each takes a place for good.
    fn reset_prefix(&self, policy: &Arc<Policy>, prefix: &str) -> Reply<()> {
        if !policy.is_built_in() {
            return Box::pin(std::future::ready(self.own.forget(policy.name(), prefix)));
        }
        let done = if self.map.forget(policy, prefix) { Ok(()) } else { Err(too_many_prefixes()) };
        Box::pin(std::future::ready(done))
    }

    fn ping(&self) -> Reply<()> {
        Box::pin(std::future::ready(Ok(())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollway_core::{Algorithm, Charge, ManualClock, Timestamp};

    const SECOND: u64 = 1_000_000_000;

    fn ask(store: &MemoryStore, policy: &Arc<Policy>, key: &str) -> Decision {
        store.answer(&Request { charges: &[Charge { policy, key, cost: 1 }], peek: false })
    }

    fn at_standstill(max_keys: usize) -> (MemoryStore, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_700_000_000)));
        (MemoryStore::with_clock(max_keys, clock.clone()), clock)
    }

    #[test]
    fn a_flood_of_keys_stays_within_the_bound() {
        let (store, _) = at_standstill(6_400);
        let policy = Arc::new(Policy::new("p", "5/m", Algorithm::Gcra).unwrap());
        for number in 0..50_000 {
            ask(&store, &policy, &number.to_string());
        }
        assert!(store.len() <= 6_400, "{}", store.len());
    }

    #[test]
    fn a_flood_of_keys_does_not_free_a_refused_one() {
        let (store, clock) = at_standstill(6_400);
        let policy = Arc::new(Policy::new("p", "5/m", Algorithm::Gcra).unwrap());
        let victims: Vec<_> = (0..100).map(|number| format!("victim-{number}")).collect();
        for victim in &victims {
            while ask(&store, &policy, victim).allowed {}
        }
        for number in 0..20_000 {
            ask(&store, &policy, &number.to_string());
        }
        let freed = victims.iter().filter(|victim| ask(&store, &policy, victim).allowed).count();
        assert_eq!(freed, 0);
        clock.advance(12 * SECOND);
        assert!(victims.iter().all(|victim| ask(&store, &policy, victim).allowed));
    }

    #[test]
    fn threads_together_get_the_limit() {
        let (store, _) = at_standstill(1_000);
        let store = Arc::new(store);
        let policy = Arc::new(Policy::new("p", "1000/h", Algorithm::Gcra).unwrap());
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let (store, policy) = (store.clone(), policy.clone());
                std::thread::spawn(move || (0..1_000).filter(|_| ask(&store, &policy, "k").allowed).count())
            })
            .collect();
        let passed: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert_eq!(passed, 1_000);
    }

    #[test]
    fn opposite_orders_of_keys_do_not_wait_for_each_other() {
        let (store, _) = at_standstill(1_000);
        let store = Arc::new(store);
        let policy = Arc::new(Policy::new("p", "1000000/h", Algorithm::Gcra).unwrap());
        let threads: Vec<_> = (0..2_usize)
            .map(|side| {
                let (store, policy) = (store.clone(), policy.clone());
                std::thread::spawn(move || {
                    for number in 0..5_000_usize {
                        let mut keys = [number.to_string(), (number + 1).to_string()];
                        keys.rotate_left(side);
                        let charges = keys.each_ref().map(|key| Charge { policy: &policy, key, cost: 1 });
                        assert!(store.answer(&Request { charges: &charges, peek: false }).allowed);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}
