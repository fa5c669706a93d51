//! Who is asking, and for what.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ahash::HashMap;
use ipnet::IpNet;
use tollway_core::ConfigError;

use super::networks::{Networks, canonical};

/// What is known of a request when its limits are chosen. What is not known is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Subject<'a> {
    /// The client's address, forwarded headers already seen to.
    pub address: Option<IpAddr>,
    /// The user's id.
    pub user: Option<&'a str>,
    /// The API key, as [`hash_identity`](crate::hash_identity) spells it: never in clear.
    pub key: Option<&'a str>,
    /// The organisation or tenant.
    pub org: Option<&'a str>,
    /// The tier that the user, the key or the organisation is in.
    pub tier: Option<&'a str>,
    /// The HTTP method, in capitals.
    pub method: Option<&'a str>,
    /// The path.
    pub path: Option<&'a str>,
    /// Whether this request was charged what its path asks for already: a door that asks more than
    /// once for one request says so from the second time on.
    pub path_charged: bool,
}

/// By what a level counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Ip,
    User,
    Key,
    Org,
    Global,
}

impl By {
    pub(super) const NAMES: &'static str = "ip, user, key, org, global, or several joined by \"+\"";

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::User => "user",
            Self::Key => "key",
            Self::Org => "org",
            Self::Global => "global",
        }
    }

    /// Reads `user` or `user+ip`.
    pub(super) fn parse_all(text: &str) -> Result<Vec<Self>, ConfigError> {
        let all = [Self::Ip, Self::User, Self::Key, Self::Org, Self::Global];
        let one = |name: &str| {
            all.into_iter()
                .find(|by| by.name() == name.trim())
                .ok_or_else(|| ConfigError::new(format!("{text:?} is not something to count by: use {}", Self::NAMES)))
        };
        text.split('+').map(one).collect()
    }

    /// The text that is counted; `None` when the subject lacks it.
    fn text<'a>(self, subject: &Subject<'a>, ipv6_prefix: u8) -> Option<Cow<'a, str>> {
        let named = |kind: &str, value: Option<&str>| value.map(|value| Cow::Owned(format!("{kind}:{value}")));
        match self {
            Self::Ip => subject.address.map(|address| Cow::Owned(address_text(address, ipv6_prefix))),
            Self::User => named("user", subject.user),
            Self::Key => named("key", subject.key),
            Self::Org => named("org", subject.org),
            Self::Global => Some(Cow::Borrowed("global")),
        }
    }
}

/// The key of a level for a subject; `None` when the subject lacks something.
pub(super) fn key_of<'a>(by: &[By], subject: &Subject<'a>, ipv6_prefix: u8) -> Option<Cow<'a, str>> {
    if let [by] = by {
        return by.text(subject, ipv6_prefix);
    }
    let mut joined = String::new();
    for by in by {
        if !joined.is_empty() {
            joined.push('+');
        }
        // So that "a+b" of one part is not "a" and "b" of two.
        joined.push_str(&by.text(subject, ipv6_prefix)?.replace('%', "%25").replace('+', "%2B"));
    }
    Some(Cow::Owned(joined))
}

/// What is counted for an address: an IPv6 one stands for its network.
pub(super) fn address_text(address: IpAddr, ipv6_prefix: u8) -> String {
    match address.to_canonical() {
        IpAddr::V6(six) if ipv6_prefix < 128 => {
            let mask = u128::MAX.checked_shl(u32::from(128 - ipv6_prefix)).unwrap_or(0);
            format!("{}/{ipv6_prefix}", std::net::Ipv6Addr::from_bits(six.to_bits() & mask))
        }
        address => address.to_string(),
    }
}

/// Whom an entry of a list or an override is about: an address, a network, `user:42`, `key:…`, `org:…`.
///
/// ```
/// use tollway::rules::Who;
///
/// let who: Who = "203.0.113.7/24".parse()?;
/// assert_eq!(who.to_string(), "203.0.113.0/24");
/// assert!("key:sk-live-123".parse::<Who>().is_err());   // a key in clear
/// # Ok::<(), tollway::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    /// Everybody in a network; a single address is a network of its own.
    Address(IpNet),
    /// A user's id.
    User(Box<str>),
    /// An API key's hash, 32 hexadecimal digits from [`hash_identity`](crate::hash_identity).
    Key(Box<str>),
    /// An organisation.
    Org(Box<str>),
}

impl FromStr for Who {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let text = text.trim();
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        if let Ok(network) = network {
            return Ok(Self::Address(canonical(network)));
        }
        match text.split_once(':') {
            Some(("user", id)) if !id.is_empty() => Ok(Self::User(id.into())),
            Some(("org", id)) if !id.is_empty() => Ok(Self::Org(id.into())),
            Some(("key", hash)) if hash.len() == 32 && hash.bytes().all(|b| b.is_ascii_hexdigit()) => {
                Ok(Self::Key(hash.to_ascii_lowercase().into()))
            }
            // The text may be a secret: it is not repeated.
            Some(("key", _)) => Err(ConfigError::new(
                "an API key is named by its hash, 32 hexadecimal digits: write \"key:\" and what \
                 hash_identity(api_key) returns",
            )),
            _ => Err(ConfigError::new(format!(
                "{text:?} names nobody: write an address, a network such as \"10.0.0.0/8\", \"user:ID\", \
                 \"org:ID\" or \"key:HASH\""
            ))),
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(net) if net.prefix_len() == net.max_prefix_len() => net.addr().fmt(f),
            Self::Address(net) => net.fmt(f),
            Self::User(id) => write!(f, "user:{id}"),
            Self::Key(hash) => write!(f, "key:{hash}"),
            Self::Org(id) => write!(f, "org:{id}"),
        }
    }
}

impl Who {
    pub(super) const fn by(&self) -> By {
        match self {
            Self::Address(_) => By::Ip,
            Self::User(_) => By::User,
            Self::Key(_) => By::Key,
            Self::Org(_) => By::Org,
        }
    }
}

/// Values by whom they are about.
#[derive(Debug)]
pub(super) struct Directory<T> {
    networks: Networks<T>,
    users: HashMap<Box<str>, Vec<T>>,
    keys: HashMap<Box<str>, Vec<T>>,
    orgs: HashMap<Box<str>, Vec<T>>,
}

impl<T> Default for Directory<T> {
    fn default() -> Self {
        Self::new(std::iter::empty())
    }
}

impl<T> Directory<T> {
    /// Of two about the same, the later one counts first.
    pub(super) fn new(values: impl IntoIterator<Item = (Who, T)>) -> Self {
        let mut networks = Vec::new();
        let (mut users, mut keys, mut orgs) = (HashMap::default(), HashMap::default(), HashMap::default());
        for (who, value) in values {
            let (map, name): (&mut HashMap<Box<str>, Vec<T>>, _) = match who {
                Who::Address(net) => {
                    networks.push((net, value));
                    continue;
                }
                Who::User(name) => (&mut users, name),
                Who::Key(name) => (&mut keys, name),
                Who::Org(name) => (&mut orgs, name),
            };
            map.entry(name).or_default().push(value);
        }
        Self { networks: Networks::new(networks), users, keys, orgs }
    }

    /// What is about the subject as one of `by`, if `accept` accepts it.
    pub(super) fn find(&self, by: By, subject: &Subject<'_>, accept: impl Fn(&T) -> bool) -> Option<&T> {
        let (map, name) = match by {
            By::Ip => return self.networks.find(subject.address?, accept),
            By::User => (&self.users, subject.user?),
            By::Key => (&self.keys, subject.key?),
            By::Org => (&self.orgs, subject.org?),
            By::Global => return None,
        };
        // An empty map answers without hashing.
        map.get(name)?.iter().rev().find(|value| accept(value))
    }
}
