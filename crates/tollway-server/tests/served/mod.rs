//! A real server on a free port, and a client that speaks raw bytes.
#![allow(dead_code)] // each test binary uses its own part

mod streams;

use std::future::Future;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;
use std::time::Duration;

use tollway_server::{Body, Engine, Handler, Refused, Request, Response, Settings, Stats, Stopper, bind};

/// Longest any test waits for anything before it fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Holds handlers back until the test opens it, and counts those inside.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<GateState>, Condvar)>);

#[derive(Default)]
struct GateState {
    open: bool,
    entered: usize,
    left: usize,
    wakers: Vec<Waker>,
}

impl Gate {
    /// Lets everybody pass, from the test's thread.
    pub fn open(&self) {
        let wakers = {
            let mut state = self.0.0.lock().unwrap();
            state.open = true;
            std::mem::take(&mut state.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Waits until `count` handlers have come in.
    pub fn wait_entered(&self, count: usize) {
        self.wait(|state| state.entered >= count);
    }

    /// Waits until `count` handlers are gone, finished or dropped.
    pub fn wait_left(&self, count: usize) {
        self.wait(|state| state.left >= count);
    }

    fn wait(&self, reached: impl Fn(&GateState) -> bool) {
        let (lock, condition) = &*self.0;
        let state = lock.lock().unwrap();
        let (_state, waited) = condition.wait_timeout_while(state, PATIENCE, |state| !reached(state)).unwrap();
        assert!(!waited.timed_out(), "the handlers did not get that far");
    }

    /// Counts one more that has come in.
    fn enter(&self) {
        self.0.0.lock().unwrap().entered += 1;
        self.0.1.notify_all();
    }

    /// How many have come in.
    pub fn entered(&self) -> usize {
        self.0.0.lock().unwrap().entered
    }

    fn pass(&self) -> Pass {
        self.enter();
        Pass(self.clone())
    }
}

/// Ready when the gate is open; counts when it is dropped.
struct Pass(Gate);

impl Future for Pass {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.0.0.lock().unwrap();
        if state.open {
            return Poll::Ready(());
        }
        state.wakers.push(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.0.0.lock().unwrap().left += 1;
        self.0.0.1.notify_all();
    }
}

/// The handler of the tests: what it does depends on the path.
pub struct App {
    pub gate: Gate,
}

impl Handler for App {
    type Future = Pin<Box<dyn Future<Output = Response>>>;

    fn refuse(&self, refused: &Refused, answer: &mut Response) {
        let path = refused.head.as_ref().map_or("nothing", |head| head.uri.path());
        let headers = answer.headers_mut();
        headers.insert("x-refused", path.parse().unwrap());
        match path {
            "/panic" => panic!("on purpose, in refuse"),
            "/liar" => {
                headers.insert("date", "today".parse().unwrap());
                headers.insert("content-length", "400".parse().unwrap());
                headers.insert("transfer-encoding", "chunked".parse().unwrap());
                headers.insert("connection", "keep-alive".parse().unwrap());
            }
            _ => {}
        }
    }

    fn replace(&self, _future: Pin<&mut Self::Future>, answer: &mut Response) {
        answer.headers_mut().insert("x-replaced", "yes".parse().unwrap());
    }

    fn call(&self, request: Request) -> Self::Future {
        let path = request.head.uri.path().to_owned();
        if path == "/panic" {
            panic!("on purpose, in call");
        }
        let gate = self.gate.clone();
        Box::pin(async move {
            match path.as_str() {
                "/echo" => Response::new(Body::from(request.body)),
                "/length" => Response::new(Body::from(request.body.len().to_string())),
                "/gate" => {
                    gate.pass().await;
                    Response::new(Body::from("passed"))
                }
                "/panic-late" => {
                    Yield(false).await;
                    panic!("on purpose, in the future");
                }
                "/no-content" => {
                    let mut response = Response::new(Body::Empty);
                    *response.status_mut() = http::StatusCode::NO_CONTENT;
                    response
                }
                path if path.starts_with("/status/") => {
                    let status: u16 = path["/status/".len()..].parse().unwrap();
                    let mut response = Response::new(Body::from("text"));
                    *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
                    response
                }
                "/liar" => {
                    let mut response = Response::new(Body::from("four"));
                    response.headers_mut().insert("content-length", "400".parse().unwrap());
                    response.headers_mut().insert("transfer-encoding", "chunked".parse().unwrap());
                    response
                }
                path if path.starts_with("/big/") => {
                    let size: usize = path["/big/".len()..].parse().unwrap();
                    Response::new(Body::from(pattern(size)))
                }
                path if path.starts_with("/stream") => Response::new(streams::body(path, gate)),
                path => Response::new(Body::from(path.to_owned())),
            }
        })
    }
}

/// Pending once, and wakes itself from inside the poll.
struct Yield(bool);

impl Future for Yield {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Bytes whose order can be checked.
pub fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|index| (index % 251) as u8).collect()
}

/// A server that runs until it is stopped or dropped.
pub struct Served {
    pub address: SocketAddr,
    pub gate: Gate,
    pub stopper: Stopper,
    thread: Option<JoinHandle<Stats>>,
}

impl Served {
    pub fn start() -> Self {
        Self::with(Settings::default())
    }

    pub fn with(settings: Settings) -> Self {
        let listener = bind("127.0.0.1", 0, false).unwrap();
        let address = listener.local_addr().unwrap();
        let gate = Gate::default();
        let app = App { gate: gate.clone() };
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let engine = Engine::new(listener, app, settings).unwrap();
            tell.send(engine.stopper()).unwrap();
            engine.run().unwrap();
            engine.stats()
        });
        let stopper = told.recv().unwrap();
        Served { address, gate, stopper, thread: Some(thread) }
    }

    pub fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// Shuts down in an orderly way and answers the counters.
    pub fn stop(mut self) -> Stats {
        self.stopper.stop();
        self.thread.take().unwrap().join().unwrap()
    }

    /// Drops all connections and answers the counters.
    pub fn abort(mut self) -> Stats {
        self.stopper.stop();
        self.stopper.abort();
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.stopper.stop();
            self.stopper.abort();
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the server panicked");
        }
    }
}

/// An answer as it came over the wire.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn closes(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// A client that sends exactly what it is told.
pub struct Client {
    pub socket: TcpStream,
    received: Vec<u8>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).unwrap();
        Self::over(socket)
    }

    pub fn over(socket: TcpStream) -> Self {
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        Client { socket, received: Vec::new() }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.socket.write_all(bytes.as_ref()).unwrap();
        self
    }

    pub fn get(&mut self, path: &str) -> Answer {
        self.send(get(path)).answer()
    }

    pub fn finish_sending(&mut self) -> &mut Self {
        self.socket.shutdown(Shutdown::Write).unwrap();
        self
    }

    fn more(&mut self) -> io::Result<usize> {
        let mut chunk = [0; 64 * 1024];
        let count = self.socket.read(&mut chunk)?;
        self.received.extend_from_slice(&chunk[..count]);
        Ok(count)
    }

    /// One head, up to the empty line.
    pub fn head(&mut self) -> String {
        loop {
            if let Some(end) = find(&self.received, b"\r\n\r\n") {
                let head: Vec<u8> = self.received.drain(..end + 4).collect();
                return String::from_utf8(head).unwrap();
            }
            let count = self.more().unwrap();
            let so_far = String::from_utf8_lossy(&self.received);
            assert!(count > 0, "closed in the middle of a head: {so_far:?}");
        }
    }

    /// One whole answer, which must state its length.
    pub fn answer(&mut self) -> Answer {
        let mut answer = self.bodyless();
        let length: usize = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
        while self.received.len() < length {
            assert!(self.more().unwrap() > 0, "closed in the middle of a body");
        }
        answer.body = self.received.drain(..length).collect();
        answer
    }

    /// One answer without a body, whatever length it states.
    pub fn bodyless(&mut self) -> Answer {
        let head = self.head();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head, body: Vec::new() }
    }

    /// The next chunk of a chunked body; `None` at its end.
    pub fn chunk(&mut self) -> Option<Vec<u8>> {
        let end = loop {
            match find(&self.received, b"\r\n") {
                Some(end) => break end,
                None => assert!(self.more().unwrap() > 0, "closed between two chunks"),
            }
        };
        let size = usize::from_str_radix(std::str::from_utf8(&self.received[..end]).unwrap(), 16).unwrap();
        while self.received.len() < end + 2 + size + 2 {
            assert!(self.more().unwrap() > 0, "closed in the middle of a chunk");
        }
        let chunk: Vec<u8> = self.received.drain(..end + 2 + size + 2).skip(end + 2).take(size).collect();
        (size > 0).then_some(chunk)
    }

    /// One whole answer in chunks.
    pub fn chunked(&mut self) -> Answer {
        let mut answer = self.bodyless();
        assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
        while let Some(chunk) = self.chunk() {
            answer.body.extend(chunk);
        }
        answer
    }

    /// Everything until the server closes. A reset counts as a failure.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.more().expect("the server must close in an orderly way") > 0 {}
        std::mem::take(&mut self.received)
    }

    /// Waits until the server has closed without sending anything more.
    pub fn assert_closed(&mut self) {
        let rest = self.rest();
        assert!(rest.is_empty(), "unexpected: {:?}", String::from_utf8_lossy(&rest));
    }

    /// Waits until the connection is over, in whatever way.
    pub fn wait_gone(&mut self) {
        while matches!(self.more(), Ok(count) if count > 0) {}
    }
}

pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")
}

pub fn post(path: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n{body}")
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
