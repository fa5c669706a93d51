//! Keys forgotten by prefix where only fingerprints are kept.
//!
//! A prefix that is reset gets an epoch. The fingerprint of a key that begins with it is mixed with
//! the newest such epoch, so all its keys are new at once, and what they had spent fades where it is.

use std::collections::HashMap;
#[cfg(feature = "memory")]
use std::sync::{
    PoisonError, RwLock,
    atomic::{AtomicU64, Ordering},
};

/// How many prefixes a store remembers: each reset of a new one takes a place for good.
pub(crate) const MOST: usize = 1_024;

/// The prefixes of one policy name.
#[derive(Debug, Default)]
struct Known {
    /// Their lengths, each once.
    lengths: Vec<usize>,
    epochs: HashMap<Box<[u8]>, u64>,
}

/// Prefixes by policy (a hash of its name), each with its epoch.
#[derive(Debug, Default)]
pub(crate) struct Prefixes {
    policies: HashMap<u64, Known>,
    count: usize,
}

impl Prefixes {
    /// Gives a prefix an epoch newer than its last. False when it would be one too many.
    pub(crate) fn set(&mut self, policy: u64, prefix: &[u8], epoch: u64) -> bool {
        let known = self.policies.get(&policy).is_some_and(|known| known.epochs.contains_key(prefix));
        if !known && self.count == MOST {
            return false;
        }
        self.count += usize::from(!known);
        let policy = self.policies.entry(policy).or_default();
        if !policy.lengths.contains(&prefix.len()) {
            policy.lengths.push(prefix.len());
        }
        policy.epochs.insert(prefix.into(), epoch);
        true
    }

    /// What to mix into the hash of a key.
    pub(crate) fn mix(&self, policy: u64, key: &[u8]) -> u64 {
        let Some(known) = self.policies.get(&policy) else { return 0 };
        let prefixes = known.lengths.iter().filter_map(|length| key.get(..*length));
        let newest = prefixes.filter_map(|prefix| known.epochs.get(prefix)).max();
        newest.map_or(0, |epoch| epoch.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }
}

/// Prefixes that were reset in this process.
#[cfg(feature = "memory")]
#[derive(Debug, Default)]
pub(crate) struct Forgotten {
    /// The newest epoch; zero while nothing was reset.
    epoch: AtomicU64,
    prefixes: RwLock<Prefixes>,
}

#[cfg(feature = "memory")]
impl Forgotten {
    /// Makes all keys that begin with `prefix` new. False when that is one prefix too many.
    pub(crate) fn add(&self, policy: u64, prefix: &str) -> bool {
        let mut prefixes = self.prefixes.write().unwrap_or_else(PoisonError::into_inner);
        let epoch = self.epoch.load(Ordering::Relaxed) + 1;
        let added = prefixes.set(policy, prefix.as_bytes(), epoch);
        if added {
            self.epoch.store(epoch, Ordering::Release);
        }
        added
    }

    /// What to mix into the hash of a key: nothing until there was a reset.
    #[inline(always)]
    pub(crate) fn mix(&self, policy: impl FnOnce() -> u64, key: &str) -> u64 {
        if self.epoch.load(Ordering::Relaxed) == 0 { 0 } else { self.look(policy(), key) }
    }

    #[cold]
    fn look(&self, policy: u64, key: &str) -> u64 {
        self.prefixes.read().unwrap_or_else(PoisonError::into_inner).mix(policy, key.as_bytes())
    }
}
