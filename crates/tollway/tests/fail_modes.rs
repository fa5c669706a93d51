//! What the limiter answers when its store does not.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use tollway::{
    Algorithm, Capabilities, Charge, Decision, FailMode, Limiter, Observer, Policy, Reason, Reply, Request, Store,
    StoreError, StoreErrorKind,
};
use tollway_stores::memory::MemoryStore;

/// A store that is away.
#[derive(Debug)]
struct Away;

impl Away {
    fn error() -> StoreError {
        StoreError::new(StoreErrorKind::Unavailable, "away://", "connection refused")
    }
}

impl Store for Away {
    fn name(&self) -> &str {
        "away://"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    fn apply(&self, _: &[Request<'_>]) -> Reply<Vec<Decision>> {
        Box::pin(std::future::ready(Err(Self::error())))
    }

    fn adjust(&self, _: &Arc<Policy>, _: &str, _: i64) -> Reply<Decision> {
        Box::pin(std::future::ready(Err(Self::error())))
    }

    fn reset(&self, _: &Arc<Policy>, _: &str) -> Reply<()> {
        Box::pin(std::future::ready(Err(Self::error())))
    }

    fn ping(&self) -> Reply<()> {
        Box::pin(std::future::ready(Err(Self::error())))
    }
}

#[derive(Debug, Default)]
struct Heard {
    failures: Mutex<Vec<String>>,
    decisions: AtomicU32,
}

impl Observer for Heard {
    fn on_decision(&self, _: &[Charge<'_>], _: &Decision) {
        self.decisions.fetch_add(1, Ordering::SeqCst);
    }

    fn on_failure(&self, error: &StoreError) {
        self.failures.lock().unwrap().push(error.to_string());
    }
}

async fn ten_checks(fail_mode: FailMode) -> (Vec<Result<Decision, StoreError>>, Arc<Heard>) {
    let heard = Arc::new(Heard::default());
    let limiter = Limiter::new(Arc::new(Away), fail_mode).with_observer(heard.clone());
    let policy = Arc::new(Policy::new("p", "3/h", Algorithm::Gcra).unwrap());
    let mut answers = Vec::new();
    for _ in 0..10 {
        answers.push(limiter.check(&[Charge { policy: &policy, key: "k", cost: 1 }]).await);
    }
    (answers, heard)
}

#[tokio::test]
async fn open_lets_everybody_pass_and_says_so() {
    let (answers, heard) = ten_checks(FailMode::Open).await;
    assert!(answers.iter().flatten().all(|d| d.allowed && d.degraded && d.reason == Reason::StoreUnavailable));
    assert_eq!(
        (answers.len(), heard.failures.lock().unwrap().len(), heard.decisions.load(Ordering::SeqCst)),
        (10, 10, 10)
    );
}

#[tokio::test]
async fn closed_hands_over_the_error() {
    let (answers, heard) = ten_checks(FailMode::Closed).await;
    assert!(answers.iter().all(|answer| answer.as_ref().is_err_and(|error| error.store == "away://")));
    assert_eq!(heard.decisions.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn local_still_limits() {
    let (answers, _) = ten_checks(FailMode::Local(Arc::new(MemoryStore::new(1_000)))).await;
    let passed = answers.iter().flatten().filter(|d| d.allowed).count();
    assert_eq!(passed, 3);
    assert!(answers.iter().flatten().all(|d| d.degraded));
}

#[tokio::test]
async fn one_request_cannot_charge_a_budget_twice() {
    let limiter = Limiter::new(Arc::new(MemoryStore::new(10)), FailMode::Closed);
    let policy = Arc::new(Policy::new("p", "3/h", Algorithm::Gcra).unwrap());
    let charge = Charge { policy: &policy, key: "k", cost: 1 };
    assert!(limiter.check(&[charge, charge]).await.unwrap_err().detail.contains("twice"));
    assert!(limiter.check(&[]).await.is_err());
}
