//! Permits that are held, renewed, lost and given back.

mod remote;

use std::sync::Arc;
use std::time::{Duration, Instant};

use remote::Remote;
use tollway::{Algorithm, Charge, Clock, FailMode, Limiter, Policy, StoreErrorKind};
use tollway_stores::SystemClock;
use tollway_stores::memory::MemoryStore;

fn exports(rate: &str) -> Arc<Policy> {
    Arc::new(Policy::new("exports", rate, Algorithm::Concurrency).unwrap())
}

fn limiter() -> Limiter {
    Limiter::new(Arc::new(MemoryStore::new(1_000)), FailMode::Closed)
}

async fn left(limiter: &Limiter, policy: &Arc<Policy>) -> u32 {
    limiter.peek(&[Charge { policy, key: "k", cost: 0 }]).await.unwrap().remaining
}

/// Waits until something is so; fails after a time that only a fault takes.
async fn until<F: Future<Output = bool>>(what: &str, is_so: impl Fn() -> F) {
    let give_up = Instant::now() + Duration::from_secs(20);
    while !is_so().await {
        assert!(Instant::now() < give_up, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn permits_come_back_when_they_are_released_or_dropped() {
    let (limiter, policy) = (limiter(), exports("3/1h"));
    let one = limiter.hold(&policy, "k", 2).await.unwrap();
    let two = limiter.hold(&policy, "k", 1).await.unwrap();
    let none = limiter.hold(&policy, "k", 1).await.unwrap();
    assert!(one.is_held() && two.is_held());
    assert!(!none.decision().allowed && !none.is_held());
    one.release().await.unwrap();
    assert_eq!(left(&limiter, &policy).await, 2);
    drop(none);
    drop(two);
    until("a dropped permit comes back", async || left(&limiter, &policy).await == 3).await;
}

#[tokio::test]
async fn a_permit_outlives_its_lease_while_it_is_held() {
    let (limiter, policy) = (limiter(), exports("1/500ms"));
    let held = limiter.hold(&policy, "k", 1).await.unwrap();
    let since = Instant::now();
    while since.elapsed() < Duration::from_millis(1_300) {
        assert!(!limiter.check(&[Charge { policy: &policy, key: "k", cost: 1 }]).await.unwrap().allowed);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(held.is_held());
    held.release().await.unwrap();
    until("it is free again", async || left(&limiter, &policy).await == 1).await;
}

#[tokio::test]
async fn a_permit_that_others_took_meanwhile_is_lost() {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let remote = Remote::new(clock, StoreErrorKind::Unavailable);
    let limiter = Limiter::new(remote, FailMode::Closed);
    let policy = exports("1/300ms");
    let held = limiter.hold(&policy, "k", 1).await.unwrap();
    limiter.reset(&policy, "k").await.unwrap();
    let other = limiter.hold(&policy, "k", 1).await.unwrap();
    assert!(other.decision().allowed);
    until("the first holder learns of it", async || !held.is_held()).await;
    held.release().await.unwrap();
    assert!(other.is_held());
    assert_eq!(left(&limiter, &policy).await, 0, "what is lost frees nobody else's");
}

#[tokio::test]
async fn who_waits_gets_the_permit_that_comes_back() {
    let (limiter, policy) = (limiter(), exports("1/1h"));
    let held = limiter.hold(&policy, "k", 1).await.unwrap();
    let patient = limiter.hold_within(&policy, "k", 1, Duration::from_secs(20));
    let waiting = tokio::spawn(patient);
    let hasty = limiter.hold_within(&policy, "k", 1, Duration::from_millis(20)).await.unwrap();
    assert!(!hasty.decision().allowed);
    held.release().await.unwrap();
    assert!(waiting.await.unwrap().unwrap().decision().allowed);
}

#[tokio::test]
async fn other_algorithms_hold_nothing() {
    let policy = Arc::new(Policy::new("p", "5/m", Algorithm::Gcra).unwrap());
    let error = limiter().hold(&policy, "k", 1).await.unwrap_err();
    assert!(error.to_string().contains("concurrency"), "{error}");
}

#[tokio::test]
async fn a_store_that_is_away_gives_no_permit_and_an_open_gate_counts_none() {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let remote = Remote::new(clock, StoreErrorKind::Unavailable);
    remote.away.store(true, std::sync::atomic::Ordering::SeqCst);
    let policy = exports("1/1h");
    let closed = Limiter::new(remote.clone(), FailMode::Closed);
    assert!(closed.hold(&policy, "k", 1).await.is_err());
    let open = Limiter::new(remote.clone(), FailMode::Open);
    let held = open.hold(&policy, "k", 1).await.unwrap();
    assert!(held.decision().allowed && held.decision().degraded && !held.is_held());
    let asked = remote.asked();
    held.release().await.unwrap();
    assert_eq!(remote.asked(), asked, "nothing was counted, so nothing is given back");
}

#[tokio::test]
async fn what_a_request_pays_is_counted_in_tokens() {
    use tollway::Bucket;
    let bucket = Bucket { per_request: 5, ..Bucket::default() };
    let policy = Policy::new("p", "100/h", Algorithm::TokenBucket).unwrap().with_bucket(bucket).unwrap();
    let (limiter, policy) = (limiter(), Arc::new(policy));
    let charges = [Charge { policy: &policy, key: "k", cost: 2 }];
    assert_eq!(limiter.check_now(&charges).unwrap().unwrap().remaining, 90);
    assert_eq!(limiter.check(&charges).await.unwrap().remaining, 80);
    let request = tollway::Request { charges: &charges, peek: false };
    assert_eq!(limiter.check_many(&[request]).await.unwrap()[0].remaining, 70);
    assert_eq!(limiter.refund(&policy, "k", 1).await.unwrap().remaining, 75);
    let reserved = limiter.reserve(&policy, "k", 5).await.unwrap();
    assert_eq!(reserved.decision().remaining, 50);
    assert_eq!(reserved.commit(1).await.unwrap().remaining, 70);
}
