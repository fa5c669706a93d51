//! The breaker and the near-cache around a store that counts how often it is asked.

mod remote;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tollway::{
    BreakerSettings, BreakerState, Change, Charge, Clock, Failover, Guard, ManualClock, NearCache, Request, Store,
    StoreErrorKind, Strategy, Timestamp, conformance,
};
use tollway_stores::SystemClock;

use remote::{Remote, ask, policy};

#[tokio::test]
async fn a_dead_store_is_asked_once_then_left_alone_then_asked_again() {
    let remote = Remote::new(Arc::new(SystemClock::new()), StoreErrorKind::Timeout);
    let settings = BreakerSettings { pause: 20_000_000, ..BreakerSettings::default() };
    let guard = Guard::new(remote.clone(), settings);
    let policy = policy("1000/h");
    assert!(ask(&guard, &policy, "k", 1).await.unwrap().allowed);
    remote.away.store(true, Ordering::SeqCst);
    for _ in 0..100 {
        assert!(ask(&guard, &policy, "k", 1).await.unwrap_err().is_transient());
    }
    assert_eq!(remote.asked(), 2, "one time-out, then the breaker answers");
    assert!(guard.reset(&policy, "k").await.is_err(), "every operation is covered");
    assert_eq!(remote.asked(), 2);

    remote.away.store(false, Ordering::SeqCst);
    let mut tries = 0;
    while ask(&guard, &policy, "k", 1).await.is_err() {
        tokio::time::sleep(Duration::from_millis(1)).await;
        tries += 1;
        assert!(tries < 5_000, "it comes back without help");
    }
    assert_eq!(guard.state(), BreakerState::Closed);
}

#[tokio::test]
async fn a_ping_that_succeeds_closes_it_at_once() {
    let remote = Remote::new(Arc::new(SystemClock::new()), StoreErrorKind::Unavailable);
    let settings = BreakerSettings { pause: 5_000_000_000, ..BreakerSettings::default() };
    let guard = Guard::new(remote.clone(), settings);
    remote.away.store(true, Ordering::SeqCst);
    assert!(ask(&guard, &policy("1/h"), "k", 1).await.is_err());
    assert!(guard.ping().await.is_err());
    assert!(matches!(guard.state(), BreakerState::Open(_)));
    remote.away.store(false, Ordering::SeqCst);
    guard.ping().await.unwrap();
    assert!(ask(&guard, &policy("1/h"), "k", 1).await.unwrap().allowed);
}

#[tokio::test]
async fn a_store_that_says_no_is_alive() {
    let remote = Remote::new(Arc::new(SystemClock::new()), StoreErrorKind::Corrupt);
    let guard = Guard::new(remote.clone(), BreakerSettings::default());
    remote.away.store(true, Ordering::SeqCst);
    for _ in 0..10 {
        assert!(ask(&guard, &policy("1/h"), "k", 1).await.is_err());
    }
    assert_eq!(remote.asked(), 10);
}

#[tokio::test]
async fn a_part_that_is_away_leaves_the_rest_alone() {
    let remote = Remote::new(Arc::new(SystemClock::new()), StoreErrorKind::Timeout);
    let guard = Guard::new(remote.clone(), BreakerSettings::default());
    remote.away.store(true, Ordering::SeqCst);
    remote.partly.store(true, Ordering::SeqCst);
    for _ in 0..10 {
        assert!(ask(&guard, &policy("1/h"), "k", 1).await.unwrap_err().is_transient());
    }
    assert!(guard.ping().await.is_err());
    assert_eq!((remote.asked(), guard.state()), (11, BreakerState::Closed));
}

#[tokio::test]
async fn an_abandoned_probe_makes_room_for_the_next() {
    let remote = Remote::new(Arc::new(SystemClock::new()), StoreErrorKind::Timeout);
    let guard = Guard::new(remote.clone(), BreakerSettings { pause: 1, max_pause: 1, ..BreakerSettings::default() });
    let policy = policy("1000/h");
    remote.away.store(true, Ordering::SeqCst);
    assert!(ask(&guard, &policy, "k", 1).await.is_err());
    remote.away.store(false, Ordering::SeqCst);
    let charges = [Charge { policy: &policy, key: "k", cost: 1 }];
    drop(guard.apply(&[Request { charges: &charges, peek: false }]));
    assert!(ask(&guard, &policy, "k", 1).await.is_ok());
}

#[tokio::test]
async fn a_refusal_is_repeated_until_the_store_would_let_it_pass() {
    let remote = Remote::new(Arc::new(SystemClock::new()), StoreErrorKind::Timeout);
    let near = NearCache::new(remote.clone(), Duration::from_secs(1));
    let policy = policy("2/100ms");
    let refused = loop {
        let decision = ask(&near, &policy, "k", 1).await.unwrap();
        if !decision.allowed {
            break decision;
        }
    };
    let asked = remote.asked();
    let due = refused.at.plus(refused.retry_after);
    let passed = loop {
        let decision = ask(&near, &policy, "k", 1).await.unwrap();
        if decision.allowed {
            break decision;
        }
        assert!(decision.remaining == 0 && decision.at.plus(decision.retry_after) <= due.plus(1_000_000));
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    assert!(passed.at >= due, "not a moment early");
    assert!(remote.asked() <= asked + 3, "asked {} times more", remote.asked() - asked);
}

#[tokio::test]
async fn under_attack_the_store_is_hardly_asked() {
    let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_700_000_000)));
    let remote = Remote::new(clock, StoreErrorKind::Timeout);
    let near = NearCache::new(remote.clone(), Duration::from_secs(3_600));
    let policy = policy("5/h");
    for _ in 0..1_000 {
        ask(&near, &policy, "k", 1).await.unwrap();
    }
    assert_eq!(remote.asked(), 6, "five pass, the sixth is refused, the rest is answered here");
    // A larger cost may have another answer, so it is asked.
    assert!(!ask(&near, &policy, "k", 2).await.unwrap().allowed);
    assert_eq!(remote.asked(), 7);
    near.reset(&policy, "k").await.unwrap();
    assert!(ask(&near, &policy, "k", 1).await.unwrap().allowed, "a reset is effective at once");
}

#[tokio::test]
async fn what_is_freed_is_asked_for_again_and_nothing_else_is() {
    let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_700_000_000)));
    let remote = Remote::new(clock, StoreErrorKind::Timeout);
    let near = NearCache::new(remote.clone(), Duration::from_secs(3_600));
    let policy = policy("1/h");
    for key in ["victim", "attacker"] {
        assert!(ask(&near, &policy, key, 1).await.unwrap().allowed);
        assert!(!ask(&near, &policy, key, 1).await.unwrap().allowed);
    }
    let charges = [Charge { policy: &policy, key: "victim", cost: 1 }];
    let on_its_way = near.apply(&[Request { charges: &charges, peek: false }]);
    let named_anew = Arc::new(tollway::Policy::new("p", "1/h", tollway::Algorithm::Gcra).unwrap());
    near.adjust(&named_anew, "victim", Change::Refund(1)).await.unwrap();
    assert!(!on_its_way.await.unwrap()[0].allowed, "decided before");
    assert!(ask(&near, &policy, "victim", 1).await.unwrap().allowed, "and not believed after");
    let asked = remote.asked();
    for _ in 0..100 {
        assert!(!ask(&near, &policy, "attacker", 1).await.unwrap().allowed);
    }
    assert_eq!(remote.asked(), asked, "somebody else's refund is no reason to ask");
    for number in 0..3_000 {
        near.adjust(&policy, &format!("other-{number}"), Change::Refund(1)).await.unwrap();
    }
    assert!(!ask(&near, &policy, "attacker", 1).await.unwrap().allowed, "whatever was forgotten");
}

#[tokio::test]
async fn permits_in_flight_come_back_at_any_time() {
    let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_700_000_000)));
    let remote = Remote::new(clock, StoreErrorKind::Timeout);
    let near = NearCache::new(remote.clone(), Duration::from_secs(3_600));
    let policy = Arc::new(tollway::Policy::new("p", "1/m", tollway::Algorithm::Concurrency).unwrap());
    let held = ask(&near, &policy, "k", 1).await.unwrap();
    assert!(held.allowed && !ask(&near, &policy, "k", 1).await.unwrap().allowed);
    // By another process.
    remote.adjust(&policy, "k", Change::Release { since: held.at, cost: 1 }).await.unwrap();
    assert!(ask(&near, &policy, "k", 1).await.unwrap().allowed);
}

#[tokio::test]
async fn wrapped_stores_still_conform() {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let remote = Remote::new(clock, StoreErrorKind::Timeout);
    conformance::run(Arc::new(Guard::new(remote, BreakerSettings::default())), "guard").await;
}

fn three() -> (Vec<Arc<Remote>>, Vec<Arc<dyn Store>>) {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let remotes: Vec<_> = (0..3).map(|_| Remote::new(clock.clone(), StoreErrorKind::Unavailable)).collect();
    let stores = remotes.iter().map(|remote| remote.clone() as Arc<dyn Store>).collect();
    (remotes, stores)
}

fn asked(remotes: &[Arc<Remote>]) -> Vec<u32> {
    remotes.iter().map(|remote| remote.asked()).collect()
}

#[tokio::test]
async fn priority_goes_back_and_first_healthy_stays() {
    for (strategy, expected) in [(Strategy::Priority, [21, 10, 0]), (Strategy::FirstHealthy, [11, 20, 0])] {
        let (remotes, stores) = three();
        let settings = BreakerSettings { pause: 1_000_000_000, ..BreakerSettings::default() };
        let failover = Failover::new(stores, strategy, settings).unwrap();
        let policy = policy("1000/h");
        for _ in 0..10 {
            ask(&failover, &policy, "k", 1).await.unwrap();
        }
        remotes[0].away.store(true, Ordering::SeqCst);
        for _ in 0..10 {
            ask(&failover, &policy, "k", 1).await.unwrap();
        }
        remotes[0].away.store(false, Ordering::SeqCst);
        let before = asked(&remotes);
        failover.ping().await.unwrap();
        let pings: Vec<_> = asked(&remotes).iter().zip(before).map(|(after, before)| after - before).collect();
        assert_eq!(pings, [1, 1, 1]);
        for _ in 0..10 {
            ask(&failover, &policy, "k", 1).await.unwrap();
        }
        let checks: Vec<_> = asked(&remotes).iter().map(|asked| asked - 1).collect();
        assert_eq!(checks, expected, "{strategy:?}");
    }
}

#[tokio::test]
async fn a_key_has_one_store_and_keys_spread() {
    let (remotes, stores) = three();
    let failover = Failover::new(stores, Strategy::RoundRobin, BreakerSettings::default()).unwrap();
    let policy = policy("5/h");
    let mut passed = 0;
    for number in 0..300 {
        for _ in 0..10 {
            passed += u32::from(ask(&failover, &policy, &format!("key-{number}"), 1).await.unwrap().allowed);
        }
    }
    assert_eq!(passed, 1_500, "three stores, one limit");
    assert!(asked(&remotes).iter().all(|asked| (600..1_400).contains(asked)), "{:?}", asked(&remotes));
}

#[tokio::test]
async fn what_passes_during_a_failover_is_bounded_by_the_stores_used() {
    let (remotes, stores) = three();
    let failover = Failover::new(stores, Strategy::Priority, BreakerSettings::default()).unwrap();
    let policy = policy("5/h");
    let mut passed = 0;
    for round in 0..60 {
        remotes[0].away.store(round / 10 % 2 == 1, Ordering::SeqCst);
        passed += u32::from(ask(&failover, &policy, "k", 1).await.is_ok_and(|decision| decision.allowed));
    }
    assert_eq!(passed, 10);
    remotes.iter().for_each(|remote| remote.away.store(true, Ordering::SeqCst));
    assert!(ask(&failover, &policy, "k", 1).await.is_err());
}

#[tokio::test]
async fn a_failover_conforms_while_all_is_well() {
    for strategy in [Strategy::Priority, Strategy::FirstHealthy] {
        let (_, stores) = three();
        let failover = Failover::new(stores, strategy, BreakerSettings::default()).unwrap();
        conformance::run(Arc::new(failover), "failover").await;
    }
}

#[tokio::test]
async fn a_refund_never_frees_what_was_spent_elsewhere() {
    let (remotes, stores) = three();
    let failover = Failover::new(stores, Strategy::Priority, BreakerSettings::default()).unwrap();
    let policy = policy("10/h");
    assert!(ask(&failover, &policy, "k", 5).await.unwrap().allowed);
    assert!(ask(&*remotes[1].clone(), &policy, "k", 7).await.unwrap().allowed);
    remotes[0].away.store(true, Ordering::SeqCst);
    assert!(failover.adjust(&policy, "k", Change::Refund(5)).await.is_err(), "the store that counted is away");
    assert_eq!(ask(&*remotes[1].clone(), &policy, "k", 0).await.unwrap().remaining, 3);
}
