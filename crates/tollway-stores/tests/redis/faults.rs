//! The server goes away, comes back, stands still, refuses: callers are told, and soon.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tollway_core::{Algorithm, Align, Change, Policy, Store, StoreErrorKind};
use tollway_stores::redis::{RedisOptions, RedisStore};

use super::crowd::recovered;
use super::servers::{self, Redis};
use super::{check, open, patient, policy};

fn five() -> Arc<Policy> {
    policy("p", "5/h", Algorithm::Gcra)
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_scripts_are_loaded_again_unseen() {
    lost_scripts_go_unseen(&Redis::start()).await;
}

pub(super) async fn lost_scripts_go_unseen(server: &Redis) {
    let store = open(&server.url(), patient());
    // Each script: those of one limit, that of several, and that of all kinds.
    let policies = [
        five(),
        policy("window", "5/52w", Algorithm::FixedWindow(Align::First)),
        policy("sliding", "5/52w", Algorithm::SlidingWindow),
        policy("several", "5/h; 9/d", Algorithm::Gcra),
        policy("log", "5/h", Algorithm::SlidingLog),
    ];
    for left in (0..5).rev() {
        for policy in &policies {
            assert_eq!(check(&store, policy, "k", 1).await.unwrap().remaining, left);
            redis::cmd("SCRIPT").arg("FLUSH").exec(&mut server.connection()).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_server_starts_from_nothing() {
    let server = Redis::start();
    let store = open(&server.url(), patient());
    check(&store, &five(), "k", 5).await.unwrap();
    redis::cmd("FLUSHALL").exec(&mut server.connection()).unwrap();
    assert_eq!(check(&store, &five(), "k", 1).await.unwrap().remaining, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_connections_are_made_anew_unseen() {
    let server = Redis::start();
    let store = open(&server.url(), patient());
    let policy = policy("p", "1000/h", Algorithm::Gcra);
    let mut connection = server.connection();
    for _ in 0..50 {
        check(&store, &policy, "k", 1).await.unwrap();
        redis::cmd("CLIENT").arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"]).exec(&mut connection).unwrap();
    }
    // Under load too. A call that was cut off is sent once more, so it may count twice, never less.
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let (store, policy) = (Arc::clone(&store), Arc::clone(&policy));
            tokio::spawn(async move {
                for _ in 0..40 {
                    check(&store, &policy, "k", 1).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            })
        })
        .collect();
    for _ in 0..10 {
        redis::cmd("CLIENT").arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"]).exec(&mut connection).unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for caller in callers {
        caller.await.unwrap();
    }
    assert!(check(&store, &policy, "k", 0).await.unwrap().remaining <= 1_000 - 370);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_is_named_and_found_again() {
    let mut server = Redis::start();
    let store = dies_and_is_found_again(&mut server).await;
    // It came back empty, and with nobody asking in between the next caller just waits.
    server.kill();
    check(&store, &five(), "k", 1).await.unwrap_err();
    server.restart();
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert!(check(&store, &five(), "k", 1).await.is_ok());
}

pub(super) async fn dies_and_is_found_again(server: &mut Redis) -> Arc<RedisStore> {
    let store =
        open(&server.url(), RedisOptions { command_timeout: Duration::from_secs(2), ..RedisOptions::default() });
    recovered(&store, &five(), "k").await;
    server.kill();
    let error = check(&store, &five(), "k", 1).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Unavailable);
    let remedy = format!("`redis-server --port {}`", server.port());
    assert!(error.to_string().contains(&server.url()) && error.detail.contains(&remedy), "{error}");
    // While it is away, answers are immediate and name the cause.
    let start = Instant::now();
    for _ in 0..1_000 {
        let error = check(&store, &five(), "k", 1).await.unwrap_err();
        assert!(error.detail.contains(&remedy), "{error}");
    }
    assert!(start.elapsed() < Duration::from_secs(2), "1000 refusals took {:?}", start.elapsed());
    server.restart();
    recovered(&store, &five(), "k").await;
    store
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_back_is_not_given_back_twice() {
    let mut server = Redis::start();
    let store = open(&server.url(), patient());
    check(&store, &five(), "k", 3).await.unwrap();
    server.freeze();
    let on_its_way = [store.adjust(&five(), "k", Change::by(-1)), store.adjust(&five(), "k", Change::by(1))];
    while store.waiting() > 1 {
        tokio::task::yield_now().await;
    }
    server.kill();
    let [back, charge] = on_its_way;
    let error = back.await.unwrap_err();
    assert!(error.kind == StoreErrorKind::Unavailable && error.detail.contains("not given back twice"), "{error}");
    // Whoever is charged may be charged again: this one looked for the server anew.
    let error = charge.await.unwrap_err();
    assert!(error.detail.contains("nothing listens"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stands_still_costs_one_time_out() {
    let server = Redis::start();
    let store = open(&server.url(), RedisOptions::default());
    recovered(&store, &five(), "k").await;
    server.freeze();
    let start = Instant::now();
    let error = check(&store, &five(), "k", 1).await.unwrap_err();
    let waited = start.elapsed();
    assert_eq!(error.kind, StoreErrorKind::Timeout, "{error}");
    assert!(error.detail.contains("100 ms"), "{error}");
    assert!((Duration::from_millis(90)..Duration::from_secs(1)).contains(&waited), "{waited:?}");
    let start = Instant::now();
    for _ in 0..100 {
        let error = check(&store, &five(), "k", 1).await.unwrap_err();
        assert!(error.is_transient(), "{error}");
    }
    assert!(start.elapsed() < Duration::from_secs(1), "100 refusals took {:?}", start.elapsed());
    server.thaw();
    recovered(&store, &five(), "k2").await;
    // The call that timed out was counted at most once.
    assert!(check(&open(&server.url(), patient()), &five(), "k", 0).await.unwrap().remaining >= 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_longer_than_the_time_out_in_the_queue() {
    let server = Redis::start();
    let options = RedisOptions { command_timeout: Duration::from_millis(300), ..RedisOptions::default() };
    let store = open(&server.url(), options);
    recovered(&store, &five(), "k").await;
    server.freeze();
    let mut callers = Vec::new();
    for _ in 0..5 {
        let store = Arc::clone(&store);
        callers.push(tokio::spawn(async move {
            let start = Instant::now();
            (check(&store, &five(), "k", 1).await.unwrap_err(), start.elapsed())
        }));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for caller in callers {
        let (error, waited) = caller.await.unwrap();
        assert!(error.is_transient(), "{error}");
        assert!(waited < Duration::from_millis(1_200), "{waited:?}: {error}");
    }
    server.thaw();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_at_once() {
    let server = Redis::start();
    let store = open(&server.url(), RedisOptions { queue: 3, ..patient() });
    recovered(&store, &five(), "k").await;
    server.freeze();
    let on_its_way = store.ping();
    // The driver takes the first as soon as it can, so the queue has room for three more.
    while store.waiting() > 0 {
        tokio::task::yield_now().await;
    }
    let waiting: Vec<_> = (0..3).map(|_| store.ping()).collect();
    let start = Instant::now();
    let error = store.ping().await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(1));
    assert_eq!(error.kind, StoreErrorKind::Overloaded);
    assert!(error.detail.contains("queue is full: 3 calls"), "{error}");
    server.thaw();
    on_its_way.await.unwrap();
    for reply in waiting {
        reply.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_where_nobody_listens_is_named() {
    let port = servers::free_port();
    let store = open(&format!("redis://:hunter2@127.0.0.1:{port}/1"), RedisOptions::default());
    let error = store.ping().await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Unavailable);
    let text = error.to_string();
    assert!(text.contains(&format!("nothing listens at 127.0.0.1:{port}")), "{text}");
    assert!(text.contains(&format!("redis-server --port {port}")) && !text.contains("hunter2"), "{text}");
    let store = open("redis+unix:///nowhere/redis.sock", RedisOptions::default());
    let text = store.ping().await.unwrap_err().to_string();
    assert!(text.contains("nothing listens at /nowhere/redis.sock"), "{text}");
    let store = open("redis://no-such-host.invalid", RedisOptions::default());
    let error = store.ping().await.unwrap_err();
    assert!(error.is_transient() && error.detail.contains("no-such-host.invalid"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_never_answers_times_out() {
    // Accepts connections in the kernel and never reads them.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let options = RedisOptions { connect_timeout: Duration::from_millis(150), ..RedisOptions::default() };
    let store = open(&format!("redis://{}", listener.local_addr().unwrap()), options);
    let start = Instant::now();
    let error = store.ping().await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Timeout, "{error}");
    assert!(error.detail.contains("150 ms") && start.elapsed() < Duration::from_secs(2), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_the_server_are_worded() {
    let server = Redis::start_with(&["--requirepass", "sesame"]);
    let at = |user: &str| format!("redis://{user}127.0.0.1:{}", server.port());
    for (url, part) in [(at(":hunter2@"), "wrong user name or password"), (at(""), "wants a password")] {
        let error = open(&url, RedisOptions::default()).ping().await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Misconfigured, "{error}");
        assert!(error.detail.contains(part) && !error.to_string().contains("hunter2"), "{error}");
    }
    let owner = open(&at(":sesame@"), patient());
    assert!(check(&owner, &five(), "k", 1).await.unwrap().allowed);
    let client = redis::Client::open(at(":sesame@")).unwrap();
    let mut connection = client.get_connection().unwrap();
    let mut user = |name: &str, rules: &[&str]| {
        redis::cmd("ACL").arg("SETUSER").arg(name).arg("on").arg(">pw").arg(rules).exec(&mut connection).unwrap();
    };
    user("small", &["~tollway:*", "+evalsha", "+script|load", "+get", "+set", "+del", "+time", "+ping"]);
    user("blind", &["~other:*", "+@all"]);
    user("mute", &["~tollway:*", "+ping"]);
    let small = open(&at("small:pw@"), patient());
    assert!(check(&small, &five(), "k", 1).await.unwrap().allowed, "the documented rights are enough");
    small.reset(&five(), "k").await.unwrap();
    for name in ["blind", "mute"] {
        let store = open(&at(&format!("{name}:pw@")), patient());
        let error = check(&store, &five(), "k", 1).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Misconfigured, "{name}: {error}");
        assert!(error.detail.contains("NOPERM") && error.detail.contains("+evalsha"), "{name}: {error}");
    }
    let error = open(&format!("{}/99", at(":sesame@")), patient()).ping().await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Misconfigured, "{error}");
    assert!(error.detail.contains("database number"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_cannot_count_say_why() {
    let nobody = servers::free_port().to_string();
    let replica = ["--replicaof", "127.0.0.1", nobody.as_str()];
    let stale = ["--replicaof", "127.0.0.1", nobody.as_str(), "--replica-serve-stale-data", "no"];
    let cluster = ["--cluster-enabled", "yes"];
    let full = ["--maxmemory", "1", "--maxmemory-policy", "noeviction"];
    for (arguments, kind, part) in [
        (&replica[..], StoreErrorKind::Unavailable, "name the master"),
        (&stale[..], StoreErrorKind::Unavailable, "name the master"),
        (&cluster[..], StoreErrorKind::Unsupported, "Redis Cluster"),
        (&full[..], StoreErrorKind::Unavailable, "raise maxmemory"),
    ] {
        let server = Redis::start_with(arguments);
        let store = open(&server.url(), patient());
        let error = check(&store, &five(), "k", 1).await.unwrap_err();
        assert_eq!(error.kind, kind, "{arguments:?}: {error}");
        assert!(error.detail.contains(part), "{arguments:?}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_server_is_busy() {
    let server = Redis::start_with(&["--lua-time-limit", "20"]);
    let store = open(&server.url(), RedisOptions::default());
    recovered(&store, &five(), "k").await;
    let url = server.url();
    let blocker = std::thread::spawn(move || {
        let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
        redis::cmd("EVAL").arg("while true do end").arg(0).exec(&mut connection)
    });
    let end = Instant::now() + Duration::from_secs(10);
    let error = loop {
        assert!(Instant::now() < end, "the server never said BUSY");
        match check(&store, &five(), "k", 1).await {
            Err(error) if error.detail.contains("BUSY") => break error,
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    assert_eq!(error.kind, StoreErrorKind::Unavailable);
    assert!(error.detail.contains("SCRIPT KILL"), "{error}");
    redis::cmd("SCRIPT").arg("KILL").exec(&mut server.connection()).unwrap();
    blocker.join().unwrap().unwrap_err();
    recovered(&store, &five(), "k").await;
}

#[test]
fn a_runtime_that_is_gone_is_said() {
    let server = Redis::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let store = RedisStore::open(&server.url(), patient(), runtime.handle()).unwrap();
    runtime.block_on(store.ping()).unwrap();
    server.freeze();
    let on_its_way = store.ping();
    runtime.shutdown_timeout(Duration::from_secs(5));
    let other = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for reply in [on_its_way, store.ping()] {
        let error = other.block_on(reply).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Unavailable);
        assert!(error.detail.contains("runtime"), "{error}");
    }
    // Opened on a runtime that is gone already.
    let gone = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let handle = gone.handle().clone();
    drop(gone);
    let store = RedisStore::open(&server.url(), patient(), &handle).unwrap();
    assert_eq!(other.block_on(store.ping()).unwrap_err().kind, StoreErrorKind::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_store_answers_what_was_asked_and_closes() {
    let server = Redis::start();
    let store = open(&server.url(), patient());
    store.ping().await.unwrap();
    let last = store.ping();
    drop(store);
    last.await.unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let clients: String = redis::cmd("CLIENT").arg("LIST").query(&mut server.connection()).unwrap();
        if !clients.contains("lib-name=tollway") && clients.lines().count() == 1 {
            break;
        }
        assert!(Instant::now() < end, "still connected: {clients}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
