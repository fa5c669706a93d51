//! One counter for each window.

use super::{Align, State, Verdict, clamp_window, never, refused};
use crate::Limit;

pub(super) fn decide(limit: &Limit, align: Align, state: Option<State>, now: u64, cost: u32) -> (Verdict, State) {
    let (start, count) = window(limit, align, state, now);
    let end = start.saturating_add(limit.period);
    let left = limit.capacity.saturating_sub(count);
    let reset_after = |count: u32| if count == 0 { 0 } else { end.saturating_sub(now) };
    if cost > left {
        let retry_after = never(limit, cost).unwrap_or(end.saturating_sub(now));
        return (refused(left, reset_after(count), retry_after), State::Window { start, count });
    }
    let next = count + cost;
    let verdict = Verdict { allowed: true, remaining: left - cost, reset_after: reset_after(next), retry_after: 0 };
    (verdict, State::Window { start, count: next })
}

/// The window that `now` falls into and what was spent in it.
fn window(limit: &Limit, align: Align, state: Option<State>, now: u64) -> (u64, u32) {
    let fresh = |at: u64| match align {
        Align::Clock => at - at % limit.period,
        Align::First => at,
    };
    let Some(State::Window { start, count }) = state else {
        return (fresh(now), 0);
    };
    let at = clamp_window(start, now, limit.period);
    if at >= start.saturating_add(limit.period) {
        (fresh(at), 0)
    } else if at < start {
        (fresh(at), count)
    } else {
        (start, count)
    }
}
