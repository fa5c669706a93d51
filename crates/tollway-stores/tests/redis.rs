//! The Redis store against real `redis-server`s.

mod crowd;
mod servers;

#[path = "redis/adjust.rs"]
mod adjust;
#[path = "redis/answers.rs"]
mod answers;
#[path = "redis/cluster.rs"]
mod cluster;
#[path = "redis/editions.rs"]
mod editions;
#[path = "redis/faults.rs"]
mod faults;
#[path = "redis/model.rs"]
mod model;
#[path = "redis/own.rs"]
mod own;
#[path = "redis/sentinel.rs"]
mod sentinel;
#[cfg(feature = "redis-tls")]
#[path = "redis/tls.rs"]
mod tls;
#[path = "redis/together.rs"]
mod together;
#[path = "redis/translation.rs"]
mod translation;

use std::sync::Arc;
use std::time::Duration;

use crowd::{check, policy};
use servers::Redis;
use tollway_core::{Charge, Decision, Policy, Request, Store, StoreError, conformance};
use tollway_stores::redis::{RedisOptions, RedisStore};

/// What [`crowd`] asks.
type Remote = RedisStore;

fn open(url: &str, options: RedisOptions) -> Arc<RedisStore> {
    Arc::new(RedisStore::open(url, options, &tokio::runtime::Handle::current()).expect("a legal URL"))
}

/// Time enough for a busy machine.
fn patient() -> RedisOptions {
    RedisOptions {
        connect_timeout: Duration::from_secs(10),
        command_timeout: Duration::from_secs(10),
        ..RedisOptions::default()
    }
}

async fn peek(store: &RedisStore, policy: &Arc<Policy>, key: &str) -> Result<Decision, StoreError> {
    let charges = [Charge { policy, key, cost: 1 }];
    store.apply(&[Request { charges: &charges, peek: true }]).await.map(|decisions| decisions[0])
}

/// What a key holds: its text, or that of the hash it is when a limit has a log.
fn raw(connection: &mut redis::Connection, key: &str) -> Option<String> {
    let kind: String = redis::cmd("TYPE").arg(key).query(connection).expect("TYPE");
    match kind.as_str() {
        "hash" => redis::cmd("HGET").arg(key).arg("state").query(connection).expect("HGET"),
        _ => redis::cmd("GET").arg(key).query(connection).expect("GET"),
    }
}

/// When a key goes away, in milliseconds since 1970, as servers without PEXPIRETIME tell it too.
fn expiry(connection: &mut redis::Connection, key: &str) -> Option<u64> {
    let script = "local left, now = redis.call('PTTL', KEYS[1]), redis.call('TIME')
        return left >= 0 and left + now[1] * 1000 + math.floor(now[2] / 1000)";
    redis::cmd("EVAL").arg(script).arg(1).arg(key).query(connection).expect("EVAL")
}

#[tokio::test(flavor = "multi_thread")]
async fn it_conforms() {
    let server = Redis::start();
    for seed in ["one", "two", "three"] {
        conformance::run(open(&server.url(), patient()), seed).await;
    }
    let socket = format!("redis+unix://{}", server.socket().display());
    let store = open(&socket, patient());
    assert_eq!(store.name(), socket);
    conformance::run(store, "socket").await;
}
