//! One counter for each window: of a fixed length, or of the calendar.

use super::{Algorithm, Align, State, Verdict, clamp_window, never, refused};
use crate::Limit;

pub(super) fn decide(limit: &Limit, state: Option<State>, now: u64, cost: u32) -> (Verdict, State) {
    let Window { start, end, count } = window(limit, state, now);
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

struct Window {
    start: u64,
    end: u64,
    count: u32,
}

/// Where the window that begins a new count at `at` starts and ends.
pub(super) fn window_at(limit: &Limit, at: u64) -> (u64, u64) {
    if let Some(window) = limit.calendar_window(at) {
        return window;
    }
    let start = match limit.algorithm() {
        Algorithm::FixedWindow(Align::First) => at,
        _ => at - at % limit.period,
    };
    (start, start.saturating_add(limit.period))
}

/// The window that `now` falls into and what was spent in it.
fn window(limit: &Limit, state: Option<State>, now: u64) -> Window {
    let Some(State::Window { start, count }) = state else {
        let (start, end) = window_at(limit, now);
        return Window { start, end, count: 0 };
    };
    let known_end = match limit.calendar_window(start) {
        Some((_, end)) => end,
        None => start.saturating_add(limit.period),
    };
    let at = clamp_window(start, now, known_end.saturating_sub(start));
    if (start..known_end).contains(&at) {
        return Window { start, end: known_end, count };
    }
    let (fresh, end) = window_at(limit, at);
    Window { start: fresh, end, count: if at < start { count } else { 0 } }
}
