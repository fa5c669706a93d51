//! One socket with its buffers: what the HTTP parser reads from and writes to.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;

use hyper::rt::ReadBufCursor;

use super::answer::Flow;
use super::deadlines::Deadlines;
use super::socket::{Protocol, Transport};
use crate::framing::{Guard, Inspection, Limits, Refusal, glance};

/// Output is held back until the end of a poll or until this many bytes have
/// come together. Larger pieces go to the socket without a copy.
const CORK_BYTES: usize = 16 * 1024;
/// Most bytes read by one system call.
pub(super) const SCRATCH_BYTES: usize = 64 * 1024;
/// Most reads of one step over HTTP/2, so that one connection cannot keep the others waiting.
const STEP_READS: u32 = 4;
/// Capacity an empty buffer keeps while its connection waits.
const KEPT_BYTES: usize = 4 * 1024;

/// Bytes received that the parser has not taken yet.
struct Input {
    guard: Guard,
    /// What comes is HTTP/2, whose frames leave nothing to guess: all is cleared.
    unguarded: bool,
    bytes: Vec<u8>,
    /// How many of `bytes` the guard has cleared.
    cleared: usize,
}

/// Bytes to send, from `sent` on.
#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    sent: usize,
}

/// A socket and everything about it that the engine and the parser share.
///
/// All methods are leaves: none of them calls a handler or a waker.
pub(super) struct Wire {
    socket: Transport,
    scratch: Rc<RefCell<Box<[u8]>>>,
    input: RefCell<Input>,
    output: RefCell<Output>,
    /// The socket may have something to read, or take something.
    readable: Cell<bool>,
    writable: Cell<bool>,
    /// The client has closed its sending side; `ended`: and all was read.
    peer_done: Cell<bool>,
    ended: Cell<bool>,
    /// The connection failed in both directions.
    broken: Cell<bool>,
    /// The parser has output that did not fit.
    blocked: Cell<bool>,
    refusal: Cell<Option<Refusal>>,
    sent_total: Cell<u64>,
    /// The time of this step.
    pub(super) now: Cell<Instant>,
    /// Reads that this step may still do.
    reads: Cell<u32>,
    /// Handlers of this connection that are running, and bodies that are arriving.
    pub(super) handling: Cell<u32>,
    pub(super) collecting: Cell<u32>,
    /// Exchanges that the client gave up.
    pub(super) given_up: Cell<u64>,
    /// How long they may take.
    pub(super) deadlines: Deadlines,
    /// How long the client may take to make room for answers, over HTTP/2.
    pub(super) rooms: Deadlines,
    /// Answers whose body was given to the parser completely.
    pub(super) answered: Cell<u64>,
    /// The streamed answer that is under way.
    pub(super) flow: Flow,
}

impl Wire {
    pub(super) fn new(socket: Transport, limits: Limits, scratch: Rc<RefCell<Box<[u8]>>>, now: Instant) -> Self {
        let guard = Guard::new(limits);
        Wire {
            socket,
            scratch,
            input: RefCell::new(Input { guard, unguarded: false, bytes: Vec::new(), cleared: 0 }),
            output: RefCell::default(),
            readable: Cell::new(false),
            writable: Cell::new(true),
            peer_done: Cell::new(false),
            ended: Cell::new(false),
            broken: Cell::new(false),
            blocked: Cell::new(false),
            refusal: Cell::new(None),
            sent_total: Cell::new(0),
            now: Cell::new(now),
            reads: Cell::new(STEP_READS),
            handling: Cell::new(0),
            collecting: Cell::new(0),
            given_up: Cell::new(0),
            deadlines: Deadlines::default(),
            rooms: Deadlines::default(),
            answered: Cell::new(0),
            flow: Flow::default(),
        }
    }

    /// Notes what the kernel reports. Answers whether there is anything to do.
    pub(super) fn note(&self, event: &mio::event::Event) -> bool {
        let mut useful = false;
        if event.is_readable() || event.is_read_closed() {
            self.readable.set(true);
            useful = true;
        }
        if event.is_read_closed() {
            self.peer_done.set(true);
        }
        if event.is_writable() {
            self.writable.set(true);
            useful |= self.has_output();
        }
        if event.is_error() || event.is_write_closed() {
            self.broken.set(true);
            useful = true;
        }
        useful
    }

    /// Lets the next read ask the kernel even without an event.
    pub(super) fn look_again(&self) {
        if !self.ended.get() {
            self.readable.set(true);
        }
    }

    /// A new step begins.
    pub(super) fn begin_step(&self, now: Instant) {
        self.now.set(now);
        self.reads.set(STEP_READS);
    }

    /// Counts a read. Answers whether this step may do it.
    fn may_read(&self) -> bool {
        let left = self.reads.get();
        self.reads.set(left.saturating_sub(1));
        left > 0
    }

    /// Whether the last step stopped reading although there may be more.
    pub(super) fn has_more_to_read(&self) -> bool {
        self.reads.get() == 0 && self.readable.get()
    }

    /// Goes on with the TLS handshake. `None` until it is complete.
    pub(super) fn negotiate(&self) -> io::Result<Option<Protocol>> {
        while self.readable.get() || !self.is_secure() {
            match self.socket.negotiate() {
                Ok(protocol) => {
                    self.input.borrow_mut().unguarded = protocol == Protocol::Http2;
                    return Ok(Some(protocol));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable.set(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.fail(error),
            }
        }
        Ok(None)
    }

    /// Whether what is said is encrypted.
    pub(super) fn is_secure(&self) -> bool {
        self.socket.is_secure()
    }

    /// Whether several requests are under way at once.
    pub(super) fn is_multiplexed(&self) -> bool {
        self.input.borrow().unguarded
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken.get()
    }

    /// Whether the client has closed its sending side.
    pub(super) fn is_peer_done(&self) -> bool {
        self.peer_done.get() || self.ended.get()
    }

    /// Whether bytes wait to be sent, here or in the parser.
    pub(super) fn has_output(&self) -> bool {
        self.blocked.get() || !self.output.borrow().bytes.is_empty() || self.socket.holds_output()
    }

    /// Whether the socket took all that it was given so far.
    pub(super) fn is_writable(&self) -> bool {
        self.writable.get()
    }

    /// Whether the parser waits with output although the socket takes some.
    pub(super) fn can_unblock(&self) -> bool {
        self.blocked.get() && self.writable.get()
    }

    /// Bytes sent so far.
    pub(super) fn sent_total(&self) -> u64 {
        self.sent_total.get()
    }

    /// Heads cleared so far.
    pub(super) fn messages(&self) -> u64 {
        self.input.borrow().guard.messages()
    }

    /// Whether body bytes are awaited from the client.
    pub(super) fn in_body(&self) -> bool {
        self.input.borrow().guard.in_body()
    }

    /// Whether bytes were received that belong to no cleared message.
    pub(super) fn has_input(&self) -> bool {
        !self.input.borrow().bytes.is_empty()
    }

    /// Whether the answer now being made is to the last message received.
    pub(super) fn is_last_message(&self) -> bool {
        let input = self.input.borrow();
        !input.guard.in_body() && self.answered.get() + 1 >= input.guard.messages()
    }

    /// The refusal to answer with now: every earlier message must be answered first.
    pub(super) fn refusal_due(&self) -> Option<Refusal> {
        let refusal = self.refusal.get()?;
        let guard = &self.input.borrow().guard;
        let answerable = guard.messages() - u64::from(guard.in_body());
        (!self.blocked.get() && self.answered.get() == answerable).then_some(refusal)
    }

    /// Why the body that is arriving is refused, if it is.
    pub(super) fn body_refusal(&self) -> Option<Refusal> {
        self.refusal_due().filter(|_| self.in_body())
    }

    /// Takes nothing more of the body that is arriving.
    pub(super) fn refuse_body(&self, refusal: Refusal) {
        self.refusal.set(Some(refusal));
    }

    /// What can be read of the head that was refused.
    pub(super) fn refused_head(&self) -> Option<http::request::Parts> {
        let input = self.input.borrow();
        if input.guard.in_body() { None } else { glance(&input.bytes[input.cleared..]) }
    }

    /// Appends an answer of the engine's own to what is sent.
    pub(super) fn append(&self, write: impl FnOnce(&mut Vec<u8>)) {
        self.blocked.set(false);
        write(&mut self.output.borrow_mut().bytes);
    }

    /// The parser is gone, and with it the output that did not fit.
    pub(super) fn release(&self) {
        self.blocked.set(false);
    }

    /// Sends what is held back, as far as the socket takes it. Answers whether
    /// nothing is left.
    pub(super) fn flush(&self) -> io::Result<bool> {
        let output = &mut *self.output.borrow_mut();
        while output.sent < output.bytes.len() {
            if !self.writable.get() {
                return Ok(false);
            }
            let Some(count) = self.attempt(|socket| socket.write(&output.bytes[output.sent..]))? else {
                return Ok(false);
            };
            output.sent += count;
        }
        output.sent = 0;
        output.bytes.clear();
        output.bytes.shrink_to(KEPT_BYTES);
        match self.socket.push() {
            Ok(true) => Ok(true),
            Ok(false) => {
                self.writable.set(false);
                Ok(false)
            }
            Err(error) => self.fail(error),
        }
    }

    /// One attempt to write. `None` when the socket takes nothing now.
    fn attempt(&self, write: impl Fn(&Transport) -> io::Result<usize>) -> io::Result<Option<usize>> {
        loop {
            match write(&self.socket) {
                Ok(0) => return self.fail(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.sent_total.set(self.sent_total.get() + count as u64);
                    return Ok(Some(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.writable.set(false);
                    return Ok(None);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.fail(error),
            }
        }
    }

    fn fail<T>(&self, error: io::Error) -> io::Result<T> {
        self.broken.set(true);
        Err(error)
    }

    /// Takes output of the parser.
    pub(super) fn accept(&self, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.broken.get() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let total: usize = pieces.iter().map(|piece| piece.len()).sum();
        let held = self.output.borrow().bytes.len();
        if held + total > CORK_BYTES {
            if !self.flush()? {
                self.blocked.set(true);
                return Poll::Pending;
            }
            if total > CORK_BYTES {
                return self.pass_on(pieces);
            }
        }
        let bytes = &mut self.output.borrow_mut().bytes;
        for piece in pieces {
            bytes.extend_from_slice(piece);
        }
        self.blocked.set(false);
        Poll::Ready(Ok(total))
    }

    /// Sends a large piece without a copy.
    fn pass_on(&self, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let sent = match self.writable.get() {
            true => self.attempt(|socket| socket.write_vectored(pieces))?,
            false => None,
        };
        self.blocked.set(sent.is_none());
        sent.map_or(Poll::Pending, |count| Poll::Ready(Ok(count)))
    }

    /// Gives the parser bytes that the guard has cleared.
    pub(super) fn supply(&self, mut cursor: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let input = &mut *self.input.borrow_mut();
        loop {
            if input.cleared > 0 {
                let count = input.cleared.min(cursor.remaining());
                cursor.put_slice(&input.bytes[..count]);
                input.consume(count);
                return Poll::Ready(Ok(()));
            }
            if self.refusal.get().is_some() {
                return Poll::Pending;
            }
            if !self.readable.get() {
                return if self.ended.get() { Poll::Ready(Ok(())) } else { Poll::Pending };
            }
            if input.unguarded && !self.may_read() {
                return Poll::Pending;
            }
            let scratch = &mut *self.scratch.borrow_mut();
            let Some(count) = self.receive(scratch)? else { continue };
            let received = &scratch[..count];
            if input.bytes.is_empty() {
                // The usual case: what has come is handed on from the scratch
                // buffer, and nothing is kept.
                let found = inspect(&mut input.guard, input.unguarded, received);
                self.refusal.set(found.refusal);
                let count = found.cleared.min(cursor.remaining());
                cursor.put_slice(&received[..count]);
                input.bytes.extend_from_slice(&received[count..]);
                input.cleared = found.cleared - count;
                if count > 0 {
                    return Poll::Ready(Ok(()));
                }
            } else {
                input.bytes.extend_from_slice(received);
                let found = inspect(&mut input.guard, input.unguarded, &input.bytes);
                self.refusal.set(found.refusal);
                input.cleared = found.cleared;
            }
        }
    }

    /// One read from the socket. `None` when that brought nothing.
    fn receive(&self, scratch: &mut [u8]) -> io::Result<Option<usize>> {
        match self.socket.read(scratch) {
            Ok(0) => {
                self.readable.set(false);
                self.ended.set(true);
                Ok(None)
            }
            Ok(count) => {
                // Less than asked for means the kernel has no more for now. The
                // end of the stream has to be read too, and brings no new event.
                let emptied = count < scratch.len() && self.socket.is_emptied_by_short_reads();
                if emptied && !self.peer_done.get() {
                    self.readable.set(false);
                }
                Ok(Some(count))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable.set(false);
                Ok(None)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(error) => self.fail(error),
        }
    }

    /// Lets the close, when it comes, be a reset: the client is not to take what
    /// it has for the whole. Without an effect on a socket that cannot do that.
    pub(super) fn reset_on_close(&self) {
        self.socket.reset_on_close();
    }

    /// Says that nothing more will be sent.
    pub(super) fn finish_sending(&self) {
        if self.socket.finish_sending().is_err() {
            self.broken.set(true);
        }
    }

    /// Reads and forgets up to `most` bytes. Answers how many there were.
    pub(super) fn discard(&self, most: usize) -> usize {
        let scratch = &mut *self.scratch.borrow_mut();
        let mut total = 0;
        while total < most && self.readable.get() && !self.broken.get() {
            total += self.receive(scratch).ok().flatten().unwrap_or(0);
        }
        total
    }

    /// Forgets what was received, for a connection that is about to close.
    pub(super) fn forget_input(&self) {
        let input = &mut *self.input.borrow_mut();
        input.bytes = Vec::new();
        input.cleared = 0;
    }

    /// Whether all that the client sends was read to the end.
    pub(super) fn is_ended(&self) -> bool {
        self.ended.get()
    }
}

#[inline]
fn inspect(guard: &mut Guard, unguarded: bool, bytes: &[u8]) -> Inspection {
    if unguarded {
        return Inspection { cleared: bytes.len(), refusal: None };
    }
    guard.inspect(bytes)
}

impl Input {
    fn consume(&mut self, count: usize) {
        self.cleared -= count;
        if count == self.bytes.len() {
            self.bytes.clear();
            self.bytes.shrink_to(KEPT_BYTES);
        } else {
            self.bytes.drain(..count);
        }
    }
}
