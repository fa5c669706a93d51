//! The Redis store against a real `redis-server`.

mod servers;

use std::sync::Arc;

use servers::Redis;
use tollway_core::{Store, conformance};
use tollway_stores::redis::{RedisOptions, RedisStore};

fn open(url: &str, options: RedisOptions) -> Arc<RedisStore> {
    Arc::new(RedisStore::open(url, options, &tokio::runtime::Handle::current()).expect("a legal URL"))
}

/// Time enough for a busy machine.
fn patient() -> RedisOptions {
    RedisOptions { command_timeout: std::time::Duration::from_secs(10), ..RedisOptions::default() }
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
