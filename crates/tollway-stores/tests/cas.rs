//! A store made of load and swap keeps the promises of every store, whoever else is at it.

use std::collections::HashMap;
use std::future::ready;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tollway_core::{
    Algorithm, Cell, Charge, Loaded, ManualClock, Policy, Reply, Request, Store, StoreErrorKind, Timestamp, conformance,
};
use tollway_stores::cas::CasStore;

/// A map with row versions, where every swap may be made to lose.
#[derive(Debug, Default)]
struct Map {
    rows: Mutex<HashMap<String, (Vec<u8>, u64)>>,
    version: AtomicU64,
    losing: AtomicU64,
}

impl Cell for Map {
    fn name(&self) -> &str {
        "map://"
    }

    fn load(&self, key: &str) -> Reply<Option<Loaded>> {
        let found = self.rows.lock().unwrap().get(key).cloned();
        let loaded = found.map(|(bytes, version)| Loaded { bytes, version: version.to_be_bytes().into() });
        Box::pin(async move {
            tokio::task::yield_now().await;
            Ok(loaded)
        })
    }

    fn swap(&self, key: &str, expected: Option<Vec<u8>>, bytes: Option<Vec<u8>>, _: Duration) -> Reply<bool> {
        let mut rows = self.rows.lock().unwrap();
        let held = rows.get(key).map(|(_, version)| version.to_be_bytes().to_vec());
        let lost = self.losing.load(Ordering::SeqCst) > 0;
        let holds = held == expected && !lost;
        if lost {
            self.losing.fetch_sub(1, Ordering::SeqCst);
        } else if holds {
            let version = self.version.fetch_add(1, Ordering::SeqCst);
            match bytes {
                Some(bytes) => drop(rows.insert(key.to_owned(), (bytes, version))),
                None => drop(rows.remove(key)),
            }
        }
        Box::pin(ready(Ok(holds)))
    }
}

#[tokio::test]
async fn conforms() {
    conformance::run(Arc::new(CasStore::new(Arc::new(Map::default()), "tollway")), "cas").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn callers_together_get_the_limit() {
    let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_700_000_000)));
    let store = Arc::new(CasStore::with_clock(Arc::new(Map::default()), "tollway", clock));
    let policy = Arc::new(Policy::new("p", "50/h", Algorithm::Gcra).unwrap());
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let (store, policy) = (store.clone(), policy.clone());
            tokio::spawn(async move { conformance::hammer(&*store, &policy, "k", 50).await.0 })
        })
        .collect();
    let mut passed = 0;
    for task in tasks {
        passed += task.await.unwrap();
    }
    assert_eq!(passed, 50);
}

#[tokio::test]
async fn endless_contention_is_told() {
    let map = Arc::new(Map::default());
    let store = CasStore::new(map.clone(), "tollway");
    let policy = Arc::new(Policy::new("p", "50/h", Algorithm::Gcra).unwrap());
    map.losing.store(u64::MAX, Ordering::SeqCst);
    let charges = [Charge { policy: &policy, key: "k", cost: 1 }];
    let error = store.apply(&[Request { charges: &charges, peek: false }]).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Conflict);
    map.losing.store(5, Ordering::SeqCst);
    assert!(store.apply(&[Request { charges: &charges, peek: false }]).await.unwrap()[0].allowed);
}

#[tokio::test]
async fn a_key_lost_midway_is_given_back() {
    let map = Arc::new(Map::default());
    let store = CasStore::new(map.clone(), "tollway");
    let [one, two] = ["one", "two"].map(|name| Arc::new(Policy::new(name, "50/h", Algorithm::Gcra).unwrap()));
    let charges = [Charge { policy: &one, key: "k", cost: 10 }, Charge { policy: &two, key: "k", cost: 10 }];
    // Somebody else spends from the second key each time it was read.
    for _ in 0..3 {
        let thief = CasStore::new(map.clone(), "tollway");
        let steal = [Charge { policy: &two, key: "k", cost: 1 }];
        let requests = [Request { charges: &charges, peek: false }];
        let theft = [Request { charges: &steal, peek: false }];
        let (both, stolen) = tokio::join!(store.apply(&requests), thief.apply(&theft));
        assert!(both.unwrap()[0].allowed && stolen.unwrap()[0].allowed);
    }
    for (policy, left) in [(&one, 20), (&two, 17)] {
        let look = [Charge { policy, key: "k", cost: 0 }];
        let decision = store.apply(&[Request { charges: &look, peek: true }]).await.unwrap()[0];
        assert_eq!(decision.remaining, left, "{}", policy.name());
    }
}

#[tokio::test]
async fn what_somebody_else_wrote_is_named() {
    let map = Arc::new(Map::default());
    map.rows.lock().unwrap().insert("tollway:p:{k}".into(), (vec![7, 7, 7], 1));
    let store = CasStore::new(map, "tollway");
    let policy = Arc::new(Policy::new("p", "50/h", Algorithm::Gcra).unwrap());
    let charges = [Charge { policy: &policy, key: "k", cost: 1 }];
    let error = store.apply(&[Request { charges: &charges, peek: false }]).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Corrupt);
    assert!(error.detail.contains("tollway:p:{k}") && error.detail.contains("version 7"), "{error}");
    store.reset(&policy, "k").await.unwrap();
    assert!(store.apply(&[Request { charges: &charges, peek: false }]).await.unwrap()[0].allowed);
}
