//! Permits that are held while something runs, and given back when it has ended.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_timer::Delay;
use tollway_core::{
    Algorithm, Change, Charge, Decision, Policy, Reply, Request, StoreError, StoreErrorKind, Timestamp,
};

use crate::Limiter;
use crate::deadline::before;
use crate::keeper;
use crate::owned::OwnedRequest;

/// How soon somebody who waits for a permit looks again, at first and at most: permits come back when
/// their holders are done, which nobody can tell beforehand.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// Permits of a concurrency limit, held until this is dropped.
///
/// A thread of the process renews them each third of their lease, so they last as long as their
/// holder does, and end with the lease should the process die.
#[derive(Debug)]
#[must_use = "permits are given back when this is dropped"]
pub struct Held {
    decision: Decision,
    grip: Option<Arc<Grip>>,
}

/// What the keeper needs to renew permits and to give them back.
#[derive(Debug)]
pub(crate) struct Grip {
    limiter: Limiter,
    policy: Arc<Policy>,
    key: String,
    cost: u32,
    degraded: bool,
    pub(crate) lease: Duration,
    phase: Mutex<Phase>,
}

/// Where permits stand. A renewal that is on its way has to end before they can be given back: until
/// then nobody knows under which instant the store has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Held(Timestamp),
    Renewing { since: Timestamp, give_back: bool },
    Lost,
    Released,
}

impl Limiter {
    /// Takes `cost` permits of a concurrency limit and holds them, renewed, until the answer is dropped.
    ///
    /// One round trip, one to give them back, and one for each third of a lease.
    ///
    /// ```
    /// # async fn example(limiter: tollway::Limiter) -> Result<(), tollway::StoreError> {
    /// use std::sync::Arc;
    /// use tollway::{Algorithm, Policy};
    ///
    /// // Ten exports at a time; that of a process that dies ends 30 s later.
    /// let exports = Arc::new(Policy::new("exports", "10/30s", Algorithm::Concurrency).unwrap());
    /// let held = limiter.hold(&exports, "org-7", 1).await?;
    /// if held.decision().allowed {
    ///     // ... export ...
    /// }
    /// held.release().await?; // or drop it
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Limiter::check`]; and when the policy's algorithm is another.
    pub fn hold(&self, policy: &Arc<Policy>, key: &str, cost: u32) -> Reply<Held> {
        if policy.algorithm() != Algorithm::Concurrency {
            let detail = format!(
                "policy {:?} uses {}, whose permits cannot be held: give it the algorithm concurrency",
                policy.name(),
                policy.algorithm()
            );
            let error = StoreError::new(StoreErrorKind::Unsupported, self.store().name(), detail);
            return Box::pin(std::future::ready(Err(error)));
        }
        let answer = self.check(&[Charge { policy, key, cost }]);
        let (limiter, policy, key) = (self.clone(), Arc::clone(policy), key.to_owned());
        Box::pin(async move { Ok(Held::new(limiter, policy, key, answer.await?)) })
    }

    /// The same, waiting for at most `patience`, first come first served in this process. One round
    /// trip for each time it looks: after 5 ms at first, then less often, at least each 100 ms.
    ///
    /// # Errors
    /// As [`Limiter::hold`].
    pub fn hold_within(&self, policy: &Arc<Policy>, key: &str, cost: u32, patience: Duration) -> Reply<Held> {
        let (limiter, deadline) = (self.clone(), Instant::now() + patience);
        let charges = [Charge { policy, key, cost }];
        let queue = self.queues().queue(&charges);
        let request = OwnedRequest::new(&Request { charges: &charges, peek: false });
        let (policy, key) = (Arc::clone(policy), key.to_owned());
        Box::pin(async move {
            let Some(_turn) = before(deadline, queue.lock()).await else {
                let decision = request.with(|request| limiter.peek(request.charges)).await?;
                return Ok(Held { decision: Decision { allowed: false, ..decision }, grip: None });
            };
            let mut pause = PAUSES.0;
            loop {
                let held = limiter.hold(&policy, &key, cost).await?;
                let left = deadline.saturating_duration_since(Instant::now());
                if held.decision.allowed || left.is_zero() || cost > policy.limits()[0].capacity() {
                    return Ok(held);
                }
                Delay::new(pause.min(left)).await;
                pause = (pause * 2).min(PAUSES.1);
            }
        })
    }
}

impl Held {
    fn new(limiter: Limiter, policy: Arc<Policy>, key: String, decision: Decision) -> Self {
        let counted =
            decision.allowed && decision.cost > 0 && !(decision.degraded && limiter.passes_uncounted(&policy));
        let grip = counted.then(|| {
            let lease = policy.limits().iter().map(tollway_core::Limit::period).min().unwrap_or(u64::MAX);
            let grip = Arc::new(Grip {
                limiter,
                policy,
                key,
                cost: decision.cost,
                degraded: decision.degraded,
                lease: Duration::from_nanos(lease),
                phase: Mutex::new(Phase::Held(decision.at)),
            });
            keeper::keep(&grip);
            grip
        });
        Self { decision, grip }
    }

    /// Whether the permits were there.
    pub fn decision(&self) -> &Decision {
        &self.decision
    }

    /// Whether the permits are held now: not when they were refused, nor once a renewal came too late
    /// and others had taken them.
    pub fn is_held(&self) -> bool {
        self.grip.as_ref().is_some_and(|grip| matches!(*grip.phase(), Phase::Held(_) | Phase::Renewing { .. }))
    }

    /// Gives the permits back. A renewal that is on its way is waited for elsewhere. One round trip.
    ///
    /// # Errors
    /// What the store said; the permits then come back when their lease is over.
    pub fn release(mut self) -> Reply<()> {
        let reply = self.grip.take().and_then(|grip| grip.release());
        Box::pin(async move {
            match reply {
                Some(reply) => reply.await.map(|_| ()),
                None => Ok(()),
            }
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(reply) = self.grip.take().and_then(|grip| grip.release()) {
            keeper::finish(reply);
        }
    }
}

impl Grip {
    fn phase(&self) -> std::sync::MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: Change) -> Reply<Decision> {
        self.limiter.adjust(&self.policy, &self.key, change, self.degraded)
    }

    /// What gives the permits back, unless there is nothing to give or a renewal has to end first.
    fn release(&self) -> Option<Reply<Decision>> {
        let since = {
            let mut phase = self.phase();
            match *phase {
                Phase::Held(since) => {
                    *phase = Phase::Released;
                    since
                }
                Phase::Renewing { since, .. } => {
                    *phase = Phase::Renewing { since, give_back: true };
                    return None;
                }
                Phase::Lost | Phase::Released => return None,
            }
        };
        Some(self.change(Change::Release { since, cost: self.cost }))
    }

    /// What renews the permits; `None` when they are held no more.
    pub(crate) fn renew(self: &Arc<Self>) -> Option<Reply<Decision>> {
        let mut phase = self.phase();
        let Phase::Held(since) = *phase else { return None };
        *phase = Phase::Renewing { since, give_back: false };
        drop(phase);
        let (grip, reply) = (Arc::clone(self), self.change(Change::Renew { since, cost: self.cost }));
        Some(Box::pin(async move {
            let answer = reply.await;
            match grip.renewed(since, &answer) {
                Some(release) => release.await,
                None => answer,
            }
        }))
    }

    /// Notes how a renewal ended, and what is to be done then.
    fn renewed(&self, before: Timestamp, answer: &Result<Decision, StoreError>) -> Option<Reply<Decision>> {
        let since = match answer {
            Ok(decision) if decision.allowed => decision.at,
            Ok(_) => {
                *self.phase() = Phase::Lost;
                return None;
            }
            // Whether it was renewed is not known; the next renewal takes the permits anew if it must.
            Err(_) => before,
        };
        let mut phase = self.phase();
        let give_back = matches!(*phase, Phase::Renewing { give_back: true, .. });
        *phase = if give_back { Phase::Released } else { Phase::Held(since) };
        drop(phase);
        give_back.then(|| self.change(Change::Release { since, cost: self.cost }))
    }
}
