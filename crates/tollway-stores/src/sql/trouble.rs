//! What went wrong, by meaning, with the next step. Never holds a password: errors of the servers
//! and of the system do not, and the store's name is redacted.

use std::time::Duration;

use tollway_core::{StoreError, StoreErrorKind};

/// A caller's time ran out.
pub(super) fn timed_out(name: &str, after: Duration) -> StoreError {
    let detail = format!("no answer within {} ms; the call may have been counted", after.as_millis());
    StoreError::new(StoreErrorKind::Timeout, name, detail)
}

/// The server owes an answer for longer than a call may take.
pub(super) fn stalled(name: &str, after: Duration) -> StoreError {
    let detail =
        format!("the server left a call unanswered for {} ms; a new connection is being tried", after.as_millis());
    StoreError::new(StoreErrorKind::Unavailable, name, detail)
}

/// A connection was lost while permits were given back over it.
pub(super) fn in_doubt(name: &str) -> StoreError {
    let detail = "the server closed the connection before it answered; permits that were to be given back may still \
                  count, and are not given back twice";
    StoreError::new(StoreErrorKind::Unavailable, name, detail)
}

/// The runtime that drove the store is gone.
pub(super) fn undriven(name: &str) -> StoreError {
    let detail = "the runtime that drove this store has ended: keep it alive as long as the store";
    StoreError::new(StoreErrorKind::Unavailable, name, detail)
}

/// An answer that was not asked for.
pub(super) fn unexpected(name: &str, what: &str) -> StoreError {
    let detail = format!("{what}; this is a bug of Tollway, please report it with the server's version");
    StoreError::new(StoreErrorKind::Corrupt, name, detail)
}
