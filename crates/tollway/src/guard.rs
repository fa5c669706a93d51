//! A breaker around a store: a dead store costs one time-out, not one a request.

use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_timer::Delay;
use tollway_core::{
    Breaker, BreakerSettings, BreakerState, Capabilities, Change, Condition, ConfigError, Decision, Permit, Policy,
    Reply, Request, Store, StoreError, StoreErrorKind, Timestamp,
};

use crate::deadline::before;
use crate::observe::CallCounts;
use crate::watch::Watch;

/// A store with a circuit breaker in front of every operation. Only failures that may pass by
/// themselves count; a store that answers "no" is alive, and a queue that is full says nothing.
///
/// `ping` always asks; when it succeeds the next request finds out whether the store works again.
/// With somebody who runs [`Guard::watch`], pings find out and no request is spent on it.
#[derive(Debug)]
pub struct Guard {
    inner: Arc<dyn Store>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    breaker: Mutex<Breaker>,
    last_error: Mutex<Option<(StoreError, Instant)>>,
    max_pause: Duration,
    start: Instant,
    dice: RandomState,
    /// Asks in place of the requests; is rung when the breaker opens.
    watch: Arc<Watch>,
    calls: CallCounts,
}

impl Shared {
    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.start.elapsed().as_nanos() as u64)
    }

    fn lock(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record<T>(&self, spell: u64, answer: &Result<T, StoreError>) {
        if let Err(error) = answer {
            self.remember(error);
            if error.kind == StoreErrorKind::Overloaded {
                return self.lock().forget(spell);
            }
        }
        // A part that is away is not the store: the rest of it is still to be asked.
        let succeeded = !answer.as_ref().is_err_and(|error| error.is_transient() && !error.partial);
        let now = self.now();
        let mut breaker = self.lock();
        breaker.record(spell, succeeded, now, self.dice.hash_one(now.nanos()));
        if !succeeded && matches!(breaker.state(), BreakerState::Open(_)) {
            self.watch.ring();
        }
    }

    fn remember(&self, error: &StoreError) {
        let mut last = self.last_error.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some((error.clone(), Instant::now()));
    }

    /// What a ping found.
    fn heard(&self, answer: &Result<(), StoreError>) {
        match answer {
            Ok(()) => self.lock().alive(),
            Err(error) => {
                self.remember(error);
                if error.partial {
                    self.lock().alive();
                }
            }
        }
    }
}

impl Guard {
    /// Puts a breaker in front of `inner`.
    pub fn new(inner: Arc<dyn Store>, settings: BreakerSettings) -> Self {
        let shared = Shared {
            breaker: Mutex::new(Breaker::new(settings)),
            last_error: Mutex::default(),
            max_pause: Duration::from_nanos(settings.max_pause),
            start: Instant::now(),
            dice: RandomState::new(),
            watch: Arc::default(),
            calls: CallCounts::default(),
        };
        Self { inner, shared: Arc::new(shared) }
    }

    /// Where the breaker stands.
    pub fn state(&self) -> BreakerState {
        self.shared.lock().state()
    }

    /// Pings the store while its breaker is open, at the end of each pause, until it answers: run
    /// this beside the requests, such as by `tokio::spawn`. It sleeps while all is well, and ends with
    /// the guard. While it runs no request finds out by its own time-out whether the store is back.
    pub fn watch(&self) -> impl Future<Output = ()> + Send + use<> {
        let (shared, store) = (Arc::clone(&self.shared), Arc::downgrade(&self.inner));
        let watching = shared.watch.begin();
        async move {
            while !watching.is_over() {
                let state = shared.lock().state();
                let BreakerState::Open(until) = state else {
                    watching.rung().await;
                    continue;
                };
                Delay::new(Duration::from_nanos(until.since(shared.now()))).await;
                let Some(reply) = store.upgrade().map(|store| store.ping()) else { return };
                let answer = before(Instant::now() + shared.max_pause, reply).await;
                if let Some(answer) = &answer {
                    shared.heard(answer);
                }
                let now = shared.now();
                if !matches!(answer, Some(Ok(()))) {
                    shared.lock().away(now, shared.dice.hash_one(now.nanos()));
                }
            }
        }
    }

    fn permit(&self) -> Result<u64, StoreError> {
        let now = self.shared.now();
        let mut breaker = self.shared.lock();
        let permit = match breaker.state() {
            BreakerState::Open(until) if self.shared.watch.is_running() => Permit::Refused(until),
            _ => breaker.permit(now),
        };
        match permit {
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
                let (began, shared) = (Instant::now(), Arc::clone(&self.shared));
                Box::pin(Watched { reply: ask(&*self.inner), shared, spell: Some(spell), began })
            }
            Err(error) => {
                self.shared.calls.skip();
                Box::pin(std::future::ready(Err(error)))
            }
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.shared.watch.end();
    }
}

/// A reply whose outcome, or abandonment, the breaker learns of.
struct Watched<T> {
    reply: Reply<T>,
    shared: Arc<Shared>,
    spell: Option<u64>,
    began: Instant,
}

impl<T> Future for Watched<T> {
    type Output = Result<T, StoreError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = std::task::ready!(self.reply.as_mut().poll(context));
        if let Some(spell) = self.spell.take() {
            self.shared.record(spell, &answer);
            self.shared.calls.note(self.began.elapsed(), answer.as_ref().err().map(|error| error.kind));
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

    fn adjust(&self, policy: &Arc<Policy>, key: &str, change: Change) -> Reply<Decision> {
        self.watched(|store| store.adjust(policy, key, change))
    }

    fn reset(&self, policy: &Arc<Policy>, key: &str) -> Reply<()> {
        self.watched(|store| store.reset(policy, key))
    }

    fn cleanup(&self, most: u32) -> Reply<u64> {
        self.watched(|store| store.cleanup(most))
    }

    fn reset_prefix(&self, policy: &Arc<Policy>, prefix: &str) -> Reply<()> {
        self.watched(|store| store.reset_prefix(policy, prefix))
    }

    fn keeps(&self, policy: &Policy) -> Result<(), ConfigError> {
        self.inner.keeps(policy)
    }

    fn ping(&self) -> Reply<()> {
        let reply = self.inner.ping();
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let answer = reply.await;
            shared.heard(&answer);
            answer
        })
    }

    fn condition(&self) -> Condition {
        let last = self.shared.last_error.lock().unwrap_or_else(PoisonError::into_inner);
        let last_error = last.as_ref().map(|(error, at)| (error.clone(), at.elapsed()));
        let calls = Some(self.shared.calls.read());
        Condition { breaker: Some(self.state()), last_error, calls, ..self.inner.condition() }
    }
}
