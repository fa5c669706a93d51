//! TLS, as the URL asks for it.

use tollway_core::{Algorithm, Store, StoreErrorKind};
use tollway_stores::sql::{SqlOptions, SqlStore};

use super::certificates::Certificates;
use super::postgres::Postgres;
use super::{check, open, patient, policy};

#[tokio::test(flavor = "multi_thread")]
async fn postgres_is_asked_who_it_is() {
    let made = Certificates::make();
    let server = Postgres::start();
    let plain = server.url();
    let refused = open(&format!("{plain}?sslmode=require"), patient()).ping().await.unwrap_err();
    assert!(refused.kind == StoreErrorKind::Misconfigured && refused.detail.contains("sslmode"), "{refused}");
    let file = |setting: &str, name: &str| format!("{setting}={}", server.lend(&made.path(name)));
    server.set(&[
        file("ssl_cert_file", "server.pem"),
        file("ssl_key_file", "server.key"),
        file("ssl_ca_file", "ca.pem"),
        "ssl=on".to_owned(),
    ]);
    let ca = made.path("ca.pem");
    let five = policy("p", "5/h", Algorithm::Gcra);
    let encrypted =
        "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE ssl AND application_name = 'tollway'";
    for (number, (mode, ssl)) in [
        ("?sslmode=disable".to_owned(), "0"),
        (String::new(), "1"),
        ("?sslmode=prefer".to_owned(), "1"),
        ("?sslmode=require".to_owned(), "1"),
        (format!("?sslmode=verify-full&sslrootcert={ca}"), "1"),
    ]
    .into_iter()
    .enumerate()
    {
        let store = open(&format!("{plain}{mode}"), patient());
        check(&store, &five, &number.to_string(), 1).await.unwrap_or_else(|error| panic!("{mode}: {error}"));
        assert_eq!(server.sql(encrypted), ssl, "{mode}");
        drop(store);
        while server.sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tollway'") != "0" {}
    }
    let stranger = made.path("stranger.pem");
    let error =
        open(&format!("{plain}?sslmode=verify-full&sslrootcert={stranger}"), patient()).ping().await.unwrap_err();
    assert!(error.kind == StoreErrorKind::Misconfigured && error.detail.contains("?sslrootcert="), "{error}");
    server.set(&[file("ssl_cert_file", "other.pem"), file("ssl_key_file", "other.key")]);
    let error = open(&format!("{plain}?sslmode=verify-full&sslrootcert={ca}"), patient()).ping().await.unwrap_err();
    assert!(error.detail.contains("another name"), "{error}");
}

#[tokio::test]
async fn files_that_do_not_fit_are_named() {
    for (rest, part) in [
        ("sslmode=verify-full&sslrootcert=/nowhere.pem", "sslrootcert=\"/nowhere.pem\""),
        ("sslrootcert=/nowhere.pem", "verify-full"),
        ("sslmode=require&sslcert=/nowhere.pem", "one of sslcert and sslkey"),
    ] {
        let url = format!("postgres://me@localhost/shop?{rest}");
        let error = SqlStore::open(&url, SqlOptions::default(), &tokio::runtime::Handle::current()).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
}
