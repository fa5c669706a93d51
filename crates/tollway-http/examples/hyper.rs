//! A service of hyper's, HTTP/1 and HTTP/2, limited to 5 a minute for each client:
//! `cargo run -p tollway-http --example hyper`.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tollway::{Algorithm, FailMode, Limiter, Policy};
use tollway_http::{ClientAddress, Gate, Identity, LimitLayer};
use tollway_stores::memory::MemoryStore;
use tower::{Layer, service_fn};

async fn pong(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::new(Bytes::from("pong"))))
}

/// Answers until the process ends.
pub async fn serve(listener: TcpListener) -> Result<(), Box<dyn std::error::Error>> {
    let limiter = Arc::new(Limiter::new(Arc::new(MemoryStore::new(1_000_000)), FailMode::Closed));
    let policy = Arc::new(Policy::new("ping", "5/m", Algorithm::Gcra)?);
    let gate = Gate::new(limiter, vec![(policy, Identity::Ip)], Arc::new(ClientAddress::default()));
    let limit = LimitLayer::new(gate);

    loop {
        let (stream, peer) = listener.accept().await?;
        let service = limit.clone().peer(move |_| Some(peer.ip())).layer(service_fn(pong));
        let service = TowerToHyperService::new(service);
        tokio::spawn(async move {
            let served = auto::Builder::new(TokioExecutor::new());
            if let Err(error) = served.serve_connection(TokioIo::new(stream), service).await {
                eprintln!("{peer}: {error}");
            }
        });
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("try: curl -i http://127.0.0.1:3000/ping");
    serve(TcpListener::bind("127.0.0.1:3000").await?).await
}
