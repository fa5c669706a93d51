//! A connection to MySQL or MariaDB: what is sent together travels together.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use mysql_async::prelude::{FromRow, Queryable};
use mysql_async::{Conn, Error, from_row_opt};
use tollway_core::{StoreError, StoreErrorKind, Timestamp};

use super::{Place, Trouble};
use crate::sql::address::Table;
use crate::sql::ask::{Put, Puts, Row};
use crate::sql::link::Link;

/// Microseconds since 1970 on the server's clock, whatever its time zone.
const NOW: &str = "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))";
const NO_TABLE: u16 = 1146;

/// A connection.
pub(in crate::sql) struct MysqlLink {
    place: Arc<Place>,
    conn: Conn,
}

/// What came of one statement.
struct Outcome {
    /// Rows changed.
    changed: u64,
    rows: Vec<mysql_async::Row>,
}

impl Outcome {
    /// The rows, read as so many values of these types; None when they are others.
    fn read<R: FromRow>(self) -> Option<Vec<R>> {
        self.rows.into_iter().map(|row| from_row_opt(row).ok()).collect()
    }
}

impl MysqlLink {
    /// Makes the session's settings, and the table where there is none.
    pub(super) async fn prepare(place: Arc<Place>, conn: Conn) -> Result<Self, StoreError> {
        let mut link = Self { place, conn };
        let settings = settings(link.place.command_timeout);
        let look = format!("SELECT `key`, state, expires_at FROM {} WHERE FALSE", link.place.table);
        let made = async {
            link.send(&settings).await?;
            match link.send(&look).await {
                Err(Error::Server(said)) if said.code == NO_TABLE => link.send(&schema(&link.place.table)).await,
                looked => looked,
            }
        };
        match made.await {
            Ok(_) => Ok(link),
            Err(error) => Err(link.place.explain(&error)),
        }
    }

    /// Runs statements, separated by semicolons, in one round trip. The first that fails ends it.
    async fn send(&mut self, sql: &str) -> Result<Vec<Outcome>, Error> {
        let mut answer = self.conn.query_iter(sql).await?;
        let mut outcomes = Vec::new();
        loop {
            let changed = answer.affected_rows();
            outcomes.push(Outcome { changed, rows: answer.collect().await? });
            if answer.is_empty() {
                // Also empty when the next statement failed: this is where the driver says so.
                answer.drop_result().await?;
                return Ok(outcomes);
            }
        }
    }

    /// Runs statements, and ends the transaction that they leave open when one fails.
    async fn run(&mut self, sql: &str) -> Result<Vec<Outcome>, Trouble> {
        let error = match self.send(sql).await {
            Ok(outcomes) => return Ok(outcomes),
            Err(error) => error,
        };
        let trouble = self.place.trouble(&error);
        if !matches!(trouble, Trouble::Cut(_)) {
            self.leave().await?;
        }
        Err(trouble)
    }

    /// The keys that the last of these statements finds.
    async fn keys(&mut self, sql: &str) -> Result<Vec<String>, Trouble> {
        let found = self.run(sql).await?.pop().and_then(Outcome::read);
        found.ok_or_else(|| self.strange())
    }

    fn strange(&self) -> Trouble {
        let detail = "the server answered something else than was asked; please report it with its version";
        Trouble::Cut(self.place.error(StoreErrorKind::Corrupt, detail))
    }
}

/// The session's settings. A client that stops in the middle of a transaction must not hold its rows
/// for long, and one that waits for a row must give up before its callers do. MySQL takes for a
/// comment what only MariaDB knows.
fn settings(command_timeout: Duration) -> String {
    let statement = (command_timeout * 4 / 5).as_secs_f64().max(0.001);
    let idle = (command_timeout * 2).as_secs().max(1);
    format!(
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; \
         SET SESSION autocommit = 1, sql_mode = 'STRICT_ALL_TABLES', innodb_lock_wait_timeout = 1 \
         /*M! , max_statement_time = {statement:.3}, idle_transaction_timeout = {idle} */"
    )
}

/// What makes the table, once, however many clients try.
fn schema(table: &Table) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {table} (`key` varchar(640) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY, \
         state mediumblob NOT NULL, expires_at bigint, KEY {name}_expires_at (expires_at)) ENGINE = InnoDB",
        name = table.table
    )
}

/// Text of keys as a literal that no mode of the server reads differently.
fn literal(text: &str) -> String {
    let mut literal = String::with_capacity(text.len() * 2 + 10);
    literal.push_str("_ascii ");
    bytes(text.as_bytes(), &mut literal);
    literal
}

fn bytes(bytes: &[u8], literal: &mut String) {
    literal.push_str("x'");
    for byte in bytes {
        let _ = write!(literal, "{byte:02x}");
    }
    literal.push('\'');
}

fn list<'a>(keys: impl Iterator<Item = &'a str>) -> String {
    keys.map(literal).collect::<Vec<_>>().join(", ")
}

/// The statement that puts these rows, without what happens to those that are there.
fn insert(table: &Table, puts: &[Put]) -> String {
    let mut sql = format!("INSERT INTO {table} (`key`, state, expires_at) VALUES ");
    for (number, put) in puts.iter().enumerate() {
        let _ = write!(sql, "{}({}, ", if number == 0 { "" } else { ", " }, literal(&put.key));
        bytes(&put.state, &mut sql);
        let _ = write!(sql, ", {})", put.expires_at);
    }
    sql
}

impl Link for MysqlLink {
    async fn read(&mut self, keys: &[Arc<str>]) -> Result<(Vec<Row>, Timestamp), Trouble> {
        // By the primary key, so that rows are locked in its order and no others are.
        let sql = format!(
            "START TRANSACTION; SELECT `key`, state FROM {} FORCE INDEX (PRIMARY) WHERE `key` IN ({}) \
             ORDER BY `key` FOR UPDATE; SELECT {NOW}",
            self.place.table,
            list(keys.iter().map(|key| &**key)),
        );
        let [_, found, clock] = <[Outcome; 3]>::try_from(self.run(&sql).await?).map_err(|_| self.strange())?;
        let now = clock.read::<u64>().and_then(|now| now.first().copied()).ok_or_else(|| self.strange())?;
        let rows = found.read().ok_or_else(|| self.strange())?;
        let rows = rows.into_iter().map(|(key, state)| Row { key, state }).collect();
        Ok((rows, Timestamp::from_micros(now)))
    }

    async fn write(&mut self, puts: &Puts) -> Result<(), Trouble> {
        let table = &self.place.table;
        let mut sql = String::new();
        if !puts.known.is_empty() {
            sql += &insert(table, &puts.known);
            sql += " ON DUPLICATE KEY UPDATE state = VALUES(state), expires_at = VALUES(expires_at); ";
        }
        if !puts.new.is_empty() {
            // A row that somebody else has made since it was looked for is an error here.
            sql += &insert(table, &puts.new);
            sql += "; ";
        }
        sql += "COMMIT";
        self.run(&sql).await.map(drop)
    }

    async fn leave(&mut self) -> Result<(), Trouble> {
        let left = self.send("ROLLBACK").await;
        left.map(drop).map_err(|error| Trouble::Cut(self.place.explain(&error)))
    }

    async fn forget(&mut self, from: &str, to: &str) -> Result<u64, Trouble> {
        let table = &self.place.table;
        let sql = format!("DELETE FROM {table} WHERE `key` >= {} AND `key` < {}", literal(from), literal(to));
        Ok(self.run(&sql).await?.first().map_or(0, |outcome| outcome.changed))
    }

    async fn sweep(&mut self, most: u32) -> Result<u64, Trouble> {
        let table = &self.place.table;
        // Found without a lock, then locked by the primary key as everybody does, and passed over
        // where somebody else was quicker.
        let expired = format!("expires_at <= {NOW} DIV 1000000");
        let find = format!("SELECT `key` FROM {table} WHERE {expired} ORDER BY expires_at LIMIT {most}");
        let mut keys = self.keys(&find).await?;
        if keys.is_empty() {
            return Ok(0);
        }
        keys.sort_unstable();
        let table = &self.place.table;
        let lock = format!(
            "START TRANSACTION; SELECT `key` FROM {table} FORCE INDEX (PRIMARY) \
             WHERE `key` IN ({}) AND {expired} ORDER BY `key` FOR UPDATE SKIP LOCKED",
            list(keys.iter().map(String::as_str)),
        );
        let held = self.keys(&lock).await?;
        if held.is_empty() {
            return self.leave().await.map(|()| 0);
        }
        let held = list(held.iter().map(String::as_str));
        let delete = format!("DELETE FROM {} WHERE `key` IN ({held}); COMMIT", self.place.table);
        Ok(self.run(&delete).await?.first().map_or(0, |outcome| outcome.changed))
    }

    async fn ping(&mut self) -> Result<(), Trouble> {
        self.run("SELECT 1").await.map(drop)
    }
}
