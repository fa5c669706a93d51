//! Slots in the memory of this process.

use super::ground::{Ground, WAYS};
use super::word::{ID, Word};

#[repr(C, align(128))]
struct Bucket<W>([W; WAYS]);

/// Slots of this process.
pub(crate) struct Heap<W> {
    buckets: Box<[Bucket<W>]>,
    floors: Box<[W]>,
}

impl<W: Word + Default> Heap<W> {
    pub(crate) fn new(buckets: usize) -> Self {
        Self {
            buckets: filled(buckets, || Bucket(std::array::from_fn(|_| W::default()))),
            floors: filled(buckets, W::default),
        }
    }

    /// Slots that belong to somebody.
    pub(super) fn held(&self) -> usize {
        self.buckets.iter().flat_map(|bucket| &bucket.0).filter(|slot| slot.load() & ID != 0).count()
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
