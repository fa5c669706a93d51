//! Waiting for permits, and many decisions at once.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tollway::{Algorithm, Charge, FailMode, Limiter, Policy, Request};
use tollway_stores::memory::MemoryStore;

fn limiter() -> Arc<Limiter> {
    Arc::new(Limiter::new(Arc::new(MemoryStore::new(1_000)), FailMode::Closed))
}

fn policy(rates: &str) -> Arc<Policy> {
    Arc::new(Policy::new("p", rates, Algorithm::Gcra).unwrap())
}

#[tokio::test]
async fn those_who_wait_are_served_in_order_at_the_rate() {
    let (limiter, policy) = (limiter(), policy("1/10ms"));
    let served = Arc::new(Mutex::new(Vec::new()));
    let started = Instant::now();
    let mut waiting = Vec::new();
    for number in 0..20 {
        let (limiter, policy, served) = (limiter.clone(), policy.clone(), served.clone());
        let answer = limiter.acquire(&[Charge { policy: &policy, key: "k", cost: 1 }], Duration::from_secs(30));
        waiting.push(tokio::spawn(async move {
            assert!(answer.await.unwrap().allowed);
            served.lock().unwrap().push(number);
        }));
        // So that they stand in line in this order.
        tokio::task::yield_now().await;
    }
    for task in waiting {
        task.await.unwrap();
    }
    assert_eq!(*served.lock().unwrap(), (0..20).collect::<Vec<_>>());
    assert!(started.elapsed() >= Duration::from_millis(190), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_wait_that_cannot_succeed_is_not_begun() {
    let (limiter, policy) = (limiter(), policy("1/h"));
    let charges = [Charge { policy: &policy, key: "k", cost: 1 }];
    assert!(limiter.acquire(&charges, Duration::from_secs(1)).await.unwrap().allowed);
    let started = Instant::now();
    let refused = limiter.acquire(&charges, Duration::from_secs(60)).await.unwrap();
    assert!(!refused.allowed && refused.retry_after > 0);
    assert!(started.elapsed() < Duration::from_secs(30));
    let impossible = [Charge { policy: &policy, key: "k", cost: 2 }];
    assert!(!limiter.acquire(&impossible, Duration::from_secs(60)).await.unwrap().allowed);
}

#[tokio::test]
async fn who_stands_in_line_too_long_is_told() {
    let (limiter, policy) = (limiter(), policy("1/400ms"));
    let charges = [Charge { policy: &policy, key: "k", cost: 1 }];
    limiter.check(&charges).await.unwrap();
    let first = tokio::spawn(limiter.acquire(&charges, Duration::from_secs(10)));
    tokio::time::sleep(Duration::from_millis(20)).await;
    let second = limiter.acquire(&charges, Duration::from_millis(50)).await.unwrap();
    assert!(!second.allowed);
    assert!(first.await.unwrap().unwrap().allowed);
}

#[tokio::test]
async fn somebody_who_leaves_the_line_holds_up_nobody() {
    let (limiter, policy) = (limiter(), policy("1/20ms"));
    let charges = [Charge { policy: &policy, key: "k", cost: 1 }];
    limiter.check(&charges).await.unwrap();
    let gone = tokio::spawn(limiter.acquire(&charges, Duration::from_secs(10)));
    tokio::task::yield_now().await;
    let stays = tokio::spawn(limiter.acquire(&charges, Duration::from_secs(10)));
    tokio::task::yield_now().await;
    gone.abort();
    assert!(stays.await.unwrap().unwrap().allowed);
}

#[tokio::test]
async fn many_are_decided_each_for_itself() {
    let (limiter, policy) = (limiter(), policy("2/h"));
    let charges: Vec<_> = ["a", "b", "a", "a"].map(|key| [Charge { policy: &policy, key, cost: 1 }]).into();
    let requests: Vec<_> = charges.iter().map(|charges| Request { charges, peek: false }).collect();
    let allowed: Vec<_> = limiter.check_many(&requests).await.unwrap().iter().map(|d| d.allowed).collect();
    assert_eq!(allowed, [true, true, true, false]);
}
