//! Charging and giving back without asking: for costs that are known only afterwards, and for
//! permits that are held.

use crate::algorithm::log::{self, Move};
use crate::algorithm::{bytes, schedule};
use crate::{Algorithm, Limit, State, Timestamp, decide_one};

/// A change of what is spent that nobody is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// So many permits are charged; beyond the limit they are owed, up to one capacity, and earned
    /// back like any other.
    Charge(u32),
    /// So many permits are given back, at most what is spent.
    Refund(u32),
    /// Of a concurrency limit: permits taken, or renewed, at `since` on the store's clock are no
    /// longer held. What is over by then stays over.
    Release {
        /// When they were taken: [`Decision::at`](crate::Decision::at).
        since: Timestamp,
        /// How many.
        cost: u32,
    },
    /// Of a concurrency limit: permits taken, or renewed, at `since` are held for one more lease from
    /// now on. When their lease was over they are taken anew; the decision refuses when others have
    /// them.
    Renew {
        /// When they were taken: [`Decision::at`](crate::Decision::at).
        since: Timestamp,
        /// How many.
        cost: u32,
    },
}

impl Change {
    /// A charge above zero, a refund below.
    pub fn by(delta: i64) -> Self {
        let amount = u32::try_from(delta.unsigned_abs()).unwrap_or(u32::MAX);
        if delta < 0 { Self::Refund(amount) } else { Self::Charge(amount) }
    }

    /// By how much it changes what is spent.
    pub fn delta(self) -> i64 {
        match self {
            Self::Charge(amount) => i64::from(amount),
            Self::Refund(amount) | Self::Release { cost: amount, .. } => -i64::from(amount),
            Self::Renew { .. } => 0,
        }
    }

    /// Whether it changes nothing at all.
    pub fn is_nothing(self) -> bool {
        matches!(self, Self::Charge(0) | Self::Refund(0) | Self::Release { cost: 0, .. } | Self::Renew { cost: 0, .. })
    }
}

/// The state after a change, and whether it was made: only permits that cannot be renewed are not,
/// and then the state is as it was.
///
/// ```
/// use tollway_core::{Algorithm, Change, Policy, Timestamp, adjust_one, decide_one};
///
/// let policy = Policy::new("tokens", "1000/m", Algorithm::Gcra)?;
/// let (limit, now) = (&policy.limits()[0], Timestamp::from_secs(100));
/// let (_, state) = decide_one(limit, None, now, 500);
/// let (_, state) = adjust_one(limit, Some(state), now, Change::by(137 - 500));
/// assert_eq!(decide_one(limit, Some(state), now, 0).0.remaining, 1000 - 137);
/// # Ok::<(), tollway_core::ConfigError>(())
/// ```
pub fn adjust_one(limit: &Limit, state: Option<State>, now: Timestamp, change: Change) -> (bool, State) {
    if limit.algorithm().is_log() {
        let step = match change {
            Change::Charge(cost) => Move::Charge(cost),
            Change::Refund(cost) => Move::GiveBack(cost),
            Change::Release { since, cost } => Move::Release { since: since.nanos(), count: cost },
            Change::Renew { since, cost } => Move::Renew { since: since.nanos(), count: cost },
        };
        return log::adjust(limit, state, now.nanos(), step);
    }
    if let Algorithm::Custom(custom) = limit.algorithm() {
        let next = custom.get().adjust(limit, bytes(&state), now, change);
        let next = next.map_or_else(|| decide_one(limit, state, now, 0).1, |bytes| State::Custom(bytes.into()));
        return (true, next);
    }
    // What the state means at `now`, windows turned and clocks that went back seen to.
    let state = decide_one(limit, state, now, 0).1;
    let delta = match change {
        Change::Charge(_) | Change::Refund(_) => change.delta(),
        Change::Release { .. } | Change::Renew { .. } => 0,
    };
    (true, shifted(limit, state, now, delta))
}

fn shifted(limit: &Limit, state: State, now: Timestamp, delta: i64) -> State {
    let capacity = u64::from(limit.capacity());
    let amount = delta.unsigned_abs().min(2 * capacity) as u32;
    let shift = |count: u32| {
        let shifted = i64::from(count) + delta.signum() * i64::from(amount);
        shifted.clamp(0, 2 * capacity as i64) as u32
    };
    match (limit.algorithm(), state) {
        (_, state) if delta == 0 => state,
        (Algorithm::Gcra | Algorithm::TokenBucket | Algorithm::LeakyBucket(_), state) => {
            schedule::adjust(limit, state, now.nanos(), amount, delta < 0)
        }
        (_, State::Window { start, count }) => State::Window { start, count: shift(count) },
        (_, State::Sliding { start, current, previous }) if delta < 0 => {
            // The newest first: what was reserved lately is what is given back.
            let rest = amount.saturating_sub(current);
            State::Sliding { start, current: current.saturating_sub(amount), previous: previous.saturating_sub(rest) }
        }
        (_, State::Sliding { start, current, previous }) => State::Sliding { start, current: shift(current), previous },
        (_, other) => other,
    }
}
