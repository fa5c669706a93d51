//! From a URL to a place to connect to, and a name without its password.

use std::fmt;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};
use tollway_core::ConfigError;

/// What a URL says. Its `Debug` and its name never show the password.
#[derive(Clone)]
pub(super) struct Address {
    /// The URL with the password redacted.
    pub(super) name: String,
    pub(super) info: ConnectionInfo,
}

impl Address {
    pub(super) fn parse(url: &str) -> Result<Self, ConfigError> {
        let name = redact(url);
        let refuse = |why: &str| Err(ConfigError::new(format!("redis URL {name:?} {why}")));
        let Some((scheme, rest)) = url.split_once("://") else {
            return refuse("has no scheme: write redis://HOST:PORT/DB or redis+unix:///PATH");
        };
        match scheme {
            "redis" | "redis+unix" => {}
            "rediss" | "valkeys" => return refuse("asks for TLS, which this version does not speak: use redis://"),
            _ if scheme.contains("sentinel") => {
                return refuse("asks for Sentinel, which this version does not speak: name the master with redis://");
            }
            _ if scheme.contains("cluster") => {
                return refuse("asks for a Cluster, which this version does not speak: use a standalone redis://");
            }
            _ => return refuse("has another scheme: use redis:// or redis+unix://"),
        }
        let known: &[&str] = if scheme == "redis" { &["protocol"] } else { &["db", "user", "pass", "protocol"] };
        if let Some(stranger) = parameters(rest).find(|parameter| !known.contains(parameter)) {
            return refuse(&format!("has a parameter {stranger:?}: {scheme}:// knows {}", known.join(", ")));
        }
        if rest.contains('#') {
            return refuse("has a fragment: write %23 for a # in a password");
        }
        let Ok(info) = url.into_connection_info() else {
            return refuse("does not read: write redis://USER:PASSWORD@HOST:PORT/DB, with %XX for special characters");
        };
        if info.redis_settings().db() < 0 {
            return refuse("has a negative database: use 0 or more");
        }
        let settings = info.redis_settings().clone().set_lib_name("tollway", env!("CARGO_PKG_VERSION"));
        Ok(Self { name, info: info.set_redis_settings(settings) })
    }

    /// Where to connect to, in words.
    pub(super) fn place(&self) -> String {
        self.info.addr().to_string()
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

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

fn parameters(rest: &str) -> impl Iterator<Item = &str> {
    let query = rest.split_once('?').map_or("", |(_, query)| query);
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split('=').next().unwrap_or(pair))
}

/// The URL with `***` for whatever may be a password, even in a URL that does not read.
fn redact(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.rsplit_once('@').map_or_else(|| url.to_owned(), |(_, host)| format!("***@{host}"));
    };
    // The last @, so that an unescaped @ or / in a password does not show a part of it.
    let rest = match rest.rsplit_once('@') {
        Some((user, host)) => match user.split_once(':') {
            Some((user, _)) => format!("{user}:***@{host}"),
            None => rest.to_owned(),
        },
        None => rest.to_owned(),
    };
    let Some((path, query)) = rest.split_once('?') else {
        return format!("{scheme}://{rest}");
    };
    let hidden = |pair: &str| match pair.split_once('=') {
        Some((name, _)) if name.contains("pass") || name.contains("auth") => format!("{name}=***"),
        _ => pair.to_owned(),
    };
    let query: Vec<_> = query.split('&').map(hidden).collect();
    format!("{scheme}://{path}?{}", query.join("&"))
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
            ("rediss://localhost", "TLS"),
            ("redis+sentinel://localhost", "Sentinel"),
            ("redis-cluster://localhost", "Cluster"),
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
}
