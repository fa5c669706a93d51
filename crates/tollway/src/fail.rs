//! What to answer when the store does not.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use tollway_core::{
    Algorithm, Bucket, Capabilities, Change, Charge, ConfigError, Decision, FailMode, Limit, Mode, NEVER, Policy,
    Reason, Reply, Request, Store, StoreError, StoreErrorKind, Timestamp,
};

use crate::Limiter;

/// What a share is counted in.
const WHOLE: u32 = 1_000_000;
/// The most policies whose shares are kept; beyond that they are worked out again.
const ROOM: usize = 1_024;
/// What somebody is told to wait whose cost is above the share, though not above the limit.
const A_MOMENT: u64 = 1_000_000_000;

impl Limiter {
    /// The strictest mode of a request's policies.
    fn mode_of(&self, charges: &[Charge<'_>]) -> FailMode {
        let modes = charges.iter().map(|charge| self.fail_mode_of(charge.policy));
        modes.max().unwrap_or(self.fail_mode())
    }

    /// The answer to `request` after `error`.
    pub(crate) fn fall_back(&self, request: &Request<'_>, error: StoreError) -> Result<Decision, StoreError> {
        if error.kind == StoreErrorKind::Unsupported {
            // A mistake of whoever configured it, which no fallback may hide.
            return Err(error);
        }
        let decision = match (self.mode_of(request.charges), self.local()) {
            (FailMode::Open, _) => pass(request),
            (FailMode::Local, Some(local)) => match at_once(&**local, request) {
                Some(answer) => answer?,
                None => return Err(error),
            },
            (FailMode::Local, None) | (FailMode::Closed, _) => return Err(error),
        };
        Ok(Decision {
            degraded: true,
            reason: if decision.allowed { Reason::StoreUnavailable } else { decision.reason },
            ..decision
        })
    }
}

/// What a store in memory answers, which never has to be waited for.
fn at_once(local: &dyn Store, request: &Request<'_>) -> Option<Result<Decision, StoreError>> {
    let at_once = local.apply_now(request);
    at_once.or_else(|| match local.apply(&[*request]).as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer.map(|decisions| decisions.first().copied()).transpose(),
        Poll::Pending => None,
    })
}

/// A pass that nobody counted: the limits as if nothing were spent.
fn pass(request: &Request<'_>) -> Decision {
    let (charge, limit) = (request.charges.iter().enumerate())
        .flat_map(|(number, charge)| charge.policy.limits().iter().map(move |limit| (number, limit)))
        .min_by_key(|(_, limit)| limit.capacity())
        .map_or((0, 0), |(number, limit)| (number, limit.capacity()));
    Decision {
        allowed: true,
        charge: charge as u16,
        index: 0,
        limit,
        remaining: limit,
        cost: request.charges.get(charge).map_or(0, |charge| charge.cost),
        reset_after: 0,
        retry_after: 0,
        at: Timestamp::default(),
        mode: Mode::Enforced,
        degraded: true,
        reason: Reason::StoreUnavailable,
    }
}

/// A store that grants a share of each limit: for one of several processes that count for
/// themselves, so that together they grant about what the limit allows.
///
/// Permits and bursts are multiplied and rounded down, but at least 1 permit passes in a period. So n
/// processes with a share of 1/n each admit at most the limit together, or n where the limit is less.
///
/// ```
/// use std::sync::Arc;
/// use tollway::{Algorithm, Charge, Policy, Request, Share, Store};
/// use tollway_stores::memory::MemoryStore;
///
/// let quarter = Share::new(Arc::new(MemoryStore::new(1_000)), 0.25)?;
/// let policy = Arc::new(Policy::new("login", "10/h", Algorithm::Gcra)?);
/// let charges = [Charge { policy: &policy, key: "203.0.113.7", cost: 1 }];
/// let ask = || quarter.apply_now(&Request { charges: &charges, peek: false }).unwrap().unwrap().allowed;
/// assert_eq!([ask(), ask(), ask()], [true, true, false]);
/// # Ok::<(), tollway::ConfigError>(())
/// ```
#[derive(Debug)]
pub struct Share {
    inner: Arc<dyn Store>,
    /// In millionths.
    share: u32,
    known: Mutex<HashMap<usize, Cut>>,
}

#[derive(Debug)]
struct Cut {
    /// Kept so that no other policy comes to have its address.
    _whole: Arc<Policy>,
    share: Arc<Policy>,
}

impl Share {
    /// Grants `share` of each limit, above 0 and at most 1.
    ///
    /// # Errors
    /// When the share is no such number.
    pub fn new(inner: Arc<dyn Store>, share: f64) -> Result<Self, ConfigError> {
        if !(0.000_001..=1.0).contains(&share) {
            return Err(ConfigError::new(format!("a share of the limits is above 0 and at most 1, not {share}")));
        }
        let share = (share * f64::from(WHOLE)).round() as u32;
        Ok(Self { inner, share, known: Mutex::default() })
    }

    fn share_of(&self, policy: &Arc<Policy>) -> Arc<Policy> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let place = Arc::as_ptr(policy) as usize;
        if let Some(cut) = known.get(&place) {
            return Arc::clone(&cut.share);
        }
        let share = Arc::new(self.cut(policy));
        if known.len() >= ROOM {
            known.clear();
        }
        known.insert(place, Cut { _whole: Arc::clone(policy), share: Arc::clone(&share) });
        share
    }

    fn cut(&self, policy: &Policy) -> Policy {
        let rates: Vec<_> = policy.limits().iter().map(|limit| limit.rate().share(self.share)).collect();
        // An algorithm whose options ask for more than the share is kept as the simplest one.
        let cut = [policy.algorithm(), Algorithm::Gcra].into_iter();
        let mut cut = cut.filter_map(|algorithm| Policy::from_rates(policy.name(), rates.clone(), algorithm).ok());
        let Some(cut) = cut.next() else { return policy.clone() };
        let (whole, least) = (policy.limits()[0].bucket(), cut.limits().iter().map(Limit::capacity).min());
        let least = least.unwrap_or(1);
        let initial = whole.initial.map(|initial| initial.min(least));
        let bucket = Bucket { initial, per_request: whole.per_request.min(least), ..*whole };
        cut.clone().with_bucket(bucket).unwrap_or(cut)
    }

    fn with<T>(&self, requests: &[Request<'_>], ask: impl FnOnce(&[Request<'_>]) -> T) -> T {
        let policies: Vec<Vec<_>> =
            requests.iter().map(|request| request.charges.iter().map(|c| self.share_of(c.policy)).collect()).collect();
        let charges: Vec<Vec<_>> = (requests.iter().zip(&policies))
            .map(|(request, policies)| {
                request.charges.iter().zip(policies).map(|(charge, policy)| Charge { policy, ..*charge }).collect()
            })
            .collect();
        let cut: Vec<_> =
            requests.iter().zip(&charges).map(|(request, charges)| Request { charges, peek: request.peek }).collect();
        ask(&cut)
    }
}

/// A cost that the limit holds and the share does not may pass when the store is back.
fn worded(request: &Request<'_>, decision: Decision) -> Decision {
    let charge = request.charges.get(usize::from(decision.charge));
    let limit = charge.and_then(|charge| charge.policy.limits().get(usize::from(decision.index)));
    match limit {
        Some(limit) if decision.retry_after == NEVER && decision.cost <= limit.capacity() => {
            Decision { retry_after: A_MOMENT, reason: Reason::StoreUnavailable, ..decision }
        }
        _ => decision,
    }
}

impl Store for Share {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn apply(&self, requests: &[Request<'_>]) -> Reply<Vec<Decision>> {
        self.with(requests, |requests| self.inner.apply(requests))
    }

    fn apply_now(&self, request: &Request<'_>) -> Option<Result<Decision, StoreError>> {
        let answer = self.with(&[*request], |requests| self.inner.apply_now(&requests[0]))?;
        Some(answer.map(|decision| worded(request, decision)))
    }

    fn adjust(&self, policy: &Arc<Policy>, key: &str, change: Change) -> Reply<Decision> {
        self.inner.adjust(&self.share_of(policy), key, change)
    }

    fn reset_prefix(&self, policy: &Arc<Policy>, prefix: &str) -> Reply<()> {
        self.inner.reset_prefix(&self.share_of(policy), prefix)
    }

    fn keeps(&self, policy: &Policy) -> Result<(), ConfigError> {
        self.inner.keeps(policy)
    }

    fn reset(&self, policy: &Arc<Policy>, key: &str) -> Reply<()> {
        self.inner.reset(&self.share_of(policy), key)
    }

    fn ping(&self) -> Reply<()> {
        self.inner.ping()
    }

    fn members(&self) -> Vec<Arc<dyn Store>> {
        vec![Arc::clone(&self.inner)]
    }
}
