//! Charging and giving back without asking, and permits that are held, as the pure function says.

use std::sync::Arc;

use tollway_core::{
    Algorithm, Change, Charge, Decision, Part, Policy, Request, State, Store, Timestamp, adjust, decide,
};
use tollway_stores::redis::RedisStore;

use super::model::Dice;
use super::servers::Redis;
use super::{open, patient, raw};

/// A key in Redis and what the pure function says of it.
struct Twin {
    store: Arc<RedisStore>,
    policy: Arc<Policy>,
    states: Option<Vec<State>>,
    /// When permits were taken or renewed, and how many.
    taken: Vec<(Timestamp, u32)>,
    refusals: u32,
}

impl Twin {
    fn new(store: &Arc<RedisStore>, policy: Policy) -> Self {
        let (store, policy) = (Arc::clone(store), Arc::new(policy));
        Self { store, policy, states: None, taken: Vec::new(), refusals: 0 }
    }

    fn parts(&self, cost: u32) -> Vec<Part<'_>> {
        let part = |(index, limit): (usize, _)| {
            let state = self.states.as_ref().map(|states| states[index].clone());
            Part { limit, state, cost, charge: 0, index: index as u16 }
        };
        self.policy.limits().iter().enumerate().map(part).collect()
    }

    async fn check(&mut self, cost: u32) -> Decision {
        let charges = [Charge { policy: &self.policy, key: "k", cost }];
        let got = self.store.apply(&[Request { charges: &charges, peek: false }]).await.unwrap()[0];
        let (expected, next) = decide(&mut self.parts(cost), got.at);
        assert_eq!(got, expected, "{}: {cost} asked of {:?}", self.policy.name(), self.states);
        if got.allowed {
            self.states = Some(next.to_vec());
            self.taken.push((got.at, cost));
        }
        self.refusals += u32::from(!got.allowed);
        got
    }

    async fn change(&mut self, change: Change) -> Decision {
        let got = self.store.adjust(&self.policy, "k", change).await.unwrap();
        let (expected, next) = adjust(&mut self.parts(0), got.at, change);
        assert_eq!(got, expected, "{}: {change:?} of {:?}", self.policy.name(), self.states);
        // Nothing is held of other limits.
        let held = matches!(change, Change::Release { .. } | Change::Renew { .. });
        let foreign = held && !self.policy.limits().iter().any(|limit| limit.algorithm().is_log());
        if got.allowed && !change.is_nothing() && !foreign {
            self.states = Some(next.to_vec());
            if let Change::Renew { cost, .. } = change {
                self.taken.push((got.at, cost));
            }
        }
        self.refusals += u32::from(!got.allowed);
        got
    }

    /// Any change; of permits that were taken, half the time all of them.
    async fn any_change(&mut self, dice: &mut Dice, most: u64) {
        let known = (!self.taken.is_empty()).then(|| dice.below(self.taken.len() as u64) as usize);
        let (since, cost) = known.map_or((Timestamp::from_secs(1), 1), |at| self.taken[at]);
        let cost = if dice.below(2) == 0 { cost } else { dice.below(4) as u32 };
        let change = match dice.below(4) {
            0 => Change::Release { since, cost },
            1 => Change::Renew { since, cost },
            2 => Change::Charge(dice.below(most) as u32),
            _ => Change::Refund(dice.below(most) as u32),
        };
        self.change(change).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_adjustments_agree_with_the_pure_function() {
    every_algorithm_agrees(&Redis::start(), 800).await;
}

/// Asks and changes at random, so many times with each algorithm.
pub(super) async fn every_algorithm_agrees(server: &Redis, steps: u32) {
    let store = open(&server.url(), patient());
    let mut dice = Dice(0x0BAD_5EED_1234_5678);
    for algorithm in Algorithm::all() {
        let rates = match algorithm {
            Algorithm::Calendar => "7/day UTC; 31/week Asia/Kathmandu; 400/month",
            // A calendar quota beside a log.
            Algorithm::SlidingLog => "7/30ms; 31/200ms; 400/year",
            _ if algorithm.is_bucket() => "7/30ms burst 2; 31/200ms; 400/w",
            _ => "7/30ms; 31/200ms; 400/w",
        };
        let name = format!("adjust-{}", algorithm.name().replace(':', "-"));
        let mut twin = Twin::new(&store, Policy::new(&name, rates, algorithm).unwrap());
        for _ in 0..steps {
            if dice.below(2) == 0 {
                twin.check(dice.below(4) as u32).await;
            } else {
                twin.any_change(&mut dice, 20).await;
            }
        }
        // How many, the machine decides: the limits are those of the server's clock.
        assert!(twin.refusals > 0, "{algorithm}: nothing was refused");
    }
}

/// So long that most of it is in chunks; permits are given back out of the middle.
#[tokio::test(flavor = "multi_thread")]
async fn long_logs_agree_with_the_pure_function() {
    let server = Redis::start();
    let store = open(&server.url(), patient());
    let mut connection = server.connection();
    let mut dice = Dice(0x00D1_CE00_1234_5678);
    for (number, (algorithm, rates)) in [
        (Algorithm::SlidingLog, "900/400ms; 2500/30s"),
        (Algorithm::Concurrency, "2000/1s"),
        (Algorithm::Concurrency, "2500/1h; 2400/700ms"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("long-{number}");
        let mut twin = Twin::new(&store, Policy::new(&name, rates, algorithm).unwrap());
        let mut most_chunks = 0;
        for step in 0..6_000 {
            // In waves: it fills up, and is emptied from everywhere.
            let filling = step / 1_500 % 2 == 0;
            match dice.below(40) {
                0 => drop(twin.check(1_000 + dice.below(1_600) as u32).await),
                1 => twin.any_change(&mut dice, 60).await,
                n if filling || n < 8 => drop(twin.check(1 + dice.below(2) as u32).await),
                _ if algorithm == Algorithm::Concurrency && !twin.taken.is_empty() => {
                    let at = dice.below(twin.taken.len() as u64) as usize;
                    let (since, cost) = twin.taken.swap_remove(at);
                    let change = Change::Release { since, cost };
                    let change = if dice.below(5) == 0 { Change::Renew { since, cost } } else { change };
                    twin.change(change).await;
                }
                _ => drop(twin.change(Change::Refund(dice.below(3) as u32)).await),
            }
            if step % 100 == 0 {
                let chunks: u32 =
                    redis::cmd("HLEN").arg(format!("tollway:{name}:{{k}}")).query(&mut connection).unwrap();
                most_chunks = most_chunks.max(chunks);
                let value = raw(&mut connection, &format!("tollway:{name}:{{k}}")).unwrap();
                assert!(value.len() < 4_000, "a value stays short: {}", value.len());
            }
        }
        assert!(most_chunks > 5 && twin.refusals > 20, "{rates}: {most_chunks} chunks, {} refusals", twin.refusals);
        // The pieces are put together for a policy that changed.
        let after = Arc::new(Policy::new(&name, &format!("{rates}; 9000/1d"), algorithm).unwrap());
        let left = twin.check(0).await.remaining;
        let charges = [Charge { policy: &after, key: "k", cost: 0 }];
        let carried = store.apply(&[Request { charges: &charges, peek: false }]).await.unwrap()[0];
        assert!(carried.remaining.abs_diff(left) < 300, "{left} were left, then {carried:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_rate_keeps_what_is_owed_in_share() {
    let server = Redis::start();
    let store = open(&server.url(), patient());
    let [before, after] = ["10/w", "20/d"].map(|rate| Arc::new(Policy::new("p", rate, Algorithm::Gcra).unwrap()));
    store.adjust(&before, "k", Change::by(4)).await.unwrap();
    assert_eq!(store.adjust(&after, "k", Change::by(2)).await.unwrap().remaining, 10);
    assert_eq!(store.adjust(&after, "k", Change::by(-100)).await.unwrap().remaining, 20);
}
