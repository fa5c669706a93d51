//! The gate as a middleware of actix.

use std::future::{Future, Ready, ready};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{Service, ServiceRequest, ServiceResponse, Transform, forward_ready};
use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderName as ActixName, HeaderValue as ActixValue};
use actix_web::{Error, HttpResponse};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};

use crate::{Check, Gate, Verdict};

/// A middleware of actix that lets through what the [`Gate`] lets through.
///
/// A refused request is answered with 429 (or 503 when nobody could count and the limiter fails
/// closed) and never reaches the handler; an allowed one carries the limit headers in its answer. The
/// client is the peer of the connection, or what trusted proxies say.
///
/// actix has HTTP types of its own, so the head of each request is copied.
///
/// ```
/// use std::sync::Arc;
/// use actix_web::{App, web};
/// use tollway::{Algorithm, FailMode, Limiter, Policy};
/// use tollway_http::{ActixLimit, ClientAddress, Gate, Identity};
/// use tollway_stores::memory::MemoryStore;
///
/// let limiter = Arc::new(Limiter::new(Arc::new(MemoryStore::new(1_000_000)), FailMode::Closed));
/// let policy = Arc::new(Policy::new("ping", "5/10s", Algorithm::Gcra)?);
/// let gate = Gate::new(limiter, vec![(policy, Identity::Ip)], Arc::new(ClientAddress::default()));
///
/// let limit = ActixLimit::new(gate);
/// let app = App::new().route("/ping", web::get().to(|| async { "pong" })).wrap(limit);
/// # drop(app);
/// # Ok::<(), tollway::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct ActixLimit {
    gate: Arc<Gate>,
}

impl ActixLimit {
    /// A middleware with this gate. Make it outside of `HttpServer::new`'s closure and clone it in
    /// there: actix calls that once for each worker.
    pub fn new(gate: Gate) -> Self {
        Self { gate: Arc::new(gate) }
    }
}

impl<S, B> Transform<S, ServiceRequest> for ActixLimit
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody,
{
    type Response = ServiceResponse<EitherBody<B>>;
    type Error = Error;
    type Transform = ActixLimited<S>;
    type InitError = ();
    type Future = Ready<Result<Self::Transform, ()>>;

    fn new_transform(&self, service: S) -> Self::Future {
        ready(Ok(ActixLimited { gate: Arc::clone(&self.gate), service: Rc::new(service) }))
    }
}

/// The service that [`ActixLimit`] makes.
#[derive(Debug)]
pub struct ActixLimited<S> {
    gate: Arc<Gate>,
    service: Rc<S>,
}

impl<S, B> Service<ServiceRequest> for ActixLimited<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody,
{
    type Response = ServiceResponse<EitherBody<B>>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Error>>>>;

    forward_ready!(service);

    fn call(&self, request: ServiceRequest) -> Self::Future {
        let peer = request.peer_addr().as_ref().map(SocketAddr::ip);
        let check = self.gate.check(&head(&request), peer);
        let service = Rc::clone(&self.service);
        Box::pin(async move {
            let verdict = match check {
                Check::Done(verdict) => verdict,
                Check::Wait(answer) => answer.await,
            };
            if !verdict.allowed() {
                return Ok(request.into_response(refusal(&verdict)).map_into_right_body());
            }
            let mut response = service.call(request).await?;
            let mut told = HeaderMap::new();
            verdict.write_headers(&mut told);
            for (name, value) in translated(&told) {
                response.headers_mut().insert(name, value);
            }
            Ok(response.map_into_left_body())
        })
    }
}

/// The head of a request in the types of the gate.
fn head(request: &ServiceRequest) -> Parts {
    let (mut head, ()) = Request::new(()).into_parts();
    head.method = Method::from_bytes(request.method().as_str().as_bytes()).unwrap_or_default();
    head.uri = Uri::try_from(request.uri().to_string()).unwrap_or_default();
    head.headers = (request.headers().iter())
        .filter_map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_str().as_bytes()).ok()?;
            Some((name, HeaderValue::from_bytes(value.as_bytes()).ok()?))
        })
        .collect();
    head
}

/// The answer for a client that may not pass.
fn refusal(verdict: &Verdict) -> HttpResponse {
    let refusal = verdict.refusal();
    let status = StatusCode::from_u16(refusal.status().as_u16()).unwrap_or(StatusCode::TOO_MANY_REQUESTS);
    let mut response = HttpResponse::build(status);
    for pair in translated(refusal.headers()) {
        response.insert_header(pair);
    }
    response.body(refusal.into_body())
}

/// Headers in the types of actix.
fn translated(headers: &HeaderMap) -> impl Iterator<Item = (ActixName, ActixValue)> {
    headers.iter().filter_map(|(name, value)| {
        let name = ActixName::from_bytes(name.as_str().as_bytes()).ok()?;
        Some((name, ActixValue::from_bytes(value.as_bytes()).ok()?))
    })
}
