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

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, TRANSFER_ENCODING};
use http::{Method, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use pin_project_lite::pin_project;

use super::answer::Answer;
use super::wire::Wire;
use crate::framing::problem;
use crate::{Body, Handler, Request, Response, Settings};

const TOO_LARGE: &str = "The request body is larger than this server accepts.";

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
        let (head, incoming) = request.into_parts();
        let mut exchange = Exchange {
            shared: Rc::clone(&self.shared),
            wire: Rc::clone(&self.wire),
            is_head: head.method == Method::HEAD,
            is_old: head.version == Version::HTTP_10,
            stage: Stage::Spent,
        };
        let no_body = incoming.is_end_stream();
        let request = Request { head, body: Bytes::new(), peer: self.peer };
        exchange.stage = if no_body {
            exchange.start(request)
        } else {
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
        Fail { status: StatusCode, detail: &'static str },
        Spent,
    }
}

pin_project! {
    /// The future of one answer.
    pub(super) struct Exchange<H: Handler> {
        shared: Rc<Shared<H>>,
        wire: Rc<Wire>,
        is_head: bool,
        is_old: bool,
        #[pin]
        stage: Stage<H::Future>,
    }
}

impl<H: Handler> Exchange<H> {
    fn start(&self, request: Request) -> Stage<H::Future> {
        start(&self.shared, &self.wire, request)
    }
}

fn start<H: Handler>(shared: &Shared<H>, wire: &Wire, request: Request) -> Stage<H::Future> {
    shared.requests.set(shared.requests.get() + 1);
    wire.handling.set(true);
    match catch_unwind(AssertUnwindSafe(|| shared.handler.call(request))) {
        Ok(future) => Stage::Handle { future },
        Err(_) => panicked(shared),
    }
}

fn panicked<H, F>(shared: &Shared<H>) -> Stage<F> {
    shared.panics.set(shared.panics.get() + 1);
    Stage::Fail { status: StatusCode::INTERNAL_SERVER_ERROR, detail: "The handler of this request failed." }
}

impl<H: Handler> Future for Exchange<H> {
    type Output = Result<http::Response<Answer>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let next = match this.stage.as_mut().project() {
                StageNow::Collect { collect } => {
                    let Collect { request, incoming, collected, most } = &mut **collect;
                    let whole = ready!(poll_body(incoming, collected, *most, cx));
                    match (whole, request.take()) {
                        (Ok(body), Some(request)) => start(this.shared, this.wire, Request { body, ..request }),
                        (Err(failure), _) => failure,
                        (Ok(_), None) => Stage::Spent,
                    }
                }
                StageNow::Handle { future } => match catch_unwind(AssertUnwindSafe(|| future.poll(cx))) {
                    Ok(answer) => {
                        let answer = ready!(answer);
                        return Poll::Ready(Ok(send(
                            answer,
                            (*this.is_head, *this.is_old),
                            false,
                            this.shared,
                            this.wire,
                        )));
                    }
                    Err(_) => panicked(this.shared),
                },
                StageNow::Fail { status, detail } => {
                    let answer = failure(*status, detail);
                    return Poll::Ready(Ok(send(answer, (*this.is_head, *this.is_old), true, this.shared, this.wire)));
                }
                StageNow::Spent => return Poll::Pending,
            };
            this.stage.set(next);
        }
    }
}

/// Collects a body. The guard has bounded its length by what the server accepts; here it is
/// bounded by what its handler takes, before any of it is asked for where the length is stated.
fn poll_body<F>(
    incoming: &mut Incoming,
    collected: &mut Collected,
    most: usize,
    cx: &mut Context<'_>,
) -> Poll<Result<Bytes, Stage<F>>> {
    let fail = |status, detail| Poll::Ready(Err(Stage::Fail { status, detail }));
    let expected = incoming.size_hint().lower();
    if expected > (most - collected.len()) as u64 {
        return fail(StatusCode::PAYLOAD_TOO_LARGE, TOO_LARGE);
    }
    let expected = usize::try_from(expected).unwrap_or(most).min(most);
    loop {
        match ready!(Pin::new(&mut *incoming).poll_frame(cx)) {
            None => return Poll::Ready(Ok(collected.take())),
            Some(Ok(frame)) => {
                let Ok(piece) = frame.into_data() else { continue };
                if collected.len() + piece.len() > most {
                    return fail(StatusCode::PAYLOAD_TOO_LARGE, TOO_LARGE);
                }
                let expected = collected.len() + expected;
                collected.push(piece, expected.min(most));
            }
            Some(Err(_)) => {
                return fail(StatusCode::BAD_REQUEST, "The request body ended early.");
            }
        }
    }
}

fn failure(status: StatusCode, detail: &str) -> Response {
    let title = status.canonical_reason().unwrap_or("Failed");
    let mut answer = http::Response::new(Body::from(problem(status.as_u16(), title, detail)));
    *answer.status_mut() = status;
    let kind = HeaderValue::from_static("application/problem+json");
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}

/// Makes a handler's response ready for the parser, which adds the framing.
fn send<H>(
    mut answer: Response,
    (is_head, is_old): (bool, bool),
    close: bool,
    shared: &Shared<H>,
    wire: &Rc<Wire>,
) -> http::Response<Answer> {
    wire.handling.set(false);
    let bare = is_head || answer.status() == StatusCode::NOT_MODIFIED;
    let headers = answer.headers_mut();
    // The length is counted, never believed, except where no body is sent.
    if headers.keys().any(|name| name == CONTENT_LENGTH || name == TRANSFER_ENCODING) {
        headers.remove(TRANSFER_ENCODING);
        if !bare {
            headers.remove(CONTENT_LENGTH);
        }
    }
    // An old client finds the end of a stream by the close.
    let close = close || (is_old && answer.body().exact_len().is_none());
    let headers = answer.headers_mut();
    if close || (shared.draining.get() && wire.is_last_message()) {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    answer.map(|body| Answer::new(body, wire, is_old))
}
