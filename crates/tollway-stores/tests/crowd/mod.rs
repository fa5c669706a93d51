//! What is asked of every remote store alike: many callers at once, and one who asks again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tollway_core::{Algorithm, Charge, Decision, Policy, Request, Store, StoreError, Timestamp, conformance};

use super::Remote;

pub fn policy(name: &str, rates: &str, algorithm: Algorithm) -> Arc<Policy> {
    Arc::new(Policy::new(name, rates, algorithm).expect("a legal policy"))
}

pub async fn check(store: &Remote, policy: &Arc<Policy>, key: &str, cost: u32) -> Result<Decision, StoreError> {
    let charges = [Charge { policy, key, cost }];
    store.apply(&[Request { charges: &charges, peek: false }]).await.map(|decisions| decisions[0])
}

/// Asks until it is answered, at most 20 s; says what went wrong meanwhile.
pub async fn recovered(store: &Remote, policy: &Arc<Policy>, key: &str) -> Vec<StoreError> {
    let end = Instant::now() + Duration::from_secs(20);
    let mut errors = Vec::new();
    loop {
        match check(store, policy, key, 1).await {
            Ok(_) => return errors,
            Err(error) => {
                assert!(Instant::now() < end, "no recovery: {error}");
                assert!(error.is_transient(), "{error}");
                errors.push(error);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

/// 64 tasks on two stores spend a key of a limit of 100, `calls` times each: exactly the limit.
pub async fn tasks_get_the_limit(stores: &[Arc<Remote>; 2], policy: &Arc<Policy>, calls: usize) {
    let tasks: Vec<_> = (0..64)
        .map(|n| {
            let (store, policy) = (Arc::clone(&stores[n % 2]), Arc::clone(policy));
            tokio::spawn(async move { conformance::hammer(&*store, &policy, "k", calls).await })
        })
        .collect();
    let (mut passed, mut first, mut last) = (0, Timestamp::from_nanos(u64::MAX), Timestamp::default());
    for task in tasks {
        let (some, from, to) = task.await.unwrap();
        (passed, first, last) = (passed + some, first.min(from), last.max(to));
    }
    let bound = conformance::bound(policy, first, last);
    assert!((100..=bound).contains(&passed), "{}: {passed} of {bound}", policy.name());
    stores[0].reset(policy, "k").await.unwrap();
}
