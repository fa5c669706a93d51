//! Where slots lie.

use super::word::Word;

/// Slots in a bucket: two cache lines.
pub(crate) const WAYS: usize = 8;

/// Buckets of slots, each with a floor.
pub(crate) trait Ground {
    type Word: Word;
    /// How many buckets there are.
    fn buckets(&self) -> usize;
    fn bucket(&self, index: usize) -> &[Self::Word; WAYS];
    fn floor(&self, bucket: usize) -> &Self::Word;
}
