//! Answers for `await`: at once, or when the store has answered.

use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::PyStopIteration;
use pyo3::intern;
use pyo3::prelude::*;

/// An awaitable whose answer is already there: `await` costs no turn of the loop.
#[pyclass(frozen)]
pub(crate) struct Ready {
    answer: Mutex<Option<PyResult<Py<PyAny>>>>,
}

impl Ready {
    pub(crate) fn new(answer: PyResult<Py<PyAny>>) -> Self {
        Self { answer: Mutex::new(Some(answer)) }
    }
}

#[pymethods]
impl Ready {
    fn __await__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __next__(&self) -> PyResult<Py<PyAny>> {
        let answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner).take();
        match answer {
            Some(Ok(value)) => Err(PyStopIteration::new_err((value,))),
            Some(Err(error)) => Err(error),
            None => Err(pyo3::exceptions::PyRuntimeError::new_err("cannot await the same answer twice")),
        }
    }
}

/// Makes a Python object of an answer, once somebody holds the GIL.
pub(crate) type Convert = Box<dyn FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send>;

/// Answers on their way to one event loop. Those that arrive while it is busy wake it once.
#[pyclass(frozen)]
pub(crate) struct Mailbox {
    event_loop: Py<PyAny>,
    letters: Mutex<Vec<(Py<PyAny>, Convert)>>,
}

impl Mailbox {
    pub(crate) fn new(event_loop: Py<PyAny>) -> Self {
        Self { event_loop, letters: Mutex::new(Vec::new()) }
    }

    /// Whether this is the mailbox of `event_loop`.
    pub(crate) fn serves(&self, event_loop: &Bound<'_, PyAny>) -> bool {
        self.event_loop.is(event_loop)
    }

    /// From any thread: `future` gets what `convert` makes.
    pub(crate) fn post(this: &Arc<Py<Self>>, future: Py<PyAny>, convert: Convert) {
        let mailbox = this.get();
        let first = {
            let mut letters = mailbox.letters.lock().unwrap_or_else(PoisonError::into_inner);
            letters.push((future, convert));
            letters.len() == 1
        };
        if first {
            // A loop that is closed, or an interpreter at its end, has nobody waiting any more.
            let _ = Python::try_attach(|py| {
                let event_loop = mailbox.event_loop.bind(py);
                if event_loop.call_method1(intern!(py, "call_soon_threadsafe"), (this.bind(py),)).is_err() {
                    mailbox.letters.lock().unwrap_or_else(PoisonError::into_inner).clear();
                }
            });
        }
    }
}

#[pymethods]
impl Mailbox {
    /// On the loop: hands out what has come in.
    fn __call__(&self, py: Python<'_>) -> PyResult<()> {
        let letters = std::mem::take(&mut *self.letters.lock().unwrap_or_else(PoisonError::into_inner));
        for (future, convert) in letters {
            let future = future.bind(py);
            if future.call_method0(intern!(py, "done"))?.is_truthy()? {
                continue;
            }
            match convert(py) {
                Ok(value) => future.call_method1(intern!(py, "set_result"), (value,))?,
                Err(error) => future.call_method1(intern!(py, "set_exception"), (error.into_value(py),))?,
            };
        }
        Ok(())
    }
}
