//! The flat table agrees with the pure function step for step, and never admits too much.

use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;
use tollway_core::{
    Algorithm, Align, Charge, Clock, Decision, ManualClock, Part, Policy, Request, State, Store, Timestamp, decide,
};
use tollway_stores::memory::MemoryStore;

const SECOND: u64 = 1_000_000_000;
const START: Timestamp = Timestamp::from_secs(1_700_000_000);

fn policy(name: &str, rate: &str, algorithm: Algorithm) -> Arc<Policy> {
    Arc::new(Policy::new(name, rate, algorithm).unwrap())
}

fn ask(store: &dyn Store, policy: &Arc<Policy>, key: &str, cost: u32) -> Decision {
    let charges = [Charge { policy, key, cost }];
    store.apply_now(&Request { charges: &charges, peek: false }).expect("memory answers at once").unwrap()
}

fn reset(store: &MemoryStore, policy: &Arc<Policy>, key: &str) {
    futures_executor(store.reset(policy, key)).unwrap();
}

/// Memory's replies are ready when they are made.
fn futures_executor<T>(mut reply: tollway_core::Reply<T>) -> Result<T, tollway_core::StoreError> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match reply.as_mut().poll(&mut context) {
        std::task::Poll::Ready(answer) => answer,
        std::task::Poll::Pending => panic!("memory never waits"),
    }
}

#[derive(Clone, Debug)]
enum Step {
    Ask { first: usize, second: Option<usize>, keys: [u8; 2], costs: [u32; 2], peek: bool },
    Reset { policy: usize, key: u8 },
    Move { ns: i64 },
}

fn any_step() -> impl Strategy<Value = Step> {
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
        3 => jump.prop_map(|ns| Step::Move { ns }),
    ]
}

/// The first so many of [`nine_policies`] have a table; the others are kept in the map.
const TABLES: usize = 7;

fn nine_policies() -> Vec<Arc<Policy>> {
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

#[derive(Default)]
struct Model(HashMap<(usize, u8), Vec<State>>);

impl Model {
    fn answer(&mut self, policies: &[Arc<Policy>], asked: &[(usize, u8, u32)], peek: bool, now: Timestamp) -> Decision {
        let mut parts = Vec::new();
        for (charge, (policy, key, cost)) in asked.iter().enumerate() {
            let known = self.0.get(&(*policy, *key));
            for (index, limit) in policies[*policy].limits().iter().enumerate() {
                let state = known.map(|states| states[index]);
                parts.push(Part { limit, state, cost: *cost, charge: charge as u16, index: index as u16 });
            }
        }
        let (decision, next) = decide(&parts, now);
        if !peek {
            let mut next = next.into_iter();
            for (policy, key, _) in asked {
                let states: Vec<_> = next.by_ref().take(policies[*policy].limits().len()).collect();
                // A key that has spent nothing is not remembered by a table.
                let nothing = matches!(states[..], [State::Schedule { full_at, .. }] if full_at <= now.nanos());
                let known = self.0.contains_key(&(*policy, *key));
                if nothing && !known && *policy < TABLES {
                    continue;
                }
                // What a refusal of one charge takes back from the future is kept, as a store does.
                if decision.allowed || (asked.len() == 1 && known) {
                    self.0.insert((*policy, *key), states);
                }
            }
        }
        decision
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_sequence_agrees_with_the_pure_function(steps in prop::collection::vec(any_step(), 1..120), has_resets in any::<bool>()) {
        let clock = Arc::new(ManualClock::new(START));
        let store = MemoryStore::with_clock(10_000, clock.clone());
        let policies = nine_policies();
        let mut model = Model::default();
        for (number, step) in steps.iter().enumerate() {
            match step {
                // A reset is known to have been made for a while only, should the clock go back.
                Step::Move { ns } if *ns < -900_000_000 && has_resets => {}
                Step::Move { ns } => clock.set(Timestamp::from_nanos(clock.now().nanos().saturating_add_signed(*ns))),
                Step::Reset { .. } if !has_resets => {}
                Step::Reset { policy, key } => {
                    reset(&store, &policies[*policy], &key.to_string());
                    model.0.remove(&(*policy, *key));
                }
                Step::Ask { first, second, keys, costs, peek } => {
                    let mut asked = vec![(*first, keys[0], costs[0])];
                    asked.extend(second.map(|second| (second, keys[1], costs[1])));
                    let names: Vec<_> = asked.iter().map(|(_, key, _)| key.to_string()).collect();
                    let charges: Vec<_> = (asked.iter().zip(&names))
                        .map(|((policy, _, cost), key)| Charge { policy: &policies[*policy], key, cost: *cost })
                        .collect();
                    let got = store.apply_now(&Request { charges: &charges, peek: *peek }).unwrap().unwrap();
                    let expected = model.answer(&policies, &asked, *peek, clock.now());
                    prop_assert_eq!(got, expected, "step {} {:?}", number, step);
                }
            }
        }
    }
}
