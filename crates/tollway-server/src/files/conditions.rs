//! Conditions of a request against the validators of an answer (RFC 9110, 13).

use std::time::SystemTime;

use http::HeaderMap;
use http::header::{
    ETAG, HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED, RANGE,
};

/// What a request's conditions come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The client has it already: 304.
    NotModified,
    /// It is not what the client expects: 412.
    Failed,
    /// It is to be sent; in part, if `ranges` and the client asked for that.
    Send { ranges: bool },
}

/// Judges the conditions in the order of RFC 9110, 13.2.2.
pub(super) fn judge(request: &HeaderMap, answer: &HeaderMap) -> Outcome {
    let tag = answer.get(ETAG).and_then(|tag| tag.to_str().ok()).unwrap_or("");
    let modified = date(answer, LAST_MODIFIED);
    if request.contains_key(IF_MATCH) {
        if !lists(request, IF_MATCH, |given| given == tag && !given.starts_with("W/")) {
            return Outcome::Failed;
        }
    } else if let (Some(since), Some(modified)) = (date(request, IF_UNMODIFIED_SINCE), modified)
        && modified > since
    {
        return Outcome::Failed;
    }
    if request.contains_key(IF_NONE_MATCH) {
        if lists(request, IF_NONE_MATCH, |given| opaque(given) == opaque(tag)) {
            return Outcome::NotModified;
        }
    } else if let (Some(since), Some(modified)) = (date(request, IF_MODIFIED_SINCE), modified)
        && modified <= since
    {
        return Outcome::NotModified;
    }
    let ranges = request.contains_key(RANGE) && still(request, tag, modified);
    Outcome::Send { ranges }
}

/// Whether `If-Range`, if there is one, names exactly what would be sent.
fn still(request: &HeaderMap, tag: &str, modified: Option<SystemTime>) -> bool {
    let Some(given) = request.get(IF_RANGE) else { return true };
    match given.to_str().map(str::trim) {
        Ok(given) if given.starts_with('"') => given == tag,
        Ok(given) => modified.is_some() && httpdate::parse_http_date(given).ok() == modified,
        Err(_) => false,
    }
}

/// Whether a list of entity tags has `*` or one that `matches`.
fn lists(headers: &HeaderMap, name: HeaderName, matches: impl Fn(&str) -> bool) -> bool {
    headers.get_all(name).iter().filter_map(|line| line.to_str().ok()).any(|line| {
        let line = line.trim();
        line == "*" || tags(line).any(&matches)
    })
}

/// The entity tags of a list. A comma may be part of a tag.
fn tags(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = line;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches([',', ' ', '\t']);
        let open = rest.find('"')?;
        let close = rest[open + 1..].find('"')? + open + 2;
        let tag = &rest[..close];
        rest = &rest[close..];
        Some(tag)
    })
}

fn opaque(tag: &str) -> &str {
    tag.strip_prefix("W/").unwrap_or(tag)
}

/// A date, in whole seconds as the protocol has them.
fn date(headers: &HeaderMap, name: HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok()
}
