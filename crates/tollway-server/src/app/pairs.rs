//! Names and values as they arrive in a query string and in `Cookie` headers.

use std::borrow::Cow;

use http::HeaderMap;
use http::header::COOKIE;
use percent_encoding::percent_decode_str;

/// Decodes one piece of a path: percent escapes only. `None` when the bytes are not UTF-8.
pub fn decode_path(raw: &str) -> Option<Cow<'_, str>> {
    if memchr::memchr(b'%', raw.as_bytes()).is_none() {
        return Some(Cow::Borrowed(raw));
    }
    percent_decode_str(raw).decode_utf8().ok()
}

/// Decodes one name or value of a query string: `+` is a space, then percent escapes.
/// `None` when the bytes are not UTF-8.
pub fn decode_form(raw: &str) -> Option<Cow<'_, str>> {
    if memchr::memchr2(b'%', b'+', raw.as_bytes()).is_none() {
        return Some(Cow::Borrowed(raw));
    }
    let spaced = raw.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8().ok()?;
    Some(Cow::Owned(decoded.into_owned()))
}

/// The pairs of a query string in order, still encoded. Empty pieces (`a=1&&b=2`) are left
/// out; a piece without `=` has an empty value.
///
/// ```
/// use tollway_server::app::QueryPairs;
/// let pairs: Vec<_> = QueryPairs::new("a=1&&b").collect();
/// assert_eq!(pairs, [("a", "1"), ("b", "")]);
/// ```
#[derive(Clone, Debug)]
pub struct QueryPairs<'q> {
    rest: &'q str,
}

impl<'q> QueryPairs<'q> {
    /// Reads `query`, the part after `?`.
    pub fn new(query: &'q str) -> Self {
        QueryPairs { rest: query }
    }
}

impl<'q> Iterator for QueryPairs<'q> {
    type Item = (&'q str, &'q str);

    fn next(&mut self) -> Option<Self::Item> {
        while !self.rest.is_empty() {
            let piece = match memchr::memchr(b'&', self.rest.as_bytes()) {
                Some(at) => {
                    let piece = &self.rest[..at];
                    self.rest = &self.rest[at + 1..];
                    piece
                }
                None => std::mem::take(&mut self.rest),
            };
            if !piece.is_empty() {
                return Some(piece.split_once('=').unwrap_or((piece, "")));
            }
        }
        None
    }
}

/// The cookies of a request in order. Values lose one pair of double quotes; lines that are
/// not ASCII text are left out.
#[derive(Debug)]
pub struct CookiePairs<'h> {
    lines: http::header::ValueIter<'h, http::HeaderValue>,
    rest: &'h str,
}

impl<'h> CookiePairs<'h> {
    /// Reads all `Cookie` lines.
    pub fn new(headers: &'h HeaderMap) -> Self {
        CookiePairs { lines: headers.get_all(COOKIE).iter(), rest: "" }
    }
}

impl<'h> Iterator for CookiePairs<'h> {
    type Item = (&'h str, &'h str);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            while self.rest.is_empty() {
                self.rest = self.lines.next()?.to_str().unwrap_or("");
            }
            let (piece, rest) = self.rest.split_once(';').unwrap_or((self.rest, ""));
            self.rest = rest;
            if let Some((name, value)) = piece.split_once('=') {
                return Some((name.trim(), unquote(value.trim())));
            }
        }
    }
}

fn unquote(value: &str) -> &str {
    value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn form_decoding_knows_plus_and_escapes() {
        assert_eq!(decode_form("a+b%2B%20c").as_deref(), Some("a b+ c"));
        assert_eq!(decode_path("a+b%20c").as_deref(), Some("a+b c"));
        assert_eq!(decode_form("%ff"), None);
        assert_eq!(decode_path("%ff"), None);
    }

    #[test]
    fn the_first_equals_sign_separates() {
        let pairs: Vec<_> = QueryPairs::new("&a=b=c&=x&d&").collect();
        assert_eq!(pairs, [("a", "b=c"), ("", "x"), ("d", "")]);
    }

    #[test]
    fn cookies_come_from_all_lines() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, "a=1; b=\"two\";c".parse().unwrap());
        headers.append(COOKIE, "".parse().unwrap());
        headers.append(COOKIE, "d=x=y".parse().unwrap());
        let pairs: Vec<_> = CookiePairs::new(&headers).collect();
        assert_eq!(pairs, [("a", "1"), ("b", "two"), ("d", "x=y")]);
    }
}
