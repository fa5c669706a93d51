//! Laws of the rules, and their order.

use proptest::prelude::*;
use tollway_core::{Algorithm, ManualClock};

use super::*;

/// A Wednesday noon in Berlin.
const NOON: Timestamp = Timestamp::from_secs(1_785_319_200);

fn rules(data: &str) -> Rules {
    Rules::new(data).unwrap_or_else(|error| panic!("{error}")).with_clock(Arc::new(ManualClock::new(NOON)))
}

fn policy(name: &str) -> Arc<Policy> {
    Arc::new(Policy::new(name, "10/m", Algorithm::Gcra).unwrap())
}

/// What is charged: policy, key, rate and rule of each.
fn told(rules: &Rules, limit: &str, subject: &Subject<'_>) -> Vec<String> {
    let policy = policy(limit);
    match rules.resolve(&[Charge { policy: &policy, key: "me", cost: 1 }], subject) {
        Resolution::Ruled(ruled) => {
            let all = ruled.charges.iter().chain(&ruled.shadows);
            let text = |c: &RuledCharge| {
                format!("{} {} {} [{}]", c.policy.name(), c.key, c.policy.limits()[0].rate(), c.rule).replace(" []", "")
            };
            all.map(text).collect()
        }
        other => vec![other.to_string()],
    }
}

const NOBODY: Subject<'static> = Subject {
    address: None,
    user: None,
    key: None,
    org: None,
    tier: None,
    method: None,
    path: None,
    path_charged: false,
};

#[test]
fn rules_speak_in_their_order() {
    let key = "0123456789abcdef0123456789abcdef";
    let rules = rules(&format!(
        r#"{{
        "deny": ["192.0.2.0/24"], "allow": ["user:root", "192.0.2.7"], "skip": ["/static/", "OPTIONS /"],
        "limits": {{"search": {{"rate": "20/m", "tiers": {{"pro": "30/m"}}}}}},
        "overrides": [
            {{"who": "user:1", "rate": "41/m"}}, {{"who": "user:1", "limit": "search", "rate": "42/m"}},
            {{"who": "key:{key}", "rate": "43/m"}}, {{"who": "org:acme", "limit": "search", "rate": "44/m"}},
            {{"who": "10.0.0.0/8", "limit": "search", "rate": "45/m"}},
            {{"who": "10.1.0.0/16", "limit": "search", "rate": "46/m"}},
            {{"who": "10.1.1.1", "limit": "search", "rate": "unlimited"}},
            {{"who": "user:2", "limit": "search", "rate": "47/m", "until": "2020-01-01"}},
            {{"who": "user:3", "limit": "search", "rate": "48/m", "from": "2100-01-01T00:00:00Z"}}
        ]}}"#
    ));
    let from = |address: &str| Subject { address: address.parse().ok(), ..NOBODY };
    let user = |user| Subject { user: Some(user), ..from("10.1.0.1") };
    for (subject, expected) in [
        (from("192.0.2.1"), "deny 192.0.2.0/24"),
        (from("192.0.2.7"), "allow 192.0.2.7"),
        (Subject { user: Some("root"), ..from("192.0.2.1") }, "deny 192.0.2.0/24"),
        (user("root"), "allow user:root"),
        (Subject { path: Some("/static/a.css"), ..user("1") }, "skip /static/"),
        (Subject { path: Some("/x"), method: Some("OPTIONS"), ..user("1") }, "skip OPTIONS /"),
        (Subject { key: Some(key), ..user("1") }, "search@override me 42/m [override user:1]"),
        (user("1"), "search@override me 42/m [override user:1]"),
        (Subject { org: Some("acme"), ..user("9") }, "search@override me 44/m [override org:acme]"),
        (user("9"), "search@override me 46/m [override 10.1.0.0/16]"),
        (from("10.2.0.1"), "search@override me 45/m [override 10.0.0.0/8]"),
        (from("10.1.1.1"), "override 10.1.1.1"),
        (Subject { key: Some(key), ..from("10.9.0.1") }, "search@override me 45/m [override 10.0.0.0/8]"),
        (Subject { key: Some(key), ..NOBODY }, &format!("search@override me 43/m [override key:{key}]")),
        (Subject { user: Some("2"), tier: Some("pro"), ..NOBODY }, "search@pro me 30/m [tier pro]"),
        (Subject { user: Some("3"), tier: Some("gold"), ..NOBODY }, "search me 20/m"),
    ] {
        assert_eq!(told(&rules, "search", &subject), [expected], "{subject:?}");
    }
    assert_eq!(told(&rules, "other", &user("1")), ["other@override me 41/m [override user:1]"]);
    assert_eq!(told(&rules, "other", &user("9")), ["other me 10/m"]);
}

#[test]
fn a_limit_is_named_by_its_beginning_or_by_a_star() {
    let rules = rules(r#"{"limits": {"shop": "2/s", "shop/login": "1/s", "*": {"tiers": {"pro": "9/s"}}}}"#);
    for (name, expected) in [
        ("shop", "shop me 2/s"),
        ("shop/search/ip", "shop/search/ip me 2/s"),
        ("shop/login/ip", "shop/login/ip me 1/s"),
        ("shops", "shops me 10/m"),
    ] {
        assert_eq!(told(&rules, name, &NOBODY), [expected]);
    }
    let pro = Subject { tier: Some("pro"), ..NOBODY };
    assert_eq!(told(&rules, "shops", &pro), ["shops@pro me 9/s [tier pro]"]);
}

#[test]
fn levels_are_charged_together_and_once() {
    let rules = rules(
        r#"{"limits": {"*": {"levels": [
            {"by": "org", "rate": "100/m", "tiers": {"pro": "200/m"}}, {"by": "global", "name": "everybody", "rate": "1000/m"}
        ]}}, "overrides": [{"who": "org:big", "rate": "5000/m"}, {"who": "user:1", "level": "everybody", "rate": "unlimited"}]}"#,
    );
    let org = |org| Subject { user: Some("7"), org: Some(org), ..NOBODY };
    assert_eq!(told(&rules, "a", &org("acme")), ["a me 10/m", "*/org org:acme 100/m", "*/everybody global 1000/m"]);
    assert_eq!(told(&rules, "a", &NOBODY), ["a me 10/m", "*/everybody global 1000/m"]);
    assert_eq!(told(&rules, "a", &org("big"))[1], "*/org@override org:big 5000/m [override org:big]");
    assert_eq!(told(&rules, "a", &Subject { user: Some("1"), ..NOBODY }), ["a me 10/m"]);

    let (a, b) = (policy("a"), policy("b"));
    let charges = [Charge { policy: &a, key: "me", cost: 1 }, Charge { policy: &b, key: "me", cost: 3 }];
    let Resolution::Ruled(ruled) = rules.resolve(&charges, &org("acme")) else { panic!("rules speak") };
    let costs: Vec<_> = ruled.charges.iter().map(|charge| (charge.policy.name(), charge.cost)).collect();
    assert_eq!(costs, [("a", 1), ("*/org", 3), ("*/everybody", 3), ("b", 3)]);
}

#[test]
fn a_schedule_picks_the_rate_of_whatever_holds() {
    let clock = Arc::new(ManualClock::new(NOON));
    let rules = Rules::new(
        r#"{"limits": {"search": {
            "schedule": [{"when": "Mon-Fri 09:00-17:00 Europe/Berlin", "rate": "5/m"}],
            "tiers": {"pro": {"rate": "30/m", "schedule": [{"when": "22:00-06:00 UTC", "rate": "300/m"}]}}
        }}}"#,
    )
    .unwrap()
    .with_clock(clock.clone());
    let pro = Subject { tier: Some("pro"), ..NOBODY };
    assert_eq!(told(&rules, "search", &NOBODY), ["search me 5/m [schedule Mon-Fri 09:00-17:00 Europe/Berlin]"]);
    assert_eq!(told(&rules, "search", &pro), ["search@pro me 30/m [tier pro]"]);
    clock.advance(12 * 3_600_000_000_000);
    assert_eq!(told(&rules, "search", &NOBODY), ["search me 10/m"]);
    assert_eq!(told(&rules, "search", &pro), ["search@pro me 300/m [tier pro, schedule 22:00-06:00 UTC]"]);
}

#[test]
fn limits_by_path_need_no_door() {
    let rules = rules(
        r#"{"limits": {
            "api": {"paths": ["/api/"], "by": "ip", "rate": "7/m"},
            "upload": {"paths": ["POST /api/files/", "PUT /api/files/"], "by": "user", "rate": "1/m"},
            "files": {"paths": ["/api/files/"], "by": "user+ip", "rate": "3/m"}
        }}"#,
    );
    let ask = |method, path, user| {
        let subject = Subject { address: "2001:db8::5".parse().ok(), user, method, path, ..NOBODY };
        match rules.resolve(&[], &subject) {
            Resolution::Ruled(ruled) => {
                ruled.charges.iter().map(|c| format!("{} {}", c.policy.name(), c.key)).collect::<Vec<_>>().join("; ")
            }
            other => other.to_string(),
        }
    };
    assert_eq!(ask(Some("GET"), Some("/api/x"), None), "api 2001:db8::/64");
    assert_eq!(ask(Some("POST"), Some("/api/files/1"), Some("7")), "upload user:7");
    assert_eq!(ask(Some("POST"), Some("/api/files/1"), None), "upload 2001:db8::/64");
    assert_eq!(ask(Some("GET"), Some("/api/files/1"), Some("7")), "files user:7+2001:db8::/64");
    assert_eq!(ask(Some("GET"), Some("/"), None), "as given");
    assert_eq!(ask(None, None, None), "as given");
    let again = Subject { path: Some("/api/x"), path_charged: true, ..NOBODY };
    assert!(matches!(rules.resolve(&[], &again), Resolution::AsGiven));
}

#[test]
fn rates_that_a_door_cannot_keep_leave_its_limit_as_it_was() {
    let rules = rules(r#"{"overrides": [{"who": "user:1", "rate": "5/m burst 2"}]}"#);
    let windows = Arc::new(Policy::new("search", "10/m", Algorithm::SlidingWindow).unwrap());
    let charges = [Charge { policy: &windows, key: "me", cost: 1 }];
    let Resolution::Ruled(ruled) = rules.resolve(&charges, &Subject { user: Some("1"), ..NOBODY }) else {
        panic!("an override speaks");
    };
    assert!(Arc::ptr_eq(&ruled.charges[0].policy, &windows));
    let told = ruled.charges[0].rule.to_string();
    assert!(told.starts_with("override user:1 cannot be used: ") && told.contains("sliding_window"), "{told}");
}

#[test]
fn a_change_is_whole_or_does_not_happen() {
    let rules = rules(r#"{"limits": {"a": "1/s"}}"#);
    let error = rules.replace(r#"{"limits": {"a": "2/s", "b": {"tiers": {"pro": "5/x"}}}}"#).unwrap_err().to_string();
    assert!(error.starts_with("limits.b.tiers.pro: rate \"5/x\" does not read at position 2"), "{error}");
    assert_eq!((rules.version(), told(&rules, "a", &NOBODY)), (1, vec!["a me 1/s".to_owned()]));
    assert_eq!(rules.replace(r#"{"limits": {"a": "2/s"}}"#).unwrap(), 2);
    assert_eq!(told(&rules, "a", &NOBODY), ["a me 2/s"]);
}

#[test]
fn what_cannot_work_is_named_by_its_place() {
    for (data, part) in [
        ("[]", "rules: expected a mapping"),
        ("{", "rules: EOF"),
        (r#"{"limit": {}}"#, "rules: \"limit\" is not known here: did you mean \"limits\"?"),
        (r#"{"deny": ["10.0.0.0/40"]}"#, "deny[0]: \"10.0.0.0/40\" names nobody"),
        (r#"{"deny": ["allow 10.0.0.1"]}"#, "deny[0]: says allow"),
        (r#"{"skip": ["static"]}"#, "skip[0]: \"static\" is no path"),
        (r#"{"overrides": [{"who": "user:1"}]}"#, "overrides[0]: needs a \"rate\""),
        (r#"{"overrides": [{"rate": "1/s"}]}"#, "overrides[0]: needs \"who\""),
        (r#"{"overrides": [{"who": "user:1", "rate": "1/s", "until": "soon"}]}"#, "overrides[0].until: \"soon\""),
        (r#"{"overrides": [{"who": "user:1", "rate": "1/s", "limit": "a", "level": "b"}]}"#, "no level \"b\""),
        (r#"{"limits": {"a": {"rate": "1/s", "algorithm": "gcr"}}}"#, "limits.a.algorithm: algorithm \"gcr\""),
        (
            r#"{"limits": {"a": {"schedule": [{"when": "Moon", "rate": "1/s"}]}}}"#,
            "limits.a.schedule[0].when: \"Moon\"",
        ),
        (r#"{"limits": {"a": {"levels": [{"rate": "1/s"}]}}}"#, "limits.a.levels[0]: needs \"by\""),
        (r#"{"limits": {"a": {"levels": [{"by": "org"}]}}}"#, "limits.a.levels[0]: needs a \"rate\""),
        (r#"{"limits": {"a": {"levels": [{"by": "orgs", "rate": "1/s"}]}}}"#, "\"orgs\" is not something to count by"),
        (r#"{"limits": {"a": {"paths": ["/x"], "rate": "1/s"}}}"#, "limits.a: a limit with \"paths\""),
        (r#"{"limits": {"a": {"enforce": 101}}}"#, "limits.a.enforce: expected a percentage"),
        (r#"{"limits": {"a": {"enforce": 5, "shadow": true}}}"#, "limits.a.enforce: \"shadow\" already"),
        (r#"{"limits": {"a@b": "1/s"}}"#, "limits.a@b: \"a@b\" is no usable name"),
        (r#"{"ipv6_prefix": 0}"#, "ipv6_prefix: an IPv6 prefix"),
    ] {
        let error = Rules::new(data).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

proptest! {
    /// A roll-out only ever binds more: who is bound at some share is bound at any larger one.
    #[test]
    fn a_key_that_is_bound_stays_bound(key in "[a-z0-9:.]{1,20}", one in 0u32..=100, other in 0u32..=100) {
        let bound = |percent: u32| {
            let rules = rules(&format!(r#"{{"limits": {{"a": {{"rate": "1/s", "enforce": {percent}}}}}}}"#));
            let policy = policy("a");
            let charges = [Charge { policy: &policy, key: &key, cost: 1 }];
            match rules.resolve(&charges, &NOBODY) {
                Resolution::Ruled(ruled) => ruled.shadows.is_empty(),
                _ => unreachable!("the rules speak of it"),
            }
        };
        let (less, more) = (one.min(other), one.max(other));
        prop_assert!(!bound(less) || bound(more));
        prop_assert!(!bound(0) && bound(100));
    }
}
