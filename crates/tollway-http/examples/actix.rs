//! A route of actix limited to 5 a minute for each client:
//! `cargo run -p tollway-http --features actix --example actix`.

use std::net::TcpListener;
use std::sync::Arc;

use actix_web::{App, HttpServer, web};
use tollway::{Algorithm, FailMode, Limiter, Policy};
use tollway_http::{ActixLimit, ClientAddress, Gate, Identity};
use tollway_stores::memory::MemoryStore;

/// Answers `GET /ping` until the process is told to end.
pub async fn serve(listener: TcpListener) -> Result<(), Box<dyn std::error::Error>> {
    let limiter = Arc::new(Limiter::new(Arc::new(MemoryStore::new(1_000_000)), FailMode::Closed));
    let policy = Arc::new(Policy::new("ping", "5/m", Algorithm::Gcra)?);
    let gate = Gate::new(limiter, vec![(policy, Identity::Ip)], Arc::new(ClientAddress::default()));
    let limit = ActixLimit::new(gate);

    let app = move || App::new().route("/ping", web::get().to(|| async { "pong" })).wrap(limit.clone());
    HttpServer::new(app).listen(listener)?.run().await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("try: curl -i http://127.0.0.1:3000/ping");
    serve(TcpListener::bind("127.0.0.1:3000")?).await
}
