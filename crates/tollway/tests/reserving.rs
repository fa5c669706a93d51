//! Costs that are known only afterwards.

use std::collections::HashMap;
use std::future::ready;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tollway::{Algorithm, Cell, FailMode, Limiter, Loaded, ManualClock, NearCache, Policy, Reply, Store, Timestamp};
use tollway_stores::cas::CasStore;

/// A map for a backend: its version is the value itself.
#[derive(Debug, Default)]
struct Map(Mutex<HashMap<String, Vec<u8>>>);

impl Cell for Map {
    fn name(&self) -> &str {
        "map://"
    }

    fn load(&self, key: &str) -> Reply<Option<Loaded>> {
        let found = self.0.lock().unwrap().get(key).cloned();
        Box::pin(ready(Ok(found.map(|bytes| Loaded { version: bytes.clone(), bytes }))))
    }

    fn swap(&self, key: &str, expected: Option<Vec<u8>>, bytes: Option<Vec<u8>>, _: Duration) -> Reply<bool> {
        let mut map = self.0.lock().unwrap();
        let holds = map.get(key) == expected.as_ref();
        match bytes {
            Some(bytes) if holds => drop(map.insert(key.to_owned(), bytes)),
            None if holds => drop(map.remove(key)),
            _ => {}
        }
        Box::pin(ready(Ok(holds)))
    }
}

fn limiter(near: bool) -> (Limiter, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_700_000_000)));
    let mut store: Arc<dyn Store> = Arc::new(CasStore::with_clock(Arc::new(Map::default()), "tollway", clock.clone()));
    if near {
        store = Arc::new(NearCache::new(store, Duration::from_secs(3_600)));
    }
    (Limiter::new(store, FailMode::Closed), clock)
}

fn policy() -> Arc<Policy> {
    Arc::new(Policy::new("tokens", "1000/h; 5000/d", Algorithm::Gcra).unwrap())
}

async fn left(limiter: &Limiter, policy: &Arc<Policy>) -> u32 {
    let charges = [tollway::Charge { policy, key: "k", cost: 0 }];
    limiter.peek(&charges).await.unwrap().remaining
}

#[tokio::test]
async fn what_was_not_used_is_given_back_to_the_token() {
    let ((limiter, _), policy) = (limiter(false), policy());
    let reservation = limiter.reserve(&policy, "k", 500).await.unwrap();
    assert_eq!(left(&limiter, &policy).await, 500);
    assert_eq!(reservation.commit(137).await.unwrap().remaining, 863);
    limiter.reserve(&policy, "k", 500).await.unwrap().cancel().await.unwrap();
    assert_eq!(left(&limiter, &policy).await, 863);
    let unchanged = limiter.reserve(&policy, "k", 63).await.unwrap().commit(63).await.unwrap();
    assert_eq!(unchanged.remaining, 800);
    drop(limiter.reserve(&policy, "k", 300).await.unwrap());
    assert_eq!(left(&limiter, &policy).await, 500, "who does not tell pays what was reserved");
}

#[tokio::test]
async fn what_was_used_beyond_is_owed() {
    let ((limiter, clock), policy) = (limiter(false), policy());
    let reservation = limiter.reserve(&policy, "k", 900).await.unwrap();
    assert_eq!(reservation.commit(1_200).await.unwrap().remaining, 0);
    // 200 are owed: 720 s at 1000 an hour, then one more permit's 3.6 s.
    let refused = limiter.check(&[tollway::Charge { policy: &policy, key: "k", cost: 1 }]).await.unwrap();
    assert_eq!(refused.retry_after, 723_600_000_000);
    clock.advance(refused.retry_after);
    assert!(limiter.check(&[tollway::Charge { policy: &policy, key: "k", cost: 1 }]).await.unwrap().allowed);
}

#[tokio::test]
async fn a_refused_reservation_holds_nothing() {
    let ((limiter, _), policy) = (limiter(false), policy());
    limiter.reserve(&policy, "k", 800).await.unwrap().commit(800).await.unwrap();
    let refused = limiter.reserve(&policy, "k", 500).await.unwrap();
    assert!(!refused.decision().allowed);
    refused.cancel().await.unwrap();
    assert_eq!(left(&limiter, &policy).await, 200);
}

#[tokio::test]
async fn a_refund_opens_the_door_at_once() {
    let ((limiter, _), policy) = (limiter(true), policy());
    let charge = |cost| [tollway::Charge { policy: &policy, key: "k", cost }];
    assert!(limiter.check(&charge(1_000)).await.unwrap().allowed);
    assert!(!limiter.check(&charge(1)).await.unwrap().allowed);
    assert!(!limiter.check(&charge(1)).await.unwrap().allowed, "from the near-cache");
    limiter.refund(&policy, "k", 2_000).await.unwrap();
    assert_eq!(limiter.check(&charge(1)).await.unwrap().remaining, 999, "no more than was spent");
}
