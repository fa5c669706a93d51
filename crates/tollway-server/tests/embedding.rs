//! The engine inside another event loop, on the loop's own thread.

mod served;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Token};
use served::{Client, PATIENCE, get};
use tollway_server::{Body, Engine, Handler, Request, Response, Settings, Turn, bind};

/// What handlers await, completed by the test on the same thread.
#[derive(Default)]
struct Later {
    ready: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Later {
    fn complete(&self) {
        self.ready.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn is_awaited(&self) -> bool {
        self.waker.borrow().is_some()
    }
}

/// The handler: not `Send`, and able to reach the engine that runs it.
#[derive(Default)]
struct App {
    later: Rc<Later>,
    engine: RefCell<Weak<Engine<App>>>,
    seen: Rc<RefCell<Vec<Turn>>>,
}

struct Wait(Rc<Later>);

impl Future for Wait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.0.ready.get() {
            return Poll::Ready(());
        }
        *self.0.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Calls back into the engine when it is dropped.
struct CallsBack(Weak<Engine<App>>, Rc<RefCell<Vec<Turn>>>);

impl Drop for CallsBack {
    fn drop(&mut self) {
        if let Some(engine) = self.0.upgrade() {
            self.1.borrow_mut().push(engine.turn());
            engine.run_ready();
            engine.expire(Instant::now());
        }
    }
}

impl Handler for App {
    type Future = Pin<Box<dyn Future<Output = Response>>>;

    fn call(&self, request: Request) -> Self::Future {
        let engine = self.engine.borrow().clone();
        let path = request.head.uri.path().to_owned();
        let later = Rc::clone(&self.later);
        let seen = Rc::clone(&self.seen);
        if path == "/nested" {
            let engine = engine.upgrade().unwrap();
            seen.borrow_mut().push(engine.turn());
            engine.run_ready();
            assert_eq!(engine.open_connections(), 1);
        }
        if path == "/shutdown" {
            engine.upgrade().unwrap().begin_shutdown();
        }
        Box::pin(async move {
            let _calls_back = CallsBack(engine, seen);
            if path == "/later" {
                Wait(later).await;
            }
            Response::new(Body::from(path))
        })
    }
}

/// An outer loop that watches the engine's descriptor, level triggered as
/// asyncio does it: it asks anew each time.
struct Outer {
    engine: Rc<Engine<App>>,
    address: std::net::SocketAddr,
}

impl Outer {
    fn new(settings: Settings) -> Self {
        let listener = bind("127.0.0.1", 0, true).unwrap();
        let address = listener.local_addr().unwrap();
        let engine = Rc::new(Engine::new(listener, App::default(), settings).unwrap());
        *engine.handler().engine.borrow_mut() = Rc::downgrade(&engine);
        Outer { engine, address }
    }

    fn app(&self) -> &App {
        self.engine.handler()
    }

    /// Whether the descriptor becomes readable within that time.
    fn is_readable(&self, wait: Duration) -> bool {
        let mut poll = mio::Poll::new().unwrap();
        let descriptor = self.engine.as_raw_fd();
        let mut source = SourceFd(&descriptor);
        poll.registry().register(&mut source, Token(0), Interest::READABLE).unwrap();
        let mut events = Events::with_capacity(8);
        poll.poll(&mut events, Some(wait)).unwrap();
        !events.is_empty()
    }

    /// Turns whenever the descriptor is readable, until `reached`.
    fn turn_until(&self, reached: impl Fn() -> bool) {
        let start = Instant::now();
        while !reached() {
            assert!(start.elapsed() < PATIENCE, "the engine did not get that far");
            if self.is_readable(Duration::from_millis(100)) {
                assert_ne!(self.engine.turn(), Turn::Nested);
            }
            self.engine.expire(Instant::now());
        }
    }

    /// Turns until there is nothing more to do.
    fn settle(&self) {
        while self.is_readable(Duration::ZERO) {
            self.engine.turn();
        }
    }

    fn requests(&self) -> u64 {
        self.engine.stats().requests
    }
}

#[test]
fn is_readable_when_there_is_something_to_do() {
    let outer = Outer::new(Settings::default());
    outer.settle();
    assert!(!outer.is_readable(Duration::ZERO), "nobody has connected");
    let mut client = Client::connect(outer.address);
    client.send(get("/a"));
    outer.turn_until(|| outer.requests() == 1);
    assert_eq!(client.answer().text(), "/a");
    outer.settle();
    client.send(get("/b"));
    assert!(outer.is_readable(PATIENCE));
    outer.turn_until(|| outer.requests() == 2);
    assert_eq!(client.answer().text(), "/b");
}

#[test]
fn answers_when_a_future_is_completed_between_turns() {
    let outer = Outer::new(Settings::default());
    let mut client = Client::connect(outer.address);
    client.send(get("/later"));
    outer.turn_until(|| outer.app().later.is_awaited());
    outer.settle();
    outer.engine.run_with(|| outer.app().later.complete());
    // The answer left without another turn, and without a trace in the kernel.
    assert_eq!(client.answer().text(), "/later");
    assert!(!outer.is_readable(Duration::ZERO), "a needless wake-up");
}

#[test]
fn becomes_readable_when_a_future_is_completed_outside() {
    let outer = Outer::new(Settings::default());
    let mut client = Client::connect(outer.address);
    client.send(get("/later"));
    outer.turn_until(|| outer.app().later.is_awaited());
    outer.settle();
    outer.app().later.complete();
    assert!(outer.is_readable(PATIENCE));
    outer.settle();
    assert_eq!(client.answer().text(), "/later");
}

#[test]
fn run_ready_answers_what_was_completed_outside() {
    let outer = Outer::new(Settings::default());
    let mut client = Client::connect(outer.address);
    client.send(get("/later"));
    outer.turn_until(|| outer.app().later.is_awaited());
    outer.app().later.complete();
    outer.engine.run_ready();
    assert_eq!(client.answer().text(), "/later");
}

#[test]
fn does_nothing_when_a_handler_calls_back() {
    let outer = Outer::new(Settings::default());
    let mut client = Client::connect(outer.address);
    client.send(get("/nested"));
    outer.turn_until(|| outer.requests() == 1);
    assert_eq!(client.answer().text(), "/nested");
    assert_eq!(outer.app().seen.borrow().as_slice(), [Turn::Nested, Turn::Nested]);
    client.send(get("/after"));
    outer.turn_until(|| outer.requests() == 2);
    assert_eq!(client.answer().text(), "/after");
}

#[test]
fn survives_a_cancelled_handler_that_calls_back() {
    let outer = Outer::new(Settings::default());
    let mut client = Client::connect(outer.address);
    client.send(get("/later"));
    outer.turn_until(|| outer.app().later.is_awaited());
    drop(client);
    outer.turn_until(|| outer.engine.stats().cancelled == 1);
    assert_eq!(outer.app().seen.borrow().as_slice(), [Turn::Nested]);
    // The waker outlives its connection and does no harm.
    outer.engine.run_with(|| outer.app().later.complete());
    assert_eq!(outer.engine.open_connections(), 0);
}

#[test]
fn shuts_down_when_a_handler_asks_for_it() {
    let outer = Outer::new(Settings::default());
    let mut client = Client::connect(outer.address);
    client.send(get("/shutdown"));
    outer.turn_until(|| outer.engine.is_drained());
    assert_eq!(client.answer().text(), "/shutdown");
    client.assert_closed();
    assert!(std::net::TcpStream::connect(outer.address).is_err());
}

#[test]
fn takes_breaks_under_load() {
    let outer = Outer::new(Settings::default());
    let mut clients: Vec<Client> = (0..40).map(|_| Client::connect(outer.address)).collect();
    for client in &mut clients {
        client.send(get("/x").repeat(20));
    }
    let mut turns = Vec::new();
    let start = Instant::now();
    while outer.requests() < 800 {
        assert!(start.elapsed() < PATIENCE);
        let before = outer.requests();
        turns.push(outer.engine.turn());
        let served = outer.requests() - before;
        // The connection that is being served may finish what it was given.
        assert!(served <= 128 + 20, "{served} requests in one turn");
        if turns.last() == Some(&Turn::More) {
            assert!(outer.is_readable(Duration::ZERO), "the rest would be forgotten");
        }
    }
    assert!(turns.contains(&Turn::More));
    for client in &mut clients {
        for _ in 0..20 {
            assert_eq!(client.answer().text(), "/x");
        }
    }
}

#[test]
fn names_its_next_deadline_and_acts_on_it() {
    let settings = Settings {
        header_timeout: Duration::from_secs(3600),
        keep_alive_timeout: Duration::from_secs(7200),
        ..Settings::default()
    };
    let outer = Outer::new(settings);
    outer.settle();
    assert_eq!(outer.engine.next_deadline(), None, "no connection, no deadline");
    let start = Instant::now();
    let mut client = Client::connect(outer.address);
    outer.turn_until(|| outer.engine.open_connections() == 1);
    let deadline = outer.engine.next_deadline().unwrap();
    assert!(deadline >= start + Duration::from_secs(3600));
    // The moment is a value here: nobody waits for an hour.
    outer.engine.expire(deadline - Duration::from_secs(60));
    assert_eq!(outer.engine.open_connections(), 1);
    client.send(get("/"));
    outer.turn_until(|| outer.requests() == 1);
    outer.engine.expire(deadline + Duration::from_secs(60));
    assert_eq!(outer.engine.open_connections(), 1, "the idle time is longer");
    let first = outer.engine.next_deadline().unwrap();
    client.send(get("/"));
    outer.turn_until(|| outer.requests() == 2);
    outer.engine.expire(first);
    assert_eq!(outer.engine.open_connections(), 1, "the idle time begins anew");
    let second = outer.engine.next_deadline().unwrap();
    assert!(second > first);
    outer.engine.expire(second);
    assert_eq!(outer.engine.open_connections(), 0);
    assert_eq!(client.answer().status, 200);
    assert_eq!(client.answer().status, 200);
    client.assert_closed();
    assert_eq!(outer.engine.next_deadline(), None);
}
