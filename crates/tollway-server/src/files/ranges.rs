//! The `Range` header (RFC 9110, 14).

use std::hash::{BuildHasher, RandomState};

use http::header::RANGE;
use http::{Method, request};

/// Most ranges that are sent in one answer.
const MOST: usize = 16;

/// What a client wants of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of it, or what cannot be given in parts.
    Whole,
    /// Only what lies behind its end.
    Nothing,
    /// These parts, from the first byte to the last.
    Some(Vec<(u64, u64)>),
}

/// Reads the ranges of a request for a file of `len` bytes.
pub(super) fn wanted(request: &request::Parts, len: u64) -> Wanted {
    let mut lines = request.headers.get_all(RANGE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return Wanted::Whole };
    if request.method != Method::GET {
        return Wanted::Whole;
    }
    match line.to_str() {
        Ok(line) => read(line, len),
        Err(_) => Wanted::Whole,
    }
}

fn read(line: &str, len: u64) -> Wanted {
    let Some((unit, set)) = line.split_once('=') else { return Wanted::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Wanted::Whole;
    }
    let mut found = Vec::new();
    let specs = set.split(',').map(str::trim).filter(|spec| !spec.is_empty());
    let mut count = 0;
    for spec in specs {
        count += 1;
        match one(spec, len) {
            // A set with a mistake is no set.
            None => return Wanted::Whole,
            Some(None) => {}
            Some(Some(range)) => found.push(range),
        }
        if count > MOST {
            return Wanted::Whole;
        }
    }
    let mut sorted = found.clone();
    sorted.sort_unstable();
    let overlap = sorted.windows(2).any(|pair| pair[1].0 <= pair[0].1);
    match (count, found.is_empty()) {
        (0, _) => Wanted::Whole,
        (_, true) => Wanted::Nothing,
        _ if overlap => Wanted::Whole,
        _ => Wanted::Some(found),
    }
}

/// One range: `None` is a mistake, `Some(None)` lies behind the end.
fn one(spec: &str, len: u64) -> Option<Option<(u64, u64)>> {
    let (first, last) = spec.split_once('-')?;
    if first.is_empty() {
        let suffix = number(last)?;
        return Some((suffix > 0 && len > 0).then(|| (len.saturating_sub(suffix), len - 1)));
    }
    let first = number(first)?;
    let last = if last.is_empty() { u64::MAX } else { number(last)? };
    if last < first {
        return None;
    }
    Some((first < len).then(|| (first, last.min(len - 1))))
}

/// A number of digits only. One too large for any file counts as the largest.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

/// A line between parts that no file can be made to contain: it is random.
pub(super) fn boundary() -> String {
    let random = || RandomState::new().hash_one(0);
    format!("tollway-{:016x}{:016x}", random(), random())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 9110, 14.1.2, for a representation of 10000 bytes.
    #[test]
    fn examples_of_the_standard() {
        let some = |ranges: &[(u64, u64)]| Wanted::Some(ranges.to_vec());
        assert_eq!(read("bytes=0-499", 10_000), some(&[(0, 499)]));
        assert_eq!(read("bytes=500-999", 10_000), some(&[(500, 999)]));
        assert_eq!(read("bytes=-500", 10_000), some(&[(9500, 9999)]));
        assert_eq!(read("bytes=9500-", 10_000), some(&[(9500, 9999)]));
        assert_eq!(read("bytes=0-0,-1", 10_000), some(&[(0, 0), (9999, 9999)]));
        assert_eq!(read("bytes= 0-999, 4500-5499, -1000", 10_000), some(&[(0, 999), (4500, 5499), (9000, 9999)]));
        assert_eq!(read("bytes=500-600,601-999", 10_000), some(&[(500, 600), (601, 999)]));
        // Overlapping ranges need not be served as asked for.
        assert_eq!(read("bytes=500-700,601-999", 10_000), Wanted::Whole);
        assert_eq!(read("exampleunit=1.2-4.3", 10_000), Wanted::Whole);
    }

    #[test]
    fn edges_and_mistakes() {
        assert_eq!(read("bytes=-20000", 10_000), Wanted::Some(vec![(0, 9999)]));
        assert_eq!(read("bytes=9999-99999999999999999999999", 10_000), Wanted::Some(vec![(9999, 9999)]));
        assert_eq!(read("bytes=10000-", 10_000), Wanted::Nothing);
        assert_eq!(read("bytes=-0", 10_000), Wanted::Nothing);
        assert_eq!(read("bytes=0-", 0), Wanted::Nothing);
        assert_eq!(read("bytes=0-1,10000-10001", 10_000), Wanted::Some(vec![(0, 1)]));
        for mistake in ["bytes", "bytes=", "bytes=,", "bytes=5-4", "bytes=a-b", "bytes=--1", "bytes=+1-2", "bytes=1"] {
            assert_eq!(read(mistake, 10_000), Wanted::Whole, "{mistake}");
        }
        let many: Vec<String> = (0..17).map(|index| format!("{0}-{0}", index * 2)).collect();
        assert_eq!(read(&format!("bytes={}", many.join(",")), 10_000), Wanted::Whole);
    }
}
