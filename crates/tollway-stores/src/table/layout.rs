//! How one limit's state stands in part of a word, exactly.
//!
//! A state becomes one unsigned number, its *mark*, such that time going forward never makes it
//! smaller: the time first, counts and fractions below. Fractions of a nanosecond are kept in lowest
//! terms, so most rates need none and `7/s` needs three bits. There is room for what is owed: counts
//! up to twice the capacity, and schedules as far ahead.

use tollway_core::{Algorithm, Align, Change, Limit, State, Timestamp, Verdict, adjust_one, decide_one};

use super::word::Packing;

/// The bits a credit has at most, and must have at least.
/// With the most, a mark is the upper half of its word.
const CREDIT_BITS: (u32, u32) = (2, 15);
/// The bits of a time in nanoseconds: of one that has been, to the year 2116; of one that may lie two
/// hundred years ahead, to 2262.
const PAST_BITS: u32 = 62;
const AHEAD_BITS: u32 = 63;
const SECOND: u64 = 1_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Schedule,
    Window,
    Sliding,
}

/// One limit with the places its state takes in a word.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    limit: Limit,
    kind: Kind,
    /// Bits below the time.
    low: u32,
    /// What the time of a window, or the fraction of a schedule, is counted in.
    unit: u64,
    packing: Packing,
    plain: Option<Plain>,
    capacity: u32,
}

/// What takes no more than a few additions to decide, where marks have at most 64 bits.
#[derive(Clone, Copy, Debug)]
enum Plain {
    /// A schedule without fractions, in nanoseconds.
    Schedule {
        /// One permit.
        each: u64,
        /// All of them.
        whole: u64,
        /// 2⁶⁴ / `each`, rounded down: multiplying is faster than dividing.
        inverse: u64,
    },
    /// Windows by the clock.
    Window,
}

/// Whole spans of `each` in `nanos`, which may be no more than 2³² of them.
#[inline(always)]
fn permits(nanos: u64, each: u64, inverse: u64) -> u32 {
    let mut count = ((u128::from(nanos) * u128::from(inverse)) >> 64) as u64;
    // One short at most, or two where `each` divides 2⁶⁴.
    while nanos - count * each >= each {
        count += 1;
    }
    count as u32
}

/// Times before this do not overflow, however much is owed: the year 2116.
const FAR: u64 = 1 << 62;

impl Layout {
    /// The layout of `limit`, or `None` when its state does not fit a word.
    pub(crate) fn new(limit: &Limit) -> Option<Self> {
        let count = bits(2 * u64::from(limit.capacity()));
        let (period, permits) = (limit.period(), u64::from(limit.permits()));
        let whole = AHEAD_BITS - period.ilog2();
        let (kind, time, low, unit) = match limit.algorithm() {
            Algorithm::Gcra | Algorithm::TokenBucket | Algorithm::LeakyBucket(_) => {
                let unit = common_divisor(period, permits);
                (Kind::Schedule, AHEAD_BITS, bits(permits / unit - 1), unit)
            }
            Algorithm::FixedWindow(Align::Clock) => (Kind::Window, whole, count, period),
            Algorithm::FixedWindow(Align::First) => (Kind::Window, PAST_BITS, count, 1),
            Algorithm::SlidingWindow => (Kind::Sliding, whole, 2 * count, period),
            // Calendars turn at whole seconds.
            Algorithm::Calendar => (Kind::Window, AHEAD_BITS - SECOND.ilog2(), count, SECOND),
            // Their states are no numbers of fixed size.
            Algorithm::SlidingLog | Algorithm::Concurrency | Algorithm::Custom(_) => return None,
        };
        let bucket = limit.bucket();
        if bucket.initial.is_some() || bucket.refill_every > 0 || bucket.partial {
            return None;
        }
        let credit = Packing::ROOM.checked_sub(time + low).filter(|bits| *bits >= CREDIT_BITS.0)?;
        let credit = credit.min(CREDIT_BITS.1);
        let counted_in = match kind {
            Kind::Schedule => 1,
            _ if limit.algorithm() == Algorithm::Calendar => limit.lifetime(),
            _ => unit,
        };
        let spent_whole = u128::from(limit.lifetime().div_ceil(counted_in)) << low;
        // All the credit is at least four times what can be spent, and 256 times where there is room.
        let steps = (credit / 2).min(credit.saturating_sub(3));
        let packing = Packing { credit, step: (u128::BITS - spent_whole.leading_zeros()).saturating_sub(steps) };
        let plain = match kind {
            Kind::Schedule if credit == CREDIT_BITS.1 && low == 0 => {
                let each = limit.span(1).nanos;
                Some(Plain::Schedule { each, whole: limit.span(limit.capacity()).nanos, inverse: u64::MAX / each })
            }
            Kind::Window if credit == CREDIT_BITS.1 && unit == period => Some(Plain::Window),
            _ => None,
        };
        Some(Self { limit: limit.clone(), kind, low, unit, packing, plain, capacity: limit.capacity() })
    }

    pub(crate) fn limit(&self) -> &Limit {
        &self.limit
    }

    pub(crate) fn packing(&self) -> Packing {
        self.packing
    }

    /// Decides `cost` for a key with this mark: the verdict, and the mark to keep.
    #[inline]
    pub(crate) fn decide(&self, mark: u128, now: Timestamp, cost: u32) -> (Verdict, u128) {
        if let Ok(mark) = u64::try_from(mark)
            && let Some((verdict, next)) = self.decide_plainly(mark, now, cost)
        {
            return (verdict, u128::from(next));
        }
        let (verdict, next) = decide_one(&self.limit, self.state(mark), now, cost);
        (verdict, self.mark(&next))
    }

    /// The same where it takes no more than a few additions: schedules of whole nanoseconds and
    /// windows by the clock that are not over, and a cost from 1 to the capacity.
    #[inline(always)]
    pub(crate) fn decide_plainly(&self, mark: u64, now: Timestamp, cost: u32) -> Option<(Verdict, u64)> {
        let now = now.nanos();
        if now >= FAR || cost.wrapping_sub(1) >= self.capacity {
            return None;
        }
        match self.plain? {
            Plain::Schedule { each, whole, inverse } => {
                if mark >= FAR {
                    return None;
                }
                let (full_at, horizon) = (mark, now + whole);
                // As much again may be owed.
                let most = horizon + whole;
                let base = full_at.clamp(now, most);
                let next = base + each * u64::from(cost);
                let allowed = next <= horizon;
                let kept = if allowed { next } else { full_at.min(most) };
                let at = if allowed { next } else { base };
                let remaining = permits(horizon.saturating_sub(at), each, inverse);
                let retry_after = next.saturating_sub(horizon);
                Some((Verdict { allowed, remaining, reset_after: at - now, retry_after }, kept))
            }
            Plain::Window => {
                let (time, low) = (mark >> self.low, mark & ((1 << self.low) - 1));
                let since = now.wrapping_sub(time.saturating_mul(self.unit));
                if since >= self.unit || low > u64::from(self.capacity) {
                    return None;
                }
                let (left, rest) = (self.capacity - low as u32, self.unit - since);
                Some(if cost <= left {
                    let verdict = Verdict { allowed: true, remaining: left - cost, reset_after: rest, retry_after: 0 };
                    (verdict, mark + u64::from(cost))
                } else {
                    let reset_after = if low == 0 { 0 } else { rest };
                    (Verdict { allowed: false, remaining: left, reset_after, retry_after: rest }, mark)
                })
            }
        }
    }

    /// The mark after a change that nobody is asked about.
    pub(crate) fn adjust(&self, mark: u128, now: Timestamp, change: Change) -> u128 {
        self.mark(&adjust_one(&self.limit, self.state(mark), now, change).1)
    }

    pub(crate) fn mark(&self, state: &State) -> u128 {
        match *state {
            State::Schedule { full_at, fraction } => {
                u128::from(full_at) << self.low | u128::from(u64::from(fraction) / self.unit)
            }
            State::Window { start, count } => u128::from(start / self.unit) << self.low | u128::from(count),
            State::Sliding { start, current, previous } => {
                self.sliding(start / self.unit, u128::from(current), u128::from(previous))
            }
            // No layout is made for their algorithms.
            State::Log(_) | State::Custom(_) => 0,
        }
    }

    /// The state of a mark. Nothing spent, ever, is no state.
    pub(crate) fn state(&self, mark: u128) -> Option<State> {
        if mark == 0 {
            return None;
        }
        let (time, low) = self.split(mark);
        Some(match self.kind {
            Kind::Schedule => State::Schedule { full_at: time, fraction: (low as u64 * self.unit) as u32 },
            Kind::Window => State::Window { start: time.saturating_mul(self.unit), count: low as u32 },
            Kind::Sliding => {
                let (current, previous) = self.counts(low);
                State::Sliding {
                    start: time.saturating_mul(self.unit),
                    current: current as u32,
                    previous: previous as u32,
                }
            }
        })
    }

    /// Whether a key with this mark has nothing spent any more: it is as good as absent.
    pub(crate) fn is_idle(&self, mark: u128, now: Timestamp) -> bool {
        let (time, low) = self.split(mark);
        let now = now.nanos();
        match self.kind {
            Kind::Schedule => time < now || (time == now && low == 0),
            Kind::Window => time.saturating_mul(self.unit).saturating_add(self.limit.period()) <= now,
            Kind::Sliding => time.saturating_mul(self.unit).saturating_add(self.limit.lifetime()) <= now,
        }
    }

    /// The mark of a key that has nothing spent at `now`, nor a while before, should the clock go back.
    pub(crate) fn unspent(&self, now: Timestamp) -> u128 {
        if let Some((start, _)) = self.limit.calendar_window(now.nanos()) {
            // Should the clock go back, it is this window still.
            return u128::from(start / self.unit) << self.low;
        }
        let since = now.nanos().saturating_sub(self.limit.lifetime().saturating_mul(3));
        let time = if self.kind == Kind::Schedule { since } else { since / self.unit };
        u128::from(time) << self.low
    }

    /// The least mark that has at least as much spent as either of two.
    pub(crate) fn join(&self, a: u128, b: u128) -> u128 {
        let (later, earlier) = (a.max(b), a.min(b));
        if self.kind == Kind::Schedule || earlier == 0 {
            return later;
        }
        let ((time, low), (before, low_before)) = (self.split(later), self.split(earlier));
        match self.kind {
            Kind::Schedule => later,
            Kind::Window if self.unit > 1 => later,
            Kind::Window => u128::from(time) << self.low | low.max(low_before),
            Kind::Sliding => {
                let ((current, previous), (old_current, old_previous)) = (self.counts(low), self.counts(low_before));
                match time - before {
                    0 => self.sliding(time, current.max(old_current), previous.max(old_previous)),
                    1 => self.sliding(time, current, previous.max(old_current)),
                    _ => later,
                }
            }
        }
    }

    fn split(&self, mark: u128) -> (u64, u128) {
        ((mark >> self.low) as u64, mark & ((1 << self.low) - 1))
    }

    fn counts(&self, low: u128) -> (u128, u128) {
        let half = self.low / 2;
        (low >> half, low & ((1 << half) - 1))
    }

    fn sliding(&self, time: u64, current: u128, previous: u128) -> u128 {
        u128::from(time) << self.low | current << (self.low / 2) | previous
    }
}

/// What is left of `state` when `cost`, charged as `charged`, is handed back.
pub(crate) fn give_back(limit: &Limit, state: State, charged: &State, cost: u32) -> State {
    match (state, charged) {
        (State::Schedule { full_at, fraction }, _) => {
            let span = limit.span(cost);
            let borrow = fraction < span.fraction;
            let permits = if borrow { limit.permits() } else { 0 };
            State::Schedule {
                full_at: full_at.saturating_sub(span.nanos + u64::from(borrow)),
                fraction: fraction + permits - span.fraction,
            }
        }
        (State::Window { start, count }, State::Window { start: then, .. }) if start == *then => {
            State::Window { start, count: count.saturating_sub(cost) }
        }
        (State::Sliding { start, current, previous }, State::Sliding { start: then, .. }) => {
            let (mut current, mut previous) = (current, previous);
            if start == *then {
                current = current.saturating_sub(cost);
            } else if start == *then + limit.period() {
                previous = previous.saturating_sub(cost);
            }
            State::Sliding { start, current, previous }
        }
        (State::Log(mut log), State::Log(charged)) => {
            if let Some((since, _)) = charged.entries().last() {
                log.take(since, cost);
            }
            State::Log(log)
        }
        // The window it was charged in is over.
        (state, _) => state,
    }
}

fn bits(value: u64) -> u32 {
    64 - value.leading_zeros()
}

fn common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tollway_core::{Policy, Rate, Units, decide_one};

    use super::*;

    fn layout(rate: &str, algorithm: Algorithm) -> Option<Layout> {
        Layout::new(&Policy::new("p", rate, algorithm).unwrap().limits()[0])
    }

    #[test]
    fn usual_limits_fit_and_odd_ones_do_not() {
        for rate in ["5/m", "7/s", "100/h", "77/7s", "1000000000/ms", "1000000000/365d", "1/365d", "8191/s"] {
            for algorithm in [Algorithm::Gcra, Algorithm::TokenBucket, Algorithm::FixedWindow(Align::Clock)] {
                assert!(layout(rate, algorithm).is_some(), "{rate} {algorithm}");
            }
        }
        assert!(layout("1000000/m", Algorithm::SlidingWindow).is_some());
        assert!(layout("16383/d", Algorithm::FixedWindow(Align::First)).is_some());
        assert!(layout("16384/d", Algorithm::FixedWindow(Align::First)).is_none());
        assert!(layout("1000003/s", Algorithm::Gcra).is_none());
    }

    fn any_limit() -> impl Strategy<Value = Limit> {
        let permits = prop_oneof![1..200_u32, 1..=1_000_000_000_u32];
        (permits, 1..=100_000_u64, 0..100_u32, 0..8_usize).prop_filter_map("fits", |(permits, ms, burst, which)| {
            let limit = if which == 7 {
                let unit = ["day UTC", "week Europe/Berlin", "month", "year America/New_York"][ms as usize % 4];
                Policy::new("p", &format!("{permits}/{unit}"), Algorithm::Calendar).unwrap().limits()[0].clone()
            } else {
                let algorithm = Algorithm::all()[which];
                let burst = if algorithm.is_bucket() { burst } else { 0 };
                Limit::new(Rate::new(permits, ms * 1_000_000, burst).unwrap(), algorithm).unwrap()
            };
            Layout::new(&limit).map(|_| limit)
        })
    }

    #[test]
    fn calendars_fit_and_are_counted_by_their_windows() {
        for rate in ["1000000000/day UTC", "10000/month Europe/Berlin", "1/year"] {
            let limit = Policy::new("p", rate, Algorithm::Calendar).unwrap().limits()[0].clone();
            let layout = Layout::new(&limit).unwrap();
            let now = Timestamp::from_secs(1_711_846_800);
            let (verdict, mark) = layout.decide(0, now, limit.capacity());
            assert!(verdict.allowed && !layout.decide(mark, now, 1).0.allowed, "{rate}");
            let end = limit.calendar_window(now.nanos()).unwrap().1;
            assert!(!layout.decide(mark, Timestamp::from_nanos(end - 1), 1).0.allowed, "{rate}");
            assert!(layout.decide(mark, Timestamp::from_nanos(end), 1).0.allowed, "{rate}");
        }
    }

    /// The state after charges and adjustments at some instants.
    fn walk(limit: &Limit, steps: &[(u64, u32)]) -> (Option<State>, Timestamp) {
        let mut now = Timestamp::from_secs(1_700_000_000);
        let mut state = None;
        for (pause, cost) in steps {
            now = now.plus(pause % (3 * limit.period()));
            let cost = cost % (limit.capacity() + 1);
            if pause % 5 == 0 {
                let delta = i64::from(cost) * if pause % 2 == 0 { 3 } else { -1 };
                state = Some(adjust_one(limit, state, now, Change::by(delta)).1);
                continue;
            }
            let (verdict, next) = decide_one(limit, state.clone(), now, cost);
            if verdict.allowed {
                state = Some(next);
            }
        }
        (state, now)
    }

    proptest! {
        #[test]
        fn what_is_packed_unpacks(limit in any_limit(), steps in prop::collection::vec((any::<u64>(), any::<u32>()), 1..8)) {
            let layout = Layout::new(&limit).unwrap();
            if let (Some(state), _) = walk(&limit, &steps) {
                prop_assert_eq!(layout.state(layout.mark(&state)), Some(state));
            }
        }

        #[test]
        fn marks_decide_as_states_do(
            limit in any_limit(),
            steps in prop::collection::vec((any::<u64>(), any::<u32>()), 1..8),
            jump in -5_000_000_000..5_000_000_000_i64,
            cost in prop_oneof![0..4_u32, any::<u32>()],
        ) {
            let layout = Layout::new(&limit).unwrap();
            let (state, now) = walk(&limit, &steps);
            let now = Timestamp::from_nanos(now.nanos().saturating_add_signed(jump));
            let mark = state.as_ref().map_or(0, |state| layout.mark(state));
            let (verdict, next) = decide_one(&limit, state, now, cost);
            prop_assert_eq!(layout.decide(mark, now, cost), (verdict, layout.mark(&next)));
        }

        #[test]
        fn marks_adjust_as_states_do(
            limit in any_limit(),
            steps in prop::collection::vec((any::<u64>(), any::<u32>()), 1..8),
            jump in -5_000_000_000..5_000_000_000_i64,
            delta in prop_oneof![-4..4_i64, -3_000_000_000..3_000_000_000_i64],
        ) {
            let layout = Layout::new(&limit).unwrap();
            let (state, now) = walk(&limit, &steps);
            let now = Timestamp::from_nanos(now.nanos().saturating_add_signed(jump));
            let mark = state.as_ref().map_or(0, |state| layout.mark(state));
            let next = adjust_one(&limit, state, now, Change::by(delta)).1;
            prop_assert_eq!(layout.state(layout.adjust(mark, now, Change::by(delta))), Some(next.clone()));
            // A slot has the credit to go there, and back to nothing spent.
            let packing = layout.packing();
            let word = packing.word(1, mark, 0).unwrap();
            let there = packing.word(1, layout.mark(&next), packing.order(word));
            if jump >= 0 {
                prop_assert!(there.is_some());
            }
        }

        #[test]
        fn a_join_frees_neither(
            limit in any_limit(),
            one in prop::collection::vec((any::<u64>(), any::<u32>()), 1..5),
            other in prop::collection::vec((any::<u64>(), any::<u32>()), 1..5),
            later in any::<u64>(),
        ) {
            let layout = Layout::new(&limit).unwrap();
            let (a, t) = walk(&limit, &one);
            let (b, u) = walk(&limit, &other);
            let now = t.max(u).plus(later % (2 * limit.period()));
            let (Some(a), Some(b)) = (a, b) else { return Ok(()) };
            let joined = layout.state(layout.join(layout.mark(&a), layout.mark(&b)));
            let left = |state| decide_one(&limit, state, now, 0).0.remaining;
            prop_assert!(left(joined) <= left(Some(a.clone())).min(left(Some(b.clone()))));
        }

        #[test]
        fn what_is_given_back_was_never_spent(
            limit in any_limit(),
            steps in prop::collection::vec((any::<u64>(), any::<u32>()), 1..5),
            cost in any::<u32>(),
        ) {
            let (state, now) = walk(&limit, &steps);
            let cost = cost % (limit.capacity() + 1);
            let (verdict, charged) = decide_one(&limit, state.clone(), now, cost);
            if verdict.allowed {
                let left = |state| decide_one(&limit, state, now, 0).0.remaining;
                let back = give_back(&limit, charged.clone(), &charged, cost);
                prop_assert_eq!(left(Some(back)), left(state));
            }
        }
    }

    #[test]
    fn a_fraction_is_borrowed() {
        let limit = Policy::new("p", "7/s", Algorithm::Gcra).unwrap().limits()[0].clone();
        assert_eq!(limit.span(1), Units { nanos: 142_857_142, fraction: 6 });
        let charged = State::Schedule { full_at: 1_142_857_142, fraction: 6 };
        let back = give_back(&limit, charged.clone(), &charged, 1);
        assert_eq!(back, State::Schedule { full_at: 1_000_000_000, fraction: 0 });
        let two = State::Schedule { full_at: 1_285_714_285, fraction: 5 };
        assert_eq!(give_back(&limit, two.clone(), &two, 1), charged);
    }
}
