//! A name and the limits that go with it.

use std::sync::Arc;

use crate::{Algorithm, Bucket, Change, ConfigError, FailMode, Limit, Rate, Rates, Timestamp};

/// The most rates one policy may combine.
const MAX_RATES: usize = 8;
/// The longest name.
const MAX_NAME: usize = 200;

/// A named set of limits that a request must pass together.
///
/// ```
/// use tollway_core::{Algorithm, Policy};
///
/// let login = Policy::new("login", "5/m; 100/d", Algorithm::Gcra)?;
/// assert_eq!(login.limits().len(), 2);
/// # Ok::<(), tollway_core::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    name: Arc<str>,
    algorithm: Algorithm,
    limits: Box<[Limit]>,
    fail_mode: Option<FailMode>,
    built_in: bool,
    per_request: u32,
}

impl Policy {
    /// A policy from rates written as text, such as `10/s; 1000/h`.
    ///
    /// # Errors
    /// When the name, a rate or their combination with the algorithm is not possible.
    pub fn new(name: &str, rates: &str, algorithm: Algorithm) -> Result<Self, ConfigError> {
        let rates: Rates = rates.parse()?;
        Self::from_rates(name, rates.0, algorithm)
    }

    /// A policy from rates.
    ///
    /// # Errors
    /// As [`Policy::new`].
    pub fn from_rates(name: &str, rates: Vec<Rate>, algorithm: Algorithm) -> Result<Self, ConfigError> {
        // It stands in a key before the braces of the identity, and in a header as a quoted string.
        let allowed = |c: char| (' '..='~').contains(&c) && !matches!(c, '"' | '\\' | '{' | '}');
        if name.trim().is_empty() || name.len() > MAX_NAME || !name.chars().all(allowed) {
            return Err(ConfigError::new(format!(
                "policy name {name:?} is not usable: use 1 to {MAX_NAME} ASCII characters without quotes, braces and \\"
            )));
        }
        if rates.is_empty() || rates.len() > MAX_RATES {
            return Err(ConfigError::new(format!(
                "policy {name:?} has {} rates: give it 1 to {MAX_RATES}",
                rates.len()
            )));
        }
        for (index, rate) in rates.iter().enumerate() {
            if rates[..index].iter().any(|other| other.period() == rate.period()) {
                return Err(ConfigError::new(format!(
                    "policy {name:?} has two rates over the same period ({}): keep the lower one",
                    rate.period()
                )));
            }
        }
        let limits: Box<[_]> = rates.into_iter().map(|rate| Limit::new(rate, algorithm)).collect::<Result<_, _>>()?;
        let built_in = !limits.iter().any(|limit| matches!(limit.algorithm(), Algorithm::Custom(_)));
        Ok(Self { name: name.into(), algorithm, limits, built_in, per_request: 1, fail_mode: None })
    }

    /// The same with an answer of its own for when the store does not answer, whatever the limiter's.
    #[must_use]
    pub fn with_fail_mode(self, fail_mode: FailMode) -> Self {
        Self { fail_mode: Some(fail_mode), ..self }
    }

    /// What is answered when the store does not; `None` leaves it to the limiter.
    pub fn fail_mode(&self) -> Option<FailMode> {
        self.fail_mode
    }

    /// The same with the options of a token bucket, for each of its rates.
    ///
    /// # Errors
    /// When the algorithm is another, an option does not go with a rate, or `partial` is asked of a
    /// policy of several rates.
    pub fn with_bucket(self, bucket: Bucket) -> Result<Self, ConfigError> {
        if bucket.partial && self.limits.len() > 1 {
            return Err(ConfigError::new(format!(
                "policy {:?} has {} rates, which pass together or not at all: partial goes with one rate",
                self.name,
                self.limits.len()
            )));
        }
        if bucket.per_request == 0 {
            return Err(ConfigError::new(format!("policy {:?}: a request pays at least 1 token, not 0", self.name)));
        }
        let limits = self.limits.into_iter().map(|limit| limit.with_bucket(bucket)).collect::<Result<_, _>>()?;
        Ok(Self { limits, per_request: bucket.per_request, ..self })
    }

    /// What `cost` requests are charged: the same, unless a request pays several tokens.
    #[inline]
    pub fn charged(&self, cost: u32) -> u32 {
        cost.saturating_mul(self.per_request())
    }

    /// Tokens that one request pays, see [`Bucket::per_request`].
    #[inline]
    pub fn per_request(&self) -> u32 {
        self.per_request
    }

    /// Whether even the refusal of a key never seen is remembered: a bucket that does not begin full
    /// earns from then on.
    pub fn notes_arrivals(&self) -> bool {
        self.limits[0].bucket().initial.is_some()
    }

    /// Whether its algorithm knows such a change: an algorithm of one's own need not.
    pub fn adjusts(&self, change: Change) -> bool {
        let knows = |limit: &Limit| match limit.algorithm() {
            Algorithm::Custom(custom) => custom.get().adjust(limit, None, Timestamp::default(), change).is_some(),
            _ => true,
        };
        self.built_in || self.limits.iter().all(knows)
    }

    /// Whether every limit has one built-in law: not a custom algorithm, whose states are bytes.
    #[inline]
    pub fn is_built_in(&self) -> bool {
        self.built_in
    }

    /// The name: part of the key, so that two policies never share a budget by accident.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The algorithm all limits use.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The limits, in the order given.
    pub fn limits(&self) -> &[Limit] {
        &self.limits
    }

    /// How long this policy's state can matter, in nanoseconds.
    pub fn lifetime(&self) -> u64 {
        self.limits.iter().map(Limit::lifetime).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_options_that_cannot_be_are_refused_by_name() {
        let plain = Bucket::default();
        for (rates, algorithm, bucket, part) in [
            ("5/m", Algorithm::Gcra, Bucket { initial: Some(1), ..plain }, "token_bucket"),
            ("5/m", Algorithm::TokenBucket, Bucket { initial: Some(6), ..plain }, "begin with 6"),
            ("5/m", Algorithm::TokenBucket, Bucket { per_request: 6, ..plain }, "pay 6"),
            ("5/m", Algorithm::TokenBucket, Bucket { per_request: 0, ..plain }, "at least 1"),
            ("5/m", Algorithm::TokenBucket, Bucket { refill_every: 1, ..plain }, "milliseconds"),
            ("5/m; 9/h", Algorithm::TokenBucket, Bucket { partial: true, ..plain }, "one rate"),
        ] {
            let policy = Policy::new("p", rates, algorithm).unwrap();
            let error = policy.with_bucket(bucket).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        for (name, rates, algorithm, part) in [
            ("", "5/s", Algorithm::Gcra, "policy name"),
            ("a{b}", "5/s", Algorithm::Gcra, "policy name"),
            ("a", "5/s; 6/s", Algorithm::Gcra, "same period"),
            ("a", "5/month burst 2", Algorithm::Gcra, "calendar"),
            ("a", "5/d", Algorithm::Calendar, "500/day Europe/Berlin"),
            ("a", "5/month", Algorithm::Concurrency, "lease"),
            ("a", "10001/s", Algorithm::SlidingLog, "at most 10000"),
            ("a", "5/s burst 2", Algorithm::SlidingWindow, "sliding_window"),
            ("a", "1/d burst 1000000", Algorithm::Gcra, "100 years"),
            ("a", "five", Algorithm::Gcra, "position 0"),
        ] {
            let error = Policy::new(name, rates, algorithm).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
