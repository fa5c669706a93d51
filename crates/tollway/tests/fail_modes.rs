//! What the limiter answers when its store does not.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use tollway::{
    Algorithm, Capabilities, Charge, Decision, FailMode, Limiter, Observer, Policy, Reason, Reply, Request, Share,
    Store, StoreError, StoreErrorKind,
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

    fn adjust(&self, _: &Arc<Policy>, _: &str, _: tollway::Change) -> Reply<Decision> {
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
    fn on_decision(&self, _: &Request<'_>, _: &Decision) {
        self.decisions.fetch_add(1, Ordering::SeqCst);
    }

    fn on_failure(&self, error: &StoreError) {
        self.failures.lock().unwrap().push(error.to_string());
    }
}

fn away(fail_mode: FailMode) -> Limiter {
    Limiter::new(Arc::new(Away), fail_mode).with_local(Arc::new(MemoryStore::new(1_000)))
}

fn policy(rates: &str) -> Arc<Policy> {
    Arc::new(Policy::new("p", rates, Algorithm::Gcra).unwrap())
}

fn with(rates: &str, fail_mode: FailMode) -> Arc<Policy> {
    Arc::new(Policy::new(fail_mode.name(), rates, Algorithm::Gcra).unwrap().with_fail_mode(fail_mode))
}

async fn passed(limiter: &Limiter, policy: &Arc<Policy>, cost: u32, times: usize) -> usize {
    let mut passed = 0;
    for _ in 0..times {
        passed += usize::from(limiter.check(&[Charge { policy, key: "k", cost }]).await.is_ok_and(|d| d.allowed));
    }
    passed
}

async fn ten_checks(fail_mode: FailMode) -> (Vec<Result<Decision, StoreError>>, Arc<Heard>) {
    let heard = Arc::new(Heard::default());
    let limiter = away(fail_mode).with_observer(heard.clone());
    let policy = policy("3/h");
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
    let (answers, _) = ten_checks(FailMode::Local).await;
    let passed = answers.iter().flatten().filter(|d| d.allowed).count();
    assert_eq!(passed, 3);
    assert!(answers.iter().flatten().all(|d| d.degraded));
}

#[tokio::test]
async fn a_policy_may_have_its_own_answer() {
    for fail_mode in [FailMode::Open, FailMode::Local, FailMode::Closed] {
        let limiter = away(fail_mode);
        assert_eq!(passed(&limiter, &with("3/h", FailMode::Open), 1, 10).await, 10, "{fail_mode:?}");
        assert_eq!(passed(&limiter, &with("3/h", FailMode::Local), 1, 10).await, 3, "{fail_mode:?}");
        assert_eq!(passed(&limiter, &with("3/h", FailMode::Closed), 1, 10).await, 0, "{fail_mode:?}");
    }
}

#[tokio::test]
async fn of_several_policies_the_strictest_answers() {
    let limiter = away(FailMode::Open);
    let (open, local, closed) = (policy("9/h"), with("3/h", FailMode::Local), with("9/h", FailMode::Closed));
    let charge = |policy| Charge { policy, key: "k", cost: 1 };
    let mut allowed = 0;
    for _ in 0..10 {
        allowed += u32::from(limiter.check(&[charge(&open), charge(&local)]).await.unwrap().allowed);
    }
    assert_eq!(allowed, 3);
    assert!(limiter.check(&[charge(&open), charge(&closed)]).await.is_err());
}

#[tokio::test]
async fn local_without_a_store_to_count_in_is_closed() {
    let limiter = Limiter::new(Arc::new(Away), FailMode::Local);
    assert!(limiter.check(&[Charge { policy: &policy("3/h"), key: "k", cost: 1 }]).await.is_err());
}

#[tokio::test]
async fn processes_with_shares_admit_the_limit_together() {
    for (rates, processes, together) in [
        ("100/h", 4, 100),
        ("100/h burst 20", 4, 120),
        ("10/h", 3, 9),       // 3.33 each, rounded down
        ("2/h", 4, 4),        // at least one each
        ("100/h; 7/m", 4, 4), // the tighter of the two
    ] {
        let mut sum = 0;
        for _ in 0..processes {
            let share = Share::new(Arc::new(MemoryStore::new(1_000)), 1.0 / f64::from(processes)).unwrap();
            let limiter = Limiter::new(Arc::new(Away), FailMode::Local).with_local(Arc::new(share));
            sum += passed(&limiter, &policy(rates), 1, 200).await;
        }
        assert_eq!(sum, together, "{rates} by {processes}");
    }
}

#[tokio::test]
async fn a_cost_above_the_share_may_come_again() {
    let share = Share::new(Arc::new(MemoryStore::new(1_000)), 0.25).unwrap();
    let limiter = Limiter::new(Arc::new(Away), FailMode::Local).with_local(Arc::new(share));
    let policy = policy("100/h");
    let ask = |cost| limiter.check(&[Charge { policy: &policy, key: "k", cost }]);
    let refused = ask(50).await.unwrap();
    assert!(!refused.allowed && refused.limit == 25 && refused.reason == Reason::StoreUnavailable);
    assert_eq!(refused.retry_after_secs(), Some(1), "the store may be back by then");
    assert_eq!(ask(101).await.unwrap().retry_after_secs(), None, "that is above the limit itself");
    assert!(ask(25).await.unwrap().allowed);
    limiter.reset(&policy, "k").await.unwrap_err();
    assert!(ask(25).await.unwrap().allowed, "a reset reaches the share too");
    for wrong in [0.0, -1.0, 1.1, f64::NAN] {
        let error = Share::new(Arc::new(MemoryStore::new(10)), wrong).unwrap_err().to_string();
        assert!(error.contains("at most 1"), "{error}");
    }
}

#[tokio::test]
async fn one_request_cannot_charge_a_budget_twice() {
    let limiter = Limiter::new(Arc::new(MemoryStore::new(10)), FailMode::Closed);
    let policy = Arc::new(Policy::new("p", "3/h", Algorithm::Gcra).unwrap());
    let charge = Charge { policy: &policy, key: "k", cost: 1 };
    assert!(limiter.check(&[charge, charge]).await.unwrap_err().detail.contains("twice"));
    assert!(limiter.check(&[]).await.is_err());
}
