//! Random operation sequences, and the pure function with a map for a store to compare with.

use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;
use tollway_core::{
    Algorithm, Align, Change, Charge, Clock, Decision, ManualClock, Part, Policy, Request, State, Store, StoreError,
    Timestamp, adjust_one, decide,
};

#[derive(Clone, Debug)]
pub enum Step {
    Ask { first: usize, second: Option<usize>, keys: [u8; 2], costs: [u32; 2], peek: bool },
    Reset { policy: usize, key: u8 },
    Adjust { policy: usize, key: u8, delta: i64 },
    Move { ns: i64 },
}

pub fn any_step() -> impl Strategy<Value = Step> {
    let ask = (0..9_usize, prop::option::weighted(0.3, 1..9_usize), [0..6_u8, 0..6], [0..5_u32, 0..3], any::<bool>())
        .prop_map(|(first, second, keys, costs, peek)| Step::Ask {
            first,
            second: second.map(|gap| (first + gap) % 9).filter(|second| *second != first),
            keys,
            costs,
            peek: peek && costs[0] == 1,
        });
    let jump = prop_oneof![0..40_000_000_i64, 0..3_000_000_000_i64, -50_000_000..0_i64, -9_000_000_000..0_i64];
    prop_oneof![
        8 => ask,
        1 => (0..9_usize, 0..6_u8).prop_map(|(policy, key)| Step::Reset { policy, key }),
        2 => (0..9_usize, 0..6_u8, -20..20_i64).prop_map(|(policy, key, delta)| Step::Adjust { policy, key, delta }),
        3 => jump.prop_map(|ns| Step::Move { ns }),
    ]
}

/// The first so many of [`nine_policies`] have a table; the others are kept in the map.
const TABLES: usize = 7;

pub fn nine_policies() -> Vec<Arc<Policy>> {
    [
        ("7/s burst 2", Algorithm::Gcra),
        ("3/s smooth", Algorithm::TokenBucket),
        ("77/7s", Algorithm::Gcra),
        ("5/s", Algorithm::FixedWindow(Align::Clock)),
        ("5/s", Algorithm::FixedWindow(Align::First)),
        ("7/2s", Algorithm::SlidingWindow),
        ("5/100ms", Algorithm::SlidingWindow),
        ("1000003/s", Algorithm::Gcra),
        ("4/s; 9/5s", Algorithm::Gcra),
    ]
    .into_iter()
    .enumerate()
    .map(|(index, (rate, algorithm))| policy(&format!("p{index}"), rate, algorithm))
    .collect()
}

fn time_of(states: &[State]) -> Vec<u64> {
    let time = |state: &State| match *state {
        State::Schedule { full_at, .. } => full_at,
        State::Window { start, .. } | State::Sliding { start, .. } => start,
        State::Log(_) | State::Custom(_) => unreachable!("no such policy here"),
    };
    states.iter().map(time).collect()
}

#[derive(Default)]
pub struct Model(HashMap<(usize, u8), Vec<State>>);

impl Model {
    pub fn answer(
        &mut self,
        policies: &[Arc<Policy>],
        asked: &[(usize, u8, u32)],
        peek: bool,
        now: Timestamp,
    ) -> Decision {
        let mut parts = Vec::new();
        for (charge, (policy, key, cost)) in asked.iter().enumerate() {
            let known = self.0.get(&(*policy, *key));
            for (index, limit) in policies[*policy].limits().iter().enumerate() {
                let state = known.map(|states| states[index].clone());
                parts.push(Part { limit, state, cost: *cost, charge: charge as u16, index: index as u16 });
            }
        }
        let (decision, next) = decide(&mut parts, now);
        if !peek {
            let mut next = next.into_iter();
            for (policy, key, _) in asked {
                let states: Vec<_> = next.by_ref().take(policies[*policy].limits().len()).collect();
                let known = self.0.contains_key(&(*policy, *key));
                if !known && is_not_remembered(*policy, &states, now) {
                    continue;
                }
                // What a refusal of one charge takes back from the future is kept, as a store does.
                let earlier = known && time_of(&states) < time_of(&self.0[&(*policy, *key)]);
                if decision.allowed || (asked.len() == 1 && earlier) {
                    self.0.insert((*policy, *key), states);
                }
            }
        }
        decision
    }

    pub fn adjust(&mut self, policies: &[Arc<Policy>], policy: usize, key: u8, delta: i64, now: Timestamp) -> Decision {
        let known = self.0.get(&(policy, key));
        let limits = policies[policy].limits().iter().enumerate();
        let states: Vec<_> = limits
            .map(|(index, limit)| {
                adjust_one(limit, known.map(|states| states[index].clone()), now, Change::by(delta)).1
            })
            .collect();
        let whole = known.is_none_or(|states| is_not_remembered(policy, states, now));
        if !whole || !is_not_remembered(policy, &states, now) {
            self.0.insert((policy, key), states.clone());
        }
        let part = |(index, limit): (usize, _)| Part {
            limit,
            state: Some(states[index].clone()),
            cost: 0,
            charge: 0,
            index: index as u16,
        };
        decide(&mut policies[policy].limits().iter().enumerate().map(part).collect::<Vec<_>>(), now).0
    }
}

/// A newcomer that has spent nothing is not remembered by a table.
fn is_not_remembered(policy: usize, states: &[State], now: Timestamp) -> bool {
    policy < TABLES && matches!(states, [State::Schedule { full_at, .. }] if *full_at <= now.nanos())
}

fn policy(name: &str, rate: &str, algorithm: Algorithm) -> Arc<Policy> {
    Arc::new(Policy::new(name, rate, algorithm).unwrap())
}

/// Replies of stores in memory are ready when they are made.
pub fn ready<T>(mut reply: tollway_core::Reply<T>) -> Result<T, StoreError> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match reply.as_mut().poll(&mut context) {
        std::task::Poll::Ready(answer) => answer,
        std::task::Poll::Pending => panic!("memory never waits"),
    }
}

/// Compares what `stores`, which share their state and take turns, answer with the pure function.
/// Steps at a policy that is not among `policies` are left out.
pub fn agree(
    stores: &[&dyn Store],
    clock: &ManualClock,
    policies: &[Arc<Policy>],
    steps: &[Step],
    has_resets: bool,
) -> Result<(), TestCaseError> {
    let mut model = Model::default();
    let mut latest = clock.now();
    for (number, step) in steps.iter().enumerate() {
        let store = stores[number % stores.len()];
        match step {
            Step::Move { ns } => {
                let moved = Timestamp::from_nanos(clock.now().nanos().saturating_add_signed(*ns));
                // A reset is known to have been made for a while only, should the clock go back: three
                // times the lifetime, which is 600 ms for the shortest of these limits.
                if !(has_resets && latest.since(moved) > 500_000_000) {
                    clock.set(moved);
                    latest = latest.max(moved);
                }
            }
            Step::Reset { .. } if !has_resets => {}
            Step::Reset { policy, .. } | Step::Adjust { policy, .. } if *policy >= policies.len() => {}
            Step::Reset { policy, key } => {
                ready(store.reset(&policies[*policy], &key.to_string())).unwrap();
                model.0.remove(&(*policy, *key));
            }
            Step::Adjust { policy, key, delta } => {
                let got = ready(store.adjust(&policies[*policy], &key.to_string(), Change::by(*delta))).unwrap();
                let expected = model.adjust(policies, *policy, *key, *delta, clock.now());
                prop_assert_eq!(got, expected, "step {} {:?}", number, step);
            }
            Step::Ask { first, second, .. } if (*first).max(second.unwrap_or(0)) >= policies.len() => {}
            Step::Ask { first, second, keys, costs, peek } => {
                let mut asked = vec![(*first, keys[0], costs[0])];
                asked.extend(second.map(|second| (second, keys[1], costs[1])));
                let names: Vec<_> = asked.iter().map(|(_, key, _)| key.to_string()).collect();
                let charges: Vec<_> = (asked.iter().zip(&names))
                    .map(|((policy, _, cost), key)| Charge { policy: &policies[*policy], key, cost: *cost })
                    .collect();
                let got = store.apply_now(&Request { charges: &charges, peek: *peek }).unwrap().unwrap();
                let expected = model.answer(policies, &asked, *peek, clock.now());
                prop_assert_eq!(got, expected, "step {} {:?}", number, step);
            }
        }
    }
    Ok(())
}
