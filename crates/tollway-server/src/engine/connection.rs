//! One connection: the parser's future over a wire, and what happens when it ends.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use hyper::server::conn::http1;

use super::exchange::{Service, Shared};
use super::piping::Io;
use super::refusing::{Reason, write_last};
use super::socket::Protocol;
use super::streams::Streams;
use super::wake::ConnectionWaker;
use super::wire::Wire;
use crate::framing::Refusal;
use crate::{Handler, Refused, Settings};

/// Most bytes of a refused client that are read and forgotten at a time, so that
/// it gets to see the answer. More ends the connection at once.
const MAX_DISCARD: usize = 256 * 1024;
/// Time after an answer in which shutdown still waits for the next request: one
/// that is on its way is not lost.
const IDLE_GRACE: Duration = Duration::from_millis(250);
/// Requests that an HTTP/2 client may give up beyond those it let be answered.
const MAX_GIVEN_UP: u64 = 100;
/// Smallest read buffer the parser allows.
const MIN_PARSER_BUFFER: usize = 8 * 1024;

/// What a connection waits for. Each has its own time-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// The next request.
    Idle,
    /// The rest of a head.
    Head,
    /// The rest of a body.
    Body,
    /// The handler, which sets its own limits.
    Handler,
    /// The next piece of a streamed answer.
    Stream,
    /// The client to take what is sent.
    Write,
    /// The client to close after the last answer.
    Close,
}

/// What is to become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It goes on when something happens.
    Keep,
    /// It is over.
    Drop,
}

/// What [`Connection::expire`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expiry {
    /// Nothing that is the client's fault.
    Quiet,
    /// The client was too slow.
    TooSlow,
    /// One of its exchanges was called again, because its time is over.
    Exchange,
}

/// The HTTP parser with the requests in it.
enum Parser<H: Handler> {
    /// TLS has not said yet which it is.
    Opening(Option<SocketAddr>),
    One(Pin<Box<http1::Connection<Io, Service<H>>>>),
    Two(Box<Streams<H>>),
}

impl<H: Handler> Parser<H> {
    fn new(protocol: Protocol, shared: &Rc<Shared<H>>, wire: &Rc<Wire>, peer: Option<SocketAddr>) -> Self {
        let service = Service { shared: Rc::clone(shared), wire: Rc::clone(wire), peer };
        let io = Io(Rc::clone(wire));
        match protocol {
            Protocol::Http1 => Parser::One(Box::pin(builder(&shared.settings).serve_connection(io, service))),
            Protocol::Http2 => Parser::Two(Box::new(Streams::new(&shared.settings, io, service))),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        match self {
            Parser::Opening(_) => Poll::Pending,
            Parser::One(parser) => parser.as_mut().poll(cx),
            Parser::Two(streams) => streams.poll(cx),
        }
    }
}

/// One open connection.
pub(super) struct Connection<H: Handler> {
    parser: Option<Parser<H>>,
    shared: Rc<Shared<H>>,
    pub(super) wire: Rc<Wire>,
    pub(super) wake: Arc<ConnectionWaker>,
    waker: Waker,
    peer: Option<SocketAddr>,
    /// What is waited for, and a count that changes with each progress.
    wait: (Wait, u64),
    /// Since when.
    since: Instant,
    deadline: Option<Instant>,
    /// The last answer is on its way; the client may send what it likes.
    linger: bool,
    sending_finished: bool,
    /// HTTP/2 was told that no more streams are taken.
    finishing: bool,
    discarded: usize,
}

impl<H: Handler> Connection<H> {
    pub(super) fn new(
        wire: Wire,
        peer: Option<SocketAddr>,
        shared: Rc<Shared<H>>,
        wake: Arc<ConnectionWaker>,
        now: Instant,
    ) -> Self {
        let wire = Rc::new(wire);
        let parser = match wire.is_secure() {
            true => Parser::Opening(peer),
            false => Parser::new(Protocol::Http1, &shared, &wire, peer),
        };
        let deadline = Some(now + shared.settings.header_timeout);
        Connection {
            parser: Some(parser),
            shared,
            wire,
            waker: Waker::from(Arc::clone(&wake)),
            wake,
            peer,
            wait: (Wait::Head, 0),
            since: now,
            deadline,
            linger: false,
            sending_finished: false,
            finishing: false,
            discarded: 0,
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let Wire { deadlines, rooms, .. } = &*self.wire;
        [self.deadline, deadlines.earliest(), rooms.earliest()].into_iter().flatten().min()
    }

    /// Does all that can be done without waiting.
    pub(super) fn step(&mut self, now: Instant) -> Fate {
        self.wake.reset();
        self.wire.begin_step(now);
        self.wire.flow.refill();
        let mut told = false;
        let fate = loop {
            if self.wire.is_broken() {
                break Fate::Drop;
            }
            if self.parser.is_some() && self.poll_parser() == Fate::Drop {
                break Fate::Drop;
            }
            if self.wire.flush().is_err() {
                break Fate::Drop;
            }
            if self.parser.is_none() {
                break self.close();
            }
            if self.is_abandoned() {
                break Fate::Drop;
            }
            if let Some(refusal) = self.wire.refusal_due() {
                // The exchange whose body this is knows more of the request.
                if self.wire.collecting.get() == 0 || std::mem::replace(&mut told, true) {
                    self.refuse(refusal);
                }
                continue;
            }
            if !self.wire.can_unblock() {
                break Fate::Keep;
            }
        };
        if fate == Fate::Keep {
            self.watch(now);
            if self.wire.has_more_to_read() {
                self.wake.queue();
            }
            if self.shared.draining.get() {
                return self.say_farewell(now);
            }
        }
        fate
    }

    fn poll_parser(&mut self) -> Fate {
        if self.negotiate().is_err() {
            return Fate::Drop;
        }
        let Some(parser) = &mut self.parser else { return Fate::Keep };
        let mut context = Context::from_waker(&self.waker);
        match catch_unwind(AssertUnwindSafe(|| parser.poll(&mut context))) {
            Ok(Poll::Pending) => Fate::Keep,
            Ok(Poll::Ready(result)) => {
                if result.as_ref().is_err_and(hyper::Error::is_parse) {
                    // Nothing that the guard lets pass, as far as is known.
                    self.shared.refused.set(self.shared.refused.get() + 1);
                }
                // Something of the client's is unread: closing at once would
                // reset the connection and could take the answer with it.
                self.linger |=
                    result.is_err() || self.shared.draining.get() || self.wire.in_body() || self.wire.has_input();
                // A stream that failed ends at once, and not as if it were whole.
                let failed = self.wire.flow.has_failed();
                self.linger &= !failed;
                if self.wire.flow.is_active() && !failed {
                    self.shared.cancelled.set(self.shared.cancelled.get() + 1);
                }
                self.drop_parser();
                Fate::Keep
            }
            Err(_) => {
                self.shared.panics.set(self.shared.panics.get() + 1);
                Fate::Drop
            }
        }
    }

    /// Finishes the TLS handshake, after which the parser is known.
    fn negotiate(&mut self) -> std::io::Result<()> {
        if let Some(Parser::Opening(peer)) = self.parser
            && let Some(protocol) = self.wire.negotiate()?
        {
            self.parser = Some(Parser::new(protocol, &self.shared, &self.wire, peer));
        }
        Ok(())
    }

    /// Whether the client went away while its answer is being made, or opens
    /// requests only to give them up.
    fn is_abandoned(&self) -> bool {
        let wire = &self.wire;
        let gone = self.shared.settings.cancel_on_half_close && self.is_answering() && wire.is_peer_done();
        gone || wire.given_up.get() > wire.answered.get() + MAX_GIVEN_UP
    }

    /// Whether a handler or a streamed answer is under way.
    fn is_answering(&self) -> bool {
        self.wire.handling.get() > 0 || self.wire.flow.is_active()
    }

    fn drop_parser(&mut self) {
        self.parser = None;
        self.wire.release();
        self.wire.forget_input();
    }

    /// Answers in place of the handler; nothing else is read or answered.
    fn refuse(&mut self, refusal: Refusal) {
        let refused = Refused { head: self.wire.refused_head(), peer: self.peer };
        self.drop_parser();
        self.linger = true;
        let answer = self.shared.refuse(Reason::from(refusal), &refused);
        self.wire.append(|out| write_last(answer, &refused, SystemTime::now(), out));
    }

    /// Closes in an orderly way, after the parser is gone.
    fn close(&mut self) -> Fate {
        if self.wire.has_output() {
            return Fate::Keep;
        }
        if !self.linger || self.wire.is_ended() {
            return Fate::Drop;
        }
        if !self.sending_finished {
            self.sending_finished = true;
            self.wire.finish_sending();
        }
        self.discarded += self.wire.discard(MAX_DISCARD);
        let over = self.wire.is_broken() || self.wire.is_ended() || self.discarded >= MAX_DISCARD;
        if over { Fate::Drop } else { Fate::Keep }
    }

    /// Finds out what is waited for and until when.
    fn watch(&mut self, now: Instant) {
        let wire = &self.wire;
        let wait = if wire.has_output() {
            (Wait::Write, wire.sent_total())
        } else if self.parser.is_none() {
            (Wait::Close, 0)
        } else if wire.handling.get() > 0 || (wire.is_multiplexed() && wire.collecting.get() > 0) {
            (Wait::Handler, 0)
        } else if let Some(Parser::Two(streams)) = &self.parser {
            match (streams.is_idle(), wire.answered.get()) {
                // Each answer has its own time.
                (false, _) => (Wait::Stream, 0),
                (true, 0) => (Wait::Head, 0),
                (true, answered) => (Wait::Idle, answered),
            }
        } else if wire.flow.is_active() {
            (Wait::Stream, 0)
        } else {
            let messages = wire.messages();
            let wait = if wire.in_body() {
                Wait::Body
            } else if wire.has_input() || messages == 0 {
                Wait::Head
            } else {
                Wait::Idle
            };
            (wait, messages)
        };
        if wait != self.wait {
            self.wait = wait;
            self.since = now;
            self.deadline = self.patience(wait.0).map(|patience| now + patience);
        }
    }

    fn patience(&self, wait: Wait) -> Option<Duration> {
        let settings = &self.shared.settings;
        Some(match wait {
            Wait::Idle => settings.keep_alive_timeout,
            Wait::Head => settings.header_timeout,
            Wait::Body => settings.body_timeout,
            Wait::Handler | Wait::Stream => return None,
            Wait::Write => settings.write_timeout,
            Wait::Close => settings.linger_timeout,
        })
    }

    /// Acts on the deadline. The caller steps or drops the connection after.
    pub(super) fn expire(&mut self, now: Instant) -> (Fate, Expiry) {
        self.wire.deadlines.wake_due(now);
        if self.wire.rooms.earliest().is_some_and(|earliest| earliest <= now) {
            return (Fate::Drop, Expiry::TooSlow);
        }
        if self.deadline.is_none_or(|deadline| deadline > now) {
            return (Fate::Keep, Expiry::Exchange);
        }
        match self.wait.0 {
            Wait::Head if self.wire.has_input() && !self.wire.is_multiplexed() => self.refuse(Refusal::HeadTimeout),
            Wait::Body => self.wire.refuse_body(Refusal::BodyTimeout),
            Wait::Head | Wait::Write => return (Fate::Drop, Expiry::TooSlow),
            Wait::Idle | Wait::Handler | Wait::Stream | Wait::Close => return (Fate::Drop, Expiry::Quiet),
        }
        (Fate::Keep, Expiry::TooSlow)
    }

    /// Whether shutdown may close the connection now: it waits for a request,
    /// and has for a while.
    pub(super) fn is_forgotten(&self, now: Instant) -> bool {
        self.wait.0 == Wait::Idle && now >= self.since + IDLE_GRACE
    }

    /// Sees to it that a connection ends that has nothing left to do.
    fn say_farewell(&mut self, now: Instant) -> Fate {
        if let Some(Parser::Two(streams)) = &mut self.parser
            && !std::mem::replace(&mut self.finishing, true)
        {
            streams.finish();
            self.wake.queue();
        }
        if self.is_forgotten(now) {
            return Fate::Drop;
        }
        if self.wait.0 == Wait::Idle {
            let end = self.since + IDLE_GRACE;
            self.deadline = Some(self.deadline.map_or(end, |set| set.min(end)));
        }
        Fate::Keep
    }

    /// Gives a client that has connected and sent nothing less time.
    pub(super) fn hurry(&mut self, deadline: Instant) {
        if self.wait == (Wait::Head, 0) && !self.wire.has_input() {
            self.deadline = self.deadline.map(|set| set.min(deadline));
        }
    }
}

impl<H: Handler> Drop for Connection<H> {
    fn drop(&mut self) {
        let streams = u64::from(self.wire.flow.active());
        self.shared.cancelled.set(self.shared.cancelled.get() + streams);
    }
}

fn builder(settings: &Settings) -> http1::Builder {
    let mut builder = http1::Builder::new();
    // Whether a half-closed client counts as gone is decided here and not by
    // the parser: it would drop a request that came together with the close
    // before its handler had a chance to answer at once.
    builder
        .half_close(true)
        .header_read_timeout(None)
        .max_buf_size(MIN_PARSER_BUFFER.max(settings.max_head_bytes * 2))
        .pipeline_flush(false)
        .writev(true);
    if settings.max_headers > 100 {
        builder.max_headers(settings.max_headers);
    }
    builder
}
