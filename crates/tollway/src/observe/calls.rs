//! Counts of the calls to one store, by whoever stands in front of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tollway_core::{Calls, Latency, StoreErrorKind};

/// [`Calls`] that many threads add to.
#[derive(Debug, Default)]
pub(crate) struct CallCounts {
    latency: [AtomicU64; Latency::BOUNDS.len() + 1],
    nanos: AtomicU64,
    errors: [AtomicU64; StoreErrorKind::ALL.len()],
    skipped: AtomicU64,
}

impl CallCounts {
    /// A call came back.
    pub(crate) fn note(&self, took: Duration, error: Option<StoreErrorKind>) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.latency[Latency::place(nanos)].fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
        if let Some(kind) = error {
            self.errors[kind as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A call was not made.
    pub(crate) fn skip(&self) {
        self.skipped.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Calls {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Calls {
            latency: Latency { counts: self.latency.each_ref().map(load), nanos: load(&self.nanos) },
            errors: self.errors.each_ref().map(load),
            skipped: load(&self.skipped),
        }
    }
}
