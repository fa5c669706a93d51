//! Bodies made of what a Python iterator gives.
//!
//! A [`Sink`] stands between the producer, which Python runs, and the engine, which sends. It
//! holds a bounded number of bytes: a producer that is ahead waits until the client has caught up.
//! Async iterators are run by a task on the event loop, plain ones on a lane (a thread of their
//! own kind of pool, always the same one for a stream, because database cursors must not move).

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyString};
use pyo3::{PyTraverseError, PyVisit, intern};
use tollway_server::{Body, StreamError};

use super::calls::{self, Entered};
use super::cell::GilCell;
use super::core::{Core, Surroundings};
use super::handler::driving_thread;
use super::lanes::{Lane, Pull};
use super::pool::lock;
use super::request::Request;
use super::respond::{SHARE_FROM, report};
use super::routes::Route;
use super::task::{self, Task};

/// Bytes that a producer may be ahead of the client.
const AHEAD: usize = 32 * 1024;
/// Pieces that it may be ahead, however small they are.
const PIECES_AHEAD: usize = 256;

/// A body for a response that is sent while it is made.
///
/// With `pump`, `pump(items, sink)` must return a coroutine that pushes everything; without it,
/// `items` is an iterator that is asked on a thread, and `encode` (if given) makes bytes or text of
/// each item. While nothing comes for `interval` seconds, `beat` is sent.
#[pyclass(module = "tollway._tollway", frozen)]
pub(super) struct Stream {
    source: GilCell<Option<Source>>,
    beat: Option<(Duration, Bytes)>,
}

/// What a stream is made of, until it is sent.
pub(super) struct Source {
    pub(super) items: Py<PyAny>,
    pub(super) encode: Option<Py<PyAny>>,
    pump: Option<Py<PyAny>>,
}

#[pymethods]
impl Stream {
    #[new]
    #[pyo3(signature = (items, *, pump=None, encode=None, interval=None, beat=None))]
    fn new(
        items: Py<PyAny>,
        pump: Option<Py<PyAny>>,
        encode: Option<Py<PyAny>>,
        interval: Option<f64>,
        beat: Option<Vec<u8>>,
    ) -> PyResult<Self> {
        let beat = match (interval, beat) {
            (Some(seconds), Some(bytes)) => {
                let interval = Duration::try_from_secs_f64(seconds)
                    .map_err(|_| pyo3::exceptions::PyValueError::new_err("the interval must be a time in seconds"))?;
                Some((interval, Bytes::from(bytes)))
            }
            _ => None,
        };
        Ok(Stream { source: GilCell::new(Some(Source { items, encode, pump })), beat })
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let source = self.source.look(|source| match source {
            Some(source) => {
                visit.call(&source.items)?;
                visit.call(&source.encode)?;
                visit.call(&source.pump)
            }
            None => Ok(()),
        });
        source.unwrap_or(Ok(()))
    }

    fn __clear__(&self, py: Python<'_>) {
        drop(self.source.take(py));
    }
}

impl Stream {
    /// The body. Nothing runs before the engine asks for the first frame. A stream can be sent
    /// once. Its producer runs in a copy of the Context that is current now. `None` when there are
    /// too many streams.
    pub(super) fn body(
        &self,
        core: &Arc<Core>,
        route: &Arc<Route>,
        request: &Bound<'_, Request>,
    ) -> PyResult<Option<Body>> {
        let py = request.py();
        let Some(source) = self.source.take(py) else {
            return Err(PyRuntimeError::new_err("this stream was sent already: make a new response"));
        };
        let context = calls::copy_context(py)?;
        let sink = Arc::new(Sink::default());
        let start = match source.pump {
            Some(pump) => {
                if core.streams(py) >= core.max_streams {
                    core.count_busy();
                    return Ok(None);
                }
                let items = source.items;
                Start::Task { pump, items, context: context.unbind(), request: request.clone().unbind() }
            }
            None => {
                let Some(lane) = Lane::find(core, py)? else {
                    core.count_busy();
                    return Ok(None);
                };
                Start::Pull(Pull {
                    items: source.items,
                    encode: source.encode,
                    context: context.unbind(),
                    sink: Arc::clone(&sink),
                    route: Arc::clone(route),
                    lane,
                })
            }
        };
        let (core, route) = (Arc::clone(core), Arc::clone(route));
        let mut body = Body::stream(Frames { sink, core, route, producer: Producer::New(Box::new(start)) });
        if let (Body::Stream(stream), Some((interval, bytes))) = (&mut body, &self.beat) {
            stream.set_heartbeat(*interval, bytes.clone());
        }
        Ok(Some(body))
    }
}

/// How a producer is set going.
enum Start {
    Task { pump: Py<PyAny>, items: Py<PyAny>, context: Py<PyAny>, request: Py<Request> },
    Pull(Pull),
}

enum Producer {
    New(Box<Start>),
    Task(Py<Task>),
    Lane,
    Gone,
}

/// The engine's end of a stream.
struct Frames {
    sink: Arc<Sink>,
    core: Arc<Core>,
    route: Arc<Route>,
    producer: Producer,
}

impl Frames {
    fn launch(&self, py: Python<'_>, start: Start) -> PyResult<Producer> {
        match start {
            Start::Pull(pull) => {
                Pull::submit(pull);
                Ok(Producer::Lane)
            }
            Start::Task { pump, items, context, request } => {
                let around = Surroundings { context: context.into_bound(py), ..self.core.surroundings(py)? };
                let handle = Bound::new(py, Handle { sink: Arc::clone(&self.sink) })?;
                let task = {
                    let _entered = Entered::new(&around.context)?;
                    let coroutine = calls::coroutine_of(pump.bind(py).call1((items, handle))?)?;
                    let task = Task::streaming(&around, coroutine, &self.route, request, &self.sink);
                    let task = Bound::new(py, task)?;
                    task::step(&task, None);
                    task
                };
                if task.get().is_pending(py) {
                    task::suspend(&task, &self.core)?;
                    return Ok(Producer::Task(task.unbind()));
                }
                if calls::is_shared(task.as_any()) {
                    calls::track(task.as_any())?;
                }
                Ok(Producer::Gone)
            }
        }
    }
}

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let py = driving_thread();
        if let Producer::New(_) = self.producer
            && let Producer::New(start) = std::mem::replace(&mut self.producer, Producer::Gone)
        {
            self.producer = match self.launch(py, *start) {
                Ok(producer) => producer,
                Err(error) => {
                    report(py, &format!("the stream of {} could not begin", self.route.name), &error);
                    return Poll::Ready(Some(Err("the stream could not begin".into())));
                }
            };
        }
        self.sink.poll(py, cx)
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        // Where the interpreter is gone there is nobody to tell.
        Python::try_attach(|py| {
            self.sink.close();
            match std::mem::replace(&mut self.producer, Producer::Gone) {
                Producer::Task(task) => task::abandon(task.bind(py)),
                producer => drop(producer),
            }
        });
    }
}

/// Pieces on their way from a producer to the engine.
#[derive(Default)]
pub(super) struct Sink {
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    pieces: VecDeque<Bytes>,
    bytes: usize,
    end: Option<Result<(), StreamError>>,
    waker: Option<Waker>,
    /// Nobody sends any more.
    closed: bool,
    /// The producer that waits for room.
    waiting: Option<Waiting>,
}

enum Waiting {
    Future(Py<PyAny>),
    Pull(Pull),
}

impl Held {
    fn is_full(&self) -> bool {
        self.bytes >= AHEAD || self.pieces.len() >= PIECES_AHEAD
    }
}

impl Sink {
    fn poll(&self, py: Python<'_>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let mut held = lock(&self.held);
        let Some(piece) = held.pieces.pop_front() else {
            return match held.end.take() {
                Some(end) => Poll::Ready(end.err().map(Err)),
                None => {
                    held.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            };
        };
        held.bytes -= piece.len();
        let waiting = if held.pieces.is_empty() { held.waiting.take() } else { None };
        drop(held);
        if let Some(waiting) = waiting {
            resume(py, waiting);
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    /// Takes a piece. Returns whether the producer is to wait.
    pub(super) fn push(&self, piece: Bytes) -> bool {
        let mut held = lock(&self.held);
        if held.closed || piece.is_empty() {
            return false;
        }
        held.bytes += piece.len();
        held.pieces.push_back(piece);
        let full = held.is_full();
        let waker = held.waker.take();
        drop(held);
        if let Some(waker) = waker {
            waker.wake();
        }
        full
    }

    /// Says that nothing more comes.
    pub(super) fn end(&self, end: Result<(), StreamError>) {
        let mut held = lock(&self.held);
        held.end = Some(end);
        let waker = held.waker.take();
        drop(held);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether nobody sends any more.
    pub(super) fn is_closed(&self) -> bool {
        lock(&self.held).closed
    }

    /// Lays a producer aside until there is room; gives it back if there is.
    pub(super) fn park(&self, pull: Pull) -> Option<Pull> {
        let mut held = lock(&self.held);
        if held.closed || !held.is_full() {
            return Some(pull);
        }
        held.waiting = Some(Waiting::Pull(pull));
        None
    }

    /// Nobody sends any more: forgets what is there. A plain iterator is closed on its own thread.
    fn close(&self) {
        let mut held = lock(&self.held);
        held.closed = true;
        let dropped = (std::mem::take(&mut held.pieces), held.waker.take());
        let waiting = held.waiting.take();
        drop(held);
        drop(dropped);
        match waiting {
            Some(Waiting::Pull(pull)) => Pull::submit(pull),
            // The task is cancelled, which cancels what it waits for.
            Some(Waiting::Future(future)) => drop(future),
            None => {}
        }
    }
}

fn resume(py: Python<'_>, waiting: Waiting) {
    match waiting {
        Waiting::Pull(pull) => Pull::submit(pull),
        Waiting::Future(future) => {
            let future = future.bind(py);
            let set = || -> PyResult<()> {
                if !future.call_method0(intern!(py, "done"))?.is_truthy()? {
                    future.call_method1(intern!(py, "set_result"), (py.None(),))?;
                }
                Ok(())
            };
            if let Err(error) = set() {
                report(py, "a stream could not go on", &error);
            }
        }
    }
}

/// The sink as an async producer sees it.
#[pyclass(name = "Sink", module = "tollway._tollway", frozen)]
pub(super) struct Handle {
    sink: Arc<Sink>,
}

#[pymethods]
impl Handle {
    /// Takes a piece: bytes, text or a buffer. Returns None, or a future to wait for because the
    /// client has to catch up.
    fn push<'py>(&self, piece: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = piece.py();
        let closed = self.sink.is_closed();
        if !closed && !self.sink.push(piece_of(piece)?) {
            return Ok(None);
        }
        let event_loop = py.import(intern!(py, "asyncio"))?.call_method0(intern!(py, "get_running_loop"))?;
        let future = event_loop.call_method0(intern!(py, "create_future"))?;
        if closed {
            // The client is gone: whoever still sends is to hear of it.
            future.call_method0(intern!(py, "cancel"))?;
            return Ok(Some(future));
        }
        let kept = future.clone().unbind();
        let mut held = lock(&self.sink.held);
        // The engine runs on this thread: nothing was sent since.
        let old = held.waiting.replace(Waiting::Future(kept));
        drop(held);
        drop(old);
        Ok(Some(future))
    }
}

/// The bytes of an item.
pub(super) fn piece_of(item: &Bound<'_, PyAny>) -> PyResult<Bytes> {
    if let Ok(bytes) = item.cast::<PyBytes>() {
        let content = bytes.as_bytes();
        return Ok(if content.len() < SHARE_FROM {
            Bytes::copy_from_slice(content)
        } else {
            Bytes::from_owner(PyBackedBytes::from(bytes.clone()))
        });
    }
    if let Ok(text) = item.cast::<PyString>() {
        return Ok(Bytes::copy_from_slice(text.to_str()?.as_bytes()));
    }
    if let Ok(buffer) = PyBuffer::<u8>::get(item) {
        return Ok(Bytes::from(buffer.to_vec(item.py())?));
    }
    let class = item.get_type().name()?;
    Err(PyTypeError::new_err(format!("a stream sends bytes, text or buffers of bytes, not {class}")))
}
