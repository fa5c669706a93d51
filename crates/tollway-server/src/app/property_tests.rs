//! Laws that hold for any input.

use std::borrow::Cow;

use http::{HeaderMap, Method};
use proptest::prelude::*;

use super::*;

fn kinds() -> impl Strategy<Value = Kind> {
    proptest::sample::select(Kind::NAMES).prop_map(|name| Kind::from_name(name).unwrap())
}

proptest! {
    /// No text makes a reader panic, and what is refused has a code and a sentence.
    #[test]
    fn any_text_is_read_or_refused(kind in kinds(), text in "\\PC{0,40}") {
        match kind.read(Cow::Borrowed(text.as_str())) {
            Some(_) => {}
            None => prop_assert!(!kind.error_code().is_empty() && !kind.expectation().is_empty()),
        }
    }

    #[test]
    fn integers_come_back(value in any::<i64>()) {
        prop_assert_eq!(Kind::Int.read(value.to_string().into()), Some(Value::Int(value)));
    }

    #[test]
    fn finite_floats_come_back(value in proptest::num::f64::NORMAL | proptest::num::f64::ZERO) {
        prop_assert_eq!(Kind::Float.read(value.to_string().into()), Some(Value::Float(value)));
    }

    #[test]
    fn dates_and_times_come_back(
        y in 1u16..=9999, mo in 1u8..=12, d in 1u8..=28, h in 0u8..24, mi in 0u8..60, s in 0u8..60,
        us in 0u32..1_000_000, offset in proptest::option::of((-23i32..=23, 0i32..60)),
    ) {
        let zone = match offset {
            None => String::new(),
            Some((hours, minutes)) => format!("{}{:02}:{minutes:02}", if hours < 0 { '-' } else { '+' }, hours.abs()),
        };
        let text = format!("{y:04}-{mo:02}-{d:02}T{h:02}:{mi:02}:{s:02}.{us:06}{zone}");
        let seconds = offset.map(|(hours, minutes)| {
            let size = hours.abs() * 3600 + minutes * 60;
            if hours < 0 { -size } else { size }
        });
        let expected = DateTime {
            date: Date { year: y, month: mo, day: d },
            time: Time { hour: h, minute: mi, second: s, microsecond: us, offset: seconds },
        };
        prop_assert_eq!(DateTime::parse(&text), Some(expected));
    }

    /// Any value, percent-encoded into a path segment or a query, arrives as it was.
    #[test]
    fn encoded_text_arrives_unchanged(text in "\\PC{1,30}") {
        let encoded = percent_encoding::utf8_percent_encode(&text, percent_encoding::NON_ALPHANUMERIC).to_string();
        let mut router = Router::new();
        router.insert(Method::GET, "/a/{x}/b", "h", ()).unwrap();
        let path = format!("/a/{encoded}/b");
        let Found::Route(found) = router.find(&Method::GET, &path) else {
            return Err(TestCaseError::fail("no route"));
        };
        let specs = vec![
            ParamSpec::new("x", Source::Path, Kind::Str),
            ParamSpec::new("q", Source::Query, Kind::Str),
        ];
        let binder = Binder::new(specs, found.names()).unwrap();
        let query = format!("q={encoded}");
        let headers = HeaderMap::new();
        let values = binder.bind(&found.params, Some(&query), &headers).unwrap();
        prop_assert_eq!(&values[0], &Value::Str(text.as_str().into()));
        prop_assert_eq!(&values[1], &Value::Str(text.as_str().into()));
    }

    /// Any path and any query can be looked up and bound without a panic; a 405 or OPTIONS
    /// answer appears only where some method has the path.
    #[test]
    fn any_request_is_answered(path in "/[\\x21-\\x7e]{0,60}", query in "[\\x21-\\x7e]{0,60}") {
        let mut router = Router::new();
        for (method, pattern) in [(Method::GET, "/{a}"), (Method::POST, "/x/{*rest}"), (Method::GET, "/x/y")] {
            router.insert(method, pattern, "h", ()).unwrap();
        }
        let specs = vec![ParamSpec::new("a", Source::Query, Kind::Int).list()];
        let binder = Binder::new(specs, &[]).unwrap();
        let headers = HeaderMap::new();
        let none = PathParams::empty();
        let _ = binder.bind(&none, Some(&query), &headers);
        let get = matches!(router.find(&Method::GET, &path), Found::Route(_));
        let post = matches!(router.find(&Method::POST, &path), Found::Route(_));
        match router.find(&Method::OPTIONS, &path) {
            Found::Options(_) => prop_assert!(get || post),
            Found::NotFound => prop_assert!(!get && !post),
            other => return Err(TestCaseError::fail(format!("{other:?}"))),
        }
    }

    /// Routes that the router accepts are all reachable, whatever else was accepted.
    #[test]
    fn accepted_routes_are_reachable(
        shapes in proptest::collection::vec(proptest::collection::vec(0usize..4, 1..4), 1..8),
    ) {
        let mut router = Router::new();
        let mut accepted = Vec::new();
        for shape in shapes {
            let segment = |(at, kind): (usize, &usize)| match kind {
                0 => "/a".to_owned(),
                1 => "/b".to_owned(),
                _ => format!("/{{p{at}}}"),
            };
            let path: String = shape.iter().enumerate().map(segment).collect();
            if router.insert(Method::GET, &path, "h", path.clone()).is_ok() {
                accepted.push(path);
            }
        }
        for path in accepted {
            let mut concrete = path.clone();
            for at in 0..4 {
                concrete = concrete.replace(&format!("{{p{at}}}"), "zz");
            }
            let Found::Route(found) = router.find(&Method::GET, &concrete) else {
                return Err(TestCaseError::fail(format!("{path} unreachable")));
            };
            prop_assert_eq!(found.value(), &path);
        }
    }

    /// Whatever a multipart form holds arrives as it was, files in the memory of the body.
    #[test]
    fn multipart_forms_come_back(
        fields in proptest::collection::vec(("[a-z\\[\\] \u{e9}]{1,8}", "\\PC{0,20}"), 0..4),
        files in proptest::collection::vec(
            ("[a-z]{1,8}", "[a-z \"\u{e9}]{0,8}[a-z]", proptest::collection::vec(any::<u8>(), 0..60)), 0..4,
        ),
    ) {
        let mut body = Vec::new();
        let quoted = |text: &str| text.replace('"', "\\\"");
        for (name, value) in &fields {
            let head = format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
            body.extend(head.as_bytes());
        }
        for (name, filename, content) in &files {
            let filename = quoted(filename);
            let head = format!("--b\r\ncontent-disposition: form-data; name={name}; filename=\"{filename}\"\r\n\r\n");
            body.extend(head.as_bytes());
            body.extend(content);
            body.extend(b"\r\n");
        }
        body.extend(b"--b--\r\n");
        // Contents that hold the boundary are what boundaries are chosen against.
        prop_assume!(files.iter().all(|(_, _, content)| !content.windows(5).any(|window| window == b"\r\n--b")));
        let body = bytes::Bytes::from(body);
        let form = read_form("multipart/form-data; boundary=b", &body).unwrap();
        let expected: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), Some(value.as_str()))).collect();
        prop_assert_eq!(form.fields().collect::<Vec<_>>(), expected);
        prop_assert_eq!(form.files().len(), files.len());
        for (file, (name, filename, content)) in form.files().iter().zip(&files) {
            prop_assert_eq!((&file.name, file.filename.as_str(), &file.content[..]), (name, filename.trim(), &content[..]));
        }
    }

    /// Bytes that look like a form are read or refused, in one pass, without a panic.
    #[test]
    fn any_body_is_a_form_or_refused(
        pieces in proptest::collection::vec(
            proptest::sample::select(PIECES),
            0..40,
        ),
        kind in prop_oneof![
            Just("multipart/form-data; boundary=b".to_owned()),
            Just("application/x-www-form-urlencoded".to_owned()),
            "multipart/form-data; [ -~]{0,30}",
        ],
    ) {
        let body = bytes::Bytes::from(pieces.concat());
        if let Ok(form) = read_form(&kind, &body) {
            let size: usize = form.files().iter().map(|file| file.content.len()).sum();
            prop_assert!(size <= body.len());
        }
    }
}

/// What forms are made of.
const PIECES: &[&[u8]] = &[
    b"--b",
    b"\r\n",
    b"--",
    b"\n",
    b"\"",
    b"\\",
    b"=",
    b"; ",
    b"%f",
    b"Content-Disposition: form-data; name=a",
    b"filename=\"x",
    b"filename*=UTF-8''%",
    b"\xff\xfe",
    b":",
    b"&",
    b"+",
];

fn read_form<'b>(kind: &str, body: &'b bytes::Bytes) -> Result<Form<'b>, FormError> {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", kind.parse().unwrap());
    Form::read(&headers, body, false, &FormLimits::default())
}
