//! One request and its answer: collects the body, runs the handler, and keeps
//! its panics from the other connections.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING};
use http::request::Parts;
use http::{Method, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use pin_project_lite::pin_project;

use super::answer::Answer;
use super::deadlines::Place;
use super::refusing::Reason;
use super::unguarded;
use super::wire::Wire;
use crate::{Body, Handler, Refused, Request, Response, Settings};

/// What all connections of an engine share.
pub(super) struct Shared<H> {
    pub(super) handler: H,
    pub(super) settings: Settings,
    /// Shutdown has begun: no connection is kept open after its answer.
    pub(super) draining: Cell<bool>,
    pub(super) requests: Cell<u64>,
    pub(super) refused: Cell<u64>,
    pub(super) cancelled: Cell<u64>,
    pub(super) panics: Cell<u64>,
    pub(super) overdue: Cell<u64>,
    /// The time of this turn.
    pub(super) now: Cell<Instant>,
}

impl<H> Shared<H> {
    pub(super) fn new(handler: H, settings: Settings) -> Self {
        Shared {
            handler,
            settings,
            draining: Cell::new(false),
            requests: Cell::new(0),
            refused: Cell::new(0),
            cancelled: Cell::new(0),
            panics: Cell::new(0),
            overdue: Cell::new(0),
            now: Cell::new(Instant::now()),
        }
    }
}

/// Makes an exchange of each request of one connection.
pub(super) struct Service<H> {
    pub(super) shared: Rc<Shared<H>>,
    pub(super) wire: Rc<Wire>,
    pub(super) peer: Option<SocketAddr>,
}

impl<H: Handler> hyper::service::Service<http::Request<Incoming>> for Service<H> {
    type Response = http::Response<Answer>;
    type Error = Infallible;
    type Future = Exchange<H>;

    fn call(&self, request: http::Request<Incoming>) -> Exchange<H> {
        let (mut head, incoming) = request.into_parts();
        let mut exchange = Exchange {
            call: Call {
                shared: Rc::clone(&self.shared),
                wire: Rc::clone(&self.wire),
                peer: self.peer,
                is_head: head.method == Method::HEAD,
                is_old: head.version == Version::HTTP_10,
                counted: Counted::Nowhere,
                deadline: None,
                place: Place::default(),
            },
            stage: Stage::Spent,
        };
        let call = &mut exchange.call;
        if self.wire.is_multiplexed()
            && let Err(refusal) = unguarded::check(&mut head, &self.shared.settings)
        {
            exchange.stage = call.refuse(Reason::from(refusal), Some(head));
            return exchange;
        }
        let no_body = incoming.is_end_stream();
        let secure = self.wire.is_secure();
        let request = Request { head, body: Bytes::new(), peer: self.peer, secure };
        exchange.stage = if no_body {
            call.start(request)
        } else {
            call.count(Counted::Body);
            // Over HTTP/1 the connection itself waits for its one body.
            let patience = self.wire.is_multiplexed().then_some(self.shared.settings.body_timeout);
            call.allow(patience);
            // Boxed, so that requests without a body carry no room for one.
            Stage::Collect { collect: Box::new(Collect::new(request, incoming, &self.shared)) }
        };
        exchange
    }
}

/// The pieces of a body. One piece, the usual case, is not copied.
#[derive(Default)]
struct Collected {
    first: Bytes,
    all: BytesMut,
}

impl Collected {
    fn len(&self) -> usize {
        self.first.len().max(self.all.len())
    }

    fn push(&mut self, piece: Bytes, expected: usize) {
        if self.len() == 0 {
            self.first = piece;
            return;
        }
        if self.all.is_empty() {
            self.all.reserve(expected.max(self.first.len() + piece.len()));
            self.all.extend_from_slice(&self.first);
        }
        self.all.extend_from_slice(&piece);
    }

    fn take(&mut self) -> Bytes {
        let first = std::mem::take(&mut self.first);
        if self.all.is_empty() { first } else { std::mem::take(&mut self.all).freeze() }
    }
}

/// A request whose body is arriving.
struct Collect {
    request: Option<Request>,
    incoming: Incoming,
    collected: Collected,
    most: usize,
}

impl Collect {
    fn new<H: Handler>(request: Request, incoming: Incoming, shared: &Shared<H>) -> Self {
        let head = &request.head;
        // A panic of the handler is no reason to read a body.
        let most = catch_unwind(AssertUnwindSafe(|| shared.handler.max_body(head))).unwrap_or(0);
        let most = most.min(shared.settings.max_body_bytes);
        Collect { request: Some(request), incoming, collected: Collected::default(), most }
    }
}

pin_project! {
    #[project = StageNow]
    enum Stage<F> {
        Collect { collect: Box<Collect> },
        Handle { #[pin] future: F },
        Fail { answer: Option<Box<Response>> },
        Spent,
    }
}

impl<F> Stage<F> {
    /// The engine answers in the handler's place.
    fn fail(answer: Response) -> Self {
        Stage::Fail { answer: Some(Box::new(answer)) }
    }
}

pin_project! {
    /// The future of one answer.
    pub(super) struct Exchange<H: Handler> {
        call: Call<H>,
        #[pin]
        stage: Stage<H::Future>,
    }

    impl<H: Handler> PinnedDrop for Exchange<H> {
        fn drop(this: Pin<&mut Self>) {
            this.project().call.leave();
        }
    }
}

/// Which of the connection's counters an exchange is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counted {
    Nowhere,
    Body,
    Handler,
}

/// What an exchange has around its stage.
struct Call<H: Handler> {
    shared: Rc<Shared<H>>,
    wire: Rc<Wire>,
    peer: Option<SocketAddr>,
    is_head: bool,
    /// The client speaks HTTP/1.0.
    is_old: bool,
    counted: Counted,
    /// When what is waited for takes too long.
    deadline: Option<Instant>,
    place: Place,
}

impl<H: Handler> Call<H> {
    fn count(&mut self, next: Counted) {
        let counter = |counted| match counted {
            Counted::Nowhere => None,
            Counted::Body => Some(&self.wire.collecting),
            Counted::Handler => Some(&self.wire.handling),
        };
        if let Some(left) = counter(self.counted) {
            left.set(left.get() - 1);
        }
        if let Some(entered) = counter(next) {
            entered.set(entered.get() + 1);
        }
        self.counted = next;
    }

    /// Sets the time for what is waited for next.
    fn allow(&mut self, patience: Option<Duration>) {
        self.deadline = patience.map(|patience| self.shared.now.get() + patience);
    }

    fn start(&mut self, request: Request) -> Stage<H::Future> {
        self.shared.requests.set(self.shared.requests.get() + 1);
        self.count(Counted::Handler);
        self.allow(self.shared.settings.handler_timeout);
        match catch_unwind(AssertUnwindSafe(|| self.shared.handler.call(request))) {
            Ok(future) => Stage::Handle { future },
            Err(_) => {
                self.count_panic();
                Stage::fail(Reason::PANICKED.answer())
            }
        }
    }

    /// The answer to a request whose body cannot be had, or to one that breaks a limit.
    fn refuse<F>(&self, reason: Reason, head: Option<Parts>) -> Stage<F> {
        Stage::fail(self.shared.refuse(reason, &Refused { head, peer: self.peer }))
    }

    fn count_panic(&self) {
        self.shared.panics.set(self.shared.panics.get() + 1);
    }

    /// Whether what is waited for takes too long.
    fn is_overdue(&mut self) -> bool {
        let overdue = self.deadline.take_if(|deadline| *deadline <= self.shared.now.get()).is_some();
        self.shared.overdue.set(self.shared.overdue.get() + u64::from(overdue));
        overdue
    }

    /// Lets the connection call again when the time is over.
    fn wait(&mut self, cx: &Context<'_>) {
        if let Some(deadline) = self.deadline {
            self.wire.deadlines.set(&mut self.place, deadline, cx.waker());
        }
    }

    /// The answer is given, or nobody wants it any more.
    fn leave(&mut self) {
        if self.counted != Counted::Nowhere {
            self.wire.given_up.set(self.wire.given_up.get() + 1);
        }
        if self.counted == Counted::Handler {
            self.shared.cancelled.set(self.shared.cancelled.get() + 1);
        }
        self.settle();
    }

    fn settle(&mut self) {
        self.count(Counted::Nowhere);
        self.wire.deadlines.clear(&mut self.place);
    }
}

impl<H: Handler> Future for Exchange<H> {
    type Output = Result<http::Response<Answer>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = self.as_mut().advance(cx);
        let call = self.project().call;
        match &answer {
            Poll::Pending => call.wait(cx),
            Poll::Ready(_) => call.settle(),
        }
        answer.map(Ok)
    }
}

impl<H: Handler> Exchange<H> {
    fn advance(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<http::Response<Answer>> {
        let mut this = self.project();
        let call = this.call;
        let overdue = call.is_overdue();
        loop {
            let next = match this.stage.as_mut().project() {
                StageNow::Collect { collect } => match collect.poll(overdue, call, cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(request)) => call.start(request),
                    Poll::Ready(Err(reason)) => call.refuse(reason, collect.request.take().map(|request| request.head)),
                },
                StageNow::Handle { future } if overdue => {
                    Stage::fail(call.shared.replace(Reason::SLOW_HANDLER, future))
                }
                StageNow::Handle { mut future } => match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
                    Ok(answer) => return Poll::Ready(send(ready!(answer), false, call)),
                    Err(_) => {
                        call.count_panic();
                        Stage::fail(call.shared.replace(Reason::PANICKED, future))
                    }
                },
                StageNow::Fail { answer } => match answer.take() {
                    Some(answer) => return Poll::Ready(send(*answer, true, call)),
                    None => Stage::Spent,
                },
                StageNow::Spent => return Poll::Pending,
            };
            this.stage.set(next);
        }
    }
}

impl Collect {
    /// The request with its body, or why there is none.
    fn poll<H: Handler>(
        &mut self,
        overdue: bool,
        call: &Call<H>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Request, Reason>> {
        if overdue {
            return Poll::Ready(Err(Reason::SLOW_BODY));
        }
        let Poll::Ready(whole) = self.poll_body(cx) else {
            return call.wire.body_refusal().map_or(Poll::Pending, |refusal| Poll::Ready(Err(refusal.into())));
        };
        match (whole, &mut self.request) {
            (Err(reason), _) => Poll::Ready(Err(reason)),
            (Ok(body), request) => match request.take() {
                Some(request) => Poll::Ready(Ok(Request { body, ..request })),
                None => Poll::Pending,
            },
        }
    }

    /// Collects a body. The guard has bounded its length by what the server accepts; here it is
    /// bounded by what its handler takes, before any of it is asked for where the length is stated.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Reason>> {
        let Collect { incoming, collected, most, .. } = self;
        let most = *most;
        let expected = incoming.size_hint().lower();
        if expected > (most - collected.len()) as u64 {
            return Poll::Ready(Err(Reason::TOO_LARGE));
        }
        let expected = usize::try_from(expected).unwrap_or(most).min(most);
        loop {
            match ready!(Pin::new(&mut *incoming).poll_frame(cx)) {
                None => return Poll::Ready(Ok(collected.take())),
                Some(Ok(frame)) => {
                    let Ok(piece) = frame.into_data() else { continue };
                    if collected.len() + piece.len() > most {
                        return Poll::Ready(Err(Reason::TOO_LARGE));
                    }
                    let expected = collected.len() + expected;
                    collected.push(piece, expected.min(most));
                }
                Some(Err(_)) => return Poll::Ready(Err(Reason::CUT_OFF)),
            }
        }
    }
}

/// Makes a handler's response ready for the parser, which adds the framing.
fn send<H: Handler>(mut answer: Response, close: bool, call: &Call<H>) -> http::Response<Answer> {
    let Call { shared, wire, is_head, is_old, .. } = call;
    let bare = *is_head || answer.status() == StatusCode::NOT_MODIFIED;
    let headers = answer.headers_mut();
    // The length is counted, never believed, except where no body is sent.
    if headers.keys().any(|name| name == CONTENT_LENGTH || name == TRANSFER_ENCODING) {
        headers.remove(TRANSFER_ENCODING);
        if !bare {
            headers.remove(CONTENT_LENGTH);
        }
    }
    // An old client finds the end of a stream by the close.
    let close = close || (*is_old && answer.body().exact_len().is_none());
    let close = close || (shared.draining.get() && wire.is_last_message());
    // HTTP/2 has frames that say so, and no such header.
    if close && !wire.is_multiplexed() {
        let headers = answer.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    // Over HTTP/1 the parser leaves the body away; here it would send it.
    if bare && wire.is_multiplexed() {
        if let Some(length) = answer.body().exact_len().filter(|_| *is_head) {
            answer.headers_mut().entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
        }
        *answer.body_mut() = Body::Empty;
    }
    let patience = wire.is_multiplexed().then_some(shared.settings.write_timeout);
    answer.map(|body| Answer::new(body, wire, *is_old, patience))
}
