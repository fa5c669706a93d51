//! What a health check found, as Python sees it.

use std::time::{SystemTime, UNIX_EPOCH};

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use tollway::Status;

/// How the backends of a limiter are. True when all of them answer.
#[pyclass(frozen, module = "tollway")]
pub struct Health {
    status: Status,
    backends: Py<PyTuple>,
}

/// How one backend is. True when it answers.
#[pyclass(frozen, module = "tollway")]
pub struct BackendHealth {
    found: tollway::BackendHealth,
    /// When it was looked at, in seconds since 1970.
    at: f64,
}

impl Health {
    pub(crate) fn new(py: Python<'_>, found: tollway::Health) -> PyResult<Self> {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        let backends: Vec<_> = found
            .backends
            .into_iter()
            .map(|found| Py::new(py, BackendHealth { found, at }))
            .collect::<PyResult<_>>()?;
        Ok(Self { status: found.status, backends: PyTuple::new(py, backends)?.unbind() })
    }
}

#[pymethods]
impl Health {
    /// `"healthy"` when all backends answer, `"degraded"` when some do, `"down"` when none does.
    #[getter]
    fn status(&self) -> &'static str {
        self.status.name()
    }

    /// Each backend, in the order given.
    #[getter]
    fn backends(&self, py: Python<'_>) -> Py<PyTuple> {
        self.backends.clone_ref(py)
    }

    /// The same as plain values, ready for JSON.
    fn as_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        dict.set_item("status", self.status())?;
        let backends = self.backends.bind(py).iter();
        let dicts = backends.map(|backend| backend.cast::<BackendHealth>()?.get().as_dict(py));
        dict.set_item("backends", dicts.collect::<PyResult<Vec<_>>>()?)?;
        Ok(dict)
    }

    fn __bool__(&self) -> bool {
        self.status == Status::Healthy
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("Health(\"{}\", {})", self.status(), self.backends.bind(py).repr()?))
    }
}

#[pymethods]
impl BackendHealth {
    /// Its URL, without its password.
    #[getter]
    fn name(&self) -> &str {
        &self.found.name
    }

    /// Whether it answered.
    #[getter]
    fn up(&self) -> bool {
        self.found.is_up()
    }

    /// Seconds that the answer took; `None` without one.
    #[getter]
    fn latency(&self) -> Option<f64> {
        self.found.ping.as_ref().ok().map(|took| took.as_secs_f64())
    }

    /// Why there was no answer; `None` when there was one.
    #[getter]
    fn error(&self) -> Option<String> {
        self.found.ping.as_ref().err().map(ToString::to_string)
    }

    /// `"closed"`, `"open"` or `"half_open"`; `None` for a backend without a breaker.
    #[getter]
    fn breaker(&self) -> Option<&'static str> {
        self.found.breaker.map(|state| state.name())
    }

    /// Calls that wait for their turn.
    #[getter]
    fn waiting(&self) -> usize {
        self.found.waiting
    }

    /// What went wrong last, though it may be well again.
    #[getter]
    fn last_error(&self) -> Option<String> {
        self.found.last_error.as_ref().map(|(error, _)| error.to_string())
    }

    /// When that was, in seconds since 1970.
    #[getter]
    fn last_error_at(&self) -> Option<f64> {
        self.found.last_error.as_ref().map(|(_, ago)| self.at - ago.as_secs_f64())
    }

    /// The same as plain values, ready for JSON.
    fn as_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        dict.set_item("name", self.name())?;
        dict.set_item("up", self.up())?;
        dict.set_item("latency", self.latency())?;
        dict.set_item("error", self.error())?;
        dict.set_item("breaker", self.breaker())?;
        dict.set_item("waiting", self.waiting())?;
        dict.set_item("last_error", self.last_error())?;
        dict.set_item("last_error_at", self.last_error_at())?;
        Ok(dict)
    }

    fn __bool__(&self) -> bool {
        self.up()
    }

    fn __repr__(&self) -> String {
        let state = if self.up() { "up" } else { "down" };
        format!("BackendHealth(\"{}\", {state}, breaker={:?})", self.name(), self.breaker().unwrap_or("none"))
    }
}
