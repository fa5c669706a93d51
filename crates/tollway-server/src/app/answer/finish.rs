//! The one place where answers are finished.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue, ORIGIN, REFERER, USER_AGENT};
use http::{Response, StatusCode, request::Parts};

use super::compress::{Accepted, Compression};
use super::cors::Cors;
use super::ids::{RequestId, RequestIds};
use super::log::{Field, Line, LogRule, Outcome};
use crate::Body;
use crate::app::PROBLEM_JSON;

/// The status that stands in the log for a client that went away before its answer.
const CLIENT_GONE: u16 = 499;

/// When a request counts as sent over TLS.
#[derive(Clone, Debug, Default)]
pub enum Secure {
    /// Never: the server speaks plain HTTP.
    #[default]
    Never,
    /// Always: the server itself speaks TLS.
    Always,
    /// When the proxy in front says so with this header and value.
    Told(HeaderName, HeaderValue),
}

impl Secure {
    /// Whether this request was sent over TLS. Of a list the first value counts, which the proxy
    /// nearest to the client wrote.
    pub fn is_secure(&self, head: &Parts) -> bool {
        match self {
            Secure::Never => false,
            Secure::Always => true,
            Secure::Told(name, value) => head.headers.get(name).is_some_and(|told| {
                let first = told.as_bytes().split(|&b| b == b',').next().unwrap_or_default();
                first.trim_ascii() == value.as_bytes()
            }),
        }
    }
}

/// What every answer of a route gets. Nothing in here is a reason to have one: a route without
/// any of it has no `Finish`.
#[derive(Debug, Default)]
pub struct Finish {
    /// Who may read the answers.
    pub cors: Option<Cors>,
    /// Headers that are added where the handler set none of that name.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The same for requests over TLS only.
    pub secure_headers: Vec<(HeaderName, HeaderValue)>,
    /// When a request counts as one over TLS.
    pub secure: Secure,
    /// Names for requests.
    pub ids: Option<RequestIds>,
    /// Which answers are logged.
    pub log: Option<LogRule>,
    /// Which answers are compressed.
    pub compression: Option<Compression>,
}

/// What has to be remembered of a request until its answer is there.
#[derive(Debug)]
pub struct Seen {
    finish: Arc<Finish>,
    origin: Option<HeaderValue>,
    secure: bool,
    id: Option<HeaderValue>,
    line: Option<Line>,
    accepted: Option<Accepted>,
}

impl Finish {
    /// Looks at a request before it is handed on. `client` gives the client's address, if it is asked for; `believed` says whether the sender is
    /// a proxy of ours.
    pub fn begin(
        self: &Arc<Self>,
        head: &Parts,
        believed: bool,
        client: impl FnOnce(&Parts) -> Option<IpAddr>,
    ) -> Seen {
        Seen {
            origin: self.cors.as_ref().and_then(|_| head.headers.get(ORIGIN).cloned()),
            secure: !self.secure_headers.is_empty() && self.secure.is_secure(head),
            id: self.ids.as_ref().map(|ids| ids.of(&head.headers, believed)),
            line: self.log.as_ref().map(|rule| line(rule, head, client)),
            accepted: self.compression.as_ref().map(|compression| compression.accepted(&head.headers)),
            finish: Arc::clone(self),
        }
    }

    /// The same for what does not even begin like a request.
    pub fn begin_unread(self: &Arc<Self>, client: Option<IpAddr>) -> Seen {
        let line = |_: &LogRule| Line { started: Instant::now(), request: None, client, headers: Vec::new() };
        Seen {
            origin: None,
            secure: !self.secure_headers.is_empty() && matches!(self.secure, Secure::Always),
            id: self.ids.as_ref().map(RequestIds::fresh),
            line: self.log.as_ref().map(line),
            accepted: None,
            finish: Arc::clone(self),
        }
    }

    /// The answer to a preflight, where these rules have one.
    pub fn preflight(&self, head: &Parts) -> Option<Response<Body>> {
        let cors = self.cors.as_ref()?;
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = StatusCode::NO_CONTENT;
        *response.headers_mut() = cors.preflight(head);
        Some(response)
    }
}

fn line(rule: &LogRule, head: &Parts, client: impl FnOnce(&Parts) -> Option<IpAddr>) -> Line {
    let mut headers = Vec::new();
    for (field, name) in [(Field::Host, HOST), (Field::Referer, REFERER), (Field::UserAgent, USER_AGENT)] {
        if rule.has(field) {
            headers.extend(head.headers.get(name).map(|value| (field, value.clone())));
        }
    }
    Line {
        started: Instant::now(),
        request: Some((head.method.clone(), head.uri.clone())),
        client: if rule.has(Field::Client) { client(head) } else { None },
        headers,
    }
}

impl Seen {
    /// Leaves the request's id among the extensions of its head, where requests have one.
    pub fn name(&self, head: &mut Parts) {
        if let Some(id) = &self.id {
            head.extensions.insert(RequestId(id.clone()));
        }
    }

    /// Adds to an answer what its route promises, and logs it.
    pub fn end(self, response: &mut Response<Body>) {
        self.complete(response, response.status() == StatusCode::TOO_MANY_REQUESTS);
    }

    /// The same for the answer to a request that was refused before it was handled. It is logged
    /// as one of many.
    pub fn refuse(mut self, response: &mut Response<Body>) {
        self.accepted = None;
        self.complete(response, true);
    }

    fn complete(self, response: &mut Response<Body>, refused: bool) {
        let headers = response.headers_mut();
        if let Some(cors) = &self.finish.cors {
            cors.write(self.origin.as_ref(), headers);
        }
        let secure: &[_] = if self.secure { &self.finish.secure_headers } else { &[] };
        for (name, value) in self.finish.headers.iter().chain(secure) {
            if !headers.contains_key(name) {
                headers.insert(name, value.clone());
            }
        }
        if let (Some(ids), Some(id)) = (&self.finish.ids, &self.id) {
            headers.insert(ids.header.clone(), id.clone());
            name_problem(response, id);
        }
        if let (Some(compression), Some(accepted)) = (&self.finish.compression, self.accepted) {
            compression.apply(accepted, response);
        }
        let size = http_body::Body::size_hint(response.body()).exact();
        self.write_line(response.status(), size, refused);
    }

    /// Logs that the client went away before its answer.
    pub fn give_up(self) {
        if let Ok(status) = StatusCode::from_u16(CLIENT_GONE) {
            self.write_line(status, Some(0), false);
        }
    }

    fn write_line(&self, status: StatusCode, size: Option<u64>, refused: bool) {
        if let (Some(rule), Some(line)) = (&self.finish.log, &self.line) {
            let outcome = Outcome { status, size, duration: line.started.elapsed(), id: self.id.as_ref(), refused };
            rule.log(line, &outcome);
        }
    }
}

/// Puts the request's id into a problem document, so that whoever sees it can report it. The id is
/// well-formed: it needs no escaping.
fn name_problem(response: &mut Response<Body>, id: &HeaderValue) {
    if response.headers().get(CONTENT_TYPE).is_none_or(|kind| kind != PROBLEM_JSON) {
        return;
    }
    let Body::Full(bytes) = response.body() else { return };
    let Some(members) = bytes.strip_suffix(b"}").filter(|rest| rest.len() > 1) else { return };
    if memchr::memmem::find(members, b"\"request_id\"").is_some() {
        return;
    }
    let named = [members, b",\"request_id\":\"", id.as_bytes(), b"\"}"].concat();
    *response.body_mut() = Body::Full(Bytes::from(named));
}

#[cfg(test)]
#[path = "finish_tests.rs"]
mod tests;
