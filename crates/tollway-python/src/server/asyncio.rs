//! The functions of asyncio that the server calls on every request, looked up once.

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// What the server needs of asyncio. All of it is the interface that asyncio offers to other
/// implementations of tasks and loops.
#[derive(Debug)]
pub(super) struct Asyncio {
    enter_task: Py<PyAny>,
    leave_task: Py<PyAny>,
    register_task: Py<PyAny>,
    unregister_task: Py<PyAny>,
    current_task: Py<PyAny>,
    set_running_loop: Py<PyAny>,
    cancelled_error: Py<PyAny>,
    invalid_state_error: Py<PyAny>,
    /// Whether taking the last request to cancel back also takes back a cancellation that has
    /// not been raised yet, as asyncio does from Python 3.13 on.
    pub(super) uncancel_takes_back: bool,
}

impl Asyncio {
    /// The functions, imported on first use.
    #[inline]
    pub(super) fn get(py: Python<'_>) -> PyResult<&'static Asyncio> {
        static ASYNCIO: PyOnceLock<Asyncio> = PyOnceLock::new();
        ASYNCIO.get_or_try_init(py, || Asyncio::import(py))
    }

    fn import(py: Python<'_>) -> PyResult<Asyncio> {
        let tasks = py.import("asyncio.tasks")?;
        // From Python 3.12 on asyncio has a plain set beside its weak one, for tasks that are
        // stepped before they are scheduled, as ours are. It costs a tenth.
        let either = |eager: &str, other: &str| match tasks.getattr_opt(eager)? {
            Some(function) => PyResult::Ok(function.unbind()),
            None => Ok(tasks.getattr(other)?.unbind()),
        };
        let exceptions = py.import("asyncio.exceptions")?;
        Ok(Asyncio {
            enter_task: tasks.getattr("_enter_task")?.unbind(),
            leave_task: tasks.getattr("_leave_task")?.unbind(),
            register_task: either("_register_eager_task", "_register_task")?,
            unregister_task: either("_unregister_eager_task", "_unregister_task")?,
            current_task: tasks.getattr("current_task")?.unbind(),
            set_running_loop: py.import("asyncio.events")?.getattr("_set_running_loop")?.unbind(),
            cancelled_error: exceptions.getattr("CancelledError")?.unbind(),
            invalid_state_error: exceptions.getattr("InvalidStateError")?.unbind(),
            uncancel_takes_back: py.version_info() >= (3, 13),
        })
    }

    /// Makes `task` the current task of `event_loop`. Returns the task that was current, which
    /// [`Asyncio::leave`] puts back; there is one only when a task is stepped inside another.
    #[inline]
    pub(super) fn enter<'py>(
        &self,
        event_loop: &Bound<'py, PyAny>,
        task: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = task.py();
        match self.enter_task.bind(py).call1((event_loop, task)) {
            Ok(_) => Ok(None),
            Err(error) if error.is_instance_of::<PyRuntimeError>(py) => {
                let outer = self.current_task.bind(py).call1((event_loop,))?;
                self.leave_task.bind(py).call1((event_loop, &outer))?;
                self.enter_task.bind(py).call1((event_loop, task))?;
                Ok(Some(outer))
            }
            Err(error) => Err(error),
        }
    }

    /// Ends what [`Asyncio::enter`] began.
    #[inline]
    pub(super) fn leave<'py>(
        &self,
        event_loop: &Bound<'py, PyAny>,
        task: &Bound<'py, PyAny>,
        outer: Option<Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        let py = task.py();
        self.leave_task.bind(py).call1((event_loop, task))?;
        if let Some(outer) = outer {
            self.enter_task.bind(py).call1((event_loop, outer))?;
        }
        Ok(())
    }

    /// Lists `task` in `asyncio.all_tasks()`.
    pub(super) fn register(&self, task: &Bound<'_, PyAny>) -> PyResult<()> {
        self.register_task.bind(task.py()).call1((task,)).map(drop)
    }

    /// Takes `task` off that list.
    pub(super) fn unregister(&self, task: &Bound<'_, PyAny>) -> PyResult<()> {
        self.unregister_task.bind(task.py()).call1((task,)).map(drop)
    }

    /// The class `asyncio.CancelledError`.
    pub(super) fn cancelled_error<'py>(&self, py: Python<'py>) -> &Bound<'py, PyAny> {
        self.cancelled_error.bind(py)
    }

    /// A new `CancelledError` with the message of `cancel(msg)`, if one was given.
    pub(super) fn cancellation<'py>(
        &self,
        py: Python<'py>,
        message: Option<&Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        match message {
            Some(message) => self.cancelled_error.bind(py).call1((message,)),
            None => self.cancelled_error.bind(py).call0(),
        }
    }

    /// An `asyncio.InvalidStateError`.
    pub(super) fn invalid_state(&self, py: Python<'_>, message: &str) -> PyErr {
        match self.invalid_state_error.bind(py).call1((message,)) {
            Ok(error) => PyErr::from_value(error),
            Err(error) => error,
        }
    }

    /// Runs `inside` as if no event loop were running on this thread, as plain functions expect.
    pub(super) fn without_loop<R>(
        &self,
        event_loop: &Bound<'_, PyAny>,
        inside: impl FnOnce() -> PyResult<R>,
    ) -> PyResult<R> {
        let set = self.set_running_loop.bind(event_loop.py());
        set.call1((event_loop.py().None(),))?;
        let result = inside();
        set.call1((event_loop,))?;
        result
    }
}
