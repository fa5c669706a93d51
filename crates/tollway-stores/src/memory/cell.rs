//! Keys of algorithms of one's own: bytes that are loaded and swapped, in shards under short locks.
//!
//! The algorithm itself runs outside the locks, however long it takes and whatever it calls.

use std::collections::HashMap;
use std::future::ready;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ahash::RandomState;
use tollway_core::{Cell, Clock, Loaded, Reply, Timestamp};

const SHARDS: usize = 16;
/// How many entries a full shard looks at to find one to give away.
const SEARCH: usize = 64;

#[derive(Debug)]
struct Entry {
    bytes: Vec<u8>,
    version: u64,
    until: Timestamp,
}

type Entries = HashMap<String, Entry, RandomState>;

/// Entries, and how many swaps there have been.
#[derive(Debug, Default)]
struct Shard {
    swaps: u64,
    entries: Entries,
}

/// A bounded map from key to bytes. Full, it gives the entry away that ends first of those it looks at.
#[derive(Debug)]
pub(super) struct MemoryCell {
    clock: Arc<dyn Clock>,
    hasher: RandomState,
    room: usize,
    shards: [Mutex<Shard>; SHARDS],
}

impl MemoryCell {
    pub(super) fn new(clock: Arc<dyn Clock>, max_keys: usize) -> Self {
        Self {
            clock,
            hasher: RandomState::new(),
            room: max_keys.div_ceil(SHARDS).max(1),
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }

    pub(super) fn held(&self) -> usize {
        let held = |shard: &Mutex<Shard>| shard.lock().map_or(0, |shard| shard.entries.len());
        self.shards.iter().map(held).sum()
    }

    /// Forgets the keys that begin so.
    pub(super) fn forget(&self, start: &str) {
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.entries.retain(|key, _| !key.starts_with(start));
        }
    }

    fn with<T>(&self, key: &str, step: impl FnOnce(&mut u64, &mut Entries, Timestamp) -> T) -> T {
        let shard = &self.shards[self.hasher.hash_one(key) as usize % SHARDS];
        let now = self.clock.now();
        // A panic under the lock cannot leave half an entry: entries are replaced whole.
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let Shard { swaps, entries } = &mut *shard;
        step(swaps, entries, now)
    }
}

impl Cell for MemoryCell {
    fn name(&self) -> &str {
        "memory://"
    }

    fn load(&self, key: &str) -> Reply<Option<Loaded>> {
        let found = self.with(key, |_, map, now| {
            let entry = map.get(key).filter(|entry| entry.until > now)?;
            Some(Loaded { bytes: entry.bytes.clone(), version: entry.version.to_le_bytes().to_vec() })
        });
        Box::pin(ready(Ok(found)))
    }

    fn swap(&self, key: &str, expected: Option<Vec<u8>>, bytes: Option<Vec<u8>>, ttl: Duration) -> Reply<bool> {
        let swapped = self.with(key, |swaps, map, now| {
            let held = map.get(key).filter(|entry| entry.until > now).map(|entry| entry.version.to_le_bytes());
            if held.as_ref().map(<[u8; 8]>::as_slice) != expected.as_deref() {
                return false;
            }
            let Some(bytes) = bytes else {
                map.remove(key);
                return true;
            };
            if map.len() >= self.room && !map.contains_key(key) {
                let first = map.iter().take(SEARCH).min_by_key(|(_, entry)| entry.until).map(|(key, _)| key.clone());
                first.map(|key| map.remove(&key));
            }
            *swaps += 1;
            let nanos = u64::try_from(ttl.as_nanos()).unwrap_or(u64::MAX);
            map.insert(key.to_owned(), Entry { bytes, version: *swaps, until: now.plus(nanos) });
            true
        });
        Box::pin(ready(Ok(swapped)))
    }
}
