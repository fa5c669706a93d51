//! From a URL to a place to connect to, and a name without its password.

use std::fmt;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};
use tollway_core::ConfigError;

use super::sentinel::Sentinels;
use crate::remote::url::{decode, redact};
#[cfg(feature = "redis-tls")]
use crate::tls::{Files, Tls};

const SCHEMES: &str = "redis://, rediss://, redis+unix://, redis+sentinel:// or redis+cluster://";

/// What a URL says. Its `Debug` and its name never show the password.
#[derive(Clone)]
pub(super) struct Address {
    /// The URL with the password redacted.
    pub(super) name: String,
    /// Where to, and who says so; of several hosts the first.
    pub(super) info: ConnectionInfo,
    #[cfg(feature = "redis-tls")]
    pub(super) tls: Option<Tls>,
    pub(super) kind: Kind,
}

/// What stands behind the hosts of a URL.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// The server itself.
    Server,
    /// Sentinels, which know the server.
    Sentinel(Sentinels),
    /// Some nodes of a cluster: the hosts of the URL.
    Cluster(Vec<ConnectionAddr>),
}

/// A URL in its pieces.
struct Pieces<'a> {
    scheme: &'a str,
    /// With its `@`, or empty.
    user: &'a str,
    hosts: &'a str,
    /// Without its first `/`.
    path: &'a str,
    query: Vec<(&'a str, &'a str)>,
}

impl Address {
    pub(super) fn parse(url: &str) -> Result<Self, ConfigError> {
        let name = redact(url);
        let refuse = |why: &str| ConfigError::new(format!("redis URL {name:?} {why}"));
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(refuse("has no scheme: write redis://HOST:PORT/DB or redis+unix:///PATH"));
        };
        let known: &[&str] = match scheme {
            "redis" | "redis+cluster" => &["protocol"],
            "rediss" | "rediss+cluster" => &["protocol", "ca", "cert", "key"],
            "redis+unix" => &["db", "user", "pass", "protocol"],
            "redis+sentinel" => &["protocol", "sentinel_user", "sentinel_pass"],
            "rediss+sentinel" => &["protocol", "sentinel_user", "sentinel_pass", "ca", "cert", "key"],
            _ => return Err(refuse(&format!("has another scheme: use {SCHEMES}"))),
        };
        let pieces = Pieces::of(scheme, rest);
        if let Some((stranger, _)) = pieces.query.iter().find(|(parameter, _)| !known.contains(parameter)) {
            return Err(refuse(&format!("has a parameter {stranger:?}: {scheme}:// knows {}", known.join(", "))));
        }
        if rest.contains('#') {
            return Err(refuse("has a fragment: write %23 for a # in a password"));
        }
        let (infos, kind) = pieces.infos().map_err(|why| refuse(&why))?;
        let hosts: Vec<_> = infos.iter().map(|info| info.addr().clone()).collect();
        let Some(info) = infos.into_iter().next() else {
            return Err(refuse("names no host"));
        };
        if info.redis_settings().db() < 0 {
            return Err(refuse("has a negative database: use 0 or more"));
        }
        let kind = match kind {
            Kind::Sentinel(sentinels) => Kind::Sentinel(sentinels.at(hosts)),
            Kind::Cluster(_) if info.redis_settings().db() > 0 => {
                return Err(refuse("names a database: a cluster has number 0 only"));
            }
            Kind::Cluster(_) => Kind::Cluster(hosts),
            Kind::Server => Kind::Server,
        };
        let settings = info.redis_settings().clone().set_lib_name("tollway", env!("CARGO_PKG_VERSION"));
        Ok(Self {
            info: info.set_redis_settings(settings),
            #[cfg(feature = "redis-tls")]
            tls: pieces.tls().map_err(|why| refuse(&why))?,
            #[cfg(not(feature = "redis-tls"))]
            name: match scheme.starts_with("rediss") {
                true => return Err(refuse("asks for TLS: build Tollway with the feature redis-tls")),
                false => name,
            },
            #[cfg(feature = "redis-tls")]
            name,
            kind,
        })
    }

    /// The same with one server for a place.
    pub(super) fn at(&self, addr: ConnectionAddr) -> Self {
        Self { info: self.info.clone().set_addr(addr), kind: Kind::Server, ..self.clone() }
    }

    /// The same with another user and database.
    pub(super) fn with(self, settings: RedisConnectionInfo) -> Self {
        Self { info: self.info.set_redis_settings(settings), ..self }
    }

    /// Where to connect to, in words.
    pub(super) fn place(&self) -> String {
        match &self.kind {
            Kind::Sentinel(sentinels) => format!("the primary of {:?}", sentinels.service),
            _ => self.info.addr().to_string(),
        }
    }

    /// The command that starts a server here.
    pub(super) fn remedy(&self) -> String {
        match self.info.addr() {
            ConnectionAddr::Unix(path) => format!("redis-server --port 0 --unixsocket {}", path.display()),
            ConnectionAddr::Tcp(_, 6379) => "redis-server".into(),
            ConnectionAddr::Tcp(_, port) => format!("redis-server --port {port}"),
            _ => "redis-server".into(),
        }
    }
}

impl<'a> Pieces<'a> {
    fn of(scheme: &'a str, rest: &'a str) -> Self {
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let query = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).collect();
        let (user, rest) = rest.rfind('@').map_or(("", rest), |at| rest.split_at(at + 1));
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        Self { scheme, user, hosts, path, query }
    }

    /// A parameter's value.
    fn value(&self, name: &str) -> Result<Option<String>, String> {
        let Some((_, value)) = self.query.iter().find(|(parameter, _)| *parameter == name) else { return Ok(None) };
        decode(value).map(Some)
    }

    /// Each host's connection, and what kind of host it is.
    fn infos(&self) -> Result<(Vec<ConnectionInfo>, Kind), String> {
        const FORM: &str = "does not read: write redis://USER:PASSWORD@HOST:PORT/DB, with %XX for special characters";
        let protocol = self.value("protocol")?;
        let protocol = protocol.map_or_else(String::new, |protocol| format!("protocol={protocol}"));
        let read = |url: String| url.into_connection_info().map_err(|_| FORM.to_owned());
        let one = |host: &str, db: &str| read(format!("redis://{}{host}/{db}?{protocol}", self.user));
        let port = |port: u16| {
            let hosts = self.hosts.split(',');
            hosts.map(move |host| if has_port(host) { host.to_owned() } else { format!("{host}:{port}") })
        };
        if self.scheme == "redis+unix" {
            let query: Vec<_> = self.query.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let info = read(format!("redis+unix://{}{}/{}?{}", self.user, self.hosts, self.path, query.join("&")))?;
            Ok((vec![info], Kind::Server))
        } else if self.scheme.ends_with("+sentinel") {
            let (service, db) = self.path.split_once('/').unwrap_or((self.path, ""));
            if service.is_empty() {
                return Err("names no service: write redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DB".into());
            }
            let login = (self.value("sentinel_user")?, self.value("sentinel_pass")?);
            let infos = port(26_379).map(|host| one(&host, db)).collect::<Result<_, _>>()?;
            Ok((infos, Kind::Sentinel(Sentinels::new(decode(service)?, login))))
        } else if self.scheme.ends_with("+cluster") {
            let infos = port(6_379).map(|host| one(&host, self.path)).collect::<Result<_, _>>()?;
            Ok((infos, Kind::Cluster(Vec::new())))
        } else {
            Ok((vec![one(self.hosts, self.path)?], Kind::Server))
        }
    }

    #[cfg(feature = "redis-tls")]
    fn tls(&self) -> Result<Option<Tls>, String> {
        if !self.scheme.starts_with("rediss") {
            return Ok(None);
        }
        let files =
            Files { ca: self.value("ca")?, cert: self.value("cert")?, key: self.value("key")?, ..Files::default() };
        Tls::read(&files).map(Some)
    }
}

/// Whether a host is followed by a port.
fn has_port(host: &str) -> bool {
    host.rsplit_once(']').map_or(host, |(_, rest)| rest).contains(':')
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        for url in [
            "redis://:hunter2@localhost:6379/1",
            "redis://user:hunter2@localhost",
            "redis://user:hun/hunter2@localhost",
            "redis://user:h@hunter2@localhost",
            "redis://:hunter2@localhost:port",
            "rediss://:hunter2@localhost",
            "redis+cluster://:hunter2@localhost",
            "redis+unix:///tmp/s?pass=hunter2",
            "redis://localhost?password=hunter2",
            ":hunter2@localhost",
        ] {
            let text = match Address::parse(url) {
                Ok(address) => format!("{address:?} {} {}", address.name, address.place()),
                Err(error) => error.to_string(),
            };
            assert!(!text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn what_is_not_spoken_is_said() {
        for (url, part) in [
            ("redis+sentinel://localhost", "no service"),
            ("redis+sentinel:///mymaster", "does not read"),
            ("redis+sentinel://localhost/mymaster/one", "does not read"),
            ("redis+cluster://localhost/1", "number 0"),
            ("redis-cluster://localhost", "another scheme"),
            ("redis://localhost?ca=/x.pem", "\"ca\""),
            ("http://localhost", "another scheme"),
            ("localhost:6379", "no scheme"),
            ("redis://localhost/one", "does not read"),
            ("redis://localhost/-1", "negative"),
            ("redis://localhost?timeout=1", "\"timeout\""),
            ("redis+unix:///tmp/s?pasword=x", "\"pasword\""),
            ("redis://:a#b@localhost", "fragment"),
            ("redis://", "does not read"),
        ] {
            let error = Address::parse(url).expect_err(url).to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn both_forms_read() {
        let tcp = Address::parse("redis://me:a%40b@[::1]:7000/3").unwrap();
        assert_eq!((tcp.name.as_str(), tcp.place().as_str()), ("redis://me:***@[::1]:7000/3", "::1:7000"));
        assert_eq!(tcp.info.redis_settings().password(), Some("a@b"));
        assert_eq!((tcp.info.redis_settings().db(), tcp.remedy().as_str()), (3, "redis-server --port 7000"));
        let unix = Address::parse("redis+unix:///run/redis.sock?db=2").unwrap();
        assert_eq!((unix.place().as_str(), unix.info.redis_settings().db()), ("/run/redis.sock", 2));
    }

    #[test]
    fn several_hosts_read() {
        let url = "redis+sentinel://me:a%40b@one,[::1]:7000,three:7001/my%20service/2?sentinel_pass=hunter2";
        let address = Address::parse(url).unwrap();
        assert_eq!(address.name, url.replace("a%40b", "***").replace("hunter2", "***"));
        let (settings, Kind::Sentinel(sentinels)) = (address.info.redis_settings(), &address.kind) else { panic!() };
        assert_eq!((settings.username(), settings.password(), settings.db()), (Some("me"), Some("a@b"), 2));
        assert_eq!(sentinels.service, "my service");
        let shown = format!("{sentinels:?}");
        assert!(shown.contains("\"one\", 26379") && shown.contains("\"::1\", 7000"), "{shown}");
        assert!(!shown.contains("hunter2"));
        let cluster = Address::parse("redis+cluster://one:1,two/").unwrap();
        let Kind::Cluster(hosts) = &cluster.kind else { panic!() };
        assert_eq!(hosts.iter().map(ToString::to_string).collect::<Vec<_>>(), ["one:1", "two:6379"]);
    }
}
