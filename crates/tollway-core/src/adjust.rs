//! Charging and giving back without asking: for costs that are known only afterwards.

use crate::algorithm::schedule;
use crate::{Algorithm, Limit, State, Timestamp, decide_one};

/// The state after `delta` permits are charged (above zero) or given back (below).
///
/// Never refuses. What is given back is at most what is spent; what is charged beyond the limit is
/// owed, up to one capacity, and earned back like any other.
///
/// ```
/// use tollway_core::{Algorithm, Policy, Timestamp, adjust_one, decide_one};
///
/// let policy = Policy::new("tokens", "1000/m", Algorithm::Gcra)?;
/// let (limit, now) = (&policy.limits()[0], Timestamp::from_secs(100));
/// let (_, state) = decide_one(limit, None, now, 500);
/// let state = adjust_one(limit, Some(state), now, 137 - 500);
/// assert_eq!(decide_one(limit, Some(state), now, 0).0.remaining, 1000 - 137);
/// # Ok::<(), tollway_core::ConfigError>(())
/// ```
pub fn adjust_one(limit: &Limit, state: Option<State>, now: Timestamp, delta: i64) -> State {
    // What the state means at `now`, windows turned and clocks that went back seen to.
    let state = decide_one(limit, state, now, 0).1;
    let capacity = u64::from(limit.capacity());
    let amount = delta.unsigned_abs().min(2 * capacity) as u32;
    let shift = |count: u32| {
        let shifted = i64::from(count) + delta.signum() * i64::from(amount);
        shifted.clamp(0, 2 * capacity as i64) as u32
    };
    match (limit.algorithm(), state) {
        (Algorithm::Gcra | Algorithm::TokenBucket | Algorithm::LeakyBucket(_), _) => {
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
