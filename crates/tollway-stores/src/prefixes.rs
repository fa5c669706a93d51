//! Keys forgotten by prefix where only fingerprints are kept.
//!
//! A prefix that is reset gets an epoch. The fingerprint of a key that begins with it is mixed with
//! the newest such epoch, so all its keys are new at once, and what they had spent fades where it is.

use std::collections::HashMap;

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
