//! What is asked of a level that others use too, without changing it.

use tollway_core::{State, Timestamp};

use super::ground::Ground;
use super::layout::Layout;
use super::level::{Found, Level};
use super::word::{ID, Word};

impl<G: Ground> Level<G> {
    /// Whether no key has anything spent, here or pushed out from here. Reads every slot.
    pub(crate) fn is_idle(&self, layout: &Layout, now: Timestamp) -> bool {
        let idle = |word: u128| word & ID == 0 || layout.is_idle(layout.packing().mark(word), now);
        (0..self.buckets()).all(|bucket| {
            self.ground.bucket(bucket).iter().all(|slot| idle(slot.load())) && layout.is_idle(self.floor(bucket), now)
        })
    }

    /// What a key has spent, if it is here.
    pub(crate) fn peek(&self, layout: &Layout, id: u64) -> Option<State> {
        match self.find(layout, id) {
            Found::Here(_, word) => layout.state(layout.packing().mark(word)),
            _ => None,
        }
    }

    /// Whether a key is here.
    pub(crate) fn holds(&self, layout: &Layout, id: u64) -> bool {
        matches!(self.find(layout, id), Found::Here(..))
    }
}
