//! Nanoseconds a check, against governor with String keys, in one run.
//!
//! `cargo bench -p tollway-stores --bench table [-- quick]`. Every row is the median of five rounds in
//! which the contestants take turns, because the machine is shared.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use governor::{Quota, RateLimiter};
use tollway_core::{Algorithm, Charge, Policy, Request, Store};
use tollway_stores::memory::MemoryStore;

const KEYS: usize = 1_000_000;
const ROUNDS: usize = 5;

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

/// Keys in an order that says nothing about their rank.
fn names(count: usize) -> Vec<String> {
    (0..count).map(|rank| format!("user:{}", (rank * 7_919 + 13) % count)).collect()
}

/// Nanoseconds a check on `threads` threads that each walk the list from a place of their own.
fn time(threads: usize, list: &[u32], check: impl Fn(usize) -> bool + Sync) -> f64 {
    let barrier = std::sync::Barrier::new(threads);
    let slowest = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let (barrier, check) = (&barrier, &check);
                scope.spawn(move || {
                    let from = thread * list.len() / threads / 2;
                    let mut passed = 0_u64;
                    barrier.wait();
                    let start = Instant::now();
                    for rank in list[from..].iter().chain(&list[..from]) {
                        passed += u64::from(check(*rank as usize));
                    }
                    std::hint::black_box(passed);
                    start.elapsed()
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

fn row(title: &str, threads: usize, list: &[u32], ours: impl Fn(usize) -> bool + Sync, theirs: impl Fn(usize) -> bool + Sync) {
    let rounds: Vec<_> = (0..ROUNDS).map(|_| (time(threads, list, &ours), time(threads, list, &theirs))).collect();
    let (ours, theirs): (Vec<_>, Vec<_>) = rounds.into_iter().unzip();
    let (ours, theirs) = (median(ours), median(theirs));
    println!("{title:<44} {threads} threads {ours:>7.1} ns {theirs:>7.1} ns   {:>5.2} x", theirs / ours);
}

fn ask(store: &MemoryStore, policy: &Arc<Policy>, key: &str) -> bool {
    let charges = [Charge { policy, key, cost: 1 }];
    matches!(store.apply_now(&Request { charges: &charges, peek: false }), Some(Ok(decision)) if decision.allowed)
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "quick");
    let checks = if quick { 500_000 } else { 4_000_000 };
    println!("{:<44} {:<9} {:>10} {:>10}", "", "", "tollway", "governor");
    let keys = names(KEYS);
    let ranks = zipf(KEYS, checks, 0x9E37_79B9_7F4A_7C15);
    let hot = vec![0; checks];
    for (what, rate, quota) in [
        ("allowed", "1000000/s", Quota::per_second(NonZeroU32::new(1_000_000).expect("not zero"))),
        ("all keys live, mostly refused", "10/h", Quota::per_hour(NonZeroU32::new(10).expect("not zero"))),
    ] {
        let policy = Arc::new(Policy::new("bench", rate, Algorithm::Gcra).expect("a policy"));
        let before = resident();
        let store = MemoryStore::new(KEYS * 3 / 2);
        for key in &keys {
            ask(&store, &policy, key);
        }
        let between = resident();
        let governor = RateLimiter::<String, _, _>::dashmap_with_hasher(quota, ahash::RandomState::new());
        for key in &keys {
            let _ = governor.check_key(key);
        }
        let after = resident();
        println!(
            "{:<44} {:<9} {:>7.1} B  {:>7.1} B   a key",
            format!("{KEYS} keys, {what}"),
            "",
            (between - before) as f64 / KEYS as f64,
            (after - between) as f64 / KEYS as f64
        );
        let ours = |rank: usize| ask(&store, &policy, &keys[rank]);
        let theirs = |rank: usize| governor.check_key(&keys[rank]).is_ok();
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
    let keys = names(2 * checks.min(2 * KEYS));
    let mut slowest = std::time::Duration::ZERO;
    let mut over = [0; 2];
    let start = Instant::now();
    for (number, key) in keys.iter().enumerate() {
        let one = Instant::now();
        ask(&store, &policy, key);
        let took = one.elapsed();
        slowest = slowest.max(took);
        over[0] += usize::from(took.as_micros() >= 10);
        over[1] += usize::from(took.as_micros() >= 100);
        std::hint::black_box(number);
    }
    println!(
        "{} new keys: {:.0} ns each, {} over 10 us, {} over 100 us, slowest {:.1} ms, {} held",
        keys.len(),
        start.elapsed().as_nanos() as f64 / keys.len() as f64,
        over[0],
        over[1],
        slowest.as_secs_f64() * 1e3,
        store.len()
    );
}
