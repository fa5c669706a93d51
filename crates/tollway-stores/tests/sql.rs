//! The SQL stores against real databases.

#[cfg(feature = "sql-tls")]
#[allow(dead_code, reason = "shared with the tests of Redis")]
#[path = "servers/certificates.rs"]
mod certificates;
mod crowd;
#[path = "servers/mariadb.rs"]
mod mariadb;
#[path = "servers/postgres.rs"]
mod postgres;
#[path = "servers/still.rs"]
mod still;

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
use std::time::Duration;

use crowd::{check, policy, recovered};
use tollway_stores::sql::{SqlOptions, SqlStore};

/// What [`crowd`] asks.
type Remote = SqlStore;

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
