//! Who wants to know.

use std::fmt;

use tollway_core::{Charge, Decision, StoreError};

/// Somebody who is told of decisions and failures: metrics, logs, analytics.
///
/// Called on the request's path, so it must be quick and must not wait.
pub trait Observer: Send + Sync + fmt::Debug {
    /// A request was decided.
    fn on_decision(&self, charges: &[Charge<'_>], decision: &Decision) {
        let _ = (charges, decision);
    }

    /// The store did not answer; the fail mode decides.
    fn on_failure(&self, error: &StoreError) {
        let _ = error;
    }
}
