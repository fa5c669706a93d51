//! Streamed bodies of the tests: what they do depends on the path.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tollway_server::{Body, StreamError};

use super::{Gate, Pass, pattern};

/// Size of each frame.
pub const FRAME: usize = 1000;

/// What comes after the frames.
enum Then {
    End,
    Wait(Pass),
    Fail,
    Panic,
}

/// So many frames, and then something.
struct Frames {
    left: usize,
    then: Then,
    exact: Option<u64>,
    gate: Gate,
}

/// The body for a path `/stream-KIND/FRAMES`.
pub fn body(path: &str, gate: Gate) -> Body {
    let (kind, frames) = path.rsplit_once('/').unwrap();
    let left = frames.parse().unwrap();
    let then = match kind {
        "/stream-gate" | "/stream-beat" => Then::Wait(gate.pass()),
        "/stream-fail" => Then::Fail,
        "/stream-panic" => Then::Panic,
        _ => Then::End,
    };
    let exact = (kind == "/stream-known").then_some((left * FRAME) as u64);
    let mut body = Body::stream(Frames { left, then, exact, gate });
    if let Body::Stream(stream) = &mut body
        && kind == "/stream-beat"
    {
        stream.set_heartbeat(Duration::from_millis(2), &b"beat"[..]);
    }
    body
}

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        if self.left > 0 {
            self.left -= 1;
            self.gate.enter();
            return Poll::Ready(Some(Ok(Frame::data(pattern(FRAME).into()))));
        }
        match &mut self.then {
            Then::End => Poll::Ready(None),
            Then::Wait(pass) => Pin::new(pass).poll(cx).map(|()| None),
            Then::Fail => Poll::Ready(Some(Err("on purpose".into()))),
            Then::Panic => panic!("on purpose, in a stream"),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.exact.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
