//! What the framing guard asks of a head, asked of an HTTP/2 request.
//!
//! HTTP/2 leaves no doubt about where a message ends, so only the limits and the
//! host are left to check. Handlers then see the same as over HTTP/1.

use http::header::{CONTENT_LENGTH, HOST, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Uri};

use crate::Settings;
use crate::framing::{Refusal, is_host};

/// Refuses what the settings do not allow. Puts the `:authority` into `Host` and
/// leaves the path alone in the target.
pub(super) fn check(head: &mut Parts, settings: &Settings) -> Result<(), Refusal> {
    if head.method == Method::CONNECT {
        return Err(Refusal::Tunnel);
    }
    if head.uri.path_and_query().map_or(0, |target| target.as_str().len()) > settings.max_target_bytes {
        return Err(Refusal::TargetTooLong);
    }
    if head.headers.len() > settings.max_headers {
        return Err(Refusal::TooManyHeaders);
    }
    check_host(head)?;
    let stated = head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if stated.is_some_and(|length| length > settings.max_body_bytes as u64) {
        return Err(Refusal::BodyTooLarge);
    }
    let target = head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    head.uri = Uri::from(target);
    Ok(())
}

fn check_host(head: &mut Parts) -> Result<(), Refusal> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let (host, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err(Refusal::SeveralHosts);
    }
    match (head.uri.authority(), host) {
        (None, None) => Err(Refusal::NoHost),
        (None, Some(host)) => is_host(host.as_bytes()).then_some(()).ok_or(Refusal::BadHost),
        (Some(named), _) if !is_host(named.as_str().as_bytes()) => Err(Refusal::BadHost),
        (Some(named), Some(host)) => {
            let same = named.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes());
            same.then_some(()).ok_or(Refusal::OtherHost)
        }
        (Some(named), None) => {
            let host = HeaderValue::from_str(named.as_str()).map_err(|_| Refusal::BadHost)?;
            head.headers.insert(HOST, host);
            Ok(())
        }
    }
}
