//! What is counted, and what is read of it.

mod remote;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use remote::Remote;
use tollway::rules::{Rules, Subject};
use tollway::{
    Algorithm, BreakerSettings, BreakerState, Charge, FailMode, Guard, Limiter, ManualClock, Metrics, Outcome, Policy,
    Request, Store, StoreErrorKind, Timestamp,
};
use tollway_stores::memory::MemoryStore;

fn policy(name: &str, rates: &str) -> Arc<Policy> {
    Arc::new(Policy::new(name, rates, Algorithm::Gcra).unwrap())
}

fn in_memory(metrics: &Arc<Metrics>) -> Limiter {
    Limiter::new(Arc::new(MemoryStore::new(1_000)), FailMode::Closed).with_metrics(metrics)
}

fn remote(fail_mode: FailMode, metrics: &Arc<Metrics>) -> (Arc<Remote>, Limiter) {
    let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_000)));
    let remote = Remote::new(clock, StoreErrorKind::Timeout);
    let guard: Arc<dyn Store> = Arc::new(Guard::new(remote.clone(), BreakerSettings::default()));
    let local = Arc::new(MemoryStore::new(1_000));
    (remote, Limiter::new(guard, fail_mode).with_local(local).with_metrics(metrics))
}

fn counted(metrics: &Metrics, policy: &str) -> Vec<(Outcome, u64)> {
    let snapshot = metrics.snapshot();
    let found = snapshot.checks.iter().find(|checks| checks.policy == policy);
    let counts = Outcome::ALL.into_iter().map(|outcome| (outcome, found.map_or(0, |found| found.of(outcome))));
    counts.filter(|(_, count)| *count > 0).collect()
}

#[test]
fn a_refusal_counts_for_the_policy_that_refused_and_a_peek_for_none() {
    let metrics = Arc::new(Metrics::new());
    let limiter = in_memory(&metrics);
    let (tight, wide) = (policy("tight", "1/h"), policy("wide", "9/h"));
    let charges = [&wide, &tight].map(|policy| Charge { policy, key: "k", cost: 1 });
    for _ in 0..3 {
        limiter.check_now(&charges).unwrap().unwrap();
        limiter.peek_now(&charges).unwrap().unwrap();
    }
    assert_eq!(counted(&metrics, "tight"), [(Outcome::Allowed, 1), (Outcome::Refused, 2)]);
    assert_eq!(counted(&metrics, "wide"), [(Outcome::Allowed, 1)]);
}

#[test]
fn nothing_is_counted_before_the_start_and_all_begins_anew_when_cleared() {
    let metrics = Arc::new(Metrics::waiting());
    let (limiter, policy) = (in_memory(&metrics), policy("p", "9/h"));
    let check = || limiter.check_now(&[Charge { policy: &policy, key: "k", cost: 1 }]).unwrap().unwrap();
    check();
    assert!(metrics.snapshot().checks.is_empty());
    metrics.start();
    check();
    assert_eq!(counted(&metrics, "p"), [(Outcome::Allowed, 1)]);
    metrics.stop();
    check();
    assert_eq!(counted(&metrics, "p"), [(Outcome::Allowed, 1)]);
    metrics.clear();
    assert_eq!(counted(&metrics, "p"), []);
}

#[tokio::test]
async fn each_answer_in_place_of_a_store_has_its_name() {
    for (fail_mode, outcomes) in [
        (FailMode::Open, vec![(Outcome::DegradedAllowed, 3)]),
        (FailMode::Local, vec![(Outcome::DegradedAllowed, 1), (Outcome::DegradedRefused, 2)]),
        (FailMode::Closed, vec![(Outcome::Failed, 3)]),
    ] {
        let metrics = Arc::new(Metrics::new());
        let (remote, limiter) = remote(fail_mode, &metrics);
        remote.away.store(true, Ordering::SeqCst);
        let policy = policy("p", "1/h");
        for _ in 0..3 {
            let _ = limiter.check(&[Charge { policy: &policy, key: "k", cost: 1 }]).await;
        }
        assert_eq!(counted(&metrics, "p"), outcomes, "{fail_mode:?}");
    }
}

#[tokio::test]
async fn what_a_limiter_asked_stays_counted_when_it_ends() {
    let metrics = Arc::new(Metrics::new());
    let ((_, first), (_, second)) = (remote(FailMode::Closed, &metrics), remote(FailMode::Closed, &metrics));
    let policy = policy("p", "9/h");
    let ask = async |limiter: &Limiter| {
        limiter.check(&[Charge { policy: &policy, key: "k", cost: 1 }]).await.unwrap();
        let snapshot = metrics.snapshot();
        assert_eq!(snapshot.stores.len(), 1, "both have one name");
        snapshot.stores[0].calls.latency.count()
    };
    assert_eq!((ask(&first).await, ask(&second).await), (1, 2));
    let copy = first.clone();
    drop(first);
    assert_eq!((ask(&copy).await, ask(&second).await), (3, 4));
    drop(copy);
    assert_eq!(ask(&second).await, 5);
    drop(second);
    assert_eq!(ask(&remote(FailMode::Closed, &metrics).1).await, 6);
    metrics.clear();
    assert!(metrics.snapshot().stores.is_empty());
}

#[tokio::test]
async fn a_store_tells_its_calls_its_errors_and_its_breaker() {
    let metrics = Arc::new(Metrics::new());
    let (remote, limiter) = remote(FailMode::Open, &metrics);
    let policy = policy("p", "9/h");
    let charges = [Charge { policy: &policy, key: "k", cost: 1 }];
    limiter.check(&charges).await.unwrap();
    limiter.check_many(&[Request { charges: &charges, peek: false }; 2]).await.unwrap();
    remote.away.store(true, Ordering::SeqCst);
    // The first one opens the breaker, the others are not asked.
    for _ in 0..3 {
        limiter.check(&charges).await.unwrap();
    }
    let snapshot = metrics.snapshot();
    let [store] = &snapshot.stores[..] else { panic!("one store: {:?}", snapshot.stores) };
    assert_eq!(store.store, "remote://");
    assert!(matches!(store.breaker, Some(BreakerState::Open(_))));
    assert_eq!((store.calls.latency.count(), store.calls.skipped), (3, 2));
    assert_eq!(store.calls.errors[StoreErrorKind::Timeout as usize], 1);
    assert_eq!(store.calls.errors.iter().sum::<u64>(), 1);
    assert_eq!(counted(&metrics, "p"), [(Outcome::Allowed, 3), (Outcome::DegradedAllowed, 3)]);
    let text = metrics.text();
    for line in [
        r#"tollway_store_errors_total{store="remote://",kind="timeout"} 1"#,
        r#"tollway_store_skipped_total{store="remote://"} 2"#,
        r#"tollway_store_seconds_count{store="remote://"} 3"#,
        r#"tollway_breaker_state{store="remote://"} 2"#,
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
    }
}

#[tokio::test]
async fn stores_of_one_name_are_one_and_a_breaker_ends_with_its_limiter() {
    let metrics = Arc::new(Metrics::new());
    let (_first, one) = remote(FailMode::Open, &metrics);
    let (second, other) = remote(FailMode::Open, &metrics);
    second.away.store(true, Ordering::SeqCst);
    let policy = policy("p", "9/h");
    for limiter in [&one, &other] {
        limiter.check(&[Charge { policy: &policy, key: "k", cost: 1 }]).await.unwrap();
    }
    let [store] = &metrics.snapshot().stores[..] else { panic!("one name, one store") };
    assert_eq!((store.calls.latency.count(), store.breaker.map(|state| state.name())), (2, Some("open")));
    drop(other);
    let [store] = &metrics.snapshot().stores[..] else { panic!("one is left") };
    assert_eq!((store.calls.latency.count(), store.breaker.map(|state| state.name())), (2, Some("closed")));
}

#[test]
fn what_rules_decide_is_counted_too() {
    let metrics = Arc::new(Metrics::new());
    let limiter = in_memory(&metrics);
    let rules = r#"{"deny": ["203.0.113.7"], "allow": ["203.0.113.8"], "limits": {"tried": {"shadow": true}}}"#;
    let rules = Rules::new(rules).unwrap();
    let (policy, tried) = (policy("p", "9/h"), policy("tried", "1/h"));
    for (host, times) in [("203.0.113.7", 1), ("203.0.113.8", 2), ("203.0.113.9", 3)] {
        let subject = Subject { address: host.parse().ok(), ..Subject::default() };
        for _ in 0..times {
            let charges = [&policy, &tried].map(|policy| Charge { policy, key: host, cost: 1 });
            rules.check_now(&limiter, &charges, &subject).unwrap().unwrap();
        }
    }
    assert_eq!(counted(&metrics, "p"), [(Outcome::Allowed, 3), (Outcome::Denied, 1), (Outcome::Exempt, 2)]);
    assert_eq!(counted(&metrics, "tried"), [(Outcome::Denied, 1), (Outcome::Exempt, 2)]);
    assert_eq!(counted(&metrics, "tried~shadow"), [(Outcome::ShadowAllowed, 1), (Outcome::ShadowRefused, 2)]);
}
