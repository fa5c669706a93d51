//! Store, then fail mode, then observers.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tollway_core::{
    Change, Charge, ConfigError, Decision, FailMode, Policy, Reply, Request, Store, StoreError, StoreErrorKind,
};

use crate::acquire::Queues;
use crate::health::collect;
use crate::observe::Watched;
use crate::owned::OwnedRequest;
use crate::{Metrics, Observer};

/// An answer that may have to be waited for.
pub type Answer = Pin<Box<dyn Future<Output = Result<Decision, StoreError>> + Send>>;

/// Decides requests: asks the store, and the fail mode when the store does not answer.
///
/// Cheap to share: put it in an `Arc` and call it from anywhere.
#[derive(Clone, Debug)]
pub struct Limiter {
    store: Arc<dyn Store>,
    fail_mode: FailMode,
    local: Option<Arc<dyn Store>>,
    observers: Arc<[Arc<dyn Observer>]>,
    metrics: Option<Arc<Watched>>,
    queues: Arc<Queues>,
}

impl Limiter {
    /// A limiter over `store`, with what is answered when it does not answer, unless a policy says
    /// otherwise. [`FailMode::Local`] wants [`Limiter::with_local`]; without it it is closed.
    pub fn new(store: Arc<dyn Store>, fail_mode: FailMode) -> Self {
        Self { store, fail_mode, local: None, observers: Arc::new([]), metrics: None, queues: Arc::default() }
    }

    /// The same with a store that counts in [`FailMode::Local`]: one that answers at once. See
    /// [`Share`](crate::Share) for several processes.
    #[must_use]
    pub fn with_local(self, local: Arc<dyn Store>) -> Self {
        Self { local: Some(local), ..self }
    }

    /// The same with somebody else who is told.
    #[must_use]
    pub fn with_observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observers = self.observers.iter().cloned().chain([observer]).collect();
        self
    }

    /// The same counting its checks, and telling of its store, in `metrics`.
    #[must_use]
    pub fn with_metrics(self, metrics: &Arc<Metrics>) -> Self {
        Self { metrics: Some(metrics.watch(&self.store)), ..self }
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// What is answered when the store does not.
    pub fn fail_mode(&self) -> FailMode {
        self.fail_mode
    }

    /// The same for `policy`, which may have an answer of its own.
    pub fn fail_mode_of(&self, policy: &Policy) -> FailMode {
        policy.fail_mode().unwrap_or(self.fail_mode)
    }

    /// What counts in [`FailMode::Local`].
    pub fn local(&self) -> Option<&Arc<dyn Store>> {
        self.local.as_ref()
    }

    /// Whether a degraded decision on `policy` was counted nowhere.
    pub(crate) fn passes_uncounted(&self, policy: &Policy) -> bool {
        self.fail_mode_of(policy) == FailMode::Open
    }

    pub(crate) fn queues(&self) -> &Queues {
        &self.queues
    }

    /// Decides without waiting, or `None` when the store is a remote one.
    ///
    /// The charges pass together or not at all. Costs no round trip.
    ///
    /// # Errors
    /// What the store said, when the fail mode is closed.
    pub fn check_now(&self, charges: &[Charge<'_>]) -> Option<Result<Decision, StoreError>> {
        self.ask_now(charges, false)
    }

    /// Decides. The charges pass together or not at all, in one round trip.
    ///
    /// # Errors
    /// What the store said, when the fail mode is closed.
    pub fn check(&self, charges: &[Charge<'_>]) -> Answer {
        self.ask(charges, false)
    }

    /// Answers as [`Limiter::check_now`] would and spends nothing.
    ///
    /// # Errors
    /// As [`Limiter::check_now`].
    pub fn peek_now(&self, charges: &[Charge<'_>]) -> Option<Result<Decision, StoreError>> {
        self.ask_now(charges, true)
    }

    /// Answers as [`Limiter::check`] would and spends nothing. One round trip.
    ///
    /// # Errors
    /// As [`Limiter::check`].
    pub fn peek(&self, charges: &[Charge<'_>]) -> Answer {
        self.ask(charges, true)
    }

    /// Decides any number of requests, each for itself, in one round trip.
    ///
    /// # Errors
    /// What the store said, when the fail mode is closed.
    pub fn check_many(&self, requests: &[Request<'_>]) -> Reply<Vec<Decision>> {
        if let Some(error) = requests.iter().find_map(|request| self.distinct(request.charges).err()) {
            return Box::pin(std::future::ready(Err(error)));
        }
        let owned: Vec<_> = requests.iter().map(OwnedRequest::paid).collect();
        let reply = OwnedRequest::with_all(&owned, |requests| self.store.apply(requests));
        let limiter = self.clone();
        Box::pin(async move {
            let answers: Vec<_> = match reply.await {
                Ok(decisions) => decisions.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error); owned.len()],
            };
            let pairs = owned.iter().zip(answers);
            pairs.map(|(request, answer)| request.with(|request| limiter.settle(request, answer))).collect()
        })
    }

    /// Gives `cost` permits of `policy` back to `key`: at most what is spent. One round trip.
    ///
    /// # Errors
    /// What the store said, when no fallback counts either.
    pub fn refund(&self, policy: &Arc<Policy>, key: &str, cost: u32) -> Reply<Decision> {
        self.adjust(policy, key, Change::Refund(policy.charged(cost)), false)
    }

    /// Charges or gives back without asking, where the request was counted: in the fallback when its
    /// decision was degraded, else in the store.
    pub(crate) fn adjust(&self, policy: &Arc<Policy>, key: &str, change: Change, degraded: bool) -> Reply<Decision> {
        if !policy.adjusts(change) {
            let detail = format!(
                "policy {:?} uses {}, which cannot charge or give back afterwards: give it an adjust()",
                policy.name(),
                policy.algorithm()
            );
            return Box::pin(std::future::ready(Err(self.broken(StoreErrorKind::Unsupported, &detail))));
        }
        match (self.fail_mode_of(policy), &self.local) {
            (FailMode::Local, Some(local)) if degraded => local.adjust(policy, key, change),
            _ => self.store.adjust(policy, key, change),
        }
    }

    /// What a reservation that the store could not settle is told: who holds it has done the work and
    /// gains nothing from an error, unless errors are what was asked for.
    pub(crate) fn unsettled(&self, policy: &Policy, held: Decision, error: StoreError) -> Result<Decision, StoreError> {
        self.observers.iter().for_each(|observer| observer.on_failure(&error));
        match self.fail_mode_of(policy) {
            FailMode::Closed => Err(error),
            FailMode::Open | FailMode::Local => Ok(Decision { degraded: true, ..held }),
        }
    }

    /// Forgets what `key` has spent of `policy`, in the store and in the local fallback. One round trip.
    ///
    /// # Errors
    /// What the store said.
    pub fn reset(&self, policy: &Arc<Policy>, key: &str) -> Reply<()> {
        self.everywhere(|store| store.reset(policy, key))
    }

    /// Forgets what every key of `policy` that begins with `prefix` has spent; an empty prefix is all
    /// of them. As many round trips as the store takes to find them.
    ///
    /// # Errors
    /// What the store said; one that cannot find keys again says so.
    pub fn reset_prefix(&self, policy: &Arc<Policy>, prefix: &str) -> Reply<()> {
        self.everywhere(|store| store.reset_prefix(policy, prefix))
    }

    /// Deletes at most `most` states that say nothing any more from each backend, and answers how many
    /// in all. Backends whose states go by themselves have none. One round trip or two to each.
    ///
    /// # Errors
    /// What a backend said.
    pub fn cleanup(&self, most: u32) -> Reply<u64> {
        let mut leaves = Vec::new();
        collect(&self.store, &mut leaves);
        let replies: Vec<_> = leaves.iter().map(|store| store.cleanup(most)).collect();
        Box::pin(async move {
            let mut deleted = 0;
            for reply in replies {
                deleted += reply.await?;
            }
            Ok(deleted)
        })
    }

    /// Whether the store keeps such a policy: for configuration, before the first request.
    ///
    /// # Errors
    /// Names the store and the algorithm.
    pub fn keeps(&self, policy: &Policy) -> Result<(), ConfigError> {
        self.store.keeps(policy)
    }

    /// Does the same in the local fallback and in the store.
    fn everywhere(&self, step: impl Fn(&dyn Store) -> Reply<()>) -> Reply<()> {
        let local = self.local.as_ref().map(|local| step(&**local));
        let remote = step(&*self.store);
        Box::pin(async move {
            if let Some(local) = local {
                local.await?;
            }
            remote.await
        })
    }

    /// Succeeds when the store answers. One round trip.
    ///
    /// # Errors
    /// What the store said.
    pub fn ping(&self) -> Reply<()> {
        self.store.ping()
    }

    /// Gives back permits that were taken in advance and not handed out: before a process ends. One
    /// round trip, if any are.
    ///
    /// # Errors
    /// What the store said; they then stay charged.
    pub fn give_back(&self) -> Reply<()> {
        self.store.give_back()
    }

    #[inline]
    fn ask_now(&self, charges: &[Charge<'_>], peek: bool) -> Option<Result<Decision, StoreError>> {
        if charges.iter().any(|charge| charge.policy.per_request() != 1) {
            return OwnedRequest::paid(&Request { charges, peek })
                .with(|request| self.ask_paid_now(request.charges, peek));
        }
        self.ask_paid_now(charges, peek)
    }

    /// The same, the costs being what is paid.
    #[inline]
    fn ask_paid_now(&self, charges: &[Charge<'_>], peek: bool) -> Option<Result<Decision, StoreError>> {
        if let Err(error) = self.distinct(charges) {
            return Some(Err(error));
        }
        let request = Request { charges, peek };
        let mut answer = self.store.apply_now(&request);
        // The answer goes where it belongs uncopied: observers read it there, if there are any.
        match &answer {
            Some(Ok(decision)) => self.tell(&request, decision),
            _ => answer = answer.map(|answer| self.settle(&request, answer)),
        }
        answer
    }

    fn ask(&self, charges: &[Charge<'_>], peek: bool) -> Answer {
        if let Some(answer) = self.ask_now(charges, peek) {
            return Box::pin(std::future::ready(answer));
        }
        let owned = OwnedRequest::paid(&Request { charges, peek });
        let reply = owned.with(|request| self.store.apply(&[*request]));
        let limiter = self.clone();
        Box::pin(async move {
            let answer = reply.await.and_then(|decisions| {
                let missing = || limiter.broken(StoreErrorKind::Corrupt, "it answered nothing");
                decisions.first().copied().ok_or_else(missing)
            });
            owned.with(|request| limiter.settle(request, answer))
        })
    }

    pub(crate) fn settle(
        &self,
        request: &Request<'_>,
        answer: Result<Decision, StoreError>,
    ) -> Result<Decision, StoreError> {
        let decision = answer.or_else(|error| {
            self.observers.iter().for_each(|observer| observer.on_failure(&error));
            self.fall_back(request, error).inspect_err(|_| {
                self.metrics.iter().for_each(|metrics| metrics.note_failed(request));
            })
        })?;
        self.tell(request, &decision);
        Ok(decision)
    }

    /// Tells of a decision those who want to know: most often nobody.
    #[inline]
    pub(crate) fn tell(&self, request: &Request<'_>, decision: &Decision) {
        if let Some(metrics) = &self.metrics
            && metrics.is_on()
        {
            metrics.note(request, decision);
        }
        self.observers.iter().for_each(|observer| observer.on_decision(request, decision));
    }

    /// A request must not charge one budget twice: stores read all states before they write any.
    pub(crate) fn distinct(&self, charges: &[Charge<'_>]) -> Result<(), StoreError> {
        if charges.len() == 1 {
            return Ok(());
        }
        let same = |a: &Charge<'_>, b: &Charge<'_>| a.key == b.key && a.policy.name() == b.policy.name();
        for (index, charge) in charges.iter().enumerate() {
            if charges[..index].iter().any(|other| same(other, charge)) {
                let detail = format!("one request charges policy {:?} twice for the same key", charge.policy.name());
                return Err(self.broken(StoreErrorKind::Unsupported, &detail));
            }
        }
        if charges.is_empty() {
            return Err(self.broken(StoreErrorKind::Unsupported, "a request without a charge"));
        }
        Ok(())
    }

    fn broken(&self, kind: StoreErrorKind, detail: &str) -> StoreError {
        StoreError::new(kind, self.store.name(), detail)
    }
}
