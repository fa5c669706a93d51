//! The suite that every store must pass, for stores written in Python.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::PyAssertionError;
use pyo3::prelude::*;
use tollway::conformance;
use tollway_stores::cas::CasStore;

use crate::cell::PyCell;
use crate::runtime::runtime;

/// How long one call of an async backend may take here.
const PATIENCE: Duration = Duration::from_secs(10);

/// Proves a backend: random operation sequences must be answered as the pure function answers them.
///
/// Leaves its keys behind, so give the backend a namespace of its own. `seed` makes keys and
/// sequences unique; the same seed runs the same sequences. Raises `AssertionError` that names the
/// broken promise.
#[pyfunction]
#[pyo3(signature = (store, seed = "1"))]
pub fn check_store(py: Python<'_>, store: &Bound<'_, PyAny>, seed: &str) -> PyResult<()> {
    let store = CasStore::new(Arc::new(PyCell::new(store, PATIENCE)?), "conformance");
    let runtime = runtime()?;
    let suite = conformance::run(Arc::new(store), seed);
    let outcome = catch_unwind(AssertUnwindSafe(|| runtime.wait(py, suite)));
    outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        Err(PyAssertionError::new_err(text.unwrap_or("the suite stopped without a reason").to_owned()))
    })
}
