//! An answer on its way: what the parser gets to see of a body, and how a
//! streamed one is doing.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};

use super::deadlines::Place;
use super::wire::Wire;
use crate::{Body, StreamError};

/// Most bytes that one streamed answer hands over before other connections get
/// their turn.
const STEP_BYTES: usize = 256 * 1024;

/// The streamed answers of a connection, as far as it has to know about them.
#[derive(Default)]
pub(super) struct Flow {
    /// How many are under way, and how many of them wait for their producer.
    active: Cell<u32>,
    producing: Cell<u32>,
    /// Bytes that it may still give in this step.
    allowance: Cell<usize>,
    /// It ended with an error.
    failed: Cell<bool>,
}

impl Flow {
    /// A step of the connection begins.
    pub(super) fn refill(&self) {
        self.allowance.set(STEP_BYTES);
    }

    pub(super) fn is_active(&self) -> bool {
        self.active.get() > 0
    }

    pub(super) fn active(&self) -> u32 {
        self.active.get()
    }

    /// Whether some producer is what is waited for, and not the client.
    pub(super) fn is_producing(&self) -> bool {
        self.producing.get() > 0
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.get()
    }

    /// Notes a frame.
    fn gave(&self, frame: &Frame<Bytes>) {
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        self.allowance.set(self.allowance.get().saturating_sub(bytes));
    }
}

/// A body that tells the connection how far the parser is with it.
pub(super) struct Answer {
    body: Body,
    wire: Rc<Wire>,
    /// The client speaks HTTP/1.0: it knows the end of a stream by the close.
    ends_by_close: bool,
    /// Why the stream failed, until what came before is on its way.
    error: Option<StreamError>,
    /// Counted as one that waits for its producer.
    producing: bool,
    /// When the last frame was given, and the wait for the next heartbeat.
    last: Instant,
    place: Place,
}

impl Answer {
    pub(super) fn new(body: Body, wire: &Rc<Wire>, ends_by_close: bool) -> Self {
        if matches!(body, Body::Stream(_)) {
            wire.flow.active.set(wire.flow.active.get() + 1);
        }
        Answer {
            body,
            wire: Rc::clone(wire),
            ends_by_close,
            error: None,
            producing: false,
            last: wire.now.get(),
            place: Place::default(),
        }
    }

    fn set_producing(&mut self, producing: bool) {
        if producing != self.producing {
            self.producing = producing;
            let count = &self.wire.flow.producing;
            count.set(if producing { count.get() + 1 } else { count.get() - 1 });
        }
    }

    /// The producer has nothing: what is sent in its place, if it is time for that.
    fn poll_heartbeat(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        self.set_producing(true);
        let Body::Stream(stream) = &self.body else { return Poll::Pending };
        let Some(heartbeat) = &stream.heartbeat else { return Poll::Pending };
        let due = self.last + heartbeat.interval;
        let now = self.wire.now.get();
        if now < due {
            self.wire.deadlines.set(&mut self.place, due, cx.waker());
            return Poll::Pending;
        }
        let frame = Frame::data(heartbeat.bytes.clone());
        self.last = now;
        self.wire.flow.gave(&frame);
        Poll::Ready(Some(Ok(frame)))
    }

    /// The next frame of a stream, if this is a moment for one.
    fn poll_stream(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        self.set_producing(false);
        let shared = self.wire.is_multiplexed();
        let flow = &self.wire.flow;
        // The event that makes the socket writable again polls the parser. Over
        // HTTP/2 a stream is asked only for what its client has made room for.
        if !shared && !self.wire.is_writable() {
            return Poll::Pending;
        }
        if flow.allowance.get() == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Some(error) = self.error.take() {
            return Poll::Ready(Some(Err(error)));
        }
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                flow.gave(&frame);
                self.last = self.wire.now.get();
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) if shared => Poll::Ready(Some(Err(error))),
            Poll::Ready(Some(Err(error))) => {
                flow.failed.set(true);
                if self.ends_by_close {
                    self.wire.reset_on_close();
                }
                // The parser forgets what it holds when it learns of an error.
                self.error = Some(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => self.poll_heartbeat(cx),
        }
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        match &mut self.body {
            Body::Stream(_) => self.poll_stream(cx),
            body => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.wire.answered.set(self.wire.answered.get() + 1);
        if matches!(self.body, Body::Stream(_)) {
            self.set_producing(false);
            self.wire.deadlines.clear(&mut self.place);
            self.wire.flow.active.set(self.wire.flow.active.get() - 1);
        }
    }
}
