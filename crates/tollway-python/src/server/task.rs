//! The task: an object that steps one coroutine and is for asyncio what `asyncio.Task` is.
//!
//! The first step is taken at once, while the request is being read. Most handlers end there and
//! nothing else of asyncio is touched. A handler that waits is woken by the loop: the task itself
//! is the callback of what it waits for.

use std::sync::Arc;
use std::task::Waker;

use pyo3::exceptions::{PyKeyboardInterrupt, PyRuntimeError, PySystemExit};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use pyo3::{PyTraverseError, PyVisit, intern};
use tollway_server::Response;
use tollway_server::app::Problem;

use super::asyncio::Asyncio;
use super::calls::{self, Step};
use super::cell::GilCell;
use super::core::{Core, Surroundings};
use super::handler::busy;
use super::lifecycle::Server;
use super::request::Request;
use super::respond::{problem, report};
use super::routes::Route;
use super::stream::Sink;

/// One run of an async handler.
#[pyclass(name = "Task", module = "tollway._tollway", frozen, weakref, freelist = 1024)]
pub(super) struct Task {
    pub(super) coroutine: Py<PyAny>,
    pub(super) context: Py<PyAny>,
    pub(super) event_loop: Py<PyAny>,
    pub(super) server: Py<Server>,
    pub(super) route: Arc<Route>,
    request: Py<Request>,
    /// Where what the coroutine makes goes, when it is not an answer.
    sink: Option<Arc<Sink>>,
    pub(super) state: GilCell<State>,
}

/// What changes while a task runs.
#[derive(Default)]
pub(super) struct State {
    pub(super) outcome: Outcome,
    /// What the coroutine waits for.
    pub(super) waiter: Option<Py<PyAny>>,
    /// What to raise at the next step.
    thrown: Option<Py<PyAny>>,
    pub(super) must_cancel: bool,
    pub(super) cancel_requests: usize,
    pub(super) cancel_message: Option<Py<PyAny>>,
    pub(super) blocking: bool,
    pub(super) name: Option<Py<PyAny>>,
    pub(super) callbacks: Vec<(Py<PyAny>, Py<PyAny>)>,
    response: Option<Response>,
    waker: Option<Waker>,
    /// The place among the suspended tasks, once the task is one.
    slot: Option<usize>,
    /// Nobody waits for the response any more.
    abandoned: bool,
}

/// How a task ended.
#[derive(Default)]
pub(super) enum Outcome {
    /// It has not.
    #[default]
    Pending,
    /// The coroutine returned this.
    Returned(Py<PyAny>),
    /// The coroutine raised this.
    Failed(Py<PyAny>),
    /// The task was cancelled, with this `CancelledError`.
    Cancelled(Py<PyAny>),
}

impl Outcome {
    pub(super) fn is_pending(&self) -> bool {
        matches!(self, Outcome::Pending)
    }
}

impl Task {
    pub(super) fn new(
        around: &Surroundings<'_>,
        coroutine: Bound<'_, PyAny>,
        route: &Arc<Route>,
        request: &Bound<'_, Request>,
    ) -> Self {
        Task {
            coroutine: coroutine.unbind(),
            context: around.context.clone().unbind(),
            event_loop: around.event_loop.clone().unbind(),
            server: around.server.clone_ref(request.py()),
            route: Arc::clone(route),
            request: request.clone().unbind(),
            sink: None,
            state: GilCell::new(State::default()),
        }
    }

    /// A task that makes a streamed body.
    pub(super) fn streaming(
        around: &Surroundings<'_>,
        coroutine: Bound<'_, PyAny>,
        route: &Arc<Route>,
        request: Py<Request>,
        sink: &Arc<Sink>,
    ) -> Self {
        let request = request.into_bound(coroutine.py());
        Task { sink: Some(Arc::clone(sink)), ..Task::new(around, coroutine, route, &request) }
    }

    /// Whether the task makes a streamed body.
    pub(super) fn is_stream(&self) -> bool {
        self.sink.is_some()
    }

    /// Whether the task has not ended.
    pub(super) fn is_pending(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.outcome.is_pending())
    }

    /// The response, once the task has ended.
    #[inline]
    pub(super) fn take_response(&self, py: Python<'_>) -> Option<Response> {
        self.state.with(py, |state| state.response.take())
    }

    /// The response, or `None` and a promise to wake `waker`.
    pub(super) fn poll_response(&self, py: Python<'_>, waker: &Waker) -> Option<Response> {
        self.state.with(py, |state| {
            if state.response.is_none() && !state.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
                state.waker = Some(waker.clone());
            }
            state.response.take()
        })
    }

    /// Shows the collector what the task holds.
    pub(super) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.coroutine)?;
        visit.call(&self.context)?;
        visit.call(&self.event_loop)?;
        visit.call(&self.server)?;
        visit.call(&self.request)?;
        self.state.look(|state| state.traverse(visit)).unwrap_or(Ok(()))
    }
}

impl State {
    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match &self.outcome {
            Outcome::Pending => {}
            Outcome::Returned(object) | Outcome::Failed(object) | Outcome::Cancelled(object) => visit.call(object)?,
        }
        visit.call(&self.waiter)?;
        visit.call(&self.thrown)?;
        visit.call(&self.cancel_message)?;
        visit.call(&self.name)?;
        for (callback, context) in &self.callbacks {
            visit.call(callback)?;
            visit.call(context)?;
        }
        Ok(())
    }
}

/// Registers a task that did not end in its first step.
pub(super) fn suspend(task: &Bound<'_, Task>, core: &Core) -> PyResult<()> {
    let py = task.py();
    calls::track(task.as_any())?;
    let slot = core.keep(py, task.clone().unbind());
    task.get().state.with(py, |state| state.slot = Some(slot));
    Asyncio::get(py)?.register(task.as_any())
}

/// The loop calls: what the task waited for is there, or a step was asked for.
pub(super) fn wake(task: &Bound<'_, Task>, waited: Option<&Bound<'_, PyAny>>) {
    let py = task.py();
    let thrown = match waited {
        None => task.get().state.with(py, |state| state.thrown.take()).map(|error| error.into_bound(py)),
        Some(future) => match future.call_method0(intern!(py, "result")) {
            Ok(_) => None,
            Err(error) => Some(error.into_value(py).into_bound(py).into_any()),
        },
    };
    step(task, thrown);
}

/// Runs the coroutine until it waits or ends, raising `thrown` inside it first. The task's
/// Context is entered already.
pub(super) fn step<'py>(task: &Bound<'py, Task>, thrown: Option<Bound<'py, PyAny>>) {
    if let Err(error) = try_step(task, thrown) {
        end(task, Err(error));
    }
}

fn try_step<'py>(task: &Bound<'py, Task>, mut thrown: Option<Bound<'py, PyAny>>) -> PyResult<()> {
    let py = task.py();
    let this = task.get();
    let asyncio = Asyncio::get(py)?;
    let (pending, must_cancel, waiter) = this
        .state
        .with(py, |state| (state.outcome.is_pending(), std::mem::take(&mut state.must_cancel), state.waiter.take()));
    drop(waiter);
    if !pending {
        return Ok(());
    }
    if must_cancel {
        let is_cancellation = match &thrown {
            Some(error) => error.is_instance(asyncio.cancelled_error(py))?,
            None => false,
        };
        if !is_cancellation {
            thrown = Some(cancellation(task, asyncio)?);
        }
    }
    let event_loop = this.event_loop.bind(py);
    let outer = asyncio.enter(event_loop, task.as_any())?;
    let coroutine = this.coroutine.bind(py);
    let step = match thrown {
        None => calls::send(coroutine),
        Some(error) => calls::throw(coroutine, &error),
    };
    match step {
        Step::Returned(value) => end(task, Ok(value)),
        Step::Raised(error) => end(task, Err(error)),
        Step::Yielded(awaited) => {
            if let Err(error) = wait(task, &awaited) {
                throw_later(task, &error)?;
            }
        }
    }
    asyncio.leave(event_loop, task.as_any(), outer)
}

fn cancellation<'py>(task: &Bound<'py, Task>, asyncio: &Asyncio) -> PyResult<Bound<'py, PyAny>> {
    let py = task.py();
    let message = task.get().state.with(py, |state| state.cancel_message.as_ref().map(|m| m.clone_ref(py)));
    asyncio.cancellation(py, message.as_ref())
}

/// Arranges for the next step.
///
/// # Errors
/// What the coroutine did wrong; it is told at its next step.
fn wait(task: &Bound<'_, Task>, awaited: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = task.py();
    let this = task.get();
    let context = this.context.bind(py);
    let event_loop = this.event_loop.bind(py);
    if awaited.is_none() {
        return calls::call_in_context(event_loop, intern!(py, "call_soon"), &[task.as_any()], context).map(drop);
    }
    let mark = intern!(py, "_asyncio_future_blocking");
    let wrong = |what: &str| {
        let shown = awaited.repr().map_or_else(|_| "an object".to_owned(), |repr| repr.to_string());
        Err(PyRuntimeError::new_err(format!("{} {what}: {shown}", this.route.name)))
    };
    let blocking = match awaited.getattr_opt(mark)? {
        Some(blocking) if !blocking.is_none() => blocking.is_truthy()?,
        _ => return wrong("yielded something that is not a future"),
    };
    if !awaited.call_method0(intern!(py, "get_loop"))?.is(event_loop) {
        return wrong("waits for a future attached to a different loop");
    }
    if !blocking {
        return wrong("used yield instead of yield from with a future");
    }
    if awaited.is(task) {
        return wrong("cannot await its own task");
    }
    awaited.setattr(mark, false)?;
    calls::call_in_context(awaited, intern!(py, "add_done_callback"), &[task.as_any()], context)?;
    let must_cancel = this.state.with(py, |state| {
        state.waiter = Some(awaited.clone().unbind());
        state.must_cancel
    });
    if must_cancel && cancel_waiter(task, awaited)? {
        this.state.with(py, |state| state.must_cancel = false);
    }
    Ok(())
}

fn throw_later(task: &Bound<'_, Task>, error: &PyErr) -> PyResult<()> {
    let py = task.py();
    let this = task.get();
    let value = error.value(py).clone().into_any().unbind();
    let old = this.state.with(py, |state| state.thrown.replace(value));
    drop(old);
    let event_loop = this.event_loop.bind(py);
    let context = this.context.bind(py);
    calls::call_in_context(event_loop, intern!(py, "call_soon"), &[task.as_any()], context).map(drop)
}

fn cancel_waiter(task: &Bound<'_, Task>, waiter: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = task.py();
    let message = task.get().state.with(py, |state| state.cancel_message.as_ref().map(|m| m.clone_ref(py)));
    let keywords = PyDict::new(py);
    keywords.set_item(intern!(py, "msg"), message)?;
    waiter.call_method(intern!(py, "cancel"), (), Some(&keywords))?.is_truthy()
}

/// Asks the task to stop. Returns whether it was still running.
pub(super) fn cancel(task: &Bound<'_, Task>, message: Option<Py<PyAny>>) -> PyResult<bool> {
    let py = task.py();
    let this = task.get();
    let (old, waiter) = this.state.with(py, |state| {
        if !state.outcome.is_pending() {
            return (message, None);
        }
        state.cancel_requests += 1;
        let old = std::mem::replace(&mut state.cancel_message, message);
        (old, Some(state.waiter.as_ref().map(|waiter| waiter.clone_ref(py))))
    });
    drop(old);
    let Some(waiter) = waiter else { return Ok(false) };
    if let Some(waiter) = waiter
        && cancel_waiter(task, waiter.bind(py))?
    {
        return Ok(true);
    }
    this.state.with(py, |state| state.must_cancel = true);
    Ok(true)
}

/// Cancels a task whose client went away.
pub(super) fn abandon(task: &Bound<'_, Task>) {
    let py = task.py();
    let waker = task.get().state.with(py, |state| {
        state.abandoned = true;
        state.waker.take()
    });
    drop(waker);
    if let Err(error) = cancel(task, None) {
        report(py, "a handler whose client went away could not be cancelled", &error);
    }
}

/// The coroutine ended.
fn end(task: &Bound<'_, Task>, result: PyResult<Bound<'_, PyAny>>) {
    let py = task.py();
    let Err(error) = try_end(task, result) else { return };
    report(py, "a handler could not be finished properly", &error);
    if let Some(sink) = &task.get().sink {
        return sink.end(Err("the stream failed".into()));
    }
    let waker = task.get().state.with(py, |state| {
        if state.response.is_none() && !state.abandoned {
            state.response = Some(problem(Problem::internal()));
        }
        state.waker.take()
    });
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn try_end(task: &Bound<'_, Task>, result: PyResult<Bound<'_, PyAny>>) -> PyResult<()> {
    let py = task.py();
    let this = task.get();
    let (pending, must_cancel, abandoned) = this
        .state
        .with(py, |state| (state.outcome.is_pending(), std::mem::take(&mut state.must_cancel), state.abandoned));
    if !pending {
        return result.map(drop);
    }
    let outcome = match result {
        Ok(_) if must_cancel => Outcome::Cancelled(cancellation(task, Asyncio::get(py)?)?.unbind()),
        Ok(value) => Outcome::Returned(value.unbind()),
        Err(error) => failure(py, error)?,
    };
    let response = match &this.sink {
        None => answer(task, &outcome, abandoned),
        Some(sink) => {
            end_stream(task, sink, &outcome);
            None
        }
    };
    let (callbacks, waker, slot) = this.state.with(py, |state| {
        state.outcome = outcome;
        state.response = response;
        (std::mem::take(&mut state.callbacks), state.waker.take(), state.slot.take())
    });
    if let Some(waker) = waker {
        waker.wake();
    }
    let event_loop = this.event_loop.bind(py);
    for (callback, context) in callbacks {
        let args = [callback.bind(py), task.as_any()];
        calls::call_in_context(event_loop, intern!(py, "call_soon"), &args, context.bind(py))?;
    }
    if let Some(slot) = slot {
        Asyncio::get(py)?.unregister(task.as_any())?;
        this.server.get().core().forget(py, slot);
    }
    Ok(())
}

fn failure(py: Python<'_>, error: PyErr) -> PyResult<Outcome> {
    let cancelled = error.is_instance(py, Asyncio::get(py)?.cancelled_error(py));
    let value = error.into_value(py).into_any();
    Ok(if cancelled { Outcome::Cancelled(value) } else { Outcome::Failed(value) })
}

/// The response for how the task ended; none where nobody waits for one.
fn answer(task: &Bound<'_, Task>, outcome: &Outcome, abandoned: bool) -> Option<Response> {
    let py = task.py();
    let this = task.get();
    let core = this.server.get().core();
    let request = this.request.bind(py);
    let error = match outcome {
        Outcome::Pending => return None,
        Outcome::Returned(_) | Outcome::Cancelled(_) if abandoned => return None,
        Outcome::Returned(value) => return Some(core.hooks.returned(core, &this.route, request, value.bind(py))),
        Outcome::Cancelled(_) if core.is_stopping() => return Some(busy("the server is shutting down")),
        Outcome::Cancelled(error) | Outcome::Failed(error) => error,
    };
    let error = PyErr::from_value(error.bind(py).clone());
    if error.is_instance_of::<PySystemExit>(py) || error.is_instance_of::<PyKeyboardInterrupt>(py) {
        core.set_fatal(py, error.clone_ref(py));
    }
    let response = core.hooks.raised(request, error);
    (!abandoned).then_some(response)
}

/// Tells the sink how its producer ended. Only a failure is worth a line in the log.
fn end_stream(task: &Bound<'_, Task>, sink: &Sink, outcome: &Outcome) {
    let py = task.py();
    let this = task.get();
    match outcome {
        Outcome::Pending => {}
        Outcome::Returned(_) => sink.end(Ok(())),
        Outcome::Cancelled(_) => sink.end(Err("the stream was cancelled".into())),
        Outcome::Failed(error) => {
            let error = PyErr::from_value(error.bind(py).clone());
            if error.is_instance_of::<PySystemExit>(py) || error.is_instance_of::<PyKeyboardInterrupt>(py) {
                this.server.get().core().set_fatal(py, error.clone_ref(py));
            }
            report(py, &format!("the stream of {} failed", this.route.name), &error);
            sink.end(Err("the stream failed".into()));
        }
    }
}

/// Lets a task that outlived the server's shutdown run on without it.
pub(super) fn release(task: &Bound<'_, Task>, core: &Core) {
    let py = task.py();
    let slot = task.get().state.with(py, |state| state.slot.take());
    if let Some(slot) = slot {
        core.forget(py, slot);
    }
}
