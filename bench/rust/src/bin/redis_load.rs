//! Checks a second over Redis from many tasks of one process. `redis_load URL TASKS SECONDS KEYS`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tollway::{Algorithm, Charge, FailMode, Limiter, Policy};
use tollway_stores::redis::{RedisOptions, RedisStore};

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn caller(
    limiter: Arc<Limiter>,
    policy: Arc<Policy>,
    keys: u64,
    seed: u64,
    end: Instant,
) -> Result<u64, Failure> {
    let (mut done, mut dice) = (0, seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    while Instant::now() < end {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        let key = format!("{:012}", dice % keys);
        limiter.check(&[Charge { policy: &policy, key: &key, cost: 1 }]).await?;
        done += 1;
    }
    Ok(done)
}

async fn load(url: &str, tasks: u64, span: Duration, keys: u64) -> Result<f64, Failure> {
    let options = RedisOptions { command_timeout: Duration::from_secs(5), ..RedisOptions::default() };
    let store = Arc::new(RedisStore::open(url, options, &tokio::runtime::Handle::current())?);
    let limiter = Arc::new(Limiter::new(store, FailMode::Closed));
    limiter.ping().await?;
    let policy = Arc::new(Policy::new("bench", "1000000000/h", Algorithm::Gcra)?);
    let began = Instant::now();
    let callers: Vec<_> = (1..=tasks)
        .map(|seed| tokio::spawn(caller(limiter.clone(), policy.clone(), keys, seed, began + span)))
        .collect();
    let mut done = 0;
    for caller in callers {
        done += caller.await??;
    }
    Ok(done as f64 / began.elapsed().as_secs_f64())
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, tasks, seconds, keys] = &arguments[..] else { return Err("redis_load URL TASKS SECONDS KEYS".into()) };
    let span = Duration::from_secs_f64(seconds.parse()?);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    println!("{}", runtime.block_on(load(url, tasks.parse()?, span, keys.parse()?))?);
    Ok(())
}
