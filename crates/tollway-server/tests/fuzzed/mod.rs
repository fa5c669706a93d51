//! Runs laws on random inputs for a fixed time, and knows other readers of the same bytes.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use http_body::Body as _;
use hyper::body::Incoming;
use hyper::rt::ReadBufCursor;
use proptest::prelude::*;
use proptest::test_runner::{TestCaseResult, TestRunner};

/// Inputs between two looks at the clock.
const BATCH: u32 = 64;
/// Time for each law, in seconds, unless `TOLLWAY_FUZZ_SECONDS` says otherwise.
const SECONDS: f64 = 4.0;

/// Tries `law` on inputs that no two runs have in common. What fails is made small and printed.
pub fn fuzz<S: Strategy>(inputs: S, law: impl Fn(S::Value) -> TestCaseResult) {
    let seconds = std::env::var("TOLLWAY_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SECONDS);
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let config = ProptestConfig { cases: BATCH, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = TestRunner::new(config);
    let mut batches = 0_u64;
    while batches == 0 || Instant::now() < end {
        if let Err(failure) = runner.run(&inputs, &law) {
            panic!("{failure}");
        }
        batches += 1;
    }
    println!("{} inputs in {seconds} s", batches * u64::from(BATCH));
}

/// One request as some reader understood it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub method: String,
    pub target: String,
    pub body: Vec<u8>,
    /// The body came to its end.
    pub whole: bool,
}

/// What hyper's own server reads, over a connection that ends after `bytes`.
pub fn read_by_hyper(bytes: &[u8]) -> Vec<Message> {
    let read: Rc<RefCell<Vec<Message>>> = Rc::default();
    let note = Rc::clone(&read);
    let service = hyper::service::service_fn(move |request: http::Request<Incoming>| {
        let note = Rc::clone(&note);
        async move {
            let (head, mut body) = request.into_parts();
            let (method, target) = (head.method.to_string(), head.uri.to_string());
            let index = note.borrow().len();
            note.borrow_mut().push(Message { method, target, body: Vec::new(), whole: false });
            loop {
                let frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
                let message = &mut note.borrow_mut()[index];
                match frame {
                    None => message.whole = true,
                    Some(Ok(frame)) => {
                        message.body.extend(frame.into_data().unwrap_or_default());
                        continue;
                    }
                    Some(Err(_)) => {}
                }
                return Ok::<_, Infallible>(http::Response::new(String::new()));
            }
        }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.half_close(true).header_read_timeout(None);
    let wire = Recorded { bytes: bytes.to_vec(), at: 0 };
    let mut connection = pin!(builder.serve_connection(wire, service));
    let mut context = Context::from_waker(Waker::noop());
    // Nothing has to be waited for, so a few turns are enough for any input.
    for _ in 0..bytes.len() + 10 {
        if connection.as_mut().poll(&mut context).is_ready() {
            break;
        }
    }
    read.take()
}

/// A connection on which everything has been said already.
struct Recorded {
    bytes: Vec<u8>,
    at: usize,
}

impl hyper::rt::Read for Recorded {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, mut cursor: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let count = cursor.remaining().min(self.bytes.len() - self.at);
        cursor.put_slice(&self.bytes[self.at..self.at + count]);
        self.at += count;
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for Recorded {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What a reader makes of `bytes` that takes them literally: lengths and chunks as they are
/// stated, nothing repaired. It is not meant for bytes that no guard has seen.
pub fn read_literally(mut bytes: &[u8]) -> Result<Vec<Message>, String> {
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut headers);
        let length = match request.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            other => return Err(format!("{other:?} in {:?}", String::from_utf8_lossy(bytes))),
        };
        let all = |name: &str| {
            let named = request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
            named.map(|header| String::from_utf8_lossy(header.value).into_owned()).collect::<Vec<_>>()
        };
        let (lengths, codings) = (all("content-length"), all("transfer-encoding"));
        let mut message = Message {
            method: request.method.unwrap_or_default().to_owned(),
            target: request.path.unwrap_or_default().to_owned(),
            body: Vec::new(),
            whole: true,
        };
        bytes = &bytes[length..];
        bytes = match (lengths.as_slice(), codings.as_slice()) {
            ([], []) => bytes,
            ([stated], []) => {
                let stated: usize = stated.parse().map_err(|_| format!("length {stated:?}"))?;
                let (body, rest) = bytes.split_at(stated.min(bytes.len()));
                message.whole = body.len() == stated;
                message.body = body.to_vec();
                rest
            }
            ([], [coding]) if coding.eq_ignore_ascii_case("chunked") => read_chunks(bytes, &mut message)?,
            other => return Err(format!("ambiguous: {other:?}")),
        };
        messages.push(message);
    }
    Ok(messages)
}

fn read_chunks<'b>(mut bytes: &'b [u8], message: &mut Message) -> Result<&'b [u8], String> {
    loop {
        let (line, size) = match httparse::parse_chunk_size(bytes) {
            Ok(httparse::Status::Complete(found)) => found,
            Ok(httparse::Status::Partial) => {
                message.whole = false;
                return Ok(&[]);
            }
            Err(error) => return Err(format!("{error:?} in {:?}", String::from_utf8_lossy(bytes))),
        };
        if size == 0 {
            // Trailers end where an empty line begins.
            let tail = &bytes[line - 2..];
            let end = tail.windows(4).position(|window| window == b"\r\n\r\n");
            message.whole = end.is_some();
            return Ok(end.map_or(&[], |end| &tail[end + 4..]));
        }
        let size = usize::try_from(size).map_err(|_| "size".to_owned())?;
        let data = &bytes[line..];
        message.body.extend_from_slice(&data[..size.min(data.len())]);
        if data.len() < size + 2 {
            message.whole = false;
            return Ok(&[]);
        }
        bytes = &data[size + 2..];
    }
}
