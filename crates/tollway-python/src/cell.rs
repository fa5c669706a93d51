//! A backend written in Python: two methods, sync or async.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use futures_channel::oneshot;
use futures_timer::Delay;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyTuple};
use tollway::{Cell, Loaded, Reply, StoreError, StoreErrorKind};

use crate::runtime::{MOST_ASIDE, Runtime};
use crate::{errors, interpreter};

/// An object with `load` and `swap`.
#[derive(Clone)]
pub(crate) struct PyCell {
    object: Arc<Py<PyAny>>,
    name: Arc<str>,
    patience: Duration,
}

impl std::fmt::Debug for PyCell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PyCell").field(&self.name).finish()
    }
}

/// What a method gave: its answer, or the way by which it will come.
type Outcome<T> = Result<T, oneshot::Receiver<PyResult<Py<PyAny>>>>;

impl PyCell {
    /// Takes an object with both methods.
    pub(crate) fn new(object: &Bound<'_, PyAny>, patience: Duration) -> PyResult<Self> {
        let class = object.get_type().fully_qualified_name()?.to_string();
        for method in ["load", "swap"] {
            if !object.getattr(method).is_ok_and(|method| method.is_callable()) {
                return Err(errors::config(format!(
                    "{class} is no backend: give a URL, or an object with load() and swap() (see tollway.stores.Store)"
                )));
            }
        }
        let name = match object.getattr("name") {
            Ok(name) => name.extract::<String>()?,
            Err(_) => class,
        };
        Ok(Self { object: Arc::new(object.clone().unbind()), name: name.into(), patience })
    }

    fn ask<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<Py<PyAny>> + Send + 'static,
        read: fn(&Bound<'_, PyAny>) -> PyResult<T>,
    ) -> Reply<T> {
        let cell = self.clone();
        Box::pin(async move {
            let object = Arc::clone(&cell.object);
            let outcome = cell.aside(move || {
                interpreter::enter(|py| {
                    let answer = call(object.bind(py))?;
                    let answer = answer.bind(py);
                    let awaits = answer.hasattr(intern!(py, "__await__"))?;
                    if awaits { Ok(Err(send(answer)?)) } else { read(answer).map(Ok) }
                })
            });
            let outcome = outcome.await?.ok_or_else(|| cell.ended())?;
            let outcome: Outcome<T> = outcome.map_err(|error| cell.failed(&error))?;
            match outcome {
                Ok(value) => Ok(value),
                Err(answer) => {
                    let late = || cell.error(StoreErrorKind::Timeout, format!("it took more than {:?}", cell.patience));
                    let gone = |_| cell.error(StoreErrorKind::Unavailable, "its event loop has ended".to_owned());
                    let answer = cell.in_time(answer).await.ok_or_else(late)?.map_err(gone)?;
                    let value = interpreter::enter(|py| answer.and_then(|answer| read(answer.bind(py))));
                    let value = value.ok_or_else(|| cell.ended())?;
                    value.map_err(|error| cell.failed(&error))
                }
            }
        })
    }

    /// Runs `step` here, or beside whoever drives the stores: it may block, and may ask a limiter itself.
    async fn aside<T: Send + 'static>(
        &self,
        step: impl FnOnce() -> Option<T> + Send + 'static,
    ) -> Result<Option<T>, StoreError> {
        let Some(runtime) = Runtime::driven_here() else { return Ok(step()) };
        let full = || {
            let detail = format!("{MOST_ASIDE} calls are at work, and none ended within {:?}", self.patience);
            self.error(StoreErrorKind::Overloaded, detail)
        };
        let room = self.in_time(runtime.room_aside()).await.ok_or_else(full)?;
        let step = move || {
            let _room = room;
            step()
        };
        // None as well when the runtime is being dropped, which it never is.
        Ok(runtime.aside(step).await.ok().flatten())
    }

    /// Waits, but not for ever.
    async fn in_time<T>(&self, answer: impl Future<Output = T>) -> Option<T> {
        let (mut answer, mut delay) = (pin!(answer), None);
        std::future::poll_fn(|context| match answer.as_mut().poll(context) {
            Poll::Ready(answer) => Poll::Ready(Some(answer)),
            Poll::Pending => {
                let delay = delay.get_or_insert_with(|| Delay::new(self.patience));
                Pin::new(delay).poll(context).map(|()| None)
            }
        })
        .await
    }

    fn ended(&self) -> StoreError {
        self.error(StoreErrorKind::Unavailable, "the interpreter is ending".to_owned())
    }

    fn failed(&self, error: &PyErr) -> StoreError {
        self.error(StoreErrorKind::Unavailable, format!("it raised {error}"))
    }

    fn error(&self, kind: StoreErrorKind, detail: String) -> StoreError {
        StoreError::new(kind, &*self.name, detail)
    }
}

impl Cell for PyCell {
    fn name(&self) -> &str {
        &self.name
    }

    fn load(&self, key: &str) -> Reply<Option<Loaded>> {
        let key = key.to_owned();
        self.ask(move |object| object.call_method1(intern!(object.py(), "load"), (key,)).map(Bound::unbind), loaded)
    }

    fn swap(&self, key: &str, expected: Option<Vec<u8>>, bytes: Option<Vec<u8>>, ttl: Duration) -> Reply<bool> {
        let key = key.to_owned();
        let call = move |object: &Bound<'_, PyAny>| {
            let py = object.py();
            let expected = expected.map(|bytes| PyBytes::new(py, &bytes));
            let value = bytes.map(|bytes| PyBytes::new(py, &bytes));
            let arguments = (key, expected, value, ttl.as_secs_f64());
            object.call_method1(intern!(py, "swap"), arguments).map(Bound::unbind)
        };
        self.ask(call, |answer| answer.is_truthy())
    }
}

/// `None`, the bytes, or the bytes and what names them.
fn loaded(answer: &Bound<'_, PyAny>) -> PyResult<Option<Loaded>> {
    if answer.is_none() {
        return Ok(None);
    }
    if let Ok(pair) = answer.cast::<PyTuple>() {
        let (bytes, version) = pair.extract()?;
        return Ok(Some(Loaded { bytes, version }));
    }
    let bytes: Vec<u8> = answer.extract()?;
    Ok(Some(Loaded { version: bytes.clone(), bytes }))
}

/// Runs an awaitable on the loop of all async backends, which has a thread of its own: their
/// connections belong to one loop, and callers come from any.
fn send(awaitable: &Bound<'_, PyAny>) -> PyResult<oneshot::Receiver<PyResult<Py<PyAny>>>> {
    static SUBMIT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = awaitable.py();
    let (sender, receiver) = oneshot::channel();
    let future = SUBMIT.import(py, "tollway.stores", "_submit")?.call1((awaitable,))?;
    let done = Bound::new(py, Done { sender: Mutex::new(Some(sender)) })?;
    future.call_method1(intern!(py, "add_done_callback"), (done,))?;
    Ok(receiver)
}

/// Passes a concurrent future's outcome on.
#[pyclass(frozen)]
struct Done {
    sender: Mutex<Option<oneshot::Sender<PyResult<Py<PyAny>>>>>,
}

#[pymethods]
impl Done {
    fn __call__(&self, future: &Bound<'_, PyAny>) {
        let outcome = future.call_method0("result").map(Bound::unbind);
        if let Some(sender) = self.sender.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // A caller that gave up does not want it any more.
            let _ = sender.send(outcome);
        }
    }
}
