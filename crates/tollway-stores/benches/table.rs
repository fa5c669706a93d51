//! Nanoseconds a check, against governor with String keys, in one run.
//!
//! `cargo bench -p tollway-stores --bench table [-- quick]`. Every row is the median of nine rounds in
//! which the contestants take turns, because the machine is shared.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use governor::{Quota, RateLimiter};
use tollway_core::{Algorithm, Charge, Policy, Request, Store};
use tollway_stores::memory::MemoryStore;

const KEYS: usize = 1_000_000;
const ROUNDS: usize = 9;
/// Keys written at a time.
const BATCH: usize = 256;

/// Bytes of memory in use by this process.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    text.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("pages") * 4096
}

/// Ranks by Zipf's law with exponent 1, as an endless-looking list.
fn zipf(keys: usize, count: usize, mut seed: u64) -> Vec<u32> {
    let mut sums = Vec::with_capacity(keys);
    let mut sum = 0.0;
    for rank in 1..=keys {
        sum += 1.0 / rank as f64;
        sums.push(sum);
    }
    (0..count)
        .map(|_| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let at = (seed >> 11) as f64 / (1_u64 << 53) as f64 * sum;
            sums.partition_point(|sum| *sum < at) as u32
        })
        .collect()
}

/// Writes keys as a server has them: fresh in the cache, in a buffer that is used again.
struct Writer {
    digits: Vec<String>,
    key: String,
}

impl Writer {
    fn new() -> Self {
        Self { digits: (0..1_000).map(|number| format!("{number:03}")).collect(), key: String::with_capacity(32) }
    }

    fn key(&mut self, rank: u32) -> &String {
        // Nothing about a key says how often it comes.
        let number = rank.wrapping_mul(2_654_435_761) as usize;
        self.key.clear();
        self.key.push_str("user:");
        for part in [number / 1_000_000 % 1_000, number / 1_000 % 1_000, number % 1_000] {
            self.key.push_str(&self.digits[part]);
        }
        self.key.push_str(if number >= 2_000_000_000 { "b" } else { "a" });
        &self.key
    }
}

/// Nanoseconds a check on `threads` threads that each walk the list from a place of their own. Keys
/// are written some at a time, before the time is taken.
fn time(threads: usize, list: &[u32], check: Check<'_>) -> f64 {
    let barrier = std::sync::Barrier::new(threads);
    let slowest = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let barrier = &barrier;
                scope.spawn(move || {
                    let from = thread * list.len() / threads / 2;
                    let (mut writer, mut passed, mut took) = (Writer::new(), 0_u64, Duration::ZERO);
                    let mut keys: Vec<String> = (0..BATCH).map(|_| String::with_capacity(32)).collect();
                    barrier.wait();
                    for ranks in list[from..].chunks(BATCH).chain(list[..from].chunks(BATCH)) {
                        for (key, rank) in keys.iter_mut().zip(ranks) {
                            key.clone_from(writer.key(*rank));
                        }
                        let start = Instant::now();
                        passed += keys[..ranks.len()].iter().filter(|key| check(key)).count() as u64;
                        took += start.elapsed();
                    }
                    std::hint::black_box(passed);
                    took
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("no panic")).max().expect("a thread")
    });
    slowest.as_nanos() as f64 / list.len() as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

type Check<'a> = &'a (dyn Fn(&String) -> bool + Sync);

/// One row: both in turns.
fn row(title: &str, threads: usize, list: &[u32], ours: Check<'_>, theirs: Check<'_>) {
    let mut times = [const { Vec::new() }; 2];
    for _ in 0..ROUNDS {
        for (times, check) in times.iter_mut().zip([ours, theirs]) {
            times.push(time(threads, list, check));
        }
    }
    let best = times.each_ref().map(|times| times.iter().copied().fold(f64::MAX, f64::min));
    let [ours, theirs] = times.map(median);
    println!(
        "{title:<44} {threads} threads {ours:>7.1} ns {theirs:>7.1} ns   {:>5.2} x   best {:.1} and {:.1} ns",
        theirs / ours,
        best[0],
        best[1]
    );
}

fn ask(store: &MemoryStore, policy: &Arc<Policy>, key: &str) -> bool {
    let charges = [Charge { policy, key, cost: 1 }];
    matches!(store.apply_now(&Request { charges: &charges, peek: false }), Some(Ok(decision)) if decision.allowed)
}

/// One permit each so many seconds, and so many at once.
fn allowing(seconds: u64, burst: u32) -> Quota {
    let burst = NonZeroU32::new(burst).expect("not zero");
    Quota::with_period(Duration::from_secs(seconds)).expect("not zero").allow_burst(burst)
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "quick");
    let checks = if quick { 500_000 } else { 4_000_000 };
    println!("{:<44} {:<9} {:>10} {:>10}", "", "", "tollway", "governor");
    let ranks = zipf(KEYS, checks, 0x9E37_79B9_7F4A_7C15);
    let hot = vec![0; checks];
    for (what, rate, quota) in [
        ("allowed", "100/h burst 79999900", allowing(36, 80_000_000)),
        ("all keys live, mostly refused", "10/h", allowing(360, 10)),
    ] {
        let policy = Arc::new(Policy::new("bench", rate, Algorithm::Gcra).expect("a policy"));
        let before = resident();
        let store = MemoryStore::new(KEYS * 3 / 2);
        let mut writer = Writer::new();
        for rank in 0..KEYS {
            ask(&store, &policy, writer.key(rank as u32));
        }
        let between = resident();
        let governor = RateLimiter::<String, _, _>::dashmap_with_hasher(quota, ahash::RandomState::new());
        for rank in 0..KEYS {
            let _ = governor.check_key(writer.key(rank as u32));
        }
        let after = resident();
        println!(
            "{:<44} {:<9} {:>7.1} B  {:>7.1} B   a key",
            format!("{KEYS} keys, {what}"),
            "",
            (between - before) as f64 / KEYS as f64,
            (after - between) as f64 / KEYS as f64
        );
        let ours: Check<'_> = &|key| ask(&store, &policy, key);
        let theirs: Check<'_> = &|key| governor.check_key(key).is_ok();
        for threads in [1, 2] {
            row(&format!("Zipf(1.0), {what}"), threads, &ranks, ours, theirs);
        }
        for threads in [1, 2] {
            row(&format!("one hot key, {what}"), threads, &hot, ours, theirs);
        }
    }
    spray(checks);
}

/// New keys only: what growing and pushing out cost.
fn spray(checks: usize) {
    let policy = Arc::new(Policy::new("spray", "10/h", Algorithm::Gcra).expect("a policy"));
    let store = MemoryStore::new(KEYS * 3 / 2);
    let (count, mut writer) = (2 * checks.min(2 * KEYS), Writer::new());
    let mut slowest = Duration::ZERO;
    let mut over = [0; 2];
    let start = Instant::now();
    for rank in 0..count {
        let key = writer.key(rank as u32);
        let one = Instant::now();
        ask(&store, &policy, key);
        let took = one.elapsed();
        slowest = slowest.max(took);
        over[0] += usize::from(took.as_micros() >= 10);
        over[1] += usize::from(took.as_micros() >= 100);
    }
    println!(
        "{} new keys: {:.0} ns each, {} over 10 us, {} over 100 us, slowest {:.1} ms, {} held",
        count,
        start.elapsed().as_nanos() as f64 / count as f64,
        over[0],
        over[1],
        slowest.as_secs_f64() * 1e3,
        store.len()
    );
}
