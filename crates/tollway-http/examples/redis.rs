//! An axum route limited to 5 a minute for each client, by all processes that share a Redis:
//! `cargo run -p tollway-http --example redis`.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::{Router, extract::ConnectInfo, routing::get};
use tokio::net::TcpListener;
use tollway::{Algorithm, BreakerSettings, FailMode, Guard, Limiter, Policy};
use tollway_http::{ClientAddress, Gate, Identity, LimitLayer};
use tollway_stores::memory::MemoryStore;
use tollway_stores::redis::{RedisOptions, RedisStore};

/// Answers `GET /ping` until the process ends.
pub async fn serve(listener: TcpListener, url: &str) -> Result<(), Box<dyn std::error::Error>> {
    let redis = RedisStore::open(url, RedisOptions::default(), &tokio::runtime::Handle::current())?;
    let guard = Guard::new(Arc::new(redis), BreakerSettings::default());
    tokio::spawn(guard.watch());
    let memory = Arc::new(MemoryStore::new(1_000_000));
    let limiter = Arc::new(Limiter::new(Arc::new(guard), FailMode::Local).with_local(memory));

    let policy = Arc::new(Policy::new("ping", "5/m", Algorithm::Gcra)?);
    let gate = Gate::new(limiter, vec![(policy, Identity::Ip)], Arc::new(ClientAddress::default()));
    let limit = LimitLayer::new(gate).peer(|e| Some(e.get::<ConnectInfo<SocketAddr>>()?.0.ip()));
    let app = Router::new().route("/ping", get(|| async { "pong" })).layer(limit);
    axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("try: curl -i http://127.0.0.1:3000/ping");
    serve(TcpListener::bind("127.0.0.1:3000").await?, "redis://127.0.0.1:6379/0").await
}
