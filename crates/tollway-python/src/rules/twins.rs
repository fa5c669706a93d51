//! Names of lock-outs in use: two of one name and different limits would share counts.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use pyo3::prelude::*;
use tollway::Policy;

use crate::errors;
use crate::limiter::Limiter;

/// What a name stands for as long as some lock-out goes by it.
pub(super) struct Named {
    policy: Arc<Policy>,
    /// The line of Python that said so first.
    place: String,
}

type Names = HashMap<(String, String), Weak<Named>>;

static NAMES: LazyLock<Mutex<Names>> = LazyLock::new(Mutex::default);

/// Takes the names of these policies where a limiter counts, to be held while they are in use.
///
/// Fails when one of them stands for other limits in a lock-out that is still there.
pub(super) fn named<'a>(
    py: Python<'_>,
    limiter: &Limiter,
    policies: impl Iterator<Item = &'a Arc<Policy>>,
) -> PyResult<Vec<Arc<Named>>> {
    // Before the lock is taken: other threads may run while Python is asked.
    let (counts_at, place) = (limiter.counts_at(), caller(py));
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    let mut taken = Vec::new();
    for policy in policies {
        let name = (counts_at.clone(), policy.name().to_owned());
        if let Some(known) = names.get(&name).and_then(Weak::upgrade) {
            if known.policy != *policy {
                return Err(twins(&known, policy, &place));
            }
            taken.push(known);
            continue;
        }
        let new = Arc::new(Named { policy: Arc::clone(policy), place: place.clone() });
        names.retain(|_, known| known.strong_count() > 0);
        names.insert(name, Arc::downgrade(&new));
        taken.push(new);
    }
    Ok(taken)
}

fn twins(known: &Named, policy: &Policy, place: &str) -> PyErr {
    let (name, combination) = policy.name().rsplit_once('/').unwrap_or((policy.name(), ""));
    errors::config(format!(
        "lock-out {name:?} counts {combination} as {} at {} and as {} at {place}, in one count: give one of them \
         another name",
        spelled(&known.policy),
        known.place,
        spelled(policy),
    ))
}

fn spelled(policy: &Policy) -> String {
    let rates: Vec<_> = policy.limits().iter().map(|limit| limit.rate().to_string()).collect();
    format!("{} ({})", rates.join("; "), policy.algorithm())
}

/// The line of Python that is running.
fn caller(py: Python<'_>) -> String {
    let line = || -> PyResult<String> {
        let frame = py.import("sys")?.call_method1("_getframe", (0,))?;
        let file: String = frame.getattr("f_code")?.getattr("co_filename")?.extract()?;
        Ok(format!("{file}:{}", frame.getattr("f_lineno")?.extract::<u32>()?))
    };
    line().unwrap_or_else(|_| "an unknown place".to_owned())
}
