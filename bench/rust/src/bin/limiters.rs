//! Keyed checks in one process: `tollway` against `governor`, both by string keys.
//!
//! Prints one JSON object: for each case and library, nanoseconds a check, one number a round.
//! Rounds of the two are interleaved. `limiters ROUNDS CHECKS`.

use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use tollway::{Algorithm, Charge, FailMode, Limiter, Policy};
use tollway_stores::memory::MemoryStore;

const KEYS: usize = 1_000_000;

/// A stream of keys and the rate that they meet.
struct Case {
    name: &'static str,
    rate: &'static str,
    quota: Quota,
    keys: Vec<u32>,
}

/// A small generator with a fixed seed, so that every run sees the same keys.
struct Xorshift(u64);

impl Xorshift {
    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// `count` numbers below [`KEYS`], the n-th as frequent as 1/n.
fn zipf(count: usize) -> Vec<u32> {
    let mut random = Xorshift(0x9E37_79B9_7F4A_7C15);
    let mut shares: Vec<f64> = Vec::with_capacity(KEYS);
    let mut sum = 0.0;
    for rank in 1..=KEYS {
        sum += 1.0 / rank as f64;
        shares.push(sum);
    }
    (0..count)
        .map(|_| {
            let wanted = random.unit() * sum;
            shares.partition_point(|&share| share < wanted) as u32
        })
        .collect()
}

fn cases(checks: usize) -> Vec<Case> {
    let plenty = NonZeroU32::new(1_000_000_000).expect("not zero");
    let one = NonZeroU32::MIN;
    let spread = zipf(checks);
    let case = |name, rate, quota, keys| Case { name, rate, quota, keys };
    vec![
        case("one key, allowed", "1000000000/s", Quota::per_second(plenty), vec![0; checks]),
        case("one key, refused", "1/h", Quota::per_hour(one), vec![0; checks]),
        case("Zipf over 1 M keys, allowed", "1000000000/s", Quota::per_second(plenty), spread.clone()),
        case("Zipf over 1 M keys, refused", "1/h", Quota::per_hour(one), spread),
    ]
}

/// Nanoseconds a check.
fn timed(keys: &[u32], mut check: impl FnMut(usize) -> bool) -> f64 {
    let began = Instant::now();
    let mut passed = 0_u64;
    for &key in keys {
        passed += u64::from(check(key as usize));
    }
    black_box(passed);
    began.elapsed().as_nanos() as f64 / keys.len() as f64
}

fn rounds(case: &Case, names: &[String], count: usize) -> [Vec<f64>; 2] {
    let policy = Arc::new(Policy::new("bench", case.rate, Algorithm::Gcra).expect("a rate that reads"));
    let tollway = Limiter::new(Arc::new(MemoryStore::new(2 * KEYS)), FailMode::Closed);
    let governor: DefaultKeyedRateLimiter<String> = RateLimiter::keyed(case.quota);
    let mut found = [Vec::new(), Vec::new()];
    // One unmeasured round fills both tables.
    for round in 0..=count {
        let ours = timed(&case.keys, |key| {
            let charges = [Charge { policy: &policy, key: &names[key], cost: 1 }];
            tollway.check_now(&charges).is_some_and(|answer| answer.is_ok_and(|decision| decision.allowed))
        });
        let theirs = timed(&case.keys, |key| governor.check_key(&names[key]).is_ok());
        if round > 0 {
            found[0].push(ours);
            found[1].push(theirs);
        }
    }
    found
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<usize>().expect("a whole number"));
    let count = arguments.next().unwrap_or(5);
    let checks = arguments.next().unwrap_or(1_000_000);
    let names: Vec<String> =
        (0..KEYS).map(|key| format!("10.{}.{}.{}", key >> 16, key >> 8 & 255, key & 255)).collect();
    let rows: Vec<String> = cases(checks)
        .iter()
        .map(|case| {
            let [ours, theirs] = rounds(case, &names, count);
            format!("{:?}: {{\"tollway\": {ours:?}, \"governor\": {theirs:?}}}", case.name)
        })
        .collect();
    println!("{{{}}}", rows.join(", "));
}
