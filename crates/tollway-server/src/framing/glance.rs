//! Reads what can be read of a head that was refused, so that the refusal can be told to the right
//! page and written into the right line of a log. Nothing is decided by it.

use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Uri};

/// Most header lines that are looked at.
const MAX_LINES: usize = 100;
/// Longer targets are cut.
const MAX_TARGET: usize = 1024;

/// The head that begins `bytes`, without the lines that make no sense or have not arrived. `None`
/// where not even a method and a target can be made out.
pub(crate) fn glance(bytes: &[u8]) -> Option<Parts> {
    let mut lines = bytes.split_inclusive(|&byte| byte == b'\n').map(<[u8]>::trim_ascii_end);
    let first = lines.find(|line| !line.is_empty())?;
    let mut words = first.split(|&byte| byte == b' ');
    let method = Method::from_bytes(words.next()?).ok()?;
    let target = words.next()?;
    let uri = Uri::try_from(&target[..target.len().min(MAX_TARGET)]).ok()?;
    let mut head = Request::builder().method(method).uri(uri).body(()).ok()?.into_parts().0;
    let complete = bytes.last() == Some(&b'\n');
    let mut rest = lines.take(MAX_LINES).take_while(|line| !line.is_empty()).peekable();
    while let Some(line) = rest.next() {
        // The last line may be half a line.
        if rest.peek().is_none() && !complete {
            break;
        }
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            head.headers.append(name, value);
        }
    }
    Some(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_makes_sense() {
        let head =
            glance(b"\r\nPOST /a?b HTTP/9\r\nHost: x\r\nno colon\r\nBad Name: y\r\nOrigin:  z \r\nPart").unwrap();
        assert_eq!((head.method, head.uri.path(), head.uri.query()), (Method::POST, "/a", Some("b")));
        assert_eq!(head.headers.len(), 2);
        assert_eq!(head.headers["origin"], "z");
    }

    #[test]
    fn takes_nothing_where_there_is_no_request() {
        for bytes in
            [&b""[..], b"\r\n\r\n", b"GET", b"\x16\x03\x01\x02", b"GET\0 / HTTP/1.1\r\n", b"GET \xff HTTP/1.1\r\n"]
        {
            assert!(glance(bytes).is_none(), "{bytes:?}");
        }
    }

    #[test]
    fn long_targets_are_cut() {
        let head = glance(&[b"GET /", "x".repeat(9000).as_bytes(), b" HTTP/1.1\r\n"].concat()).unwrap();
        assert_eq!(head.uri.path().len(), MAX_TARGET);
    }
}
