//! The head of a request as Django's `META` has it.

use http::HeaderName;
use http::header::{self, HeaderMap};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use pyo3::{Bound, intern};

/// Puts the headers of a request into `meta`: `Content-Type` and `Content-Length` under their names,
/// others with `HTTP_` in front. Several lines of one name are joined with a comma. Names with an
/// underscore are left out: they could not be told from those with a dash.
pub(super) fn put_headers(meta: &Bound<'_, PyDict>, headers: &HeaderMap) -> PyResult<()> {
    let py = meta.py();
    for name in headers.keys() {
        if name.as_str().contains('_') {
            continue;
        }
        let separator: &[u8] = if name == header::COOKIE { b"; " } else { b"," };
        let mut lines = headers.get_all(name).iter();
        let Some(first) = lines.next() else { continue };
        let value = match lines.next() {
            None => text(py, first.as_bytes()),
            Some(second) => {
                let mut joined = [first.as_bytes(), separator, second.as_bytes()].concat();
                for line in lines {
                    joined.extend_from_slice(separator);
                    joined.extend_from_slice(line.as_bytes());
                }
                text(py, &joined)
            }
        };
        meta.set_item(key(py, name), value)?;
    }
    Ok(())
}

/// Header values are Latin-1.
fn text<'py>(py: Python<'py>, bytes: &[u8]) -> Bound<'py, PyString> {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.is_ascii() => PyString::new(py, text),
        _ => PyString::new(py, &bytes.iter().map(|&byte| char::from(byte)).collect::<String>()),
    }
}

/// The key of a header; those of most requests are made once for all.
fn key<'py>(py: Python<'py>, name: &HeaderName) -> Bound<'py, PyString> {
    let known = match name.as_str() {
        "host" => intern!(py, "HTTP_HOST"),
        "user-agent" => intern!(py, "HTTP_USER_AGENT"),
        "accept" => intern!(py, "HTTP_ACCEPT"),
        "accept-encoding" => intern!(py, "HTTP_ACCEPT_ENCODING"),
        "accept-language" => intern!(py, "HTTP_ACCEPT_LANGUAGE"),
        "authorization" => intern!(py, "HTTP_AUTHORIZATION"),
        "cache-control" => intern!(py, "HTTP_CACHE_CONTROL"),
        "connection" => intern!(py, "HTTP_CONNECTION"),
        "cookie" => intern!(py, "HTTP_COOKIE"),
        "origin" => intern!(py, "HTTP_ORIGIN"),
        "referer" => intern!(py, "HTTP_REFERER"),
        "x-csrftoken" => intern!(py, "HTTP_X_CSRFTOKEN"),
        "x-forwarded-for" => intern!(py, "HTTP_X_FORWARDED_FOR"),
        "x-forwarded-host" => intern!(py, "HTTP_X_FORWARDED_HOST"),
        "x-forwarded-proto" => intern!(py, "HTTP_X_FORWARDED_PROTO"),
        "x-requested-with" => intern!(py, "HTTP_X_REQUESTED_WITH"),
        "content-type" => intern!(py, "CONTENT_TYPE"),
        "content-length" => intern!(py, "CONTENT_LENGTH"),
        other => return PyString::new(py, &format!("HTTP_{}", other.to_ascii_uppercase().replace('-', "_"))),
    };
    known.clone()
}
