//! The suite every store must pass, public so that others can prove theirs.
//!
//! A store passes when, on random operation sequences, it answers what the pure function answers,
//! step for step; when concurrent callers never get more than the limit; and when refusals, peeks
//! and resets do what they say. It needs nothing but the store, and leaves its keys behind, so give
//! it a namespace of its own.
//!
//! ```
//! use std::sync::Arc;
//! use tollway_core::{Store, conformance};
//!
//! async fn my_store_conforms(store: Arc<dyn Store>) {
//!     conformance::run(store, "run-1").await;
//! }
//! ```
//!
//! Concurrency is up to the caller, who knows how to start threads or tasks: see [`hammer`].

use std::collections::HashMap;
use std::sync::Arc;

use crate::{
    Algorithm, Change, Charge, Decision, Part, Policy, Reason, Request, State, States, Store, StoreErrorKind,
    Timestamp, decide,
};

/// Runs every check of the suite but the concurrent one. `seed` makes keys and sequences unique.
///
/// # Panics
/// On the first broken promise, naming the store, the check and the step.
pub async fn run(store: Arc<dyn Store>, seed: &str) {
    for algorithm in Algorithm::all() {
        if !keeps(&*store, algorithm) {
            continue;
        }
        spends_to_zero_and_refuses(&*store, algorithm, seed).await;
        refusals_change_nothing(&*store, algorithm, seed).await;
        peek_spends_nothing(&*store, algorithm, seed).await;
        costs_are_whole(&*store, algorithm, seed).await;
        reset_forgets_one_key(&*store, algorithm, seed).await;
        several_rates_are_all_or_nothing(&*store, algorithm, seed).await;
        several_keys_are_all_or_nothing(&*store, algorithm, seed).await;
        keys_do_not_meet(&*store, algorithm, seed).await;
        agrees_with_the_pure_function(&*store, algorithm, seed).await;
        a_changed_rate_keeps_the_share(&*store, algorithm, seed).await;
        what_is_settled_later_counts(&*store, algorithm, seed).await;
        reset_forgets_all_that_begin_alike(&*store, algorithm, seed).await;
    }
    held_permits_come_back(&*store, seed).await;
    a_bucket_of_ones_own_kind(&*store, seed).await;
    a_batch_answers_in_order(&*store, seed).await;
    extremes(&*store, seed).await;
    store.ping().await.unwrap_or_else(|error| panic!("ping: {error}"));
}

/// Calls the store `times` times for one key and says how many passed and between which instants.
///
/// Start it from many threads or processes at once with the same policy and key; the sum must not
/// exceed [`bound`] over the whole span.
pub async fn hammer(store: &dyn Store, policy: &Arc<Policy>, key: &str, times: usize) -> (u64, Timestamp, Timestamp) {
    let (mut passed, mut first, mut last) = (0, Timestamp::from_nanos(u64::MAX), Timestamp::default());
    for _ in 0..times {
        let decision = check(store, policy, key, 1).await;
        passed += u64::from(decision.allowed);
        first = first.min(decision.at);
        last = last.max(decision.at);
    }
    (passed, first, last)
}

/// The most that may pass of `policy`'s first limit between two instants.
pub fn bound(policy: &Policy, first: Timestamp, last: Timestamp) -> u64 {
    let limit = &policy.limits()[0];
    let (permits, period) = (u64::from(limit.permits()), limit.period());
    let span = last.since(first);
    match limit.algorithm() {
        Algorithm::Gcra | Algorithm::TokenBucket | Algorithm::LeakyBucket(_) => {
            u64::from(limit.capacity()) + (u128::from(span) * u128::from(permits) / u128::from(period)) as u64 + 1
        }
        Algorithm::Calendar => {
            let same = limit.calendar_window(first.nanos()) == limit.calendar_window(last.nanos());
            permits * if same { 1 } else { 2 }
        }
        _ => permits * (last.nanos() / period - first.nanos() / period + 1),
    }
}

/// Whether the store keeps an algorithm; one that does not must say so in a sentence that names it.
fn keeps(store: &dyn Store, algorithm: Algorithm) -> bool {
    keeps_policy(store, &policy("keeps", "5/w", algorithm, "any"))
}

fn keeps_policy(store: &dyn Store, policy: &Policy) -> bool {
    let refusal = store.keeps(policy).err();
    if let Some(error) = &refusal {
        let (sentence, name) = (error.to_string(), policy.algorithm().name());
        assert!(sentence.contains(name), "{}: {sentence:?} names no {name}", store.name());
    }
    refusal.is_none()
}

/// A policy of its own for each algorithm. Calendar quotas take the calendar's periods instead.
fn policy(name: &str, rates: &str, algorithm: Algorithm, seed: &str) -> Arc<Policy> {
    let name = format!("{name}-{seed}-{}", algorithm.name().replace(':', "-"));
    let calendar = |rate: &str| {
        let (permits, period) = rate.split_once('/').expect("permits and a period");
        let unit = match period {
            "ms" | "3ms" => "day UTC",
            "20ms" => "week UTC",
            "d" | "7ms" => "month",
            _ => "year",
        };
        format!("{permits}/{unit}")
    };
    let rates = match algorithm {
        Algorithm::Calendar => rates.split("; ").map(calendar).collect::<Vec<_>>().join("; "),
        _ => rates.to_owned(),
    };
    Arc::new(Policy::new(&name, &rates, algorithm).expect("a legal policy"))
}

async fn ask(store: &dyn Store, charges: &[Charge<'_>], peek: bool) -> Decision {
    let request = Request { charges, peek };
    if let Some(answer) = store.apply_now(&request) {
        return answer.unwrap_or_else(|error| panic!("apply_now: {error}"));
    }
    let answers = store.apply(&[request]).await.unwrap_or_else(|error| panic!("apply: {error}"));
    assert_eq!(answers.len(), 1, "{}: one request, one decision", store.name());
    answers[0]
}

async fn check(store: &dyn Store, policy: &Arc<Policy>, key: &str, cost: u32) -> Decision {
    ask(store, &[Charge { policy, key, cost }], false).await
}

async fn peek(store: &dyn Store, policy: &Arc<Policy>, key: &str, cost: u32) -> Decision {
    ask(store, &[Charge { policy, key, cost }], true).await
}

async fn spends_to_zero_and_refuses(store: &dyn Store, algorithm: Algorithm, seed: &str) {
    let policy = policy("zero", "5/w", algorithm, seed);
    for left in (0..5).rev() {
        let decision = check(store, &policy, "k", 1).await;
        assert!(decision.allowed, "{} {algorithm}: {left} left", store.name());
        assert_eq!(
            (decision.limit, decision.remaining, decision.retry_after),
            (5, left, 0),
            "{} {algorithm}",
            store.name()
        );
        assert!(decision.reset_after > 0 && decision.reason == Reason::Allowed);
    }
    let refused = check(store, &policy, "k", 1).await;
    assert!(!refused.allowed && refused.remaining == 0 && refused.retry_after > 0, "{} {algorithm}", store.name());
    assert_eq!(refused.reason, Reason::RateLimited);
    assert!(refused.retry_after <= policy.limits()[0].period(), "{} {algorithm}: {refused:?}", store.name());
}

async fn refusals_change_nothing(store: &dyn Store, algorithm: Algorithm, seed: &str) {
    let policy = policy("refusals", "3/w", algorithm, seed);
    check(store, &policy, "k", 3).await;
    let first = check(store, &policy, "k", 1).await;
    for _ in 0..10 {
        let again = check(store, &policy, "k", 1).await;
        assert!(!again.allowed);
        let passed = again.at.since(first.at);
        assert_eq!(again.retry_after, first.retry_after - passed, "{} {algorithm}", store.name());
        assert_eq!(again.reset_after, first.reset_after - passed, "{} {algorithm}", store.name());
    }
}

async fn peek_spends_nothing(store: &dyn Store, algorithm: Algorithm, seed: &str) {
    let policy = policy("peek", "3/w", algorithm, seed);
    for _ in 0..5 {
        let decision = peek(store, &policy, "k", 1).await;
        assert!(decision.allowed && decision.remaining == 2, "{} {algorithm}: {decision:?}", store.name());
    }
    assert_eq!(check(store, &policy, "k", 1).await.remaining, 2);
    check(store, &policy, "k", 2).await;
    assert!(!peek(store, &policy, "k", 1).await.allowed);
}

async fn costs_are_whole(store: &dyn Store, algorithm: Algorithm, seed: &str) {
    let policy = policy("cost", "10/w", algorithm, seed);
    assert_eq!(check(store, &policy, "k", 7).await.remaining, 3);
    let refused = check(store, &policy, "k", 4).await;
    assert!(!refused.allowed && refused.remaining == 3, "{} {algorithm}", store.name());
    assert_eq!(check(store, &policy, "k", 0).await.remaining, 3);
    assert!(check(store, &policy, "k", 3).await.allowed);
    let impossible = check(store, &policy, "k", 11).await;
    assert_eq!(
        (impossible.allowed, impossible.reason),
        (false, Reason::CostAboveLimit),
        "{} {algorithm}",
        store.name()
    );
}

async fn reset_forgets_one_key(store: &dyn Store, algorithm: Algorithm, seed: &str) {
    let policy = policy("reset", "2/w", algorithm, seed);
    for key in ["a", "b"] {
        check(store, &policy, key, 2).await;
    }
    store.reset(&policy, "a").await.unwrap_or_else(|error| panic!("reset: {error}"));
    assert!(check(store, &policy, "a", 2).await.allowed, "{} {algorithm}", store.name());
    assert!(!check(store, &policy, "b", 1).await.allowed);
    store.reset(&policy, "never seen").await.expect("resetting nothing is fine");
}

async fn reset_forgets_all_that_begin_alike(store: &dyn Store, algorithm: Algorithm, seed: &str) {
    let [policy, other] = ["prefix", "prefix2"].map(|name| policy(name, "2/w", algorithm, seed));
    let keys = ["org:1:a", "org:1:b", "org:10", "org:2:a", "org:1", "org%", "org_1"];
    for key in keys {
        check(store, &policy, key, 2).await;
        check(store, &other, key, 2).await;
    }
    match store.reset_prefix(&policy, "org:1:").await {
        // Some have no way to find keys again; they say so.
        Err(error) if error.kind == StoreErrorKind::Unsupported => return,
        answer => answer.unwrap_or_else(|error| panic!("reset_prefix: {error}")),
    }
    for key in keys {
        let free = key.starts_with("org:1:");
        assert_eq!(check(store, &policy, key, 2).await.allowed, free, "{} {algorithm}: {key}", store.name());
        assert!(!check(store, &other, key, 1).await.allowed, "{} {algorithm}: another policy's", store.name());
    }
    store.reset_prefix(&policy, "org:1:").await.expect("again");
    assert!(check(store, &policy, "org:1:a", 2).await.allowed, "{} {algorithm}: once more", store.name());
    store.reset_prefix(&policy, "").await.expect("all");
    for key in keys {
        assert!(check(store, &policy, key, 2).await.allowed, "{} {algorithm}: {key} of all", store.name());
    }
}

async fn held_permits_come_back(store: &dyn Store, seed: &str) {
    if !keeps(store, Algorithm::Concurrency) {
        return;
    }
    let policy = policy("held", "3/w", Algorithm::Concurrency, seed);
    let change =
        async |change| store.adjust(&policy, "k", change).await.unwrap_or_else(|error| panic!("adjust: {error}"));
    let one = check(store, &policy, "k", 1).await;
    let two = check(store, &policy, "k", 2).await;
    assert!(one.allowed && two.allowed && !check(store, &policy, "k", 1).await.allowed, "{}", store.name());
    let renewed = change(Change::Renew { since: one.at, cost: 1 }).await;
    assert!(renewed.allowed && renewed.remaining == 0, "{}: {renewed:?}", store.name());
    assert_eq!(change(Change::Release { since: two.at, cost: 2 }).await.remaining, 2, "{}", store.name());
    // Released twice, and under an instant that was renewed away: nobody else's is freed.
    assert_eq!(change(Change::Release { since: two.at, cost: 2 }).await.remaining, 2, "{}", store.name());
    if renewed.at != one.at {
        assert_eq!(change(Change::Release { since: one.at, cost: 1 }).await.remaining, 2, "{}", store.name());
    }
    assert_eq!(change(Change::Release { since: renewed.at, cost: 1 }).await.remaining, 3, "{}", store.name());
    // What was lost is taken anew while there is room, and refused when others have it.
    assert!(change(Change::Renew { since: one.at, cost: 2 }).await.allowed, "{}", store.name());
    assert!(check(store, &policy, "k", 1).await.allowed, "{}", store.name());
    let lost = change(Change::Renew { since: Timestamp::from_secs(1), cost: 1 }).await;
    assert!(!lost.allowed && lost.remaining == 0, "{}: {lost:?}", store.name());
}

async fn a_bucket_of_ones_own_kind(store: &dyn Store, seed: &str) {
    let algorithm = Algorithm::TokenBucket;
    let make = |name: &str, bucket: crate::Bucket| {
        let policy = Policy::clone(&policy(name, "100/w", algorithm, seed)).with_bucket(bucket);
        Arc::new(policy.expect("a legal bucket"))
    };
    let plain = crate::Bucket::default();
    let young = make("young", crate::Bucket { initial: Some(10), ..plain });
    if let Err(error) = store.keeps(&young) {
        assert!(error.to_string().contains(algorithm.name()), "{}: {error}", store.name());
        return;
    }
    let decision = check(store, &young, "k", 4).await;
    assert_eq!((decision.allowed, decision.limit, decision.remaining), (true, 100, 6), "{}", store.name());
    assert!(!check(store, &young, "k", 7).await.allowed, "{}", store.name());

    // Who is refused at first sight has been seen: the wait gets shorter.
    let first = check(store, &young, "other", 50).await;
    let again = check(store, &young, "other", 50).await;
    assert!(!first.allowed && !again.allowed, "{}", store.name());
    assert_eq!(again.retry_after, first.retry_after - again.at.since(first.at), "{}", store.name());

    let lumps = make("lumps", crate::Bucket { refill_every: 86_400_000_000_000, ..plain });
    check(store, &lumps, "k", 100).await;
    let refused = check(store, &lumps, "k", 1).await;
    let lump = refused.at.nanos() + refused.retry_after;
    assert!(!refused.allowed && lump.is_multiple_of(86_400_000_000_000), "{}: {refused:?}", store.name());

    let partial = make("partial", crate::Bucket { partial: true, ..plain });
    assert_eq!(check(store, &partial, "k", 70).await.cost, 70, "{}", store.name());
    let rest = check(store, &partial, "k", 70).await;
    assert_eq!((rest.allowed, rest.cost, rest.remaining), (true, 30, 0), "{}", store.name());
    let none = check(store, &partial, "k", 70).await;
    assert_eq!((none.allowed, none.cost), (false, 70), "{}", store.name());
}

async fn several_rates_are_all_or_nothing(store: &dyn Store, algorithm: Algorithm, seed: &str) {
    let policy = policy("rates", "100/365d; 3/d", algorithm, seed);
    let mut passed = 0;
    for _ in 0..50 {
        passed += u32::from(check(store, &policy, "k", 1).await.allowed);
    }
    assert_eq!(passed, 3, "{} {algorithm}", store.name());
    let decision = check(store, &policy, "k", 1).await;
    assert_eq!((decision.limit, decision.index), (3, 1), "the tightest speaks");
    // The weekly limit lost 3, not 51: a cost of 98 does not fit it, and 97 fits it but not the daily one.
    let wide = peek(store, &policy, "k", 98).await;
    assert!(!wide.allowed);
    let state = ask(store, &[Charge { policy: &policy, key: "k", cost: 0 }], true).await;
    assert!(state.allowed && state.remaining == 0);
}

async fn several_keys_are_all_or_nothing(store: &dyn Store, algorithm: Algorithm, seed: &str) {
    if !store.capabilities().multi_key_atomic {
        return;
    }
    let wide = policy("keys-wide", "100/w", algorithm, seed);
    let tight = policy("keys-tight", "3/w", algorithm, seed);
    let charges = [Charge { policy: &wide, key: "org", cost: 2 }, Charge { policy: &tight, key: "user", cost: 1 }];
    let mut passed = 0;
    for _ in 0..10 {
        let decision = ask(store, &charges, false).await;
        passed += u32::from(decision.allowed);
        if !decision.allowed {
            assert_eq!(
                (decision.charge, decision.limit, decision.cost),
                (1, 3, 1),
                "{} {algorithm}: the refusing one speaks",
                store.name()
            );
        }
    }
    assert_eq!(passed, 3);
    assert_eq!(peek(store, &wide, "org", 0).await.remaining, 94, "{} {algorithm}", store.name());
}

async fn keys_do_not_meet(store: &dyn Store, algorithm: Algorithm, seed: &str) {
    let one = policy("meet", "1/w", algorithm, seed);
    let two = policy("meet2", "1/w", algorithm, seed);
    let long = "x".repeat(500);
    for key in ["a", "A", "a ", "a}", "{a}", "a:b", "", "ключ", "203.0.113.7", "2001:db8::/64", &long] {
        for policy in [&one, &two] {
            assert!(check(store, policy, key, 1).await.allowed, "{} {algorithm}: {key:?}", store.name());
            assert!(!check(store, policy, key, 1).await.allowed, "{} {algorithm}: {key:?}", store.name());
        }
    }
}

/// The pure function with a map for a store: what everybody is compared with.
#[derive(Default)]
struct Model {
    states: HashMap<String, Vec<Option<State>>>,
}

impl Model {
    fn answer(&mut self, charges: &[Charge<'_>], peek: bool, now: Timestamp) -> Decision {
        let id = |charge: &Charge<'_>| format!("{}/{}", charge.policy.name(), charge.key);
        let mut parts = Vec::new();
        for (number, charge) in charges.iter().enumerate() {
            let known = self.states.get(&id(charge));
            for (index, limit) in charge.policy.limits().iter().enumerate() {
                let state = known.and_then(|states| states[index].clone());
                parts.push(Part { limit, state, cost: charge.cost, charge: number as u16, index: index as u16 });
            }
        }
        let (decision, states): (Decision, States) = decide(&mut parts, now);
        if !peek && decision.allowed {
            let mut next = states.into_iter();
            for charge in charges {
                let states = next.by_ref().take(charge.policy.limits().len()).map(Some).collect();
                self.states.insert(id(charge), states);
            }
        }
        decision
    }
}

/// A small generator, so that a failing sequence can be run again from its seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }
}

async fn agrees_with_the_pure_function(store: &dyn Store, algorithm: Algorithm, seed: &str) {
    let bucket = matches!(algorithm, Algorithm::Gcra | Algorithm::TokenBucket | Algorithm::LeakyBucket(_));
    // Periods so short that real time refills them, numbers that do not divide, and a long one.
    let rates = if bucket { "7/3ms burst 2; 31/20ms; 400/w" } else { "7/3ms; 31/20ms; 400/w" };
    let policies = [policy("model", rates, algorithm, seed), policy("model2", "13/7ms", algorithm, seed)];
    let mut dice =
        Dice(seed.bytes().fold(0x9E37_79B9_7F4A_7C15, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01B3)));
    let mut model = Model::default();
    let keys = ["a", "b"];
    for step in 0..600 {
        let key = keys[dice.below(2) as usize];
        let cost = dice.below(4) as u32;
        let mut charges = vec![Charge { policy: &policies[dice.below(2) as usize], key, cost }];
        if store.capabilities().multi_key_atomic && dice.below(3) == 0 {
            let other = if std::ptr::eq(charges[0].policy, &raw const policies[0]) { 1 } else { 0 };
            charges.push(Charge { policy: &policies[other], key: keys[dice.below(2) as usize], cost: 1 });
        }
        let peek = dice.below(5) == 0;
        let got = ask(store, &charges, peek).await;
        let expected = model.answer(&charges, peek, got.at);
        assert_eq!(got, expected, "{} {algorithm} seed {seed}: step {step} of {charges:?}", store.name());
        if dice.below(40) == 0 {
            store.reset(&policies[0], key).await.unwrap_or_else(|error| panic!("reset: {error}"));
            model.states.remove(&format!("{}/{key}", policies[0].name()));
        }
    }
}

async fn a_changed_rate_keeps_the_share(store: &dyn Store, algorithm: Algorithm, seed: &str) {
    let before = policy("change", "10/w", algorithm, seed);
    let after = policy("change", "20/d", algorithm, seed);
    check(store, &before, "k", 5).await;
    let decision = check(store, &after, "k", 1).await;
    // A share of what is spent; of permits that are held, those very ones.
    let left = if algorithm == Algorithm::Concurrency { 14 } else { 9 };
    assert_eq!((decision.limit, decision.remaining), (20, left), "{} {algorithm}", store.name());
    check(store, &after, "full", 20).await;
    assert!(!check(store, &before, "full", 1).await.allowed, "{} {algorithm}: a change frees nobody", store.name());
}

async fn what_is_settled_later_counts(store: &dyn Store, algorithm: Algorithm, seed: &str) {
    let policy = policy("settle", "100/d; 1000/365d", algorithm, seed);
    let adjust = async |delta| {
        store.adjust(&policy, "k", Change::by(delta)).await.unwrap_or_else(|error| panic!("adjust: {error}"))
    };
    assert_eq!(check(store, &policy, "k", 50).await.remaining, 50);
    assert_eq!(adjust(13 - 50).await.remaining, 87, "{} {algorithm}", store.name());
    assert_eq!(adjust(-1_000_000).await.remaining, 100, "{} {algorithm}: no more than was spent", store.name());
    assert_eq!(adjust(130).await.remaining, 0, "{} {algorithm}", store.name());
    assert!(!check(store, &policy, "k", 1).await.allowed, "{} {algorithm}", store.name());
    assert_eq!(adjust(-30).await.remaining, 0, "{} {algorithm}: what is owed comes first", store.name());
    assert_eq!(adjust(-1).await.remaining, 1, "{} {algorithm}", store.name());
    assert!(check(store, &policy, "k", 1).await.allowed, "{} {algorithm}", store.name());
    assert_eq!(adjust(0).await.remaining, 0, "{} {algorithm}", store.name());
}

async fn a_batch_answers_in_order(store: &dyn Store, seed: &str) {
    let policy = policy("batch", "2/w", Algorithm::Gcra, seed);
    let charges: Vec<_> = ["a", "b", "a", "a", "b", "c"].map(|key| [Charge { policy: &policy, key, cost: 1 }]).into();
    let requests: Vec<_> = charges.iter().map(|charges| Request { charges, peek: false }).collect();
    let answers = store.apply(&requests).await.unwrap_or_else(|error| panic!("apply: {error}"));
    let allowed: Vec<_> = answers.iter().map(|decision| decision.allowed).collect();
    assert_eq!(allowed, [true, true, true, false, true, true], "{}", store.name());
    assert!(store.apply(&[]).await.expect("nothing asked, nothing answered").is_empty());
}

async fn extremes(store: &dyn Store, seed: &str) {
    for (name, rates) in [("most", "1000000000/ms"), ("long", "1000000000/365d"), ("few", "1/365d")] {
        for algorithm in Algorithm::all() {
            if algorithm.is_log() {
                continue;
            }
            let policy = policy(name, rates, algorithm, seed);
            if !keeps_policy(store, &policy) {
                continue;
            }
            let all = policy.limits()[0].capacity();
            let first = check(store, &policy, "k", all).await;
            assert!(first.allowed && first.remaining == 0, "{} {name} {algorithm}: {first:?}", store.name());
            if name != "most" {
                let half = check(store, &policy, "k", all.div_ceil(2)).await;
                assert!(!half.allowed, "{} {name} {algorithm}: {half:?}", store.name());
            }
        }
    }
}
