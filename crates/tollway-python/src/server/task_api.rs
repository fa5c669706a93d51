//! The task as Python sees it: the attributes and methods of `asyncio.Task` that asyncio itself,
//! anyio, asgiref and handlers use.

use pyo3::exceptions::{PyRuntimeError, PyStopIteration};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString};
use pyo3::{PyTraverseError, PyVisit, intern};

use super::asyncio::Asyncio;
use super::calls;
use super::task::{self, Outcome, Task};

#[pymethods]
impl Task {
    /// Steps the task: the event loop calls it with what the task waited for.
    #[pyo3(signature = (waited=None))]
    fn __call__(slf: &Bound<'_, Self>, waited: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let server = slf.get().server.clone_ref(slf.py()).into_bound(slf.py());
        server.get().complete_with(&server, || task::wake(slf, waited))
    }

    /// Asks the task to stop by raising CancelledError inside it. False when it has ended.
    #[pyo3(signature = (msg=None))]
    fn cancel(slf: &Bound<'_, Self>, msg: Option<Py<PyAny>>) -> PyResult<bool> {
        task::cancel(slf, msg)
    }

    /// How many requests to cancel are not taken back.
    fn cancelling(&self, py: Python<'_>) -> usize {
        self.state.with(py, |state| state.cancel_requests)
    }

    /// Takes one request to cancel back. Returns how many are left.
    fn uncancel(&self, py: Python<'_>) -> PyResult<usize> {
        let takes_back = Asyncio::get(py)?.uncancel_takes_back;
        Ok(self.state.with(py, |state| {
            state.cancel_requests = state.cancel_requests.saturating_sub(1);
            if takes_back && state.cancel_requests == 0 {
                state.must_cancel = false;
            }
            state.cancel_requests
        }))
    }

    /// Whether the task has ended.
    fn done(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| !state.outcome.is_pending())
    }

    /// Whether the task ended by being cancelled.
    fn cancelled(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| matches!(state.outcome, Outcome::Cancelled(_)))
    }

    /// What the handler returned. Raises what it raised.
    fn result(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match self.ended(py)? {
            Ended::Returned(value) => Ok(value),
            Ended::Failed(error) | Ended::Cancelled(error) => Err(PyErr::from_value(error.into_bound(py))),
        }
    }

    /// What the handler raised, or None.
    fn exception(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        match self.ended(py)? {
            Ended::Returned(_) => Ok(None),
            Ended::Failed(error) => Ok(Some(error)),
            Ended::Cancelled(error) => Err(PyErr::from_value(error.into_bound(py))),
        }
    }

    /// The event loop the task runs on.
    fn get_loop(&self, py: Python<'_>) -> Py<PyAny> {
        self.event_loop.clone_ref(py)
    }

    /// The coroutine the task runs.
    fn get_coro(&self, py: Python<'_>) -> Py<PyAny> {
        self.coroutine.clone_ref(py)
    }

    /// The Context the task runs in.
    fn get_context(&self, py: Python<'_>) -> Py<PyAny> {
        self.context.clone_ref(py)
    }

    /// The task's name; the route's unless it was set.
    fn get_name(&self, py: Python<'_>) -> Py<PyAny> {
        let name = self.state.with(py, |state| state.name.as_ref().map(|name| name.clone_ref(py)));
        name.unwrap_or_else(|| PyString::new(py, &self.route.name).into_any().unbind())
    }

    /// Sets the task's name.
    fn set_name(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = value.py();
        let name = value.str()?.into_any().unbind();
        let old = self.state.with(py, |state| state.name.replace(name));
        drop(old);
        Ok(())
    }

    /// Has `callback` called with the task once it has ended.
    #[pyo3(signature = (callback, /, *, context=None))]
    fn add_done_callback(
        slf: &Bound<'_, Self>,
        callback: Bound<'_, PyAny>,
        context: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        let context = match context {
            Some(context) => context,
            None => calls::copy_context(py)?,
        };
        let this = slf.get();
        let pending = this.state.with(py, |state| {
            let pending = state.outcome.is_pending();
            if pending {
                state.callbacks.push((callback.clone().unbind(), context.clone().unbind()));
            }
            pending
        });
        if !pending {
            let event_loop = this.event_loop.bind(py);
            calls::call_in_context(event_loop, intern!(py, "call_soon"), &[&callback, slf.as_any()], &context)?;
        }
        Ok(())
    }

    /// Takes all callbacks equal to `callback` off the list. Returns how many there were.
    #[pyo3(signature = (callback, /))]
    fn remove_done_callback(&self, callback: &Bound<'_, PyAny>) -> PyResult<usize> {
        let py = callback.py();
        // Comparing runs Python code: the list is taken out meanwhile.
        let mut kept = Vec::new();
        let taken = self.state.with(py, |state| std::mem::take(&mut state.callbacks));
        let before = taken.len();
        for (known, context) in taken {
            if !known.bind(py).eq(callback)? {
                kept.push((known, context));
            }
        }
        let removed = before - kept.len();
        self.state.with(py, |state| {
            kept.append(&mut state.callbacks);
            state.callbacks = kept;
        });
        Ok(removed)
    }

    /// The frame in which the coroutine waits, as a list of one or none.
    #[pyo3(signature = (*, limit=None))]
    fn get_stack<'py>(&self, py: Python<'py>, limit: Option<usize>) -> PyResult<Bound<'py, PyList>> {
        let frames = PyList::empty(py);
        let frame = self.coroutine.bind(py).getattr_opt(intern!(py, "cr_frame"))?;
        if let Some(frame) = frame.filter(|frame| !frame.is_none())
            && limit != Some(0)
        {
            frames.append(frame)?;
        }
        Ok(frames)
    }

    /// Tasks end by themselves.
    fn set_result(&self, _result: &Bound<'_, PyAny>) -> PyResult<()> {
        Err(PyRuntimeError::new_err("a task takes its result from its coroutine: set_result does not apply"))
    }

    /// Tasks end by themselves.
    fn set_exception(&self, _exception: &Bound<'_, PyAny>) -> PyResult<()> {
        Err(PyRuntimeError::new_err("a task takes its exception from its coroutine: set_exception does not apply"))
    }

    fn __await__(slf: &Bound<'_, Self>) -> Awaiting {
        Awaiting { task: slf.clone().unbind() }
    }

    fn __iter__(slf: &Bound<'_, Self>) -> Awaiting {
        Awaiting { task: slf.clone().unbind() }
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let state = self.state_word(py).to_lowercase();
        let name = self.get_name(py).bind(py).str()?.to_string();
        let coroutine = self.coroutine.bind(py).repr()?.to_string();
        Ok(format!("<Task {state} name={name:?} coro={coroutine}>"))
    }

    #[getter(_fut_waiter)]
    fn waiter(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state.with(py, |state| state.waiter.as_ref().map(|waiter| waiter.clone_ref(py)))
    }

    #[getter(_must_cancel)]
    fn must_cancel(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.must_cancel)
    }

    #[getter(_cancel_message)]
    fn cancel_message(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state.with(py, |state| state.cancel_message.as_ref().map(|message| message.clone_ref(py)))
    }

    #[getter(_num_cancels_requested)]
    fn cancel_requests(&self, py: Python<'_>) -> usize {
        self.cancelling(py)
    }

    /// The callbacks and their Contexts, as asyncio shows them: None when there are none.
    #[getter(_callbacks)]
    fn callbacks(&self, py: Python<'_>) -> Option<Vec<(Py<PyAny>, Py<PyAny>)>> {
        self.state.with(py, |state| {
            let pairs =
                state.callbacks.iter().map(|(callback, context)| (callback.clone_ref(py), context.clone_ref(py)));
            (!state.callbacks.is_empty()).then(|| pairs.collect())
        })
    }

    #[getter(_asyncio_future_blocking)]
    fn blocking(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.blocking)
    }

    #[setter(_asyncio_future_blocking)]
    fn set_blocking(&self, py: Python<'_>, value: bool) {
        self.state.with(py, |state| state.blocking = value);
    }

    #[getter(_loop)]
    fn event_loop(&self, py: Python<'_>) -> Py<PyAny> {
        self.get_loop(py)
    }

    #[getter(_coro)]
    fn coroutine(&self, py: Python<'_>) -> Py<PyAny> {
        self.get_coro(py)
    }

    #[getter(_state)]
    fn state_word(&self, py: Python<'_>) -> &'static str {
        self.state.with(py, |state| match state.outcome {
            Outcome::Pending => "PENDING",
            Outcome::Cancelled(_) => "CANCELLED",
            Outcome::Returned(_) | Outcome::Failed(_) => "FINISHED",
        })
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.traverse(&visit)
    }

    fn __clear__(&self, py: Python<'_>) {
        drop(self.state.take(py));
    }
}

/// An outcome with references of its own.
enum Ended {
    Returned(Py<PyAny>),
    Failed(Py<PyAny>),
    Cancelled(Py<PyAny>),
}

impl Task {
    fn ended(&self, py: Python<'_>) -> PyResult<Ended> {
        let ended = self.state.with(py, |state| match &state.outcome {
            Outcome::Pending => None,
            Outcome::Returned(value) => Some(Ended::Returned(value.clone_ref(py))),
            Outcome::Failed(error) => Some(Ended::Failed(error.clone_ref(py))),
            Outcome::Cancelled(error) => Some(Ended::Cancelled(error.clone_ref(py))),
        });
        match ended {
            Some(ended) => Ok(ended),
            None => Err(Asyncio::get(py)?.invalid_state(py, "the task has not ended")),
        }
    }
}

/// `await task`, one step at a time.
#[pyclass(module = "tollway._tollway", frozen)]
pub(super) struct Awaiting {
    task: Py<Task>,
}

#[pymethods]
impl Awaiting {
    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Py<Task>> {
        let task = self.task.get();
        if task.done(py) {
            let result = task.result(py)?;
            // In a tuple of its own: a result that is a tuple must stay one object.
            return Err(PyStopIteration::new_err((result,)));
        }
        let waiting = task.state.with(py, |state| std::mem::replace(&mut state.blocking, true));
        if waiting {
            return Err(PyRuntimeError::new_err("await was not used with this task"));
        }
        Ok(self.task.clone_ref(py))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.task)
    }
}
