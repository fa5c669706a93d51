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
            buckets: filled(buckets, || Bucket(std::array::from_fn(|_| W::new(0)))),
            floors: filled(buckets, || W::new(0)),
        }
    }
}

/// So many of them, on large pages where there are any.
fn filled<T>(count: usize, one: impl FnMut() -> T) -> Box<[T]> {
    let mut all = Vec::with_capacity(count);
    #[cfg(target_os = "linux")]
    tollway_mapping::prefer_large_pages(all.spare_capacity_mut());
    all.extend(std::iter::repeat_with(one).take(count));
    all.into_boxed_slice()
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
