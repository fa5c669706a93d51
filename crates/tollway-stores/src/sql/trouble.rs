//! What went wrong, by meaning, with the next step. Never holds a password: errors of the servers
//! and of the system do not, and the store's name is redacted.

use std::time::Duration;

use tollway_core::{StoreError, StoreErrorKind};

pub(super) use crate::remote::trouble::{timed_out, unexpected};

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
