//! GCRA and token bucket: one number says when the budget will be whole again. Beyond the capacity
//! it says what is owed.

use super::{State, Verdict, never, refused};
use crate::{Limit, NEVER, Units};

/// A point in time with its fraction, ordered.
type Instant = Units;

#[inline]
pub(super) fn decide(limit: &Limit, state: Option<State>, now: u64, cost: u32) -> (Verdict, State) {
    let step = limit.bucket.refill_every;
    if step == 0 {
        return decide_at(limit, state, now, cost);
    }
    // Between two lumps no time passes for the bucket; who waits waits for the lump that suffices.
    let seen = now - now % step;
    let (mut verdict, next) = decide_at(limit, state, seen, cost);
    let lump = |wait: u64| match wait {
        0 | NEVER => wait,
        _ => seen.saturating_add(wait).div_ceil(step).saturating_mul(step).saturating_sub(now),
    };
    verdict.retry_after = lump(verdict.retry_after);
    verdict.reset_after = lump(verdict.reset_after);
    (verdict, next)
}

fn decide_at(limit: &Limit, state: Option<State>, now: u64, cost: u32) -> (Verdict, State) {
    let here = Instant { nanos: now, fraction: 0 };
    let full_at = match (state, limit.bucket.initial) {
        (Some(State::Schedule { full_at, fraction }), _) => Instant { nanos: full_at, fraction },
        (_, Some(initial)) => add(limit, here, limit.span(limit.capacity - initial)),
        _ => here,
    };
    let horizon = add(limit, here, limit.tolerance);
    // Further ahead than can be owed only after the clock went back: owed whole, and no longer.
    let most = add(limit, horizon, limit.tolerance);
    let base = full_at.max(here).min(most);
    let keep = |at: Instant| State::Schedule { full_at: at.nanos, fraction: at.fraction };
    let unchanged = keep(full_at.min(most));

    if let Some(never) = never(limit, cost) {
        return (refused(remaining(limit, base, horizon), wait(base, here), never), unchanged);
    }
    let next = add(limit, base, limit.span(cost));
    if next > horizon && cost > 0 {
        let verdict = refused(remaining(limit, base, horizon), wait(base, here), wait(next, horizon));
        return (verdict, unchanged);
    }
    let verdict = Verdict {
        allowed: true,
        remaining: remaining(limit, next, horizon),
        reset_after: wait(next, here),
        retry_after: 0,
    };
    (verdict, if cost == 0 { unchanged } else { keep(next) })
}

/// `amount` permits are given back, or charged without asking; at most one capacity is owed.
pub(crate) fn adjust(limit: &Limit, state: State, now: u64, amount: u32, give_back: bool) -> State {
    let State::Schedule { full_at, fraction } = state else { return state };
    let now = if limit.bucket.refill_every == 0 { now } else { now - now % limit.bucket.refill_every };
    let here = Instant { nanos: now, fraction: 0 };
    let base = Instant { nanos: full_at, fraction }.max(here);
    let most = add(limit, add(limit, here, limit.tolerance), limit.tolerance);
    let next = if give_back {
        subtract(limit, base, limit.span(amount)).max(here)
    } else {
        add(limit, base, limit.span(amount)).min(most)
    };
    State::Schedule { full_at: next.nanos, fraction: next.fraction }
}

pub(super) fn spent(limit: &Limit, used: u32, now: u64) -> State {
    let at = add(limit, Instant { nanos: now, fraction: 0 }, limit.span(used));
    State::Schedule { full_at: at.nanos, fraction: at.fraction }
}

fn add(limit: &Limit, at: Instant, span: Units) -> Instant {
    let fraction = u64::from(at.fraction) + u64::from(span.fraction);
    let carry = u64::from(fraction >= u64::from(limit.permits));
    Instant {
        nanos: at.nanos.saturating_add(span.nanos).saturating_add(carry),
        fraction: (fraction - carry * u64::from(limit.permits)) as u32,
    }
}

fn subtract(limit: &Limit, at: Instant, span: Units) -> Instant {
    let borrow = u64::from(at.fraction < span.fraction);
    let fraction = u64::from(at.fraction) + borrow * u64::from(limit.permits) - u64::from(span.fraction);
    Instant { nanos: at.nanos.saturating_sub(span.nanos).saturating_sub(borrow), fraction: fraction as u32 }
}

/// Whole nanoseconds from `earlier` to `later`, rounded up: the first instant not before `later`.
fn wait(later: Instant, earlier: Instant) -> u64 {
    if later <= earlier {
        return 0;
    }
    // `earlier` may carry a fraction (the horizon does); ceil(later - earlier).
    later.nanos - earlier.nanos + u64::from(later.fraction > earlier.fraction)
}

/// Whole permits that fit between `at` and the horizon.
fn remaining(limit: &Limit, at: Instant, horizon: Instant) -> u32 {
    if at >= horizon {
        return 0;
    }
    let permits = u64::from(limit.permits);
    let nanos = horizon.nanos - at.nanos;
    let fraction = i64::from(horizon.fraction) - i64::from(at.fraction);
    // (nanos + fraction / permits) × permits / period, without losing the fraction.
    let count = match nanos.checked_mul(permits).and_then(|units| units.checked_add_signed(fraction)) {
        Some(units) => units / limit.period,
        None => {
            let units = (u128::from(nanos) * u128::from(permits)).saturating_add_signed(i128::from(fraction));
            (units / u128::from(limit.period)) as u64
        }
    };
    count.min(u64::from(limit.capacity)) as u32
}
