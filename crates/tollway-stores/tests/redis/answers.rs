//! What single answers do to the server, and what it says when a value is not ours.

use std::sync::Arc;

use tollway_core::{Algorithm, Align, Charge, Request, Store, StoreErrorKind};
use tollway_stores::redis::{RedisOptions, RedisStore};

use super::servers::Redis;
use super::{check, expiry, open, patient, peek, policy, raw};

#[tokio::test(flavor = "multi_thread")]
async fn refusals_write_nothing() {
    let server = Redis::start();
    let store = open(&server.url(), patient());
    let mut connection = server.connection();
    for algorithm in Algorithm::all() {
        let rates = if algorithm == Algorithm::Calendar { "5/day UTC; 100/month" } else { "5/h; 100/d" };
        let policy = policy("p", rates, algorithm);
        check(&store, &policy, "k", 5).await.unwrap();
        let before = raw(&mut connection, "tollway:p:{k}").expect("a value");
        let lifetime = expiry(&mut connection, "tollway:p:{k}").expect("a lifetime");
        for _ in 0..10 {
            assert!(!check(&store, &policy, "k", 1).await.unwrap().allowed);
            assert!(!check(&store, &policy, "k", 1_000).await.unwrap().allowed);
            assert!(!peek(&store, &policy, "k").await.unwrap().allowed);
            assert!(check(&store, &policy, "k", 0).await.unwrap().allowed, "nothing asked, nothing to write");
        }
        assert_eq!(raw(&mut connection, "tollway:p:{k}"), Some(before), "{algorithm}");
        let after = expiry(&mut connection, "tollway:p:{k}").expect("a lifetime");
        // Redis 6 reads its clock twice for it.
        assert!(after.abs_diff(lifetime) <= 1, "{algorithm}: {after} instead of {lifetime}");
        store.reset(&policy, "k").await.unwrap();
        assert_eq!(raw(&mut connection, "tollway:p:{k}"), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_go_away_when_they_no_longer_matter() {
    let server = Redis::start();
    let store = open(&server.url(), patient());
    let mut connection = server.connection();
    for (algorithm, lifetime) in [
        (Algorithm::Gcra, 3_600_000),
        (Algorithm::FixedWindow(Align::Clock), 3_600_000),
        (Algorithm::SlidingWindow, 7_200_000),
    ] {
        let policy = policy("p", "5/h; 2/m", algorithm);
        check(&store, &policy, "k", 1).await.unwrap();
        let left: i64 = redis::cmd("PTTL").arg("tollway:p:{k}").query(&mut connection).unwrap();
        assert!((lifetime - 10_000..=lifetime + 2).contains(&left), "{algorithm}: {left} ms");
        store.reset(&policy, "k").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_ours_is_named_and_left_alone() {
    let server = Redis::start();
    let store = open(&server.url(), patient());
    let mut connection = server.connection();
    let policy = policy("p", "5/h", Algorithm::Gcra);
    let later = "1 b5/3600000/5:9007199254740992:0";
    let fraction = "1 b5/3600000/5:1700000000000000:5";
    for (value, part) in [
        ("hello", "\"hello\""),
        ("", "\"\""),
        ("17", "no state of a limit"),
        ("2 b5/3600000/5:1:0", "version 2 and this build reads version 1"),
        ("1 b05/3600000/5:1700000000000000:0", "no state of a limit"),
        ("1 b5/3600000/5:1700000000000000:0:0", "no state of a limit"),
        ("1 b5/3600000/5:1700000000000000:0 ", "no state of a limit"),
        (later, "no state of a limit"),
        (fraction, "no state of a limit"),
        ("1 b0/3600000/5:1:0", "no state of a limit"),
        ("1 w2000000000/3600000/2000000000:1:0", "no state of a limit"),
    ] {
        redis::cmd("SET").arg("tollway:p:{k}").arg(value).exec(&mut connection).unwrap();
        for _ in 0..2 {
            let error = check(&store, &policy, "k", 1).await.expect_err(value);
            assert_eq!(error.kind, StoreErrorKind::Corrupt, "{error}");
            assert!(error.to_string().contains(part) && error.detail.contains("tollway:p:{k}"), "{error}");
        }
        assert_eq!(raw(&mut connection, "tollway:p:{k}").as_deref(), Some(value));
    }
    let sliding = super::policy("p", "5/h", Algorithm::SlidingWindow);
    let value = "1 s5/3600000/5:1700000000000000:0:4294967296";
    redis::cmd("SET").arg("tollway:p:{k}").arg(value).exec(&mut connection).unwrap();
    let error = check(&store, &sliding, "k", 1).await.expect_err(value);
    assert!(error.detail.contains("no state of a limit"), "{error}");
    assert_eq!(raw(&mut connection, "tollway:p:{k}").as_deref(), Some(value));
    redis::pipe().del("tollway:p:{k}").rpush("tollway:p:{k}", "x").exec(&mut connection).unwrap();
    let error = check(&store, &policy, "k", 1).await.expect_err("a list");
    assert_eq!(error.kind, StoreErrorKind::Corrupt);
    assert!(error.detail.contains("another type of value") && error.detail.contains("DEL"), "{error}");
    store.reset(&policy, "k").await.unwrap();
    assert!(check(&store, &policy, "k", 1).await.unwrap().allowed);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_value_spoils_neither_its_request_nor_others() {
    let server = Redis::start();
    let store = open(&server.url(), patient());
    let mut connection = server.connection();
    let policy = policy("p", "5/h", Algorithm::Gcra);
    redis::cmd("RPUSH").arg("tollway:p:{bad}").arg("x").exec(&mut connection).unwrap();
    let both = [Charge { policy: &policy, key: "good", cost: 1 }, Charge { policy: &policy, key: "bad", cost: 1 }];
    store.apply(&[Request { charges: &both, peek: false }]).await.expect_err("one of two keys is a list");
    assert_eq!(raw(&mut connection, "tollway:p:{good}"), None, "all or nothing");
    // Behind a call that waits for a frozen server, these three travel together.
    server.freeze();
    let first = store.ping();
    let (good, bad, other) = (one(&store, &policy, "good"), one(&store, &policy, "bad"), one(&store, &policy, "other"));
    server.thaw();
    first.await.unwrap();
    assert!(good.await.unwrap()[0].allowed);
    assert_eq!(bad.await.unwrap_err().kind, StoreErrorKind::Corrupt);
    assert!(other.await.unwrap()[0].allowed);
}

fn one(
    store: &RedisStore,
    policy: &Arc<tollway_core::Policy>,
    key: &str,
) -> tollway_core::Reply<Vec<tollway_core::Decision>> {
    store.apply(&[Request { charges: &[Charge { policy, key, cost: 1 }], peek: false }])
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_cannot_be_are_refused() {
    let server = Redis::start();
    let store = open(&server.url(), patient());
    let policy = policy("p", "5/h", Algorithm::Gcra);
    let twice = [Charge { policy: &policy, key: "k", cost: 1 }, Charge { policy: &policy, key: "k", cost: 1 }];
    for (charges, part) in [(&[][..], "without a charge"), (&twice[..], "twice")] {
        let error = store.apply(&[Request { charges, peek: false }]).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Unsupported);
        assert!(error.detail.contains(part), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_batches_keep_their_order() {
    let server = Redis::start();
    let store = open(&server.url(), patient());
    let policy = policy("p", "1000000/h", Algorithm::Gcra);
    let key = |n: u32| format!("k{}", n % 700);
    let keys: Vec<String> = (0..3_000).map(key).collect();
    // More shapes than one script call can name, more keys than one takes.
    let charges: Vec<_> =
        keys.iter().zip(1..).map(|(key, cost)| [Charge { policy: &policy, key, cost: cost % 600 }]).collect();
    let requests: Vec<_> = charges.iter().map(|charges| Request { charges, peek: false }).collect();
    let decisions = store.apply(&requests).await.unwrap();
    assert_eq!(decisions.len(), requests.len());
    let mut spent = std::collections::HashMap::new();
    for (decision, [charge]) in decisions.iter().zip(&charges) {
        let spent: &mut u32 = spent.entry(charge.key).or_default();
        *spent += charge.cost;
        assert_eq!((decision.cost, decision.allowed), (charge.cost, true));
        // The bucket refills while the batch is worked on: 278 permits a second.
        let left = 1_000_000 - *spent;
        assert!((left..left + 3_000).contains(&decision.remaining), "{decision:?} after {spent}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_batches_mix_all_kinds_of_limits() {
    let server = Redis::start();
    let store = open(&server.url(), patient());
    let policies: Vec<_> = Algorithm::all()
        .into_iter()
        .map(|algorithm| {
            let rates = if algorithm == Algorithm::Calendar { "3/year" } else { "3/d" };
            policy(&algorithm.name().replace(':', "-"), rates, algorithm)
        })
        .collect();
    let keys: Vec<String> = (0..3_000).map(|n| format!("k{}", n / 10)).collect();
    let charges: Vec<_> =
        keys.iter().zip(policies.iter().cycle()).map(|(key, policy)| [Charge { policy, key, cost: 1 }]).collect();
    let requests: Vec<_> = charges.iter().map(|charges| Request { charges, peek: false }).collect();
    for left in [Some(2), Some(1), Some(0), None] {
        for decision in store.apply(&requests).await.unwrap() {
            assert_eq!(decision.allowed.then_some(decision.remaining), left, "{decision:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_rate_takes_over_once() {
    let server = Redis::start();
    let store = open(&server.url(), patient());
    let mut connection = server.connection();
    let before = policy("p", "10/d; 50/w", Algorithm::FixedWindow(Align::Clock));
    let after = policy("p", "20/h; 50/w", Algorithm::FixedWindow(Align::Clock));
    check(&store, &before, "k", 5).await.unwrap();
    assert!(peek(&store, &after, "k").await.unwrap().allowed);
    assert!(raw(&mut connection, "tollway:p:{k}").unwrap().starts_with("1 w10/86400000/10:"), "a look changes nothing");
    // Half of the first limit, and the second one as it was.
    let decision = check(&store, &after, "k", 10).await.unwrap();
    assert_eq!((decision.allowed, decision.limit, decision.remaining), (true, 20, 0));
    let value = raw(&mut connection, "tollway:p:{k}").unwrap();
    assert!(value.starts_with("1 w20/3600000/20:") && value.ends_with(":15"), "{value}");
    // A limit that went away takes nothing with it.
    let fewer = policy("p", "20/h", Algorithm::FixedWindow(Align::Clock));
    assert_eq!(peek(&store, &fewer, "k").await.unwrap().remaining, 0);
    // Refused under a lower limit, the key moves too: it recovers by the new limit's law.
    let lower = policy("p", "1/h", Algorithm::FixedWindow(Align::Clock));
    assert!(!check(&store, &lower, "k", 1).await.unwrap().allowed);
    assert!(raw(&mut connection, "tollway:p:{k}").unwrap().starts_with("1 w1/3600000/1:"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_rate_beside_a_new_key() {
    let server = Redis::start();
    let store = open(&server.url(), patient());
    let before = policy("p", "10/d", Algorithm::SlidingWindow);
    let after = policy("p", "20/d", Algorithm::SlidingWindow);
    check(&store, &before, "old", 5).await.unwrap();
    let charges = [Charge { policy: &after, key: "old", cost: 1 }, Charge { policy: &after, key: "new", cost: 1 }];
    let decision = store.apply(&[Request { charges: &charges, peek: false }]).await.unwrap()[0];
    assert_eq!((decision.allowed, decision.charge, decision.remaining), (true, 0, 9));
    assert_eq!(check(&store, &after, "new", 0).await.unwrap().remaining, 19);
}

#[tokio::test(flavor = "multi_thread")]
async fn prefixes_and_databases_are_apart() {
    let server = Redis::start();
    let policy = policy("p", "1/h", Algorithm::Gcra);
    let options = RedisOptions { prefix: "other".into(), ..patient() };
    for store in [
        open(&server.url(), patient()),
        open(&server.url(), options),
        open(&format!("{}/1", server.url()), patient()),
        open(&format!("{}/2?protocol=resp3", server.url()), patient()),
    ] {
        assert!(check(&store, &policy, "k", 1).await.unwrap().allowed, "{store:?}");
        assert!(!check(&store, &policy, "k", 1).await.unwrap().allowed, "{store:?}");
    }
}

#[tokio::test]
async fn options_that_cannot_be_are_named() {
    let runtime = tokio::runtime::Handle::current();
    use std::time::Duration;
    let fine = RedisOptions::default;
    for (options, part) in [
        (RedisOptions { prefix: String::new(), ..fine() }, "prefix"),
        (RedisOptions { prefix: "a{b".into(), ..fine() }, "prefix"),
        (RedisOptions { queue: 0, ..fine() }, "queue"),
        (RedisOptions { command_timeout: Duration::ZERO, ..fine() }, "command_timeout"),
        (RedisOptions { connect_timeout: Duration::from_secs(10_000), ..fine() }, "connect_timeout"),
    ] {
        let error = RedisStore::open("redis://localhost", options, &runtime).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}
