//! The layer in front of a real axum server, over real sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::Router;
use axum::extract::ConnectInfo;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tollway::{
    Algorithm, Capabilities, Change, Decision, FailMode, Limiter, Metrics, Policy, Reply, Request, Store, StoreError,
    StoreErrorKind,
};
use tollway_http::{ClientAddress, Gate, Identity, LimitLayer};
use tollway_stores::memory::MemoryStore;

/// Memory that has to be waited for, or that is away.
#[derive(Debug)]
struct Remote {
    memory: MemoryStore,
    away: bool,
}

impl Store for Remote {
    fn name(&self) -> &str {
        "remote://"
    }

    fn capabilities(&self) -> Capabilities {
        self.memory.capabilities()
    }

    fn apply(&self, requests: &[Request<'_>]) -> Reply<Vec<Decision>> {
        let away = self.away.then(|| StoreError::new(StoreErrorKind::Unavailable, "remote://", "away"));
        let reply = self.memory.apply(requests);
        Box::pin(async move {
            tokio::task::yield_now().await;
            match away {
                Some(error) => Err(error),
                None => reply.await,
            }
        })
    }

    fn adjust(&self, policy: &Arc<Policy>, key: &str, change: Change) -> Reply<Decision> {
        self.memory.adjust(policy, key, change)
    }

    fn reset(&self, policy: &Arc<Policy>, key: &str) -> Reply<()> {
        self.memory.reset(policy, key)
    }

    fn ping(&self) -> Reply<()> {
        self.memory.ping()
    }
}

async fn serve(store: Arc<dyn Store>) -> (SocketAddr, Arc<AtomicU32>) {
    let metrics = Arc::new(Metrics::new());
    let limiter = Arc::new(Limiter::new(store, FailMode::Closed).with_metrics(&metrics));

    let policy = Arc::new(Policy::new("ping", "5/h", Algorithm::Gcra).unwrap());
    let gate = Gate::new(limiter, vec![(policy, Identity::Ip)], Arc::new(ClientAddress::default()));
    let limit = LimitLayer::new(gate).peer(|e| Some(e.get::<ConnectInfo<SocketAddr>>()?.0.ip()));
    let handled = Arc::new(AtomicU32::new(0));
    let counter = handled.clone();
    let handler = move || {
        counter.fetch_add(1, Ordering::SeqCst);
        std::future::ready("pong")
    };

    let numbers = get(move || async move { ([(CONTENT_TYPE, "text/plain; version=0.0.4")], metrics.text()) });
    let app = Router::new().route("/ping", get(handler)).layer(limit).route("/metrics", numbers);

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, service).await.unwrap() });
    (address, handled)
}

async fn ask(address: SocketAddr) -> String {
    ask_for(address, "/ping").await
}

async fn ask_for(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.7\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn what_the_layer_decides_is_told_to_prometheus() {
    let (address, _) = serve(Arc::new(MemoryStore::new(1_000))).await;
    for _ in 0..12 {
        ask(address).await;
    }
    let text = ask_for(address, "/metrics").await;
    for line in [
        r#"tollway_checks_total{policy="ping",outcome="allowed"} 5"#,
        r#"tollway_checks_total{policy="ping",outcome="refused"} 7"#,
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
    }
}

#[tokio::test]
async fn five_of_seven_pass_and_the_handler_runs_for_them_only() {
    for remote in [false, true] {
        let memory = MemoryStore::new(100);
        let store: Arc<dyn Store> = if remote { Arc::new(Remote { memory, away: false }) } else { Arc::new(memory) };
        let (address, handled) = serve(store).await;
        let mut answers = Vec::new();
        for _ in 0..7 {
            answers.push(ask(address).await);
        }
        let passed = answers.iter().filter(|answer| answer.starts_with("HTTP/1.1 200")).count();
        assert_eq!((passed, handled.load(Ordering::SeqCst)), (5, 5));
        assert!(answers[0].contains("ratelimit: \"ping\";r=4;t=720"), "{}", answers[0]);
        assert!(answers[6].starts_with("HTTP/1.1 429"));
        assert!(answers[6].contains("retry-after: 720") && answers[6].contains("application/problem+json"));
        assert!(answers[6].contains("\"violated-policies\":[\"ping\"]"), "{}", answers[6]);
    }
}

#[tokio::test]
async fn nobody_to_count_is_503() {
    let store = Arc::new(Remote { memory: MemoryStore::new(100), away: true });
    let (address, handled) = serve(store).await;
    let answer = ask(address).await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after: 1"), "{answer}");
    assert_eq!(handled.load(Ordering::SeqCst), 0);
}
