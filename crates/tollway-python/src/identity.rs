//! Who is asking, as Python sees it.

use std::net::{IpAddr, Ipv4Addr};

use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;

use crate::errors;

/// Finds the client's address behind trusted proxies. By default nothing is trusted.
#[pyclass(frozen, module = "tollway")]
pub struct ClientAddress {
    inner: tollway_http::ClientAddress,
    by_hops: bool,
}

/// Stands for a peer without an address, such as one on a Unix socket.
const NOWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

impl ClientAddress {
    fn find(&self, peer: Option<&str>, forwarded_for: &[PyBackedStr], forwarded: &[PyBackedStr]) -> Option<IpAddr> {
        let peer = match peer.and_then(|peer| peer.parse().ok()) {
            Some(peer) => peer,
            None if self.by_hops => NOWHERE,
            None => return None,
        };
        let texts = |values: &'_ [PyBackedStr]| values.iter().map(|v| v.to_string()).collect::<Vec<_>>();
        let (forwarded_for, forwarded) = (texts(forwarded_for), texts(forwarded));
        let found =
            self.inner.resolve(peer, forwarded_for.iter().map(String::as_str), forwarded.iter().map(String::as_str));
        (found != NOWHERE).then_some(found)
    }
}

#[pymethods]
impl ClientAddress {
    #[new]
    #[pyo3(signature = (trusted_proxies = Vec::new(), hops = 0, ipv6_prefix = 64))]
    fn new(trusted_proxies: Vec<String>, hops: usize, ipv6_prefix: u8) -> PyResult<Self> {
        let inner = tollway_http::ClientAddress::new(&trusted_proxies, hops, ipv6_prefix)
            .map_err(|error| errors::from_config(&error))?;
        Ok(Self { inner, by_hops: hops > 0 })
    }

    /// The client's address, from its peer's and the values of `X-Forwarded-For` and `Forwarded`.
    /// A peer without an address comes back as it is, or as `"local"`.
    #[pyo3(signature = (peer, forwarded_for = Vec::new(), forwarded = Vec::new()))]
    fn resolve(&self, peer: Option<&str>, forwarded_for: Vec<PyBackedStr>, forwarded: Vec<PyBackedStr>) -> String {
        let found = self.find(peer, &forwarded_for, &forwarded);
        found.map_or_else(|| nowhere(peer), |address| address.to_string())
    }

    /// The same as it is counted: an IPv6 address stands for its network.
    #[pyo3(signature = (peer, forwarded_for = Vec::new(), forwarded = Vec::new()))]
    fn key(&self, peer: Option<&str>, forwarded_for: Vec<PyBackedStr>, forwarded: Vec<PyBackedStr>) -> String {
        let found = self.find(peer, &forwarded_for, &forwarded);
        found.map_or_else(|| nowhere(peer), |address| self.inner.key(address))
    }
}

fn nowhere(peer: Option<&str>) -> String {
    peer.filter(|peer| !peer.is_empty()).unwrap_or("local").to_owned()
}

/// A 128-bit keyed hash of a long or secret identity, as 32 hexadecimal digits. Use it for API keys,
/// so that they are neither stored nor logged in clear.
#[pyfunction]
#[pyo3(signature = (identity, secret = &b"tollway"[..]))]
pub fn hash_identity(identity: &str, secret: &[u8]) -> String {
    tollway::hash_identity(secret, identity)
}
