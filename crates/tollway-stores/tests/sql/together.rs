//! Many callers at once: tasks, processes, and what they share.

use std::process::{Command, Stdio};
use std::sync::Arc;

use tollway_core::{Algorithm, Charge, Request, Store, Timestamp, conformance};

use super::{check, crowd, open, patient, policy};

const LIMIT: &str = "100/60s";

/// Two stores, 64 tasks: exactly the limit.
pub async fn tasks_get_the_limit(url: &str) {
    let stores = [open(url, patient()), open(url, patient())];
    for algorithm in [Algorithm::Gcra, Algorithm::SlidingWindow] {
        let policy = policy(algorithm.name(), LIMIT, algorithm);
        crowd::tasks_get_the_limit(&stores, &policy, 10).await;
    }
}

/// Starts this binary eight times; the children hammer one key that nobody has made yet, and say
/// what passed.
pub async fn processes_get_the_limit(url: &str) {
    let child = |_| {
        Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "together::hammered_by_a_parent", "--nocapture"])
            .env("TOLLWAY_HAMMER", url)
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process")
    };
    let children: Vec<_> = (0..8).map(child).collect();
    let (mut passed, mut first, mut last) = (0, u64::MAX, 0);
    for child in children {
        let output = child.wait_with_output().expect("its end");
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().find(|line| line.starts_with("hammered ")).unwrap_or_else(|| panic!("{text}"));
        let numbers: Vec<u64> = line.split(' ').skip(1).map(|word| word.parse().expect("a number")).collect();
        (passed, first, last) = (passed + numbers[0], first.min(numbers[1]), last.max(numbers[2]));
    }
    let policy = policy("processes", LIMIT, Algorithm::Gcra);
    let bound = conformance::bound(&policy, Timestamp::from_nanos(first), Timestamp::from_nanos(last));
    assert!((100..=bound).contains(&passed), "{passed} of {bound}");
}

/// What such a child does; without a parent, nothing.
#[tokio::test(flavor = "multi_thread")]
async fn hammered_by_a_parent() {
    let Ok(url) = std::env::var("TOLLWAY_HAMMER") else { return };
    let store = open(&url, patient());
    let policy = policy("processes", LIMIT, Algorithm::Gcra);
    let (passed, first, last) = conformance::hammer(&*store, &policy, "k", 60).await;
    println!("\nhammered {passed} {} {}", first.nanos(), last.nanos());
}

/// Requests over the same keys in opposite orders, from several stores, some of the keys new, while
/// others forget them: everybody is answered, and every charge is all or nothing.
pub async fn crossing_keys_block_nobody(url: &str) {
    let stores: Vec<_> = (0..4).map(|_| open(url, patient())).collect();
    let policy = policy("crossing", "1000000/h", Algorithm::FixedWindow(tollway_core::Align::First));
    let tasks: Vec<_> = (0..16_usize)
        .map(|n| {
            let (store, policy) = (Arc::clone(&stores[n % 4]), Arc::clone(&policy));
            tokio::spawn(async move {
                for round in 0..25 {
                    let mut keys: Vec<_> = (0..6).map(|key| format!("{}", (round / 5) * 4 + key)).collect();
                    if n % 2 == 0 {
                        keys.reverse();
                    }
                    let charges: Vec<_> = keys.iter().map(|key| Charge { policy: &policy, key, cost: 1 }).collect();
                    let answer = store.apply(&[Request { charges: &charges, peek: false }]).await;
                    assert!(answer.unwrap_or_else(|error| panic!("{error}"))[0].allowed);
                    if n == 15 {
                        store.reset(&policy, "never charged").await.unwrap();
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    // Keys 8 to 11 are in two groups of five rounds each: all rounds of all tasks, once in each.
    for (key, times) in [("1", 5), ("5", 10), ("9", 10), ("12", 5 + 5), ("21", 5)] {
        let decision = check(&stores[0], &policy, key, 0).await.unwrap();
        assert_eq!(1_000_000 - decision.remaining, 16 * times, "key {key}");
    }
}
