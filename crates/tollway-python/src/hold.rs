//! Permits that are held while something runs.

use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyTuple;
use tollway::Reply;

use crate::answers::{Policies, nothing, wait};
use crate::awaiting::Ready;
use crate::decision::Decision;
use crate::errors;
use crate::limiter::Limiter;

/// Permits of a concurrency limit, renewed until they are given back. True when they were there.
///
/// Leaving a `with` block gives them back; so does the end of the object.
#[pyclass(frozen, module = "tollway")]
pub struct Held {
    limiter: Py<Limiter>,
    decision: Py<Decision>,
    held: Mutex<Option<tollway::Held>>,
}

impl Held {
    pub(crate) fn new(py: Python<'_>, limiter: Py<Limiter>, held: tollway::Held, policies: Policies) -> PyResult<Self> {
        let decision = Py::new(py, Decision::new(*held.decision(), policies))?;
        Ok(Self { limiter, decision, held: Mutex::new(Some(held)) })
    }

    /// What gives the permits back; nothing the second time.
    fn given_back(&self) -> Reply<()> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).take();
        match held {
            Some(held) => held.release(),
            None => Box::pin(std::future::ready(Ok(()))),
        }
    }
}

#[pymethods]
impl Held {
    /// What was decided.
    #[getter]
    fn decision(&self, py: Python<'_>) -> Py<Decision> {
        self.decision.clone_ref(py)
    }

    /// Whether the permits were there.
    #[getter]
    fn allowed(&self, py: Python<'_>) -> bool {
        self.decision.bind(py).get().is_allowed()
    }

    /// Whether they are held now: not when refused, released, or lost because no renewal came
    /// through for a whole lease and others took them.
    #[getter]
    fn held(&self) -> bool {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(tollway::Held::is_held)
    }

    /// Gives the permits back. One round trip on a remote backend; nothing the second time.
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        wait(py, self.given_back())?.map_err(|error| errors::from_store(&error))
    }

    /// The same for `await`.
    fn arelease<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.limiter.bind(py).get().later(py, self.given_back(), nothing)
    }

    fn __bool__(&self, py: Python<'_>) -> bool {
        self.allowed(py)
    }

    fn __enter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    #[pyo3(signature = (*_args))]
    fn __exit__(&self, py: Python<'_>, _args: &Bound<'_, PyTuple>) -> PyResult<()> {
        // Permits that could not be given back end with their lease: no reason to lose an error over.
        wait(py, self.given_back()).map(drop)
    }

    fn __aenter__(this: PyRef<'_, Self>) -> PyResult<Py<Ready>> {
        let py = this.py();
        Py::new(py, Ready::new(Ok(Py::<Self>::from(this).into_any())))
    }

    #[pyo3(signature = (*_args))]
    fn __aexit__<'py>(&self, py: Python<'py>, _args: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
        self.limiter.bind(py).get().later(py, self.given_back(), |py, _| Ok(py.None()))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("Held({})", self.decision.bind(py).repr()?))
    }
}
