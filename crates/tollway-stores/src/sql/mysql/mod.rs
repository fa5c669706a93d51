//! MySQL and MariaDB: where the server is, and what its refusals mean.

mod link;
#[cfg(feature = "sql-tls")]
mod tls;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use mysql_async::{Conn, DriverError, Error, IoError, Opts, OptsBuilder, ServerError};
use tollway_core::{ConfigError, StoreError, StoreErrorKind};

use super::SqlOptions;
use super::address::{Address, Table};
use super::link::{Server, Trouble};
use super::secure::Secure;
use link::MysqlLink;

const PORT: u16 = 3306;
/// The most that an answer may hold, in bytes.
const MOST_BYTES: usize = 64 << 20;

/// A server.
#[derive(Debug)]
pub(super) struct Mysql(Arc<Place>);

/// How it is reached, and what it is called in messages.
struct Place {
    name: Arc<str>,
    host: Host,
    login: Opts,
    /// The same without TLS, when that will do for a server that has none.
    plain: Option<Opts>,
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
        let Some(user) = &address.access.user else {
            return Err(address.refuse("names no user: write mysql://USER:PASSWORD@HOST:PORT/DATABASE"));
        };
        if address.database.is_empty() {
            return Err(address.refuse("names no database: write mysql://USER:PASSWORD@HOST:PORT/DATABASE"));
        }
        let host = match (address.access.value("socket"), address.access.hosts.as_slice()) {
            (Some(path), []) => Host::Socket(path.to_owned()),
            (None, [(host, port)]) if !host.is_empty() => Host::Port(host.clone(), port.unwrap_or(PORT)),
            _ => return Err(address.refuse("names no host, or two: write …@HOST/DATABASE or …@/DATABASE?socket=/PATH")),
        };
        let plain = plain(address, user, &host);
        let (login, plain) = match Secure::read(address)? {
            Secure::Never => (plain.into(), None),
            #[cfg(feature = "sql-tls")]
            Secure::Offered(_) if matches!(host, Host::Socket(_)) => (plain.into(), None),
            #[cfg(feature = "sql-tls")]
            Secure::Always(_) if matches!(host, Host::Socket(_)) => {
                return Err(address.refuse("asks for TLS on a socket, where nobody listens: drop sslmode"));
            }
            #[cfg(feature = "sql-tls")]
            Secure::Offered(_) => (plain.clone().ssl_opts(tls::options(address)).into(), Some(plain.into())),
            #[cfg(feature = "sql-tls")]
            Secure::Always(_) => (plain.ssl_opts(tls::options(address)).into(), None),
        };
        Ok(Self(Arc::new(Place {
            name: address.name.as_str().into(),
            host,
            login,
            plain,
            table: address.table.clone(),
            command_timeout: options.command_timeout,
        })))
    }
}

/// Who logs in where, without TLS. What the driver would ask the server for is said here.
fn plain(address: &Address, user: &str, host: &Host) -> OptsBuilder {
    let login = OptsBuilder::default()
        .user(Some(user))
        .pass(address.access.password.as_deref())
        .db_name(Some(&address.database))
        .prefer_socket(false)
        .max_allowed_packet(Some(MOST_BYTES))
        .wait_timeout(Some(0));
    match host {
        Host::Port(host, port) => login.ip_or_hostname(host).tcp_port(*port),
        Host::Socket(path) => login.socket(Some(path)),
    }
}

impl Place {
    fn error(&self, kind: StoreErrorKind, detail: impl Into<String>) -> StoreError {
        StoreError::new(kind, &*self.name, detail)
    }

    async fn enter(&self) -> Result<Conn, StoreError> {
        let entered = match (Conn::new(self.login.clone()).await, &self.plain) {
            (Err(Error::Driver(DriverError::NoClientSslFlagFromServer)), Some(plain)) => Conn::new(plain.clone()).await,
            (entered, _) => entered,
        };
        entered.map_err(|error| self.explain(&error))
    }

    /// What an error means, and the next step.
    fn explain(&self, error: &Error) -> StoreError {
        use DriverError::{CleartextPluginDisabled, MysqlOldPasswordDisabled, UnknownAuthPlugin};
        use StoreErrorKind::{Misconfigured, Unsupported};
        let host = &self.host;
        match error {
            Error::Server(said) => self.said(said),
            Error::Io(IoError::Io(error)) => self.broken(error),
            Error::Driver(DriverError::NoClientSslFlagFromServer) => {
                self.error(Misconfigured, format!("{host} has no TLS: give it a certificate, or drop sslmode"))
            }
            Error::Driver(UnknownAuthPlugin { .. } | MysqlOldPasswordDisabled | CleartextPluginDisabled) => {
                let step = "give the user mysql_native_password or caching_sha2_password";
                self.error(Unsupported, format!("{host} wants another way to log in ({error}): {step}"))
            }
            #[cfg(feature = "sql-tls")]
            Error::Io(error) => self.error(Misconfigured, format!("cannot agree on TLS with {host} ({error})")),
            error => self.foreign(error),
        }
    }

    /// Whoever answers is no server of this kind.
    fn foreign(&self, error: &dyn std::error::Error) -> StoreError {
        let host = &self.host;
        let detail = format!("{host} does not speak the protocol of MySQL ({error}): check host and port");
        self.error(StoreErrorKind::Misconfigured, detail)
    }

    /// What it means that bytes did not get through.
    fn broken(&self, error: &io::Error) -> StoreError {
        #[cfg(feature = "sql-tls")]
        if error.get_ref().is_some_and(|cause| cause.is::<tokio_rustls::rustls::Error>()) {
            let (kind, text) = crate::tls::explain(&self.host.to_string(), error, &super::secure::NAMES);
            return self.error(kind, text);
        }
        let host = &self.host;
        use io::ErrorKind::*;
        let detail = match error.kind() {
            InvalidData | Other => return self.foreign(error),
            UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe => {
                format!("{host} closed the connection ({error}): see its log")
            }
            ConnectionRefused | NotFound => {
                format!("nothing listens at {host}: is the server running? Start it with `mysqld` or `mariadbd`")
            }
            PermissionDenied => format!("no permission to open {host}: check the socket's owner and mode"),
            _ => format!("cannot connect to {host} ({error}): is the server running and the host name right?"),
        };
        self.error(StoreErrorKind::Unavailable, detail)
    }

    /// What the server's refusal means.
    fn said(&self, ServerError { code, message, .. }: &ServerError) -> StoreError {
        use StoreErrorKind::{Misconfigured, Timeout, Unavailable};
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
        self.error(kind, format!("{step} (the server said: {code} {message})"))
    }

    /// What an error means for the transaction that it ended.
    fn trouble(&self, error: &Error) -> Trouble {
        let Error::Server(ServerError { code, .. }) = error else { return Trouble::Cut(self.explain(error)) };
        match code {
            // A row that is there already, or a deadlock that the server broke.
            1062 | 1213 => {
                let detail = format!("rows of {} were made or locked by others again and again: try again", self.table);
                Trouble::Refused(self.error(StoreErrorKind::Conflict, detail))
            }
            // No such table any more, or a session that is being ended.
            1146 | 1053 | 1317 | 1927 | 4031 => Trouble::Cut(self.explain(error)),
            _ => Trouble::Refused(self.explain(error)),
        }
    }
}

impl Server for Mysql {
    type Link = MysqlLink;

    async fn connect(&self) -> Result<MysqlLink, StoreError> {
        let conn = self.0.enter().await?;
        MysqlLink::prepare(Arc::clone(&self.0), conn).await
    }

    fn silent(&self) -> StoreError {
        let host = &self.0.host;
        self.0.error(
            StoreErrorKind::Timeout,
            format!("{host} accepted no connection in time: is the host reachable and the server not stopped?"),
        )
    }
}
