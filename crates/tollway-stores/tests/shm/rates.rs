//! Tables: what fits, what is carried over when a rate changes, what is forgotten and what never.

use std::sync::Arc;

use tollway_core::{Algorithm, Align, Charge, Policy, Request, Store, StoreErrorKind};
use tollway_stores::shm::ShmStore;

use crate::here::{Here, SECOND, ask, policy, try_ask};
use crate::model::ready;

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let here = Here::new("unfit");
    let store = here.open("");
    for (rate, algorithm) in [
        ("1000003/s", Algorithm::Gcra),
        ("20000/d", Algorithm::FixedWindow(Align::First)),
        ("1000000000/m", Algorithm::SlidingWindow),
    ] {
        assert!(store.keeps(&policy("odd", rate, algorithm)).unwrap_err().to_string().contains("\"odd\""));
        let error = try_ask(&store, &policy("odd", rate, algorithm), "k", 1).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Unsupported);
        let text = error.to_string();
        assert!(text.contains(&format!("policy \"odd\" keeps {rate} by {algorithm}")), "{text}");
        assert!(text.contains("Redis"), "{text}");
    }
}

#[test]
fn a_directory_that_is_full_says_so_until_old_tables_are_free() {
    let here = Here::still("full");
    let named = |number: u32| policy(&format!("p{number}"), &format!("{number}/m"), Algorithm::Gcra);
    let limits: Vec<_> = (1..=4).map(named).collect();
    let last = policy("last", "9/m", Algorithm::Gcra);
    let open = || here.open("max_keys=100&tables=4");
    let store = open();
    for limit in &limits {
        assert!(ask(&store, limit, "k", 1).allowed);
    }
    let error = try_ask(&store, &last, "k", 1).unwrap_err().to_string();
    assert!(error.contains("has 4 tables") && error.contains("\"last\"") && error.contains("gcra 9/m"), "{error}");
    drop(store);
    // Nobody has them open now, but their keys are not idle yet.
    let store = open();
    assert!(try_ask(&store, &last, "k", 1).is_err());
    here.advance(61 * SECOND);
    assert!(ask(&store, &last, "k", 1).allowed);
    // The others are free again, and empty.
    assert_eq!(ask(&store, &limits[3], "k", 1).remaining, 3);
}

#[test]
fn tables_of_the_living_are_never_given_away() {
    let here = Here::still("living");
    let open = || here.open("max_keys=100&tables=2");
    let (one, two) = (open(), open());
    let limits = ["3/s", "4/s", "5/s"].map(|rate| policy(rate, rate, Algorithm::Gcra));
    ask(&one, &limits[0], "k", 1);
    ask(&two, &limits[1], "k", 1);
    here.advance(10 * SECOND);
    for store in [&one, &two] {
        assert!(try_ask(store, &limits[2], "k", 1).is_err());
    }
    drop(one);
    assert_eq!(ask(&two, &limits[2], "k", 1).remaining, 4);
}

#[test]
fn a_changed_rate_takes_its_keys_along_in_every_process() {
    let here = Here::still("changed");
    let open = || here.open("max_keys=5000&tables=16");
    let (one, two) = (open(), open());
    let names: Vec<_> = (0..1_000).map(|number| number.to_string()).collect();
    let before = policy("p", "10/h", Algorithm::Gcra);
    for name in &names {
        ask(&one, &before, name, 5);
    }
    for (rates, left) in [("20/h", 9), ("40/h; 1000/d", 17)] {
        let after = policy("p", rates, Algorithm::Gcra);
        for (number, name) in names.iter().enumerate() {
            assert_eq!(ask([&one, &two][number % 2], &after, name, 1).remaining, left, "{rates}");
        }
    }
    // A rate that nobody uses any more has nothing to say once its keys are idle.
    here.advance(25 * 3_600 * SECOND);
    let last = policy("p", "7/h", Algorithm::Gcra);
    assert_eq!(ask(&two, &last, "1", 1).remaining, 6);
}

#[test]
fn a_key_that_was_reset_does_not_get_its_old_share_back() {
    let here = Here::still("reset");
    let (one, two) = (here.open(""), here.open(""));
    let (before, after) = (policy("p", "10/h", Algorithm::Gcra), policy("p", "20/h", Algorithm::Gcra));
    ask(&one, &before, "k", 10);
    assert!(!ask(&two, &after, "k", 1).allowed);
    ready(two.reset(&after, "k")).unwrap();
    assert_eq!(ask(&two, &after, "k", 1).remaining, 19);
    assert_eq!(ask(&one, &before, "k", 1).remaining, 9);
}

fn forget(store: &ShmStore, policy: &Arc<Policy>, prefix: &str) {
    ready(store.reset_prefix(policy, prefix)).unwrap();
}

#[test]
fn a_prefix_is_forgotten_in_every_process() {
    let here = Here::still("prefix");
    let (one, two) = (here.open(""), here.open(""));
    let (limit, other) = (policy("p", "2/h", Algorithm::Gcra), policy("q", "2/h", Algorithm::Gcra));
    let keys = ["user:1", "user:12", "user:2", "org:1"];
    let left = |store: &ShmStore| keys.map(|key| ask(store, &limit, key, 0).remaining);
    for key in keys {
        ask(&one, &limit, key, 2);
        ask(&one, &other, key, 2);
    }
    forget(&two, &limit, "user:1");
    assert_eq!(left(&one), [2, 2, 0, 0]);
    assert_eq!(left(&two), [2, 2, 0, 0]);
    assert_eq!(ask(&one, &other, "user:1", 0).remaining, 0);
    ask(&one, &limit, "user:1", 1);
    assert_eq!(left(&two), [1, 2, 0, 0]);
    forget(&one, &limit, "user:");
    assert_eq!(left(&two), [2, 2, 2, 0]);
    ask(&two, &limit, "user:12", 1);
    forget(&one, &limit, "user:1");
    assert_eq!(left(&two), [2, 2, 2, 0]);
    ask(&two, &limit, "user:1", 1);
    // Whoever comes later sees the same.
    assert_eq!(left(&here.open("")), [1, 2, 2, 0]);
    forget(&one, &limit, "");
    assert_eq!(left(&two), [2; 4]);
}

#[test]
fn prefixes_have_a_bound() {
    let here = Here::new("prefixes");
    let store = here.open("max_keys=100");
    let limit = policy("p", "2/h", Algorithm::Gcra);
    for number in 0..1_024 {
        forget(&store, &limit, &format!("tenant-{number}:"));
    }
    forget(&store, &limit, "tenant-7:");
    let error = ready(store.reset_prefix(&limit, "one-more:")).unwrap_err().to_string();
    assert!(error.contains("1024 prefixes have been reset"), "{error}");
    let error = ready(store.reset_prefix(&limit, &"x".repeat(97))).unwrap_err().to_string();
    assert!(error.contains("97 bytes"), "{error}");
}

#[test]
fn a_spray_of_twice_as_many_keys_frees_no_refused_one() {
    for algorithm in Algorithm::all() {
        let here = Here::still("spray");
        let (one, two) = (here.open("max_keys=8000"), here.open("max_keys=8000"));
        let Some(limit) = Policy::new("p", "5/d", algorithm).ok().map(Arc::new) else { continue };
        if one.keeps(&limit).is_err() {
            continue;
        }
        let victims: Vec<_> = (0..500).map(|number| format!("victim-{number}")).collect();
        for victim in &victims {
            while ask(&one, &limit, victim, 1).allowed {}
        }
        for number in 0..16_000 {
            ask(&two, &limit, &number.to_string(), 1);
        }
        let freed = victims.iter().filter(|victim| ask(&one, &limit, victim, 1).allowed).count();
        assert_eq!(freed, 0, "{algorithm}");
    }
}

#[test]
fn limits_of_a_request_pass_together_or_not_at_all() {
    let here = Here::still("together");
    let stores: Vec<_> = (0..4).map(|_| here.open("max_keys=1000")).collect();
    let org = policy("org", "1000/d; 700/h", Algorithm::Gcra);
    let user = policy("user", "50/d", Algorithm::FixedWindow(Align::Clock));
    let passed: u32 = std::thread::scope(|scope| {
        let threads: Vec<_> = (stores.iter().enumerate())
            .map(|(thread, store)| {
                let (org, user) = (&org, &user);
                scope.spawn(move || {
                    let pass = |turn: &usize| {
                        let key = ((turn + thread) % 10).to_string();
                        let charges =
                            [Charge { policy: org, key: "o", cost: 1 }, Charge { policy: user, key: &key, cost: 1 }];
                        store.apply_now(&Request { charges: &charges, peek: false }).unwrap().unwrap().allowed
                    };
                    (0..400).filter(pass).count() as u32
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert!(passed <= 500, "{passed}");
    let left = |policy: &Arc<Policy>, key: &str| ask(&stores[0], policy, key, 0).remaining;
    assert_eq!(left(&org, "o"), 700 - passed);
    assert_eq!((0..10).map(|key| left(&user, &key.to_string())).sum::<u32>(), 500 - passed);
}
