//! The port: what a place for state must be able to do.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::{BreakerState, Calls, Change, ConfigError, Decision, Policy, StoreError, StoreErrorKind};

/// A store's answer that may have to be waited for. Runtime-neutral; it owns what it needs.
pub type Reply<T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send>>;

/// One key, one policy, one cost.
#[derive(Clone, Copy, Debug)]
pub struct Charge<'a> {
    /// Which limits apply.
    pub policy: &'a Arc<Policy>,
    /// Who is charged: an address, a user, a hashed API key.
    pub key: &'a str,
    /// How many permits; 0 asks without spending.
    pub cost: u32,
}

/// Charges that pass together or not at all.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// At least one charge; the pairs of policy and key differ from each other.
    pub charges: &'a [Charge<'a>],
    /// When true the answer is what a real request would get, and nothing is spent.
    pub peek: bool,
}

/// What a store promises. What it cannot promise is refused when it is configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Charges of one request that differ in key are all-or-nothing.
    pub multi_key_atomic: bool,
    /// Time is the server's, so hosts with skewed clocks share one truth.
    pub server_clock: bool,
    /// Entries disappear on their own when they no longer matter.
    pub native_expiry: bool,
    /// Any number of requests in one round trip.
    pub batch: bool,
    /// Counts may be off; never a default.
    pub approximate: bool,
}

/// What a store knows of its own state without asking anybody: see [`Store::condition`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// Calls that wait for their turn.
    pub waiting: usize,
    /// Where the breaker in front of it stands, when there is one.
    pub breaker: Option<BreakerState>,
    /// What went wrong last, and how long ago.
    pub last_error: Option<(StoreError, Duration)>,
    /// How the calls to it went, where somebody counts them.
    pub calls: Option<Calls>,
}

/// A place that keeps state and applies requests to it, atomically.
///
/// One asynchronous method serves everybody. A store that need not wait also implements
/// [`Store::apply_now`], and callers that cannot wait try that first.
pub trait Store: Send + Sync + fmt::Debug {
    /// The redacted URL, for messages.
    fn name(&self) -> &str;

    /// What this store promises.
    fn capabilities(&self) -> Capabilities;

    /// Answers each request, in order. One round trip for all of them on a remote store.
    fn apply(&self, requests: &[Request<'_>]) -> Reply<Vec<Decision>>;

    /// Answers one request without waiting, or `None` when that is not possible.
    fn apply_now(&self, request: &Request<'_>) -> Option<Result<Decision, StoreError>> {
        let _ = request;
        None
    }

    /// Changes what `key` has spent of `policy` without asking, and answers how it stands then. One
    /// round trip. See [`Change`].
    fn adjust(&self, policy: &Arc<Policy>, key: &str, change: Change) -> Reply<Decision>;

    /// Forgets what `key` has spent of `policy`. One round trip.
    fn reset(&self, policy: &Arc<Policy>, key: &str) -> Reply<()>;

    /// Forgets what every key of `policy` that begins with `prefix` has spent; an empty prefix is all
    /// of them. As many round trips as it takes. A store that cannot find its keys again says
    /// [`StoreErrorKind::Unsupported`].
    fn reset_prefix(&self, policy: &Arc<Policy>, prefix: &str) -> Reply<()> {
        let _ = (policy, prefix);
        let detail = "this backend cannot find keys by their beginning: reset them one by one";
        Box::pin(std::future::ready(Err(StoreError::new(StoreErrorKind::Unsupported, self.name(), detail))))
    }

    /// Deletes at most `most` states that say nothing any more, and answers how many. A store whose
    /// states go by themselves answers 0. One round trip or two.
    fn cleanup(&self, most: u32) -> Reply<u64> {
        let _ = most;
        Box::pin(std::future::ready(Ok(0)))
    }

    /// Whether the store can keep a policy's states. What it cannot is refused here, by name, when
    /// it is configured; it would be refused again when it is charged.
    ///
    /// # Errors
    /// Names the store and the algorithm.
    fn keeps(&self, policy: &Policy) -> Result<(), ConfigError> {
        let _ = policy;
        Ok(())
    }

    /// Succeeds when the store answers. One round trip.
    fn ping(&self) -> Reply<()>;

    /// What it knows of its own state. Asks nobody.
    fn condition(&self) -> Condition {
        Condition::default()
    }

    /// Gives back permits that were taken in advance and not handed out. One round trip, if any are.
    fn give_back(&self) -> Reply<()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// The stores that this one passes requests to; empty for one that keeps state itself.
    fn members(&self) -> Vec<Arc<dyn Store>> {
        Vec::new()
    }
}
