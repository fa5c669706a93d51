//! Functions of the user's that are called after decisions and errors.
//!
//! They are called by whoever asked: on the same thread or loop and in the same context, so that
//! what they find there, such as the span of the request, is the caller's.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple};
use pyo3::{PyTraverseError, PyVisit, intern};
use tollway::{Charge, Observer, Policy, StoreError};

use crate::decision::Decision;
use crate::errors;

/// Whether there are any for all limiters: those of memory, or those that may `wait` too.
#[inline]
pub(crate) fn are_common(wait: bool) -> bool {
    let [all, waits] = &HAVE_COMMON;
    all.load(Ordering::Relaxed) || (wait && waits.load(Ordering::Relaxed))
}

fn change_common<T>(change: impl FnOnce(&mut Vec<Arc<Hooks>>) -> T) -> T {
    let mut common = COMMON.lock().unwrap_or_else(PoisonError::into_inner);
    let changed = change(&mut common);
    for (have, only_waits) in HAVE_COMMON.iter().zip([false, true]) {
        have.store(common.iter().any(|hooks| hooks.only_waits == only_waits), Ordering::Relaxed);
    }
    changed
}

/// What is to be called, and when.
pub(crate) struct Hooks {
    number: u64,
    on_decision: Option<Py<PyAny>>,
    on_error: Option<Py<PyAny>>,
    /// Not for what was answered without waiting.
    only_waits: bool,
    has_raised: AtomicBool,
}

static LAST: AtomicU64 = AtomicU64::new(0);
/// Those of all limiters.
static COMMON: Mutex<Vec<Arc<Hooks>>> = Mutex::new(Vec::new());
/// Whether there are any of those for every answer, and any for answers that are waited for.
static HAVE_COMMON: [AtomicBool; 2] = [AtomicBool::new(false), AtomicBool::new(false)];

impl Hooks {
    /// Reads what a user gave; `None` for nothing.
    pub(crate) fn read(
        py: Python<'_>,
        on_decision: Option<Py<PyAny>>,
        on_error: Option<Py<PyAny>>,
        only_waits: bool,
    ) -> PyResult<Option<Arc<Self>>> {
        for (name, hook) in [("on_decision", &on_decision), ("on_error", &on_error)] {
            let Some(hook) = hook else { continue };
            let asks = py.import("inspect")?.call_method1("iscoroutinefunction", (hook,))?.is_truthy()?;
            if asks || !hook.bind(py).is_callable() {
                return Err(errors::config(format!(
                    "{name} is a plain function of two arguments, not {}: it is called and not awaited",
                    hook.bind(py).repr()?
                )));
            }
        }
        if on_decision.is_none() && on_error.is_none() {
            return Ok(None);
        }
        let number = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(Some(Arc::new(Self { number, on_decision, on_error, only_waits, has_raised: AtomicBool::new(false) })))
    }

    /// Shows the collector the functions.
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.on_decision.iter().chain(&self.on_error).try_for_each(|hook| visit.call(hook))
    }

    /// Calls one of them. What it raises is logged the first time and breaks nothing, unless it is
    /// no `Exception`: an interrupt goes on.
    fn call<'py>(
        &self,
        hook: &Option<Py<PyAny>>,
        context: Option<&Bound<'py, PyAny>>,
        about: Bound<'py, PyAny>,
        call: &Bound<'py, Call>,
    ) -> PyResult<()> {
        let Some(hook) = hook else { return Ok(()) };
        let (py, hook) = (call.py(), hook.bind(call.py()));
        let answer = match context {
            Some(context) => context.call_method1(intern!(py, "run"), (hook, about, call)),
            None => hook.call1((about, call)),
        };
        let Err(error) = answer else { return Ok(()) };
        if !error.is_instance_of::<PyException>(py) {
            return Err(error);
        }
        if self.has_raised.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let named = PyDict::new(py);
        named.set_item("exc_info", error.into_value(py))?;
        let words = "%r raised and is called again; it is not said again";
        let logger = py.import("logging")?.call_method1("getLogger", ("tollway",))?;
        logger.call_method("error", (words, hook), Some(&named)).map(drop)
    }
}

/// Calls functions after the decisions and errors of every limiter of this process; answers a number
/// for `remove_hooks`. With `only_waits` not for those that were answered without waiting.
#[pyfunction]
#[pyo3(signature = (on_decision = None, on_error = None, *, only_waits = false))]
pub(crate) fn add_hooks(
    py: Python<'_>,
    on_decision: Option<Py<PyAny>>,
    on_error: Option<Py<PyAny>>,
    only_waits: bool,
) -> PyResult<u64> {
    let hooks = Hooks::read(py, on_decision, on_error, only_waits)?
        .ok_or_else(|| errors::config("add_hooks() needs on_decision, on_error or both"))?;
    let number = hooks.number;
    change_common(|common| common.push(hooks));
    Ok(number)
}

/// Calls them no more.
#[pyfunction]
pub(crate) fn remove_hooks(number: u64) {
    let gone = change_common(|common| {
        let place = common.iter().position(|hooks| hooks.number == number)?;
        Some(common.remove(place))
    });
    // Not under the lock: what goes with them may be Python's.
    drop(gone);
}

/// What a limiter was asked.
#[pyclass(frozen, module = "tollway")]
pub struct Call {
    operation: &'static str,
    charges: Arc<[Asked]>,
    /// Which of the charges is meant.
    part: std::ops::Range<usize>,
    backend: String,
    waited: bool,
    began_ns: u128,
    seconds: f64,
    error: Option<Py<PyAny>>,
    answered: bool,
}

struct Asked {
    policy: Arc<Policy>,
    key: Box<str>,
    cost: u32,
}

impl Call {
    fn asked(&self) -> &[Asked] {
        &self.charges[self.part.clone()]
    }
}

#[pymethods]
impl Call {
    /// `"check"`, `"acquire"`, `"reserve"` or `"hold"`.
    #[getter]
    fn operation(&self) -> &'static str {
        self.operation
    }

    /// The names of the policies that were to be charged.
    #[getter]
    fn policies<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.asked().iter().map(|asked| asked.policy.name()))
    }

    /// Whom they were to be charged to, in the same order.
    #[getter]
    fn keys<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.asked().iter().map(|asked| &*asked.key))
    }

    /// How much, in the same order.
    #[getter]
    fn costs<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.asked().iter().map(|asked| asked.cost))
    }

    /// The URL of the backend, without its password.
    #[getter]
    fn backend(&self) -> &str {
        &self.backend
    }

    /// Whether the answer had to be waited for: false in memory, and for refusals repeated here.
    #[getter]
    fn waited(&self) -> bool {
        self.waited
    }

    /// When it began, in nanoseconds since 1970.
    #[getter]
    fn began_ns(&self) -> u128 {
        self.began_ns
    }

    /// How long it took, in seconds.
    #[getter]
    fn seconds(&self) -> f64 {
        self.seconds
    }

    /// What the backend raised, though the fail mode may have answered in its place; else `None`.
    #[getter]
    fn error(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.error.as_ref().map(|error| error.clone_ref(py))
    }

    /// Whether there is a decision: false when the error is what the caller gets.
    #[getter]
    fn answered(&self) -> bool {
        self.answered
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.error.iter().try_for_each(|error| visit.call(error))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!(
            "Call(\"{}\", policies={}, backend=\"{}\")",
            self.operation,
            self.policies(py)?.repr()?,
            self.backend
        ))
    }
}

/// What the store of one call said that the fail mode answered in place of.
#[derive(Debug, Default)]
struct Failure(Mutex<Option<StoreError>>);

impl Observer for Failure {
    fn on_failure(&self, error: &StoreError) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
    }
}

/// A call that hooks are to hear of.
pub(crate) struct Ear {
    hooks: Vec<Arc<Hooks>>,
    operation: &'static str,
    charges: Arc<[Asked]>,
    backend: String,
    failure: Arc<Failure>,
    /// The caller's, when the answer comes in another.
    context: Option<Py<PyAny>>,
    waited: bool,
    at: SystemTime,
    began: Instant,
}

impl Ear {
    /// An ear for a call. `waits` says whether the answer is to be waited for.
    pub(crate) fn new(
        own: Option<&Arc<Hooks>>,
        operation: &'static str,
        backend: &str,
        charges: &[Charge<'_>],
        waits: bool,
    ) -> Self {
        let common = COMMON.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let asked = |charge: &Charge<'_>| Asked {
            policy: Arc::clone(charge.policy),
            key: charge.key.into(),
            cost: charge.cost,
        };
        Self {
            hooks: own.cloned().into_iter().chain(common).collect(),
            operation,
            charges: charges.iter().map(asked).collect(),
            backend: backend.to_owned(),
            failure: Arc::default(),
            context: None,
            waited: waits,
            at: SystemTime::now(),
            began: Instant::now(),
        }
    }

    /// The limiter to ask, which tells this ear of failures too.
    pub(crate) fn beside(&self, limiter: &tollway::Limiter) -> tollway::Limiter {
        limiter.clone().with_observer(Arc::clone(&self.failure) as Arc<dyn Observer>)
    }

    /// The answer is there without waiting.
    pub(crate) fn is_done(&mut self) {
        self.waited = false;
    }

    /// The answer comes in another context than the caller's.
    pub(crate) fn keep_context(&mut self, py: Python<'_>) -> PyResult<()> {
        static COPY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        self.context = Some(COPY.import(py, "contextvars", "copy_context")?.call0()?.unbind());
        Ok(())
    }

    fn told(
        &self,
        py: Python<'_>,
        part: std::ops::Range<usize>,
        error: Option<&Bound<'_, PyAny>>,
        answered: bool,
    ) -> PyResult<Py<Call>> {
        let call = Call {
            operation: self.operation,
            charges: Arc::clone(&self.charges),
            part,
            backend: self.backend.clone(),
            waited: self.waited,
            began_ns: self.at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos()),
            seconds: self.began.elapsed().as_secs_f64(),
            error: error.map(|error| error.clone().unbind()),
            answered,
        };
        Py::new(py, call)
    }

    /// Tells that there is no answer.
    pub(crate) fn hear_error(&self, py: Python<'_>, error: &PyErr) -> PyResult<()> {
        self.tell_error(py, error.value(py).as_any(), false)
    }

    fn tell_error(&self, py: Python<'_>, error: &Bound<'_, PyAny>, answered: bool) -> PyResult<()> {
        let call = self.told(py, 0..self.charges.len(), Some(error), answered)?;
        self.each(py, call.bind(py), |hooks| &hooks.on_error, error)
    }

    /// Tells of the answers to the charges: one to all of them, or one to each.
    pub(crate) fn hear(&self, py: Python<'_>, decisions: &[Decision]) -> PyResult<()> {
        let failure = self.failure.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let failure = failure.map(|failure| errors::from_store(&failure).into_value(py).into_bound(py).into_any());
        if let Some(failure) = &failure {
            self.tell_error(py, failure, true)?;
        }
        for (number, decision) in decisions.iter().enumerate() {
            let part = if decisions.len() == 1 { 0..self.charges.len() } else { number..number + 1 };
            let call = self.told(py, part, failure.as_ref(), true)?;
            let decision = Bound::new(py, decision.clone())?;
            self.each(py, call.bind(py), |hooks| &hooks.on_decision, decision.as_any())?;
        }
        Ok(())
    }

    fn each(
        &self,
        py: Python<'_>,
        call: &Bound<'_, Call>,
        hook: fn(&Hooks) -> &Option<Py<PyAny>>,
        about: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let context = self.context.as_ref().map(|context| context.bind(py).clone());
        let hooks = self.hooks.iter().filter(|hooks| self.waited || !hooks.only_waits);
        hooks.into_iter().try_for_each(|hooks| hooks.call(hook(hooks), context.as_ref(), about.clone(), call))
    }
}
