//! Several stores that stand in for each other.

use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tollway_core::{
    BreakerSettings, BreakerState, Capabilities, Change, Charge, ConfigError, Decision, Policy, Reply, Request, Store,
    StoreError, StoreErrorKind,
};

use crate::Guard;
use crate::owned::OwnedRequest;

/// Which of several stores is asked first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// The one that is in use, until it fails; then the next in the list. Moves seldom, and each move
    /// starts from empty budgets.
    #[default]
    FirstHealthy,
    /// Always the first in the list that is healthy: back to it as soon as it is.
    Priority,
    /// Each key has its own first store, chosen by its hash, so load spreads and no limit multiplies.
    RoundRobin,
}

impl FromStr for Strategy {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        match text {
            "first_healthy" => Ok(Self::FirstHealthy),
            "priority" => Ok(Self::Priority),
            "round_robin" => Ok(Self::RoundRobin),
            _ => Err(ConfigError::new(format!(
                "strategy {text:?} is not known: use first_healthy, priority or round_robin"
            ))),
        }
    }
}

/// A store made of several, each behind its own breaker.
///
/// A request goes to one store; when that one fails it goes to the next, at most once to each. What
/// is admitted while stores fail and come back is at most the limit for each store that was used:
/// `stores × limit`. While all are healthy it is the limit.
#[derive(Debug)]
pub struct Failover {
    name: String,
    members: Arc<[Arc<Guard>]>,
    strategy: Strategy,
    current: Arc<AtomicUsize>,
}

/// The same for every process, so that all of them send a key to the same store.
#[derive(Clone, Copy, Default)]
struct Fixed;

impl BuildHasher for Fixed {
    type Hasher = Fnv;

    fn build_hasher(&self) -> Fnv {
        Fnv(0xCBF2_9CE4_8422_2325)
    }
}

struct Fnv(u64);

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        // The low bits of this hash are weak; fold the high ones in.
        let mixed = (self.0 ^ self.0 >> 32).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        mixed ^ mixed >> 29
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
        }
    }
}

impl Failover {
    /// Stands `stores` in for each other.
    ///
    /// # Errors
    /// When there are none.
    pub fn new(stores: Vec<Arc<dyn Store>>, strategy: Strategy, breaker: BreakerSettings) -> Result<Self, ConfigError> {
        if stores.is_empty() {
            return Err(ConfigError::new("a failover backend needs at least one backend"));
        }
        let names: Vec<_> = stores.iter().map(|store| store.name().to_owned()).collect();
        let members = stores.into_iter().map(|store| Arc::new(Guard::new(store, breaker))).collect();
        Ok(Self { name: names.join(" | "), members, strategy, current: Arc::default() })
    }

    /// The stores behind their breakers, in the order given: [`Guard::watch`] them.
    pub fn guards(&self) -> &[Arc<Guard>] {
        &self.members
    }

    /// The stores in the order in which a request tries them.
    fn order(&self, request: Option<&Request<'_>>) -> Vec<usize> {
        let count = self.members.len();
        match self.strategy {
            Strategy::Priority => (0..count).collect(),
            Strategy::FirstHealthy => {
                let current = self.current.load(Ordering::Relaxed);
                (0..count).map(|step| (current + step) % count).collect()
            }
            Strategy::RoundRobin => {
                let key = request.and_then(|request| request.charges.first()).map_or("", |charge| charge.key);
                let mut order: Vec<_> = (0..count).collect();
                // Highest random weight: a store that drops out moves only its own keys.
                order.sort_by_key(|member| std::cmp::Reverse(weight(key, *member)));
                order
            }
        }
    }

    fn groups(&self, requests: &[Request<'_>]) -> Vec<(Vec<usize>, Vec<usize>)> {
        let mut groups: Vec<(Vec<usize>, Vec<usize>)> = Vec::new();
        for (number, request) in requests.iter().enumerate() {
            let order = self.order(Some(request));
            match groups.iter_mut().find(|(known, _)| *known == order) {
                Some((_, numbers)) => numbers.push(number),
                None => groups.push((order, vec![number])),
            }
        }
        groups
    }
}

fn weight(key: &str, member: usize) -> u64 {
    Fixed.hash_one((member, key))
}

/// Asks the members in this order until one answers.
async fn ask<T>(
    members: &[Arc<Guard>],
    order: &[usize],
    current: &AtomicUsize,
    call: impl Fn(&Guard) -> Reply<T>,
) -> Result<T, StoreError> {
    let mut last = None;
    for member in order {
        match call(&members[*member]).await {
            // A store with a full queue is alive, and its keys are counted there.
            Err(error) if error.is_transient() && error.kind != StoreErrorKind::Overloaded => last = Some(error),
            answer => {
                current.store(*member, Ordering::Relaxed);
                return answer;
            }
        }
    }
    Err(last.expect("there is at least one store"))
}

impl fmt::Display for Failover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Store for Failover {
    fn name(&self) -> &str {
        &self.name
    }

    /// What all members promise.
    fn capabilities(&self) -> Capabilities {
        let all = |promise: fn(&Capabilities) -> bool| self.members.iter().all(|m| promise(&m.capabilities()));
        Capabilities {
            multi_key_atomic: all(|c| c.multi_key_atomic),
            server_clock: all(|c| c.server_clock),
            native_expiry: all(|c| c.native_expiry),
            batch: all(|c| c.batch),
            approximate: !all(|c| !c.approximate),
        }
    }

    fn apply(&self, requests: &[Request<'_>]) -> Reply<Vec<Decision>> {
        let groups = self.groups(requests);
        let owned: Vec<_> = requests.iter().map(OwnedRequest::new).collect();
        let (members, current) = (Arc::clone(&self.members), Arc::clone(&self.current));
        Box::pin(async move {
            let mut answers = vec![None; owned.len()];
            for (order, numbers) in groups {
                let group: Vec<_> = numbers.iter().map(|number| owned[*number].clone()).collect();
                let apply = |guard: &Guard| OwnedRequest::with_all(&group, |requests| guard.apply(requests));
                let decisions = ask(&members, &order, &current, apply).await?;
                for (number, decision) in numbers.into_iter().zip(decisions) {
                    answers[number] = Some(decision);
                }
            }
            Ok(answers.into_iter().flatten().collect())
        })
    }

    fn apply_now(&self, request: &Request<'_>) -> Option<Result<Decision, StoreError>> {
        let order = self.order(Some(request));
        let healthy = order.iter().find(|member| !matches!(self.members[**member].state(), BreakerState::Open(_)));
        self.members[*healthy.unwrap_or(&order[0])].apply_now(request)
    }

    /// Where the key is counted now.
    fn adjust(&self, policy: &Arc<Policy>, key: &str, change: Change) -> Reply<Decision> {
        let charges = [Charge { policy, key, cost: 0 }];
        let mut order = self.order(Some(&Request { charges: &charges, peek: true }));
        if change.delta() < 0 {
            // Another store would give back what others have spent there: rather nothing than that.
            let open = |member: &usize| matches!(self.members[*member].state(), BreakerState::Open(_));
            let first = order.iter().copied().find(|member| !open(member)).unwrap_or(order[0]);
            order = vec![first];
        }
        let (members, current) = (Arc::clone(&self.members), Arc::clone(&self.current));
        let (policy, key) = (Arc::clone(policy), key.to_owned());
        Box::pin(async move { ask(&members, &order, &current, |guard| guard.adjust(&policy, &key, change)).await })
    }

    /// Resets the key in every store that can be reached, wherever it was counted.
    fn reset(&self, policy: &Arc<Policy>, key: &str) -> Reply<()> {
        let replies: Vec<_> = self.members.iter().map(|member| member.reset(policy, key)).collect();
        all_reached(replies)
    }

    fn reset_prefix(&self, policy: &Arc<Policy>, prefix: &str) -> Reply<()> {
        all_reached(self.members.iter().map(|member| member.reset_prefix(policy, prefix)).collect())
    }

    fn keeps(&self, policy: &Policy) -> Result<(), ConfigError> {
        self.members.iter().try_for_each(|member| member.keeps(policy))
    }

    /// Succeeds when one store answers.
    fn ping(&self) -> Reply<()> {
        all_reached(self.members.iter().map(|member| member.ping()).collect())
    }

    fn members(&self) -> Vec<Arc<dyn Store>> {
        self.members.iter().map(|member| Arc::clone(member) as Arc<dyn Store>).collect()
    }
}

fn all_reached(replies: Vec<Reply<()>>) -> Reply<()> {
    Box::pin(async move {
        let (mut reached, mut last) = (false, Ok(()));
        for reply in replies {
            match reply.await {
                Ok(()) => reached = true,
                Err(error) => last = Err(error),
            }
        }
        if reached { Ok(()) } else { last }
    })
}
