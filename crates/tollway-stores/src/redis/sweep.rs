//! Keys forgotten by their beginning: looked for in the whole server, a page at a time.

use redis::Value;
use tollway_core::StoreError;

use super::queue::Command;
use super::trouble;
use crate::own::start_of;

/// The cursor a scan begins and ends with.
pub(super) const START: &[u8] = b"0";
/// Keys unlinked by one command, or at once.
pub(super) const AT_ONCE: usize = 256;
/// Keys the server looks at for one page: what bounds the time it is blocked.
const PAGE: &str = "1000";

/// What all keys of a policy look like whose identity begins with `beginning`.
pub(super) fn pattern(store: &str, prefix: &str, policy: &str, beginning: &str) -> Result<String, StoreError> {
    let spelled = start_of(store, prefix, policy, beginning)?;
    let mut pattern = String::with_capacity(spelled.len() + 8);
    for letter in spelled.chars() {
        if matches!(letter, '*' | '?' | '[' | ']' | '^' | '\\') {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern.push('*');
    Ok(pattern)
}

pub(super) fn scan(cursor: &[u8], pattern: &str) -> Command {
    Command::new([&b"SCAN"[..], cursor, b"MATCH", pattern.as_bytes(), b"COUNT", PAGE.as_bytes()])
}

pub(super) fn unlink(keys: &[Vec<u8>]) -> Command {
    Command::new([&b"UNLINK"[..]].into_iter().chain(keys.iter().map(Vec::as_slice)))
}

/// The cursor to go on with and the keys of a page.
pub(super) fn page(value: Value, store: &str) -> Result<(Vec<u8>, Vec<Vec<u8>>), StoreError> {
    let bytes = |value: Value| match value {
        Value::BulkString(bytes) => Some(bytes),
        _ => None,
    };
    let read = || {
        let Value::Array(parts) = value else { return None };
        let [cursor, Value::Array(keys)] = <[Value; 2]>::try_from(parts).ok()? else { return None };
        Some((bytes(cursor)?, keys.into_iter().map(bytes).collect::<Option<_>>()?))
    };
    read().ok_or_else(|| trouble::unexpected(store, "the answer to SCAN has another form"))
}

#[cfg(test)]
mod tests {
    use tollway_core::StoreErrorKind;

    use super::*;

    #[test]
    fn what_looks_like_a_pattern_is_none() {
        let pattern = |policy, beginning| pattern("redis://", "tollway", policy, beginning).unwrap();
        assert_eq!(pattern("p", ""), "tollway:p:{*");
        assert_eq!(pattern("p", "org:1:"), "tollway:p:{org:1:*");
        assert_eq!(pattern("p*[a]?", "a*b\\"), "tollway:p\\*\\[a\\]\\?:{a\\*b\\\\*");
        assert_eq!(pattern("p", "é %"), "tollway:p:{%C3%A9%20%25*");
        let error = super::pattern("redis://", "t", "p", &"x".repeat(97)).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Unsupported);
    }
}
