//! What all requests of one server share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};
use tollway_server::app::Router;

use super::bodies::Bodies;
use super::calls;
use super::cell::GilCell;
use super::finish::Finishing;
use super::lanes::Lane;
use super::lifecycle::Server;
use super::pool::{Job, Pool};
use super::respond::Hooks;
use super::routes::{Mode, Route};
use super::settings::Bounds;
use super::task::Task;

/// The routes, the hooks and everything alive.
pub(super) struct Core {
    pub(super) router: Router<Arc<Route>>,
    pub(super) hooks: Hooks,
    pub(super) finishing: Finishing,
    pub(super) bodies: Bodies,
    pub(super) max_tasks: usize,
    pub(super) max_streams: usize,
    pub(super) max_lanes: usize,
    pub(super) threads: usize,
    /// Threads for streams of plain iterators, started when they are first needed.
    pub(super) lanes: GilCell<Vec<Arc<Lane>>>,
    /// Set when shutdown begins.
    pub(super) stopping: AtomicBool,
    /// Requests answered with 503 because the server had no room.
    pub(super) busy: AtomicU64,
    running: GilCell<Option<Running>>,
    live: GilCell<Live>,
    pool: GilCell<Option<Arc<Pool<Job>>>>,
    fatal: GilCell<Option<PyErr>>,
}

/// What exists between `start` and the end of shutdown.
struct Running {
    event_loop: Py<PyAny>,
    server: Py<Server>,
    context: Py<PyAny>,
}

/// The suspended tasks. They are held here because asyncio holds its tasks weakly.
#[derive(Default)]
struct Live {
    slots: Vec<Option<Py<Task>>>,
    free: Vec<usize>,
    /// How many of them make a streamed body.
    streams: usize,
}

/// The running loop, the server and a fresh Context for one request.
pub(super) struct Surroundings<'py> {
    pub(super) event_loop: Bound<'py, PyAny>,
    pub(super) server: Py<Server>,
    pub(super) context: Bound<'py, PyAny>,
}

impl Core {
    pub(super) fn new(
        router: Router<Arc<Route>>,
        hooks: Hooks,
        finishing: Finishing,
        bodies: Bodies,
        bounds: Bounds,
    ) -> Self {
        Core {
            router,
            hooks,
            finishing,
            bodies,
            max_tasks: bounds.max_tasks,
            max_streams: bounds.max_streams,
            max_lanes: bounds.max_lanes,
            threads: bounds.threads,
            lanes: GilCell::new(Vec::new()),
            stopping: AtomicBool::new(false),
            busy: AtomicU64::new(0),
            running: GilCell::new(None),
            live: GilCell::new(Live::default()),
            pool: GilCell::new(None),
            fatal: GilCell::new(None),
        }
    }

    /// Whether some handler runs on the pool.
    pub(super) fn needs_pool(&self) -> bool {
        self.router.values().any(|route| route.mode == Mode::Pool)
    }

    pub(super) fn begin(
        &self,
        py: Python<'_>,
        event_loop: Py<PyAny>,
        server: Py<Server>,
        pool: Option<Arc<Pool<Job>>>,
    ) -> PyResult<()> {
        for route in self.router.values() {
            if let Some(limits) = &route.limits {
                limits.open(py, &route.address, route.auth.is_some())?;
            }
        }
        self.finishing.start()?;
        let context = calls::copy_context(py)?.unbind();
        let old = self.running.with(py, |running| running.replace(Running { event_loop, server, context }));
        drop(old);
        self.pool.with(py, |slot| *slot = pool);
        Ok(())
    }

    /// Lets go of the loop, the server and the pool. Returns the pool, to be closed.
    pub(super) fn end(&self, py: Python<'_>) -> Option<Arc<Pool<Job>>> {
        drop(self.running.take(py));
        self.pool.take(py)
    }

    /// What a handler needs around it. The Context is a copy of the one in which the server was
    /// started: the current one may belong to a request that is just being completed.
    #[inline]
    pub(super) fn surroundings<'py>(&self, py: Python<'py>) -> PyResult<Surroundings<'py>> {
        let found = self.running.with(py, |running| {
            running.as_ref().map(|r| (r.event_loop.clone_ref(py), r.server.clone_ref(py), r.context.clone_ref(py)))
        });
        let Some((event_loop, server, base)) = found else {
            return Err(pyo3::exceptions::PyRuntimeError::new_err("the server is not running"));
        };
        let context = calls::copy_of(base.bind(py))?;
        Ok(Surroundings { event_loop: event_loop.into_bound(py), server, context })
    }

    pub(super) fn event_loop(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.running.with(py, |running| running.as_ref().map(|r| r.event_loop.clone_ref(py)))
    }

    pub(super) fn pool(&self, py: Python<'_>) -> Option<Arc<Pool<Job>>> {
        self.pool.with(py, |pool| pool.clone())
    }

    /// Counts one request that is refused for want of room.
    pub(super) fn count_busy(&self) {
        self.busy.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// How many handlers are suspended.
    #[inline]
    pub(super) fn suspended(&self, py: Python<'_>) -> usize {
        self.live.with(py, |live| live.slots.len() - live.free.len() - live.streams)
    }

    /// How many tasks make a streamed body.
    pub(super) fn streams(&self, py: Python<'_>) -> usize {
        self.live.with(py, |live| live.streams)
    }

    /// Whether no task is left.
    #[inline]
    pub(super) fn is_idle(&self, py: Python<'_>) -> bool {
        self.live.with(py, |live| live.slots.len() == live.free.len())
    }

    /// Holds a suspended task until [`Core::forget`].
    pub(super) fn keep(&self, py: Python<'_>, task: Py<Task>) -> usize {
        let is_stream = task.get().is_stream();
        self.live.with(py, |live| {
            live.streams += usize::from(is_stream);
            match live.free.pop() {
                Some(slot) => {
                    live.slots[slot] = Some(task);
                    slot
                }
                None => {
                    live.slots.push(Some(task));
                    live.slots.len() - 1
                }
            }
        })
    }

    /// Lets go of a task that ended.
    pub(super) fn forget(&self, py: Python<'_>, slot: usize) {
        let task = self.live.with(py, |live| {
            live.free.push(slot);
            let task = live.slots[slot].take();
            live.streams -= task.as_ref().map_or(0, |task| usize::from(task.get().is_stream()));
            task
        });
        drop(task);
    }

    /// The suspended tasks.
    pub(super) fn tasks(&self, py: Python<'_>) -> Vec<Py<Task>> {
        self.live.with(py, |live| live.slots.iter().flatten().map(|task| task.clone_ref(py)).collect())
    }

    /// Remembers an exception that must stop the loop (`SystemExit`, `KeyboardInterrupt`).
    pub(super) fn set_fatal(&self, py: Python<'_>, error: PyErr) {
        let old = self.fatal.with(py, |fatal| fatal.replace(error));
        drop(old);
    }

    /// That exception, once.
    #[inline]
    pub(super) fn take_fatal(&self, py: Python<'_>) -> Option<PyErr> {
        self.fatal.take(py)
    }

    /// Shows the collector everything the server holds.
    pub(super) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.hooks.traverse(visit)?;
        for route in self.router.values() {
            route.traverse(visit)?;
        }
        let running = self.running.look(|running| match running {
            Some(running) => {
                visit.call(&running.event_loop)?;
                visit.call(&running.server)?;
                visit.call(&running.context)
            }
            None => Ok(()),
        });
        running.unwrap_or(Ok(()))?;
        let live = self.live.look(|live| live.slots.iter().try_for_each(|task| visit.call(task)));
        live.unwrap_or(Ok(()))
    }
}
