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

#[repr(C, align(128))]
struct Bucket<W>([W; WAYS]);

/// Slots of this process.
pub(crate) struct Heap<W> {
    buckets: Box<[Bucket<W>]>,
    floors: Box<[W]>,
}

impl<W: Word> Heap<W> {
    pub(crate) fn new(buckets: usize) -> Self {
        Self {
            buckets: (0..buckets).map(|_| Bucket(std::array::from_fn(|_| W::new(0)))).collect(),
            floors: (0..buckets).map(|_| W::new(0)).collect(),
        }
    }
}

impl<W: Word> Ground for Heap<W> {
    type Word = W;

    #[inline(always)]
    fn buckets(&self) -> usize {
        self.buckets.len()
    }

    #[inline(always)]
    fn bucket(&self, index: usize) -> &[W; WAYS] {
        &self.buckets[index].0
    }

    #[inline(always)]
    fn floor(&self, bucket: usize) -> &W {
        &self.floors[bucket]
    }
}
