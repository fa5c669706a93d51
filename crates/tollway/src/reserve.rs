//! A cost that is known only afterwards: reserve, then commit what it was.

use std::sync::Arc;

use tollway_core::{Change, Charge, Decision, Policy, Reply, StoreError};

use crate::Limiter;

/// Permits held for a request whose cost is not known yet.
///
/// Dropping it keeps the whole reservation charged: nobody gains by not telling.
#[derive(Debug)]
#[must_use = "commit what was used, or cancel"]
pub struct Reservation {
    limiter: Limiter,
    policy: Arc<Policy>,
    key: String,
    decision: Decision,
}

impl Limiter {
    /// Charges `cost` permits for now; [`Reservation::commit`] settles what it really was.
    ///
    /// One round trip, and another to settle.
    ///
    /// # Errors
    /// As [`Limiter::check`].
    pub fn reserve(&self, policy: &Arc<Policy>, key: &str, cost: u32) -> Reply<Reservation> {
        let answer = self.check(&[Charge { policy, key, cost }]);
        let (limiter, policy, key) = (self.clone(), Arc::clone(policy), key.to_owned());
        Box::pin(async move {
            let decision = answer.await?;
            Ok(Reservation { limiter, policy, key, decision })
        })
    }
}

impl Reservation {
    /// Whether the request may pass, at the reserved cost.
    pub fn decision(&self) -> &Decision {
        &self.decision
    }

    /// Settles at the actual cost: less is given back, more is charged without asking and earned
    /// back first. A refused reservation held nothing, so only what was used all the same is charged.
    ///
    /// # Errors
    /// What the store said, when the fail mode is closed. In the other modes the answer is the
    /// reservation's own, degraded. Either way the reservation then stays charged as it was.
    pub fn commit(self, actual: u32) -> Reply<Decision> {
        let held = if self.decision.allowed { self.decision.cost } else { 0 };
        let actual = self.policy.charged(actual);
        self.settle(i64::from(actual) - i64::from(held))
    }

    /// Gives everything back.
    ///
    /// # Errors
    /// As [`Reservation::commit`].
    pub fn cancel(self) -> Reply<Decision> {
        self.commit(0)
    }

    fn settle(self, delta: i64) -> Reply<Decision> {
        if delta == 0 {
            return Box::pin(std::future::ready(Ok::<_, StoreError>(self.decision)));
        }
        let Self { limiter, policy, key, decision, .. } = self;
        if decision.degraded && limiter.passes_uncounted(&policy) {
            // Nobody counted it, so nothing is to be settled.
            return Box::pin(std::future::ready(Ok(decision)));
        }
        let reply = limiter.adjust(&policy, &key, Change::by(delta), decision.degraded);
        Box::pin(async move { reply.await.or_else(|error| limiter.unsettled(&policy, decision, error)) })
    }
}
