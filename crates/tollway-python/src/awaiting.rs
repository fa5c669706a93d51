//! Answers for `await`: at once, or when the store has answered.

#[cfg(unix)]
use std::io::{Read, Write};
#[cfg(unix)]
use std::os::{fd::AsRawFd, unix::net::UnixStream};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use pyo3::exceptions::PyStopIteration;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::MutexExt;

use crate::interpreter;

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
    wire: OnceLock<Wire>,
}

/// What wakes a loop without the GIL, for which its own `call_soon_threadsafe` would make the thread
/// that brings the answers wait.
#[cfg(unix)]
struct Wire {
    ear: UnixStream,
    mouth: UnixStream,
}

#[cfg(unix)]
impl Wire {
    /// A wire that makes `event_loop` call `mailbox`; `None` where the loop watches no files.
    fn between(event_loop: &Bound<'_, PyAny>, mailbox: &Bound<'_, Mailbox>) -> Option<Self> {
        let (ear, mouth) = UnixStream::pair().ok()?;
        ear.set_nonblocking(true).and_then(|()| mouth.set_nonblocking(true)).ok()?;
        event_loop.call_method1(intern!(event_loop.py(), "add_reader"), (ear.as_raw_fd(), mailbox)).ok()?;
        Some(Self { ear, mouth })
    }

    fn ring(&self) {
        // It takes a byte whenever the last one was read, and one that waits is enough.
        let _ = (&self.mouth).write(&[0]);
    }

    fn hush(&self) {
        // Whatever it says: the letters are looked at either way.
        let _ = (&self.ear).read(&mut [0; 16]);
    }
}

#[cfg(not(unix))]
enum Wire {}

#[cfg(not(unix))]
impl Wire {
    fn between(_: &Bound<'_, PyAny>, _: &Bound<'_, Mailbox>) -> Option<Self> {
        None
    }

    fn ring(&self) {
        match *self {}
    }

    fn hush(&self) {
        match *self {}
    }
}

/// The mailboxes of the loops in use.
static MAILBOXES: Mutex<Vec<Arc<Py<Mailbox>>>> = Mutex::new(Vec::new());

fn mailboxes(py: Python<'_>) -> MutexGuard<'static, Vec<Arc<Py<Mailbox>>>> {
    MAILBOXES.lock_py_attached(py).unwrap_or_else(PoisonError::into_inner)
}

impl Mailbox {
    /// The mailbox of `event_loop`.
    pub(crate) fn of(event_loop: &Bound<'_, PyAny>) -> PyResult<Arc<Py<Self>>> {
        let known = mailboxes(event_loop.py());
        match known.iter().find(|mailbox| mailbox.get().event_loop.is(event_loop)) {
            Some(mailbox) => Ok(Arc::clone(mailbox)),
            None => {
                let others = known.clone();
                drop(known);
                Self::set_up(event_loop, &others)
            }
        }
    }

    /// A new mailbox, which takes the place of those whose loops were closed.
    #[cold]
    fn set_up(event_loop: &Bound<'_, PyAny>, others: &[Arc<Py<Self>>]) -> PyResult<Arc<Py<Self>>> {
        let py = event_loop.py();
        let letters = Mutex::new(Vec::new());
        let made = Py::new(py, Self { event_loop: event_loop.clone().unbind(), letters, wire: OnceLock::new() })?;
        if let Some(wire) = Wire::between(event_loop, made.bind(py)) {
            // The mailbox is new: it has none yet.
            let _ = made.get().wire.set(wire);
        }
        let made = Arc::new(made);
        let is_closed = |mailbox: &&Arc<Py<Self>>| {
            let closed = mailbox.get().event_loop.bind(py).call_method0(intern!(py, "is_closed"));
            closed.and_then(|closed| closed.is_truthy()).unwrap_or(true)
        };
        let closed: Vec<_> = others.iter().filter(is_closed).map(Arc::as_ptr).collect();
        let mut known = mailboxes(py);
        let (gone, mut open): (Vec<_>, Vec<_>) =
            known.drain(..).partition(|mailbox| closed.contains(&Arc::as_ptr(mailbox)));
        open.push(Arc::clone(&made));
        *known = open;
        drop(known);
        // Not under the lock: what goes with them may be Python's.
        drop(gone);
        Ok(made)
    }

    /// From any thread: `future` gets what `convert` makes.
    pub(crate) fn post(this: &Arc<Py<Self>>, future: Py<PyAny>, convert: Convert) {
        let mailbox = this.get();
        let first = {
            let mut letters = mailbox.letters.lock().unwrap_or_else(PoisonError::into_inner);
            letters.push((future, convert));
            letters.len() == 1
        };
        match mailbox.wire.get() {
            Some(wire) if first => wire.ring(),
            None if first => Self::call(this),
            _ => {}
        }
    }

    /// Has the loop call the mailbox, by the loop's own means.
    fn call(this: &Arc<Py<Self>>) {
        let mailbox = this.get();
        // A loop that is closed, or an interpreter at its end, has nobody waiting any more.
        let _ = interpreter::enter(|py| {
            let event_loop = mailbox.event_loop.bind(py);
            if event_loop.call_method1(intern!(py, "call_soon_threadsafe"), (this.bind(py),)).is_err() {
                mailbox.letters.lock().unwrap_or_else(PoisonError::into_inner).clear();
            }
        });
    }
}

#[pymethods]
impl Mailbox {
    /// On the loop: hands out what has come in.
    fn __call__(&self, py: Python<'_>) -> PyResult<()> {
        if let Some(wire) = self.wire.get() {
            wire.hush();
        }
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
