//! Random attacks, for a few seconds each: the guard against two other readers of HTTP, the
//! router against one that tries every route, forms against a reader that splits strings.

mod fuzzed;

use std::collections::HashMap;

use bytes::Bytes;
use fuzzed::{fuzz, read_by_hyper, read_literally};
use http::{HeaderMap, Method};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use tollway_server::app::{Form, FormError, FormLimits, Found, Router};
use tollway_server::framing::{Guard, Limits};

const LIMITS: Limits = Limits { max_head_bytes: 2048, max_target_bytes: 512, max_headers: 20, max_body_bytes: 4096 };

/// Requests that are right, each in its own way.
const GOOD: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /items/7?q=x%20y&q=2 HTTP/1.1\r\nHost: a:80\r\nAccept: */*\r\nX: \t y \r\n\r\n",
    "GET http://a/p HTTP/1.1\r\nHost: a\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "HEAD / HTTP/1.0\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, upgrade\r\nUpgrade: websocket\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "PUT /x HTTP/1.1\r\nHost: a\r\ntransfer-encoding: Chunked\r\n\r\n2;n=\"v\"\r\nhi\r\n00a\r\n0123456789\r\n0\r\nT: x\r\n\r\n",
    "DELETE /x HTTP/1.1\r\nHost: [::1]:8000\r\nContent-Length: 1\r\n\r\nx",
];

/// Bytes with which readers have disagreed before.
const TRICKS: &[&str] = &[
    "\n",
    "\r",
    "\r\n",
    "\r\n\r\n",
    "\n\n",
    " ",
    "\t",
    "\0",
    "\x0b",
    "\x0c",
    "\u{85}",
    ":",
    ";",
    ",",
    "+",
    "-",
    "0x",
    "0",
    "1",
    "f",
    "\"",
    "#",
    "%",
    "\r\n ",
    " :",
    "chunked",
    ", chunked",
    "identity",
    "HTTP/1.0",
    "HTTP/1.1",
    "HTTP/2.0",
    "Content-Length: 3\r\n",
    "Content-Length: 03\r\n",
    "content-length:7\r\n",
    "Content_Length: 3\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding:chunked\r\n",
    "Transfer-Encoding: \tchunked\r\n",
    "Host: b\r\n",
    "Connection: close\r\n",
    "0\r\n\r\n",
    "5\r\nhello\r\n",
    "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
];

/// What is done to a good input.
#[derive(Clone, Debug)]
enum Change {
    Insert(Index, &'static str),
    Replace(Index, &'static str),
    Byte(Index, u8),
    Remove(Index, usize),
    Repeat(Index, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    prop_oneof![
        4 => (at(), select(TRICKS)).prop_map(|(at, trick)| Change::Insert(at, trick)),
        2 => (at(), select(TRICKS)).prop_map(|(at, trick)| Change::Replace(at, trick)),
        2 => (at(), any::<u8>()).prop_map(|(at, byte)| Change::Byte(at, byte)),
        2 => (at(), 1_usize..6).prop_map(|(at, count)| Change::Remove(at, count)),
        1 => (at(), 1_usize..40).prop_map(|(at, count)| Change::Repeat(at, count)),
    ]
}

fn apply(mut bytes: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for change in changes {
        let length = bytes.len();
        let at = |index: &Index| index.index(length + 1);
        match change {
            Change::Insert(index, trick) => drop(bytes.splice(at(index)..at(index), trick.bytes())),
            Change::Replace(index, trick) => {
                let end = (at(index) + trick.len()).min(length);
                drop(bytes.splice(at(index)..end, trick.bytes()));
            }
            Change::Byte(index, byte) => drop(bytes.splice(at(index)..(at(index) + 1).min(length), [*byte])),
            Change::Remove(index, count) => drop(bytes.drain(at(index)..(at(index) + count).min(length))),
            Change::Repeat(index, count) => {
                let piece = bytes[at(index)..(at(index) + count).min(length)].to_vec();
                drop(bytes.splice(at(index)..at(index), piece));
            }
        }
    }
    bytes
}

fn changed(good: &'static [&'static str], most: usize) -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop::collection::vec(select(good), 1..=most);
    (pieces, prop::collection::vec(change(), 0..6))
        .prop_map(|(pieces, changes)| apply(pieces.concat().into_bytes(), &changes))
}

/// What the guard lets pass, hyper reads as exactly the requests that are literally there: as many,
/// with the same targets and the same bodies, whatever was done to the bytes.
#[test]
fn what_the_guard_clears_is_read_in_one_way() {
    fuzz(changed(GOOD, 4), |bytes| {
        let mut guard = Guard::new(LIMITS);
        let cleared = guard.inspect(&bytes).cleared;
        let cleared = &bytes[..cleared];
        let literal = read_literally(cleared).map_err(TestCaseError::fail)?;
        prop_assert_eq!(literal.len() as u64, guard.messages());
        prop_assert_eq!(literal.last().is_some_and(|message| !message.whole), guard.in_body());
        let mut by_hyper = read_by_hyper(cleared);
        // It closes after a request that asks for that: then it reads less, and never something
        // else.
        prop_assert!(by_hyper.len() <= literal.len());
        if let Some(last) = by_hyper.last_mut() {
            let index = literal.iter().take_while(|message| message.whole).count();
            last.whole &= index > 0;
        }
        for (theirs, ours) in by_hyper.iter().zip(&literal) {
            prop_assert_eq!(&theirs.method, &ours.method);
            prop_assert!(theirs.target == ours.target || ours.target.starts_with("http"), "{:?}", theirs.target);
            prop_assert_eq!(theirs.whole, ours.whole);
            if ours.whole {
                prop_assert_eq!(&theirs.body, &ours.body);
            }
        }
        Ok(())
    });
}

/// Good requests are not harmed by all this care.
#[test]
fn what_is_right_passes_whole() {
    for good in GOOD {
        let mut guard = Guard::new(LIMITS);
        let found = guard.inspect(good.as_bytes());
        assert_eq!((found.cleared, found.refusal, guard.messages()), (good.len(), None, 1), "{good:?}");
        let read = read_by_hyper(good.as_bytes());
        assert_eq!((read.len(), read[0].whole), (1, true), "{good:?}");
        assert_eq!(read[0].body, read_literally(good.as_bytes()).unwrap()[0].body);
    }
}

/// A segment of a route: a text, a parameter, or the rest of the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Segment {
    Text(&'static str),
    Parameter,
    Rest,
}

fn segments() -> impl Strategy<Value = Vec<Segment>> {
    let text = select(&["a", "b", "ab", "abc", "b.c", "~", "", "caf\u{e9}"][..]).prop_map(Segment::Text);
    let segment = prop_oneof![4 => text, 3 => Just(Segment::Parameter)];
    (prop::collection::vec(segment, 1..5), any::<bool>()).prop_map(|(mut segments, rest)| {
        if rest {
            segments.push(Segment::Rest);
        }
        segments
    })
}

fn spell(segments: &[Segment]) -> String {
    let spelled = segments.iter().enumerate().map(|(at, segment)| match segment {
        Segment::Text(text) => format!("/{text}"),
        Segment::Parameter => format!("/{{p{at}}}"),
        Segment::Rest => "/{*rest}".to_owned(),
    });
    spelled.collect()
}

/// The parameters that a path gives a route, if it is the route's.
fn try_one(segments: &[Segment], path: &str) -> Option<Vec<String>> {
    let mut rest = path;
    let mut found = Vec::new();
    for segment in segments {
        rest = rest.strip_prefix('/')?;
        let end = rest.find('/').unwrap_or(rest.len());
        match segment {
            Segment::Text(text) if *text == &rest[..end] => {}
            Segment::Text(_) => return None,
            Segment::Parameter if end > 0 => found.push(rest[..end].to_owned()),
            Segment::Rest if !rest.is_empty() => {
                found.push(rest.to_owned());
                return Some(found);
            }
            Segment::Parameter | Segment::Rest => return None,
        }
        rest = &rest[end..];
    }
    rest.is_empty().then_some(found)
}

/// The router finds what trying every route finds, and of several the one whose first difference
/// is the more exact one.
#[test]
fn the_router_finds_what_trying_all_finds() {
    let words = select(&["a", "b", "ab", "abc", "b.c", "~", "", "zz"][..]);
    let paths = prop::collection::vec(prop::collection::vec(words, 1..6), 1..20);
    fuzz((prop::collection::vec(segments(), 1..12), paths), |(routes, paths)| {
        let mut router = Router::new();
        let mut accepted = Vec::new();
        for segments in routes {
            if router.insert(Method::GET, &spell(&segments), "h", accepted.len()).is_ok() {
                accepted.push(segments);
            }
        }
        for words in paths {
            let path = format!("/{}", words.join("/"));
            let fitting = accepted.iter().enumerate().filter_map(|(at, route)| Some((at, try_one(route, &path)?)));
            let rank = |at: usize| -> Vec<u8> {
                let rank = |segment: &Segment| match segment {
                    Segment::Text(_) => 0,
                    Segment::Parameter => 1,
                    Segment::Rest => 2,
                };
                accepted[at].iter().map(rank).collect()
            };
            let best = fitting.min_by_key(|(at, _)| rank(*at));
            let found = match router.find(&Method::GET, &path) {
                Found::Route(found) => {
                    let params = (0..found.params.len()).map(|at| found.params.get(at).unwrap().to_owned());
                    Some((*found.value(), params.collect::<Vec<_>>()))
                }
                _ => None,
            };
            prop_assert_eq!(found, best, "{}", path);
        }
        Ok(())
    });
}

fn read_form<'b>(kind: &str, body: &'b Bytes, limits: &FormLimits) -> Result<Form<'b>, FormError> {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", kind.parse().unwrap());
    Form::read(&headers, body, false, limits)
}

/// `None` where an escape gives bytes that are no text.
fn decode(text: &str) -> Option<String> {
    let text = text.replace('+', " ").into_bytes();
    let hex = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let (mut out, mut at) = (Vec::new(), 0);
    while at < text.len() {
        let escaped = (text[at] == b'%' && at + 2 < text.len())
            .then(|| Some(hex(text[at + 1])? << 4 | hex(text[at + 2])?))
            .flatten();
        out.push(escaped.unwrap_or(text[at]));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8(out).ok()
}

#[test]
fn fields_are_what_splitting_finds() {
    const PIECES: &[&str] = &[
        "a", "b=1", "=", "&", "&&", "%41", "%4", "%", "%zz", "%ff", "%C3%A9", "%c3", "+", "\u{e9}", ";", "\0", "a=%26",
    ];
    let limits = FormLimits { max_fields: 12, ..FormLimits::default() };
    fuzz(prop::collection::vec(select(PIECES), 0..24), move |pieces| {
        let body = Bytes::from(pieces.concat());
        let text = pieces.concat();
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        let expected: Vec<_> = pairs
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                (decode(name), decode(value))
            })
            .collect();
        let sound = expected.len() <= limits.max_fields && expected.iter().all(|(name, _)| name.is_some());
        match read_form("application/x-www-form-urlencoded", &body, &limits) {
            Ok(form) => {
                prop_assert!(sound);
                let found = form.fields().map(|(name, value)| (Some(name.to_owned()), value.map(str::to_owned)));
                prop_assert_eq!(found.collect::<Vec<_>>(), expected);
            }
            Err(_) => prop_assert!(!sound, "{:?}", text),
        }
        Ok(())
    });
}

/// Parts of a form that are right.
const PARTS: &[&str] = &[
    "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\none\r\n",
    "--b\r\ncontent-disposition: form-data; name=x\r\n\r\n\r\n",
    "--b\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a.txt\"\r\nContent-Type: text/plain\r\n\r\nfile\r\n--c\r\n",
    "--b\r\nContent-Disposition: form-data; name=\"f\"; filename*=UTF-8''%e2%82%ac\r\n\r\n\r\n-b\r\n",
    "--b\r\nContent-Disposition: form-data; name=\"u\"; filename=\"../../etc/passwd\"\r\n\r\n\0\r\n",
];

/// Whatever is done to a form: what is read from it is between its boundaries, in order, and there
/// is exactly one field or file between two boundaries.
#[test]
fn parts_are_what_splitting_finds() {
    let ends = select(&["--b--", "--b--\r\n", "--b", ""][..]);
    let bodies = (changed(PARTS, 5), ends, prop::collection::vec(change(), 0..2))
        .prop_map(|(parts, end, changes)| apply([&parts[..], end.as_bytes()].concat(), &changes));
    fuzz(bodies, |bytes| {
        let body = Bytes::from(bytes);
        let Ok(form) = read_form("multipart/form-data; boundary=b", &body, &FormLimits::default()) else {
            return Ok(());
        };
        let whole = [b"\r\n", &body[..]].concat();
        let pieces: Vec<_> = split(&whole, b"\r\n--b").into_iter().skip(1).collect();
        // The last piece is what follows the end.
        let contents: Vec<_> = pieces[..pieces.len() - 1].iter().map(|piece| content(piece)).collect();
        let (fields, files) = (form.fields().collect::<Vec<_>>(), form.files());
        prop_assert_eq!(fields.len() + files.len(), contents.len());
        let mut left: HashMap<Vec<u8>, usize> = HashMap::new();
        contents.into_iter().for_each(|content| *left.entry(content).or_default() += 1);
        let read = fields.iter().filter_map(|(_, value)| value.map(str::as_bytes));
        for found in read.chain(files.iter().map(|file| &file.content[..])) {
            let count = left.get_mut(found).filter(|count| **count > 0);
            prop_assert!(count.is_some(), "{:?} is in no part", found);
            *count.unwrap() -= 1;
        }
        for file in files {
            prop_assert!(!file.filename.contains(['/', '\\', '\0']), "{:?}", file.filename);
        }
        Ok(())
    });
}

fn split(mut bytes: &[u8], at: &[u8]) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    while let Some(found) = bytes.windows(at.len()).position(|window| window == at) {
        pieces.push(bytes[..found].to_vec());
        bytes = &bytes[found + at.len()..];
    }
    pieces.push(bytes.to_vec());
    pieces
}

/// What follows the headers of a part.
fn content(part: &[u8]) -> Vec<u8> {
    let part = part.strip_prefix(b"\r\n").unwrap_or(part);
    if let Some(rest) = part.strip_prefix(b"\r\n") {
        return rest.to_vec();
    }
    let end = part.windows(4).position(|window| window == b"\r\n\r\n");
    end.map_or(Vec::new(), |end| part[end + 4..].to_vec())
}
