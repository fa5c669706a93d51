//! The server object: it lives inside an event loop that Python owns.

use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use pyo3::{PyTraverseError, PyVisit, intern};
use tollway_server::{Engine, Listener};

use super::cell::{GilCell, LoopBound};
use super::core::Core;
use super::finish::{Finishes, Finishing};
use super::handler::PyHandler;
use super::pool::Pool;
use super::settings;
use super::{routes, sockets, task};

/// Seconds between two looks at the time-outs.
const TICK: f64 = 0.5;
/// The same while the server is shutting down.
const CLOSING_TICK: f64 = 0.05;
/// Seconds that cancelled handlers get to clean up.
const LAST_GRACE: f64 = 1.0;
/// How long the loop waits for idle threads to end.
const THREADS_PATIENCE: Duration = Duration::from_millis(200);
/// The longest time another thread may keep the GIL once the loop asks for it. The default of
/// 5 ms would be the latency of every request while a thread computes.
const SWITCH_INTERVAL: f64 = 0.0005;

/// An HTTP server that calls Python handlers, driven by an asyncio event loop.
///
/// `routes` and `settings` are dicts as `tollway.bolt` builds them.
#[pyclass(module = "tollway._tollway", frozen, weakref)]
pub(super) struct Server {
    core: Arc<Core>,
    settings: tollway_server::Settings,
    listener: GilCell<Option<Listener>>,
    engine: GilCell<Option<LoopBound<Rc<Engine<PyHandler>>>>>,
    life: GilCell<Life>,
}

#[derive(Default)]
struct Life {
    started: bool,
    /// Whether a tick is scheduled.
    ticking: bool,
    /// The future of `shutdown`.
    closing: Option<Py<PyAny>>,
    cancel_at: Option<Instant>,
    abort_at: Option<Instant>,
}

#[pymethods]
impl Server {
    #[new]
    fn new(routes: &Bound<'_, PyList>, settings: &Bound<'_, PyDict>) -> PyResult<Self> {
        require_gil(settings.py())?;
        let parsed = settings::parse(settings)?;
        let mut finishes = Finishes::of(settings)?;
        let router = routes::build(routes, &parsed.address, &parsed.file_roots, &mut finishes)?;
        let finishing = Finishing::new(finishes, &router, parsed.address, parsed.behind_proxies);
        // The engine reads as much as any route takes; the handler tells it the route's own limit.
        let mut engine = parsed.engine;
        let largest = router.values().map(|route| parsed.bodies.most(route)).max().unwrap_or(0);
        engine.max_body_bytes = engine.max_body_bytes.max(largest);
        let (bodies, hooks) = (parsed.bodies, parsed.hooks);
        Ok(Server {
            core: Arc::new(Core::new(router, hooks, finishing, bodies, parsed.bounds)),
            settings: engine,
            listener: GilCell::new(None),
            engine: GilCell::new(None),
            life: GilCell::new(Life::default()),
        })
    }

    /// Opens the listening socket. Returns the address and the port. `OSError` says in one
    /// sentence what is wrong and what to do.
    #[pyo3(signature = (host, port, reuse_port=true))]
    fn bind(&self, py: Python<'_>, host: &str, port: u16, reuse_port: bool) -> PyResult<(String, u16)> {
        let listener = sockets::bind(py, host, port, reuse_port)?;
        let address = listener.local_addr()?;
        self.set_listener(py, listener.into());
        Ok((address.ip().to_string(), address.port()))
    }

    /// Takes a socket that listens already, by its descriptor. It is duplicated, and stays open
    /// when the server ends.
    fn adopt(&self, py: Python<'_>, descriptor: RawFd) -> PyResult<()> {
        self.set_listener(py, sockets::duplicate(descriptor)?);
        Ok(())
    }

    /// Begins to serve on `loop`. To be called on the loop's thread, after `bind`.
    #[pyo3(name = "start")]
    fn begin(slf: &Bound<'_, Self>, r#loop: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        if this.life.with(py, |life| std::mem::replace(&mut life.started, true)) {
            return Err(PyRuntimeError::new_err("this server was started before: make a new one"));
        }
        let Some(listener) = this.listener.take(py) else {
            this.life.with(py, |life| life.started = false);
            return Err(PyRuntimeError::new_err("the server has no socket: call bind(host, port) before start(loop)"));
        };
        let begun = this.launch(slf, r#loop, listener);
        if begun.is_err() {
            this.dismantle(py);
        }
        begun
    }

    /// Stops accepting, answers what is in flight for at most `grace` seconds, then cancels what
    /// is left. Returns a future that is done when everything is closed.
    fn shutdown<'py>(slf: &Bound<'py, Self>, grace: f64) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let this = slf.get();
        if !(0.0..=86_400.0).contains(&grace) {
            return Err(PyValueError::new_err(format!("grace must be from 0 to 86400 seconds, got {grace}")));
        }
        let known = this.life.with(py, |life| life.closing.as_ref().map(|future| future.clone_ref(py)));
        if let Some(future) = known {
            return Ok(future.into_bound(py));
        }
        let event_loop = match this.core.event_loop(py) {
            Some(event_loop) => event_loop.into_bound(py),
            None => py.import("asyncio")?.call_method0("get_running_loop")?,
        };
        let future = event_loop.call_method0(intern!(py, "create_future"))?;
        let now = Instant::now();
        let cancel_at = now + Duration::from_secs_f64(grace);
        let kept = future.clone().unbind();
        this.life.with(py, |life| {
            life.started = true;
            life.closing = Some(kept);
            life.cancel_at = Some(cancel_at);
            life.abort_at = Some(cancel_at + Duration::from_secs_f64(LAST_GRACE));
            life.ticking = true;
        });
        this.core.stopping.store(true, Ordering::Relaxed);
        if let Some(engine) = this.engine(py) {
            engine.begin_shutdown();
        }
        event_loop.call_method1(intern!(py, "call_soon"), (slf.getattr(intern!(py, "_tick"))?,))?;
        Ok(future)
    }

    /// Counters since the start and what is there now.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        let stats = self.engine(py).map(|engine| engine.stats()).unwrap_or_default();
        dict.set_item("connections", stats.open)?;
        dict.set_item("accepted", stats.accepted)?;
        dict.set_item("requests", stats.requests)?;
        dict.set_item("refused", stats.refused)?;
        dict.set_item("timed_out", stats.timed_out)?;
        dict.set_item("cancelled", stats.cancelled)?;
        dict.set_item("panics", stats.panics)?;
        dict.set_item("overdue", stats.overdue)?;
        dict.set_item("busy", self.core.busy.load(Ordering::Relaxed))?;
        dict.set_item("tasks", self.core.suspended(py))?;
        dict.set_item("log_dropped", self.core.finishing.dropped())?;
        dict.set_item("streams", self.core.streams(py))?;
        dict.set_item("queued", self.core.pool(py).map_or(0, |pool| pool.waiting()))?;
        Ok(dict)
    }

    /// The loop calls this when the server's descriptor is readable.
    fn _pump(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        let Some(engine) = this.engine(slf.py()) else { return Ok(()) };
        engine.turn();
        this.after(slf, &engine)
    }

    /// The loop calls this while there are time-outs to look at.
    fn _tick(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        this.life.with(py, |life| life.ticking = false);
        let Some(engine) = this.engine(py) else { return this.closed(slf) };
        let now = Instant::now();
        engine.expire(now);
        this.enforce_deadlines(py, &engine, now);
        this.after(slf, &engine)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.core.traverse(&visit)?;
        self.life.look(|life| visit.call(&life.closing)).unwrap_or(Ok(()))
    }

    fn __clear__(&self, py: Python<'_>) {
        drop(self.engine.take(py));
        if let Some(pool) = self.core.end(py) {
            pool.close();
        }
        drop(self.life.take(py));
    }
}

impl Server {
    fn set_listener(&self, py: Python<'_>, listener: Listener) {
        let old = self.listener.with(py, |slot| slot.replace(listener));
        drop(old);
    }

    fn launch(&self, slf: &Bound<'_, Self>, event_loop: &Bound<'_, PyAny>, listener: Listener) -> PyResult<()> {
        let py = slf.py();
        let pool = if self.core.needs_pool() {
            shorten_switch_interval(py)?;
            Some(Pool::start(self.core.threads, "handler")?)
        } else {
            None
        };
        self.core.begin(py, event_loop.clone().unbind(), slf.clone().unbind(), pool)?;
        let handler = PyHandler { core: Arc::clone(&self.core) };
        let engine = Rc::new(Engine::new(listener, handler, self.settings.clone())?);
        let descriptor = engine.as_raw_fd();
        self.engine.with(py, |slot| *slot = Some(LoopBound(engine)));
        let pump = slf.getattr(intern!(py, "_pump"))?;
        event_loop.call_method1(intern!(py, "add_reader"), (descriptor, &pump))?;
        // Connections may have arrived already.
        event_loop.call_method1(intern!(py, "call_soon"), (pump,)).map(drop)
    }

    /// Lets go of everything but the settings.
    fn dismantle(&self, py: Python<'_>) {
        drop(self.engine.take(py));
        drop(self.listener.take(py));
        let lanes = self.core.lanes.take(py);
        // What streams were made of is closed on the threads of the streams.
        lanes.iter().for_each(|lane| lane.pool().finish());
        let pool = self.core.end(py);
        if let Some(pool) = &pool {
            pool.close();
        }
        py.detach(|| {
            pool.iter().for_each(|pool| pool.join(THREADS_PATIENCE));
            lanes.iter().for_each(|lane| lane.pool().join(THREADS_PATIENCE));
            self.core.finishing.close();
        });
    }

    /// What the requests share.
    pub(super) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    #[inline]
    fn engine(&self, py: Python<'_>) -> Option<Rc<Engine<PyHandler>>> {
        self.engine.with(py, |slot| slot.as_ref().map(|engine| Rc::clone(&engine.0)))
    }

    /// Runs `complete`, which may complete requests, and sends what got ready.
    #[inline]
    pub(super) fn complete_with(&self, slf: &Bound<'_, Self>, complete: impl FnOnce()) -> PyResult<()> {
        match self.engine(slf.py()) {
            Some(engine) => {
                engine.run_with(complete);
                self.after(slf, &engine)
            }
            None => {
                complete();
                self.core.take_fatal(slf.py()).map_or(Ok(()), Err)
            }
        }
    }

    /// What is due after the engine did something.
    #[inline]
    fn after(&self, slf: &Bound<'_, Self>, engine: &Rc<Engine<PyHandler>>) -> PyResult<()> {
        let py = slf.py();
        if let Some(error) = self.core.take_fatal(py) {
            return Err(error);
        }
        let (closing, ticking) = self.life.with(py, |life| (life.closing.is_some(), life.ticking));
        if closing && engine.is_drained() && self.core.is_idle(py) {
            return self.closed(slf);
        }
        if ticking || !(closing || engine.open_connections() > 0) {
            return Ok(());
        }
        self.life.with(py, |life| life.ticking = true);
        let Some(event_loop) = self.core.event_loop(py) else { return Ok(()) };
        let seconds = if closing { CLOSING_TICK } else { TICK };
        let tick = slf.getattr(intern!(py, "_tick"))?;
        event_loop.bind(py).call_method1(intern!(py, "call_later"), (seconds, tick)).map(drop)
    }

    /// While shutting down: cancels handlers when the grace is over, gives up a little later.
    fn enforce_deadlines(&self, py: Python<'_>, engine: &Rc<Engine<PyHandler>>, now: Instant) {
        let due = |at: &mut Option<Instant>| at.take_if(|at| *at <= now).is_some();
        let (cancel, abort) = self.life.with(py, |life| (due(&mut life.cancel_at), due(&mut life.abort_at)));
        if cancel {
            for task in self.core.tasks(py) {
                if let Err(error) = task::cancel(task.bind(py), None) {
                    super::respond::report(py, "a handler could not be cancelled", &error);
                }
            }
        }
        if abort {
            engine.abort();
            for task in self.core.tasks(py) {
                task::release(task.bind(py), &self.core);
            }
        }
    }

    /// Ends everything. Runs on the loop, outside of the engine.
    fn closed(&self, slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let event_loop = self.core.event_loop(py);
        if let (Some(engine), Some(event_loop)) = (self.engine(py), &event_loop) {
            event_loop.bind(py).call_method1(intern!(py, "remove_reader"), (engine.as_raw_fd(),))?;
        }
        self.dismantle(py);
        let future = self.life.with(py, |life| life.closing.as_ref().map(|future| future.clone_ref(py)));
        if let Some(future) = future {
            let future = future.bind(py);
            if !future.call_method0(intern!(py, "done"))?.is_truthy()? {
                future.call_method1(intern!(py, "set_result"), (py.None(),))?;
            }
        }
        Ok(())
    }
}

/// All shared state of the server is guarded by the GIL.
fn require_gil(py: Python<'_>) -> PyResult<()> {
    let sys = py.import("sys")?;
    match sys.getattr_opt("_is_gil_enabled")? {
        Some(enabled) if !enabled.call0()?.is_truthy()? => Err(PyRuntimeError::new_err(
            "the server needs the GIL: start Python with PYTHON_GIL=1, or use a build that has it",
        )),
        _ => Ok(()),
    }
}

fn shorten_switch_interval(py: Python<'_>) -> PyResult<()> {
    let sys = py.import("sys")?;
    let current: f64 = sys.call_method0("getswitchinterval")?.extract()?;
    if current > SWITCH_INTERVAL {
        sys.call_method1("setswitchinterval", (SWITCH_INTERVAL,))?;
    }
    Ok(())
}
