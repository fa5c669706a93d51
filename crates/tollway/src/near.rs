//! A near-cache of refusals: a key refused until T is refused here until T, without a round trip.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tollway_core::{
    Algorithm, Capabilities, Change, Charge, ConfigError, Decision, Policy, Reason, Reply, Request, Store, StoreError,
};

/// The most refusals remembered; beyond that the ones that are over make room, or nothing is added.
const ROOM: usize = 65_536;
/// Classes of keys by hash: a refund to one key forgets the refusals of its class only.
const CLASSES: usize = 1_024;
/// Shorter refusals are not worth remembering.
const LEAST: Duration = Duration::from_millis(1);

/// A store that remembers refusals and repeats them while they hold.
///
/// What it answers is what the store would have answered: a key that is spent stays spent until its
/// `retry_after` has passed, whoever asks. Only a refund or a reset changes that sooner; through this
/// cache it is effective at once, from elsewhere after at most `hold`. Permits that are held may come
/// back at any time, and nobody knows what an algorithm of one's own does: their refusals are not
/// remembered.
#[derive(Debug)]
pub struct NearCache {
    inner: Arc<dyn Store>,
    refusals: Arc<Refusals>,
}

#[derive(Debug)]
struct Refusals {
    hold: Duration,
    hasher: RandomState,
    known: Mutex<HashMap<u64, Refusal>>,
    /// When refusals that are over last made room, on the clock of `start`, in nanoseconds.
    cleaned: AtomicU64,
    start: Instant,
    /// How often keys of each class were changed without asking: a part of what stands for a request,
    /// so that what was refused before a change is never found after it.
    changes: [AtomicU64; CLASSES],
}

#[derive(Debug)]
struct Refusal {
    /// Kept so that no other policy can come to have the address that was hashed.
    _policies: Vec<Arc<Policy>>,
    decision: Decision,
    since: Instant,
    until: Instant,
}

impl Refusals {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Refusal>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What stands for a request, or `None` when its refusal may not be repeated: with a cost above
    /// 1 some permits come back before enough do.
    fn sign(&self, request: &Request<'_>) -> Option<u64> {
        let lasts = |charge: &Charge<'_>| {
            charge.cost == 1 && !matches!(charge.policy.algorithm(), Algorithm::Concurrency | Algorithm::Custom(_))
        };
        if request.peek || !request.charges.iter().all(lasts) {
            return None;
        }
        let mut hasher = self.hasher.build_hasher();
        for charge in request.charges {
            let changes = self.changes[self.class(charge.policy, charge.key)].load(Ordering::Acquire);
            (Arc::as_ptr(charge.policy) as usize, charge.key, changes).hash(&mut hasher);
        }
        Some(hasher.finish())
    }

    fn class(&self, policy: &Policy, key: &str) -> usize {
        self.hasher.hash_one((policy.name(), key)) as usize % CLASSES
    }

    fn find(&self, signature: u64) -> Option<Decision> {
        let mut known = self.lock();
        let refusal = known.get(&signature)?;
        let now = Instant::now();
        if now >= refusal.until {
            known.remove(&signature);
            return None;
        }
        let passed = now.duration_since(refusal.since).as_nanos() as u64;
        let decision = refusal.decision;
        Some(Decision {
            retry_after: decision.retry_after.saturating_sub(passed).max(1),
            reset_after: decision.reset_after.saturating_sub(passed).max(1),
            at: decision.at.plus(passed),
            ..decision
        })
    }

    /// Remembers a refusal that was asked for at `asked`. The wait counts from then, when the store
    /// cannot have decided yet: so it ends here no later than there.
    fn learn(&self, signature: u64, policies: Vec<Arc<Policy>>, decision: &Decision, asked: Instant) {
        if decision.allowed || decision.reason != Reason::RateLimited || decision.degraded {
            return;
        }
        let wait = Duration::from_nanos(decision.retry_after).min(self.hold);
        if wait < LEAST {
            return;
        }
        let refusal = Refusal { _policies: policies, decision: *decision, since: asked, until: asked + wait };
        let mut known = self.lock();
        if known.len() >= ROOM && self.is_time_to_clean() {
            let now = Instant::now();
            known.retain(|_, refusal| refusal.until > now);
        }
        if known.len() < ROOM {
            known.insert(signature, refusal);
        }
    }
}

impl Refusals {
    /// At most eight times in a hold: a flood of keys must not make each of them look through all.
    fn is_time_to_clean(&self) -> bool {
        let now = self.start.elapsed().as_nanos() as u64;
        let is_time = now.saturating_sub(self.cleaned.load(Ordering::Relaxed)) >= self.hold.as_nanos() as u64 / 8;
        if is_time {
            self.cleaned.store(now, Ordering::Relaxed);
        }
        is_time
    }
}

impl NearCache {
    /// Remembers the refusals of `inner`, each for at most `hold`.
    pub fn new(inner: Arc<dyn Store>, hold: Duration) -> Self {
        let changes = std::array::from_fn(|_| AtomicU64::new(0));
        let (hasher, known) = (RandomState::new(), Mutex::default());
        let refusals = Refusals { hold, hasher, known, cleaned: AtomicU64::new(0), start: Instant::now(), changes };
        Self { inner, refusals: Arc::new(refusals) }
    }

    /// A reply after which refusals of some classes of keys may no longer hold. They are forgotten
    /// after the store has answered, so that one on its way cannot be learnt again and stay.
    fn forgetting<T: Send + 'static>(&self, classes: Range<usize>, reply: Reply<T>) -> Reply<T> {
        let refusals = Arc::clone(&self.refusals);
        Box::pin(async move {
            let answer = reply.await;
            for changes in &refusals.changes[classes] {
                changes.fetch_add(1, Ordering::AcqRel);
            }
            answer
        })
    }

    fn class(&self, policy: &Policy, key: &str) -> Range<usize> {
        let class = self.refusals.class(policy, key);
        class..class + 1
    }

    /// Refusals remembered now, those that are over included.
    pub fn len(&self) -> usize {
        self.refusals.lock().len()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Store for NearCache {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn apply(&self, requests: &[Request<'_>]) -> Reply<Vec<Decision>> {
        let [request] = requests else { return self.inner.apply(requests) };
        let Some(signature) = self.refusals.sign(request) else { return self.inner.apply(requests) };
        let policies: Vec<_> = request.charges.iter().map(|charge| Arc::clone(charge.policy)).collect();
        let refusals = Arc::clone(&self.refusals);
        let asked = Instant::now();
        let reply = self.inner.apply(requests);
        Box::pin(async move {
            let decisions = reply.await?;
            if let [decision] = &decisions[..] {
                refusals.learn(signature, policies, decision, asked);
            }
            Ok(decisions)
        })
    }

    fn apply_now(&self, request: &Request<'_>) -> Option<Result<Decision, StoreError>> {
        let known = self.refusals.sign(request).and_then(|signature| self.refusals.find(signature));
        known.map(Ok).or_else(|| self.inner.apply_now(request))
    }

    fn adjust(&self, policy: &Arc<Policy>, key: &str, change: Change) -> Reply<Decision> {
        self.forgetting(self.class(policy, key), self.inner.adjust(policy, key, change))
    }

    fn reset(&self, policy: &Arc<Policy>, key: &str) -> Reply<()> {
        self.forgetting(self.class(policy, key), self.inner.reset(policy, key))
    }

    fn reset_prefix(&self, policy: &Arc<Policy>, prefix: &str) -> Reply<()> {
        self.forgetting(0..CLASSES, self.inner.reset_prefix(policy, prefix))
    }

    fn keeps(&self, policy: &Policy) -> Result<(), ConfigError> {
        self.inner.keeps(policy)
    }

    fn ping(&self) -> Reply<()> {
        self.inner.ping()
    }

    fn give_back(&self) -> Reply<()> {
        self.inner.give_back()
    }

    fn members(&self) -> Vec<Arc<dyn Store>> {
        vec![Arc::clone(&self.inner)]
    }
}
