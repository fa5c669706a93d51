//! What an answer's headers say of the limits.

use std::fmt::{self, Write};

use http::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use tollway::{Algorithm, Decision, Mode, Policy};

/// Which families of headers to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields {
    /// `X-RateLimit-Limit`, `-Remaining`, `-Reset` (seconds since the epoch), and for buckets
    /// `X-RateLimit-Bucket-Size`, `-Bucket-Remaining`.
    pub x_ratelimit: bool,
    /// `RateLimit` and `RateLimit-Policy`, structured fields of the IETF draft.
    pub ietf: bool,
}

impl Default for Fields {
    fn default() -> Self {
        Self { x_ratelimit: true, ietf: true }
    }
}

const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
const BUCKET_SIZE: HeaderName = HeaderName::from_static("x-ratelimit-bucket-size");
const BUCKET_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-bucket-remaining");
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The header fields for a decision over these policies (those of the request, in its order).
///
/// `now` is the wall clock in seconds since the epoch, for `X-RateLimit-Reset`.
pub fn fields<P: AsRef<Policy>>(
    decision: &Decision,
    policies: &[P],
    now: u64,
    which: Fields,
) -> Vec<(HeaderName, String)> {
    let mut fields = Vec::with_capacity(6);
    each_field(decision, policies, now, which, |name, value| fields.push((name, value.to_owned())));
    fields
}

/// [`fields`] straight into a header map. Fields of these names that are there already are replaced.
pub fn write_fields<P: AsRef<Policy>>(
    decision: &Decision,
    policies: &[P],
    now: u64,
    which: Fields,
    headers: &mut HeaderMap,
) {
    each_field(decision, policies, now, which, |name, value| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    });
}

/// Tells `put` of each field. All values are written in one buffer, one after the other.
fn each_field<P: AsRef<Policy>>(
    decision: &Decision,
    policies: &[P],
    now: u64,
    which: Fields,
    mut put: impl FnMut(HeaderName, &str),
) {
    let Some(policy) = policies.get(usize::from(decision.charge)).map(AsRef::as_ref) else {
        return;
    };
    if decision.mode == Mode::Shadow {
        // Clients are told of limits that bind.
        return;
    }
    let mut line = Line(String::with_capacity(64));
    let mut tell = |name, write: &dyn Fn(&mut Line)| {
        line.0.clear();
        write(&mut line);
        put(name, &line.0);
    };
    let (limit, remaining, reset) = (decision.limit, decision.remaining, decision.reset_after_secs());
    if which.x_ratelimit {
        tell(LIMIT, &|line| line.number(limit));
        tell(REMAINING, &|line| line.number(remaining));
        tell(RESET, &|line| line.number(now.saturating_add(reset)));
        if policy.algorithm() == Algorithm::TokenBucket {
            tell(BUCKET_SIZE, &|line| line.number(limit));
            tell(BUCKET_REMAINING, &|line| line.number(remaining));
        }
    }
    if which.ietf {
        tell(RATELIMIT, &|line| {
            line.item(policy, usize::from(decision.index));
            line.parameter(";r=", remaining);
            line.parameter(";t=", reset);
        });
        tell(RATELIMIT_POLICY, &|line| line.quotas(policies));
    }
    if let Some(seconds) = retry_after(decision) {
        tell(RETRY_AFTER, &|line| line.number(seconds));
    }
}

/// `Retry-After`: whole seconds, rounded up, at least 1; `None` when allowed or when waiting does
/// not help.
pub fn retry_after(decision: &Decision) -> Option<u64> {
    decision.retry_after_secs()
}

/// The value of one field while it is written. Every answer has up to six, so numbers are written
/// without the machinery of `format!`: with it, writing them costs more than the check.
struct Line(String);

impl Line {
    fn number(&mut self, number: impl itoa::Integer) {
        self.0.push_str(itoa::Buffer::new().format(number));
    }

    fn parameter(&mut self, name: &str, number: impl itoa::Integer) {
        self.0.push_str(name);
        self.number(number);
    }

    /// An [`Item`] as a structured-field string: names hold no quotes.
    fn item(&mut self, policy: &Policy, index: usize) {
        self.0.push('"');
        match policy.limits() {
            [_] => self.0.push_str(policy.name()),
            // A string takes all that is written to it.
            _ => drop(write!(self.0, "{}", Item { policy, index })),
        }
        self.0.push('"');
    }

    /// `"login";q=5;w=60, …`: every limit of every policy.
    fn quotas<P: AsRef<Policy>>(&mut self, policies: &[P]) {
        for policy in policies.iter().map(AsRef::as_ref) {
            for (index, limit) in policy.limits().iter().enumerate() {
                if !self.0.is_empty() {
                    self.0.push_str(", ");
                }
                self.item(policy, index);
                self.parameter(";q=", limit.capacity());
                // A window of less than a second is told as one second's worth.
                self.parameter(";w=", limit.period().div_ceil(1_000_000_000));
            }
        }
    }
}

/// A policy's name; with its rate when it has several.
pub(crate) struct Item<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) index: usize,
}

impl fmt::Display for Item<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.policy.limits() {
            [_] => f.write_str(self.policy.name()),
            limits => write!(f, "{} {}", self.policy.name(), limits[self.index.min(limits.len() - 1)].rate()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tollway::{Part, Timestamp, decide};

    fn refused(rates: &str, algorithm: Algorithm) -> (Decision, Vec<Arc<Policy>>) {
        let policy = Arc::new(Policy::new("login", rates, algorithm).unwrap());
        let now = Timestamp::from_secs(1_700_000_000);
        let mut states = vec![None; policy.limits().len()];
        loop {
            let mut parts: Vec<_> = (policy.limits().iter().zip(&states).enumerate())
                .map(|(i, (limit, state))| Part { limit, state: state.clone(), cost: 1, charge: 0, index: i as u16 })
                .collect();
            let (decision, next) = decide(&mut parts, now);
            if !decision.allowed {
                return (decision, vec![policy.clone()]);
            }
            states = next.into_iter().map(Some).collect();
        }
    }

    fn shown(decision: &Decision, policies: &[Arc<Policy>]) -> Vec<String> {
        let fields = fields(decision, policies, 1_700_000_000, Fields::default());
        fields.iter().map(|(name, value)| format!("{name}: {value}")).collect()
    }

    #[test]
    fn a_refusal_says_when() {
        let (decision, policies) = refused("5/10s", Algorithm::Gcra);
        assert_eq!(
            shown(&decision, &policies),
            [
                "x-ratelimit-limit: 5",
                "x-ratelimit-remaining: 0",
                "x-ratelimit-reset: 1700000010",
                "ratelimit: \"login\";r=0;t=10",
                "ratelimit-policy: \"login\";q=5;w=10",
                "retry-after: 2",
            ]
        );
    }

    #[test]
    fn several_rates_are_named_by_their_rate() {
        let (decision, policies) = refused("2/s; 100/h", Algorithm::TokenBucket);
        let shown = shown(&decision, &policies);
        assert!(shown.contains(&"ratelimit: \"login 2/s\";r=0;t=1".to_owned()), "{shown:?}");
        assert!(shown.contains(&"ratelimit-policy: \"login 2/s\";q=2;w=1, \"login 100/h\";q=100;w=3600".to_owned()));
        assert!(shown.contains(&"x-ratelimit-bucket-size: 2".to_owned()));
    }

    #[test]
    fn a_wait_rounds_up() {
        let (mut decision, _) = refused("5/10s", Algorithm::Gcra);
        for (nanos, seconds) in [(1, 1), (999_999_999, 1), (1_000_000_000, 1), (1_000_000_001, 2), (1_999_000_000, 2)] {
            decision.retry_after = nanos;
            assert_eq!(retry_after(&decision), Some(seconds));
        }
        decision.retry_after = tollway::NEVER;
        assert_eq!(retry_after(&decision), None);
    }
}
