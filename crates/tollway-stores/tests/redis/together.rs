//! Many callers at once: tasks, processes, and what they share.

use std::process::{Command, Stdio};
use std::sync::Arc;

use tollway_core::{Algorithm, Charge, Request, Store, Timestamp, conformance};

use super::crowd::tasks_get_the_limit;
use super::servers::Redis;
use super::{check, open, patient, policy};

const LIMIT: &str = "100/60s";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tasks_together_get_the_limit() {
    let server = Redis::start();
    let stores = [open(&server.url(), patient()), open(&server.url(), patient())];
    for algorithm in Algorithm::all() {
        let rates = if algorithm == Algorithm::Calendar { "100/year" } else { LIMIT };
        let policy = policy(algorithm.name(), rates, algorithm);
        tasks_get_the_limit(&stores, &policy, 20).await;
    }
}

/// Starts itself eight times; the children hammer and say what passed.
#[tokio::test(flavor = "multi_thread")]
async fn eight_processes_together_get_the_limit() {
    if let Ok(url) = std::env::var("TOLLWAY_HAMMER") {
        let store = open(&url, patient());
        for algorithm in [Algorithm::Gcra, Algorithm::SlidingLog] {
            let policy = policy(algorithm.name(), LIMIT, algorithm);
            let (passed, first, last) = conformance::hammer(&*store, &policy, "k", 100).await;
            println!("\n{algorithm} {passed} {} {}", first.nanos(), last.nanos());
        }
        return;
    }
    let server = Redis::start();
    let child = |_| {
        Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "together::eight_processes_together_get_the_limit", "--nocapture"])
            .env("TOLLWAY_HAMMER", server.url())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process")
    };
    let children: Vec<_> = (0..8).map(child).collect();
    let texts: Vec<_> = children
        .into_iter()
        .map(|child| String::from_utf8_lossy(&child.wait_with_output().expect("its end").stdout).into_owned())
        .collect();
    for algorithm in [Algorithm::Gcra, Algorithm::SlidingLog] {
        let (mut passed, mut first, mut last) = (0, u64::MAX, 0);
        for text in &texts {
            let begin = format!("{algorithm} ");
            let line = text.lines().find(|line| line.starts_with(&begin)).unwrap_or_else(|| panic!("{text}"));
            let numbers: Vec<u64> = line.split(' ').skip(1).map(|word| word.parse().expect("a number")).collect();
            (passed, first, last) = (passed + numbers[0], first.min(numbers[1]), last.max(numbers[2]));
        }
        let policy = policy(algorithm.name(), LIMIT, algorithm);
        let bound = match algorithm {
            // No period is over yet, and a log knows no edges.
            Algorithm::SlidingLog if last - first < 60_000_000_000 => 100,
            _ => conformance::bound(&policy, Timestamp::from_nanos(first), Timestamp::from_nanos(last)),
        };
        assert!((100..=bound).contains(&passed), "{algorithm}: {passed} of {bound}");
    }
}

/// A child takes all permits and is killed: they are back when its lease is over, and not before.
#[tokio::test(flavor = "multi_thread")]
async fn permits_of_a_killed_process_come_back_after_its_lease() {
    let held = policy("held", "3/2s", Algorithm::Concurrency);
    if let Ok(url) = std::env::var("TOLLWAY_HOLDER") {
        let store = open(&url, patient());
        let taken = check(&store, &held, "k", 3).await.unwrap();
        println!("\nholds {}", taken.at.nanos());
        tokio::time::sleep(std::time::Duration::from_secs(60)).await;
        return;
    }
    let server = Redis::start();
    let mut child = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "together::permits_of_a_killed_process_come_back_after_its_lease", "--nocapture"])
        .env("TOLLWAY_HOLDER", server.url())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a process");
    let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().expect("its output")));
    let line = lines.map(|line| line.expect("a line")).find(|line| line.starts_with("holds ")).expect("it holds them");
    let taken: u64 = line[6..].parse().expect("when");
    child.kill().and_then(|()| child.wait()).expect("it is killed");
    let store = open(&server.url(), patient());
    let mut refusals = 0;
    let passed = loop {
        let decision = check(&store, &held, "k", 1).await.unwrap();
        if decision.allowed {
            break decision;
        }
        refusals += 1;
        assert_eq!(decision.at.nanos() + decision.retry_after, taken + 2_000_000_000, "{decision:?}");
        tokio::time::sleep(std::time::Duration::from_nanos(decision.retry_after)).await;
    };
    assert!(refusals > 0 && passed.at.nanos() >= taken + 2_000_000_000 && passed.remaining == 2, "{passed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_wait_travel_together() {
    let server = Redis::start();
    let store = open(&server.url(), patient());
    let policy = policy("p", "1000000/h", Algorithm::Gcra);
    check(&store, &policy, "k", 1).await.unwrap();
    redis::cmd("CONFIG").arg("RESETSTAT").exec(&mut server.connection()).unwrap();
    server.freeze();
    let waiting: Vec<_> = (0..1_000)
        .map(|n| {
            let key = format!("k{n}");
            store.apply(&[Request { charges: &[Charge { policy: &policy, key: &key, cost: 1 }], peek: false }])
        })
        .collect();
    server.thaw();
    for reply in waiting {
        assert!(reply.await.unwrap()[0].allowed);
    }
    let stats: String = redis::cmd("INFO").arg("commandstats").query(&mut server.connection()).unwrap();
    let line = stats.lines().find(|line| line.starts_with("cmdstat_evalsha:")).expect("EVALSHA was called");
    let calls = line.split(['=', ',']).nth(1).and_then(|calls| calls.parse::<u32>().ok()).expect("a number");
    assert!((2..=12).contains(&calls), "1000 callers took {calls} calls");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_disturbs_nobody() {
    let server = Redis::start();
    let store = open(&server.url(), patient());
    let policy = policy("p", "1000000/h", Algorithm::FixedWindow(tollway_core::Align::First));
    check(&store, &policy, "k", 1).await.unwrap();
    server.freeze();
    let mut waiting = Vec::new();
    for n in 0..300 {
        let reply = store.apply(&[Request { charges: &[Charge { policy: &policy, key: "k", cost: 1 }], peek: false }]);
        if n % 3 == 0 {
            drop(reply);
        } else {
            waiting.push(reply);
        }
    }
    server.thaw();
    for reply in waiting {
        assert!(reply.await.unwrap()[0].allowed);
    }
    // Those who left before their request was sent spent nothing; one may have been on its way.
    let left = check(&store, &policy, "k", 0).await.unwrap().remaining;
    let spent = 1_000_000 - left;
    assert!((201..=301).contains(&spent), "{spent} spent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_versions_of_a_policy_share_a_key() {
    let server = Redis::start();
    let store = open(&server.url(), patient());
    let policies =
        ["100/h", "200/h", "300/h"].map(|rates| policy("p", rates, Algorithm::FixedWindow(tollway_core::Align::Clock)));
    let tasks: Vec<_> = (0..12)
        .map(|n| {
            let (store, policy) = (Arc::clone(&store), Arc::clone(&policies[n % 3]));
            tokio::spawn(async move {
                let mut passed = 0.0;
                for _ in 0..50 {
                    match check(&store, &policy, "k", 1).await {
                        Ok(decision) => passed += f64::from(u8::from(decision.allowed)) / f64::from(decision.limit),
                        Err(error) => assert!(error.is_transient(), "{error}"),
                    }
                }
                passed
            })
        })
        .collect();
    let mut shares = 0.0;
    for task in tasks {
        shares += task.await.unwrap();
    }
    // Each passed request took its share of the whole, and shares are never given back. An hour
    // may turn meanwhile.
    assert!(shares <= 2.001 && shares > 0.2, "{shares}");
}
