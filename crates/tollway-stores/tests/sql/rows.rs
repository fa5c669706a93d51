//! What is in the table: who made it, what is written, what goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tollway_core::{Algorithm, Charge, Request, Store, StoreErrorKind};

use super::{check, open, patient, policy};

/// A way past the store.
pub type Sql<'a> = &'a dyn Fn(&str) -> String;

/// Expired rows go, those that count stay, while callers go on.
pub async fn expired_rows_go_under_traffic(url: &str, sql: Sql<'_>, table: &str) {
    let store = open(url, patient());
    let short = policy("short", "1000000/ms", Algorithm::Gcra);
    let long = policy("long", "1000000/365d", Algorithm::Gcra);
    for number in 0..300 {
        let (one, two) = (format!("s{number}"), format!("l{}", number % 10));
        let charges = [Charge { policy: &short, key: &one, cost: 1 }, Charge { policy: &long, key: &two, cost: 1 }];
        assert!(store.apply(&[Request { charges: &charges, peek: false }]).await.unwrap()[0].allowed);
    }
    sql(&format!("UPDATE {table} SET expires_at = 1 WHERE {}", name_like("short")));
    let done = Arc::new(AtomicBool::new(false));
    let traffic = {
        let (store, long, done) = (Arc::clone(&store), Arc::clone(&long), Arc::clone(&done));
        tokio::spawn(async move {
            let mut times = 0;
            while !done.load(Ordering::Relaxed) {
                assert!(check(&store, &long, "l0", 1).await.unwrap().allowed);
                times += 1;
            }
            times
        })
    };
    let mut deleted = 0;
    loop {
        let some = store.cleanup(50).await.unwrap();
        assert!(some <= 50);
        deleted += some;
        if some < 50 {
            break;
        }
    }
    // Some, or all, may have gone by the store's own hand.
    assert!(deleted <= 300, "{deleted}");
    assert_eq!(sql(&format!("SELECT count(*) FROM {table} WHERE {}", name_like("short"))), "0");
    assert_eq!(sql(&format!("SELECT count(*) FROM {table} WHERE {}", name_like("long"))), "10");
    done.store(true, Ordering::Relaxed);
    let times = traffic.await.unwrap();
    let spent = 1_000_000 - check(&store, &long, "l0", 0).await.unwrap().remaining;
    assert!((1..=30 + times).contains(&spent), "{spent} of {times}");
}

/// The rows of a policy.
fn name_like(policy: &str) -> String {
    format!("key LIKE 'tollway:{policy}:%'")
}

/// New rows pay for the deletion of old ones: a table that only ever sees new keys stays small.
pub async fn new_rows_pay_for_old_ones(url: &str, sql: Sql<'_>, table: &str) {
    let store = open(url, patient());
    let short = policy("spray", "1/ms", Algorithm::Gcra);
    for round in 0..20 {
        for number in 0..100 {
            check(&store, &short, &format!("{round}-{number}"), 1).await.unwrap();
        }
        sql(&format!("UPDATE {table} SET expires_at = 1"));
    }
    // Sweeps that were paid for may still be under way.
    let left = || sql(&format!("SELECT count(*) FROM {table}")).parse::<u32>().unwrap();
    let start = Instant::now();
    while left() >= 200 {
        assert!(start.elapsed() < Duration::from_secs(10), "{} of 2000 rows are left", left());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A row of something else is named, never overwritten, and concerns nobody else.
pub async fn a_foreign_row_is_left_alone(url: &str, sql: Sql<'_>, table: &str, bytes: &str) {
    let store = open(url, patient());
    let five = policy("foreign", "5/h", Algorithm::Gcra);
    for key in ["a", "b"] {
        check(&store, &five, key, 1).await.unwrap();
    }
    let find = format!("SELECT count(*) FROM {table} WHERE state = {bytes}");
    sql(&format!("UPDATE {table} SET state = {bytes} WHERE key = 'tollway:foreign:{{a}}'"));
    for version in 0..2 {
        let error = check(&store, &five, "a", 1).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Corrupt, "{version}");
        assert!(error.detail.contains("tollway:foreign:{a}") && error.detail.contains("version 57"), "{error}");
    }
    assert_eq!(check(&store, &five, "b", 1).await.unwrap().remaining, 3);
    assert_eq!(sql(&find), "1");
    store.reset(&five, "a").await.unwrap();
    assert_eq!(check(&store, &five, "a", 1).await.unwrap().remaining, 4);
}

/// A table that goes while it is used is made again.
pub async fn a_dropped_table_is_made_again(url: &str, sql: Sql<'_>, table: &str) {
    let store = open(url, patient());
    let five = policy("dropped", "5/h", Algorithm::Gcra);
    check(&store, &five, "k", 3).await.unwrap();
    sql(&format!("DROP TABLE {table}"));
    assert_eq!(check(&store, &five, "k", 1).await.unwrap().remaining, 4);
}

/// Those who give up spend nothing, or once.
pub async fn a_caller_that_leaves_disturbs_nobody(url: &str) {
    let store = open(url, patient());
    let many = policy("leaving", "1000000/h", Algorithm::FixedWindow(tollway_core::Align::First));
    check(&store, &many, "k", 1).await.unwrap();
    let mut waiting = Vec::new();
    for n in 0..300 {
        let reply = store.apply(&[Request { charges: &[Charge { policy: &many, key: "k", cost: 1 }], peek: false }]);
        if n % 3 == 0 {
            drop(reply);
        } else {
            waiting.push(reply);
        }
    }
    for reply in waiting {
        assert!(tokio::time::timeout(Duration::from_secs(20), reply).await.unwrap().unwrap()[0].allowed);
    }
    let spent = 1_000_000 - check(&store, &many, "k", 0).await.unwrap().remaining;
    assert!((201..=301).contains(&spent), "{spent} spent");
}
