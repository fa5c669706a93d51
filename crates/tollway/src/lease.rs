//! Leases: some permits of a hot key, taken in one charge and handed out without a round trip.

use std::collections::HashMap;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tollway_core::{
    Algorithm, Capabilities, Change, Charge, Clock, ConfigError, Decision, Leak, Limit, Policy, Reason, Reply, Request,
    Store, StoreError, Timestamp,
};

use crate::deadline::before;
use crate::owned::OwnedRequest;
use crate::watch::Watch;

/// The most keys looked at; further ones are asked for as if there were no leases.
const ROOM: usize = 65_536;

/// How many permits a process may hold of one key, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseSettings {
    /// The most permits held of one key.
    pub permits: u32,
    /// How long after it was charged a permit may be handed out, and how soon a key must be asked for
    /// again to be hot.
    pub hold: Duration,
}

impl LeaseSettings {
    /// The settings, if they can work.
    ///
    /// # Errors
    /// Names the setting that cannot.
    pub fn checked(self) -> Result<Self, ConfigError> {
        if self.permits < 2 {
            return Err(ConfigError::new(format!("a lease has at least 2 permits, not {}", self.permits)));
        }
        if !(Duration::from_millis(1)..=Duration::from_secs(3_600)).contains(&self.hold) {
            return Err(ConfigError::new(format!("a lease is held for 1 ms to 1 h, not {:?}", self.hold)));
        }
        Ok(self)
    }
}

/// A store that takes permits of hot keys in advance, in the same round trip as the request that
/// needs the first, and hands them out itself.
///
/// A permit is charged in the store before it is handed out, so no more is ever admitted than was
/// charged. It may be handed out up to `hold` later. So in any span of time at most this is admitted
/// of a key by N processes: what its limits admit in that span, and what was held at its beginning,
/// at most N × `permits`. As many may at any time be held here unused while others are refused.
///
/// Who is refused is refused by the store, at the plain cost. Permits are taken only of a key that was
/// asked for within `hold` before, at most half of what is left of it, so near a limit there are no
/// leases. They serve requests of one charge; `peek`, batches, several charges and a cost above half a
/// lease go to the store, and so do algorithms that remember each request, and buckets whose requests
/// pay several tokens or are served in part. What is not handed out in
/// time is given back within a quarter of `hold`; when that fails, or the process ends, it stays
/// charged. A reset forgets the leases here; those of other processes last until their time is over.
///
/// Nothing is leased unless somebody runs [`Leases::watch`].
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
/// use tollway::{LeaseSettings, Leases, Store};
/// use tollway_stores::memory::MemoryStore;
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let settings = LeaseSettings { permits: 10, hold: Duration::from_secs(1) };
/// let leases = Leases::new(Arc::new(MemoryStore::new(1_000)), settings);
/// tokio::spawn(leases.watch());
/// let store: Arc<dyn Store> = Arc::new(leases);
/// # });
/// ```
#[derive(Debug)]
pub struct Leases {
    inner: Arc<dyn Store>,
    table: Arc<Table>,
}

#[derive(Debug)]
struct Table {
    settings: LeaseSettings,
    clock: Arc<dyn Clock>,
    hasher: RandomState,
    leases: Mutex<HashMap<u64, Lease>>,
    /// Gives back what is not handed out; is rung when there is something to watch over.
    watch: Arc<Watch>,
}

/// What is known of a key that was asked for lately.
#[derive(Debug)]
struct Lease {
    /// Kept so that no other policy comes to have the address that was hashed.
    policy: Arc<Policy>,
    key: Box<str>,
    /// Permits that are charged and not handed out.
    left: u32,
    until: Timestamp,
    /// The store's last answer, and when it was asked for.
    answer: Option<(Decision, Timestamp)>,
    /// Somebody asks for more already.
    is_asking: bool,
    /// Counts resets: what was asked for before one is not kept after it.
    resets: u32,
}

/// Permits to give back.
type Unspent = (Arc<Policy>, Box<str>, u32);

/// Time that passes.
#[derive(Debug)]
struct Passing(Instant);

impl Clock for Passing {
    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.0.elapsed().as_nanos() as u64)
    }
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Lease>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sign(&self, policy: &Arc<Policy>, key: &str) -> u64 {
        self.hasher.hash_one((Arc::as_ptr(policy) as usize, key))
    }

    fn hold(&self) -> u64 {
        self.settings.hold.as_nanos() as u64
    }

    /// The charge of a request that a lease may serve.
    fn leasable<'a>(&self, request: &Request<'a>) -> Option<Charge<'a>> {
        let [charge] = request.charges else { return None };
        let counts = matches!(
            charge.policy.algorithm(),
            Algorithm::Gcra
                | Algorithm::TokenBucket
                | Algorithm::LeakyBucket(Leak::Meter)
                | Algorithm::FixedWindow(_)
                | Algorithm::SlidingWindow
        );
        let is_plain = |limit: &Limit| limit.bucket().per_request == 1 && !limit.bucket().partial;
        // So that who is given more is also given what it came for.
        let fits = charge.cost > 0 && charge.cost <= self.settings.permits / 2;
        (counts && fits && charge.policy.limits().iter().all(is_plain) && !request.peek && self.watch.is_running())
            .then_some(*charge)
    }

    /// Hands permits out, if enough are held.
    fn hand_out(&self, charge: &Charge<'_>) -> Option<Decision> {
        let signature = self.sign(charge.policy, charge.key);
        let mut leases = self.lock();
        let lease = leases.get_mut(&signature)?;
        if lease.left < charge.cost {
            return None;
        }
        let now = self.clock.now();
        let (answer, since) = lease.answer?;
        if now >= lease.until {
            return None;
        }
        lease.left -= charge.cost;
        let passed = now.since(since);
        Some(Decision {
            remaining: answer.remaining.saturating_add(lease.left),
            cost: charge.cost,
            reset_after: answer.reset_after.saturating_sub(passed).max(1),
            at: answer.at.plus(passed),
            reason: Reason::Allowed,
            ..answer
        })
    }

    /// How many permits to take beside those that `charge` needs, 0 for none, and after how many
    /// resets. When there are some, nobody else asks for more of this key until [`Table::learn`].
    fn want(&self, charge: &Charge<'_>, now: Timestamp) -> (u32, u32) {
        let signature = self.sign(charge.policy, charge.key);
        let mut leases = self.lock();
        let count = leases.len();
        let Some(lease) = leases.get_mut(&signature) else {
            if count < ROOM {
                let (policy, key) = (Arc::clone(charge.policy), charge.key.into());
                let until = now.plus(self.hold());
                leases.insert(
                    signature,
                    Lease { policy, key, left: 0, until, answer: None, is_asking: false, resets: 0 },
                );
            }
            if count == 0 {
                self.watch.ring();
            }
            return (0, 0);
        };
        let is_hot = lease.left == 0 && !lease.is_asking && now < lease.until;
        let Some((answer, _)) = lease.answer.filter(|_| is_hot) else { return (0, lease.resets) };
        let more = (self.settings.permits - charge.cost).min(answer.remaining / 2);
        lease.is_asking = more >= charge.cost;
        (if lease.is_asking { more } else { 0 }, lease.resets)
    }

    /// Keeps the store's last answer to a question, and the permits taken with it.
    fn learn(&self, question: &Question, charge: &Charge<'_>, answer: Option<&Decision>) {
        let mut leases = self.lock();
        let Some(lease) = leases.get_mut(&self.sign(charge.policy, charge.key)) else { return };
        lease.is_asking &= question.more == 0;
        let is_current = lease.left == 0 && lease.resets == question.resets;
        let Some(answer) = answer.filter(|answer| is_current && !answer.degraded) else { return };
        lease.answer = Some((*answer, question.asked));
        lease.until = question.asked.plus(self.hold());
        if answer.allowed {
            lease.left = question.more;
        }
    }

    /// Forgets keys whose time is over; what was not handed out of them, or of all.
    fn take(&self, all: bool) -> Vec<Unspent> {
        let now = self.clock.now();
        let mut unspent = Vec::new();
        self.lock().retain(|_, lease| {
            let is_kept = !all && now < lease.until;
            if !is_kept && lease.left > 0 {
                unspent.push((Arc::clone(&lease.policy), lease.key.clone(), lease.left));
                lease.left = 0;
            }
            is_kept || lease.is_asking
        });
        unspent
    }

    /// Forgets what is held of a policy's keys that were reset, whichever object names the policy.
    fn forget(&self, policy: &Policy, is_reset: impl Fn(&str) -> bool) {
        for lease in self.lock().values_mut() {
            if lease.policy.name() == policy.name() && is_reset(&lease.key) {
                lease.resets += 1;
                lease.left = 0;
                lease.answer = None;
            }
        }
    }
}

/// Gives permits back, all at once. What cannot be given back stays charged.
async fn give_back(store: &dyn Store, unspent: Vec<Unspent>) -> Result<(), StoreError> {
    let refund = |(policy, key, left): &Unspent| store.adjust(policy, key, Change::Refund(*left));
    let replies: Vec<_> = unspent.iter().map(refund).collect();
    let mut last = Ok(());
    for reply in replies {
        last = reply.await.map(drop).and(last);
    }
    last
}

impl Leases {
    /// Takes permits of `inner` in advance.
    pub fn new(inner: Arc<dyn Store>, settings: LeaseSettings) -> Self {
        Self::with_clock(inner, settings, Arc::new(Passing(Instant::now())))
    }

    /// The same on another clock: for tests.
    pub fn with_clock(inner: Arc<dyn Store>, settings: LeaseSettings, clock: Arc<dyn Clock>) -> Self {
        let table =
            Table { settings, clock, hasher: RandomState::new(), leases: Mutex::default(), watch: Arc::default() };
        Self { inner, table: Arc::new(table) }
    }

    /// Gives back what is not handed out in time: run this beside the requests, such as by
    /// `tokio::spawn`. It sleeps while no key is hot. When the store is dropped it gives back
    /// everything and ends.
    pub fn watch(&self) -> impl Future<Output = ()> + Send + use<> {
        let (table, store) = (Arc::clone(&self.table), Arc::clone(&self.inner));
        let watching = table.watch.begin();
        async move {
            let pause = (table.settings.hold / 4).max(Duration::from_millis(1));
            while !watching.is_over() {
                if table.lock().is_empty() {
                    watching.rung().await;
                } else {
                    before(Instant::now() + pause, watching.rung()).await;
                }
                let unspent = table.take(false);
                // A store that is away keeps them; the breaker bounds the wait.
                let _ = give_back(&*store, unspent).await;
            }
            let unspent = table.take(true);
            // The last chance: what a store that is away does not take stays charged until it expires.
            let _ = give_back(&*store, unspent).await;
        }
    }

    /// Gives back now what was not handed out in time.
    pub fn sweep(&self) -> Reply<()> {
        self.settle(false)
    }

    /// Permits held of all keys now.
    pub fn held(&self) -> u64 {
        self.table.lock().values().map(|lease| u64::from(lease.left)).sum()
    }

    /// A reset, and what it forgets here: what is held now, and what is taken while it is on its way.
    fn forgetting(
        &self,
        policy: &Arc<Policy>,
        is_reset: impl Fn(&str) -> bool + Send + 'static,
        reply: Reply<()>,
    ) -> Reply<()> {
        let (table, policy) = (Arc::clone(&self.table), Arc::clone(policy));
        table.forget(&policy, &is_reset);
        Box::pin(async move {
            let answer = reply.await;
            table.forget(&policy, &is_reset);
            answer
        })
    }

    fn settle(&self, all: bool) -> Reply<()> {
        let (store, unspent) = (Arc::clone(&self.inner), self.table.take(all));
        Box::pin(async move { give_back(&*store, unspent).await })
    }
}

impl Drop for Leases {
    fn drop(&mut self) {
        self.table.watch.end();
    }
}

/// A question on its way. Whoever gives it up lets others ask.
struct Question {
    table: Arc<Table>,
    request: OwnedRequest,
    more: u32,
    resets: u32,
    asked: Timestamp,
    is_answered: bool,
}

impl Question {
    fn learn(&mut self, answer: Option<&Decision>) {
        self.is_answered = true;
        self.request.with(|request| self.table.learn(self, &request.charges[0], answer));
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        if !self.is_answered {
            self.learn(None);
        }
    }
}

impl Store for Leases {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn apply(&self, requests: &[Request<'_>]) -> Reply<Vec<Decision>> {
        let [request] = requests else { return self.inner.apply(requests) };
        let Some(charge) = self.table.leasable(request) else { return self.inner.apply(requests) };
        let (table, asked) = (Arc::clone(&self.table), self.table.clock.now());
        let (more, resets) = table.want(&charge, asked);
        let owned = OwnedRequest::new(request);
        let mut question = Question { table, request: owned, more, resets, asked, is_answered: false };
        let further = [Charge { cost: more, ..charge }];
        let both = [*request, Request { charges: &further, peek: false }];
        // The request itself is decided first and on its own, in the same round trip.
        let reply = self.inner.apply(if more > 0 { &both } else { requests });
        Box::pin(async move {
            let mut decisions = reply.await?;
            question.learn(decisions.last());
            decisions.truncate(1);
            Ok(decisions)
        })
    }

    fn apply_now(&self, request: &Request<'_>) -> Option<Result<Decision, StoreError>> {
        let held = self.table.leasable(request).and_then(|charge| self.table.hand_out(&charge));
        held.map(Ok).or_else(|| self.inner.apply_now(request))
    }

    fn adjust(&self, policy: &Arc<Policy>, key: &str, change: Change) -> Reply<Decision> {
        self.inner.adjust(policy, key, change)
    }

    fn reset(&self, policy: &Arc<Policy>, key: &str) -> Reply<()> {
        let name = key.to_owned();
        self.forgetting(policy, move |key| key == name, self.inner.reset(policy, key))
    }

    fn reset_prefix(&self, policy: &Arc<Policy>, prefix: &str) -> Reply<()> {
        let start = prefix.to_owned();
        self.forgetting(policy, move |key| key.starts_with(&start), self.inner.reset_prefix(policy, prefix))
    }

    fn keeps(&self, policy: &Policy) -> Result<(), ConfigError> {
        self.inner.keeps(policy)
    }

    fn ping(&self) -> Reply<()> {
        self.inner.ping()
    }

    fn members(&self) -> Vec<Arc<dyn Store>> {
        vec![Arc::clone(&self.inner)]
    }

    fn give_back(&self) -> Reply<()> {
        self.settle(true)
    }
}
