//! Names for requests, so that a log line, an answer and a support mail can be matched.

use std::cell::RefCell;

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// Longest id that is taken over from a request.
const MAX_TAKEN: usize = 128;
/// Random bytes fetched from the system at a time.
const POOL_BYTES: usize = 1024;
/// Random bytes of one id.
const ID_BYTES: usize = 16;

struct Pool {
    bytes: [u8; POOL_BYTES],
    used: usize,
}

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { bytes: [0; POOL_BYTES], used: POOL_BYTES }) };
}

/// A new id: 128 random bits from the system, as 32 hexadecimal digits.
///
/// ```
/// let id = tollway_server::app::fresh_id();
/// assert_eq!(id.len(), 32);
/// assert_ne!(id, tollway_server::app::fresh_id());
/// ```
pub fn fresh_id() -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    POOL.with_borrow_mut(|pool| {
        if pool.used + ID_BYTES > POOL_BYTES {
            // A system without randomness gives ids that repeat, which beats no answers.
            let _ = getrandom::fill(&mut pool.bytes);
            pool.used = 0;
        }
        let bytes = &pool.bytes[pool.used..pool.used + ID_BYTES];
        let id = bytes.iter().flat_map(|b| [b >> 4, b & 15]).map(|n| char::from(DIGITS[usize::from(n)])).collect();
        pool.used += ID_BYTES;
        id
    })
}

/// The id of a request, among the extensions of its head.
#[derive(Clone, Debug)]
pub struct RequestId(pub HeaderValue);

/// Where requests get their ids from.
#[derive(Clone, Debug)]
pub struct RequestIds {
    /// The header that carries the id, in requests and in answers.
    pub header: HeaderName,
    /// Whether an id that arrives is kept.
    pub trusted: bool,
}

impl RequestIds {
    /// The id of a request: the one it carries if that is trusted and well-formed, else a new one.
    /// `believed` says whether whoever sent it is a proxy of ours.
    pub fn of(&self, headers: &HeaderMap, believed: bool) -> HeaderValue {
        if self.trusted
            && believed
            && let Some(given) = headers.get(&self.header)
            && is_well_formed(given.as_bytes())
        {
            return given.clone();
        }
        self.fresh()
    }

    /// A new id.
    pub fn fresh(&self) -> HeaderValue {
        HeaderValue::try_from(fresh_id()).unwrap_or(HeaderValue::from_static(""))
    }
}

/// Ids go into logs, headers and JSON: nothing that would need escaping anywhere.
fn is_well_formed(id: &[u8]) -> bool {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-_.:+/=@~".contains(b);
    (1..=MAX_TAKEN).contains(&id.len()) && id.iter().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ids_are_hexadecimal_and_do_not_repeat() {
        let ids: HashSet<String> = (0..1000).map(|_| fresh_id()).collect();
        assert_eq!(ids.len(), 1000);
        assert!(ids.iter().all(|id| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())));
    }

    #[test]
    fn an_id_is_taken_over_only_where_trusted_and_well_formed() {
        let header = HeaderName::from_static("x-request-id");
        let take = |trusted, believed, given: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(&header, HeaderValue::from_str(given).unwrap());
            RequestIds { header: header.clone(), trusted }.of(&headers, believed)
        };
        assert_eq!(take(true, true, "abc-1.2:3"), "abc-1.2:3");
        for (trusted, believed, given) in
            [(false, true, "abc"), (true, false, "abc"), (true, true, "a b"), (true, true, "a\"b"), (true, true, "")]
        {
            let id = take(trusted, believed, given);
            assert_eq!(id.len(), 32, "{given:?}");
        }
        assert_eq!(take(true, true, &"a".repeat(129)).len(), 32);
    }
}
