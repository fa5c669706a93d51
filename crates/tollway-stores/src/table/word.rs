//! One slot of a table: 128 bits that change in one step.
//!
//! ```text
//!  127                                49       48      47 … 0
//! ┌──────────────────────┬────────────┬─────────┬────────────┐
//! │ mark                 │ credit     │ frozen  │ id         │
//! └──────────────────────┴────────────┴─────────┴────────────┘
//! ```
//!
//! `id` is the key's fingerprint, 0 for nobody. A slot's *order*, which is the mark in coarse steps
//! plus the credit, *never gets smaller*: that is what makes inserting safe (see [`super::level`]).
//! Where a mark gets smaller (a reset, permits given back, a clock set back) the credit grows by as
//! many steps instead, and it fades again as time passes.

use portable_atomic::{AtomicU128, Ordering};

/// 128 bits that are read, and exchanged, whole.
pub(crate) trait Word: Send + Sync {
    fn load(&self) -> u128;
    /// Puts `new` in place of `old`, or says what is there.
    fn exchange(&self, old: u128, new: u128) -> Result<(), u128>;
}

impl Word for AtomicU128 {
    #[inline]
    fn load(&self) -> u128 {
        self.load(Ordering::Acquire)
    }

    #[inline]
    fn exchange(&self, old: u128, new: u128) -> Result<(), u128> {
        self.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).map(|_| ())
    }
}

/// Who a slot belongs to.
pub(crate) const ID: u128 = (1 << 48) - 1;
/// Set when a slot may not change any more.
pub(crate) const FROZEN: u128 = 1 << 48;
const HEAD: u32 = 49;

/// Where mark and credit lie in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packing {
    /// Bits of credit.
    pub(crate) credit: u32,
    /// Bits of a mark that make one step of the order.
    pub(crate) step: u32,
}

impl Packing {
    /// Bits that mark and credit share.
    pub(crate) const ROOM: u32 = 128 - HEAD;

    #[inline(always)]
    pub(crate) fn order(self, word: u128) -> u128 {
        (word >> (HEAD + self.credit + self.step)) + (word >> HEAD & ((1 << self.credit) - 1))
    }

    #[inline(always)]
    pub(crate) fn mark(self, word: u128) -> u128 {
        word >> (HEAD + self.credit)
    }

    /// A word for `id` with `mark` whose order is at least `least`. `None` when that takes more
    /// credit than there is.
    #[inline(always)]
    pub(crate) fn word(self, id: u64, mark: u128, least: u128) -> Option<u128> {
        let credit = least.saturating_sub(mark >> self.step);
        if credit >> self.credit > 0 || mark >> (Self::ROOM - self.credit) > 0 {
            return None;
        }
        Some((mark << self.credit | credit) << HEAD | u128::from(id))
    }

    /// The same order for nobody.
    pub(crate) fn vacated(self, word: u128) -> u128 {
        word & !(ID | FROZEN)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_mark_stays_and_an_order_never_sinks(mark in 0..1_u128 << 60, least in 0..1_u128 << 60, step in 0..60_u32) {
            let packing = Packing { credit: 8, step };
            if let Some(word) = packing.word(7, mark, least) {
                prop_assert_eq!(packing.mark(word), mark);
                prop_assert!(packing.order(word) >= least);
                prop_assert_eq!(word & (ID | FROZEN), 7);
                prop_assert_eq!(packing.order(packing.vacated(word)), packing.order(word));
            } else {
                prop_assert!(least - (mark >> step) > 255);
            }
        }

        #[test]
        fn going_up_and_down_for_ever_uses_nothing_up(marks in prop::collection::vec(0..1_u128 << 20, 1..200)) {
            let packing = Packing { credit: 4, step: 16 };
            let mut word = packing.word(7, 0, 0).unwrap();
            for mark in marks {
                let least = packing.order(word);
                word = packing.word(7, mark, least).expect("never more credit than the marks are apart");
                prop_assert!(packing.order(word) == least.max(mark >> 16));
            }
        }
    }
}
