//! An axum route limited to 5 a minute for each client: `cargo run -p tollway-http --example axum`.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::{Router, extract::ConnectInfo, routing::get};
use tokio::net::TcpListener;
use tollway::{Algorithm, FailMode, Limiter, Policy};
use tollway_http::{ClientAddress, Gate, Identity, LimitLayer};
use tollway_stores::memory::MemoryStore;

/// Answers `GET /ping` until the process ends.
pub async fn serve(listener: TcpListener) -> Result<(), Box<dyn std::error::Error>> {
    let limiter = Arc::new(Limiter::new(Arc::new(MemoryStore::new(1_000_000)), FailMode::Closed));
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
    serve(TcpListener::bind("127.0.0.1:3000").await?).await
}
