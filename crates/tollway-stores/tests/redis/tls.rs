//! `rediss://`: conformance, who is trusted, and what is said when nobody is.

use tollway_core::{Algorithm, Store, StoreErrorKind, conformance};
use tollway_stores::redis::{RedisOptions, RedisStore};

use super::servers::certificates::Certificates;
use super::servers::cluster::info;
use super::servers::sentinel::wait;
use super::servers::{self, Redis};
use super::{check, open, patient, policy};

/// A server that speaks TLS on the port it comes with.
fn start(certificates: &Certificates, name: &str, clients: &str) -> (Redis, u16) {
    let port = servers::free_port();
    let arguments = certificates.arguments(name, port, clients);
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    (Redis::start_with(&words), port)
}

#[tokio::test(flavor = "multi_thread")]
async fn it_conforms_with_a_user_of_its_own() {
    let certificates = Certificates::make();
    let (server, port) = start(&certificates, "server", "no");
    let rules = "~tollway:* +evalsha +script|load +get +set +del +hget +hset +hdel +exists +pexpire +scan +unlink +eval +time +ping +select";
    let rules: Vec<_> = rules.split(' ').collect();
    redis::cmd("ACL").arg(&["SETUSER", "rl", "on", ">s@cret"]).arg(rules).exec(&mut server.connection()).unwrap();
    let url = format!("rediss://rl:s%40cret@127.0.0.1:{port}/1?ca={}", certificates.path("ca.pem"));
    let store = open(&url, patient());
    assert!(!store.name().contains("cret@"), "{}", store.name());
    conformance::run(store, "tls").await;
    // By name as well, and not with a wrong password.
    let url = format!("rediss://rl:wrong@localhost:{port}?ca={}", certificates.path("ca.pem"));
    let error = open(&url, patient()).ping().await.unwrap_err();
    assert!(error.kind == StoreErrorKind::Misconfigured && error.detail.contains("wrong user name"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_trusted_is_told_why() {
    let certificates = Certificates::make();
    let ca = format!("?ca={}", certificates.path("ca.pem"));
    let stranger = format!("?ca={}", certificates.path("stranger.pem"));
    for (name, trust, part) in [
        ("server", stranger.as_str(), "nobody trusted here signed"),
        ("server", "", "nobody trusted here signed"),
        ("old", &ca, "has expired"),
        ("other", &ca, "for another name"),
    ] {
        let (_server, port) = start(&certificates, name, "no");
        let error = open(&format!("rediss://127.0.0.1:{port}{trust}"), patient()).ping().await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Misconfigured, "{name}: {error}");
        assert!(error.detail.contains(part) && error.detail.contains(&port.to_string()), "{name}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_shows_its_certificate_when_it_is_wanted() {
    let certificates = Certificates::make();
    let (server, port) = start(&certificates, "server", "yes");
    let url = format!("rediss://127.0.0.1:{port}?ca={}", certificates.path("ca.pem"));
    let error = open(&url, patient()).ping().await.unwrap_err();
    assert!(error.detail.to_lowercase().contains("certificate"), "{error}");
    let own = format!("{url}&cert={}&key={}", certificates.path("client.pem"), certificates.path("client.key"));
    let answer = check(&open(&own, patient()), &policy("p", "5/h", Algorithm::Gcra), "k", 1).await;
    assert_eq!(answer.unwrap().remaining, 4);
    // TLS towards the port that does not speak it.
    let plain = format!("rediss://127.0.0.1:{}?ca={}", server.port(), certificates.path("ca.pem"));
    let error = open(&plain, RedisOptions::default()).ping().await.unwrap_err();
    assert!(error.detail.contains("TLS"), "{error}");
}

#[tokio::test]
async fn files_that_do_not_read_are_named() {
    let certificates = Certificates::make();
    let [ca, key] = ["ca.pem", "client.key"].map(|name| certificates.path(name));
    for (query, part) in [
        ("ca=/nowhere/ca.pem".to_owned(), "/nowhere/ca.pem"),
        (format!("ca={key}"), "holds no certificate"),
        (format!("ca={ca}&cert={ca}"), "needs both"),
        (format!("ca={ca}&cert={ca}&key={ca}"), "no private key"),
        (format!("ca={ca}&cert={ca}&key={key}"), "do not belong together"),
        ("tls=no".to_owned(), "\"tls\""),
    ] {
        let url = format!("rediss://localhost?{query}");
        let made = RedisStore::open(&url, RedisOptions::default(), &tokio::runtime::Handle::current());
        let error = made.expect_err(&url).to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_and_a_sentinel_are_reached_by_tls_alone() {
    let certificates = Certificates::make();
    let ca = certificates.path("ca.pem");
    let (policy, port) = (policy("p", "5/h", Algorithm::Gcra), servers::free_port());
    let mut arguments = certificates.arguments("server", port, "no");
    arguments.extend(["--tls-cluster", "yes", "--cluster-enabled", "yes"].map(str::to_owned));
    let node = Redis::start_with(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    redis::cmd("CLUSTER").arg(&["ADDSLOTSRANGE", "0", "16383"]).exec(&mut node.connection()).unwrap();
    wait("the cluster is well", || info(&node, "CLUSTER", "INFO").contains("cluster_state:ok"));
    let store = open(&format!("rediss+cluster://127.0.0.1:{port}?ca={ca}"), patient());
    for (key, left) in [("a", 4), ("b", 4), ("a", 3)] {
        assert_eq!(check(&store, &policy, key, 1).await.unwrap().remaining, left);
    }
    let (_primary, port) = start(&certificates, "server", "no");
    let sentinel = Sentinel::start(&certificates, port);
    let store = open(&format!("rediss+sentinel://127.0.0.1:{}/tls?ca={ca}", sentinel.port), patient());
    assert_eq!(check(&store, &policy, "k", 1).await.unwrap().remaining, 4);
}

/// A sentinel that neither listens nor asks without TLS.
struct Sentinel {
    child: std::process::Child,
    port: u16,
    dir: std::path::PathBuf,
}

impl Sentinel {
    fn start(certificates: &Certificates, primary: u16) -> Self {
        let port = servers::free_port();
        let words = certificates.arguments("server", port, "no");
        let mut text =
            format!("port 0\nbind 127.0.0.1\ntls-replication yes\nsentinel monitor tls 127.0.0.1 {primary} 1\n");
        for pair in words.chunks(2) {
            text += &format!("{} {}\n", pair[0].trim_start_matches("--"), pair[1]);
        }
        let dir = std::env::temp_dir().join(format!("tollway-sentinel-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a temporary directory");
        let file = dir.join("sentinel.conf");
        std::fs::write(&file, text).expect("a file");
        let mut command = std::process::Command::new("redis-server");
        command.arg(&file).arg("--sentinel").current_dir(&dir).stdout(std::process::Stdio::null());
        let child = command.spawn().expect("redis-server runs");
        wait("the sentinel listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { child, port, dir }
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
