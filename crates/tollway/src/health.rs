//! Whether the stores behind a limiter answer, and what they know of themselves.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tollway_core::{BreakerState, Store, StoreError, StoreErrorKind};

use crate::Limiter;
use crate::deadline::before;

/// How the stores behind a limiter are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// All of them answer.
    Healthy,
    /// Some answer and some do not.
    Degraded,
    /// None answers: the fail mode decides.
    Down,
}

impl Status {
    /// The word for logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Down => "down",
        }
    }
}

/// What was found: see [`Limiter::health`].
#[derive(Clone, Debug)]
pub struct Health {
    /// All together.
    pub status: Status,
    /// Each store that keeps state, in the order given.
    pub backends: Vec<BackendHealth>,
}

/// What was found of one store.
#[derive(Clone, Debug)]
pub struct BackendHealth {
    /// Its redacted URL.
    pub name: String,
    /// How long its answer took, or why there was none.
    pub ping: Result<Duration, StoreError>,
    /// Where its breaker stands, after the ping; none when it cannot fail.
    pub breaker: Option<BreakerState>,
    /// Calls that wait for their turn.
    pub waiting: usize,
    /// What went wrong last, and how long ago.
    pub last_error: Option<(StoreError, Duration)>,
}

impl BackendHealth {
    /// Whether it answered.
    pub fn is_up(&self) -> bool {
        self.ping.is_ok()
    }
}

impl Limiter {
    /// Pings every store behind this limiter, all at once, and waits for at most `patience`. A store
    /// that answers is used again by the next request, whatever its breaker said. One round trip
    /// each; no permits are spent.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use std::time::Duration;
    /// use tollway::{FailMode, Limiter, Status};
    /// use tollway_stores::memory::MemoryStore;
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let limiter = Limiter::new(Arc::new(MemoryStore::new(1_000)), FailMode::Closed);
    /// let health = limiter.health(Duration::from_secs(1)).await;
    /// assert_eq!(health.status, Status::Healthy);
    /// assert_eq!(health.backends[0].name, "memory://");
    /// # });
    /// ```
    pub fn health(&self, patience: Duration) -> impl Future<Output = Health> + Send + use<> {
        let mut leaves = Vec::new();
        collect(self.store(), &mut leaves);
        async move {
            let looks = leaves.into_iter().map(|store| Box::pin(look(store, patience)));
            let backends = together(looks.collect()).await;
            let up = backends.iter().filter(|backend| backend.is_up()).count();
            let status = match up {
                up if up == backends.len() => Status::Healthy,
                0 => Status::Down,
                _ => Status::Degraded,
            };
            Health { status, backends }
        }
    }
}

/// The stores that keep state.
pub(crate) fn collect(store: &Arc<dyn Store>, leaves: &mut Vec<Arc<dyn Store>>) {
    let members = store.members();
    if members.is_empty() {
        leaves.push(Arc::clone(store));
    }
    members.iter().for_each(|member| collect(member, leaves));
}

async fn look(store: Arc<dyn Store>, patience: Duration) -> BackendHealth {
    let started = Instant::now();
    let late = || {
        let detail = format!("no answer to a ping within {} ms", patience.as_millis());
        Err(StoreError::new(StoreErrorKind::Timeout, store.name(), detail))
    };
    let answer = before(started + patience, store.ping()).await.unwrap_or_else(late);
    let condition = store.condition();
    BackendHealth {
        name: store.name().to_owned(),
        ping: answer.map(|()| started.elapsed()),
        breaker: condition.breaker,
        waiting: condition.waiting,
        last_error: condition.last_error,
    }
}

/// What all of them give, in their order.
async fn together<T>(mut futures: Vec<Pin<Box<impl Future<Output = T>>>>) -> Vec<T> {
    let mut given: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        let open = futures.iter_mut().zip(&mut given).filter(|(_, given)| given.is_none());
        let waiting = open.filter_map(|(future, given)| match future.as_mut().poll(context) {
            Poll::Ready(value) => {
                *given = Some(value);
                None
            }
            Poll::Pending => Some(()),
        });
        if waiting.count() == 0 { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    given.into_iter().flatten().collect()
}
