//! What rules cost a request: nanoseconds to resolve one, without the store.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use tollway::rules::{Access, AccessList, Rules, Subject};
use tollway::{Algorithm, Charge, Policy};

/// The median of 9 rounds, in nanoseconds a call.
fn measure(name: &str, calls: u32, mut call: impl FnMut(u32)) {
    let mut rounds: Vec<f64> = (0..9)
        .map(|_| {
            let start = Instant::now();
            (0..calls).for_each(&mut call);
            start.elapsed().as_nanos() as f64 / f64::from(calls)
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    println!("{name}: {:.0} ns (fastest {:.0})", rounds[4], rounds[0]);
}

fn mix(n: u32) -> u32 {
    let mixed = n.wrapping_mul(0x9E37_79B9);
    (mixed ^ (mixed >> 15)).wrapping_mul(0x85EB_CA6B)
}

fn main() {
    let policy = Arc::new(Policy::new("search", "100/m", Algorithm::Gcra).expect("a legal policy"));
    let charges = [Charge { policy: &policy, key: "user:7", cost: 1 }];
    let subject = Subject {
        address: Some(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7))),
        user: Some("7"),
        org: Some("acme"),
        tier: Some("pro"),
        method: Some("GET"),
        path: Some("/api/items/7"),
        ..Subject::default()
    };
    for (name, data) in [
        ("no rules at all", "{}"),
        ("rules for another limit", r#"{"limits": {"login": "5/m"}}"#),
        (
            "ten denied networks and a skip, none fits",
            r#"{"deny": ["203.0.113.0/28", "203.0.113.16/28",
            "203.0.113.32/28", "203.0.113.48/28", "203.0.113.64/28", "192.0.2.0/28", "192.0.2.16/28",
            "192.0.2.32/28", "192.0.2.48/28", "user:9"], "skip": ["/static/"]}"#,
        ),
        ("a tier", r#"{"limits": {"search": {"tiers": {"pro": "500/m"}}}}"#),
        ("an override", r#"{"overrides": [{"who": "user:7", "rate": "500/m"}, {"who": "user:8", "rate": "5/m"}]}"#),
        (
            "a schedule",
            r#"{"limits": {"search": {"schedule": [
            {"when": "Mon-Sun 00:00-12:00 Europe/Berlin", "rate": "5/m"},
            {"when": "Mon-Sun 12:00-24:00 Europe/Berlin", "rate": "6/m"}]}}}"#,
        ),
        (
            "a tier and two levels",
            r#"{"limits": {"search": {"tiers": {"pro": "500/m"},
            "levels": [{"by": "org", "rate": "5000/m"}, {"by": "global", "rate": "50000/m"}]}}}"#,
        ),
        (
            "a limit by path, of three",
            r#"{"limits": {"a": {"paths": ["/a/"], "by": "user", "rate": "5/m"},
            "b": {"paths": ["/api/"], "by": "user", "rate": "5/m"}, "c": {"paths": ["/c/*"], "by": "ip", "rate": "5/m"}}}"#,
        ),
    ] {
        let rules = Rules::new(data).expect("legal rules");
        measure(name, 200_000, |_| {
            black_box(rules.resolve(black_box(&charges), black_box(&subject)));
        });
    }
    let text: String = (0..100_000).map(|n| format!("{}/{}\n", Ipv4Addr::from(mix(n)), 16 + mix(n ^ 7) % 17)).collect();
    let start = Instant::now();
    let list = AccessList::parse(&text, Access::Deny).expect("legal entries");
    println!("reading a list of {} networks: {} ms", list.len(), start.elapsed().as_millis());
    let now = tollway::rules::wall_now();
    measure("looking up an address among them", 200_000, |n| {
        let subject = Subject { address: Some(IpAddr::V4(mix(n.wrapping_mul(77)).into())), ..Subject::default() };
        black_box(list.judge(&subject, now));
    });
}
