//! The laws, held on random traffic.

use proptest::prelude::*;

use super::*;
use crate::{Bucket, CalendarUnit, Change, Part, Rate, adjust_one, decide};

const START: u64 = 1_700_000_000_000_000_000;
const MS: u64 = 1_000_000;

fn limit(algorithm: Algorithm, permits: u32, period: u64, burst: u32) -> Limit {
    let burst = if algorithm.is_bucket() { burst } else { 0 };
    Limit::new(Rate::new(permits, period, burst).unwrap(), algorithm).unwrap()
}

/// The algorithms of fixed periods; calendars have tests of their own.
fn all() -> Vec<Algorithm> {
    Algorithm::all().into_iter().filter(|algorithm| *algorithm != Algorithm::Calendar).collect()
}

fn at(offset: u64) -> Timestamp {
    Timestamp::from_nanos(START + offset)
}

fn any_algorithm() -> impl Strategy<Value = Algorithm> {
    prop::sample::select(all())
}

/// Small limits, so that random traffic meets them; odd numbers, so that nothing divides.
fn any_limit() -> impl Strategy<Value = Limit> {
    (any_algorithm(), 1_u32..12, 1_u64..40, 0_u32..5)
        .prop_map(|(a, permits, ms, burst)| limit(a, permits, ms * MS, burst))
}

/// Gaps between requests in nanoseconds, and costs.
fn any_traffic() -> impl Strategy<Value = Vec<(u64, u32)>> {
    prop::collection::vec((prop_oneof![Just(0), 0..3 * MS, 0..60 * MS], 0_u32..4), 1..80)
}

/// What passed: when, and how much.
fn run(limit: &Limit, traffic: &[(u64, u32)]) -> Vec<(u64, u64)> {
    let (mut now, mut state, mut passed) = (0, None, Vec::new());
    for &(gap, cost) in traffic {
        now += gap;
        let (verdict, next) = decide_one(limit, state.clone(), at(now), cost);
        if verdict.allowed && cost > 0 {
            state = Some(next);
            passed.push((now, u64::from(cost)));
        }
    }
    passed
}

/// The most that passed within any `span` of time that starts at a passed request.
fn densest(passed: &[(u64, u64)], span: u64) -> u64 {
    let within = |from: u64| passed.iter().filter(|(t, _)| *t >= from && *t - from < span).map(|(_, c)| c).sum();
    passed.iter().map(|(t, _)| within(*t)).max().unwrap_or(0)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn no_span_admits_more_than_the_bound(limit in any_limit(), traffic in any_traffic(), factor in 1_u64..5) {
        let passed = run(&limit, &traffic);
        let (permits, capacity, period) = (u64::from(limit.permits()), u64::from(limit.capacity()), limit.period());
        match limit.algorithm() {
            Algorithm::Gcra | Algorithm::TokenBucket | Algorithm::LeakyBucket(_) => {
                let span = period * factor / 2;
                let bound = capacity + (span * permits).div_ceil(period);
                prop_assert!(densest(&passed, span) <= bound);
            }
            Algorithm::SlidingLog | Algorithm::Concurrency => prop_assert!(densest(&passed, period) <= permits),
            Algorithm::FixedWindow(Align::First) => prop_assert!(densest(&passed, period) <= 2 * permits),
            _ => {
                for window in passed.iter().map(|(t, _)| (START + t) / period) {
                    let in_window: u64 = passed.iter().filter(|(t, _)| (START + t) / period == window).map(|(_, c)| c).sum();
                    prop_assert!(in_window <= permits);
                }
                prop_assert!(densest(&passed, period) <= 2 * permits);
            }
        }
    }

    #[test]
    fn retry_after_is_the_first_instant_that_passes(limit in any_limit(), traffic in any_traffic()) {
        let (mut now, mut state) = (0, None);
        for (gap, cost) in traffic {
            now += gap;
            let (verdict, next) = decide_one(&limit, state.clone(), at(now), cost);
            if verdict.allowed {
                state = Some(next);
            } else if cost > limit.capacity() {
                prop_assert_eq!(verdict.retry_after, NEVER);
            } else {
                prop_assert!(verdict.retry_after > 0);
                prop_assert!(decide_one(&limit, state.clone(), at(now + verdict.retry_after), cost).0.allowed);
                prop_assert!(!decide_one(&limit, state.clone(), at(now + verdict.retry_after - 1), cost).0.allowed);
            }
        }
    }

    #[test]
    fn reset_after_is_the_first_instant_with_nothing_spent(limit in any_limit(), traffic in any_traffic()) {
        let (mut now, mut state) = (0, None);
        for (gap, cost) in traffic {
            now += gap;
            let (verdict, next) = decide_one(&limit, state.clone(), at(now), cost);
            state = verdict.allowed.then_some(next).or(state);
            let full = |after: u64| decide_one(&limit, state.clone(), at(now + after), 0).0.remaining == limit.capacity();
            prop_assert!(full(verdict.reset_after));
            if verdict.reset_after > 0 && !matches!(limit.algorithm(), Algorithm::SlidingWindow) {
                prop_assert!(!full(verdict.reset_after - 1) || matches!(limit.algorithm(), Algorithm::Gcra | Algorithm::TokenBucket | Algorithm::LeakyBucket(_)));
            }
        }
    }

    #[test]
    fn a_refusal_changes_nothing_and_remaining_is_what_fits(limit in any_limit(), traffic in any_traffic()) {
        let (mut now, mut state) = (0, None);
        for (gap, cost) in traffic {
            now += gap;
            let (verdict, next) = decide_one(&limit, state.clone(), at(now), cost);
            if !verdict.allowed {
                for later in [0, 1, MS / 3, 7 * MS] {
                    let (kept, _) = decide_one(&limit, Some(next.clone()), at(now + later), cost);
                    prop_assert_eq!(kept, decide_one(&limit, state.clone(), at(now + later), cost).0);
                }
                prop_assert!(verdict.remaining < cost);
                prop_assert!(decide_one(&limit, state.clone(), at(now), verdict.remaining).0.allowed);
            } else {
                state = Some(next);
                prop_assert!(decide_one(&limit, state.clone(), at(now), verdict.remaining).0.allowed);
                if verdict.remaining < limit.capacity() {
                    prop_assert!(!decide_one(&limit, state.clone(), at(now), verdict.remaining + 1).0.allowed);
                }
            }
        }
    }

    #[test]
    fn time_that_goes_back_neither_frees_nor_locks(limit in any_limit(), traffic in any_traffic(), back in 1..200 * MS) {
        let (mut now, mut state) = (400 * MS, None);
        for (gap, cost) in traffic {
            now += gap;
            let (verdict, next) = decide_one(&limit, state.clone(), at(now), cost);
            state = verdict.allowed.then_some(next).or(state);
        }
        let full = decide_one(&limit, state.clone(), at(now), 0).0.remaining;
        let (early, state) = decide_one(&limit, state.clone(), at(now - back), 0);
        prop_assert!(early.remaining <= full, "freed {} to {}: {:?}", full, early.remaining, limit);
        let lifetime = 2 * limit.lifetime() + limit.period();
        let later = decide_one(&limit, Some(state), at(now - back + lifetime), 0).0;
        prop_assert_eq!(later.remaining, limit.capacity(), "locked");
    }

    #[test]
    fn what_is_given_back_was_never_spent(limit in any_limit(), traffic in any_traffic(), cost in 1_u32..12, actual in 0_u32..12) {
        // A reservation that is settled at its actual cost leaves what that cost alone would have left.
        let cost = cost.min(limit.capacity());
        let actual = actual.min(cost);
        let (mut now, mut state) = (0, None);
        for (gap, cost) in traffic {
            now += gap;
            let (verdict, next) = decide_one(&limit, state.clone(), at(now), cost);
            state = verdict.allowed.then_some(next).or(state);
        }
        let (reserved, held) = decide_one(&limit, state.clone(), at(now), cost);
        if reserved.allowed {
            let settled = adjust_one(&limit, Some(held.clone()), at(now), Change::by(i64::from(actual) - i64::from(cost))).1;
            let (exact, direct) = decide_one(&limit, state.clone(), at(now), actual);
            let told = |state: &State| decide_one(&limit, Some(state.clone()), at(now), 0).0;
            prop_assert_eq!(told(&settled), told(&direct));
            prop_assert!(exact.allowed);
        }
    }

    #[test]
    fn what_is_owed_is_earned_back_first(limit in any_limit(), over in 1_u32..12) {
        let over = over.min(limit.capacity());
        let origin = START - START % limit.period();
        let now = Timestamp::from_nanos(origin);
        let (_, full) = decide_one(&limit, None, now, limit.capacity());
        let owing = adjust_one(&limit, Some(full.clone()), now, Change::Charge(over)).1;
        let verdict = decide_one(&limit, Some(owing.clone()), now, 1).0;
        let plain = decide_one(&limit, Some(full.clone()), now, 1).0;
        prop_assert!(!verdict.allowed && verdict.remaining == 0);
        prop_assert!(verdict.retry_after >= plain.retry_after);
        prop_assert!(decide_one(&limit, Some(owing.clone()), now.plus(verdict.retry_after), 1).0.allowed);
        prop_assert!(verdict.reset_after >= plain.reset_after);
        let freed = adjust_one(&limit, Some(owing.clone()), now, Change::Refund(2 * limit.capacity())).1;
        prop_assert_eq!(decide_one(&limit, Some(freed.clone()), now, 0).0.remaining, limit.capacity());
    }

    #[test]
    fn all_or_nothing(limits in prop::collection::vec(any_limit(), 1..5), traffic in any_traffic()) {
        let mut states: Vec<Option<State>> = vec![None; limits.len()];
        let mut now = 0;
        for (gap, cost) in traffic {
            now += gap;
            let parts: Vec<_> = limits.iter().zip(&states).enumerate()
                .map(|(i, (limit, state))| Part { limit, state: state.clone(), cost, charge: 0, index: i as u16 }).collect();
            let (decision, next) = decide(&mut parts.clone(), at(now));
            let alone: Vec<_> = parts.iter().map(|p| decide_one(p.limit, p.state.clone(), at(now), cost).0).collect();
            prop_assert_eq!(decision.allowed, alone.iter().all(|v| v.allowed));
            let longest = alone.iter().map(|v| v.retry_after).max().unwrap();
            prop_assert_eq!(decision.retry_after, longest);
            if decision.allowed {
                prop_assert_eq!(decision.remaining, alone.iter().map(|v| v.remaining).min().unwrap());
                for (state, next) in states.iter_mut().zip(next) { *state = Some(next); }
            } else {
                for (part, next) in parts.iter().zip(next) {
                    let before = decide_one(part.limit, part.state.clone(), at(now), 0).0;
                    prop_assert_eq!(before, decide_one(part.limit, Some(next.clone()), at(now), 0).0);
                }
            }
        }
    }

    #[test]
    fn a_changed_rate_keeps_the_share(old in any_limit(), new in any_limit(), used in 0_u32..12) {
        let used = used.min(old.capacity());
        let state = new.spent(used, old.capacity(), at(0));
        let left = decide_one(&new, Some(state), at(0), 0).0.remaining;
        let exact = (u64::from(new.capacity()) * u64::from(old.capacity() - used)) / u64::from(old.capacity());
        prop_assert_eq!(u64::from(left), exact);
    }
}

#[test]
fn n_periods_admit_n_times_the_rate() {
    // A client that takes every permit the moment it is there; numbers that do not divide.
    for (permits, period) in [(7, 1_000 * MS), (3, 10 * MS), (999_983, 1_000 * MS), (1_000_000_000, MS), (11, 13 * MS)]
    {
        for algorithm in all().into_iter().filter(|algorithm| permits <= algorithm.most_permits()) {
            let limit = limit(algorithm, permits, period, 0);
            let origin = START - START % period;
            let (mut now, mut state, mut total) = (origin, None, 0_u64);
            let end = origin + 20 * period;
            while now < end {
                let left = decide_one(&limit, state.clone(), Timestamp::from_nanos(now), 0).0.remaining;
                let (verdict, next) = decide_one(&limit, state.clone(), Timestamp::from_nanos(now), left.max(1));
                if verdict.allowed {
                    state = Some(next);
                    total += u64::from(left.max(1));
                    // Large rates would take a billion steps one by one.
                    now += if permits > 1_000 { period / 7 } else { 1 };
                } else {
                    now += verdict.retry_after;
                }
            }
            let rate = 20 * u64::from(permits);
            let capacity = u64::from(limit.capacity());
            match algorithm {
                Algorithm::Gcra | Algorithm::TokenBucket | Algorithm::LeakyBucket(_) => {
                    assert!(total <= rate + capacity, "{permits}/{period} {algorithm}: {total}");
                    assert!(
                        total + u64::from(permits).div_ceil(7) >= rate + capacity,
                        "{permits}/{period} {algorithm}: {total}"
                    );
                }
                Algorithm::SlidingWindow => assert!(total <= rate && total * 3 >= rate * 2, "{permits}: {total}"),
                _ => assert_eq!(total, rate, "{permits}/{period} {algorithm}"),
            }
        }
    }
}

#[test]
fn a_knocking_client_gets_its_fair_rate() {
    // 5 per 3 s, knocking each 0.2 s for 12 s.
    for algorithm in all() {
        let limit = limit(algorithm, 5, 3_000 * MS, 0);
        let origin = START - START % (3_000 * MS);
        let (mut state, mut passed) = (None, 0);
        for knock in 0..60 {
            let (verdict, next) =
                decide_one(&limit, state.clone(), Timestamp::from_nanos(origin + knock * 200 * MS), 1);
            if verdict.allowed {
                state = Some(next);
                passed += 1;
            }
        }
        assert!((17..=25).contains(&passed), "{algorithm}: {passed}");
    }
}

#[test]
fn the_extremes_neither_round_to_zero_nor_to_unlimited() {
    let year = 365 * 86_400 * 1_000 * MS;
    for (permits, period) in [(1, MS), (1_000_000_000, MS), (1, year), (1_000_000_000, year)] {
        for algorithm in all().into_iter().filter(|algorithm| permits <= algorithm.most_permits()) {
            let limit = limit(algorithm, permits, period, 0);
            let (first, state) = decide_one(&limit, None, at(0), permits);
            assert!(first.allowed, "{permits}/{period} {algorithm}");
            assert_eq!(first.remaining, 0);
            let (second, _) = decide_one(&limit, Some(state), at(0), 1);
            assert!(!second.allowed, "{permits}/{period} {algorithm}");
            assert!(second.retry_after > 0);
        }
    }
}

#[test]
fn a_queue_lets_requests_leave_one_interval_apart() {
    let policy = crate::Policy::new("p", "7/s burst 3", Algorithm::LeakyBucket(Leak::Queue)).unwrap();
    let limit = &policy.limits()[0];
    let (mut state, mut leaves) = (None, Vec::new());
    for step in 0..40 {
        let now = at(step * 90 * MS);
        let part = Part { limit, state: state.take(), cost: 1, charge: 0, index: 0 };
        let (decision, mut next) = decide(&mut [part], now);
        state = next.pop();
        if decision.allowed {
            leaves.push(now.plus(decision.delay(&policy)).nanos());
        }
    }
    assert!(leaves.len() > 20);
    for pair in leaves.windows(2) {
        assert!(pair[1] - pair[0] >= 142_857_142, "{pair:?}");
    }
}

proptest! {
    #[test]
    fn what_is_judged_is_what_is_decided(limit in any_limit(), traffic in any_traffic(), cost in 0_u32..14, back in 0..90 * MS) {
        let (mut now, mut state) = (100 * MS, None);
        for (gap, cost) in traffic {
            now += gap;
            state = Some(decide_one(&limit, state, at(now), cost).1);
        }
        let now = at(now - back.min(now));
        prop_assert_eq!(judge_one(&limit, state.as_ref(), now, cost), decide_one(&limit, state, now, cost).0);
    }

    #[test]
    fn held_permits_are_never_more_than_the_limit(steps in prop::collection::vec((0_u8..3, 0..9 * MS, 1_u32..4), 1..120)) {
        // Holders that take, renew and give back at random, against a list of who holds what until when.
        let limit = limit(Algorithm::Concurrency, 7, 20 * MS, 0);
        let (mut now, mut state, mut holders) = (0, None, Vec::<(u64, u32)>::new());
        for (step, gap, cost) in steps {
            now += gap;
            holders.retain(|(since, _)| since + 20 * MS > now);
            let held: u32 = holders.iter().map(|(_, cost)| cost).sum();
            match (step, holders.pop()) {
                (1, Some((since, cost))) => {
                    let (_, next) = adjust_one(&limit, state, at(now), Change::Release { since: at(since), cost });
                    state = Some(next);
                }
                (2, Some((since, cost))) => {
                    let (done, next) = adjust_one(&limit, state, at(now), Change::Renew { since: at(since), cost });
                    prop_assert!(done);
                    state = Some(next);
                    holders.push((now, cost));
                }
                (_, last) => {
                    holders.extend(last);
                    let (verdict, next) = decide_one(&limit, state, at(now), cost);
                    prop_assert_eq!(verdict.allowed, held + cost <= 7);
                    if verdict.allowed {
                        holders.push((now, cost));
                    }
                    state = Some(next);
                }
            }
            let held: u32 = holders.iter().map(|(_, cost)| cost).sum();
            prop_assert_eq!(judge_one(&limit, state.as_ref(), at(now), 0).remaining, 7 - held);
        }
    }

    #[test]
    fn lumps_come_late_but_never_early(
        permits in 1_u32..30, lump_ms in 1_u64..20, traffic in any_traffic(), initial in prop::option::of(0_u32..30)
    ) {
        let plain = limit(Algorithm::TokenBucket, permits, 40 * MS, 0);
        let initial = initial.map(|initial| initial.min(permits));
        let bucket = Bucket { refill_every: lump_ms * MS, initial, ..Bucket::default() };
        let lumpy = plain.clone().with_bucket(bucket).unwrap();
        let (mut now, mut state, mut passed) = (0, None, Vec::new());
        for (gap, cost) in traffic {
            now += gap;
            let (verdict, next) = decide_one(&lumpy, state.clone(), at(now), cost);
            if verdict.allowed {
                state = Some(next);
                passed.push((now, u64::from(cost)));
            } else if verdict.retry_after != NEVER {
                // A refused newcomer is remembered where the bucket does not begin full.
                state = Some(next);
                let then = now + verdict.retry_after;
                prop_assert!(decide_one(&lumpy, state.clone(), at(then), cost).0.allowed);
                prop_assert!(!decide_one(&lumpy, state.clone(), at(then - 1), cost).0.allowed);
            }
        }
        // A lump more than evenly, in any span.
        for span in [lump_ms * MS, 40 * MS, 100 * MS] {
            let bound = u64::from(permits) + ((span + lump_ms * MS) * u64::from(permits)).div_ceil(40 * MS);
            prop_assert!(densest(&passed, span) <= bound);
        }
        let first = passed.iter().take_while(|(t, _)| *t == passed[0].0).map(|(_, c)| c).sum::<u64>();
        prop_assert!(first <= u64::from(initial.unwrap_or(permits)) || passed[0].0 > 0);
    }
}

#[test]
fn a_bucket_that_serves_in_part_gives_what_is_there() {
    let bucket = Bucket { partial: true, ..Bucket::default() };
    let limit = limit(Algorithm::TokenBucket, 10, 1_000 * MS, 0).with_bucket(bucket).unwrap();
    let ask = |state: Option<State>, cost| {
        let (decision, mut next) = decide(&mut [Part { limit: &limit, state, cost, charge: 0, index: 0 }], at(0));
        (decision, next.pop())
    };
    let (most, state) = ask(None, 25);
    assert_eq!((most.allowed, most.cost, most.remaining), (true, 10, 0));
    let (none, _) = ask(state, 25);
    assert_eq!((none.allowed, none.cost, none.reason), (false, 25, crate::Reason::CostAboveLimit));
}

#[test]
fn a_calendar_quota_holds_from_edge_to_edge() {
    let rate = Rate::calendar(3, CalendarUnit::Month, Some("Europe/Berlin")).unwrap();
    let limit = Limit::new(rate, Algorithm::Gcra).unwrap();
    assert_eq!(limit.algorithm(), Algorithm::Calendar);
    // 31 January 2024, 22:59:59 UTC: a second before February begins in Berlin.
    let late = Timestamp::from_secs(1_706_741_999);
    let (verdict, state) = decide_one(&limit, None, late, 3);
    assert!(verdict.allowed);
    let (refused, state) = decide_one(&limit, Some(state), late, 1);
    assert_eq!((refused.allowed, refused.retry_after), (false, 1_000_000_000));
    // February 2024 has 29 days there.
    let (fresh, state) = decide_one(&limit, Some(state), late.plus(1_000_000_000), 1);
    assert_eq!((fresh.allowed, fresh.remaining, fresh.reset_after), (true, 2, 29 * 86_400_000_000_000));
    // The clock goes back an hour into January: what is spent stays spent.
    let (back, _) = decide_one(&limit, Some(state), late, 0);
    assert_eq!(back.remaining, 2);
}
