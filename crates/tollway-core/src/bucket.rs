//! How a token bucket differs from the plain one.

/// Options of [`Algorithm::TokenBucket`](crate::Algorithm::TokenBucket). The default changes nothing.
///
/// ```
/// use tollway_core::{Algorithm, Bucket, Policy};
///
/// // 100 tokens that come all at once at every full hour; new clients begin with 10.
/// let bucket = Bucket { refill_every: 3_600_000_000_000, initial: Some(10), ..Bucket::default() };
/// let policy = Policy::new("reports", "100/h", Algorithm::TokenBucket)?.with_bucket(bucket)?;
/// assert_eq!(policy.limits()[0].bucket().initial, Some(10));
/// # Ok::<(), tollway_core::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bucket {
    /// Tokens come in lumps at multiples of this many nanoseconds since the epoch, each worth what
    /// the rate earns meanwhile; 0 lets them come one by one, evenly. A whole number of milliseconds,
    /// at most the period. A lump may come up to this much later than evenly, never earlier.
    pub refill_every: u64,
    /// Tokens of a client that is not known; a full bucket when absent. It earns from its first
    /// request on, even a refused one. A client that was not seen
    /// for twice the time that fills its bucket, and a period, is not known any more.
    pub initial: Option<u32>,
    /// What one request pays: costs are counted in requests of so many tokens. At least 1.
    pub per_request: u32,
    /// A request that costs more than is there takes what is there and passes, and the decision's
    /// cost says how much that was; with nothing there it is refused. Requests that charge more than
    /// one limit are never served in part.
    pub partial: bool,
}

impl Default for Bucket {
    fn default() -> Self {
        Self { refill_every: 0, initial: None, per_request: 1, partial: false }
    }
}
