//! `memory://`: state in this process, in a bounded sharded table.
//!
//! A check takes one short lock, never waits for anything else, and costs the same whatever the
//! number of hits. There is no background thread: room is made when a key comes in.

mod shard;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ahash::RandomState;
use smallvec::SmallVec;
use tollway_core::{Capabilities, Clock, Decision, Part, Policy, Reply, Request, Store, StoreError, decide};

use crate::SystemClock;
use shard::Shard;

const SHARDS: usize = 64;

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
#[derive(Debug)]
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    hashers: [RandomState; 2],
    shards: Box<[Mutex<Shard>]>,
}

impl MemoryStore {
    /// A store for at most `max_keys` keys (at least one for each of its shards).
    pub fn new(max_keys: usize) -> Self {
        Self::with_clock(max_keys, Arc::new(SystemClock::new()))
    }

    /// The same on another clock: for tests.
    pub fn with_clock(max_keys: usize, clock: Arc<dyn Clock>) -> Self {
        let room = max_keys.div_ceil(SHARDS).max(1);
        Self {
            clock,
            hashers: [RandomState::new(), RandomState::new()],
            shards: (0..SHARDS).map(|_| Mutex::new(Shard::new(room))).collect(),
        }
    }

    /// Keys held now, expired ones included.
    pub fn len(&self) -> usize {
        (0..SHARDS).map(|index| self.lock(index).len()).sum()
    }

    /// Whether no key is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A seeded 128-bit hash stands for policy and key: neither is kept.
    fn hash(&self, policy: &Policy, key: &str) -> u128 {
        let [high, low] = self.hashers.each_ref().map(|hasher| hasher.hash_one((policy.name(), key)));
        u128::from(high) << 64 | u128::from(low)
    }

    fn lock(&self, index: usize) -> MutexGuard<'_, Shard> {
        // A panic under the lock cannot leave a half-written entry: entries are replaced whole.
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, request: &Request<'_>) -> Decision {
        let now = self.clock.now();
        if let [charge] = request.charges {
            let hash = self.hash(charge.policy, charge.key);
            return self.lock(shard_of(hash)).apply(hash, charge, now, request.peek);
        }
        self.answer_many(request)
    }

    /// Several keys: their shards are locked in one order, so that no two callers wait in a ring.
    fn answer_many(&self, request: &Request<'_>) -> Decision {
        let hashes: SmallVec<[u128; 4]> = request.charges.iter().map(|c| self.hash(c.policy, c.key)).collect();
        let mut order: SmallVec<[usize; 4]> = hashes.iter().map(|hash| shard_of(*hash)).collect();
        order.sort_unstable();
        order.dedup();
        let mut guards: SmallVec<[MutexGuard<'_, Shard>; 4]> = order.iter().map(|index| self.lock(*index)).collect();
        let place = |hash: u128| order.binary_search(&shard_of(hash)).expect("every shard is in the list");
        // Under the locks, so that no answer is older than the state it is given.
        let now = self.clock.now();

        let states: SmallVec<[_; 4]> = (request.charges.iter().zip(&hashes))
            .map(|(charge, hash)| guards[place(*hash)].states(*hash, charge.policy, now))
            .collect();
        let mut parts: SmallVec<[Part<'_>; 8]> = SmallVec::new();
        for (number, (charge, states)) in request.charges.iter().zip(&states).enumerate() {
            parts.extend(shard::parts(charge, states.as_deref(), number as u16));
        }
        let (decision, next) = decide(&parts, now);
        if !request.peek {
            let mut next = &next[..];
            for (charge, hash) in request.charges.iter().zip(&hashes) {
                let (own, rest) = next.split_at(charge.policy.limits().len());
                guards[place(*hash)].put(*hash, charge.policy, own, &decision, now);
                next = rest;
            }
        }
        decision
    }
}

fn shard_of(hash: u128) -> usize {
    (hash >> 122) as usize % SHARDS
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
        let decisions = requests.iter().map(|request| self.answer(request)).collect();
        Box::pin(std::future::ready(Ok(decisions)))
    }

    fn apply_now(&self, request: &Request<'_>) -> Option<Result<Decision, StoreError>> {
        Some(Ok(self.answer(request)))
    }

    fn reset(&self, policy: &Arc<Policy>, key: &str) -> Reply<()> {
        let hash = self.hash(policy, key);
        self.lock(shard_of(hash)).remove(hash);
        Box::pin(std::future::ready(Ok(())))
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
