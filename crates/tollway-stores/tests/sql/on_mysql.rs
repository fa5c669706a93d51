//! MariaDB: the suite, and what becomes of callers when the server goes away.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tollway_core::{Algorithm, Store, StoreErrorKind, conformance};
use tollway_stores::sql::{SqlOptions, SqlStore};

use super::mariadb::MariaDb;
use super::{check, open, patient, policy, recovered, rows, together};

const TABLE: &str = "tollway_states";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_conforms_and_callers_share_it() {
    let server = MariaDb::start();
    conformance::run(open(&server.url(), patient()), "tcp").await;
    let socket = format!("mysql://root@/shop?socket={}&table=limits", server.socket().display());
    let five = policy("socket", "5/h", Algorithm::Gcra);
    assert_eq!(check(&open(&socket, patient()), &five, "k", 2).await.unwrap().remaining, 3);
    assert_eq!(server.sql("SELECT `key` FROM limits"), "tollway:socket:{k}");
    together::processes_get_the_limit(&server.url()).await;
    together::tasks_get_the_limit(&server.url()).await;
    together::crossing_keys_block_nobody(&server.url()).await;
    rows::a_caller_that_leaves_disturbs_nobody(&server.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_rows_are_kept_well() {
    let server = MariaDb::start();
    let sql = |text: &str| server.sql(text);
    rows::expired_rows_go_under_traffic(&server.url(), &sql, TABLE).await;
    rows::new_rows_pay_for_old_ones(&server.url(), &sql, TABLE).await;
    rows::a_foreign_row_is_left_alone(&server.url(), &sql, TABLE, "x'39'").await;
    rows::a_dropped_table_is_made_again(&server.url(), &sql, TABLE).await;
    // A clock of another time zone is the same clock.
    server.sql("SET GLOBAL time_zone = '+05:45'");
    let store = open(&server.url(), patient());
    let at = check(&store, &policy("zone", "5/h", Algorithm::Gcra), "k", 1).await.unwrap().at;
    let here = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    assert!((here.as_secs() as i64 - (at.nanos() / 1_000_000_000) as i64).abs() < 60, "{at}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_lived_without_and_found_again() {
    let mut server = MariaDb::start();
    let options = SqlOptions { command_timeout: Duration::from_secs(2), ..SqlOptions::default() };
    let store = open(&server.url(), options);
    let many = policy("p", "1000000/365d", Algorithm::Gcra);
    recovered(&store, &many, "k").await;

    // Cut connections are made anew unseen.
    for _ in 0..10 {
        let cut = server.sql("SELECT group_concat(concat('KILL ', id) SEPARATOR '; ') FROM information_schema.processlist WHERE db = 'shop' AND host <> 'localhost'");
        server.sql(&cut);
        check(&store, &many, "k", 1).await.unwrap();
    }

    // A row that somebody holds stops its own callers only.
    check(&store, &many, "free", 1).await.unwrap();
    let mut holder = Command::new("mariadb")
        .args(["--no-defaults", "-u", "root", "-D", "shop", &format!("--socket={}", server.socket().display()), "-e"])
        .arg(format!("BEGIN; SELECT 1 FROM {TABLE} WHERE `key` = 'tollway:p:{{k}}' FOR UPDATE; SELECT SLEEP(60)"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("mariadb runs");
    while server.sql("SELECT count(*) FROM information_schema.processlist WHERE state = 'User sleep'") != "1" {}
    let held = tokio::spawn({
        let (store, many) = (Arc::clone(&store), Arc::clone(&many));
        async move { check(&store, &many, "k", 1).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    check(&store, &many, "free", 1).await.unwrap();
    let error = held.await.unwrap().unwrap_err();
    assert!(error.kind == StoreErrorKind::Timeout && error.detail.contains("holds a row"), "{error}");
    let end = server.sql("SELECT concat('KILL ', id) FROM information_schema.processlist WHERE state = 'User sleep'");
    server.sql(&end);
    holder.wait().unwrap();
    recovered(&store, &many, "k").await;

    // A server that stands still costs one time-out.
    server.freeze();
    let start = Instant::now();
    let error = check(&store, &many, "k", 1).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Timeout, "{error}");
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    let start = Instant::now();
    for _ in 0..100 {
        assert!(check(&store, &many, "k", 1).await.unwrap_err().is_transient());
    }
    assert!(start.elapsed() < Duration::from_secs(2), "100 refusals took {:?}", start.elapsed());
    server.thaw();
    recovered(&store, &many, "k").await;

    // One that dies is named and found again.
    server.kill();
    let error = check(&store, &many, "k", 1).await.unwrap_err();
    let place = format!("nothing listens at 127.0.0.1:{}", server.port());
    assert!(error.kind == StoreErrorKind::Unavailable && error.detail.contains(&place), "{error}");
    server.restart();
    recovered(&store, &many, "k").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_why_it_refuses() {
    let runtime = tokio::runtime::Handle::current();
    for (url, part) in [
        ("mysql://127.0.0.1/shop", "names no user"),
        ("mysql://me:hunter2@127.0.0.1", "names no database"),
        ("mysql://me:hunter2@/shop", "names no host"),
        ("mysql://me:hunter2@one,two/shop", "or two"),
        ("mysql://me:hunter2@127.0.0.1/shop?sslmode=maybe", "sslmode=maybe"),
    ] {
        let error = SqlStore::open(url, SqlOptions::default(), &runtime).unwrap_err().to_string();
        assert!(error.contains(part) && !error.contains("hunter2"), "{error}");
    }
    let server = MariaDb::start();
    server.sql(
        "CREATE TABLE other_states (id int); CREATE USER locked@'127.0.0.1' IDENTIFIED BY 'hunter2'; \
         CREATE USER guest@'127.0.0.1'; GRANT SELECT ON shop.* TO guest@'127.0.0.1'; \
         GRANT ALL ON shop.* TO locked@'127.0.0.1'",
    );
    let place = |user: &str, rest: &str| format!("mysql://{user}@127.0.0.1:{}/{rest}", server.port());
    use StoreErrorKind::{Misconfigured, Unavailable};
    for (url, kind, part) in [
        ("mysql://me@nowhere.invalid/shop".to_owned(), Unavailable, "host name right"),
        (place("locked:wrong", "shop"), Misconfigured, "wrong user name or password"),
        (place("locked", "shop"), Misconfigured, "wrong user name or password"),
        (place("root", "nothing"), Misconfigured, "no such database"),
        (place("root", "shop?table=other_states"), Misconfigured, "another program's"),
        (place("guest", "shop"), Misconfigured, "GRANT"),
        (place("root", "shop?sslmode=require"), Misconfigured, "TLS"),
    ] {
        let error = open(&url, patient()).ping().await.unwrap_err();
        assert_eq!(error.kind, kind, "{url}: {error}");
        assert!(error.detail.contains(part) && !error.to_string().contains("wrong@"), "{url}: {error}");
    }
    let five = policy("p", "5/h", Algorithm::Gcra);
    let store = open(&place("locked:hunter2", "shop?table=theirs"), patient());
    assert_eq!(check(&store, &five, "k", 1).await.unwrap().remaining, 4);
    assert!(store.name().contains("locked:***@"), "{}", store.name());
    server.sql("SET GLOBAL read_only = 1");
    let store = open(&place("locked:hunter2", "shop?table=theirs"), patient());
    let error = check(&store, &five, "k", 1).await.unwrap_err();
    assert!(error.kind == Unavailable && error.detail.contains("name the primary"), "{error}");
}

#[cfg(feature = "sql-tls")]
#[tokio::test(flavor = "multi_thread")]
async fn it_is_asked_who_it_is() {
    let made = super::certificates::Certificates::make();
    let mut server = MariaDb::start();
    let file = |server: &MariaDb, setting: &str, name: &str| format!("--{setting}={}", server.lend(&made.path(name)));
    let settings = [("ssl-cert", "server.pem"), ("ssl-key", "server.key"), ("ssl-ca", "ca.pem")]
        .map(|(setting, name)| file(&server, setting, name));
    server.restart_with(&settings);
    server.sql(
        "CREATE USER safe@'127.0.0.1' IDENTIFIED BY 'hunter2' REQUIRE SSL; GRANT ALL ON shop.* TO safe@'127.0.0.1'",
    );
    let (plain, ca) = (format!("mysql://safe:hunter2@127.0.0.1:{}/shop", server.port()), made.path("ca.pem"));
    let five = policy("p", "100/h", Algorithm::Gcra);
    for mode in ["", "?sslmode=prefer", "?sslmode=require", &format!("?sslmode=verify-full&sslrootcert={ca}")] {
        let store = open(&format!("{plain}{mode}"), patient());
        check(&store, &five, "k", 1).await.unwrap_or_else(|error| panic!("{mode}: {error}"));
    }
    let stranger = made.path("stranger.pem");
    for (mode, part) in [
        ("?sslmode=disable".to_owned(), "wrong user name or password"),
        (format!("?sslmode=verify-full&sslrootcert={stranger}"), "?sslrootcert="),
    ] {
        let error = open(&format!("{plain}{mode}"), patient()).ping().await.unwrap_err();
        assert!(error.kind == StoreErrorKind::Misconfigured && error.detail.contains(part), "{mode}: {error}");
    }
}
