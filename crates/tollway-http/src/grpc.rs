//! Refusals for calls of gRPC, whose clients read a status of their own.
//!
//! HTTP says 200 and the rest stands in headers ("trailers-only" in gRPC's specification).

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use tollway::{NEVER, Reason};

use crate::{Verdict, describe};

const PERMISSION_DENIED: u8 = 7;
const RESOURCE_EXHAUSTED: u8 = 8;
const UNAVAILABLE: u8 = 14;
/// What `grpc-message` may not hold as it is, besides what is not ASCII.
const RESERVED: &AsciiSet = &CONTROLS.add(b'%');

/// Whether a request is a call of gRPC.
pub(crate) fn is_call(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// The answer for a call that may not pass. `grpc-retry-pushback-ms` says when the same call can: a
/// client with a retry policy waits for so long.
pub(crate) fn refusal(verdict: &Verdict) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let (status, message, pushback) = match verdict.decision() {
        Err(_) => (UNAVAILABLE, "Requests cannot be counted at the moment.".to_owned(), Some(1_000)),
        Ok(decision) => {
            let denied = decision.reason == Reason::Denied;
            let status = if denied { PERMISSION_DENIED } else { RESOURCE_EXHAUSTED };
            let waits = !denied && decision.retry_after != NEVER;
            let pushback = waits.then(|| decision.retry_after.div_ceil(1_000_000));
            (status, describe(decision, verdict.policies()), pushback)
        }
    };
    headers.insert("grpc-status", u16::from(status).into());
    let message = utf8_percent_encode(&message, RESERVED).to_string();
    if let Ok(message) = HeaderValue::try_from(message) {
        headers.insert("grpc-message", message);
    }
    if let Some(milliseconds) = pushback {
        headers.insert("grpc-retry-pushback-ms", milliseconds.into());
    }
    verdict.write_headers(headers);
    response
}
