//! What a tower layer adds to a request through axum: `tollway-http` against `tower_governor`.
//!
//! Prints one JSON object: for each case and layer, nanoseconds of processor time that a request
//! costs more with the layer than without, one number a round. Blocks with a layer and without it
//! come in turns. `layers ROUNDS REQUESTS`.

use std::hint::black_box;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::routing::get;
use http::{Request, StatusCode};
use tollway::{Algorithm, FailMode, Limiter, Policy};
use tollway_bench::spent;
use tollway_http::{ClientAddress, Fields, Gate, Identity, LimitLayer};
use tollway_stores::memory::MemoryStore;
use tower::Service;
use tower_governor::GovernorLayer;
use tower_governor::governor::GovernorConfigBuilder;

const CLIENTS: u32 = 2_000;
const BLOCK: usize = 256;

/// A case: who sees headers, and whether the requests are refused.
#[derive(Clone, Copy)]
struct Case {
    title: &'static str,
    headers: bool,
    refused: bool,
}

fn bare() -> Router {
    Router::new().route("/ping", get(|| async { "pong" }))
}

/// 60 an hour when requests are to be refused, else more than a run asks for.
fn tollway(case: Case) -> Router {
    let rate = if case.refused { "60/h" } else { "10000000/h" };
    let policy = Arc::new(Policy::new("ping", rate, Algorithm::Gcra).expect("a rate that reads"));
    let limiter = Arc::new(Limiter::new(Arc::new(MemoryStore::new(100_000)), FailMode::Closed));
    let gate = Gate::new(limiter, vec![(policy, Identity::Ip)], Arc::new(ClientAddress::default()))
        .with_fields(Fields { x_ratelimit: case.headers, ietf: case.headers });
    let peer = |e: &http::Extensions| Some(e.get::<ConnectInfo<SocketAddr>>()?.0.ip());
    bare().layer(LimitLayer::new(gate).peer(peer))
}

fn governor(case: Case) -> Router {
    let mut builder = GovernorConfigBuilder::default();
    match case.refused {
        true => builder.period(Duration::from_secs(60)).burst_size(60),
        false => builder.period(Duration::from_micros(360)).burst_size(10_000_000),
    };
    match case.headers {
        true => bare().layer(GovernorLayer::new(builder.use_headers().finish().expect("a legal quota"))),
        false => bare().layer(GovernorLayer::new(builder.finish().expect("a legal quota"))),
    }
}

/// The requests of the block that begins with client `from`.
fn block(from: usize) -> Vec<Request<Body>> {
    let request = |number: usize| {
        let client = IpAddr::from((0x0A00_0000 + number as u32 % CLIENTS).to_be_bytes());
        let mut request = Request::get("/ping")
            .header("host", "127.0.0.1:8000")
            .header("user-agent", "wrk/4.1.0")
            .header("accept", "*/*")
            .body(Body::empty())
            .expect("a legal request");
        request.extensions_mut().insert(ConnectInfo(SocketAddr::new(client, 50_000)));
        request
    };
    (from..from + BLOCK).map(request).collect()
}

/// Processor time of one block of requests, all of which are answered with `status`.
async fn timed(router: &mut Router, from: usize, status: StatusCode) -> Duration {
    let requests = block(from);
    let began = spent();
    for request in requests {
        let response = router.call(request).await.expect("a router answers");
        assert_eq!(response.status(), status);
        black_box(response);
    }
    spent() - began
}

/// Lets every client in, and in the refused case uses up what each has.
async fn warm(router: &mut Router, case: Case) {
    let times = if case.refused { 70 } else { 1 };
    for from in (0..CLIENTS as usize * times).step_by(BLOCK) {
        for request in block(from) {
            router.call(request).await.expect("a router answers");
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<usize>().expect("a whole number"));
    let rounds = arguments.next().unwrap_or(5);
    let blocks = arguments.next().unwrap_or(200_000).div_ceil(BLOCK);
    let mut rows = Vec::new();
    for case in [
        Case { title: "allowed, with headers", headers: true, refused: false },
        Case { title: "allowed, without headers", headers: false, refused: false },
        Case { title: "refused, with headers", headers: true, refused: true },
    ] {
        let mut plain = bare();
        let mut limited = [tollway(case), governor(case)];
        for router in &mut limited {
            warm(router, case).await;
        }
        let status = if case.refused { StatusCode::TOO_MANY_REQUESTS } else { StatusCode::OK };
        let mut found = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            for (router, found) in limited.iter_mut().zip(&mut found) {
                let mut added = 0.0;
                for number in 0..blocks {
                    let from = number * BLOCK;
                    added -= timed(&mut plain, from, StatusCode::OK).await.as_nanos() as f64;
                    added += timed(router, from, status).await.as_nanos() as f64;
                }
                found.push(added / (blocks * BLOCK) as f64);
            }
        }
        let [ours, theirs] = &found;
        rows.push(format!("{:?}: {{\"tollway\": {ours:?}, \"tower_governor\": {theirs:?}}}", case.title));
    }
    println!("{{{}}}", rows.join(", "));
}
