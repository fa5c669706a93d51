//! An answer on its way: what the parser gets to see of a body, and how a
//! streamed one is doing.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};

use super::wire::Wire;
use crate::{Body, StreamError};

/// Most bytes that one streamed answer hands over before other connections get
/// their turn.
const STEP_BYTES: usize = 256 * 1024;

/// A streamed answer, as far as its connection has to know about it.
#[derive(Default)]
pub(super) struct Flow {
    /// One is under way.
    active: Cell<bool>,
    /// Bytes that it may still give in this step.
    allowance: Cell<usize>,
    /// Frames given so far.
    frames: Cell<u64>,
    /// How long it may say nothing.
    interval: Cell<Option<Duration>>,
    /// It has said nothing for that long.
    silent: Cell<bool>,
    /// It ended with an error.
    failed: Cell<bool>,
}

impl Flow {
    /// A step of the connection begins.
    pub(super) fn refill(&self) {
        self.allowance.set(STEP_BYTES);
    }

    pub(super) fn is_active(&self) -> bool {
        self.active.get()
    }

    pub(super) fn frames(&self) -> u64 {
        self.frames.get()
    }

    pub(super) fn interval(&self) -> Option<Duration> {
        self.interval.get()
    }

    /// The interval has passed.
    pub(super) fn fall_silent(&self) {
        self.silent.set(true);
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.get()
    }

    fn begin(&self, body: &Body) {
        if let Body::Stream(stream) = body {
            self.active.set(true);
            self.silent.set(false);
            self.interval.set(stream.heartbeat.as_ref().map(|heartbeat| heartbeat.interval));
        }
    }

    /// Notes a frame.
    fn gave(&self, frame: &Frame<Bytes>) {
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        self.allowance.set(self.allowance.get().saturating_sub(bytes));
        self.frames.set(self.frames.get() + 1);
        self.silent.set(false);
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
}

impl Answer {
    pub(super) fn new(body: Body, wire: &Rc<Wire>, ends_by_close: bool) -> Self {
        wire.flow.begin(&body);
        Answer { body, wire: Rc::clone(wire), ends_by_close, error: None }
    }

    /// The next frame of a stream, if this is a moment for one.
    fn poll_stream(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let flow = &self.wire.flow;
        // The event that makes the socket writable again polls the parser.
        if !self.wire.is_writable() {
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
                Poll::Ready(Some(Ok(frame)))
            }
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
            Poll::Pending if flow.silent.get() => {
                let Body::Stream(stream) = &self.body else { return Poll::Pending };
                let Some(heartbeat) = &stream.heartbeat else { return Poll::Pending };
                let frame = Frame::data(heartbeat.bytes.clone());
                flow.gave(&frame);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Pending => Poll::Pending,
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
            self.wire.flow.active.set(false);
        }
    }
}
