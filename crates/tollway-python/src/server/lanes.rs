//! Threads for streams whose producer is a plain iterator.
//!
//! Each stream has a lane, which is one thread, for its whole life. The iterator is asked for items
//! until the client has to catch up, or until another stream of the lane waits for its turn.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyIterator;

use super::calls::Entered;
use super::core::Core;
use super::pool::{Pool, QUEUE_PER_THREAD, Work};
use super::respond::report;
use super::routes::Route;
use super::stream::{Sink, piece_of};

/// One thread and the streams on it.
pub(super) struct Lane {
    pool: Arc<Pool<Pull>>,
    streams: AtomicUsize,
}

/// A place on a lane.
pub(super) struct Seat(Arc<Lane>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lane {
    /// A place on the lane that has the fewest streams; a new lane while there may be more and
    /// none is empty. `None` when all are full.
    pub(super) fn find(core: &Core, py: Python<'_>) -> PyResult<Option<Seat>> {
        let least = core.lanes.with(py, |lanes| {
            let lane = lanes.iter().min_by_key(|lane| lane.streams.load(Ordering::Relaxed)).cloned();
            lane.filter(|lane| lanes.len() >= core.max_lanes || lane.streams.load(Ordering::Relaxed) == 0)
        });
        let lane = match least {
            Some(lane) => lane,
            None => {
                let lane = Arc::new(Lane { pool: Pool::start(1, "stream")?, streams: AtomicUsize::new(0) });
                let kept = Arc::clone(&lane);
                core.lanes.with(py, |lanes| lanes.push(kept));
                lane
            }
        };
        if lane.streams.load(Ordering::Relaxed) >= QUEUE_PER_THREAD {
            return Ok(None);
        }
        lane.streams.fetch_add(1, Ordering::Relaxed);
        Ok(Some(Seat(lane)))
    }

    /// The thread.
    pub(super) fn pool(&self) -> &Pool<Pull> {
        &self.pool
    }
}

/// A plain iterator that is asked for what a stream sends.
pub(super) struct Pull {
    pub(super) items: Py<PyAny>,
    pub(super) encode: Option<Py<PyAny>>,
    pub(super) context: Py<PyAny>,
    pub(super) sink: Arc<Sink>,
    pub(super) route: Arc<Route>,
    pub(super) lane: Seat,
}

/// What became of a turn.
enum Turn {
    /// There is more, and room for it.
    More,
    /// The client has to catch up.
    Full,
    /// It is over.
    Over,
}

impl Pull {
    /// Queues it for its thread. The caller holds the GIL: a lane that is closed drops it.
    pub(super) fn submit(pull: Pull) {
        let lane = Arc::clone(&pull.lane.0);
        drop(lane.pool.submit(pull));
    }

    fn turn(&self, py: Python<'_>) -> PyResult<Turn> {
        let context = self.context.bind(py);
        let _entered = Entered::new(context)?;
        let items = self.items.bind(py);
        loop {
            if self.sink.is_closed() {
                if let Some(close) = items.getattr_opt(intern!(py, "close"))? {
                    close.call0()?;
                }
                return Ok(Turn::Over);
            }
            let Some(item) = items.cast::<PyIterator>()?.clone().next() else {
                self.sink.end(Ok(()));
                return Ok(Turn::Over);
            };
            let item = match &self.encode {
                Some(encode) => encode.bind(py).call1((item?,))?,
                None => item?,
            };
            if self.sink.push(piece_of(&item)?) {
                return Ok(Turn::Full);
            }
            if self.lane.0.pool.waiting() > 0 {
                return Ok(Turn::More);
            }
        }
    }
}

impl Work for Pull {
    fn run(self, py: Python<'_>) {
        let turned = catch_unwind(AssertUnwindSafe(|| self.turn(py)));
        let turned = turned.unwrap_or_else(|_| Err(PyRuntimeError::new_err("the server panicked")));
        match turned {
            Ok(Turn::Over) => {}
            Ok(Turn::More) => Pull::submit(self),
            Ok(Turn::Full) => {
                let sink = Arc::clone(&self.sink);
                if let Some(pull) = sink.park(self) {
                    Pull::submit(pull);
                }
            }
            Err(error) => {
                report(py, &format!("the stream of {} failed", self.route.name), &error);
                self.sink.end(Err("the stream failed".into()));
            }
        }
    }
}
