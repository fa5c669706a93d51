//! A breaker around a store: a dead store costs one time-out, not one a request.

use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use tollway_core::{
    Breaker, BreakerSettings, BreakerState, Capabilities, Decision, Permit, Policy, Reply, Request, Store, StoreError,
    StoreErrorKind, Timestamp,
};

/// A store with a circuit breaker in front of every operation. Only failures that may pass by
/// themselves count; a store that answers "no" is alive. `ping` always asks, and what it finds
/// counts: a health check closes the breaker as soon as the store is back.
#[derive(Debug)]
pub struct Guard {
    inner: Arc<dyn Store>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    breaker: Mutex<Breaker>,
    start: Instant,
    dice: RandomState,
}

impl Shared {
    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.start.elapsed().as_nanos() as u64)
    }

    fn lock(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record<T>(&self, spell: u64, answer: &Result<T, StoreError>) {
        let succeeded = !answer.as_ref().is_err_and(StoreError::is_transient);
        let now = self.now();
        self.lock().record(spell, succeeded, now, self.dice.hash_one(now.nanos()));
    }
}

impl Guard {
    /// Puts a breaker in front of `inner`.
    pub fn new(inner: Arc<dyn Store>, settings: BreakerSettings) -> Self {
        let breaker = Mutex::new(Breaker::new(settings));
        Self { inner, shared: Arc::new(Shared { breaker, start: Instant::now(), dice: RandomState::new() }) }
    }

    /// Where the breaker stands.
    pub fn state(&self) -> BreakerState {
        self.shared.lock().state()
    }

    fn permit(&self) -> Result<u64, StoreError> {
        let now = self.shared.now();
        match self.shared.lock().permit(now) {
            Permit::Granted(spell) => Ok(spell),
            Permit::Refused(until) => Err(StoreError::new(
                StoreErrorKind::Unavailable,
                self.inner.name(),
                format!("it failed lately and is asked again in {} ms", until.since(now).div_ceil(1_000_000)),
            )),
        }
    }

    fn watched<T: Send + 'static>(&self, ask: impl FnOnce(&dyn Store) -> Reply<T>) -> Reply<T> {
        match self.permit() {
            Ok(spell) => {
                Box::pin(Watched { reply: ask(&*self.inner), shared: Arc::clone(&self.shared), spell: Some(spell) })
            }
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }
}

/// A reply whose outcome, or abandonment, the breaker learns of.
struct Watched<T> {
    reply: Reply<T>,
    shared: Arc<Shared>,
    spell: Option<u64>,
}

impl<T> Future for Watched<T> {
    type Output = Result<T, StoreError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = std::task::ready!(self.reply.as_mut().poll(context));
        if let Some(spell) = self.spell.take() {
            self.shared.record(spell, &answer);
        }
        Poll::Ready(answer)
    }
}

impl<T> Drop for Watched<T> {
    fn drop(&mut self) {
        if let Some(spell) = self.spell.take() {
            self.shared.lock().forget(spell);
        }
    }
}

impl Store for Guard {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn apply(&self, requests: &[Request<'_>]) -> Reply<Vec<Decision>> {
        self.watched(|store| store.apply(requests))
    }

    fn apply_now(&self, request: &Request<'_>) -> Option<Result<Decision, StoreError>> {
        self.inner.apply_now(request)
    }

    fn adjust(&self, policy: &Arc<Policy>, key: &str, delta: i64) -> Reply<Decision> {
        self.watched(|store| store.adjust(policy, key, delta))
    }

    fn reset(&self, policy: &Arc<Policy>, key: &str) -> Reply<()> {
        self.watched(|store| store.reset(policy, key))
    }

    fn ping(&self) -> Reply<()> {
        let reply = self.inner.ping();
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let answer = reply.await;
            let mut breaker = shared.lock();
            if answer.is_ok() && breaker.state() != BreakerState::Closed {
                breaker.close();
            }
            answer
        })
    }
}
