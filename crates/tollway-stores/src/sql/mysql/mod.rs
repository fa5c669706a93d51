//! MySQL and MariaDB: where the server is, and what its refusals mean.

mod link;
mod login;
mod wire;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tollway_core::{ConfigError, StoreError, StoreErrorKind};

use super::SqlOptions;
use super::address::{Address, Table};
use super::link::{Server, Trouble};
use super::secure::Secure;
use link::MysqlLink;
use login::{Login, Refusal};
use wire::{Failure, Stream, Wire};

const PORT: u16 = 3306;

/// A server.
#[derive(Debug)]
pub(super) struct Mysql(Arc<Place>);

/// How it is reached, and what it is called in messages.
struct Place {
    name: Arc<str>,
    host: Host,
    user: String,
    password: String,
    database: String,
    secure: Secure,
    table: Table,
    command_timeout: Duration,
}

/// Where it listens.
#[derive(Debug)]
enum Host {
    Port(String, u16),
    Socket(String),
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Port(host, port) => write!(f, "{host}:{port}"),
            Self::Socket(path) => f.write_str(path),
        }
    }
}

impl Mysql {
    pub(super) fn new(address: &Address, options: &SqlOptions) -> Result<Self, ConfigError> {
        let Some(user) = &address.user else {
            return Err(address.refuse("names no user: write mysql://USER:PASSWORD@HOST:PORT/DATABASE"));
        };
        if address.database.is_empty() {
            return Err(address.refuse("names no database: write mysql://USER:PASSWORD@HOST:PORT/DATABASE"));
        }
        let host = match (address.value("socket"), address.hosts.as_slice()) {
            (Some(path), []) => Host::Socket(path.to_owned()),
            (None, [(host, port)]) if !host.is_empty() => Host::Port(host.clone(), port.unwrap_or(PORT)),
            _ => return Err(address.refuse("names no host, or two: write …@HOST/DATABASE or …@/DATABASE?socket=/PATH")),
        };
        Ok(Self(Arc::new(Place {
            name: address.name.as_str().into(),
            host,
            user: user.clone(),
            password: address.password.clone().unwrap_or_default(),
            database: address.database.clone(),
            secure: Secure::read(address)?,
            table: address.table.clone(),
            command_timeout: options.command_timeout,
        })))
    }
}

impl Place {
    fn error(&self, kind: StoreErrorKind, detail: impl Into<String>) -> StoreError {
        StoreError::new(kind, &*self.name, detail)
    }

    async fn dial(&self) -> io::Result<Box<dyn Stream>> {
        match &self.host {
            Host::Port(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Host::Socket(path) => Ok(Box::new(UnixStream::connect(path).await?)),
        }
    }

    async fn enter(&self) -> Result<(Wire, String), StoreError> {
        let stream = self.dial().await.map_err(|error| self.connecting(&error))?;
        let login = Login {
            user: &self.user,
            password: &self.password,
            database: &self.database,
            host: match &self.host {
                Host::Port(host, _) => host,
                Host::Socket(_) => "localhost",
            },
            secure: &self.secure,
            private: matches!(self.host, Host::Socket(_)),
        };
        login::enter(Wire::new(stream), &login).await.map_err(|refusal| self.refused(refusal))
    }

    fn connecting(&self, error: &io::Error) -> StoreError {
        let host = &self.host;
        let detail = match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => {
                format!("nothing listens at {host}: is the server running? Start it with `mysqld` or `mariadbd`")
            }
            io::ErrorKind::PermissionDenied => {
                format!("no permission to open {host}: check the socket's owner and mode")
            }
            _ => format!("cannot connect to {host} ({error}): is the server running and the host name right?"),
        };
        self.error(StoreErrorKind::Unavailable, detail)
    }

    fn refused(&self, refusal: Refusal) -> StoreError {
        use StoreErrorKind::{Misconfigured, Unsupported};
        match refusal {
            Refusal::Failed(failure) => self.explain(&failure),
            #[cfg(feature = "sql-tls")]
            Refusal::Tls(error) => {
                let (kind, text) = crate::tls::explain(&self.host.to_string(), &error, &super::secure::NAMES);
                self.error(kind, text)
            }
            Refusal::NoTls => {
                self.error(Misconfigured, format!("{} has no TLS: give it a certificate, or drop sslmode", self.host))
            }
            Refusal::Exposed => self.error(
                Misconfigured,
                "the server wants the password itself the first time, and anybody could read it: add \
                 ?sslmode=require, or use a socket",
            ),
            Refusal::Unknown(plugin) => self.error(
                Unsupported,
                format!(
                    "the server wants {plugin:?} to log in: give the user mysql_native_password or \
                     caching_sha2_password"
                ),
            ),
        }
    }

    /// What a failure means, and the next step.
    fn explain(&self, failure: &Failure) -> StoreError {
        use StoreErrorKind::{Misconfigured, Timeout, Unavailable};
        let (code, text) = match failure {
            Failure::Said { code, text } => (*code, text),
            Failure::Broken(error) if error.kind() == io::ErrorKind::InvalidData => {
                return self.error(Misconfigured, format!("{error}: check host and port ({})", self.host));
            }
            Failure::Broken(error) => {
                return self.error(Unavailable, format!("{} closed the connection ({error}): see its log", self.host));
            }
        };
        let table = &self.table;
        let (kind, step) = match code {
            1045 | 1698 => (Misconfigured, "wrong user name or password: correct the URL".to_owned()),
            1049 => {
                (Misconfigured, "there is no such database: correct the URL, or make it with CREATE DATABASE".into())
            }
            1044 | 1142 | 1143 | 1227 => (
                Misconfigured,
                format!(
                    "the user may not use the table {table}: GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, INDEX on it"
                ),
            ),
            1054 | 1136 | 1347 => {
                (Misconfigured, format!("the table {table} is another program's: name one with ?table="))
            }
            1130 => (Misconfigured, "the server does not let this host in: see its users".into()),
            1040 | 1203 | 1226 => {
                (Unavailable, "too many connections: raise max_connections or use fewer processes".into())
            }
            1290 | 1792 | 1836 => {
                (Unavailable, "the server is read-only, a replica perhaps: name the primary in the URL".into())
            }
            1205 | 1969 | 3024 => (
                Timeout,
                format!(
                    "another client holds a row of {table} for longer than a call may take: is one of them stopped?"
                ),
            ),
            1153 => (Unavailable, "raise max_allowed_packet: the states of these keys are too long".into()),
            _ => (Unavailable, "see the server's log".into()),
        };
        self.error(kind, format!("{step} (the server said: {code} {text})"))
    }

    /// What a failure means for the transaction that it ended.
    fn trouble(&self, failure: &Failure) -> Trouble {
        match failure {
            // A row that is there already, or a deadlock that the server broke.
            Failure::Said { code: 1062 | 1213, .. } => {
                let detail = format!("rows of {} were made or locked by others again and again: try again", self.table);
                Trouble::Lost(self.error(StoreErrorKind::Conflict, detail))
            }
            // No such table any more, or a session that is being ended.
            Failure::Said { code: 1146 | 1053 | 1317 | 1927 | 4031, .. } | Failure::Broken(_) => {
                Trouble::Cut(self.explain(failure))
            }
            Failure::Said { .. } => Trouble::Refused(self.explain(failure)),
        }
    }
}

impl Server for Mysql {
    type Link = MysqlLink;

    async fn connect(&self) -> Result<MysqlLink, StoreError> {
        let (wire, version) = self.0.enter().await?;
        MysqlLink::prepare(Arc::clone(&self.0), wire, &version).await
    }

    fn silent(&self) -> StoreError {
        let host = &self.0.host;
        self.0.error(
            StoreErrorKind::Timeout,
            format!("{host} accepted no connection in time: is the host reachable and the server not stopped?"),
        )
    }
}
