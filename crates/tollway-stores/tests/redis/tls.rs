//! `rediss://`: conformance, who is trusted, and what is said when nobody is.

use tollway_core::{Algorithm, Store, StoreErrorKind, conformance};
use tollway_stores::redis::{RedisOptions, RedisStore};

use super::servers::certificates::Certificates;
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
    let rules = "~tollway:* +evalsha +script|load +get +set +del +time +ping +select";
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
