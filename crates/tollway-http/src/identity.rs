//! Who is charged: `ip`, `header:X-API-Key`, `param:org`, `cookie:session`.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use http::HeaderMap;
use http::header::{COOKIE, HeaderName};
use percent_encoding::percent_decode_str;
use tollway::{ConfigError, hash_identity};

use crate::ClientAddress;

/// Somebody whose token, key or session was verified: nothing here is what a client merely says.
pub trait Verified: fmt::Debug {
    /// The user's id, or for a machine that is no user the hash of its key, as `key:9f86…`.
    fn user(&self) -> Option<Cow<'_, str>>;
    /// The hash of the API key, where one was shown.
    fn api_key(&self) -> Option<&str>;
    /// A claim of the token, as text.
    fn claim(&self, name: &str) -> Option<Cow<'_, str>>;
    /// The tier that the key or the token names.
    fn tier(&self) -> Option<Cow<'_, str>>;
}

/// What is known of a request before anybody handles it.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The peer's address; `None` on a Unix socket.
    pub peer: Option<IpAddr>,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// The query string, without `?`.
    pub query: &'a str,
    /// How addresses are resolved.
    pub address: &'a ClientAddress,
    /// Who was verified to ask; `None` when nobody was.
    pub caller: Option<&'a dyn Verified>,
}

/// Whose budget a request is charged to. A request that lacks the named thing is charged to its
/// address, so leaving out a header is no way round a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The client's address.
    Ip,
    /// A header's value, hashed: it may be a secret.
    Header(HeaderName),
    /// A query parameter's value.
    Param(String),
    /// A cookie's value, hashed: it may be a secret.
    Cookie(String),
    /// The verified user.
    User,
    /// The verified API key.
    ApiKey,
    /// The verified user's organisation: the claim `org`.
    Org,
    /// A claim of a verified token.
    Claim(String),
    /// Everybody shares one budget.
    Global,
}

const KINDS: &str = "ip, user, api_key, org, jwt:CLAIM, header:NAME, param:NAME, cookie:NAME, global";

impl FromStr for Identity {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let (kind, name) = text.split_once(':').unwrap_or((text, ""));
        match (kind, name) {
            ("ip", "") => Ok(Self::Ip),
            ("global", "") => Ok(Self::Global),
            ("user" | "user_or_ip", "") => Ok(Self::User),
            ("api_key", "") => Ok(Self::ApiKey),
            ("org", "") => Ok(Self::Org),
            ("jwt", name) if !name.is_empty() => Ok(Self::Claim(name.to_owned())),
            ("header", name) if !name.is_empty() => HeaderName::try_from(name)
                .map(Self::Header)
                .map_err(|_| ConfigError::new(format!("key {text:?} names no legal header"))),
            ("param", name) if !name.is_empty() => Ok(Self::Param(name.to_owned())),
            ("cookie", name) if !name.is_empty() => Ok(Self::Cookie(name.to_owned())),
            ("header" | "param" | "cookie" | "jwt", _) => {
                Err(ConfigError::new(format!("key {text:?} lacks a name: write {kind}:NAME")))
            }
            _ => Err(ConfigError::new(format!("key {text:?} is not known here: use one of {KINDS}"))),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip => f.write_str("ip"),
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Param(name) => write!(f, "param:{name}"),
            Self::Cookie(name) => write!(f, "cookie:{name}"),
            Self::User => f.write_str("user"),
            Self::ApiKey => f.write_str("api_key"),
            Self::Org => f.write_str("org"),
            Self::Claim(name) => write!(f, "jwt:{name}"),
            Self::Global => f.write_str("global"),
        }
    }
}

impl Facts<'_> {
    /// The client's address, forwarded headers seen to; `None` on a Unix socket.
    pub fn client(&self) -> Option<IpAddr> {
        self.peer.map(|peer| self.address.resolve_headers(peer, self.headers))
    }
}

impl Identity {
    /// Whether its value may be a secret, and is hashed.
    pub const fn is_secret(&self) -> bool {
        matches!(self, Self::Header(_) | Self::Cookie(_))
    }

    /// Whether it is known only when somebody was verified.
    pub const fn needs_caller(&self) -> bool {
        matches!(self, Self::User | Self::ApiKey | Self::Org | Self::Claim(_))
    }

    /// The key to charge.
    pub fn extract(&self, facts: &Facts<'_>) -> String {
        let found = match self {
            Self::Ip => None,
            Self::Global => return "global".to_owned(),
            Self::Header(name) => facts
                .headers
                .get(name)
                .map(|v| format!("header:{name}:{}", hashed(&v.as_bytes().escape_ascii().to_string()))),
            Self::Param(name) => param(facts.query, name).map(|value| format!("param:{name}:{value}")),
            Self::Cookie(name) => cookie(facts.headers, name).map(|v| format!("cookie:{name}:{}", hashed(v))),
            Self::User => facts.caller.and_then(Verified::user).map(|user| format!("user:{user}")),
            Self::ApiKey => facts.caller.and_then(Verified::api_key).map(|key| format!("key:{key}")),
            Self::Org => facts.caller.and_then(|caller| caller.claim("org")).map(|org| format!("org:{org}")),
            Self::Claim(name) => {
                facts.caller.and_then(|caller| caller.claim(name)).map(|value| format!("jwt:{name}:{value}"))
            }
        };
        found.unwrap_or_else(|| match facts.client() {
            Some(client) => facts.address.key(client),
            None => "local".to_owned(),
        })
    }
}

fn hashed(value: &str) -> String {
    hash_identity(b"tollway", value)
}

/// The first value of a query parameter, decoded.
fn param<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(key) == name).then(|| decoded(value))
    })
}

fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned())
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    cookies(headers, name).next()
}

/// Every value of a cookie: a request may name one more than once.
pub fn cookies<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(';')).filter_map(move |pair| {
        let (key, value) = pair.trim().split_once('=')?;
        (key == name).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Ada;

    impl Verified for Ada {
        fn user(&self) -> Option<Cow<'_, str>> {
            Some("7".into())
        }
        fn api_key(&self) -> Option<&str> {
            Some("9f86")
        }
        fn claim(&self, name: &str) -> Option<Cow<'_, str>> {
            (name != "team").then(|| format!("{name} of ada").into())
        }
        fn tier(&self) -> Option<Cow<'_, str>> {
            None
        }
    }

    fn extract(identity: &str, query: &str, headers: &[(&'static str, &str)]) -> String {
        extract_for(None, identity, query, headers)
    }

    fn extract_for(
        caller: Option<&dyn Verified>,
        identity: &str,
        query: &str,
        headers: &[(&'static str, &str)],
    ) -> String {
        let map = headers.iter().map(|(n, v)| (HeaderName::from_static(n), v.parse().unwrap())).collect();
        let address = ClientAddress::default();
        let peer = Some("203.0.113.7".parse().unwrap());
        identity.parse::<Identity>().unwrap().extract(&Facts { peer, headers: &map, query, address: &address, caller })
    }

    #[test]
    fn every_kind_reads() {
        assert_eq!(extract("ip", "", &[]), "203.0.113.7");
        assert_eq!(extract("global", "", &[]), "global");
        assert_eq!(extract("param:org", "a=1&org=ac%20me", &[]), "param:org:ac me");
        let key = extract("header:X-API-Key", "", &[("x-api-key", "secret")]);
        assert!(key.starts_with("header:x-api-key:") && !key.contains("secret"));
        let session = extract("cookie:sid", "", &[("cookie", "a=b; sid=secret")]);
        assert!(session.starts_with("cookie:sid:") && !session.contains("secret"));
    }

    #[test]
    fn leaving_it_out_is_no_way_round() {
        for identity in ["param:org", "header:x-api-key", "cookie:sid", "user", "api_key", "org", "jwt:team"] {
            assert_eq!(extract(identity, "", &[]), "203.0.113.7");
        }
    }

    #[test]
    fn only_a_verified_caller_has_a_budget_of_its_own() {
        let keys =
            [("user", "user:7"), ("api_key", "key:9f86"), ("org", "org:org of ada"), ("jwt:a", "jwt:a:a of ada")];
        for (identity, key) in keys {
            assert_eq!(extract_for(Some(&Ada), identity, "", &[]), key);
        }
        assert_eq!(extract_for(Some(&Ada), "jwt:team", "", &[]), "203.0.113.7");
    }

    #[test]
    fn a_mistyped_key_is_named() {
        for (text, part) in [("ipp", "not known"), ("header:", "lacks a name"), ("header:a b", "legal header")] {
            assert!(text.parse::<Identity>().unwrap_err().to_string().contains(part));
        }
    }
}
