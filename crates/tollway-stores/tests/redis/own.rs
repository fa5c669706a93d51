//! Algorithms of one's own in Redis, and keys forgotten by their beginning.

use std::sync::{Arc, OnceLock};

use tollway_core::{
    Algorithm, Change, Charge, CustomAlgorithm, Limit, NEVER, Policy, Request, Store, StoreErrorKind, Timestamp,
    Verdict,
};

use super::servers::Redis;
use super::servers::cluster::Nodes;
use super::{check, open, patient, peek, policy};

/// So many permits for ever.
#[derive(Debug)]
struct Trial;

fn used(state: Option<&[u8]>) -> u32 {
    state.and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
}

impl CustomAlgorithm for Trial {
    fn name(&self) -> &str {
        "trial"
    }

    fn decide(&self, limit: &Limit, state: Option<&[u8]>, _: Timestamp, cost: u32) -> (Verdict, Vec<u8>) {
        let before = used(state);
        let allowed = cost <= limit.permits() - before;
        let after = if allowed { before + cost } else { before };
        let verdict = Verdict {
            allowed,
            remaining: limit.permits() - after,
            reset_after: if after > 0 { limit.period() } else { 0 },
            retry_after: if allowed { 0 } else { NEVER },
        };
        (verdict, after.to_le_bytes().to_vec())
    }

    fn adjust(&self, limit: &Limit, state: Option<&[u8]>, _: Timestamp, change: Change) -> Option<Vec<u8>> {
        let after = (i64::from(used(state)) + change.delta()).clamp(0, i64::from(limit.permits()));
        Some((after as u32).to_le_bytes().to_vec())
    }

    fn lifetime(&self, limit: &Limit) -> u64 {
        limit.period()
    }
}

fn trial() -> Algorithm {
    static TRIAL: OnceLock<Algorithm> = OnceLock::new();
    *TRIAL.get_or_init(|| Algorithm::register(Box::new(Trial)).expect("registered once"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_algorithm_of_ones_own_counts_to_the_last_permit() {
    let server = Redis::start();
    let stores = [open(&server.url(), patient()), open(&server.url(), patient())];
    let own = policy("own", "100/7d", trial());
    stores[0].keeps(&own).unwrap();
    let tasks: Vec<_> = (0..8)
        .map(|n| {
            let (store, own) = (Arc::clone(&stores[n % 2]), Arc::clone(&own));
            tokio::spawn(async move {
                let mut passed = 0;
                while passed < 30 {
                    match check(&store, &own, "k", 1).await {
                        Ok(decision) if decision.allowed => passed += 1,
                        Ok(_) => break,
                        Err(error) => assert_eq!(error.kind, StoreErrorKind::Conflict, "{error}"),
                    }
                }
                passed
            })
        })
        .collect();
    let mut passed = 0;
    for task in tasks {
        passed += task.await.unwrap();
    }
    assert_eq!(passed, 100);
    let store = &stores[0];
    let refused = check(store, &own, "k", 1).await.unwrap();
    assert_eq!((refused.allowed, refused.remaining, refused.retry_after), (false, 0, NEVER));
    assert_eq!(store.adjust(&own, "k", Change::Refund(7)).await.unwrap().remaining, 7);
    assert_eq!(peek(store, &own, "k").await.unwrap().remaining, 6);
    let mut connection = server.connection();
    let left: u64 = redis::cmd("PTTL").arg("tollway:own:{k}").query(&mut connection).unwrap();
    assert!((2 * 7 * 86_400_000 - 60_000..=2 * 7 * 86_400_000 + 1).contains(&left), "{left} ms");
    let (secs, _): (u64, u64) = redis::cmd("TIME").query(&mut connection).unwrap();
    assert!(refused.at.since(Timestamp::from_secs(secs - 30)) < 60_000_000_000, "the server's time: {refused:?}");
    store.reset(&own, "k").await.unwrap();
    assert_eq!(peek(store, &own, "k").await.unwrap().remaining, 99);
}

#[tokio::test(flavor = "multi_thread")]
async fn ones_own_and_built_in_ones_follow_each_other_but_do_not_mix() {
    let server = Redis::start();
    let store = open(&server.url(), patient());
    let (own, plain) = (policy("own", "10/d", trial()), policy("plain", "10/d", Algorithm::Gcra));
    let both = [Charge { policy: &own, key: "k", cost: 1 }, Charge { policy: &plain, key: "k", cost: 1 }];
    let error = store.apply(&[Request { charges: &both, peek: false }]).await.unwrap_err();
    assert_eq!((error.kind, error.detail.contains("\"plain\"")), (StoreErrorKind::Unsupported, true), "{error}");
    // In one batch they may be; each is answered in its place.
    let requests: Vec<_> =
        both.chunks(1).chain(both.chunks(1)).map(|charges| Request { charges, peek: false }).collect();
    let left: Vec<_> = store.apply(&requests).await.unwrap().iter().map(|decision| decision.remaining).collect();
    assert_eq!(left, [9, 9, 8, 8]);
    // A policy that changes its algorithm keeps the share spent, there and back.
    for algorithm in [Algorithm::SlidingWindow, trial(), Algorithm::SlidingLog, trial(), Algorithm::Gcra] {
        let changed: Arc<Policy> = policy("own", "10/d", algorithm);
        let decision = check(&store, &changed, "k", 1).await.unwrap();
        assert!(decision.allowed, "{algorithm}: {decision:?}");
        store.adjust(&changed, "k", Change::Refund(1)).await.unwrap();
        assert_eq!(peek(&store, &changed, "k").await.unwrap().remaining, 7, "{algorithm}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_keys_are_forgotten_by_their_beginning() {
    let server = Redis::start();
    let store = open(&server.url(), patient());
    forgets(&store, 5_000).await;
    let others: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut server.connection()).unwrap();
    assert_eq!(others.len(), 1 + 2 * 7, "{others:?}");
    // What would be read as a pattern is none.
    let odd = policy("o*[d]?^", "5/d", Algorithm::Gcra);
    for key in ["a*b", "a*c", "axb", "a?[b]"] {
        check(&store, &odd, key, 5).await.unwrap();
    }
    store.reset_prefix(&odd, "a*").await.unwrap();
    for (key, free) in [("a*b", true), ("a*c", true), ("axb", false), ("a?[b]", false)] {
        assert_eq!(peek(&store, &odd, key).await.unwrap().allowed, free, "{key}");
    }
    // Long identities are stored hashed: found with all, and not by a beginning.
    let long = format!("a*{}", "x".repeat(200));
    check(&store, &odd, &long, 5).await.unwrap();
    store.reset_prefix(&odd, "a*").await.unwrap();
    assert!(!peek(&store, &odd, &long).await.unwrap().allowed);
    let error = store.reset_prefix(&odd, &long).await.unwrap_err();
    assert_eq!((error.kind, error.detail.contains("hashed")), (StoreErrorKind::Unsupported, true), "{error}");
    store.reset_prefix(&odd, "").await.unwrap();
    assert!(peek(&store, &odd, &long).await.unwrap().allowed);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_of_a_cluster_forgets() {
    let nodes = Nodes::start();
    let store = open(&nodes.url(), patient());
    forgets(&store, 1_500).await;
    let own = policy("mine", "10/d", trial());
    for key in ["a", "b", "c", "d", "e", "f"] {
        assert_eq!(check(&store, &own, key, 3).await.unwrap().remaining, 7, "{key}");
        assert!(!check(&store, &own, key, 8).await.unwrap().allowed);
    }
    store.reset_prefix(&own, "").await.unwrap();
    assert_eq!(peek(&store, &own, "a").await.unwrap().remaining, 9);
}

/// Forgets `count` keys of two policies that begin alike, one with logs; leaves seven of each, and one of a third.
async fn forgets(store: &tollway_stores::redis::RedisStore, count: usize) {
    let policies = [policy("sweep", "5/d", Algorithm::Gcra), policy("logs", "5/d", Algorithm::SlidingLog)];
    let other = policy("sweeper", "5/d", Algorithm::Gcra);
    check(store, &other, "user:1", 5).await.unwrap();
    let keys: Vec<String> = (0..count).map(|n| format!("user:{n}")).chain((0..7).map(|n| format!("org:{n}"))).collect();
    for policy in &policies {
        let charges: Vec<_> = keys.iter().map(|key| [Charge { policy, key, cost: 5 }]).collect();
        let requests: Vec<_> = charges.iter().map(|charges| Request { charges, peek: false }).collect();
        assert!(store.apply(&requests).await.unwrap().iter().all(|decision| decision.allowed));
        store.reset_prefix(policy, "user:").await.unwrap();
        for (index, decision) in store.apply(&requests).await.unwrap().iter().enumerate() {
            assert_eq!(decision.allowed, index < count, "{}", keys[index]);
        }
        store.reset_prefix(policy, "user:").await.unwrap();
    }
    assert!(!peek(store, &other, "user:1").await.unwrap().allowed, "another policy's");
}
