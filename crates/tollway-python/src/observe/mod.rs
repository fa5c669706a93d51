//! Who is told of decisions and failures: Python's log, counters, and functions of the user's.

mod failures;
pub(crate) mod hooks;
mod metrics;

use pyo3::prelude::*;

pub(crate) use failures::FailureLog;
pub(crate) use metrics::metrics;

/// Adds what `tollway.observe` stands on.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<hooks::Call>()?;
    module.add_function(wrap_pyfunction!(hooks::add_hooks, module)?)?;
    module.add_function(wrap_pyfunction!(hooks::remove_hooks, module)?)?;
    metrics::register(module)
}
