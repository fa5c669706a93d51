//! The algorithms: how a state and a cost become a verdict and the next state.

mod fixed_window;
pub(crate) mod log;
pub(crate) mod schedule;
mod sliding_window;

use std::fmt;
use std::str::FromStr;

use crate::custom::{self, Custom, CustomAlgorithm};
use crate::{ConfigError, Limit, NEVER, Timestamp};

pub use log::Log;

/// Where a fixed window begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Align {
    /// At multiples of the period since the epoch: everybody's window turns at once.
    Clock,
    /// At a client's first request.
    First,
}

/// What a leaky bucket does with what does not leak at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Leak {
    /// It lets requests pass while there is room and refuses on overflow.
    Meter,
    /// It lets them pass one interval after the other: each is told how long to wait.
    Queue,
}

/// How a rate is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Generic cell rate: one permit each `period / permits`, up to the capacity at once.
    ///
    /// Bound: any span of length t admits at most `capacity + t × permits / period`.
    Gcra,
    /// A bucket of `capacity` tokens that refills continuously; the same law as [`Algorithm::Gcra`],
    /// reported as tokens.
    TokenBucket,
    /// A bucket of `capacity` that leaks at the rate. The same law as [`Algorithm::Gcra`]; as a queue
    /// each decision also says how long the request has to wait for its turn, see
    /// [`Decision::delay`](crate::Decision::delay), and then requests leave one interval apart.
    LeakyBucket(Leak),
    /// A counter for each window.
    ///
    /// Bound: at most `permits` in a window, so at most twice that in any span of one period that
    /// crosses a window's edge.
    FixedWindow(Align),
    /// Two counters, the older one weighted by how much of its window is still in sight.
    ///
    /// Bound: at most `permits` in a clock window, and the weighted sum never exceeds `permits`;
    /// any span of one period admits fewer than twice `permits`. A client that takes each permit the
    /// moment it fades in gets a little less than the rate, never less than two thirds.
    SlidingWindow,
    /// Every request remembered for one period: exact, at the price of an entry for each.
    ///
    /// Bound: any span of one period admits at most `permits`.
    SlidingLog,
    /// Permits in flight: each is held until it is given back, or until its lease, one period, is
    /// over without having been renewed.
    ///
    /// Bound: at most `permits` are held at any instant.
    Concurrency,
    /// A counter for each calendar day, week, month or year of a time zone.
    ///
    /// Bound: at most `permits` from one of its edges to the next.
    Calendar,
    /// One of your own, see [`CustomAlgorithm`].
    Custom(Custom),
}

impl Algorithm {
    const ALL: [Self; 10] = [
        Self::Gcra,
        Self::TokenBucket,
        Self::LeakyBucket(Leak::Meter),
        Self::LeakyBucket(Leak::Queue),
        Self::FixedWindow(Align::Clock),
        Self::FixedWindow(Align::First),
        Self::SlidingWindow,
        Self::SlidingLog,
        Self::Concurrency,
        Self::Calendar,
    ];

    /// The name people write.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gcra => "gcra",
            Self::TokenBucket => "token_bucket",
            Self::LeakyBucket(Leak::Meter) => "leaky_bucket",
            Self::LeakyBucket(Leak::Queue) => "leaky_bucket:queue",
            Self::FixedWindow(Align::Clock) => "fixed_window",
            Self::FixedWindow(Align::First) => "fixed_window:first",
            Self::SlidingWindow => "sliding_window",
            Self::SlidingLog => "sliding_log",
            Self::Concurrency => "concurrency",
            Self::Calendar => "calendar",
            Self::Custom(custom) => custom.get().name(),
        }
    }

    /// All that are built in, in the order they are documented.
    pub const fn all() -> [Self; 10] {
        Self::ALL
    }

    /// Makes an algorithm known under its name, for the life of the process.
    ///
    /// # Errors
    /// When the name is not usable or taken, or 64 are registered already.
    pub fn register(algorithm: Box<dyn CustomAlgorithm>) -> Result<Self, ConfigError> {
        custom::register(algorithm, &Self::ALL.map(Self::name)).map(Self::Custom)
    }

    /// Whether its state is one instant at which the budget is whole again.
    pub const fn is_bucket(self) -> bool {
        matches!(self, Self::Gcra | Self::TokenBucket | Self::LeakyBucket(_))
    }

    /// Whether its state is an entry for each request.
    pub const fn is_log(self) -> bool {
        matches!(self, Self::SlidingLog | Self::Concurrency)
    }

    /// The largest capacity it keeps: a log has an entry for each permit.
    pub const fn most_permits(self) -> u32 {
        if self.is_log() { log::MOST } else { u32::MAX }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Algorithm {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let built_in = Self::ALL.into_iter().find(|algorithm| algorithm.name() == text);
        built_in.or_else(|| custom::find(text).map(Self::Custom)).ok_or_else(|| {
            let mut names = Self::ALL.map(Self::name).to_vec();
            names.extend(custom::names());
            ConfigError::new(format!("algorithm {text:?} is not known: use one of {}", names.join(", ")))
        })
    }
}

/// What a limit remembers of one key. Absent means nothing spent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// When the budget will be whole again: nanoseconds since the epoch and a fraction in
    /// `1/permits` of one.
    Schedule {
        /// Whole nanoseconds.
        full_at: u64,
        /// The rest.
        fraction: u32,
    },
    /// A window's start and what was spent in it.
    Window {
        /// Nanoseconds since the epoch.
        start: u64,
        /// Permits spent.
        count: u32,
    },
    /// A window's start, what was spent in it and in the one before.
    Sliding {
        /// Nanoseconds since the epoch.
        start: u64,
        /// Spent in this window.
        current: u32,
        /// Spent in the window before.
        previous: u32,
    },
    /// An entry for each request that counts.
    Log(Box<Log>),
    /// Bytes of an algorithm of one's own.
    Custom(Box<[u8]>),
}

/// One limit's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the cost fits.
    pub allowed: bool,
    /// Permits left: after the cost when allowed, as they stand when refused.
    pub remaining: u32,
    /// Nanoseconds until nothing is spent any more.
    pub reset_after: u64,
    /// Nanoseconds until the same cost fits: 0 when allowed, [`NEVER`] when it cannot.
    pub retry_after: u64,
}

/// Decides one limit: the verdict, and the state to keep. A refusal spends nothing.
///
/// Pure: the same arguments give the same answer. Time that went backwards neither frees nor locks a
/// key: a state from the future is read, and handed back, as fully spent at most. A store may skip
/// the write after a refusal unless the state lay in the future, or the policy
/// [notes arrivals](crate::Policy::notes_arrivals) and there was none.
#[inline]
pub fn decide_one(limit: &Limit, state: Option<State>, now: Timestamp, cost: u32) -> (Verdict, State) {
    match limit.algorithm() {
        Algorithm::Gcra | Algorithm::TokenBucket | Algorithm::LeakyBucket(_) => {
            schedule::decide(limit, state, now.nanos(), cost)
        }
        Algorithm::FixedWindow(_) | Algorithm::Calendar => fixed_window::decide(limit, state, now.nanos(), cost),
        Algorithm::SlidingWindow => sliding_window::decide(limit, state, now.nanos(), cost),
        Algorithm::SlidingLog | Algorithm::Concurrency => log::decide(limit, state, now.nanos(), cost),
        Algorithm::Custom(custom) => {
            let (verdict, next) = custom.get().decide(limit, bytes(&state), now, cost);
            (verdict, State::Custom(next.into()))
        }
    }
}

/// The verdict alone, on a state that stays where it is.
pub fn judge_one(limit: &Limit, state: Option<&State>, now: Timestamp, cost: u32) -> Verdict {
    match state {
        Some(State::Log(log)) if limit.algorithm().is_log() => log.judge(limit, now.nanos(), cost),
        _ => decide_one(limit, state.cloned(), now, cost).0,
    }
}

/// The bytes of an algorithm of one's own; those of another are not its.
pub(crate) fn bytes(state: &Option<State>) -> Option<&[u8]> {
    match state {
        Some(State::Custom(bytes)) => Some(bytes),
        _ => None,
    }
}

impl Limit {
    /// The state that stands for `used` of `whole` spent at `now`: how a key's share is carried over
    /// when a policy's rate changes. Rounds up, so that a change never gives permits back.
    pub fn spent(&self, used: u32, whole: u32, now: Timestamp) -> State {
        let share = (u64::from(used) * u64::from(self.capacity)).div_ceil(u64::from(whole.max(1)));
        let used = share.min(u64::from(self.capacity)) as u32;
        let at = now.nanos();
        match self.algorithm() {
            Algorithm::Gcra | Algorithm::TokenBucket | Algorithm::LeakyBucket(_) => schedule::spent(self, used, at),
            Algorithm::FixedWindow(_) | Algorithm::Calendar => {
                State::Window { start: fixed_window::window_at(self, at).0, count: used }
            }
            Algorithm::SlidingWindow => State::Sliding { start: at - at % self.period, current: used, previous: 0 },
            Algorithm::SlidingLog | Algorithm::Concurrency => State::Log(Box::new(Log::from_iter([(at, used)]))),
            Algorithm::Custom(_) => decide_one(self, None, now, used).1,
        }
    }
}

fn refused(remaining: u32, reset_after: u64, retry_after: u64) -> Verdict {
    Verdict { allowed: false, remaining, reset_after, retry_after }
}

fn never(limit: &Limit, cost: u32) -> Option<u64> {
    (cost > limit.capacity).then_some(NEVER)
}

/// The start of the window to count in when a state says `start` and the clock says `now`.
///
/// A clock that stepped back by up to one period is taken to stand at the window it left; one that
/// jumped further starts a new window with the old count.
fn clamp_window(start: u64, now: u64, period: u64) -> u64 {
    if start > now && start - now <= period { start } else { now }
}

#[cfg(test)]
mod tests;
