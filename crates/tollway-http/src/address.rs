//! Who the client is, when proxies stand between.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::HeaderMap;
use http::header::HeaderName;
use ipnet::IpNet;
use tollway::ConfigError;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
/// The most hops read from a header: more is noise, or an attack.
const MAX_HOPS: usize = 64;

/// Finds the client's address: the right-most hop that is not a trusted proxy.
///
/// By default nothing is trusted and forwarded headers change nothing.
///
/// ```
/// use tollway_http::ClientAddress;
///
/// let behind_nginx = ClientAddress::new(&["10.0.0.0/8"], 0, 64)?;
/// let peer = "10.0.0.5".parse().unwrap();
/// let seen = behind_nginx.resolve(peer, ["198.51.100.9, 203.0.113.7"], []);
/// assert_eq!(seen.to_string(), "203.0.113.7");
///
/// let peer = "192.0.2.1".parse().unwrap();
/// assert_eq!(behind_nginx.resolve(peer, ["203.0.113.7"], []), peer);
/// # Ok::<(), tollway::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAddress {
    trusted: Vec<IpNet>,
    hops: usize,
    ipv6_prefix: u8,
}

impl Default for ClientAddress {
    fn default() -> Self {
        Self { trusted: Vec::new(), hops: 0, ipv6_prefix: 64 }
    }
}

impl ClientAddress {
    /// Trusts proxies in these networks (CIDRs or single addresses), or, when `hops` is not 0, that
    /// many proxies whatever their address. IPv6 clients are counted by `ipv6_prefix` bits.
    ///
    /// # Errors
    /// Names the network that does not read.
    pub fn new<S: AsRef<str>>(trusted: &[S], hops: usize, ipv6_prefix: u8) -> Result<Self, ConfigError> {
        if !(1..=128).contains(&ipv6_prefix) {
            return Err(ConfigError::new(format!("an IPv6 prefix has 1 to 128 bits, not {ipv6_prefix}")));
        }
        if hops > MAX_HOPS {
            return Err(ConfigError::new(format!("trusted hops are at most {MAX_HOPS}, not {hops}")));
        }
        let network = |text: &S| {
            let text = text.as_ref().trim();
            text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map_err(|_| {
                ConfigError::new(format!(
                    "trusted proxy {text:?} is neither a network such as \"10.0.0.0/8\" nor an address such as \"10.0.0.5\""
                ))
            })
        };
        let trusted = trusted.iter().map(network).collect::<Result<_, _>>()?;
        Ok(Self { trusted, hops, ipv6_prefix })
    }

    /// Whether forwarded headers are looked at for this peer.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.hops > 0 || self.trusted.iter().any(|network| network.contains(&peer))
    }

    /// The client's address, given its peer and the values of `X-Forwarded-For` and `Forwarded` in
    /// the order they arrived. `X-Forwarded-For` counts when both are there.
    pub fn resolve<'a>(
        &self,
        peer: IpAddr,
        forwarded_for: impl IntoIterator<Item = &'a str>,
        forwarded: impl IntoIterator<Item = &'a str>,
    ) -> IpAddr {
        let peer = peer.to_canonical();
        if !self.trusts(peer) {
            return peer;
        }
        let mut hops: Vec<Option<IpAddr>> = forwarded_for.into_iter().flat_map(|v| v.split(',')).map(hop).collect();
        if hops.is_empty() {
            hops = forwarded.into_iter().flat_map(|value| value.split(',')).map(forwarded_hop).collect();
        }
        let mut client = peer;
        for (passed, hop) in hops.into_iter().rev().take(MAX_HOPS).enumerate() {
            // Something that is no address was put there by whoever sits behind the last proxy.
            let Some(address) = hop else { break };
            client = address;
            let trusted = if self.hops > 0 { passed + 1 < self.hops } else { self.trusts(address) };
            if !trusted {
                break;
            }
        }
        client
    }

    /// [`ClientAddress::resolve`] over a header map.
    pub fn resolve_headers(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        // Nobody is trusted by most servers: nothing is looked for then.
        if !self.trusts(peer) {
            return peer.to_canonical();
        }
        let all = |name| headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        self.resolve(peer, all(FORWARDED_FOR), all(FORWARDED))
    }

    /// What is counted for an address: an IPv6 one stands for its whole network, since one customer
    /// has all of it.
    pub fn key(&self, address: IpAddr) -> String {
        match address.to_canonical() {
            IpAddr::V4(v4) => dotted(v4),
            IpAddr::V6(v6) if self.ipv6_prefix == 128 => v6.to_string(),
            IpAddr::V6(v6) => {
                let mask = u128::MAX << (128 - self.ipv6_prefix);
                format!("{}/{}", Ipv6Addr::from(u128::from(v6) & mask), self.ipv6_prefix)
            }
        }
    }
}

/// The same as its `Display`, at a third of the cost: every request that is counted by address asks.
fn dotted(address: Ipv4Addr) -> String {
    let mut text = String::with_capacity("255.255.255.255".len());
    for (place, octet) in address.octets().into_iter().enumerate() {
        if place > 0 {
            text.push('.');
        }
        text.push_str(itoa::Buffer::new().format(octet));
    }
    text
}

/// One hop of `X-Forwarded-For`: an address, perhaps with a port.
fn hop(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let address = if let Some(rest) = text.strip_prefix('[') {
        rest.split_once(']')?.0.parse().ok()?
    } else if let Ok(address) = text.parse() {
        address
    } else {
        let (address, port) = text.rsplit_once(':')?;
        port.parse::<u16>().ok()?;
        IpAddr::V4(address.parse().ok()?)
    };
    Some(IpAddr::to_canonical(&address))
}

/// One element of `Forwarded` (RFC 7239): its `for` parameter.
fn forwarded_hop(element: &str) -> Option<IpAddr> {
    element.split(';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then(|| hop(value.trim().trim_matches('"')))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(trusted: &[&str], hops: usize, peer: &str, forwarded_for: &[&str], forwarded: &[&str]) -> String {
        let address = ClientAddress::new(trusted, hops, 64).unwrap();
        address.resolve(peer.parse().unwrap(), forwarded_for.iter().copied(), forwarded.iter().copied()).to_string()
    }

    #[test]
    fn nothing_is_trusted_by_default() {
        assert_eq!(resolved(&[], 0, "192.0.2.1", &["203.0.113.7"], &["for=203.0.113.7"]), "192.0.2.1");
        assert_eq!(resolved(&["10.0.0.0/8"], 0, "192.0.2.1", &["203.0.113.7"], &[]), "192.0.2.1");
    }

    #[test]
    fn the_right_most_untrusted_hop_is_the_client() {
        let nets = ["10.0.0.0/8", "2001:db8:1::/48"];
        for (forwarded_for, client) in [
            (&["203.0.113.7"][..], "203.0.113.7"),
            (&["6.6.6.6, 203.0.113.7"], "203.0.113.7"),
            (&["6.6.6.6, 203.0.113.7, 10.1.1.1"], "203.0.113.7"),
            (&["6.6.6.6", "203.0.113.7, 10.1.1.1"], "203.0.113.7"),
            (&["10.2.2.2, 10.1.1.1"], "10.2.2.2"),
            (&["203.0.113.7:5123"], "203.0.113.7"),
            (&["[2001:db8:2::5]:443, 2001:db8:1::1"], "2001:db8:2::5"),
            (&["::ffff:203.0.113.7"], "203.0.113.7"),
            (&["spoofed, 203.0.113.7"], "203.0.113.7"),
            (&["203.0.113.7, garbage"], "10.0.0.5"),
            (&["203.0.113.7, garbage, 10.1.1.1"], "10.1.1.1"),
            (&[""], "10.0.0.5"),
            (&[], "10.0.0.5"),
        ] {
            assert_eq!(resolved(&nets, 0, "10.0.0.5", forwarded_for, &[]), client, "{forwarded_for:?}");
        }
        assert_eq!(resolved(&nets, 0, "::ffff:10.0.0.5", &["203.0.113.7"], &[]), "203.0.113.7");
    }

    #[test]
    fn hops_are_counted_from_the_right() {
        let values = ["6.6.6.6, 203.0.113.7, 198.51.100.1"];
        assert_eq!(resolved(&[], 1, "192.0.2.1", &values, &[]), "198.51.100.1");
        assert_eq!(resolved(&[], 2, "192.0.2.1", &values, &[]), "203.0.113.7");
        assert_eq!(resolved(&[], 9, "192.0.2.1", &values, &[]), "6.6.6.6");
    }

    #[test]
    fn the_standard_header_reads() {
        let values = ["for=6.6.6.6;proto=http, For=\"[2001:db8:cafe::17]:4711\";by=x"];
        assert_eq!(resolved(&["10.0.0.5"], 0, "10.0.0.5", &[], &values), "2001:db8:cafe::17");
        assert_eq!(resolved(&["10.0.0.5"], 0, "10.0.0.5", &[], &["for=unknown"]), "10.0.0.5");
        assert_eq!(resolved(&["10.0.0.5"], 0, "10.0.0.5", &[], &["for=_hidden, for=203.0.113.7"]), "203.0.113.7");
    }

    #[test]
    fn one_ipv6_customer_is_one_key() {
        let address = ClientAddress::default();
        let key = |text: &str| address.key(text.parse().unwrap());
        assert_eq!(key("2001:db8::5"), "2001:db8::/64");
        assert_eq!(key("2001:db8::5:6:7:8"), "2001:db8::/64");
        assert_ne!(key("2001:db8:0:1::5"), key("2001:db8::5"));
        for v4 in ["203.0.113.7", "0.0.0.0", "255.255.255.255", "10.20.30.100"] {
            assert_eq!(key(v4), v4);
        }
        assert_eq!(key("::ffff:203.0.113.7"), "203.0.113.7");
        let whole = ClientAddress::new::<&str>(&[], 0, 128).unwrap();
        assert_eq!(whole.key("2001:db8::5".parse().unwrap()), "2001:db8::5");
    }

    #[test]
    fn a_bad_network_is_named() {
        let error = ClientAddress::new(&["10.0.0.0/8", "nginx"], 0, 64).unwrap_err();
        assert!(error.to_string().contains("\"nginx\""), "{error}");
        assert!(ClientAddress::new::<&str>(&[], 0, 0).is_err());
    }
}
