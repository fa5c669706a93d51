//! Two counters, the older one weighted.

use super::{State, Verdict, clamp_window, never, refused};
use crate::Limit;

pub(super) fn decide(limit: &Limit, state: Option<State>, now: u64, cost: u32) -> (Verdict, State) {
    let window = Window::at(limit, state, now);
    let left = limit.capacity.saturating_sub(window.used());
    if cost > left {
        let retry_after = never(limit, cost).unwrap_or_else(|| window.wait_for(limit.capacity - cost, now));
        return (refused(left, window.reset_after(now), retry_after), window.state());
    }
    let next = Window { current: window.current + cost, ..window };
    let verdict = Verdict { allowed: true, remaining: left - cost, reset_after: next.reset_after(now), retry_after: 0 };
    (verdict, next.state())
}

#[derive(Clone, Copy)]
struct Window {
    period: u64,
    start: u64,
    /// How far into the window we are, less than the period.
    elapsed: u64,
    current: u32,
    previous: u32,
}

impl Window {
    fn at(limit: &Limit, state: Option<State>, now: u64) -> Self {
        let period = limit.period;
        let (seen, current, previous) = match state {
            Some(State::Sliding { start, current, previous }) => (start, current, previous),
            _ => (0, 0, 0),
        };
        let at = clamp_window(seen, now, period);
        let start = at - at % period;
        let (current, previous) = match start.checked_sub(seen) {
            Some(0) => (current, previous),
            // The clock went back: all that was in sight counts, so that nothing is freed.
            None => (current.saturating_add(previous).min(limit.capacity), 0),
            Some(gap) if gap == period => (0, current),
            Some(_) => (0, 0),
        };
        Self { period, start, elapsed: at - start, current, previous }
    }

    fn state(&self) -> State {
        State::Sliding { start: self.start, current: self.current, previous: self.previous }
    }

    /// Permits in sight, the older ones weighted and rounded up.
    fn used(&self) -> u32 {
        let weight = u128::from(self.previous) * u128::from(self.period - self.elapsed);
        let previous = weight.div_ceil(u128::from(self.period)) as u32;
        self.current.saturating_add(previous)
    }

    fn reset_after(&self, now: u64) -> u64 {
        let ends = if self.current > 0 {
            2
        } else if self.previous > 0 {
            1
        } else {
            return 0;
        };
        self.start.saturating_add(self.period.saturating_mul(ends)).saturating_sub(now)
    }

    /// Nanoseconds until no more than `room` permits are in sight.
    fn wait_for(&self, room: u32, now: u64) -> u64 {
        let at = if self.current <= room {
            self.start + fades_at(self.period, self.previous, room - self.current)
        } else {
            self.start + self.period + fades_at(self.period, self.current, room)
        };
        at.saturating_sub(now)
    }
}

/// The first offset into a window at which `count` from the window before weighs at most `room`.
fn fades_at(period: u64, count: u32, room: u32) -> u64 {
    if count <= room {
        return 0;
    }
    // count × (period − offset) ≤ room × period
    period - (u128::from(room) * u128::from(period) / u128::from(count)) as u64
}
