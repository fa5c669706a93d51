//! Checks a second against a Redis server, one caller and many.
//!
//! ```sh
//! redis-server --port 7000 --save '' &
//! cargo run --release -p tollway-stores --features redis --example redis_speed -- redis://127.0.0.1:7000 1 64 512
//! ```
//!
//! The numbers are callers at once. `make bench` compares the same checks with `redis-benchmark`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tollway_core::{Algorithm, Charge, Policy, Request, Store, StoreError};
use tollway_stores::redis::{RedisOptions, RedisStore};

/// Keys the traffic is spread over.
const KEYS: u64 = 100_000;
const SPAN: Duration = Duration::from_secs(3);

async fn caller(store: Arc<RedisStore>, policy: Arc<Policy>, mut dice: u64, end: Instant) -> Result<u64, StoreError> {
    let mut done = 0;
    while Instant::now() < end {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        let key = format!("{:012}", dice % KEYS);
        let charges = [Charge { policy: &policy, key: &key, cost: 1 }];
        store.apply(&[Request { charges: &charges, peek: false }]).await?;
        done += 1;
    }
    Ok(done)
}

async fn measure(url: &str, policy: &Arc<Policy>, callers: u64) -> Result<f64, Box<dyn std::error::Error>> {
    let options = RedisOptions { command_timeout: Duration::from_secs(5), ..RedisOptions::default() };
    let store = Arc::new(RedisStore::open(url, options, &tokio::runtime::Handle::current())?);
    store.ping().await?;
    let (start, end) = (Instant::now(), Instant::now() + SPAN);
    let tasks: Vec<_> = (1..=callers)
        .map(|n| {
            tokio::spawn(caller(Arc::clone(&store), Arc::clone(policy), n.wrapping_mul(0x9E37_79B9_7F4A_7C15), end))
        })
        .collect();
    let mut done = 0;
    for task in tasks {
        done += task.await??;
    }
    Ok(done as f64 / start.elapsed().as_secs_f64())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "redis://127.0.0.1:6379".into());
    let mut callers: Vec<u64> = std::env::args().skip(2).map(|word| word.parse()).collect::<Result<_, _>>()?;
    if callers.is_empty() {
        callers = vec![1, 64, 512];
    }
    let limits = [("100/m", "allowed mostly"), ("1/d", "refused mostly")];
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    for (rate, what) in limits {
        let policy = Arc::new(Policy::new(&format!("speed-{rate}").replace('/', "-"), rate, Algorithm::Gcra)?);
        for callers in &callers {
            let speed = runtime.block_on(measure(&url, &policy, *callers))?;
            println!("{rate:6} {what:14}  {callers:4} callers  {speed:9.0} checks/s");
        }
    }
    Ok(())
}
