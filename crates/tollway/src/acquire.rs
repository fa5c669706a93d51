//! Waiting for a permit, first come first served.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures_timer::Delay;
use tokio::sync::Mutex as Turn;
use tollway_core::{Charge, Decision, NEVER, Request, StoreError};

use crate::deadline::before;
use crate::owned::OwnedRequest;
use crate::{Answer, Limiter};

/// Who waits for what. A queue is kept while somebody stands in it.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    hasher: RandomState,
    queues: Mutex<HashMap<u64, Weak<Turn<()>>>>,
}

impl Queues {
    /// The queue for these budgets; callers for the same ones stand in the same.
    pub(crate) fn queue(&self, charges: &[Charge<'_>]) -> Arc<Turn<()>> {
        let names: Vec<_> = charges.iter().map(|charge| (charge.policy.name(), charge.key)).collect();
        let signature = self.hasher.hash_one(names);
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queues.get(&signature).and_then(Weak::upgrade) {
            return queue;
        }
        if queues.len() >= 1_024 {
            queues.retain(|_, queue| queue.strong_count() > 0);
        }
        let queue = Arc::new(Turn::new(()));
        queues.insert(signature, Arc::downgrade(&queue));
        queue
    }
}

impl Limiter {
    /// Waits for at most `patience` until the charges pass, first come first served in this process.
    ///
    /// Only the first in line asks; it sleeps exactly until its `retry_after` and is woken once. A
    /// wait that cannot succeed in time is not begun: the refusal comes back at once. One round trip
    /// for each time asked, usually two.
    ///
    /// # Errors
    /// As [`Limiter::check`].
    pub fn acquire(&self, charges: &[Charge<'_>], patience: Duration) -> Answer {
        let (limiter, deadline) = (self.clone(), Instant::now() + patience);
        let request = OwnedRequest::new(&Request { charges, peek: false });
        let queue = self.queues().queue(charges);
        Box::pin(async move {
            let Some(_turn) = before(deadline, queue.lock()).await else {
                return request.with(|request| limiter.peek(request.charges)).await;
            };
            loop {
                let decision = request.with(|request| limiter.check(request.charges)).await?;
                let wait = Duration::from_nanos(decision.retry_after);
                let hopeless = decision.retry_after == NEVER || Instant::now() + wait > deadline;
                if decision.allowed || hopeless {
                    return Ok::<Decision, StoreError>(decision);
                }
                Delay::new(wait).await;
            }
        })
    }
}
