//! Stores that went away are watched until they are back, and health says what was found.

mod remote;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tollway::{
    BreakerSettings, BreakerState, Change, Charge, FailMode, Failover, Guard, Limiter, NearCache, Request, Status,
    Store, StoreErrorKind, Strategy,
};
use tollway_stores::SystemClock;
use tollway_stores::memory::MemoryStore;

use remote::{Remote, ask, policy};

const MS: u64 = 1_000_000;

fn away(kind: StoreErrorKind) -> Arc<Remote> {
    let remote = Remote::new(Arc::new(SystemClock::new()), kind);
    remote.away.store(true, Ordering::SeqCst);
    remote
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_watched_store_is_found_by_pings_and_no_request_is_spent_on_it() {
    let remote = away(StoreErrorKind::Timeout);
    let settings = BreakerSettings { pause: 2 * MS, max_pause: 10 * MS, ..BreakerSettings::default() };
    let guard = Guard::new(remote.clone(), settings);
    let watch = tokio::spawn(guard.watch());
    let policy = policy("100000/h");
    assert!(ask(&guard, &policy, "k", 1).await.is_err());
    let mut refused = 0;
    while remote.pinged() < 8 {
        refused += u32::from(ask(&guard, &policy, "k", 1).await.is_err());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(refused > 0);
    assert_eq!(remote.asked() - remote.pinged(), 1, "after the first failure only pings went there");
    remote.away.store(false, Ordering::SeqCst);
    until("a ping finds it", || guard.state() == BreakerState::HalfOpen).await;
    assert!(ask(&guard, &policy, "k", 1).await.unwrap().allowed);
    assert_eq!(guard.state(), BreakerState::Closed);
    let pings = remote.pinged();
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(remote.pinged(), pings, "a store that is well is left in peace");
    drop(guard);
    watch.await.unwrap();
}

#[tokio::test]
async fn without_a_watch_passing_requests_find_out() {
    let remote = away(StoreErrorKind::Timeout);
    let settings = BreakerSettings { pause: 2 * MS, max_pause: 10 * MS, ..BreakerSettings::default() };
    let guard = Guard::new(remote.clone(), settings);
    let watch = tokio::spawn(guard.watch());
    watch.abort();
    assert!(watch.await.unwrap_err().is_cancelled());
    let policy = policy("100000/h");
    assert!(ask(&guard, &policy, "k", 1).await.is_err());
    remote.away.store(false, Ordering::SeqCst);
    let end = Instant::now() + Duration::from_secs(20);
    while ask(&guard, &policy, "k", 1).await.is_err() {
        assert!(Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(remote.pinged(), 0);
}

#[tokio::test]
async fn an_open_breaker_covers_every_operation() {
    let remote = away(StoreErrorKind::Unavailable);
    let guard = Guard::new(remote.clone(), BreakerSettings { pause: 5_000 * MS, ..BreakerSettings::default() });
    let policy = policy("5/h");
    assert!(ask(&guard, &policy, "k", 1).await.is_err());
    let charges = [Charge { policy: &policy, key: "k", cost: 1 }];
    let (check, peek) = (Request { charges: &charges, peek: false }, Request { charges: &charges, peek: true });
    assert!(guard.apply(&[check]).await.is_err(), "check");
    assert!(guard.apply(&[peek]).await.is_err(), "peek");
    assert!(guard.apply(&[check, check]).await.is_err(), "many");
    assert!(guard.adjust(&policy, "k", Change::Refund(1)).await.is_err(), "refund");
    assert!(guard.adjust(&policy, "k", Change::Charge(1)).await.is_err(), "commit");
    assert!(guard.reset(&policy, "k").await.is_err(), "reset");
    assert_eq!(remote.asked(), 1, "none of these went there");
    assert!(guard.ping().await.is_err());
    assert_eq!(remote.asked(), 2, "a ping always asks");
}

#[tokio::test]
async fn a_full_queue_is_no_failure_and_no_reason_to_ask_another_store() {
    let (busy, spare) = (away(StoreErrorKind::Overloaded), away(StoreErrorKind::Unavailable));
    let stores: Vec<Arc<dyn Store>> = vec![busy.clone(), spare.clone()];
    let failover = Failover::new(stores, Strategy::Priority, BreakerSettings::default()).unwrap();
    for _ in 0..20 {
        assert_eq!(ask(&failover, &policy("5/h"), "k", 1).await.unwrap_err().kind, StoreErrorKind::Overloaded);
    }
    assert_eq!((busy.asked(), spare.asked()), (20, 0));
    assert_eq!(failover.guards()[0].state(), BreakerState::Closed);
}

#[tokio::test]
async fn health_says_what_was_found() {
    let clock = Arc::new(SystemClock::new());
    let remotes: Vec<_> = (0..3).map(|_| Remote::new(clock.clone(), StoreErrorKind::Unavailable)).collect();
    let stores = remotes.iter().map(|remote| remote.clone() as Arc<dyn Store>).collect();
    let failover = Failover::new(stores, Strategy::Priority, BreakerSettings::default()).unwrap();
    let limiter = Limiter::new(Arc::new(NearCache::new(Arc::new(failover), Duration::from_secs(1))), FailMode::Open);
    let patience = Duration::from_secs(10);
    let health = limiter.health(patience).await;
    assert_eq!((health.status, health.backends.len()), (Status::Healthy, 3));
    assert!(health.backends.iter().all(|found| found.is_up() && found.last_error.is_none()));

    remotes[0].away.store(true, Ordering::SeqCst);
    let policy = policy("5/h");
    assert!(!limiter.check(&[Charge { policy: &policy, key: "k", cost: 1 }]).await.unwrap().degraded);
    let health = limiter.health(patience).await;
    assert_eq!(health.status, Status::Degraded);
    let found = &health.backends[0];
    assert_eq!(found.name, "remote://");
    assert!(!found.is_up() && matches!(found.breaker, Some(BreakerState::Open(_))));
    let (error, ago) = found.last_error.clone().unwrap();
    assert!(error.detail.contains("away") && ago < patience);
    assert!(health.backends[1].is_up() && health.backends[2].is_up());

    remotes.iter().for_each(|remote| remote.away.store(true, Ordering::SeqCst));
    assert_eq!(limiter.health(patience).await.status, Status::Down);
    remotes.iter().for_each(|remote| remote.away.store(false, Ordering::SeqCst));
    assert_eq!(limiter.health(patience).await.status, Status::Healthy);
    let decision = limiter.check(&[Charge { policy: &policy, key: "k", cost: 1 }]).await.unwrap();
    assert!(!decision.degraded && remotes[0].asked() > remotes[1].asked(), "what was found up is used again");
}

#[tokio::test]
async fn health_waits_no_longer_than_it_is_told() {
    let clock = Arc::new(SystemClock::new());
    let hung: Vec<_> = (0..5).map(|_| Remote::new(clock.clone(), StoreErrorKind::Timeout)).collect();
    hung.iter().for_each(|remote| remote.is_hung.store(true, Ordering::SeqCst));
    let stores = hung.iter().map(|remote| remote.clone() as Arc<dyn Store>).collect();
    let failover = Failover::new(stores, Strategy::Priority, BreakerSettings::default()).unwrap();
    let limiter = Limiter::new(Arc::new(failover), FailMode::Closed);
    let started = Instant::now();
    let health = limiter.health(Duration::from_millis(200)).await;
    assert!(started.elapsed() < Duration::from_millis(900), "together, not one after the other");
    assert_eq!(health.status, Status::Down);
    let error = health.backends[4].ping.clone().unwrap_err();
    assert!(error.kind == StoreErrorKind::Timeout && error.detail.contains("200 ms"), "{error}");
    let memory = Limiter::new(Arc::new(MemoryStore::new(10)), FailMode::Closed);
    let health = memory.health(Duration::from_millis(200)).await;
    assert!(health.status == Status::Healthy && health.backends[0].breaker.is_none());
}
