//! May this request pass?

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, Response, request::Parts};
use tollway::rules::{Asked, Rules, Ruling, Subject};
use tollway::{Charge, Decision, Limiter, Policy, StoreError};

use crate::problem::{problem, refusal_status, respond, store_unavailable};
use crate::{ClientAddress, Facts, Fields, Identity, Verified, write_fields};

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
    rules: Option<Arc<Rules>>,
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
        Self { limiter, identities, policies: policies.into(), address, fields: Fields::default(), rules: None }
    }

    /// The same gate writing these families of headers.
    #[must_use]
    pub fn with_fields(mut self, fields: Fields) -> Self {
        self.fields = fields;
        self
    }

    /// The same gate asking rules what becomes of its charges. It tells them the client's address, the
    /// method, the path, and as API key the first header or cookie that it charges. A gate without
    /// charges turns away and charges by path.
    #[must_use]
    pub fn with_rules(mut self, rules: Arc<Rules>) -> Self {
        self.rules = Some(rules);
        self
    }

    /// The policies, in the order they are charged.
    pub fn policies(&self) -> &[Arc<Policy>] {
        &self.policies
    }

    /// Charges a request of somebody who was not verified. One round trip on a remote store, none in memory.
    pub fn check(&self, head: &Parts, peer: Option<IpAddr>) -> Check {
        self.check_for(head, peer, None)
    }

    /// The same for a caller that was verified, if one was: it is charged by its user, key or claims,
    /// and rules are told who it is.
    pub fn check_for(&self, head: &Parts, peer: Option<IpAddr>, caller: Option<&dyn Verified>) -> Check {
        self.consider(head, peer, caller, false)
    }

    /// What [`Gate::check_for`] would say, and charges nothing: for limits that are charged when the
    /// answer is known.
    pub fn peek_for(&self, head: &Parts, peer: Option<IpAddr>, caller: Option<&dyn Verified>) -> Check {
        self.consider(head, peer, caller, true)
    }

    fn consider(&self, head: &Parts, peer: Option<IpAddr>, caller: Option<&dyn Verified>, peek: bool) -> Check {
        let query = head.uri.query().unwrap_or("");
        let facts = Facts { peer, headers: &head.headers, query, address: &self.address, caller };
        // One identity is by far the usual case: no list for it.
        if let ([identity], [policy]) = (&self.identities[..], &self.policies[..]) {
            let key = identity.extract(&facts);
            return self.ask(&[Charge { policy, key: &key, cost: 1 }], head, &facts, peek);
        }
        let keys: Vec<_> = self.identities.iter().map(|identity| identity.extract(&facts)).collect();
        let pairs = self.policies.iter().zip(&keys);
        let charges: Vec<_> = pairs.map(|(policy, key)| Charge { policy, key, cost: 1 }).collect();
        self.ask(&charges, head, &facts, peek)
    }

    fn ask(&self, charges: &[Charge<'_>], head: &Parts, facts: &Facts<'_>, peek: bool) -> Check {
        let (policies, fields) = (Arc::clone(&self.policies), self.fields);
        if let Some(rules) = &self.rules {
            return self.ask_rules(rules, charges, head, facts, peek);
        }
        let limiter = &self.limiter;
        if let Some(answer) = if peek { limiter.peek_now(charges) } else { limiter.check_now(charges) } {
            return Check::Done(Verdict { answer, policies, fields });
        }
        let answer = if peek { limiter.peek(charges) } else { limiter.check(charges) };
        Check::Wait(Box::pin(async move { Verdict { answer: answer.await, policies, fields } }))
    }

    fn ask_rules(&self, rules: &Rules, charges: &[Charge<'_>], head: &Parts, facts: &Facts<'_>, peek: bool) -> Check {
        let secrets = self.identities.iter().zip(charges).filter(|(identity, _)| identity.is_secret());
        let shown = secrets.filter_map(|(_, charge)| hash_in(charge.key)).next();
        let caller = facts.caller;
        let (user, tier) = (caller.and_then(Verified::user), caller.and_then(Verified::tier));
        let org = caller.and_then(|caller| caller.claim("org"));
        let subject = Subject {
            address: facts.client(),
            user: user.as_deref(),
            key: caller.and_then(Verified::api_key).or(shown),
            org: org.as_deref(),
            tier: tier.as_deref(),
            method: Some(head.method.as_str()),
            path: Some(head.uri.path()),
            ..Subject::default()
        };
        let (given, fields) = (Arc::clone(&self.policies), self.fields);
        match rules.check(&self.limiter, charges, &subject, peek) {
            Asked::Done(answer) => Check::Done(Verdict::ruled(answer, given, fields)),
            Asked::Wait(answer) => Check::Wait(Box::pin(async move { Verdict::ruled(answer.await, given, fields) })),
        }
    }
}

/// The hash at the end of a key such as `header:x-api-key:9f86…`; none when the request lacked it
/// and is charged to its address.
fn hash_in(key: &str) -> Option<&str> {
    let (_, hash) = key.rsplit_once(':')?;
    (hash.len() == 32 && (key.starts_with("header:") || key.starts_with("cookie:"))).then_some(hash)
}

impl Verdict {
    /// What rules made of the policies that were `given`.
    fn ruled(answer: Result<Ruling, StoreError>, given: Arc<[Arc<Policy>]>, fields: Fields) -> Self {
        let policies = answer.as_ref().ok().and_then(Ruling::policies).unwrap_or(given);
        Self { answer: answer.map(|ruling| ruling.decision), policies, fields }
    }

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
            let now = if self.fields.x_ratelimit { wall_seconds() } else { 0 };
            write_fields(decision, &self.policies, now, self.fields, headers);
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
