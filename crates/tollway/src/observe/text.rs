//! The text format of Prometheus.

use std::fmt::{self, Write};

use tollway_core::{Latency, StoreErrorKind};

use super::counts::Outcome;
use super::metrics::{Snapshot, StoreCalls, rank};

/// A label's value, with what would end it escaped.
struct Value<'a>(&'a str);

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '\\' => f.write_str(r"\\"),
            '"' => f.write_str("\\\""),
            '\n' => f.write_str(r"\n"),
            c => f.write_char(c),
        })
    }
}

pub(super) fn write(snapshot: &Snapshot) -> String {
    let mut text = String::new();
    // Writing into memory does not fail.
    let _ = write_checks(&mut text, snapshot).and_then(|()| write_stores(&mut text, &snapshot.stores));
    text
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) -> fmt::Result {
    writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}")
}

fn write_checks(text: &mut String, snapshot: &Snapshot) -> fmt::Result {
    head(text, "tollway_checks_total", "counter", "Checks by policy and outcome.")?;
    for checks in &snapshot.checks {
        for outcome in Outcome::ALL {
            let (policy, count) = (Value(&checks.policy), checks.of(outcome));
            writeln!(text, "tollway_checks_total{{policy=\"{policy}\",outcome=\"{}\"}} {count}", outcome.name())?;
        }
    }
    Ok(())
}

fn write_stores(text: &mut String, stores: &[StoreCalls]) -> fmt::Result {
    head(text, "tollway_store_seconds", "histogram", "How long calls to a store took, failed ones too.")?;
    for store in stores {
        write_latency(text, &store.store, &store.calls.latency)?;
    }
    head(text, "tollway_store_errors_total", "counter", "Calls to a store that failed, by kind.")?;
    for store in stores {
        for (kind, count) in StoreErrorKind::ALL.into_iter().zip(store.calls.errors) {
            let (name, kind) = (Value(&store.store), kind.name());
            writeln!(text, "tollway_store_errors_total{{store=\"{name}\",kind=\"{kind}\"}} {count}")?;
        }
    }
    let mut each = |name: &str, kind, help, value: fn(&StoreCalls) -> Option<u64>| {
        head(text, name, kind, help)?;
        stores
            .iter()
            .filter_map(|store| Some((store, value(store)?)))
            .try_for_each(|(store, value)| writeln!(text, "{name}{{store=\"{}\"}} {value}", Value(&store.store)))
    };
    let skipped = "Calls to a store that were not made because its breaker was open.";
    each("tollway_store_skipped_total", "counter", skipped, |store| Some(store.calls.skipped))?;
    let waiting = "Calls to a store that wait for their turn.";
    each("tollway_store_waiting", "gauge", waiting, |store| Some(store.waiting as u64))?;
    let breaker = "Where the breaker of a store stands: 0 closed, 1 half open, 2 open.";
    each("tollway_breaker_state", "gauge", breaker, |store| store.breaker.map(|state| rank(state).into()))
}

fn write_latency(text: &mut String, store: &str, latency: &Latency) -> fmt::Result {
    let (store, mut sum) = (Value(store), 0);
    for (bound, count) in Latency::BOUNDS.iter().zip(latency.counts) {
        sum += count;
        let bound = *bound as f64 / 1e9;
        writeln!(text, "tollway_store_seconds_bucket{{store=\"{store}\",le=\"{bound}\"}} {sum}")?;
    }
    let count = latency.count();
    writeln!(text, "tollway_store_seconds_bucket{{store=\"{store}\",le=\"+Inf\"}} {count}")?;
    writeln!(text, "tollway_store_seconds_sum{{store=\"{store}\"}} {}", latency.nanos as f64 / 1e9)?;
    writeln!(text, "tollway_store_seconds_count{{store=\"{store}\"}} {count}")
}

#[cfg(test)]
mod tests {
    use tollway_core::Calls;

    use super::*;

    #[test]
    fn a_label_cannot_be_left_by_its_value() {
        assert_eq!(Value("a\"b\\c\nd").to_string(), r#"a\"b\\c\nd"#);
    }

    #[test]
    fn buckets_add_up() {
        let mut calls = Calls::default();
        (calls.latency.counts[0], calls.latency.counts[2], calls.latency.counts[12]) = (3, 2, 1);
        calls.latency.nanos = 1_500_000_000;
        let stores = vec![StoreCalls { store: "redis://h".to_owned(), breaker: None, waiting: 0, calls }];
        let text = write(&Snapshot { checks: Vec::new(), stores });
        for line in [
            r#"tollway_store_seconds_bucket{store="redis://h",le="0.0001"} 3"#,
            r#"tollway_store_seconds_bucket{store="redis://h",le="0.00025"} 3"#,
            r#"tollway_store_seconds_bucket{store="redis://h",le="0.0005"} 5"#,
            r#"tollway_store_seconds_bucket{store="redis://h",le="1"} 5"#,
            r#"tollway_store_seconds_bucket{store="redis://h",le="+Inf"} 6"#,
            r#"tollway_store_seconds_sum{store="redis://h"} 1.5"#,
            r#"tollway_store_seconds_count{store="redis://h"} 6"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
        }
        assert!(!text.contains("tollway_breaker_state{"), "no breaker, no state:\n{text}");
    }
}
