//! Bodies made of what a Python iterator gives.
//!
//! A [`Sink`] stands between the producer, which Python runs, and the engine, which sends. It
//! holds a bounded number of bytes: a producer that is ahead waits until the client has caught up.
//! Async iterators are run by a task on the event loop, plain ones on a lane (a thread of their
//! own kind of pool, always the same one for a stream, because database cursors must not move).

use std::borrow::Cow;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
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
/// `items` are iterated over on a thread. `encode` (if given) makes bytes or text of each item.
/// `close` is called at the end with what has to be closed, on the thread of the items: with the
/// iterator and the items, or with the items alone if nobody has asked for the first of them.
/// With `beat`, a time in seconds and bytes, these are sent whenever nothing else was for that time.
#[pyclass(module = "tollway._tollway", frozen)]
pub(super) struct Stream {
    source: GilCell<Option<Source>>,
    /// Where the items are iterated over asynchronously.
    pump: Option<Py<PyAny>>,
    beat: Option<(f64, Bytes)>,
}

/// What a stream is made of, until it is sent.
pub(super) struct Source {
    pub(super) items: Py<PyAny>,
    pub(super) encode: Option<Py<PyAny>>,
    pub(super) close: Option<Py<PyAny>>,
}

impl Source {
    /// Closes `iterator`, if there is one, and the items.
    pub(super) fn close(&self, iterator: Option<&Bound<'_, PyAny>>, py: Python<'_>) -> PyResult<()> {
        let Some(close) = &self.close else { return Ok(()) };
        match iterator {
            Some(iterator) => close.bind(py).call1((iterator, &self.items)),
            None => close.bind(py).call1((&self.items,)),
        }
        .map(drop)
    }

    /// Closes the items, of which none was asked for, because nothing is sent.
    fn give_up(&self, py: Python<'_>) {
        if let Err(error) = self.close(None, py) {
            report(py, "a stream that nobody waits for could not be closed", &error);
        }
    }
}

#[pymethods]
impl Stream {
    #[new]
    #[pyo3(signature = (items, *, pump=None, encode=None, close=None, beat=None))]
    fn new(
        items: Py<PyAny>,
        pump: Option<Py<PyAny>>,
        encode: Option<Py<PyAny>>,
        close: Option<Py<PyAny>>,
        beat: Option<(f64, Vec<u8>)>,
    ) -> PyResult<Self> {
        if let Some((seconds, _)) = &beat {
            Duration::try_from_secs_f64(*seconds)
                .map_err(|_| PyValueError::new_err("the first of beat must be a time in seconds"))?;
        }
        let beat = beat.map(|(seconds, bytes)| (seconds, Bytes::from(bytes)));
        Ok(Stream { source: GilCell::new(Some(Source { items, encode, close })), pump, beat })
    }

    /// What is sent whenever nothing else was for some time: the time in seconds and the bytes.
    #[getter]
    fn beat(&self) -> Option<(f64, Cow<'_, [u8]>)> {
        self.beat.as_ref().map(|(seconds, bytes)| (*seconds, Cow::Borrowed(&bytes[..])))
    }

    /// Whether the items are iterated over asynchronously.
    #[getter]
    fn is_async(&self) -> bool {
        self.pump.is_some()
    }

    /// The items and what encodes them, for somebody else to send and to close: this stream cannot
    /// be sent any more.
    fn take(&self, py: Python<'_>) -> PyResult<(Py<PyAny>, Option<Py<PyAny>>)> {
        let source = self.source.take(py).ok_or_else(spent)?;
        Ok((source.items, source.encode))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let source = self.source.look(|source| match source {
            Some(source) => {
                visit.call(&source.items)?;
                visit.call(&source.encode)?;
                visit.call(&source.close)
            }
            None => Ok(()),
        });
        source.unwrap_or(Ok(()))?;
        visit.call(&self.pump)
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
        let source = self.source.take(py).ok_or_else(spent)?;
        let context = calls::copy_context(py)?;
        let sink = Arc::new(Sink::default());
        let context = context.unbind();
        let lane = if self.pump.is_none() { Lane::find(core, py)? } else { None };
        let start = match (&self.pump, lane) {
            (Some(pump), _) if core.streams(py) < core.max_streams => {
                let pump = pump.clone_ref(py);
                Start::Task { pump, source, context, request: request.clone().unbind() }
            }
            (None, Some(lane)) => {
                let (sink, route) = (Arc::clone(&sink), Arc::clone(route));
                Start::Pull(Pull { source, iterator: None, context, sink, route, lane })
            }
            _ => {
                core.count_busy();
                source.give_up(py);
                return Ok(None);
            }
        };
        let (core, route) = (Arc::clone(core), Arc::clone(route));
        let mut body = Body::stream(Frames { sink, core, route, producer: Producer::New(Box::new(start)) });
        if let (Body::Stream(stream), Some((seconds, bytes))) = (&mut body, &self.beat) {
            stream.set_heartbeat(Duration::from_secs_f64(*seconds), bytes.clone());
        }
        Ok(Some(body))
    }
}

fn spent() -> PyErr {
    PyRuntimeError::new_err("this stream was sent already: make a new response")
}

/// How a producer is set going.
enum Start {
    Task { pump: Py<PyAny>, source: Source, context: Py<PyAny>, request: Py<Request> },
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
            Start::Task { pump, source: Source { items, encode, .. }, context, request } => {
                let around = Surroundings { context: context.into_bound(py), ..self.core.surroundings(py)? };
                let handle =
                    Bound::new(py, Handle { sink: Arc::clone(&self.sink), encode, empty: AtomicUsize::new(0) })?;
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
                // Nobody has asked for the first piece: what it would be made of is closed all the same.
                Producer::New(start) => match *start {
                    Start::Task { source, .. } => source.give_up(py),
                    Start::Pull(pull) => Pull::submit(pull),
                },
                Producer::Lane | Producer::Gone => {}
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
        wake(held);
        full
    }

    /// Says that nothing more comes.
    pub(super) fn end(&self, end: Result<(), StreamError>) {
        let mut held = lock(&self.held);
        held.end = Some(end);
        wake(held);
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

/// Tells the engine that there is something, once the lock is free.
fn wake(mut held: MutexGuard<'_, Held>) {
    let waker = held.waker.take();
    drop(held);
    if let Some(waker) = waker {
        waker.wake();
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
    encode: Option<Py<PyAny>>,
    /// Pieces without a byte so far, which nobody sends and so nobody waits for.
    empty: AtomicUsize,
}

#[pymethods]
impl Handle {
    /// Takes an item: bytes, text, a buffer, or what can be encoded. Returns None, or what to wait for because the
    /// client has to catch up, or others have to have their turn.
    fn push<'py>(&self, item: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = item.py();
        let asyncio = || py.import(intern!(py, "asyncio"));
        let closed = self.sink.is_closed();
        if !closed {
            let piece = piece_of(item, self.encode.as_ref())?;
            if piece.is_empty() {
                let others = (self.empty.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(PIECES_AHEAD);
                return others.then(|| asyncio()?.call_method1(intern!(py, "sleep"), (0,))).transpose();
            }
            if !self.sink.push(piece) {
                return Ok(None);
            }
        }
        let event_loop = asyncio()?.call_method0(intern!(py, "get_running_loop"))?;
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

/// The bytes of an item, of which `encode` makes bytes or text if there is one.
pub(super) fn piece_of(item: &Bound<'_, PyAny>, encode: Option<&Py<PyAny>>) -> PyResult<Bytes> {
    if let Some(encode) = encode {
        return piece_of(&encode.bind(item.py()).call1((item,))?, None);
    }
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
