//! How keys leave a level: for a larger one, or for another place altogether.

use tollway_core::{State, Timestamp};

use super::ground::{Ground, WAYS};
use super::layout::Layout;
use super::level::{Blocked, Level, MOVED};
use super::word::{FROZEN, ID, Word};

impl<G: Ground> Level<G> {
    /// The buckets of a level `times` as large that the keys of `bucket` may move to.
    pub(crate) fn children(bucket: usize, times: usize) -> std::ops::Range<usize> {
        bucket * times..(bucket + 1) * times
    }

    /// Stops all change in a bucket and says what is in it.
    pub(crate) fn freeze(&self, bucket: usize) -> [u128; WAYS] {
        std::array::from_fn(|way| {
            let slot = &self.ground.bucket(bucket)[way];
            let mut word = slot.load();
            while word & FROZEN == 0 {
                match slot.exchange(word, word | FROZEN) {
                    Ok(()) => break,
                    Err(current) => word = current,
                }
            }
            word & !FROZEN
        })
    }

    /// Stops all change in a key's buckets and says what it has spent.
    pub(crate) fn take(&self, layout: &Layout, id: u64, now: Timestamp) -> Option<State> {
        let homes = self.homes(id);
        let words = homes.map(|home| self.freeze(home));
        let kept = words.into_iter().flatten().find(|word| word & ID == u128::from(id));
        layout.state(kept.map_or_else(|| self.start(layout, id, 0, now), |word| layout.packing().mark(word)))
    }

    /// Wipes a key from its buckets, which change no more.
    pub(crate) fn wipe(&self, id: u64) {
        for home in self.homes(id) {
            self.freeze(home);
            for slot in self.ground.bucket(home) {
                let word = slot.load();
                if word & ID == u128::from(id) {
                    // It fails only where another thread has wiped it: nothing else changes any more.
                    let _ = slot.exchange(word, FROZEN);
                }
            }
        }
    }

    pub(crate) fn has_moved(&self, bucket: usize) -> bool {
        self.ground.floor(bucket).load() & MOVED != 0
    }

    /// Marks a bucket as moved; true for the first caller.
    pub(crate) fn set_moved(&self, bucket: usize) -> bool {
        let floor = self.ground.floor(bucket);
        let mut old = floor.load();
        while old & MOVED == 0 {
            match floor.exchange(old, old | MOVED) {
                Ok(()) => return true,
                Err(current) => old = current,
            }
        }
        false
    }

    /// Brings the keys of a bucket, and its floor, to the next level.
    pub(crate) fn move_bucket(
        &self,
        layout: &Layout,
        bucket: usize,
        next: &Self,
        now: Timestamp,
    ) -> Result<(), Blocked> {
        let packing = layout.packing();
        let words = self.freeze(bucket);
        let mut floor = self.floor(bucket);
        for word in words.into_iter().filter(|word| word & ID != 0) {
            let mark = packing.mark(word);
            if layout.is_idle(mark, now) {
                // For callers whose time is a little older than ours.
                floor = layout.join(floor, mark);
            }
        }
        if floor != 0 {
            Self::children(bucket, next.buckets() / self.buckets()).for_each(|child| next.raise(layout, child, floor));
        }
        for word in words.into_iter().filter(|word| word & ID != 0) {
            let mark = packing.mark(word);
            if !layout.is_idle(mark, now) {
                next.settle(layout, (word & ID) as u64, mark, now)?;
            }
        }
        Ok(())
    }
}
