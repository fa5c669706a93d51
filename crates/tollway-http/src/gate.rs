//! May this request pass?

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, Response, request::Parts};
use tollway::{Charge, Decision, Limiter, Policy, StoreError};

use crate::problem::{problem, refusal_status, respond, store_unavailable};
use crate::{ClientAddress, Facts, Fields, Identity, write_fields};

/// Limits for one route: who is charged for what, and by which limiter.
///
/// ```
/// use std::sync::Arc;
/// use tollway::{Algorithm, FailMode, Limiter, Policy};
/// use tollway_http::{Check, ClientAddress, Gate, Identity};
/// use tollway_stores::memory::MemoryStore;
///
/// let limiter = Arc::new(Limiter::new(Arc::new(MemoryStore::new(1_000)), FailMode::Closed));
/// let policy = Arc::new(Policy::new("ping", "1/h", Algorithm::Gcra)?);
/// let gate = Gate::new(limiter, vec![(policy, Identity::Ip)], Arc::new(ClientAddress::default()));
///
/// let (head, ()) = http::Request::new(()).into_parts();
/// let peer = "203.0.113.7".parse().ok();
/// let Check::Done(first) = gate.check(&head, peer) else { unreachable!("memory answers at once") };
/// assert!(first.allowed());
/// let Check::Done(second) = gate.check(&head, peer) else { unreachable!("memory answers at once") };
/// assert_eq!(second.refusal().status(), 429);
/// # Ok::<(), tollway::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Gate {
    limiter: Arc<Limiter>,
    identities: Vec<Identity>,
    policies: Arc<[Arc<Policy>]>,
    address: Arc<ClientAddress>,
    fields: Fields,
}

/// The answer, or the wait for it.
pub enum Check {
    /// The store answered at once.
    Done(Verdict),
    /// The store is a remote one.
    Wait(Pin<Box<dyn Future<Output = Verdict> + Send>>),
}

/// Whether a request may pass, and how to tell its client.
#[derive(Clone, Debug)]
pub struct Verdict {
    answer: Result<Decision, StoreError>,
    policies: Arc<[Arc<Policy>]>,
    fields: Fields,
}

impl Gate {
    /// A gate that charges each policy to its identity; all pass together or not at all.
    pub fn new(limiter: Arc<Limiter>, charges: Vec<(Arc<Policy>, Identity)>, address: Arc<ClientAddress>) -> Self {
        let (policies, identities): (Vec<_>, Vec<_>) = charges.into_iter().unzip();
        Self { limiter, identities, policies: policies.into(), address, fields: Fields::default() }
    }

    /// The same gate writing these families of headers.
    #[must_use]
    pub fn with_fields(mut self, fields: Fields) -> Self {
        self.fields = fields;
        self
    }

    /// The policies, in the order they are charged.
    pub fn policies(&self) -> &[Arc<Policy>] {
        &self.policies
    }

    /// Charges a request. One round trip on a remote store, none in memory.
    pub fn check(&self, head: &Parts, peer: Option<IpAddr>) -> Check {
        let query = head.uri.query().unwrap_or("");
        let facts = Facts { peer, headers: &head.headers, query, address: &self.address };
        // One identity is by far the usual case: no list for it.
        if let ([identity], [policy]) = (&self.identities[..], &self.policies[..]) {
            let key = identity.extract(&facts);
            return self.ask(&[Charge { policy, key: &key, cost: 1 }]);
        }
        let keys: Vec<_> = self.identities.iter().map(|identity| identity.extract(&facts)).collect();
        let pairs = self.policies.iter().zip(&keys);
        let charges: Vec<_> = pairs.map(|(policy, key)| Charge { policy, key, cost: 1 }).collect();
        self.ask(&charges)
    }

    fn ask(&self, charges: &[Charge<'_>]) -> Check {
        let (policies, fields) = (Arc::clone(&self.policies), self.fields);
        if let Some(answer) = self.limiter.check_now(charges) {
            return Check::Done(Verdict { answer, policies, fields });
        }
        let answer = self.limiter.check(charges);
        Check::Wait(Box::pin(async move { Verdict { answer: answer.await, policies, fields } }))
    }
}

impl Verdict {
    /// Whether the request may pass.
    pub fn allowed(&self) -> bool {
        self.answer.as_ref().is_ok_and(|decision| decision.allowed)
    }

    /// The decision, or why there is none.
    ///
    /// # Errors
    /// What the store said, when the limiter fails closed.
    pub fn decision(&self) -> Result<&Decision, &StoreError> {
        self.answer.as_ref()
    }

    /// The policies that were asked.
    pub fn policies(&self) -> &Arc<[Arc<Policy>]> {
        &self.policies
    }

    /// Writes the limit headers of an allowed or refused answer.
    pub fn write_headers(&self, headers: &mut HeaderMap) {
        if let Ok(decision) = &self.answer {
            write_fields(decision, &self.policies, wall_seconds(), self.fields, headers);
        }
    }

    /// The answer for a client that may not pass: 429, or 503 when nobody could count.
    pub fn refusal(&self) -> Response<Bytes> {
        match &self.answer {
            Err(error) => store_unavailable::<Vec<u8>>(error).map(Bytes::from),
            Ok(decision) => {
                let body = problem(decision, &self.policies);
                let mut response = respond::<Bytes>(refusal_status(decision), body, None);
                self.write_headers(response.headers_mut());
                response
            }
        }
    }
}

/// The wall clock, for the one header that is a date.
fn wall_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
