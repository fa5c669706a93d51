//! `redis+sentinel://`: conformance, and failovers under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tollway_core::{Algorithm, Store, StoreErrorKind, conformance};
use tollway_stores::redis::RedisOptions;

use super::servers::cluster::info;
use super::servers::sentinel::{SERVICE, Watched};
use super::servers::{self, Redis};
use super::{check, open, patient, policy};

/// What eight callers saw until told to stop.
#[derive(Default)]
struct Seen {
    stop: AtomicBool,
    allowed: AtomicU64,
    errors: AtomicU64,
    left: AtomicU64,
    /// Since when there were answers only.
    well: std::sync::Mutex<Option<Instant>>,
}

/// Waits until the callers are answered again, and have been for a while.
async fn answered_again(seen: &Seen) {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let well = *seen.well.lock().unwrap();
        if well.is_some_and(|well| well.elapsed() > Duration::from_millis(1_500)) {
            return;
        }
        assert!(Instant::now() < end, "no recovery");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_conforms_and_follows_failovers_under_load() {
    let mut servers = Watched::start();
    let store = open(&servers.url(), patient());
    conformance::run(store, "sentinel").await;
    // Slow answers of a busy machine are not what is looked for.
    let options = RedisOptions { command_timeout: Duration::from_secs(1), ..RedisOptions::default() };
    let store = open(&servers.url(), options);
    let (seen, policy) = (Arc::new(Seen::default()), policy("p", "1000/w", Algorithm::Gcra));
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let (store, seen, policy) = (Arc::clone(&store), Arc::clone(&seen), Arc::clone(&policy));
            tokio::spawn(async move {
                while !seen.stop.load(Ordering::Relaxed) {
                    match check(&store, &policy, "k", 1).await {
                        Ok(decision) => {
                            seen.allowed.fetch_add(u64::from(decision.allowed), Ordering::Relaxed);
                            seen.well.lock().unwrap().get_or_insert_with(Instant::now);
                        }
                        Err(error) => {
                            assert!(error.is_transient(), "{error}");
                            seen.errors.fetch_add(1, Ordering::Relaxed);
                            *seen.well.lock().unwrap() = None;
                        }
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            })
        })
        .collect();
    // With both alive: the old primary becomes a replica.
    tokio::time::sleep(Duration::from_millis(300)).await;
    servers.fail_over();
    answered_again(&seen).await;
    // The one that was the replica dies; the other takes over again. One sentinel is gone as well.
    servers::sentinel::wait("both are in step", || {
        info(&servers.primary, "INFO", "replication").contains("master_link_status:up")
    });
    servers.kill_a_sentinel();
    let fixed = super::policy("fixed", "100/w", Algorithm::Gcra);
    seen.left.store(u64::from(check(&store, &fixed, "k", 40).await.unwrap().remaining), Ordering::Relaxed);
    servers::sentinel::wait("the replica knows", || {
        super::raw(&mut servers.primary.connection(), "tollway:fixed:{k}").is_some()
    });
    servers.replica.kill();
    servers::sentinel::wait("the old primary is the primary again", || {
        servers::sentinel::role(&servers.primary) == "master"
    });
    answered_again(&seen).await;
    seen.stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    let (allowed, errors) = (seen.allowed.load(Ordering::Relaxed), seen.errors.load(Ordering::Relaxed));
    println!("{SERVICE}: {allowed} allowed, {errors} errors");
    // While it was away, each caller saw at most one error every 10 ms.
    assert!(errors < 8 * 100 * 40, "{errors} errors");
    // A failover loses at most what the replaced primary counted, so each adds at most one limit.
    assert!((1_000..=3_000).contains(&allowed), "{allowed} allowed");
    // The killed one loses no more than was on its way to the replica.
    let left = seen.left.load(Ordering::Relaxed);
    let now = check(&store, &fixed, "k", 0).await.unwrap().remaining;
    assert!(now <= u32::try_from(left).unwrap() + 1, "{left} permits were left, now {now}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_sentinels_do_not_know_is_said() {
    let server = Redis::start();
    for (url, kind, part) in [
        // Some other server.
        (format!("redis+sentinel://127.0.0.1:{}/{SERVICE}", server.port()), StoreErrorKind::Misconfigured, "sentinel"),
        (
            format!("redis+sentinel://127.0.0.1:{}/{SERVICE}", servers::free_port()),
            StoreErrorKind::Unavailable,
            "nothing listens",
        ),
    ] {
        let error = open(&url, RedisOptions::default()).ping().await.unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.detail.contains(part) && error.detail.contains(SERVICE), "{error}");
    }
}
