//! A rate compiled for one algorithm.

use crate::calendar::Calendar;
use crate::{Algorithm, Bucket, ConfigError, Period, Rate};

/// An exact length of time: whole nanoseconds and a fraction counted in `1/permits` of one.
///
/// 7 permits a second are 142 857 142 ns and 6/7 apart; keeping the sevenths is what makes N
/// periods admit exactly N times the rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Units {
    /// Whole nanoseconds.
    pub nanos: u64,
    /// The rest, less than the limit's permits.
    pub fraction: u32,
}

/// One rate with the algorithm that keeps it, and what both come down to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    rate: Rate,
    algorithm: Algorithm,
    pub(crate) period: u64,
    pub(crate) permits: u32,
    pub(crate) capacity: u32,
    pub(crate) interval: Units,
    pub(crate) tolerance: Units,
    pub(crate) bucket: Bucket,
    calendar: Option<Calendar>,
}

/// The longest a full bucket may take to refill: 100 years.
const MAX_TOLERANCE: u128 = 100 * 366 * 86_400 * 1_000_000_000;

impl Limit {
    /// Compiles `rate` for `algorithm`. A rate over a calendar period is kept by
    /// [`Algorithm::Calendar`], whatever the algorithm asked for.
    ///
    /// # Errors
    /// When the algorithm cannot keep such a rate; the sentence names both.
    pub fn new(rate: Rate, algorithm: Algorithm) -> Result<Self, ConfigError> {
        let fail = |why: &str| Err(ConfigError::new(format!("rate \"{rate}\" {why}")));
        let (algorithm, period, calendar) = match (rate.period(), algorithm) {
            (Period::Calendar { .. }, Algorithm::Concurrency) => {
                return fail(
                    "counts a calendar period, but concurrency needs the length of a lease: write it as \"10/30s\"",
                );
            }
            (Period::Calendar { unit, zone }, _) => {
                let Some(calendar) = Calendar::new(*unit, zone.as_deref()) else {
                    return fail("names a time zone that does not exist");
                };
                (Algorithm::Calendar, calendar.longest(), Some(calendar))
            }
            (Period::Fixed(_), Algorithm::Calendar) => {
                return fail("is no calendar quota: write one as \"10000/month\" or \"500/day Europe/Berlin\"");
            }
            (Period::Fixed(period), algorithm) => (algorithm, *period, None),
        };
        if !algorithm.is_bucket() && (rate.burst() > 0 || rate.is_smooth()) {
            return fail(&format!("has a burst, which algorithm {algorithm} does not know: use gcra or token_bucket"));
        }
        let (permits, capacity) = (rate.permits(), rate.capacity());
        if capacity > algorithm.most_permits() {
            return fail(&format!(
                "is too high for algorithm {algorithm}, which remembers each request and keeps at most {}: use \
                 sliding_window or gcra",
                algorithm.most_permits()
            ));
        }
        if u128::from(capacity) * u128::from(period) / u128::from(permits) > MAX_TOLERANCE {
            return fail("would take more than 100 years to earn its burst back: lower the burst");
        }
        let mut limit = Self {
            rate,
            algorithm,
            period,
            permits,
            capacity,
            interval: Units::default(),
            tolerance: Units::default(),
            bucket: Bucket::default(),
            calendar,
        };
        limit.interval = limit.span(1);
        limit.tolerance = limit.span(capacity);
        Ok(limit)
    }

    /// The same as a bucket with these options.
    ///
    /// # Errors
    /// When the algorithm is no token bucket, or an option does not go with the rate.
    pub fn with_bucket(self, bucket: Bucket) -> Result<Self, ConfigError> {
        let fail = |why: String| Err(ConfigError::new(format!("rate \"{}\" {why}", self.rate)));
        if bucket != Bucket::default() && self.algorithm != Algorithm::TokenBucket {
            return fail(format!("has options of token_bucket, which algorithm {} does not know", self.algorithm));
        }
        if let Some(initial) = bucket.initial
            && initial > self.capacity
        {
            return fail(format!("holds {} tokens, so it cannot begin with {initial}", self.capacity));
        }
        if bucket.per_request > self.capacity {
            return fail(format!("holds {} tokens, so no request could pay {}", self.capacity, bucket.per_request));
        }
        if !bucket.refill_every.is_multiple_of(1_000_000) || bucket.refill_every > self.period {
            return fail(format!(
                "cannot be refilled each {} ns: a whole number of milliseconds up to the period",
                bucket.refill_every
            ));
        }
        Ok(Self { bucket, ..self })
    }

    /// The rate.
    pub fn rate(&self) -> &Rate {
        &self.rate
    }

    /// The algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The options of a token bucket; the default for every other algorithm.
    pub fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// The period in nanoseconds; of a calendar period, the longest there is.
    pub fn period(&self) -> u64 {
        self.period
    }

    /// Permits in a period.
    pub fn permits(&self) -> u32 {
        self.permits
    }

    /// The most that can pass at one instant, which is also the largest cost.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// How long the rate takes to earn `cost` permits, exactly. `cost` is at most the capacity.
    pub fn span(&self, cost: u32) -> Units {
        if cost == 1 && self.interval != Units::default() {
            return self.interval;
        }
        let total = u128::from(cost) * u128::from(self.period);
        let permits = u128::from(self.permits);
        Units { nanos: (total / permits) as u64, fraction: (total % permits) as u32 }
    }

    /// The first instant of the calendar period that holds `at`, and that of the next, in
    /// nanoseconds since the epoch. `None` unless the period is a calendar one.
    ///
    /// ```
    /// use tollway_core::{Algorithm, Policy};
    ///
    /// let quota = Policy::new("quota", "1000/day Europe/Berlin", Algorithm::Calendar)?;
    /// // The last Sunday of March 2024 had 23 hours there.
    /// let (start, end) = quota.limits()[0].calendar_window(1_711_850_000_000_000_000).unwrap();
    /// assert_eq!((end - start) / 3_600_000_000_000, 23);
    /// # Ok::<(), tollway_core::ConfigError>(())
    /// ```
    pub fn calendar_window(&self, at: u64) -> Option<(u64, u64)> {
        self.calendar.as_ref().map(|calendar| calendar.window(at))
    }

    /// How long a state of this limit can matter, in nanoseconds: after that it may be forgotten.
    pub fn lifetime(&self) -> u64 {
        match self.algorithm {
            // A bucket that does not begin full is remembered for as long again after it is.
            _ if self.bucket.initial.is_some() => (self.tolerance.nanos + 1).saturating_mul(2) + self.period,
            Algorithm::Gcra | Algorithm::TokenBucket | Algorithm::LeakyBucket(_) => {
                (self.tolerance.nanos + 1).saturating_add(self.bucket.refill_every)
            }
            Algorithm::FixedWindow(_) | Algorithm::Calendar | Algorithm::SlidingLog | Algorithm::Concurrency => {
                self.period
            }
            Algorithm::SlidingWindow => self.period.saturating_mul(2),
            Algorithm::Custom(custom) => custom.get().lifetime(self),
        }
    }
}
