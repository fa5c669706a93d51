//! The examples: the gate in front of axum, hyper, tonic and actix, with real clients over real sockets.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tonic::Code;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

macro_rules! example {
    ($name:ident, $path:literal) => {
        #[allow(dead_code)] // `main`, which binds a port of its own
        #[path = $path]
        mod $name;
    };
}
example!(axum_door, "../examples/axum.rs");
example!(redis_door, "../examples/redis.rs");
example!(hyper_door, "../examples/hyper.rs");
example!(tonic_door, "../examples/tonic.rs");
#[cfg(feature = "actix")]
example!(actix_door, "../examples/actix.rs");

/// A free port that listens.
async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn ask(address: SocketAddr, number: u8) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = "GET /ping HTTP/1.1\r\nHost: a\r\nConnection: close\r\n";
    stream.write_all(format!("{head}X-Forwarded-For: 203.0.113.{number}\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Seven requests: five pass, whatever the client says of itself.
async fn five_of_seven(address: SocketAddr) {
    five_of_seven_among(&[address]).await;
}

/// The same by servers that take turns.
async fn five_of_seven_among(addresses: &[SocketAddr]) {
    let mut answers = Vec::new();
    for number in 0..7 {
        answers.push(ask(addresses[usize::from(number) % addresses.len()], number).await);
    }
    let passed: Vec<_> = answers.iter().map(|answer| answer.starts_with("HTTP/1.1 200")).collect();
    assert_eq!(passed, [true, true, true, true, true, false, false]);
    assert!(answers[0].contains("ratelimit: \"ping\";r=4;t=12\r\n"), "{}", answers[0]);
    assert!(answers[0].contains("ratelimit-policy: \"ping\";q=5;w=60\r\n"), "{}", answers[0]);
    assert!(answers[0].ends_with("pong"), "{}", answers[0]);
    let refused = &answers[6];
    assert!(refused.starts_with("HTTP/1.1 429"), "{refused}");
    assert!(refused.contains("content-type: application/problem+json\r\n"), "{refused}");
    assert!(refused.contains("\"violated-policies\":[\"ping\"]"), "{refused}");
    let (_, wait) = refused.split_once("retry-after: ").unwrap();
    let seconds: u64 = wait.split_once("\r\n").unwrap().0.parse().unwrap();
    assert!((1..=12).contains(&seconds), "{refused}");
}

#[tokio::test]
async fn axum_lets_five_of_seven_pass() {
    let (listener, address) = listen().await;
    tokio::spawn(async { axum_door::serve(listener).await.unwrap() });
    five_of_seven(address).await;
}

/// A `redis-server` on a Unix socket in a folder of its own; both go with it.
struct Redis {
    server: Child,
    folder: tempfile::TempDir,
}

impl Redis {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("redis.sock");
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--unixsocket"]).arg(&socket).arg("--dir").arg(folder.path());
        let server = command.stdout(Stdio::null()).spawn().expect("redis-server is installed");
        let end = Instant::now() + Duration::from_secs(20);
        while UnixStream::connect(&socket).await.is_err() {
            assert!(Instant::now() < end, "redis-server does not start");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Self { server, folder }
    }

    fn url(&self) -> String {
        format!("redis+unix://{}", self.folder.path().join("redis.sock").display())
    }

    fn kill(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

#[tokio::test]
async fn two_servers_share_a_redis_and_go_on_without_it() {
    let mut redis = Redis::start().await;
    let mut addresses = Vec::new();
    for url in [redis.url(), redis.url()] {
        let (listener, address) = listen().await;
        tokio::spawn(async move { redis_door::serve(listener, &url).await.unwrap() });
        addresses.push(address);
    }
    five_of_seven_among(&addresses).await;
    redis.kill();
    // Each counts for itself now.
    for address in addresses {
        five_of_seven(address).await;
    }
}

#[tokio::test]
async fn hyper_lets_five_of_seven_pass() {
    let (listener, address) = listen().await;
    tokio::spawn(async { hyper_door::serve(listener).await.unwrap() });
    five_of_seven(address).await;
}

#[cfg(feature = "actix")]
#[tokio::test]
async fn actix_lets_five_of_seven_pass_over_all_workers() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    tokio::select! {
        ended = actix_door::serve(listener) => panic!("the server ended: {ended:?}"),
        () = five_of_seven(address) => {}
    }
}

#[tokio::test]
async fn tonic_refuses_with_a_status_of_grpc() {
    let (listener, address) = listen().await;
    tokio::spawn(async { tonic_door::serve(listener).await.unwrap() });
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let mut client = HealthClient::new(channel);
    for left in (0..5).rev() {
        let answer = client.check(HealthCheckRequest::default()).await.unwrap();
        let said = answer.metadata().get("ratelimit").unwrap().to_str().unwrap().to_owned();
        assert!(said.starts_with(&format!("\"calls\";r={left};")), "{said}");
    }
    let refused = client.check(HealthCheckRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().starts_with("You have reached the limit of 5/m. Try again in "), "{refused}");
    let told = |name| -> u64 { refused.metadata().get(name).unwrap().to_str().unwrap().parse().unwrap() };
    assert!((1..=12).contains(&told("retry-after")), "{refused:?}");
    assert!((1..=12_000).contains(&told("grpc-retry-pushback-ms")), "{refused:?}");
}
