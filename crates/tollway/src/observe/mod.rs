//! Who wants to know.

mod calls;
mod counts;
mod metrics;
mod text;

use std::fmt;

use tollway_core::{Decision, Request, StoreError};

pub(crate) use calls::CallCounts;
pub use counts::Outcome;
pub(crate) use metrics::Watched;
pub use metrics::{Metrics, PolicyChecks, Snapshot, StoreCalls};

/// Somebody who is told of decisions and failures: logs, analytics. What only counts is [`Metrics`].
///
/// Called on the request's path, so it must be quick and must not wait.
pub trait Observer: Send + Sync + fmt::Debug {
    /// A request was decided; one with `peek` spent nothing.
    fn on_decision(&self, request: &Request<'_>, decision: &Decision) {
        let _ = (request, decision);
    }

    /// The store did not answer; the fail mode decides.
    fn on_failure(&self, error: &StoreError) {
        let _ = error;
    }
}
