//! Lock-outs as Python sees them.

use std::sync::{Arc, Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use tollway::rules::Attempt as Held;
use tollway::{Algorithm, Reply, StoreError};

use crate::answers::{nothing, wait};
use crate::awaiting::Ready;
use crate::decision::Decision;
use crate::errors;
use crate::limiter::Limiter;
use crate::rules::twins::{self, Named};

/// Limits on failures, counted by combinations of fields such as `username+ip`.
#[pyclass(frozen, module = "tollway.rules")]
pub struct Lockout {
    limiter: Py<Limiter>,
    inner: tollway::rules::Lockout,
    _names: Vec<Arc<Named>>,
}

/// What is known of an attempt, by field. `None` and what is empty is left out.
struct Known(Vec<(String, String)>);

impl Known {
    fn new(fields: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let mut known = Vec::new();
        for (name, value) in fields.into_iter().flatten() {
            if !value.is_none() {
                known.push((name.extract()?, value.str()?.to_str()?.to_owned()));
            }
        }
        Ok(Self(known))
    }

    fn borrow(&self) -> Vec<(&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }
}

#[pymethods]
impl Lockout {
    #[new]
    #[pyo3(signature = (limiter, name, limits, *, algorithm = "fixed_window:first", clears = None, hold = true))]
    fn new(
        py: Python<'_>,
        limiter: Py<Limiter>,
        name: &str,
        limits: &Bound<'_, PyDict>,
        algorithm: &str,
        clears: Option<Vec<String>>,
        hold: bool,
    ) -> PyResult<Self> {
        let algorithm: Algorithm = algorithm.parse().map_err(|error| errors::from_config(&error))?;
        let mut pairs = Vec::new();
        for (text, rate) in limits {
            pairs.push((text.extract::<String>()?, rate.str()?.to_str()?.to_owned()));
        }
        let pairs: Vec<_> = pairs.iter().map(|(text, rate)| (text.as_str(), rate.as_str())).collect();
        let mut inner = tollway::rules::Lockout::with_algorithm(name, &pairs, algorithm)
            .map_err(|error| errors::from_config(&error))?;
        if let Some(clears) = clears {
            let clears: Vec<_> = clears.iter().map(String::as_str).collect();
            inner = inner.clearing(&clears).map_err(|error| errors::from_config(&error))?;
        }
        let names = twins::named(py, limiter.get(), inner.policies())?;
        Ok(Self { limiter, inner: if hold { inner } else { inner.counting_after() }, _names: names })
    }

    /// Begins an attempt. One round trip on a remote backend.
    #[pyo3(signature = (**fields))]
    fn attempt(&self, py: Python<'_>, fields: Option<&Bound<'_, PyDict>>) -> PyResult<Attempt> {
        let reply = self.inner.attempt(&*self.limiter.get().shared()?, &Known::new(fields)?.borrow());
        Attempt::new(py, self.limiter.clone_ref(py), wait(py, reply)?)
    }

    /// The same for `await`.
    #[pyo3(signature = (**fields))]
    fn aattempt<'py>(&self, py: Python<'py>, fields: Option<&Bound<'py, PyDict>>) -> PyResult<Bound<'py, PyAny>> {
        let reply = self.inner.attempt(&*self.limiter.get().shared()?, &Known::new(fields)?.borrow());
        let limiter = self.limiter.clone_ref(py);
        self.limiter
            .get()
            .later(py, reply, move |py, answer| Ok(Py::new(py, Attempt::new(py, limiter, answer)?)?.into_any()))
    }

    /// What an attempt would be told; charges nothing. One round trip on a remote backend.
    #[pyo3(signature = (**fields))]
    fn peek(&self, py: Python<'_>, fields: Option<&Bound<'_, PyDict>>) -> PyResult<Decision> {
        let reply = self.inner.peek(&*self.limiter.get().shared()?, &Known::new(fields)?.borrow());
        decision(wait(py, reply)?)
    }

    /// The same for `await`.
    #[pyo3(signature = (**fields))]
    fn apeek<'py>(&self, py: Python<'py>, fields: Option<&Bound<'py, PyDict>>) -> PyResult<Bound<'py, PyAny>> {
        let reply = self.inner.peek(&*self.limiter.get().shared()?, &Known::new(fields)?.borrow());
        self.limiter.get().later(py, reply, |py, answer| Ok(Py::new(py, decision(answer)?)?.into_any()))
    }

    /// Forgets every failure of these fields: unlocks.
    #[pyo3(signature = (**fields))]
    fn clear(&self, py: Python<'_>, fields: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
        let reply = self.inner.clear(&*self.limiter.get().shared()?, &Known::new(fields)?.borrow());
        wait(py, reply)?.map_err(|error| errors::from_store(&error))
    }

    /// The same for `await`.
    #[pyo3(signature = (**fields))]
    fn aclear<'py>(&self, py: Python<'py>, fields: Option<&Bound<'py, PyDict>>) -> PyResult<Bound<'py, PyAny>> {
        let reply = self.inner.clear(&*self.limiter.get().shared()?, &Known::new(fields)?.borrow());
        self.limiter.get().later(py, reply, nothing)
    }
}

fn decision(answer: Result<Held, StoreError>) -> PyResult<Decision> {
    let held = answer.map_err(|error| errors::from_store(&error))?;
    Ok(Decision::new(*held.decision(), held.policies()))
}

/// An attempt whose outcome is awaited. True when it may go on.
///
/// As a context manager it counts as failed unless `succeeded()` or `cancel()` was called, whatever
/// the block raises: a wrong password is often told by an exception.
#[pyclass(frozen, module = "tollway.rules")]
pub struct Attempt {
    limiter: Py<Limiter>,
    decision: Py<Decision>,
    combination: String,
    held: Mutex<Option<Held>>,
}

impl Attempt {
    fn new(py: Python<'_>, limiter: Py<Limiter>, answer: Result<Held, StoreError>) -> PyResult<Self> {
        let held = answer.map_err(|error| errors::from_store(&error))?;
        let decision = Py::new(py, Decision::new(*held.decision(), held.policies()))?;
        let combination = held.combination().unwrap_or_default().to_owned();
        Ok(Self { limiter, decision, combination, held: Mutex::new(Some(held)) })
    }

    fn take(&self) -> Option<Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn settle(&self, how: fn(Held, &tollway::Limiter) -> Reply<()>) -> PyResult<Reply<()>> {
        let held = self.take().ok_or_else(|| errors::config("the outcome of this attempt is told already"))?;
        Ok(how(held, &*self.limiter.get().shared()?))
    }

    fn now(&self, py: Python<'_>, how: fn(Held, &tollway::Limiter) -> Reply<()>) -> PyResult<()> {
        let reply = self.settle(how)?;
        wait(py, reply)?.map_err(|error| errors::from_store(&error))
    }

    fn later<'py>(
        &self,
        py: Python<'py>,
        how: fn(Held, &tollway::Limiter) -> Reply<()>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let reply = self.settle(how)?;
        self.limiter.get().later(py, reply, nothing)
    }
}

#[pymethods]
impl Attempt {
    /// Whether it may go on, and how long a client that is locked out has to wait.
    #[getter]
    fn decision(&self, py: Python<'_>) -> Py<Decision> {
        self.decision.clone_ref(py)
    }

    /// Whether it may go on.
    #[getter]
    fn allowed(&self) -> bool {
        self.decision.get().is_allowed()
    }

    /// The combination that locks, or the one with the fewest failures left.
    #[getter]
    fn combination(&self) -> &str {
        &self.combination
    }

    /// It has failed.
    fn failed(&self, py: Python<'_>) -> PyResult<()> {
        self.now(py, Held::failed)
    }

    /// The same for `await`.
    fn afailed<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.later(py, Held::failed)
    }

    /// It has succeeded: forgets the failures of the combinations that clear.
    fn succeeded(&self, py: Python<'_>) -> PyResult<()> {
        self.now(py, Held::succeeded)
    }

    /// The same for `await`.
    fn asucceeded<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.later(py, Held::succeeded)
    }

    /// It came to nothing, neither way: gives back what it took.
    fn cancel(&self, py: Python<'_>) -> PyResult<()> {
        self.now(py, Held::cancel)
    }

    /// The same for `await`.
    fn acancel<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.later(py, Held::cancel)
    }

    fn __bool__(&self) -> bool {
        self.allowed()
    }

    fn __enter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    #[pyo3(signature = (*_args))]
    fn __exit__(&self, py: Python<'_>, _args: &Bound<'_, PyTuple>) -> PyResult<()> {
        match self.take() {
            Some(held) => {
                let reply = held.failed(&*self.limiter.get().shared()?);
                wait(py, reply)?.map_err(|error| errors::from_store(&error))
            }
            None => Ok(()),
        }
    }

    fn __aenter__(this: PyRef<'_, Self>) -> PyResult<Py<Ready>> {
        let py = this.py();
        Py::new(py, Ready::new(Ok(Py::<Self>::from(this).into_any())))
    }

    #[pyo3(signature = (*_args))]
    fn __aexit__<'py>(&self, py: Python<'py>, _args: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
        match self.take() {
            Some(held) => {
                let reply = held.failed(&*self.limiter.get().shared()?);
                self.limiter.get().later(py, reply, nothing)
            }
            None => Ok(Bound::new(py, Ready::new(Ok(py.None())))?.into_any()),
        }
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("Attempt({})", self.decision.bind(py).repr()?))
    }
}
