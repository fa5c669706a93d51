//! A rate compiled for one algorithm.

use crate::{Algorithm, ConfigError, Period, Rate};

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
}

/// The longest a full bucket may take to refill: 100 years.
const MAX_TOLERANCE: u128 = 100 * 366 * 86_400 * 1_000_000_000;

impl Limit {
    /// Compiles `rate` for `algorithm`.
    ///
    /// # Errors
    /// When the algorithm cannot keep such a rate; the sentence names both.
    pub fn new(rate: Rate, algorithm: Algorithm) -> Result<Self, ConfigError> {
        let Period::Fixed(period) = *rate.period() else {
            return Err(ConfigError::new(format!(
                "rate \"{rate}\" counts a calendar period, which algorithm {algorithm} cannot keep: use a period \
                 in days or weeks such as \"{}/30d\"",
                rate.permits()
            )));
        };
        let bucket = matches!(algorithm, Algorithm::Gcra | Algorithm::TokenBucket | Algorithm::LeakyBucket(_));
        if !bucket && (rate.burst() > 0 || rate.is_smooth()) {
            return Err(ConfigError::new(format!(
                "rate \"{rate}\" has a burst, which algorithm {algorithm} does not know: use gcra or token_bucket"
            )));
        }
        let permits = rate.permits();
        let capacity = rate.capacity();
        if u128::from(capacity) * u128::from(period) / u128::from(permits) > MAX_TOLERANCE {
            return Err(ConfigError::new(format!(
                "rate \"{rate}\" would take more than 100 years to earn its burst back: lower the burst"
            )));
        }
        let mut limit = Self {
            rate,
            algorithm,
            period,
            permits,
            capacity,
            interval: Units::default(),
            tolerance: Units::default(),
        };
        limit.interval = limit.span(1);
        limit.tolerance = limit.span(capacity);
        Ok(limit)
    }

    /// The rate.
    pub fn rate(&self) -> &Rate {
        &self.rate
    }

    /// The algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The period in nanoseconds.
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

    /// How long a state of this limit can matter, in nanoseconds: after that it may be forgotten.
    pub fn lifetime(&self) -> u64 {
        match self.algorithm {
            Algorithm::Gcra | Algorithm::TokenBucket | Algorithm::LeakyBucket(_) => {
                self.tolerance.nanos.saturating_add(1)
            }
            Algorithm::FixedWindow(_) => self.period,
            Algorithm::SlidingWindow => self.period.saturating_mul(2),
        }
    }
}
