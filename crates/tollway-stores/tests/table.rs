//! The flat table agrees with the pure function step for step, and never admits too much.

mod model;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use model::{agree, any_step, nine_policies, ready};
use proptest::prelude::*;
use tollway_core::{Algorithm, Align, Change, Charge, Decision, ManualClock, Policy, Request, Store, Timestamp};
use tollway_stores::memory::MemoryStore;

const SECOND: u64 = 1_000_000_000;
const START: Timestamp = Timestamp::from_secs(1_700_000_000);

fn policy(name: &str, rate: &str, algorithm: Algorithm) -> Arc<Policy> {
    let calendar = rate.replace("/d", "/month");
    let rate = if algorithm == Algorithm::Calendar { &calendar } else { rate };
    Arc::new(Policy::new(name, rate, algorithm).unwrap())
}

fn ask(store: &dyn Store, policy: &Arc<Policy>, key: &str, cost: u32) -> Decision {
    let charges = [Charge { policy, key, cost }];
    store.apply_now(&Request { charges: &charges, peek: false }).expect("memory answers at once").unwrap()
}

fn reset(store: &MemoryStore, policy: &Arc<Policy>, key: &str) {
    ready(store.reset(policy, key)).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_sequence_agrees_with_the_pure_function(steps in prop::collection::vec(any_step(), 1..120), has_resets in any::<bool>()) {
        let clock = Arc::new(ManualClock::new(START));
        let store = MemoryStore::with_clock(10_000, clock.clone());
        agree(&[&store], &clock, &nine_policies(), &steps, has_resets)?;
    }
}

/// How many of `rounds` in which `threads` ask at a standstill for few keys among many broke the bound.
fn rounds_over(max_keys: usize, keys: usize, others: usize, rounds: u64) -> Vec<(u64, u64, u64)> {
    const THREADS: usize = 4;
    let limit = policy("p", "7/h", Algorithm::Gcra);
    let mut broken = Vec::new();
    for round in 0..rounds {
        let store = MemoryStore::with_clock(max_keys, Arc::new(ManualClock::new(START)));
        let passed: Vec<AtomicU64> = (0..keys).map(|_| AtomicU64::new(0)).collect();
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (store, limit, passed) = (&store, &limit, &passed);
                scope.spawn(move || {
                    let mut dice = round * 31 + thread as u64 + 1;
                    for turn in 0..keys * 12 {
                        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        let key = (dice >> 33) as usize % keys;
                        let allowed = ask(store, limit, &key.to_string(), 1).allowed;
                        passed[key].fetch_add(u64::from(allowed), Ordering::Relaxed);
                        if others > 0 {
                            ask(store, limit, &format!("other-{}", (turn * THREADS + thread) % others), 1);
                        }
                    }
                });
            }
        });
        for (key, passed) in passed.iter().enumerate() {
            let passed = passed.load(Ordering::Relaxed);
            if passed > 7 || (others == 0 && passed != 7 && ask(&store, &limit, &key.to_string(), 1).allowed) {
                broken.push((round, key as u64, passed));
            }
        }
    }
    broken
}

#[test]
fn threads_at_a_standstill_get_exactly_the_limit() {
    assert_eq!(rounds_over(10_000, 40, 0, 150), []);
}

#[test]
fn threads_that_push_keys_out_never_get_more() {
    assert_eq!(rounds_over(64, 40, 500, 150), []);
}

#[test]
fn threads_never_get_more_while_the_table_grows() {
    assert_eq!(rounds_over(100_000, 400, 8_000, 15), []);
}

#[test]
fn a_table_that_grows_forgets_nobody() {
    let store = MemoryStore::with_clock(120_000, Arc::new(ManualClock::new(START)));
    let limit = policy("p", "2/h", Algorithm::Gcra);
    let names: Vec<_> = (0..60_000).map(|number| number.to_string()).collect();
    for name in &names {
        assert_eq!(ask(&store, &limit, name, 1).remaining, 1);
    }
    for name in &names {
        assert_eq!(ask(&store, &limit, name, 1).remaining, 0, "{name}");
    }
    assert!(names.iter().all(|name| !ask(&store, &limit, name, 1).allowed));
    assert_eq!(store.len(), names.len());
}

#[test]
fn a_spray_of_twice_as_many_keys_frees_no_refused_one() {
    for algorithm in Algorithm::all() {
        let store = MemoryStore::with_clock(8_000, Arc::new(ManualClock::new(START)));
        let limit = policy("p", "5/d", algorithm);
        let victims: Vec<_> = (0..500).map(|number| format!("victim-{number}")).collect();
        for victim in &victims {
            while ask(&store, &limit, victim, 1).allowed {}
        }
        for number in 0..16_000 {
            ask(&store, &limit, &number.to_string(), 1);
        }
        let freed = victims.iter().filter(|victim| ask(&store, &limit, victim, 1).allowed).count();
        assert_eq!(freed, 0, "{algorithm}");
        assert!(store.len() <= 8_000, "{algorithm}: {}", store.len());
    }
}

#[test]
fn idle_keys_make_room_before_the_table_grows() {
    let clock = Arc::new(ManualClock::new(START));
    let store = MemoryStore::with_clock(1_000_000, clock.clone());
    let limit = policy("p", "5/s", Algorithm::Gcra);
    for number in 0..200_000 {
        assert!(ask(&store, &limit, &number.to_string(), 1).allowed);
        clock.advance(SECOND / 100);
    }
    assert!(store.len() <= 1_024, "{}", store.len());
}

#[test]
fn a_reset_frees_a_key_again_and_again() {
    for algorithm in Algorithm::all() {
        let store = MemoryStore::with_clock(16, Arc::new(ManualClock::new(START)));
        let limit = policy("p", "3/d", algorithm);
        for _ in 0..20 {
            assert!(ask(&store, &limit, "k", 3).allowed, "{algorithm}");
            assert!(!ask(&store, &limit, "k", 1).allowed, "{algorithm}");
            reset(&store, &limit, "k");
        }
    }
}

#[test]
fn a_policy_that_changes_takes_its_keys_along() {
    let store = MemoryStore::with_clock(10_000, Arc::new(ManualClock::new(START)));
    let names: Vec<_> = (0..2_000).map(|number| number.to_string()).collect();
    let before = policy("p", "10/h", Algorithm::Gcra);
    for name in &names {
        ask(&store, &before, name, 5);
    }
    for (rates, left) in [("20/h", 9), ("40/h; 1000/d", 17)] {
        let after = policy("p", rates, Algorithm::Gcra);
        for name in &names {
            assert_eq!(ask(&store, &after, name, 1).remaining, left, "{rates}");
        }
    }
    let after = policy("p", "20/h", Algorithm::Gcra);
    reset(&store, &after, "7");
    assert_eq!(ask(&store, &after, "7", 1).remaining, 19);
}

#[test]
fn charges_together_are_all_or_nothing_on_many_threads() {
    let store = MemoryStore::with_clock(10_000, Arc::new(ManualClock::new(START)));
    let org = policy("org", "1000/d", Algorithm::Gcra);
    let user = policy("user", "50/d", Algorithm::FixedWindow(Align::Clock));
    let many = policy("many", "60/d; 5000/w", Algorithm::Gcra);
    let passed = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (store, org, user, many, passed) = (&store, &org, &user, &many, &passed);
            scope.spawn(move || {
                for turn in 0..600 {
                    let key = ((turn + thread) % 10).to_string();
                    let charges = [
                        Charge { policy: org, key: "o", cost: 1 },
                        Charge { policy: many, key: &key, cost: 1 },
                        Charge { policy: user, key: &key, cost: 1 },
                    ];
                    let request = Request { charges: &charges, peek: false };
                    passed.fetch_add(u64::from(store.apply_now(&request).unwrap().unwrap().allowed), Ordering::Relaxed);
                }
            });
        }
    });
    // Ten users at 50 each; what they were refused was handed back to the organisation.
    let passed = passed.into_inner();
    assert!(passed <= 500, "{passed}");
    assert_eq!(u64::from(ask(&store, &org, "o", 0).remaining), 1_000 - passed);
    let left: u32 = (0..10).map(|key| ask(&store, &user, &key.to_string(), 0).remaining).sum();
    assert_eq!(u64::from(left), 500 - passed);
    let left: u32 = (0..10).map(|key| ask(&store, &many, &key.to_string(), 0).remaining).sum();
    assert_eq!(u64::from(left), 600 - passed);
}

#[test]
fn settling_for_ever_keeps_a_key_in_its_table() {
    for algorithm in Algorithm::all().into_iter().take(7) {
        let clock = Arc::new(ManualClock::new(START));
        let store = MemoryStore::with_clock(16, clock.clone());
        let limit = policy("p", "1000/m", algorithm);
        let adjust = |delta| ready(store.adjust(&limit, "k", Change::by(delta))).unwrap().remaining;
        for turn in 0..100_000 {
            assert!(ask(&store, &limit, "k", 507).allowed, "{algorithm}: {turn}");
            let left = adjust(-207);
            assert_eq!(adjust(-300), left + 300, "{algorithm}: {turn}");
            clock.advance(1_000);
        }
        assert_eq!(store.len(), 1, "{algorithm}");
    }
}

#[test]
fn what_is_charged_unasked_on_many_threads_is_all_counted() {
    let store = MemoryStore::with_clock(64, Arc::new(ManualClock::new(START)));
    for algorithm in Algorithm::all().into_iter().filter(|algorithm| !algorithm.is_log()) {
        let limit = policy(algorithm.name().replace(':', "-").as_str(), "1000000/d", algorithm);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for turn in 0..1_000 {
                        ready(store.adjust(&limit, "k", Change::Charge(7))).unwrap();
                        assert!(ask(&store, &limit, "k", 3).allowed);
                        if turn % 2 == 0 {
                            ready(store.adjust(&limit, "k", Change::Refund(5))).unwrap();
                        }
                    }
                });
            }
        });
        assert_eq!(ask(&store, &limit, "k", 0).remaining, 1_000_000 - 4 * (10_000 - 2_500), "{algorithm}");
    }
}

#[test]
fn a_prefix_is_forgotten_at_once_in_tables_and_map() {
    let store = MemoryStore::with_clock(10_000, Arc::new(ManualClock::new(START)));
    for rates in ["2/h", "2/h; 9/d"] {
        let (limit, other) = (policy(rates, rates, Algorithm::Gcra), policy("other", "2/h", Algorithm::Gcra));
        let keys = ["user:1", "user:12", "user:2", "org:1"];
        let left = || keys.map(|key| ask(&store, &limit, key, 0).remaining);
        let forget = |prefix| ready(store.reset_prefix(&limit, prefix)).unwrap();
        for key in keys {
            ask(&store, &limit, key, 2);
            ask(&store, &other, key, 2);
        }
        forget("user:1");
        assert_eq!(left(), [2, 2, 0, 0], "{rates}");
        assert_eq!(ask(&store, &other, "user:1", 0).remaining, 0);
        ask(&store, &limit, "user:12", 1);
        forget("user:");
        assert_eq!(left(), [2, 2, 2, 0], "{rates}");
        ask(&store, &limit, "user:12", 2);
        forget("user:1");
        assert_eq!(left(), [2, 2, 2, 0], "{rates}");
        forget("");
        assert_eq!(left(), [2; 4], "{rates}");
    }
}

#[test]
fn prefixes_have_a_bound() {
    let store = MemoryStore::new(16);
    let limit = policy("p", "2/h", Algorithm::Gcra);
    for number in 0..1_024 {
        ready(store.reset_prefix(&limit, &format!("tenant-{number}:"))).unwrap();
    }
    ready(store.reset_prefix(&limit, "tenant-7:")).unwrap();
    let error = ready(store.reset_prefix(&limit, "one-more:")).unwrap_err().to_string();
    assert!(error.contains("1024 different prefixes"), "{error}");
}
