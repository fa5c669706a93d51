//! A connection to PostgreSQL: what is sent together travels together.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error, Statement};
use tollway_core::{StoreError, Timestamp};

use super::super::ask::{Put, Puts, Row};
use super::super::link::{Link, Trouble};
use super::{Place, Table};

/// What reads from and writes to the socket, for as long as it is polled.
type Wire = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// A connection with its statements.
pub(in crate::sql) struct PostgresLink {
    place: Arc<Place>,
    client: Client,
    wire: Line,
    statements: Statements,
}

struct Line(Option<Wire>);

struct Statements {
    read: Statement,
    update: Statement,
    insert: Statement,
    forget: Statement,
    sweep: Statement,
}

impl Line {
    /// Sends and receives until `done` is.
    async fn carry<T>(&mut self, done: impl Future<Output = T>) -> T {
        let mut done = pin!(done);
        poll_fn(|cx| {
            if let Poll::Ready(value) = done.as_mut().poll(cx) {
                return Poll::Ready(value);
            }
            if self.0.as_mut().is_some_and(|wire| wire.as_mut().poll(cx).is_ready()) {
                self.0 = None;
            }
            // What has arrived meanwhile, or the news that nothing will.
            done.as_mut().poll(cx)
        })
        .await
    }
}

impl Statements {
    async fn prepare(client: &Client, table: &Table) -> Result<Self, Error> {
        // The clock is read after the rows are locked: Append runs its parts one after the other.
        let read = format!(
            "WITH held AS MATERIALIZED (SELECT key, state FROM {table} WHERE key = ANY($1) ORDER BY key FOR NO KEY UPDATE) \
             SELECT key, state, NULL::timestamptz FROM held UNION ALL SELECT NULL, NULL, clock_timestamp()"
        );
        let update = format!(
            "UPDATE {table} AS t SET state = v.state, expires_at = v.expires_at \
             FROM unnest($1::text[], $2::bytea[], $3::bigint[]) AS v (key, state, expires_at) WHERE t.key = v.key"
        );
        // Without ON CONFLICT: a row that somebody else has made since it was looked for ends the transaction.
        let insert = format!(
            "INSERT INTO {table} (key, state, expires_at) \
             SELECT key, state, expires_at FROM unnest($1::text[], $2::bytea[], $3::bigint[]) AS v (key, state, expires_at) ORDER BY key"
        );
        let forget = format!(
            "DELETE FROM {table} WHERE key IN \
             (SELECT key FROM {table} WHERE key >= $1 AND key < $2 ORDER BY key FOR UPDATE)"
        );
        let sweep = format!(
            "DELETE FROM {table} WHERE key IN (SELECT key FROM {table} \
             WHERE expires_at <= floor(extract(epoch FROM clock_timestamp()))::bigint \
             ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED)"
        );
        let (read, update, insert, forget, sweep) = tokio::try_join!(
            biased;
            client.prepare_typed(&read, &[Type::TEXT_ARRAY]),
            client.prepare(&update),
            client.prepare(&insert),
            client.prepare_typed(&forget, &[Type::TEXT, Type::TEXT]),
            client.prepare_typed(&sweep, &[Type::INT8]),
        )?;
        Ok(Self { read, update, insert, forget, sweep })
    }
}

impl PostgresLink {
    /// Makes the connection's settings and statements, and the table where there is none.
    pub(super) async fn prepare(place: Arc<Place>, client: Client, wire: Wire) -> Result<Self, StoreError> {
        let mut wire = Line(Some(wire));
        let millis = |time: Duration| time.as_millis().max(1);
        // A client that stops in the middle of a transaction must not hold its rows for long, and a
        // limiter's states are not worth waiting for the disk.
        let settings = format!(
            "SET lock_timeout = {}; SET statement_timeout = {}; SET idle_in_transaction_session_timeout = {}; \
             SET synchronous_commit = off",
            millis(place.command_timeout * 4 / 5),
            millis(place.command_timeout),
            millis((place.command_timeout * 2).max(Duration::from_secs(1))),
        );
        let table = &place.table;
        let prepared = wire
            .carry(async {
                client.batch_execute(&settings).await?;
                match Statements::prepare(&client, table).await {
                    Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => {
                        client.batch_execute(&schema(table)).await?;
                        Statements::prepare(&client, table).await
                    }
                    prepared => prepared,
                }
            })
            .await;
        let statements = prepared.map_err(|error| place.connecting(&error))?;
        Ok(Self { place, client, wire, statements })
    }

    /// What an error means for the transaction that it ended.
    fn trouble(place: &Place, error: &Error) -> Trouble {
        match error.code() {
            Some(
                &(SqlState::UNIQUE_VIOLATION | SqlState::T_R_DEADLOCK_DETECTED | SqlState::T_R_SERIALIZATION_FAILURE),
            ) => Trouble::Refused(place.contended()),
            // Its statements were made for a table that is gone or changed; or it is being closed.
            Some(&(SqlState::UNDEFINED_TABLE | SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN)) | None => {
                Trouble::Cut(place.connecting(error))
            }
            Some(_) if error.is_closed() => Trouble::Cut(place.connecting(error)),
            Some(_) => Trouble::Refused(place.connecting(error)),
        }
    }
}

/// What makes the table, once, however many clients try.
fn schema(table: &Table) -> String {
    let name = &table.table;
    format!(
        "BEGIN; SELECT pg_advisory_xact_lock(hashtext('tollway {table}')); \
         CREATE TABLE IF NOT EXISTS {table} (key text COLLATE \"C\" PRIMARY KEY, state bytea NOT NULL, expires_at bigint) \
         WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05); \
         CREATE INDEX IF NOT EXISTS {name}_expires_at ON {table} (expires_at) WHERE expires_at IS NOT NULL; COMMIT"
    )
}

/// The columns of rows.
fn columns(puts: &[Put]) -> (Vec<&str>, Vec<&[u8]>, Vec<Option<i64>>) {
    let key = puts.iter().map(|put| &*put.key).collect();
    let state = puts.iter().map(|put| &*put.state).collect();
    (key, state, puts.iter().map(|put| Some(put.expires_at)).collect())
}

impl Link for PostgresLink {
    async fn read(&mut self, keys: &[Arc<str>]) -> Result<(Vec<Row>, Timestamp), Trouble> {
        let Self { place, client, wire, statements } = self;
        let keys: Vec<&str> = keys.iter().map(|key| &**key).collect();
        let asked = async {
            let begun = client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED");
            let rows = async { client.query(&statements.read, &[&keys]).await };
            let (begun, rows) = tokio::join!(biased; begun, rows);
            begun?;
            let mut found = Vec::new();
            let mut now = None;
            for row in rows? {
                match row.try_get::<_, Option<SystemTime>>(2)? {
                    Some(time) => now = time.duration_since(UNIX_EPOCH).ok(),
                    None => found.push(Row { key: row.try_get(0)?, state: row.try_get(1)? }),
                }
            }
            Ok((found, now.map_or(Timestamp::default(), |now| Timestamp::from_nanos(now.as_nanos() as u64))))
        };
        match wire.carry(asked).await {
            Ok(read) => Ok(read),
            Err(error) => {
                let trouble = Self::trouble(place, &error);
                match trouble {
                    Trouble::Cut(_) => {}
                    _ => self.leave().await?,
                }
                Err(trouble)
            }
        }
    }

    async fn write(&mut self, puts: &Puts) -> Result<(), Trouble> {
        let Self { place, client, wire, statements } = self;
        let (known, new) = (columns(&puts.known), columns(&puts.new));
        let asked = async {
            let update = async {
                match puts.known.is_empty() {
                    true => Ok(0),
                    false => client.execute(&statements.update, &[&known.0, &known.1, &known.2]).await,
                }
            };
            let insert = async {
                match puts.new.is_empty() {
                    true => Ok(0),
                    false => client.execute(&statements.insert, &[&new.0, &new.1, &new.2]).await,
                }
            };
            // After an error COMMIT rolls back, so it can be sent without knowing.
            let (update, insert, commit) = tokio::join!(biased; update, insert, client.batch_execute("COMMIT"));
            update.and(insert)?;
            commit
        };
        wire.carry(asked).await.map_err(|error: Error| Self::trouble(place, &error))
    }

    async fn leave(&mut self) -> Result<(), Trouble> {
        let done = self.wire.carry(self.client.batch_execute("ROLLBACK")).await;
        done.map_err(|error| Self::trouble(&self.place, &error))
    }

    async fn forget(&mut self, from: &str, to: &str) -> Result<u64, Trouble> {
        let done = self.wire.carry(self.client.execute(&self.statements.forget, &[&from, &to])).await;
        done.map_err(|error| Self::trouble(&self.place, &error))
    }

    async fn sweep(&mut self, most: u32) -> Result<u64, Trouble> {
        let most = i64::from(most);
        let done = self.wire.carry(self.client.execute(&self.statements.sweep, &[&most])).await;
        done.map_err(|error| Self::trouble(&self.place, &error))
    }

    async fn ping(&mut self) -> Result<(), Trouble> {
        let done = self.wire.carry(self.client.check_connection()).await;
        done.map_err(|error| Self::trouble(&self.place, &error))
    }
}
