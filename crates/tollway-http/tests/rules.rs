//! Rules at the gate.

use std::net::IpAddr;
use std::sync::Arc;

use http::Request;
use tollway::rules::Rules;
use tollway::{Algorithm, FailMode, Limiter, Policy, hash_identity};
use tollway_http::{Check, ClientAddress, Gate, Identity, Verdict};
use tollway_stores::memory::MemoryStore;

fn gate(rules: &Arc<Rules>, charges: Vec<(Arc<Policy>, Identity)>) -> Gate {
    let limiter = Arc::new(Limiter::new(Arc::new(MemoryStore::new(1_000)), FailMode::Closed));
    Gate::new(limiter, charges, Arc::new(ClientAddress::default())).with_rules(Arc::clone(rules))
}

fn ask(gate: &Gate, request: Request<()>, from: &str) -> Verdict {
    let (head, ()) = request.into_parts();
    match gate.check(&head, from.parse::<IpAddr>().ok()) {
        Check::Done(verdict) => verdict,
        Check::Wait(_) => panic!("memory answers at once"),
    }
}

fn get(path: &str) -> Request<()> {
    Request::get(path).body(()).unwrap()
}

#[test]
fn a_gate_turns_away_exempts_and_charges_by_path() {
    let rules = Arc::new(
        Rules::new(
            r#"{"deny": ["203.0.113.0/24"], "allow": ["203.0.113.7"], "skip": ["/health"],
                "limits": {"api": {"paths": ["/api/"], "by": "ip", "rate": "1/h"}}}"#,
        )
        .unwrap(),
    );
    let bare = gate(&rules, Vec::new());
    let refused = ask(&bare, get("/"), "203.0.113.9").refusal();
    assert_eq!(refused.status(), 403);
    assert!(refused.headers().get("retry-after").is_none() && refused.headers().get("ratelimit").is_none());
    let seen: Vec<_> =
        ["/", "/health", "/api/x", "/api/y", "/"].map(|path| ask(&bare, get(path), "198.51.100.1").allowed()).into();
    assert_eq!(seen, [true, true, true, false, true]);
    assert!((0..5).all(|_| ask(&bare, get("/api/x"), "203.0.113.7").allowed()));
    assert_eq!(ask(&bare, get("/api/x"), "198.51.100.1").refusal().status(), 429);

    rules.replace("{}").unwrap();
    assert!(ask(&bare, get("/"), "203.0.113.9").allowed(), "a gate follows its rules");
}

#[test]
fn an_api_key_is_known_by_its_hash() {
    let partner = hash_identity(b"tollway", "partner");
    let rules = Rules::new(&format!(r#"{{"overrides": [{{"who": "key:{partner}", "rate": "9/h"}}]}}"#)).unwrap();
    let policy = Arc::new(Policy::new("items", "1/h", Algorithm::Gcra).unwrap());
    let gate = gate(&Arc::new(rules), vec![(policy, "header:X-Key".parse().unwrap())]);
    let keyed = |key: &str| Request::get("/").header("x-key", key).body(()).unwrap();
    let limit = |verdict: Verdict| verdict.decision().unwrap().limit;
    assert_eq!(limit(ask(&gate, keyed("partner"), "198.51.100.1")), 9);
    assert_eq!(limit(ask(&gate, keyed("somebody"), "198.51.100.1")), 1);
    assert_eq!(limit(ask(&gate, get("/"), "198.51.100.1")), 1);
}
