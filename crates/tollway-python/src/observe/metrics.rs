//! The one set of numbers of a process, which all its limiters count in.

use std::sync::{Arc, LazyLock};

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use tollway::{Metrics, Outcome, StoreErrorKind};

static METRICS: LazyLock<Arc<Metrics>> = LazyLock::new(|| Arc::new(Metrics::waiting()));

/// The numbers of this process.
pub(crate) fn metrics() -> &'static Arc<Metrics> {
    &METRICS
}

/// Counts checks from now on, or goes on.
#[pyfunction]
fn metrics_start() {
    METRICS.start();
}

/// Counts checks no more; what was counted stays.
#[pyfunction]
fn metrics_stop() {
    METRICS.stop();
}

/// The numbers of this process in the text format of Prometheus.
#[pyfunction]
fn metrics_text() -> String {
    METRICS.text()
}

/// The numbers of this process: `{"checks": [...], "stores": [...]}`.
#[pyfunction]
fn metrics_read(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let snapshot = METRICS.snapshot();
    let checks = PyList::empty(py);
    for policy in &snapshot.checks {
        for outcome in Outcome::ALL {
            checks.append((&policy.policy, outcome.name(), policy.of(outcome)))?;
        }
    }
    let stores = PyList::empty(py);
    for found in &snapshot.stores {
        let (store, errors) = (PyDict::new(py), PyDict::new(py));
        for (kind, count) in StoreErrorKind::ALL.into_iter().zip(found.calls.errors) {
            errors.set_item(kind.name(), count)?;
        }
        store.set_item("store", &found.store)?;
        store.set_item("breaker", found.breaker.map(|state| state.name()))?;
        store.set_item("waiting", found.waiting)?;
        store.set_item("calls", found.calls.latency.count())?;
        store.set_item("seconds", found.calls.latency.nanos as f64 / 1e9)?;
        store.set_item("skipped", found.calls.skipped)?;
        store.set_item("errors", errors)?;
        stores.append(store)?;
    }
    let read = PyDict::new(py);
    read.set_item("checks", checks)?;
    read.set_item("stores", stores)?;
    Ok(read)
}

/// In a forked child: its parent's numbers are not its own.
#[pyfunction]
fn _begin_anew() {
    METRICS.clear();
}

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add_function(wrap_pyfunction!(metrics_start, module)?)?;
    module.add_function(wrap_pyfunction!(metrics_stop, module)?)?;
    module.add_function(wrap_pyfunction!(metrics_text, module)?)?;
    module.add_function(wrap_pyfunction!(metrics_read, module)?)?;
    let os = py.import("os")?;
    if os.hasattr("register_at_fork")? {
        let named = PyDict::new(py);
        named.set_item("after_in_child", wrap_pyfunction!(_begin_anew, module)?)?;
        os.call_method("register_at_fork", (), Some(&named))?;
    }
    Ok(())
}
