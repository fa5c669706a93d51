//! The SQL stores against real databases.

#[cfg(feature = "sql-tls")]
#[allow(dead_code, reason = "shared with the tests of Redis")]
#[path = "servers/certificates.rs"]
mod certificates;
#[path = "servers/mariadb.rs"]
mod mariadb;
#[path = "servers/postgres.rs"]
mod postgres;

#[path = "sql/on_mysql.rs"]
mod on_mysql;
#[path = "sql/on_postgres.rs"]
mod on_postgres;
#[path = "sql/on_sqlite.rs"]
mod on_sqlite;
#[path = "sql/rows.rs"]
mod rows;
#[cfg(feature = "sql-tls")]
#[path = "sql/tls.rs"]
mod tls;
#[path = "sql/together.rs"]
mod together;
#[path = "sql/urls.rs"]
mod urls;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tollway_core::{Algorithm, Charge, Decision, Policy, Request, Store, StoreError};
use tollway_stores::sql::{SqlOptions, SqlStore};

fn open(url: &str, options: SqlOptions) -> Arc<SqlStore> {
    Arc::new(SqlStore::open(url, options, &tokio::runtime::Handle::current()).expect("a legal URL"))
}

/// Time enough for a busy machine.
fn patient() -> SqlOptions {
    SqlOptions {
        connect_timeout: Duration::from_secs(20),
        command_timeout: Duration::from_secs(20),
        ..SqlOptions::default()
    }
}

fn policy(name: &str, rates: &str, algorithm: Algorithm) -> Arc<Policy> {
    Arc::new(Policy::new(name, rates, algorithm).expect("a legal policy"))
}

async fn check(store: &SqlStore, policy: &Arc<Policy>, key: &str, cost: u32) -> Result<Decision, StoreError> {
    let charges = [Charge { policy, key, cost }];
    store.apply(&[Request { charges: &charges, peek: false }]).await.map(|decisions| decisions[0])
}

/// Asks until it is answered, at most 20 s; says what went wrong meanwhile.
async fn recovered(store: &SqlStore, policy: &Arc<Policy>, key: &str) -> Vec<StoreError> {
    let end = Instant::now() + Duration::from_secs(20);
    let mut errors = Vec::new();
    loop {
        match check(store, policy, key, 1).await {
            Ok(_) => return errors,
            Err(error) => {
                assert!(Instant::now() < end, "no recovery: {error}");
                assert!(error.is_transient(), "{error}");
                errors.push(error);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}
