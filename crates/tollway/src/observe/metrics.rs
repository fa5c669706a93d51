//! Numbers of limiters, to be read at any time.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tollway_core::{BreakerState, Calls, Decision, Request, Store};

use super::counts::{Counts, Outcome};
use super::text;
use crate::health::collect;

/// The name of what is decided without a policy: by an access list, on a route without limits.
const NO_POLICY: &str = "none";
/// Names of stores that are gone whose calls are kept apart; those of later ones are together.
const MOST_GONE: usize = 256;
/// What those are called.
const OTHER: &str = "other";

/// Counts of checks by policy and outcome, and what the stores behind the limiters know of their
/// calls: how many failed and why, how long they took, where their breakers stand.
///
/// One for any number of limiters. Counting a check costs about 15 ns and takes no lock; keys are
/// never kept. The first 256 names of policies are counted apart, later ones as `other`.
///
/// ```
/// use std::sync::Arc;
/// use tollway::{Algorithm, Charge, FailMode, Limiter, Metrics, Outcome, Policy};
/// use tollway_stores::memory::MemoryStore;
///
/// let metrics = Arc::new(Metrics::new());
/// let limiter = Limiter::new(Arc::new(MemoryStore::new(1_000)), FailMode::Closed).with_metrics(&metrics);
/// let login = Arc::new(Policy::new("login", "1/h", Algorithm::Gcra)?);
/// for _ in 0..3 {
///     limiter.check_now(&[Charge { policy: &login, key: "203.0.113.7", cost: 1 }]);
/// }
/// assert_eq!(metrics.snapshot().checks[0].of(Outcome::Refused), 2);
/// assert!(metrics.text().contains(r#"tollway_checks_total{policy="login",outcome="refused"} 2"#));
/// # Ok::<(), tollway::ConfigError>(())
/// ```
#[derive(Debug)]
pub struct Metrics {
    is_on: AtomicBool,
    counts: Counts,
    stores: Mutex<Stores>,
}

/// What the limiters ask, and what they asked before they ended: a number that was told never sinks.
#[derive(Debug, Default)]
struct Stores {
    asked: Vec<Weak<dyn Store>>,
    gone: BTreeMap<String, Calls>,
}

/// A store that a limiter asks, for as long as the limiter lives.
#[derive(Debug)]
pub(crate) struct Watched {
    metrics: Arc<Metrics>,
    store: Arc<dyn Store>,
}

impl Deref for Watched {
    type Target = Metrics;

    fn deref(&self) -> &Metrics {
        &self.metrics
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.metrics.stores().leave(&self.store);
    }
}

impl Stores {
    /// Keeps the calls of a store that nobody asks any more, if it is one that is known.
    fn leave(&mut self, store: &Arc<dyn Store>) {
        let same = |known: &Weak<dyn Store>| ptr::addr_eq(known.as_ptr(), Arc::as_ptr(store));
        let Some(place) = self.asked.iter().position(same) else { return };
        self.asked.swap_remove(place);
        if self.asked.iter().any(same) {
            return;
        }
        let mut leaves = Vec::new();
        collect(store, &mut leaves);
        for leaf in leaves {
            let Some(calls) = leaf.condition().calls else { continue };
            let is_known = self.gone.contains_key(leaf.name()) || self.gone.len() < MOST_GONE;
            let name = if is_known { leaf.name() } else { OTHER };
            self.gone.entry(name.to_owned()).or_default().add(&calls);
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self { is_on: AtomicBool::new(true), counts: Counts::default(), stores: Mutex::default() }
    }
}

impl Metrics {
    /// Counts from now on.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts no checks until [`Metrics::start`]; until then a check costs what it costs without.
    pub fn waiting() -> Self {
        Self { is_on: AtomicBool::new(false), ..Self::default() }
    }

    /// Begins to count checks, or goes on.
    pub fn start(&self) {
        self.is_on.store(true, Ordering::Relaxed);
    }

    /// Counts checks no more; what was counted stays.
    pub fn stop(&self) {
        self.is_on.store(false, Ordering::Relaxed);
    }

    /// Whether checks are counted.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// Begins at nothing again and forgets the stores: for a forked child, which has its parent's
    /// numbers and makes limiters of its own.
    pub fn clear(&self) {
        self.counts.clear();
        *self.stores() = Stores::default();
    }

    fn stores(&self) -> MutexGuard<'_, Stores> {
        self.stores.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn watch(self: &Arc<Self>, store: &Arc<dyn Store>) -> Arc<Watched> {
        self.stores().asked.push(Arc::downgrade(store));
        Arc::new(Watched { metrics: Arc::clone(self), store: Arc::clone(store) })
    }

    pub(crate) fn note(&self, request: &Request<'_>, decision: &Decision) {
        let outcome = Outcome::of(decision);
        match request.charges.get(usize::from(decision.charge)) {
            Some(charge) if outcome.is_refusal() && !request.peek => self.counts.add(charge.policy.name(), outcome),
            _ => self.note_all(request, outcome),
        }
    }

    /// The store's error was the answer.
    pub(crate) fn note_failed(&self, request: &Request<'_>) {
        if self.is_on() {
            self.note_all(request, Outcome::Failed);
        }
    }

    fn note_all(&self, request: &Request<'_>, outcome: Outcome) {
        if request.peek {
            return;
        }
        if request.charges.is_empty() {
            self.counts.add(NO_POLICY, outcome);
        }
        request.charges.iter().for_each(|charge| self.counts.add(charge.policy.name(), outcome));
    }

    /// What there is to know now. Asks no store.
    pub fn snapshot(&self) -> Snapshot {
        let checks = self.counts.read().into_iter().map(|(policy, counts)| PolicyChecks { policy, counts });
        let (roots, gone): (Vec<_>, _) = {
            let known = self.stores();
            // Limiters may share a store.
            let firsts = known.asked.iter().enumerate().filter(|(place, store)| {
                !known.asked[..*place].iter().any(|before| ptr::addr_eq(before.as_ptr(), store.as_ptr()))
            });
            (firsts.filter_map(|(_, store)| store.upgrade()).collect(), known.gone.clone())
        };
        let mut leaves = Vec::new();
        roots.iter().for_each(|store| collect(store, &mut leaves));
        let alone = |store: String, calls| StoreCalls { store, breaker: None, waiting: 0, calls };
        let mut stores: BTreeMap<String, StoreCalls> =
            gone.into_iter().map(|(name, calls)| (name.clone(), alone(name, calls))).collect();
        for leaf in leaves {
            let condition = leaf.condition();
            let Some(calls) = condition.calls else { continue };
            let name = leaf.name().to_owned();
            let store = stores.entry(name.clone()).or_insert_with(|| alone(name, Calls::default()));
            store.calls.add(&calls);
            store.waiting += condition.waiting;
            store.breaker = worst(store.breaker, condition.breaker);
        }
        Snapshot { checks: checks.collect(), stores: stores.into_values().collect() }
    }

    /// The same in the text format that Prometheus reads, version 0.0.4: its content type is
    /// `text/plain; version=0.0.4; charset=utf-8`.
    pub fn text(&self) -> String {
        text::write(&self.snapshot())
    }
}

/// How far a breaker is from closed: 0 closed, 1 half open, 2 open.
pub(super) fn rank(state: BreakerState) -> u8 {
    match state {
        BreakerState::Closed => 0,
        BreakerState::HalfOpen => 1,
        BreakerState::Open(_) => 2,
    }
}

fn worst(one: Option<BreakerState>, other: Option<BreakerState>) -> Option<BreakerState> {
    [one, other].into_iter().flatten().max_by_key(|state| rank(*state))
}

/// What [`Metrics`] know at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// By policy, in the order of their names.
    pub checks: Vec<PolicyChecks>,
    /// By store, in the order of their names: those behind a [`Guard`](crate::Guard). Stores of the
    /// same name are one, and what limiters asked that have ended stays counted.
    pub stores: Vec<StoreCalls>,
}

/// How many checks of a policy came out how.
///
/// An outcome counts for each policy of a request, but a refusal for the one that refused: the
/// others were not charged. Peeks do not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyChecks {
    /// Its name; `none` for a request without limits that an access list decided.
    pub policy: String,
    counts: [u64; Outcome::ALL.len()],
}

impl PolicyChecks {
    /// How many came out so.
    pub fn of(&self, outcome: Outcome) -> u64 {
        self.counts[outcome as usize]
    }
}

/// What is known of a store.
#[derive(Clone, Debug)]
pub struct StoreCalls {
    /// Its redacted URL.
    pub store: String,
    /// Where its breaker stands; of several the one that is furthest from closed.
    pub breaker: Option<BreakerState>,
    /// Calls that wait for their turn.
    pub waiting: usize,
    /// How the calls went.
    pub calls: Calls,
}
