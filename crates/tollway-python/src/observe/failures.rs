//! Failures in Python's log, sampled.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use tollway::{FailMode, Observer, StoreError};

use crate::interpreter;
use crate::runtime::Runtime;

/// How often a failing store may be mentioned.
const PAUSE: Duration = Duration::from_secs(10);

/// Warns on the logger `tollway` when a store fails: at once, then each ten seconds with a count.
#[derive(Debug)]
pub(crate) struct FailureLog {
    fail_mode: FailMode,
    last: Mutex<(Option<Instant>, u64)>,
}

impl FailureLog {
    pub(crate) fn new(fail_mode: FailMode) -> Self {
        Self { fail_mode, last: Mutex::new((None, 0)) }
    }

    /// How many failures to mention now, if it is time to.
    fn due(&self) -> Option<u64> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.1 += 1;
        if last.0.is_some_and(|at| at.elapsed() < PAUSE) {
            return None;
        }
        last.0 = Some(Instant::now());
        Some(std::mem::take(&mut last.1))
    }
}

impl Observer for FailureLog {
    fn on_failure(&self, error: &StoreError) {
        let Some(count) = self.due() else { return };
        let message = format!("{error} ({count} failed since last said; fail mode {} decides)", self.fail_mode.name());
        let warn = move |py: Python<'_>| {
            let logger = py.import("logging").and_then(|logging| logging.call_method1("getLogger", ("tollway",)));
            if let Err(error) = logger.and_then(|logger| logger.call_method1("warning", ("%s", message))) {
                error.write_unraisable(py, None);
            }
        };
        match Runtime::driven_here() {
            // A handler of the log may block, and may ask a limiter itself.
            Some(runtime) => runtime.afterwards(warn),
            // Without an interpreter, at exit, there is nobody to tell.
            None => drop(interpreter::enter(warn)),
        }
    }
}
