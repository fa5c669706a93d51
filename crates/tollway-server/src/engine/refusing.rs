//! Answers that the engine gives in the handler's place.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderValue, TRANSFER_ENCODING};
use http::{Method, StatusCode};

use super::exchange::Shared;
use crate::app::PROBLEM_JSON;
use crate::framing::{Refusal, problem};
use crate::{Body, Handler, Refused, Response};

/// Why the engine answers by itself: a status and a sentence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reason(pub(super) StatusCode, pub(super) &'static str);

impl Reason {
    pub(super) const TOO_LARGE: Reason =
        Reason(StatusCode::PAYLOAD_TOO_LARGE, "The request body is larger than this server accepts.");
    pub(super) const CUT_OFF: Reason = Reason(StatusCode::BAD_REQUEST, "The request body ended early.");
    pub(super) const SLOW_BODY: Reason =
        Reason(StatusCode::REQUEST_TIMEOUT, "The request body took too long to arrive.");
    pub(super) const SLOW_HANDLER: Reason =
        Reason(StatusCode::GATEWAY_TIMEOUT, "The handler of this request took too long.");
    pub(super) const PANICKED: Reason =
        Reason(StatusCode::INTERNAL_SERVER_ERROR, "The handler of this request failed.");

    pub(super) fn answer(self) -> Response {
        let Reason(status, detail) = self;
        let title = status.canonical_reason().unwrap_or("Failed");
        let mut answer = http::Response::new(Body::from(problem(status.as_u16(), title, detail)));
        *answer.status_mut() = status;
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        answer
    }
}

impl From<Refusal> for Reason {
    fn from(refusal: Refusal) -> Self {
        Reason(StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::BAD_REQUEST), refusal.detail())
    }
}

impl<H: Handler> Shared<H> {
    /// The answer to a request that the handler does not get.
    pub(super) fn refuse(&self, reason: Reason, refused: &Refused) -> Response {
        self.refused.set(self.refused.get() + 1);
        let mut answer = reason.answer();
        // What fails here is missing from the answer; the panic itself was reported by its hook.
        let _ = catch_unwind(AssertUnwindSafe(|| self.handler.refuse(refused, &mut answer)));
        answer
    }

    /// The answer in place of the one that `future` did not give.
    pub(super) fn replace(&self, reason: Reason, future: Pin<&mut H::Future>) -> Response {
        let mut answer = reason.answer();
        // As above: the answer goes out without what failed, and the panic was reported.
        let _ = catch_unwind(AssertUnwindSafe(|| self.handler.replace(future, &mut answer)));
        answer
    }
}

/// Writes a whole answer of HTTP/1.1, after which the connection is closed.
pub(super) fn write_last(mut answer: Response, refused: &Refused, now: SystemTime, out: &mut Vec<u8>) {
    let body = match std::mem::take(answer.body_mut()) {
        Body::Full(bytes) => bytes,
        _ => Bytes::new(),
    };
    let (status, headers) = (answer.status(), answer.headers_mut());
    headers.remove(TRANSFER_ENCODING);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    if let Ok(date) = HeaderValue::try_from(httpdate::fmt_http_date(now)) {
        headers.insert(DATE, date);
    }
    // Writing to memory cannot fail.
    let _ = write!(out, "HTTP/1.1 {} {}\r\n", status.as_str(), status.canonical_reason().unwrap_or_default());
    for (name, value) in &*headers {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    if refused.head.as_ref().is_none_or(|head| head.method != Method::HEAD) {
        out.extend_from_slice(&body);
    }
}
