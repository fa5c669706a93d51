//! A table's slots in the mapped file.

use std::sync::Arc;

use portable_atomic::AtomicU128;
use tollway_mapping::Mapping;

use super::segment::Segment;
use crate::table::{Ground, WAYS};

pub(super) struct Mapped {
    mapping: Arc<Mapping>,
    start: usize,
    buckets: usize,
}

impl Mapped {
    pub(super) fn new(segment: &Segment, table: usize) -> Self {
        Self {
            mapping: Arc::clone(&segment.mapping),
            start: segment.shape.place(table),
            buckets: segment.shape.buckets,
        }
    }
}

impl Ground for Mapped {
    type Word = AtomicU128;

    #[inline(always)]
    fn buckets(&self) -> usize {
        self.buckets
    }

    #[inline(always)]
    fn bucket(&self, index: usize) -> &[AtomicU128; WAYS] {
        let from = self.start + index * WAYS;
        self.mapping.words()[from..].first_chunk().expect("a bucket is inside its table")
    }

    #[inline(always)]
    fn floor(&self, bucket: usize) -> &AtomicU128 {
        &self.mapping.words()[self.start + self.buckets * WAYS + bucket]
    }
}
