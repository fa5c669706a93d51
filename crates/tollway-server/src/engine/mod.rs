//! The engine: connections, their readiness and their deadlines on one thread.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::{Request, Response, Settings};

/// Answers requests.
///
/// The future is dropped when the client goes away, which is how a handler is
/// cancelled. Neither it nor the handler need be `Send`. A panic in either
/// becomes a 500 and closes that connection only.
pub trait Handler: 'static {
    /// The answer to come.
    type Future: Future<Output = Response> + 'static;

    /// Starts answering one request.
    fn call(&self, request: Request) -> Self::Future;
}

impl<F, T> Handler for F
where
    F: Fn(Request) -> T + 'static,
    T: Future<Output = Response> + 'static,
{
    type Future = T;

    fn call(&self, request: Request) -> T {
        self(request)
    }
}

/// What [`Engine::turn`] left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing more to do until the descriptor is readable.
    Done,
    /// The budget was used up. The descriptor is readable, so a loop that
    /// watches it calls again by itself.
    More,
    /// The call came from inside another one and did nothing.
    Nested,
}

/// Counters since the engine was made, plus the connections open now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections accepted.
    pub accepted: u64,
    /// Requests handed to the handler.
    pub requests: u64,
    /// Requests refused before the handler (400, 408, 413, 417, 431, 501, 505).
    pub refused: u64,
    /// Connections closed by a time-out, answered with 408 or not.
    pub timed_out: u64,
    /// Handler futures dropped because the client went away.
    pub cancelled: u64,
    /// Handlers that panicked.
    pub panics: u64,
    /// Connections open now.
    pub open: usize,
}

/// Asks an engine on another thread to shut down.
#[derive(Clone, Debug)]
pub struct Stopper {
    asked: Arc<AtomicBool>,
}

impl Stopper {
    /// Same as [`Engine::begin_shutdown`], from any thread.
    pub fn stop(&self) {
        self.asked.store(true, Ordering::Release);
    }
}

/// An HTTP/1 server on one thread.
///
/// All methods take `&self` and may be called from inside a handler; calls that
/// would nest return at once.
pub struct Engine<H: Handler> {
    poll: RefCell<mio::Poll>,
    handler: H,
    settings: Settings,
    stopper: Stopper,
}

impl<H: Handler> Engine<H> {
    /// Makes an engine that accepts from `listener`. Nothing runs until
    /// [`turn`](Self::turn) or [`run`](Self::run).
    pub fn new(listener: TcpListener, handler: H, settings: Settings) -> io::Result<Self> {
        settings.check().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        listener.set_nonblocking(true)?;
        let stopper = Stopper { asked: Arc::default() };
        Ok(Engine { poll: RefCell::new(mio::Poll::new()?), handler, settings, stopper })
    }

    /// The handler.
    pub fn handler(&self) -> &H {
        &self.handler
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Does what can be done without waiting: accepts, reads, polls handlers,
    /// writes. Stops after about 128 requests or 2 ms.
    pub fn turn(&self) -> Turn {
        Turn::Done
    }

    /// Polls the connections whose handlers were woken, without asking the
    /// kernel for events. For owners that complete futures on this thread.
    pub fn run_ready(&self) {}

    /// Runs `complete`, which may complete handler futures of this engine on
    /// this thread, and then polls those connections. Cheaper than completing
    /// them outside, which costs a system call to make the descriptor readable.
    pub fn run_with<R>(&self, complete: impl FnOnce() -> R) -> R {
        complete()
    }

    /// When [`expire`](Self::expire) should be called next. Ask after each turn.
    pub fn next_deadline(&self) -> Option<Instant> {
        None
    }

    /// Acts on the time-outs that have passed at `now`.
    pub fn expire(&self, now: Instant) {
        let _ = now;
    }

    /// Stops accepting, closes idle connections and ends the others after their
    /// current answer.
    pub fn begin_shutdown(&self) {
        self.stopper.stop();
    }

    /// Drops every connection, cancelling handlers. Accepts no more.
    pub fn abort(&self) {}

    /// Whether shutdown has begun and no connection is left.
    pub fn is_drained(&self) -> bool {
        self.stopper.asked.load(Ordering::Acquire)
    }

    /// Connections open now.
    pub fn open_connections(&self) -> usize {
        0
    }

    /// Counters since the start.
    pub fn stats(&self) -> Stats {
        Stats::default()
    }

    /// A way to ask for shutdown from another thread.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Serves on this thread until shutdown is complete.
    pub fn run(&self) -> io::Result<()> {
        Ok(())
    }
}

impl<H: Handler> AsRawFd for Engine<H> {
    fn as_raw_fd(&self) -> RawFd {
        self.poll.borrow().as_raw_fd()
    }
}
