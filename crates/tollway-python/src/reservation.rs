//! Permits held for a cost that is not known yet.

use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyTuple;
use tollway::{Reply, Reservation as Held};

use crate::answers::{Policies, finish, wait};
use crate::awaiting::Ready;
use crate::charges::checked;
use crate::decision::Decision;
use crate::errors;
use crate::limiter::Limiter;

/// Permits held for a request whose cost is not known yet. True when the request may pass.
///
/// Leaving a `with` block by an exception gives everything back; leaving it otherwise without a
/// commit keeps the whole reservation charged.
#[pyclass(frozen, module = "tollway")]
pub struct Reservation {
    limiter: Py<Limiter>,
    decision: Py<Decision>,
    policies: Policies,
    held: Mutex<Option<Held>>,
}

impl Reservation {
    pub(crate) fn new(py: Python<'_>, limiter: Py<Limiter>, held: Held, policies: Policies) -> PyResult<Self> {
        let decision = Py::new(py, Decision::new(*held.decision(), policies.clone()))?;
        Ok(Self { limiter, decision, policies, held: Mutex::new(Some(held)) })
    }

    fn take(&self) -> Option<Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn settled(&self, actual: i64) -> PyResult<Reply<tollway::Decision>> {
        let actual = checked(actual)?;
        let held = self.take().ok_or_else(|| errors::config("this reservation is settled already"))?;
        Ok(held.commit(actual))
    }
}

#[pymethods]
impl Reservation {
    /// What was decided at the reserved cost.
    #[getter]
    fn decision(&self, py: Python<'_>) -> Py<Decision> {
        self.decision.clone_ref(py)
    }

    /// Whether the request may pass.
    #[getter]
    fn allowed(&self, py: Python<'_>) -> bool {
        self.decision.bind(py).get().is_allowed()
    }

    /// Settles at the actual cost: less is given back; more is owed, and earned back first.
    fn commit(&self, py: Python<'_>, actual: i64) -> PyResult<Decision> {
        let reply = self.settled(actual)?;
        finish(wait(py, reply)?, self.policies.clone())
    }

    /// The same for `await`.
    fn acommit<'py>(&self, py: Python<'py>, actual: i64) -> PyResult<Bound<'py, PyAny>> {
        let (reply, policies) = (self.settled(actual)?, self.policies.clone());
        let convert = move |py: Python<'_>, answer| Ok(Py::new(py, finish(answer, policies)?)?.into_any());
        self.limiter.bind(py).get().later(py, reply, convert)
    }

    /// Gives everything back.
    fn cancel(&self, py: Python<'_>) -> PyResult<Decision> {
        self.commit(py, 0)
    }

    /// The same for `await`.
    fn acancel<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.acommit(py, 0)
    }

    fn __bool__(&self, py: Python<'_>) -> bool {
        self.allowed(py)
    }

    fn __enter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    #[pyo3(signature = (error, *_args))]
    fn __exit__(&self, py: Python<'_>, error: Option<&Bound<'_, PyAny>>, _args: &Bound<'_, PyTuple>) -> PyResult<()> {
        match self.take() {
            // What the block raised goes on, whatever becomes of this.
            Some(held) if error.is_some() => wait(py, held.cancel()).map(drop),
            _ => Ok(()),
        }
    }

    fn __aenter__(this: PyRef<'_, Self>) -> PyResult<Py<Ready>> {
        let py = this.py();
        Py::new(py, Ready::new(Ok(Py::<Self>::from(this).into_any())))
    }

    #[pyo3(signature = (error, *_args))]
    fn __aexit__<'py>(
        &self,
        py: Python<'py>,
        error: Option<&Bound<'py, PyAny>>,
        _args: &Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        match self.take() {
            Some(held) if error.is_some() => {
                let convert = |py: Python<'_>, _: Result<tollway::Decision, _>| Ok(py.None());
                self.limiter.bind(py).get().later(py, held.cancel(), convert)
            }
            _ => Ok(Bound::new(py, Ready::new(Ok(py.None())))?.into_any()),
        }
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("Reservation({})", self.decision.bind(py).repr()?))
    }
}
