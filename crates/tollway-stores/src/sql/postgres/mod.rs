//! PostgreSQL: where it is, and what its refusals mean.

mod link;
#[cfg(feature = "sql-tls")]
mod tls;

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Config, Error, NoTls};
use tollway_core::{ConfigError, StoreError, StoreErrorKind};

use super::SqlOptions;
use super::address::{Address, Table};
use super::link::Server;
use super::secure::Secure;
use link::PostgresLink;

/// A PostgreSQL server.
#[derive(Debug)]
pub(super) struct Postgres(Arc<Place>);

/// How it is reached, and what it is called in messages.
#[derive(Debug)]
struct Place {
    name: Arc<str>,
    place: String,
    config: Config,
    secure: Secure,
    table: Table,
    command_timeout: Duration,
}

impl Postgres {
    pub(super) fn new(address: &Address, options: &SqlOptions) -> Result<Self, ConfigError> {
        let mut config = Config::new();
        let Some(user) = &address.access.user else {
            return Err(address.refuse("names no user: write postgres://USER:PASSWORD@HOST:PORT/DATABASE"));
        };
        config.user(user).application_name("tollway");
        if let Some(password) = &address.access.password {
            config.password(password);
        }
        if !address.database.is_empty() {
            config.dbname(&address.database);
        }
        let mut places = Vec::new();
        let folder = address.access.value("host");
        for (host, port) in &address.access.hosts {
            let port = port.unwrap_or(5432);
            config.port(port);
            if !host.is_empty() {
                config.host(host);
                places.push(format!("{host}:{port}"));
            }
        }
        match (folder, places.is_empty()) {
            (Some(folder), true) => {
                config.host(folder);
                places.push(folder.to_owned());
            }
            (None, false) => {}
            _ => {
                let form = "names no host, or two: write …@HOST:PORT/DATABASE or …@:PORT/DATABASE?host=/SOCKET/FOLDER";
                return Err(address.refuse(form));
            }
        }
        let secure = Secure::read(address)?;
        config.ssl_mode(match secure {
            Secure::Never => SslMode::Disable,
            #[cfg(feature = "sql-tls")]
            Secure::Offered(_) => SslMode::Prefer,
            #[cfg(feature = "sql-tls")]
            Secure::Always(_) => SslMode::Require,
        });
        Ok(Self(Arc::new(Place {
            name: address.name.as_str().into(),
            place: places.join(", "),
            config,
            secure,
            table: address.table.clone(),
            command_timeout: options.command_timeout,
        })))
    }
}

impl Place {
    fn error(&self, kind: StoreErrorKind, detail: impl Into<String>) -> StoreError {
        StoreError::new(kind, &*self.name, detail)
    }

    /// Why no connection was made.
    fn connecting(&self, error: &Error) -> StoreError {
        let place = &self.place;
        if let Some(said) = error.as_db_error() {
            let (kind, step) = self.remedy(said.code());
            return self.error(kind, format!("{step} (the server said: {})", said.message()));
        }
        let cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
        #[cfg(feature = "sql-tls")]
        if let Some(broken) = error.source().and_then(|source| source.downcast_ref::<std::io::Error>())
            && error.to_string().contains("TLS")
        {
            let (kind, text) = crate::tls::explain(place, broken, &super::secure::NAMES);
            return self.error(kind, text);
        }
        let io = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
        match io.map(std::io::Error::kind) {
            Some(std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::NotFound) => self.error(
                StoreErrorKind::Unavailable,
                format!("nothing listens at {place}: is PostgreSQL running? Start it with `pg_ctl start`"),
            ),
            Some(_) => self.error(
                StoreErrorKind::Unavailable,
                format!("cannot connect to {place} ({cause}): is PostgreSQL running and the host name right?"),
            ),
            None if error.to_string().contains("password missing") || cause.contains("password missing") => self.error(
                StoreErrorKind::Misconfigured,
                "the server wants a password: put it in the URL, postgres://USER:PASSWORD@HOST/DATABASE",
            ),
            None => self.error(
                StoreErrorKind::Misconfigured,
                format!("cannot speak with what answers at {place} ({error}: {cause}): check host, port and sslmode"),
            ),
        }
    }

    /// Others changed the same rows again and again.
    fn contended(&self) -> StoreError {
        let detail = format!("rows of {} were made or locked by others again and again: try again", self.table);
        self.error(StoreErrorKind::Conflict, detail)
    }

    /// What a refusal of the server means, and the next step.
    fn remedy(&self, code: &SqlState) -> (StoreErrorKind, String) {
        use StoreErrorKind::{Misconfigured, Timeout, Unavailable};
        let table = &self.table;
        let (kind, step) = match *code {
            SqlState::INVALID_PASSWORD | SqlState::INVALID_AUTHORIZATION_SPECIFICATION => (
                Misconfigured,
                "wrong user name or password, or pg_hba.conf does not let this host in: correct the URL".into(),
            ),
            SqlState::INVALID_CATALOG_NAME => {
                (Misconfigured, "there is no such database: correct the URL, or make it with `createdb`".into())
            }
            SqlState::INVALID_SCHEMA_NAME => {
                (Misconfigured, format!("there is no schema for the table {table}: make it with CREATE SCHEMA"))
            }
            SqlState::INSUFFICIENT_PRIVILEGE => (
                Misconfigured,
                format!(
                    "the user may not use the table {table}: GRANT SELECT, INSERT, UPDATE, DELETE, or CREATE on its schema"
                ),
            ),
            SqlState::UNDEFINED_COLUMN | SqlState::DATATYPE_MISMATCH | SqlState::WRONG_OBJECT_TYPE => {
                (Misconfigured, format!("the table {table} is another program's: name one with ?table="))
            }
            SqlState::READ_ONLY_SQL_TRANSACTION => {
                (Unavailable, "the server is a standby and takes no writes: name the primary in the URL".into())
            }
            SqlState::TOO_MANY_CONNECTIONS => (
                Unavailable,
                "the server has too many connections: raise max_connections or use fewer processes".into(),
            ),
            SqlState::CANNOT_CONNECT_NOW => (Unavailable, "the server is starting or stopping".into()),
            SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN => {
                (Unavailable, "the server closed the connection".into())
            }
            SqlState::LOCK_NOT_AVAILABLE => (
                Timeout,
                format!(
                    "another client holds a row of {table} for longer than a call may take: is one of them stopped?"
                ),
            ),
            SqlState::QUERY_CANCELED => {
                (Timeout, "the server ended a statement that took longer than a call may".into())
            }
            _ => (Unavailable, "see the server's log".into()),
        };
        (kind, step)
    }
}

impl Server for Postgres {
    type Link = PostgresLink;

    async fn connect(&self) -> Result<PostgresLink, StoreError> {
        let place = Arc::clone(&self.0);
        match &self.0.secure {
            Secure::Never => {
                let made = place.config.connect(NoTls).await;
                let (client, wire) = made.map_err(|error| place.connecting(&error))?;
                PostgresLink::prepare(place, client, Box::pin(wire)).await
            }
            #[cfg(feature = "sql-tls")]
            Secure::Offered(tls) | Secure::Always(tls) => {
                let made = place.config.connect(tls::Maker(tls.clone())).await;
                let (client, wire) = made.map_err(|error| place.connecting(&error))?;
                PostgresLink::prepare(place, client, Box::pin(wire)).await
            }
        }
    }

    fn silent(&self) -> StoreError {
        let place = &self.0.place;
        self.0.error(
            StoreErrorKind::Timeout,
            format!("{place} accepted no connection in time: is the host reachable and the server not stopped?"),
        )
    }
}
