//! The gate in front of any tower service: axum, hyper, tonic.

use std::fmt;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Extensions, HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{Check, Gate, Verdict, grpc};

/// Where the peer's address is found among a request's extensions.
type FindPeer = Box<dyn Fn(&Extensions) -> Option<IpAddr> + Send + Sync>;

/// A tower layer that lets through what the [`Gate`] lets through.
///
/// A refused request is answered with 429 (or 503 when nobody could count and the limiter fails
/// closed) and never reaches the service; an allowed one carries the limit headers in its answer. A
/// call of gRPC is refused with the status `RESOURCE_EXHAUSTED` (`UNAVAILABLE`, `PERMISSION_DENIED`).
///
/// The peer's address is the `SocketAddr` in the request's extensions, where whoever accepted the
/// connection puts it. For axum, say where `ConnectInfo` is:
///
/// ```
/// use std::net::SocketAddr;
/// use std::sync::Arc;
/// use axum::{Router, extract::ConnectInfo, routing::get};
/// use tollway::{Algorithm, FailMode, Limiter, Policy};
/// use tollway_http::{ClientAddress, Gate, Identity, LimitLayer};
/// use tollway_stores::memory::MemoryStore;
///
/// let limiter = Arc::new(Limiter::new(Arc::new(MemoryStore::new(1_000_000)), FailMode::Closed));
/// let policy = Arc::new(Policy::new("ping", "5/10s", Algorithm::Gcra)?);
/// let gate = Gate::new(limiter, vec![(policy, Identity::Ip)], Arc::new(ClientAddress::default()));
/// let limit = LimitLayer::new(gate)
///     .peer(|extensions| Some(extensions.get::<ConnectInfo<SocketAddr>>()?.0.ip()));
///
/// let app: Router = Router::new().route("/ping", get(|| async { "pong" })).layer(limit);
/// # Ok::<(), tollway::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct LimitLayer {
    // One count of references for both: servers copy the service for each request.
    parts: Arc<(Gate, FindPeer)>,
}

impl LimitLayer {
    /// A layer with this gate.
    pub fn new(gate: Gate) -> Self {
        let peer = |extensions: &Extensions| extensions.get().map(SocketAddr::ip);
        Self { parts: Arc::new((gate, Box::new(peer))) }
    }

    /// The same layer finding the peer's address in another way.
    #[must_use]
    pub fn peer(self, find: impl Fn(&Extensions) -> Option<IpAddr> + Send + Sync + 'static) -> Self {
        Self { parts: Arc::new((self.parts.0.clone(), Box::new(find))) }
    }
}

impl fmt::Debug for LimitLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimitLayer").field("gate", &self.parts.0).finish_non_exhaustive()
    }
}

impl<S> Layer<S> for LimitLayer {
    type Service = Limit<S>;

    fn layer(&self, inner: S) -> Limit<S> {
        Limit { layer: self.clone(), inner }
    }
}

/// The service that [`LimitLayer`] makes.
#[derive(Clone, Debug)]
pub struct Limit<S> {
    layer: LimitLayer,
    inner: S,
}

impl<S, Q, R> Service<Request<Q>> for Limit<S>
where
    S: Service<Request<Q>, Response = Response<R>> + Clone,
{
    type Response = Response<LimitBody<R>>;
    type Error = S::Error;
    type Future = LimitFuture<S, Q>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let (head, body) = request.into_parts();
        let (gate, find_peer) = &*self.layer.parts;
        let check = gate.check(&head, find_peer(&head.extensions));
        let refuse = refusal_for(&head.headers);
        let request = Request::from_parts(head, body);
        let stage = match check {
            Check::Done(verdict) if verdict.allowed() => Stage::Pass { answer: self.inner.call(request), verdict },
            Check::Done(verdict) => Stage::Refuse { verdict },
            Check::Wait(check) => {
                // The service that was made ready is the one to call; the next call begins with the copy.
                let copy = self.inner.clone();
                let ready = std::mem::replace(&mut self.inner, copy);
                Stage::Ask { check, next: Some((ready, request)) }
            }
        };
        LimitFuture { stage, refuse }
    }
}

/// How a refusal is put into words.
type Refuse = fn(&Verdict) -> Response<Bytes>;

/// What the client of a request understands.
fn refusal_for(headers: &HeaderMap) -> Refuse {
    if grpc::is_call(headers) { grpc::refusal } else { Verdict::refusal }
}

pin_project! {
    #[project = StageNow]
    enum Stage<S, Q>
    where
        S: Service<Request<Q>>,
    {
        Ask { check: Pin<Box<dyn Future<Output = Verdict> + Send>>, next: Option<(S, Request<Q>)> },
        Pass { #[pin] answer: S::Future, verdict: Verdict },
        Refuse { verdict: Verdict },
    }
}

pin_project! {
    /// The answer of a limited service.
    pub struct LimitFuture<S, Q>
    where
        S: Service<Request<Q>>,
    {
        #[pin]
        stage: Stage<S, Q>,
        refuse: Refuse,
    }
}

impl<S, Q, R> Future for LimitFuture<S, Q>
where
    S: Service<Request<Q>, Response = Response<R>>,
{
    type Output = Result<Response<LimitBody<R>>, S::Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut stage = this.stage;
        loop {
            let next = match stage.as_mut().project() {
                StageNow::Refuse { verdict } => {
                    let refusal = (this.refuse)(verdict);
                    return Poll::Ready(Ok(refusal.map(LimitBody::refusal)));
                }
                StageNow::Pass { answer, verdict } => {
                    let mut answer = ready!(answer.poll(context))?;
                    verdict.write_headers(answer.headers_mut());
                    return Poll::Ready(Ok(answer.map(LimitBody::passed)));
                }
                StageNow::Ask { check, next } => {
                    let verdict = ready!(check.as_mut().poll(context));
                    match next.take() {
                        Some((mut inner, request)) if verdict.allowed() => {
                            Stage::Pass { answer: inner.call(request), verdict }
                        }
                        _ => Stage::Refuse { verdict },
                    }
                }
            };
            stage.set(next);
        }
    }
}

pin_project! {
    #[project = WordsNow]
    #[derive(Debug)]
    enum Words<B> {
        Passed { #[pin] body: B },
        Refusal { bytes: Bytes },
    }
}

pin_project! {
    /// The body of an answer: the service's own, or that of a refusal.
    #[derive(Debug)]
    pub struct LimitBody<B> {
        #[pin]
        words: Words<B>,
    }
}

impl<B> LimitBody<B> {
    fn passed(body: B) -> Self {
        Self { words: Words::Passed { body } }
    }

    fn refusal(bytes: Bytes) -> Self {
        Self { words: Words::Refusal { bytes } }
    }
}

impl<B: Body<Data = Bytes>> Body for LimitBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.project().words.project() {
            WordsNow::Passed { body } => body.poll_frame(context),
            WordsNow::Refusal { bytes } if bytes.is_empty() => Poll::Ready(None),
            WordsNow::Refusal { bytes } => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.words {
            Words::Passed { body } => body.is_end_stream(),
            Words::Refusal { bytes } => bytes.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.words {
            Words::Passed { body } => body.size_hint(),
            Words::Refusal { bytes } => SizeHint::with_exact(bytes.len() as u64),
        }
    }
}
