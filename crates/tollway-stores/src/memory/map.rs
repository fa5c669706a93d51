//! Keys of policies that have no table: a map in shards, each under a short lock.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ahash::RandomState;
use tollway_core::{Change, Charge, Decision, Policy, State, Timestamp};

use super::policies::Home;
use super::shard::{Kept, Shard};
use crate::prefixes::Forgotten;
use crate::table::Applied;

const SHARDS: usize = 64;

pub(super) struct Map {
    hashers: [RandomState; 2],
    shards: Box<[Mutex<Shard>]>,
    forgotten: Forgotten,
}

/// A closed table that the keys of a policy may still be in, with the key's fingerprint there.
#[derive(Clone, Copy)]
pub(super) struct Before<'a> {
    pub(super) home: &'a Home,
    pub(super) id: u64,
}

impl Map {
    pub(super) fn new(max_keys: usize) -> Self {
        let room = max_keys.div_ceil(SHARDS).max(1);
        Self {
            hashers: [RandomState::new(), RandomState::new()],
            shards: (0..SHARDS).map(|_| Mutex::new(Shard::new(room))).collect(),
            forgotten: Forgotten::default(),
        }
    }

    /// What a key's prefix adds to its fingerprint, here and in tables: see [`Forgotten`].
    #[inline(always)]
    pub(super) fn mix(&self, policy: &Policy, key: &str) -> u64 {
        self.forgotten.mix(|| self.tag(policy), key)
    }

    /// Forgets all keys of a policy that begin with `prefix`. False when that is one prefix too many.
    pub(super) fn forget(&self, policy: &Policy, prefix: &str) -> bool {
        self.forgotten.add(self.tag(policy), prefix)
    }

    fn tag(&self, policy: &Policy) -> u64 {
        self.hashers[0].hash_one(policy.name())
    }

    pub(super) fn held(&self) -> usize {
        (0..SHARDS).map(|index| self.lock(index).len()).sum()
    }

    /// A seeded 128-bit hash stands for policy and key: neither is kept.
    fn hash(&self, policy: &Policy, key: &str) -> u128 {
        let mix = self.mix(policy, key);
        let [high, low] = self.hashers.each_ref().map(|hasher| hasher.hash_one((policy.name(), key)) ^ mix);
        u128::from(high) << 64 | u128::from(low)
    }

    fn lock(&self, index: usize) -> MutexGuard<'_, Shard> {
        // A panic under the lock cannot leave a half-written entry: entries are replaced whole.
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The shard of a key, which has been taken out of its table if it was in one.
    fn shard(&self, hash: u128, before: Option<Before<'_>>, now: Timestamp) -> MutexGuard<'_, Shard> {
        let mut shard = self.lock((hash >> 122) as usize % SHARDS);
        if let Some(Before { home, id }) = before
            && !shard.holds(hash)
            && let Some(state) = home.table.take(id, now)
        {
            shard.adopt(hash, &home.policy, state, now);
        }
        shard
    }

    pub(super) fn look(&self, charge: &Charge<'_>, before: Option<Before<'_>>, now: Timestamp) -> Option<Kept> {
        let hash = self.hash(charge.policy, charge.key);
        self.shard(hash, before, now).states(hash, charge.policy, now)
    }

    pub(super) fn charge(
        &self,
        charge: &Charge<'_>,
        before: Option<Before<'_>>,
        now: Timestamp,
        peek: bool,
        record: bool,
    ) -> Applied<Option<Kept>, Kept> {
        let hash = self.hash(charge.policy, charge.key);
        self.shard(hash, before, now).apply(hash, charge, now, peek, record)
    }

    pub(super) fn refund(&self, policy: &Arc<Policy>, key: &str, charged: &[State], cost: u32, now: Timestamp) {
        let hash = self.hash(policy, key);
        self.shard(hash, None, now).refund(hash, policy, charged, cost, now);
    }

    pub(super) fn adjust(
        &self,
        policy: &Arc<Policy>,
        key: &str,
        change: Change,
        before: Option<Before<'_>>,
        now: Timestamp,
    ) -> Decision {
        let hash = self.hash(policy, key);
        self.shard(hash, before, now).adjust(hash, policy, change, now)
    }

    pub(super) fn reset(&self, policy: &Arc<Policy>, key: &str, before: Option<Before<'_>>, now: Timestamp) {
        let hash = self.hash(policy, key);
        let mut shard = self.shard(hash, before, now);
        if let Some(Before { home, id }) = before {
            home.table.wipe(id);
        }
        shard.remove(hash);
    }
}
