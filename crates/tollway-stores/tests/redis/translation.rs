//! The algorithms in Lua, called directly, against their originals: every edge can be met exactly,
//! which a running clock does not allow.

use tollway_core::{Algorithm, Align, Bucket, Limit, Part, Rate, State, Timestamp, decide, decide_one};

use super::servers::Redis;

const SOURCE: &str = concat!(
    include_str!("../../src/redis/scripts/arithmetic.lua"),
    include_str!("../../src/redis/scripts/fixed_window.lua"),
    include_str!("../../src/redis/scripts/sliding_window.lua"),
    "local answers = {}
     for i = 1, #ARGV, 3 do
       local weight = weigh(tonumber(ARGV[i]), tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]))
       answers[#answers + 1] = string.format('%.0f', weight)
     end
     return answers",
);

const ALGORITHMS: &str = concat!(
    "local more = {} local match = string.match ",
    include_str!("../../src/redis/scripts/arithmetic.lua"),
    include_str!("../../src/redis/scripts/schedule.lua"),
    include_str!("../../src/redis/scripts/bucket.lua"),
    include_str!("../../src/redis/scripts/fixed_window.lua"),
    include_str!("../../src/redis/scripts/calendar.lua"),
    include_str!("../../src/redis/scripts/sliding_window.lua"),
    "local runs = { b = schedule, w = fixed_window, f = fixed_window, s = sliding_window, c = calendar }
     local answers = {}
     for i = 1, #ARGV, 23 do
       local n = {}
       for j = 1, 22 do
         n[j] = tonumber(ARGV[i + j])
       end
       local limit = { permits = n[1], period = n[2], capacity = n[3], span = n[4], span_fraction = n[5],
         tolerance = n[6], tolerance_fraction = n[7], aligned = ARGV[i] == 'w', step = n[13] > 0 and n[13] or nil,
         lacking = n[14], lacking_fraction = n[15], edges = { n[17], n[18], n[19], n[20], n[21], n[22] } }
       local start = n[10] >= 0 and n[10] or nil
       local fits, _, a, b, c = runs[ARGV[i]](limit, n[8], n[9], start, n[11], n[12])
       if not fits and n[16] == 1 then
         fits, a, b = more.rest(limit, n[8], start, n[11])
       end
       answers[#answers + 1] = fits and string.format('%.0f %.0f %.0f', a, b, c or 0) or 'refused'
     end
     return answers",
);

const NOW: u64 = 1_700_000_000_000_123;

struct Case {
    limit: Limit,
    state: Option<State>,
    now: u64,
    cost: u32,
}

/// A length of time in microseconds and 1/permits of one.
fn micros(limit: &Limit, count: u32) -> (u64, u64) {
    let units = u128::from(count) * u128::from(limit.period() / 1_000);
    let permits = u128::from(limit.permits());
    ((units / permits) as u64, (units % permits) as u64)
}

impl Case {
    fn words(&self) -> Vec<String> {
        let limit = &self.limit;
        let kind = match limit.algorithm() {
            Algorithm::Gcra | Algorithm::TokenBucket | Algorithm::LeakyBucket(_) => "b",
            Algorithm::FixedWindow(Align::Clock) => "w",
            Algorithm::FixedWindow(Align::First) => "f",
            Algorithm::SlidingWindow => "s",
            Algorithm::Calendar => "c",
            other => unreachable!("{other} is met in logs of its own"),
        };
        let (span, tolerance) = (micros(limit, self.cost.min(limit.capacity())), micros(limit, limit.capacity()));
        let (a, b, c) = self.state.clone().map_or((-1, 0, 0), |state| fields(limit, state));
        let bucket = limit.bucket();
        let lacking = micros(limit, bucket.initial.map_or(0, |initial| limit.capacity() - initial));
        let mut words = vec![
            kind.to_owned(),
            limit.permits().to_string(),
            (limit.period() / 1_000).to_string(),
            limit.capacity().to_string(),
            span.0.to_string(),
            span.1.to_string(),
            tolerance.0.to_string(),
            tolerance.1.to_string(),
            self.now.to_string(),
            self.cost.to_string(),
            a.to_string(),
            b.to_string(),
            c.to_string(),
            (bucket.refill_every / 1_000).to_string(),
            lacking.0.to_string(),
            lacking.1.to_string(),
            u8::from(bucket.partial).to_string(),
        ];
        words.extend(self.edges().iter().map(u64::to_string));
        words
    }

    /// The calendar periods around: the one before, this one, and three after.
    fn edges(&self) -> [u64; 6] {
        let Some((start, mut end)) = self.limit.calendar_window(self.now * 1_000) else { return [0; 6] };
        let before = self.limit.calendar_window(start - 1).expect("a calendar limit").0;
        let mut edges = [before, start, end, 0, 0, 0];
        for edge in &mut edges[3..] {
            end = self.limit.calendar_window(end).expect("a calendar limit").1;
            *edge = end;
        }
        edges.map(|edge| edge / 1_000)
    }

    /// What the original answers, spelled as the script spells it.
    fn expected(&self) -> String {
        let part = Part { limit: &self.limit, state: self.state.clone(), cost: self.cost, charge: 0, index: 0 };
        let (decision, mut states) = decide(&mut [part], Timestamp::from_micros(self.now));
        let (a, b, c) = fields(&self.limit, states.pop().expect("a state"));
        if decision.allowed { format!("{a} {b} {c}") } else { "refused".to_owned() }
    }
}

/// A state's numbers in microseconds.
fn fields(limit: &Limit, state: State) -> (i64, u64, u64) {
    let (a, b, c) = match state {
        State::Schedule { full_at, fraction } => {
            let permits = u128::from(limit.permits());
            let units = (u128::from(full_at) * permits + u128::from(fraction)) / 1_000;
            ((units / permits) as u64, (units % permits) as u64, 0)
        }
        State::Window { start, count } => (start / 1_000, u64::from(count), 0),
        State::Sliding { start, current, previous } => (start / 1_000, u64::from(current), u64::from(previous)),
        State::Log(_) | State::Custom(_) => unreachable!("no such limit here"),
    };
    (a as i64, b, c)
}

/// Times around every edge of a limit, states at each of them, costs around what is left.
fn edges(limit: &Limit) -> Vec<Case> {
    let (period, capacity) = (limit.period() / 1_000, limit.capacity());
    let around = |at: u64| [at.saturating_sub(1), at, at + 1];
    let bucket = matches!(limit.algorithm(), Algorithm::Gcra | Algorithm::TokenBucket | Algorithm::LeakyBucket(_));
    let reach = if bucket { micros(limit, capacity).0 } else { period };
    let starts = [0, reach / 2, reach, 2 * reach].map(|gap| [NOW - gap, NOW + gap]).concat();
    let mut states = vec![None];
    for start in starts.into_iter().flat_map(around) {
        let aligned = (start - start % period) * 1_000;
        for count in [0, 1, capacity / 2, capacity - 1, capacity, capacity + 1] {
            match limit.algorithm() {
                Algorithm::Gcra | Algorithm::TokenBucket | Algorithm::LeakyBucket(_) => {
                    let permits = u64::from(limit.permits());
                    let fraction = u64::from(count) % permits * 1_000;
                    let full_at = start * 1_000 + fraction / permits;
                    states.push(Some(State::Schedule { full_at, fraction: (fraction % permits) as u32 }));
                    // Exactly so much spent, and so much owed.
                    for whole in [0, capacity] {
                        let spent = u128::from(count) + u128::from(whole);
                        let units = spent * u128::from(limit.period() / 1_000) + u128::from(NOW) * u128::from(permits);
                        let nanos = units * 1_000;
                        let full_at = (nanos / u128::from(permits)) as u64;
                        let fraction = (nanos % u128::from(permits)) as u32;
                        states.push(Some(State::Schedule { full_at, fraction }));
                    }
                }
                Algorithm::FixedWindow(Align::First) => {
                    states.push(Some(State::Window { start: start * 1_000, count }))
                }
                Algorithm::FixedWindow(Align::Clock) => states.push(Some(State::Window { start: aligned, count })),
                Algorithm::Calendar => {
                    let (aligned, _) = limit.calendar_window(start * 1_000).expect("a calendar limit");
                    states.push(Some(State::Window { start: aligned, count }));
                    // As other rules for a zone would have it.
                    states.push(Some(State::Window { start: start * 1_000, count }));
                }
                Algorithm::SlidingWindow => {
                    for previous in [0, 1, capacity] {
                        states.push(Some(State::Sliding { start: aligned, current: count, previous }));
                    }
                }
                other => unreachable!("{other} is met in logs of its own"),
            }
        }
    }
    let mut cases = Vec::new();
    for state in states {
        let turn = limit.calendar_window(NOW * 1_000).map_or(NOW - NOW % period, |(start, _)| start / 1_000);
        let before = if limit.algorithm() == Algorithm::Calendar { turn - 1 } else { turn };
        for now in [NOW, turn, turn + period / 3, before] {
            let left = decide_one(limit, state.clone(), Timestamp::from_micros(now), 0).0.remaining;
            for cost in [0, 1, left.saturating_sub(1), left, left + 1, capacity, capacity + 1] {
                cases.push(Case { limit: limit.clone(), state: state.clone(), now, cost });
            }
        }
    }
    cases
}

fn limits() -> Vec<Limit> {
    let mut limits = Vec::new();
    for algorithm in Algorithm::all().into_iter().filter(|algorithm| !algorithm.is_log()) {
        if algorithm == Algorithm::Calendar {
            for text in [
                "7/day America/New_York",
                "1/week UTC",
                "1000000000/month Europe/Berlin",
                "3/year",
                "2/day Africa/Cairo",
            ] {
                limits.push(Limit::new(text.parse().expect("a legal rate"), algorithm).expect("a legal limit"));
            }
            continue;
        }
        for (permits, period_ms) in
            [(1, 1), (7, 1_000), (3, 10), (1_000_000_000, 1), (999_999_937, 366 * 86_400_000), (1, 366 * 86_400_000)]
        {
            let rate = Rate::new(permits, period_ms * 1_000_000, 0).expect("a legal rate");
            limits.push(Limit::new(rate, algorithm).expect("a legal limit"));
            if algorithm == Algorithm::TokenBucket {
                limits.extend(buckets(permits, period_ms));
            }
        }
    }
    limits
}

/// Buckets with options of their own; bursts make them hold more than a period earns.
fn buckets(permits: u32, period_ms: u64) -> Vec<Limit> {
    let mut limits = Vec::new();
    for burst in [0, permits] {
        let rate = Rate::new(permits, period_ms * 1_000_000, burst).expect("a legal rate");
        let limit = Limit::new(rate, Algorithm::TokenBucket).expect("a legal limit");
        let plain = Bucket { partial: true, ..Bucket::default() };
        for bucket in [
            plain,
            Bucket { refill_every: limit.period() / 3_000_000 * 1_000_000, ..plain },
            Bucket { refill_every: limit.period(), initial: Some(limit.capacity() / 2), ..plain },
            Bucket { initial: Some(0), partial: false, ..plain },
            Bucket { initial: Some(limit.capacity() / 3), refill_every: 1_000_000, ..plain },
        ] {
            limits.push(limit.clone().with_bucket(bucket).expect("a legal bucket"));
        }
    }
    limits
}

#[test]
fn the_algorithms_are_translated_to_the_last_unit() {
    let server = Redis::start();
    let mut connection = server.connection();
    let mut cases = Vec::new();
    for limit in limits() {
        cases.extend(edges(&limit));
    }
    let mut pipeline = redis::pipe();
    for some in cases.chunks(500) {
        pipeline.cmd("EVAL").arg(ALGORITHMS).arg(0).arg(some.iter().flat_map(Case::words).collect::<Vec<_>>());
    }
    let answers: Vec<Vec<String>> = pipeline.query(&mut connection).expect("the script runs");
    let answers = answers.concat();
    assert_eq!(answers.len(), cases.len());
    let refused = answers.iter().filter(|answer| *answer == "refused").count();
    assert!(refused > 1_000 && cases.len() - refused > 1_000, "{refused} of {} refused", cases.len());
    for (case, answer) in cases.iter().zip(answers) {
        let Case { limit, state, now, cost } = case;
        assert_eq!(answer, case.expected(), "{} {state:?} at {now} µs, cost {cost}", limit.rate());
    }
}

/// 366 days in microseconds.
const LONGEST: u64 = 366 * 86_400 * 1_000_000;

fn cases() -> Vec<(u64, u64, u64)> {
    let mut cases = Vec::new();
    for count in [1, 2, 127, 128, 999_999_999, 1_000_000_000, u64::from(u32::MAX)] {
        for period in [1_000, 60_000_000, LONGEST - 1_000, LONGEST] {
            for left in [1, 2, period / 3, period / 2, period - 1, period] {
                cases.push((count, left, period));
            }
        }
    }
    let mut dice = 0x9E37_79B9_7F4A_7C15_u64;
    let mut below = |sides: u64| {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        (dice >> 3) % sides
    };
    for _ in 0..20_000 {
        // All magnitudes alike, so that both ways of computing and their border are met.
        let (bits, size) = (below(32), below(45));
        let count = 1 + below(1 << (bits + 1)).min(u64::from(u32::MAX) - 1);
        let period = 1_000 * (1 + below(1 << size).min(LONGEST / 1_000 - 1));
        cases.push((count, 1 + below(period), period));
    }
    // Remainders next to none and next to the whole, where rounding shows.
    for _ in 0..4_000 {
        let period = 1_000 * (1 + below(LONGEST / 1_000));
        let count = 2 + below(u64::from(u32::MAX) - 2);
        if let Some(inverse) = inverse(count, period) {
            for rest in [1, 2, period - 1] {
                let left = (u128::from(inverse) * u128::from(rest) % u128::from(period)) as u64;
                cases.push((count, left.max(1), period));
            }
        }
    }
    // Products around 2^53, where a double begins to lose units.
    for _ in 0..5_000 {
        let period = 1_000 * (1 + below(LONGEST / 1_000));
        let left = 1 + below(period);
        let count = ((1_u64 << 53) / left + below(3)).saturating_sub(1).clamp(1, u64::from(u32::MAX));
        cases.push((count, left, period));
    }
    cases
}

/// The number that times `count` leaves 1 when divided by `period`.
fn inverse(count: u64, period: u64) -> Option<u64> {
    let (mut a, mut b) = (i128::from(count % period), i128::from(period));
    let (mut x, mut y) = (1_i128, 0_i128);
    while b != 0 {
        let quotient = a / b;
        (a, b) = (b, a - quotient * b);
        (x, y) = (y, x - quotient * y);
    }
    (a == 1).then(|| x.rem_euclid(i128::from(period)) as u64)
}

#[test]
fn weights_are_exact() {
    let server = Redis::start();
    let mut connection = server.connection();
    let cases = cases();
    let mut pipeline = redis::pipe();
    for some in cases.chunks(500) {
        let call = pipeline.cmd("EVAL").arg(SOURCE).arg(0);
        for (count, left, period) in some {
            call.arg(count).arg(left).arg(period);
        }
    }
    let answers: Vec<Vec<u64>> = pipeline.query(&mut connection).expect("the script runs");
    let answers: Vec<u64> = answers.concat();
    assert_eq!(answers.len(), cases.len());
    let mut long = 0;
    for ((count, left, period), answer) in cases.into_iter().zip(answers) {
        let product = u128::from(count) * u128::from(left);
        long += u32::from(product >= 1 << 53);
        assert_eq!(u128::from(answer), product.div_ceil(u128::from(period)), "{count} × {left} / {period}");
    }
    assert!(long > 3_000, "the long way was taken {long} times");
}
