//! Keyed checks in one process: `tollway` against `governor`, both by string keys.
//!
//! Prints one JSON object: for each case and library, nanoseconds a check, one number a round, and
//! the bytes of memory a key takes. Rounds of the two are interleaved. `limiters ROUNDS CHECKS`.

use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use tollway::{Algorithm, Charge, FailMode, Limiter, Policy};
use tollway_bench::spent;
use tollway_stores::memory::MemoryStore;

const KEYS: usize = 1_000_000;
/// Keys written at a time, before the time is taken: a server has them fresh in its cache.
const BATCH: usize = 256;

type Check<'a> = &'a (dyn Fn(&String) -> bool + Sync);

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

/// Writes the key of a rank; nothing about it says how often it comes.
fn write(key: &mut String, rank: u32) {
    use std::fmt::Write;
    key.clear();
    write!(key, "user:{:010}", rank.wrapping_mul(2_654_435_761)).expect("a string takes all");
}

/// Bytes of memory in use by this process.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    text.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("pages") * 4096
}

/// Nanoseconds a check of one thread of `threads`, which walk the ranks from places of their own.
fn timed(threads: usize, ranks: &[u32], check: Check<'_>) -> f64 {
    let barrier = Barrier::new(threads);
    let walk = |thread: usize| {
        let from = thread * ranks.len() / threads;
        let mut keys = vec![String::with_capacity(32); BATCH];
        let (mut passed, mut took) = (0, Duration::ZERO);
        barrier.wait();
        for ranks in ranks[from..].chunks(BATCH).chain(ranks[..from].chunks(BATCH)) {
            keys.iter_mut().zip(ranks).for_each(|(key, rank)| write(key, *rank));
            let began = spent();
            passed += keys[..ranks.len()].iter().filter(|key| check(key)).count();
            took += spent() - began;
        }
        black_box(passed);
        took
    };
    let slowest = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|thread| scope.spawn(move || walk(thread))).collect();
        let own = walk(0);
        others.into_iter().map(|other| other.join().expect("no panic")).fold(own, Duration::max)
    });
    slowest.as_nanos() as f64 / ranks.len() as f64
}

/// Lets every key in; the bytes that each of them takes.
fn fill(check: Check<'_>) -> f64 {
    let before = resident();
    let mut key = String::new();
    for rank in 0..KEYS as u32 {
        write(&mut key, rank);
        check(&key);
    }
    resident().saturating_sub(before) as f64 / KEYS as f64
}

fn show(case: &str, found: &[Vec<f64>; 2], bytes: [f64; 2]) -> String {
    let [ours, theirs] = found;
    format!(
        "{case:?}: {{\"tollway\": {{\"ns\": {ours:?}, \"bytes\": {}}}, \"governor\": {{\"ns\": {theirs:?}, \"bytes\": {}}}}}",
        bytes[0], bytes[1]
    )
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<usize>().expect("a whole number"));
    let rounds = arguments.next().unwrap_or(5);
    let checks = arguments.next().unwrap_or(1_000_000);
    let (spread, hot) = (zipf(checks), vec![0; checks]);
    let quota = |seconds, burst| {
        let burst = NonZeroU32::new(burst).expect("not zero");
        Quota::with_period(Duration::from_secs(seconds)).expect("not zero").allow_burst(burst)
    };
    let mut rows = Vec::new();
    // No key is done with before the run is: what is kept of it matters to every check.
    for (what, rate, quota) in
        [("allowed", "100/h burst 79999900", quota(36, 80_000_000)), ("refused", "10/h", quota(360, 10))]
    {
        let policy = Arc::new(Policy::new("bench", rate, Algorithm::Gcra).expect("a rate that reads"));
        let tollway = Limiter::new(Arc::new(MemoryStore::new(KEYS * 3 / 2)), FailMode::Closed);
        let governor: DefaultKeyedRateLimiter<String> = RateLimiter::keyed(quota);
        let ours: Check<'_> = &|key| {
            let charges = [Charge { policy: &policy, key, cost: 1 }];
            tollway.check_now(&charges).is_some_and(|answer| answer.is_ok_and(|decision| decision.allowed))
        };
        let theirs: Check<'_> = &|key| governor.check_key(key).is_ok();
        let bytes = [fill(ours), fill(theirs)];
        if what == "refused" {
            // Every key uses up what it has.
            for check in [ours; 10].into_iter().chain([theirs; 10]) {
                fill(check);
            }
        }
        for (ranks, threads, name) in [
            (&spread, 1, "Zipf(1.0) over 1 M keys, 1 thread"),
            (&spread, 2, "Zipf(1.0) over 1 M keys, 2 threads"),
            (&hot, 1, "one hot key, 1 thread"),
            (&hot, 2, "one hot key, 2 threads"),
        ] {
            let mut found = [Vec::new(), Vec::new()];
            for _ in 0..rounds {
                for (found, check) in found.iter_mut().zip([ours, theirs]) {
                    found.push(timed(threads, ranks, check));
                }
            }
            rows.push(show(&format!("{name}, {what}"), &found, if what == "allowed" { bytes } else { [0.0; 2] }));
        }
    }
    println!("{{{}}}", rows.join(", "));
}
