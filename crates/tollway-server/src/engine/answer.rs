//! An answer on its way: what the parser gets to see of a body, and how a
//! streamed one is doing.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};

use super::deadlines::Place;
use super::wire::Wire;
use crate::{Body, StreamError};

/// Most bytes that one streamed answer hands over before other connections get
/// their turn.
const STEP_BYTES: usize = 256 * 1024;
/// Most bytes of a whole body that the parser gets at a time over HTTP/2. It keeps
/// what its client has made no room for.
const PIECE_BYTES: usize = 64 * 1024;

/// The streamed answers of a connection, as far as it has to know about them.
#[derive(Default)]
pub(super) struct Flow {
    /// How many are under way.
    active: Cell<u32>,
    /// Bytes that it may still give in this step.
    allowance: Cell<usize>,
    /// Steps so far.
    steps: Cell<u64>,
    /// It ended with an error.
    failed: Cell<bool>,
}

impl Flow {
    /// A step of the connection begins.
    pub(super) fn refill(&self) {
        self.allowance.set(STEP_BYTES);
        self.steps.set(self.steps.get() + 1);
    }

    pub(super) fn is_active(&self) -> bool {
        self.active.get() > 0
    }

    pub(super) fn active(&self) -> u32 {
        self.active.get()
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
    /// Why the stream failed, and in which step. The parser is told in a later one: it forgets
    /// what it holds when it learns of an error.
    error: Option<(u64, StreamError)>,
    /// When the last frame was given, and the wait for the next heartbeat.
    last: Instant,
    place: Place,
    /// Over HTTP/2: how long the client may take to make room, and the wait for that.
    patience: Option<Duration>,
    room: Place,
}

impl Answer {
    /// `patience` is how long a client may take to make room for a piece, where it
    /// says itself how much there is.
    pub(super) fn new(body: Body, wire: &Rc<Wire>, ends_by_close: bool, patience: Option<Duration>) -> Self {
        if matches!(body, Body::Stream(_)) {
            wire.flow.active.set(wire.flow.active.get() + 1);
        }
        let mut answer = Answer {
            body,
            wire: Rc::clone(wire),
            ends_by_close,
            error: None,
            last: wire.now.get(),
            place: Place::default(),
            patience,
            room: Place::default(),
        };
        answer.await_room();
        answer
    }

    /// The parser asks for the next piece when the client has made room for it.
    fn await_room(&mut self) {
        if let Some(patience) = self.patience
            && !self.body.is_end_stream()
        {
            self.wire.rooms.set(&mut self.room, self.wire.now.get() + patience, Waker::noop());
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        match &mut self.body {
            Body::Stream(_) => self.poll_stream(cx),
            Body::Full(bytes) if self.patience.is_some() && bytes.len() > PIECE_BYTES => {
                Poll::Ready(Some(Ok(Frame::data(bytes.split_to(PIECE_BYTES)))))
            }
            body => Pin::new(body).poll_frame(cx),
        }
    }

    /// The producer has nothing: what is sent in its place, if it is time for that.
    fn poll_heartbeat(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
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
        if let Some((_, error)) = self.error.take_if(|(step, _)| *step < flow.steps.get()) {
            return Poll::Ready(Some(Err(error)));
        }
        if self.error.is_some() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                flow.gave(&frame);
                self.last = self.wire.now.get();
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                // Over HTTP/2 only the stream is reset.
                if !shared {
                    flow.failed.set(true);
                    if self.ends_by_close {
                        self.wire.reset_on_close();
                    }
                }
                self.error = Some((flow.steps.get(), error));
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
        let this = &mut *self;
        this.wire.rooms.clear(&mut this.room);
        let piece = this.poll_body(cx);
        if matches!(piece, Poll::Ready(Some(Ok(_)))) {
            this.await_room();
        }
        piece
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
        self.wire.rooms.clear(&mut self.room);
        if matches!(self.body, Body::Stream(_)) {
            self.wire.deadlines.clear(&mut self.place);
            self.wire.flow.active.set(self.wire.flow.active.get() - 1);
        }
    }
}
