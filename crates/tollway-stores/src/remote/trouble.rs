//! What can go wrong with every remote store, with the next step.

use std::time::Duration;

use tollway_core::{StoreError, StoreErrorKind};

/// A caller's time ran out.
pub(crate) fn timed_out(name: &str, after: Duration) -> StoreError {
    let detail = format!("no answer within {} ms; the call may have been counted", after.as_millis());
    StoreError::new(StoreErrorKind::Timeout, name, detail)
}

/// A caller's time ran out, and not even the driver said so.
pub(super) fn neglected(name: &str, after: Duration) -> StoreError {
    let detail = format!(
        "no answer within {} ms, and what drives the store does not move: its disk hangs, or the runtime it was given \
         does not run; the call may have been counted",
        after.as_millis()
    );
    StoreError::new(StoreErrorKind::Timeout, name, detail)
}

/// Too many wait.
pub(crate) fn full(name: &str, bound: usize) -> StoreError {
    let detail = format!("the queue is full: {bound} calls wait already; slow down or raise the queue's bound");
    StoreError::new(StoreErrorKind::Overloaded, name, detail)
}

/// The process was forked.
pub(crate) fn forked(name: &str) -> StoreError {
    let detail = "this process was forked after the store was opened: open it in the child";
    StoreError::new(StoreErrorKind::Unavailable, name, detail)
}

/// The store or its runtime is gone.
pub(super) fn closed(name: &str) -> StoreError {
    let detail = "the store was closed, or the runtime that drove it ended";
    StoreError::new(StoreErrorKind::Unavailable, name, detail)
}

/// The runtime that drove the store ended meanwhile.
pub(crate) fn undriven(name: &str) -> StoreError {
    let detail = "the runtime that drove this store has ended: keep it alive as long as the store";
    StoreError::new(StoreErrorKind::Unavailable, name, detail)
}

/// An answer that cannot have been given.
pub(crate) fn unexpected(name: &str, what: &str) -> StoreError {
    let detail = format!("{what}; this is a bug of Tollway, please report it with the server's version");
    StoreError::new(StoreErrorKind::Corrupt, name, detail)
}
