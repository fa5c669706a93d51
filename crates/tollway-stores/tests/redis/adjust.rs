//! Charging and giving back without asking, as the pure function says.

use std::sync::Arc;

use tollway_core::{Algorithm, Change, Charge, Part, Policy, Request, State, Store, adjust_one, decide};

use super::model::Dice;
use super::servers::Redis;
use super::{open, patient};

#[tokio::test(flavor = "multi_thread")]
async fn random_adjustments_agree_with_the_pure_function() {
    let server = Redis::start();
    let store = open(&server.url(), patient());
    let mut dice = Dice(0x0BAD_5EED_1234_5678);
    for algorithm in Algorithm::all().into_iter().filter(|algorithm| !algorithm.is_log()) {
        let rates = match algorithm {
            Algorithm::Calendar => "7/day UTC; 31/week Asia/Kathmandu; 400/month",
            _ if algorithm.is_bucket() => "7/30ms burst 2; 31/200ms; 400/w",
            _ => "7/30ms; 31/200ms; 400/w",
        };
        let name = format!("adjust-{}", algorithm.name().replace(':', "-"));
        let policy = Arc::new(Policy::new(&name, rates, algorithm).unwrap());
        let mut states: Option<Vec<State>> = None;
        for step in 0..800 {
            let asks = dice.below(2) == 0;
            let delta = dice.below(40) as i64 - 20;
            let cost = if asks { dice.below(4) as u32 } else { 0 };
            let charges = [Charge { policy: &policy, key: "k", cost }];
            let got = if asks {
                store.apply(&[Request { charges: &charges, peek: false }]).await.unwrap()[0]
            } else {
                store.adjust(&policy, "k", Change::by(delta)).await.unwrap()
            };
            let adjusted = |(index, limit): (usize, _)| {
                let state = states.as_ref().map(|states| states[index].clone());
                if asks || delta == 0 { state } else { Some(adjust_one(limit, state, got.at, Change::by(delta)).1) }
            };
            let before: Vec<_> = policy.limits().iter().enumerate().map(adjusted).collect();
            let parts = policy.limits().iter().zip(&before).enumerate();
            let mut parts: Vec<_> = parts
                .map(|(index, (limit, state))| Part {
                    limit,
                    state: state.clone(),
                    cost,
                    charge: 0,
                    index: index as u16,
                })
                .collect();
            let (expected, next) = decide(&mut parts, got.at);
            assert_eq!(got, expected, "{algorithm} step {step}: {delta} or {cost}");
            if asks && got.allowed {
                states = Some(next.to_vec());
            } else if !asks && delta != 0 {
                states = before.into_iter().collect();
            }
        }
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
