//! A server of gRPC limited to 5 calls a minute for each client:
//! `cargo run -p tollway-http --example tonic`.

use std::sync::Arc;

use tokio::net::TcpListener;
use tollway::{Algorithm, FailMode, Limiter, Policy};
use tollway_http::{ClientAddress, Gate, Identity, LimitLayer};
use tollway_stores::memory::MemoryStore;
use tonic::transport::Server;
use tonic::transport::server::{TcpConnectInfo, TcpIncoming};

/// Answers calls of `grpc.health.v1.Health` until the process ends.
pub async fn serve(listener: TcpListener) -> Result<(), Box<dyn std::error::Error>> {
    let limiter = Arc::new(Limiter::new(Arc::new(MemoryStore::new(1_000_000)), FailMode::Closed));
    let policy = Arc::new(Policy::new("calls", "5/m", Algorithm::Gcra)?);
    let gate = Gate::new(limiter, vec![(policy, Identity::Ip)], Arc::new(ClientAddress::default()));
    let limit = LimitLayer::new(gate).peer(|e| Some(e.get::<TcpConnectInfo>()?.remote_addr()?.ip()));

    let (_reporter, health) = tonic_health::server::health_reporter();
    let server = Server::builder().layer(limit).add_service(health);
    server.serve_with_incoming(TcpIncoming::from(listener)).await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("grpc.health.v1.Health on 127.0.0.1:3000");
    serve(TcpListener::bind("127.0.0.1:3000").await?).await
}
