//! The engine: connections, their readiness and their deadlines on one thread.

mod answer;
mod connection;
mod cycle;
mod deadlines;
mod exchange;
mod piping;
mod refusing;
mod socket;
mod streams;
mod table;
mod unguarded;
mod wake;
mod wire;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::{Events, Poll, Token};

use connection::{Connection, Expiry, Fate};
use exchange::Shared;
pub use socket::Listener;
use socket::{Acceptor, Plain, Transport};
use table::{Key, Table};
pub use wake::Stopper;
use wake::{ConnectionWaker, ReadyQueue, Running};
use wire::{SCRATCH_BYTES, Wire};

use crate::framing::Limits;
use crate::{Refused, Request, Response, Settings};

const LISTENER: Token = Token(usize::MAX);
const WAKER: Token = Token(usize::MAX - 1);
/// Events fetched from the kernel by one call.
const EVENTS: usize = 256;
/// Bounds of one turn, after which the owner's loop gets its chance.
const TURN_REQUESTS: u64 = 128;
const TURN_TIME: Duration = Duration::from_millis(2);
/// Connections accepted in one turn.
const TURN_ACCEPTS: usize = 128;
/// Connections accepted at most when shutdown begins.
const MAX_QUEUED: usize = 8192;
/// Pause after the system refused to give another socket.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Deadlines are looked at no more often than this.
const MAX_TICK: Duration = Duration::from_millis(250);
const MIN_TICK: Duration = Duration::from_millis(1);

/// Answers requests.
///
/// The future is dropped when the client goes away, which is how a handler is
/// cancelled. Neither it nor the handler need be `Send`. A panic in either
/// becomes a 500 and closes that connection only.
///
/// Closures that take a [`Request`] and return a future are handlers.
pub trait Handler: 'static {
    /// The answer to come.
    type Future: Future<Output = Response> + 'static;

    /// Starts answering one request.
    fn call(&self, request: Request) -> Self::Future;

    /// Most bytes of the body of a request with this head; asked before the body is read, and
    /// only where there is one. More than [`Settings::max_body_bytes`] is never read.
    fn max_body(&self, _head: &http::request::Parts) -> usize {
        usize::MAX
    }

    /// Completes the answer to a request that is refused without being handled. A body in place of its
    /// own must be there at once: no stream is sent so.
    fn refuse(&self, _refused: &Refused, _answer: &mut Response) {}

    /// Completes the answer that is given because `future` took too long or panicked. The future
    /// is dropped after this.
    fn replace(&self, _future: Pin<&mut Self::Future>, _answer: &mut Response) {}
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
    /// Connections closed because the client was too slow.
    pub timed_out: u64,
    /// Handler futures and streamed bodies dropped because the client went away.
    pub cancelled: u64,
    /// Handlers and streamed bodies that panicked.
    pub panics: u64,
    /// Requests ended because their handler, or over HTTP/2 their body, took too long.
    pub overdue: u64,
    /// Connections open now.
    pub open: usize,
}

/// An HTTP server on one thread.
///
/// All methods take `&self` and may be called from inside a handler; calls that
/// would nest do nothing, and what they ask for is done as soon as the outer
/// call is through.
///
/// To run it inside another event loop, watch the descriptor ([`AsRawFd`]) for
/// reading, call [`turn`](Self::turn) whenever it is readable, and
/// [`expire`](Self::expire) at [`next_deadline`](Self::next_deadline).
///
/// ```
/// use tollway_server::{Body, Engine, Request, Response, Settings, bind};
///
/// let listener = bind("127.0.0.1", 0, false)?;
/// let handler = |_request: Request| async { Response::new(Body::from("pong")) };
/// let engine = Engine::new(listener, handler, Settings::default())?;
/// engine.begin_shutdown(); // or keep engine.stopper() for another thread
/// engine.run()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Engine<H: Handler> {
    poll: RefCell<Poll>,
    descriptor: RawFd,
    registry: mio::Registry,
    listener: RefCell<Option<Acceptor>>,
    table: RefCell<Table<Connection<H>>>,
    shared: Rc<Shared<H>>,
    queue: Arc<ReadyQueue>,
    scratch: Rc<RefCell<Box<[u8]>>>,
    /// Buffers that are taken while in use.
    events: Cell<Option<Events>>,
    batch: Cell<Vec<Key>>,
    /// A call is running, and no other may.
    inside: Cell<bool>,
    /// Connections may be waiting to be accepted.
    acceptable: Cell<bool>,
    accept_pause: Cell<Option<Instant>>,
    /// No connection has a deadline before this.
    earliest: Cell<Option<Instant>>,
    last_look: Cell<Instant>,
    tick: Duration,
    accepted: Cell<u64>,
    timed_out: Cell<u64>,
}

impl<H: Handler> Engine<H> {
    /// Makes an engine that accepts from `listener`. Nothing runs until
    /// [`turn`](Self::turn) or [`run`](Self::run).
    ///
    /// Fails on settings that cannot work, and when the system has no
    /// descriptors left.
    pub fn new(listener: impl Into<Listener>, handler: H, settings: Settings) -> io::Result<Self> {
        settings.check().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let listener = Acceptor::new(listener.into(), &registry, LISTENER)?;
        let queue = ReadyQueue::new(&registry, WAKER)?;
        Ok(Engine {
            descriptor: poll.as_raw_fd(),
            poll: RefCell::new(poll),
            registry,
            listener: RefCell::new(Some(listener)),
            table: RefCell::new(Table::new()),
            tick: tick(&settings),
            shared: Rc::new(Shared::new(handler, settings)),
            queue,
            scratch: Rc::new(RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice())),
            events: Cell::new(Some(Events::with_capacity(EVENTS))),
            batch: Cell::default(),
            inside: Cell::new(false),
            acceptable: Cell::new(true),
            accept_pause: Cell::new(None),
            earliest: Cell::new(None),
            last_look: Cell::new(Instant::now()),
            accepted: Cell::new(0),
            timed_out: Cell::new(0),
        })
    }

    /// The handler.
    pub fn handler(&self) -> &H {
        &self.shared.handler
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// Does what can be done without waiting: accepts, reads, polls handlers,
    /// writes. Stops after about 128 requests or 2 ms.
    pub fn turn(&self) -> Turn {
        // The kernel refuses to report events only for a descriptor that is not
        // an epoll instance, which ours always is.
        self.cycle(Some(Duration::ZERO)).unwrap_or(Turn::Done)
    }

    /// Polls the connections whose handlers were woken, without asking the
    /// kernel for events. For owners that complete futures on this thread.
    pub fn run_ready(&self) {
        self.run_with(|| ());
    }

    /// Runs `complete`, which may complete handler futures of this engine on
    /// this thread, and then polls those connections.
    ///
    /// Completing them outside works too, but costs a system call each time to
    /// make the descriptor readable.
    pub fn run_with<R>(&self, complete: impl FnOnce() -> R) -> R {
        let Some(_inside) = self.enter() else { return complete() };
        let result = complete();
        let budget = self.budget();
        self.run_queue(&budget);
        self.settle();
        result
    }

    /// When [`expire`](Self::expire) should be called next. Ask after each turn:
    /// a new connection can bring the moment forward.
    pub fn next_deadline(&self) -> Option<Instant> {
        let soonest = self.last_look.get() + self.tick;
        [self.earliest.get(), self.accept_pause.get()].into_iter().flatten().min().map(|deadline| deadline.max(soonest))
    }

    /// Acts on the time-outs that have passed at `now`. Costs a look at every
    /// connection when one is due, and a comparison otherwise.
    pub fn expire(&self, now: Instant) {
        let Some(_inside) = self.enter() else { return };
        self.shared.now.set(now);
        self.end_accept_pause(now);
        if self.earliest.get().is_some_and(|earliest| earliest <= now) {
            self.expire_due(now);
        }
        self.settle();
    }

    /// Accepts what has queued up, stops listening, closes idle connections and
    /// ends the others after the answer they are waiting for. A connection that
    /// has sent nothing yet gets [`Settings::linger_timeout`] to do so.
    pub fn begin_shutdown(&self) {
        self.queue.ask_shutdown();
        if let Some(_inside) = self.enter() {
            self.settle();
        }
    }

    /// Drops every connection, cancelling handlers, and stops listening.
    pub fn abort(&self) {
        self.queue.ask_shutdown();
        self.queue.ask_abort();
        if let Some(_inside) = self.enter() {
            self.settle();
        }
    }

    /// Whether shutdown has begun and no connection is left.
    pub fn is_drained(&self) -> bool {
        self.shared.draining.get() && self.open_connections() == 0
    }

    /// Connections open now.
    pub fn open_connections(&self) -> usize {
        self.table.borrow().len()
    }

    /// Counters since the start.
    pub fn stats(&self) -> Stats {
        Stats {
            accepted: self.accepted.get(),
            requests: self.shared.requests.get(),
            refused: self.shared.refused.get(),
            timed_out: self.timed_out.get(),
            cancelled: self.shared.cancelled.get(),
            panics: self.shared.panics.get(),
            overdue: self.shared.overdue.get(),
            open: self.open_connections(),
        }
    }

    /// A way to ask for shutdown from another thread.
    pub fn stopper(&self) -> Stopper {
        Stopper::new(Arc::clone(&self.queue))
    }

    /// Serves on this thread until shutdown is complete.
    pub fn run(&self) -> io::Result<()> {
        while !self.is_drained() {
            let wait = self.next_deadline().map(|deadline| deadline.saturating_duration_since(Instant::now()));
            self.cycle(wait)?;
            self.expire(Instant::now());
        }
        Ok(())
    }
}

impl<H: Handler> AsRawFd for Engine<H> {
    fn as_raw_fd(&self) -> RawFd {
        self.descriptor
    }
}

/// How finely deadlines are kept: an eighth of the shortest time-out.
fn tick(settings: &Settings) -> Duration {
    let shortest = settings
        .header_timeout
        .min(settings.body_timeout)
        .min(settings.keep_alive_timeout)
        .min(settings.write_timeout)
        .min(settings.linger_timeout)
        .min(settings.handler_timeout.unwrap_or(settings.body_timeout));
    (shortest / 8).clamp(MIN_TICK, MAX_TICK)
}
