//! Measures a SQL store: `cargo run --release --example sql_speed --features postgres -- postgres://me@127.0.0.1/shop [SECONDS]`
//!
//! Prints, for 1, 16 and 64 callers over 1,000 keys that are never refused: checks a second, and
//! the median and the 99th percentile of their times.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tollway_core::{Algorithm, Charge, Policy, Request, Store};
use tollway_stores::sql::{SqlOptions, SqlStore};

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).ok_or("name a URL: sql_speed postgres://me@127.0.0.1/shop")?;
    let seconds: u64 = std::env::args().nth(2).map_or(Ok(3), |text| text.parse())?;
    let connections = std::env::var("CONNECTIONS").map_or(Ok(2), |text| text.parse())?;
    let options = SqlOptions { command_timeout: Duration::from_secs(5), connections, ..SqlOptions::default() };
    let store = Arc::new(SqlStore::open(&url, options, &tokio::runtime::Handle::current())?);
    store.ping().await?;
    for (rates, title) in [("1000000000/h", "passing"), ("1/365d", "refused")] {
        let policy = Arc::new(Policy::new(title, rates, Algorithm::Gcra)?);
        for callers in [1, 16, 64] {
            let end = Instant::now() + Duration::from_secs(seconds);
            let tasks: Vec<_> =
                (0..callers).map(|n| tokio::spawn(call(Arc::clone(&store), Arc::clone(&policy), n, end))).collect();
            let mut times = Vec::new();
            for task in tasks {
                times.extend(task.await?.map_err(|error| error.to_string())?);
            }
            times.sort_unstable();
            let (half, most) = (times[times.len() / 2], times[times.len() * 99 / 100]);
            println!(
                "{title}: {callers:3} callers {:9} checks/s, p50 {half:?}, p99 {most:?}",
                times.len() as u64 / seconds
            );
        }
    }
    Ok(())
}

async fn call(
    store: Arc<SqlStore>,
    policy: Arc<Policy>,
    caller: usize,
    end: Instant,
) -> Result<Vec<Duration>, tollway_core::StoreError> {
    let mut times = Vec::new();
    let mut number = caller * 37;
    loop {
        let start = Instant::now();
        if start >= end {
            return Ok(times);
        }
        number = (number + 1) % 1_000;
        let key = format!("10.0.0.{number}");
        let charges = [Charge { policy: &policy, key: &key, cost: 1 }];
        store.apply(&[Request { charges: &charges, peek: false }]).await?;
        times.push(start.elapsed());
    }
}
