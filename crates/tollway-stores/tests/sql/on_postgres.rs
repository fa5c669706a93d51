//! PostgreSQL: the suite, and what becomes of callers when the server goes away.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tollway_core::{Algorithm, Change, Charge, Request, Store, StoreErrorKind, conformance};
use tollway_stores::sql::SqlOptions;

use super::postgres::Postgres;
use super::{check, open, patient, policy, recovered, rows, together};

const TABLE: &str = "tollway_states";

#[tokio::test(flavor = "multi_thread")]
async fn it_conforms() {
    let server = Postgres::start();
    conformance::run(open(&server.url(), patient()), "tcp").await;
    let socket =
        format!("postgres://rl@:{}/postgres?host={}&table=public.limits", server.port(), server.folder().display());
    let store = open(&socket, patient());
    assert_eq!(store.name(), socket);
    let five = policy("socket", "5/h", Algorithm::Gcra);
    assert_eq!(check(&store, &five, "k", 2).await.unwrap().remaining, 3);
    assert_eq!(server.sql("SELECT key FROM public.limits"), "tollway:socket:{k}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn callers_share_it() {
    let server = Postgres::start();
    together::processes_get_the_limit(&server.url()).await;
    together::tasks_get_the_limit(&server.url()).await;
    together::crossing_keys_block_nobody(&server.url()).await;
    rows::a_caller_that_leaves_disturbs_nobody(&server.url()).await;
    assert_eq!(server.sql("SELECT deadlocks FROM pg_stat_database WHERE datname = 'postgres'"), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn its_rows_are_kept_well() {
    let server = Postgres::start();
    let sql = |text: &str| server.sql(text);
    rows::expired_rows_go_under_traffic(&server.url(), &sql, TABLE).await;
    rows::new_rows_pay_for_old_ones(&server.url(), &sql, TABLE).await;
    rows::a_foreign_row_is_left_alone(&server.url(), &sql, TABLE, "'\\x39'").await;
    rows::a_dropped_table_is_made_again(&server.url(), &sql, TABLE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_write_nothing_and_callers_travel_together() {
    let server = Postgres::start();
    let store = open(&server.url(), patient());
    let one = policy("one", "1/h", Algorithm::Gcra);
    check(&store, &one, "k", 1).await.unwrap();
    let versions = || server.sql(&format!("SELECT xmin, ctid, state, expires_at FROM {TABLE}"));
    let before = versions();
    for _ in 0..20 {
        assert!(!check(&store, &one, "k", 1).await.unwrap().allowed);
        let charges = [Charge { policy: &one, key: "never seen", cost: 1 }];
        assert!(store.apply(&[Request { charges: &charges, peek: true }]).await.unwrap()[0].allowed);
    }
    assert_eq!(versions(), before);
    server.freeze();
    let keys: Vec<_> = (0..1_000).map(|n| format!("k{n}")).collect();
    let ask = |key: &String| store.apply(&[Request { charges: &[Charge { policy: &one, key, cost: 1 }], peek: false }]);
    let waiting: Vec<_> = keys.iter().map(ask).collect();
    server.thaw();
    for reply in waiting {
        assert!(reply.await.unwrap()[0].allowed);
    }
    let transactions = server.sql(&format!("SELECT count(DISTINCT xmin::text) FROM {TABLE} WHERE key LIKE '%{{k_%'"));
    assert!(transactions.parse::<u32>().unwrap() <= 4, "1000 callers took {transactions} transactions");
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_connections_are_made_anew_unseen() {
    let server = Postgres::start();
    let store = open(&server.url(), patient());
    let many = policy("p", "1000000/365d", Algorithm::Gcra);
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'tollway'";
    for _ in 0..10 {
        check(&store, &many, "k", 1).await.unwrap();
        server.sql(cut);
    }
    // Under load too. A call that was cut off is sent again, so it may count twice, never less.
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let (store, many) = (Arc::clone(&store), Arc::clone(&many));
            tokio::spawn(async move {
                for _ in 0..100 {
                    check(&store, &many, "k", 1).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            })
        })
        .collect();
    for _ in 0..2 {
        server.sql(cut);
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    for caller in callers {
        caller.await.unwrap();
    }
    assert!(check(&store, &many, "k", 0).await.unwrap().remaining <= 1_000_000 - 810);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_is_named_and_found_again() {
    let server = Postgres::start();
    let options = SqlOptions { command_timeout: Duration::from_secs(2), ..SqlOptions::default() };
    let store = open(&server.url(), options);
    let five = policy("p", "5/h", Algorithm::Gcra);
    recovered(&store, &five, "k").await;
    server.kill();
    let error = check(&store, &five, "k", 1).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Unavailable);
    let place = format!("nothing listens at 127.0.0.1:{}", server.port());
    assert!(error.to_string().contains(&server.url()) && error.detail.contains(&place), "{error}");
    // While it is away, answers are immediate and name the cause.
    let start = Instant::now();
    for _ in 0..1_000 {
        let error = check(&store, &five, "k", 1).await.unwrap_err();
        assert!(error.detail.contains(&place), "{error}");
    }
    assert!(start.elapsed() < Duration::from_secs(2), "1000 refusals took {:?}", start.elapsed());
    server.restart();
    recovered(&store, &five, "k").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stands_still_costs_one_time_out() {
    let server = Postgres::start();
    let store = open(&server.url(), SqlOptions::default());
    let five = policy("p", "5/h", Algorithm::Gcra);
    recovered(&store, &five, "k").await;
    let back = store.adjust(&five, "k", Change::Refund(1));
    back.await.unwrap();
    server.freeze();
    let start = Instant::now();
    let error = check(&store, &five, "k", 1).await.unwrap_err();
    let waited = start.elapsed();
    assert_eq!(error.kind, StoreErrorKind::Timeout, "{error}");
    assert!(error.detail.contains("100 ms"), "{error}");
    assert!((Duration::from_millis(90)..Duration::from_secs(1)).contains(&waited), "{waited:?}");
    let start = Instant::now();
    for _ in 0..100 {
        assert!(check(&store, &five, "k", 1).await.unwrap_err().is_transient());
    }
    assert!(start.elapsed() < Duration::from_secs(1), "100 refusals took {:?}", start.elapsed());
    server.thaw();
    recovered(&store, &five, "k").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_somebody_holds_stops_its_own_callers_only() {
    let server = Postgres::start();
    let options = SqlOptions { command_timeout: Duration::from_secs(1), ..SqlOptions::default() };
    let store = open(&server.url(), options);
    let five = policy("p", "1000/h", Algorithm::Gcra);
    for key in ["held", "free"] {
        recovered(&store, &five, key).await;
    }
    let hold = format!("BEGIN; SELECT 1 FROM {TABLE} WHERE key LIKE '%{{held}}' FOR UPDATE; SELECT pg_sleep(30)");
    let mut holder = std::process::Command::new("psql")
        .args(["-h", "127.0.0.1", "-p", &server.port().to_string(), "-U", "rl", "-d", "postgres", "-c", &hold])
        .stdout(Stdio::null())
        .spawn()
        .expect("psql runs");
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    while server.sql(sleeping) != "1" {}
    let held = tokio::spawn({
        let (store, five) = (Arc::clone(&store), Arc::clone(&five));
        async move { check(&store, &five, "held", 1).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let start = Instant::now();
    check(&store, &five, "free", 1).await.unwrap();
    assert!(start.elapsed() < Duration::from_millis(700), "{:?}", start.elapsed());
    let error = held.await.unwrap().unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Timeout);
    assert!(error.detail.contains("holds a row"), "{error}");
    holder.kill().unwrap();
    holder.wait().unwrap();
    server.sql("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'PgSleep'");
    recovered(&store, &five, "held").await;
}
