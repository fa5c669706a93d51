//! `redis+cluster://`: conformance, keys in several slots, slots that move, a primary that dies.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tollway_core::{Algorithm, Charge, Request, Store, StoreErrorKind, conformance};
use tollway_stores::redis::{RedisOptions, RedisStore};

use super::servers::Redis;
use super::servers::cluster::{Nodes, info};
use super::servers::sentinel::wait;
use super::{check, open, patient, policy, raw};

#[tokio::test(flavor = "multi_thread")]
async fn it_conforms_and_charges_several_slots() {
    let nodes = Nodes::start();
    let store = open(&nodes.url(), patient());
    assert!(!store.capabilities().multi_key_atomic);
    conformance::run(store.clone(), "cluster").await;
    a_user_with_the_documented_rights_may_all(&nodes).await;
    several_slots(&store).await;
    batches_keep_their_order(&store).await;
    slots_move_under_load(&nodes, &store).await;
}

async fn a_user_with_the_documented_rights_may_all(nodes: &Nodes) {
    let rules = "~tollway:* +evalsha +script|load +get +set +del +hget +hset +hdel +exists +pexpire +scan +unlink +eval +time +ping +select +cluster|slots +asking";
    let rules: Vec<_> = rules.split(' ').collect();
    for node in &nodes.0 {
        let mut connection = node.connection();
        redis::cmd("ACL").arg(&["SETUSER", "rl", "on", ">pw"]).arg(&rules).exec(&mut connection).unwrap();
    }
    let store = open(&nodes.url().replace("://", "://rl:pw@"), patient());
    store.ping().await.unwrap();
    let policy = policy("small", "5/h", Algorithm::Gcra);
    for key in ["a", "b", "c", "d", "e", "f"] {
        assert!(check(&store, &policy, key, 1).await.unwrap().allowed, "the documented rights are enough");
        store.reset(&policy, key).await.unwrap();
    }
}

async fn several_slots(store: &RedisStore) {
    let (wide, tight) = (policy("wide", "100/w", Algorithm::Gcra), policy("tight", "3/w", Algorithm::Gcra));
    let charges = [
        Charge { policy: &wide, key: "org", cost: 2 },
        Charge { policy: &wide, key: "user", cost: 1 },
        Charge { policy: &tight, key: "user", cost: 1 },
    ];
    for round in 0..6 {
        let answers = store.apply(&[Request { charges: &charges, peek: false }]).await.unwrap();
        let decision = answers[0];
        assert_eq!(decision.allowed, round < 3, "round {round}");
        assert_eq!((decision.charge, decision.limit), (2, 3), "the tightest speaks");
    }
    // Refusals charged nobody.
    assert_eq!(check(store, &wide, "org", 0).await.unwrap().remaining, 94);
    assert_eq!(check(store, &wide, "user", 0).await.unwrap().remaining, 97);
    // Together they never get more, and what a race charged in vain is given back.
    let race = policy("race", "20/w", Algorithm::Gcra);
    let request = || async {
        let charges = [Charge { policy: &wide, key: "team", cost: 1 }, Charge { policy: &race, key: "one", cost: 1 }];
        store.apply(&[Request { charges: &charges, peek: false }]).await.unwrap()[0].allowed
    };
    let mut passed = 0;
    for _ in 0..10 {
        let (a, b, c, d) = tokio::join!(request(), request(), request(), request());
        passed += [a, b, c, d].into_iter().filter(|allowed| *allowed).count();
    }
    assert!(passed <= 20, "{passed} passed");
    let left = check(store, &wide, "team", 0).await.unwrap().remaining as usize;
    assert_eq!(left, 100 - passed, "what did not pass was given back");
}

async fn batches_keep_their_order(store: &RedisStore) {
    let policy = policy("batch", "2/w", Algorithm::Gcra);
    let keys: Vec<String> = (0..600).map(|n| format!("k{}", n % 200)).collect();
    let charges: Vec<_> = keys.iter().map(|key| [Charge { policy: &policy, key, cost: 1 }]).collect();
    let requests: Vec<_> = charges.iter().map(|charges| Request { charges, peek: false }).collect();
    let answers = store.apply(&requests).await.unwrap();
    for (index, decision) in answers.iter().enumerate() {
        assert_eq!(decision.allowed, index < 400, "request {index}");
    }
}

/// Exactly the limit passes while the slot goes from one node to another, and nobody sees an error.
async fn slots_move_under_load(nodes: &Nodes, store: &Arc<RedisStore>) {
    let policy = policy("moving", "400/w", Algorithm::Gcra);
    let keys = ["tollway:moving:{m}", "tollway:other:{m}"];
    let slot = nodes.slot(keys[0]);
    let from = nodes.owner(slot).expect("somebody has it");
    let to = (0..6).find(|n| *n != from && info(&nodes.0[*n], "INFO", "replication").contains("role:master")).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (store, policy, stop) = (Arc::clone(store), Arc::clone(&policy), Arc::clone(&stop));
            tokio::spawn(async move {
                // A log of many records, in pieces.
                let other = super::policy("other", "10000/h", Algorithm::SlidingLog);
                let mut passed = 0;
                while !stop.load(Ordering::Relaxed) {
                    // Two keys of one slot: while it moves, some are here and some there.
                    let charges =
                        [Charge { policy: &policy, key: "m", cost: 1 }, Charge { policy: &other, key: "m", cost: 1 }];
                    let answers = store.apply(&[Request { charges: &charges, peek: false }]).await;
                    passed += u64::from(answers.expect("no error while a slot moves")[0].allowed);
                }
                passed
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (from_id, to_id) = (nodes.id(from), nodes.id(to));
    let (mut source, mut target) = (nodes.0[from].connection(), nodes.0[to].connection());
    let set = |connection: &mut redis::Connection, words: &[&str]| {
        redis::cmd("CLUSTER").arg("SETSLOT").arg(slot).arg(words).exec(connection).unwrap();
    };
    set(&mut target, &["IMPORTING", &from_id]);
    set(&mut source, &["MIGRATING", &to_id]);
    for key in keys {
        let port = nodes.0[to].port();
        let words = ("127.0.0.1", port, key, 0, 5_000);
        redis::cmd("MIGRATE")
            .arg(words.0)
            .arg(words.1)
            .arg(words.2)
            .arg(words.3)
            .arg(words.4)
            .exec(&mut source)
            .unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    set(&mut target, &["NODE", &to_id]);
    set(&mut source, &["NODE", &to_id]);
    wait("the other nodes know", || nodes.owner(slot) == Some(to));
    let end = Instant::now() + Duration::from_secs(10);
    while check(store, &policy, "m", 0).await.unwrap().remaining > 0 {
        assert!(Instant::now() < end, "the callers stand still");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut passed = 0;
    for caller in callers {
        passed += caller.await.unwrap();
    }
    assert_eq!(passed, 400);
    assert!(raw(&mut target, keys[0]).is_some(), "counted at the new node");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_dies_costs_seconds_and_one_limit() {
    let mut nodes = Nodes::start();
    let store = open(&nodes.url(), RedisOptions::default());
    let policy = policy("p", "300/w", Algorithm::Gcra);
    let slot = nodes.slot("tollway:p:{k}");
    let primary = nodes.owner(slot).expect("somebody has it");
    let elsewhere = (0..).map(|n| format!("e{n}")).find(|key| nodes.owner(nodes.slot(key)) != Some(primary)).unwrap();
    wait("the nodes are reached", || nodes.0.iter().all(|node| info(node, "CLUSTER", "INFO").contains("state:ok")));
    let (stop, errors) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let (store, policy) = (Arc::clone(&store), Arc::clone(&policy));
            let (stop, errors) = (Arc::clone(&stop), Arc::clone(&errors));
            tokio::spawn(async move {
                let mut passed = 0;
                while !stop.load(Ordering::Relaxed) {
                    match check(&store, &policy, "k", 1).await {
                        Ok(decision) => passed += u64::from(decision.allowed),
                        Err(error) => {
                            assert!(error.is_transient(), "{error}");
                            errors.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                passed
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    nodes.0[primary].kill();
    wait("its replica has the slot", || nodes.owner(slot).is_some_and(|owner| owner != primary));
    let end = Instant::now() + Duration::from_secs(10);
    while check(&store, &policy, "k", 1).await.is_err() {
        assert!(Instant::now() < end, "no recovery");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The other nodes refuse theirs until they know the new primary.
    wait("the others know it", || {
        let living = nodes.0.iter().enumerate().filter(|(number, _)| *number != primary);
        living.into_iter().all(|(_, node)| info(node, "CLUSTER", "INFO").contains("state:ok"))
    });
    check(&store, &policy, &elsewhere, 1).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let before = errors.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(500)).await;
    stop.store(true, Ordering::Relaxed);
    let mut passed = 0;
    for caller in callers {
        passed += caller.await.unwrap();
    }
    let errors = errors.load(Ordering::Relaxed);
    println!("cluster: {passed} passed, {errors} errors");
    // 8 callers, an error each 10 ms at most, for the seconds of the failover.
    assert!((1..8 * 100 * 30).contains(&errors) && errors - before <= 8, "{errors} errors, {before} before the end");
    // The replica knows all but what was on its way, so at most one limit more, and nearly none.
    assert!((100..=600).contains(&passed), "{passed} passed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_no_cluster_says_so() {
    let server = Redis::start();
    let url = format!("redis+cluster://127.0.0.1:{}", server.port());
    let error = open(&url, RedisOptions::default()).ping().await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Misconfigured, "{error}");
    assert!(error.detail.contains("no node of a cluster"), "{error}");
}
