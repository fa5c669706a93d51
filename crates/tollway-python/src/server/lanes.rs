//! Threads for streams whose producer is a plain iterator.
//!
//! Each stream has a lane, which is one thread, for its whole life. The iterator is asked for items
//! until the client has to catch up, or until another stream of the lane waits for its turn.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyIterator;

use super::calls::Entered;
use super::core::Core;
use super::pool::{Pool, QUEUE_PER_THREAD, Work};
use super::respond::report;
use super::routes::Route;
use super::stream::{Sink, Source, piece_of};

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
    pub(super) source: Source,
    /// What iterates over the items, once that has begun.
    pub(super) iterator: Option<Py<PyAny>>,
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
    /// Queues it for its thread. The caller holds the GIL: a lane that is finished drops it.
    pub(super) fn submit(pull: Pull) {
        let lane = Arc::clone(&pull.lane.0);
        drop(lane.pool.submit(pull));
    }

    fn turn(&mut self, py: Python<'_>) -> PyResult<Turn> {
        if self.sink.is_closed() {
            return Ok(Turn::Over);
        }
        let _entered = Entered::new(self.context.bind(py))?;
        let iterator = match &self.iterator {
            Some(iterator) => iterator.bind(py).clone(),
            None => {
                let made = self.source.items.bind(py).try_iter()?.into_any();
                self.iterator = Some(made.clone().unbind());
                made
            }
        };
        let mut items = iterator.cast_into::<PyIterator>()?;
        while !self.sink.is_closed() {
            let Some(item) = items.next() else { return Ok(Turn::Over) };
            if self.sink.push(piece_of(&item?, self.source.encode.as_ref())?) {
                return Ok(Turn::Full);
            }
            if self.lane.0.pool.waiting() > 0 {
                return Ok(Turn::More);
            }
        }
        Ok(Turn::Over)
    }

    /// Closes what it iterated over.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let _entered = Entered::new(self.context.bind(py))?;
        self.source.close(self.iterator.as_ref().map(|iterator| iterator.bind(py)), py)
    }

    /// Ends the stream, once everything is closed.
    fn end(&self, py: Python<'_>, outcome: PyResult<()>) {
        let closed = self.close(py);
        let Err(error) = outcome.and(closed) else { return self.sink.end(Ok(())) };
        report(py, &format!("the stream of {} failed", self.route.name), &error);
        self.sink.end(Err("the stream failed".into()));
    }
}

impl Work for Pull {
    fn run(mut self, py: Python<'_>) {
        let turned = catch_unwind(AssertUnwindSafe(|| self.turn(py)));
        match turned.unwrap_or_else(|_| Err(PyRuntimeError::new_err("the server panicked"))) {
            Ok(Turn::More) => Pull::submit(self),
            Ok(Turn::Full) => {
                let sink = Arc::clone(&self.sink);
                if let Some(pull) = sink.park(self) {
                    Pull::submit(pull);
                }
            }
            Ok(Turn::Over) => self.end(py, Ok(())),
            Err(error) => self.end(py, Err(error)),
        }
    }
}
