use http::HeaderMap;

use super::super::{Binder, Kind, ParamSpec, PathParams, Source, Value};
use super::*;

fn headers(content_type: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, content_type.parse().unwrap());
    headers
}

fn multi(body: &str) -> Result<Vec<FormFile>, String> {
    read(body, &FormLimits::default())
}

fn read(body: &str, limits: &FormLimits) -> Result<Vec<FormFile>, String> {
    let body = Bytes::from(body.replace('\n', "\r\n"));
    match Form::read(&headers("multipart/form-data; boundary=xx"), &body, true, limits) {
        Ok(form) => Ok(form.files),
        Err(FormError::Invalid(error)) => Err(error.message),
        Err(FormError::WrongType(sent)) => Err(sent),
    }
}

fn file(disposition: &str) -> Result<String, String> {
    let body = format!("--xx\nContent-Disposition: form-data; name=\"f\"; {disposition}\n\ndata\n--xx--\n");
    multi(&body).map(|files| files[0].filename.clone())
}

#[test]
fn fields_and_files_of_a_browser() {
    let text = "--xx\r\nContent-Disposition: form-data; name=\"title\"\r\n\r\nlamp \u{e9}\r\n\
        --xx\r\nContent-Disposition: form-data; name=\"none\"; filename=\"\"\r\n\
        Content-Type: application/octet-stream\r\n\r\n\r\n\
        --xx\r\nContent-Disposition: form-data; name=\"image\"; filename=\"C:\\dir\\a.png\"\r\n\
        Content-Type: image/png\r\nX-Extra: 1\r\n\r\n\r\n--x \r\n\r\n--xx--\r\n";
    let body = Bytes::from(text.to_owned());
    let form =
        Form::read(&headers("Multipart/Form-Data; charset=utf-8; boundary=\"xx\""), &body, true, &Default::default())
            .unwrap();
    assert_eq!(form.fields().collect::<Vec<_>>(), [("title", Some("lamp \u{e9}"))]);
    let [file] = form.files() else { panic!("{form:?}") };
    assert_eq!(
        (file.name.as_str(), file.filename.as_str(), file.content_type.as_str()),
        ("image", "a.png", "image/png")
    );
    assert_eq!(&file.content[..], b"\r\n--x \r\n");
    assert_eq!(file.headers[2], ("x-extra".to_owned(), "1".to_owned()));
    let inside = body.as_ptr_range().contains(&file.content.as_ptr());
    assert!(inside, "the content is not copied");
}

#[test]
fn names_of_files() {
    for (said, name) in [
        ("filename=plain.txt", "plain.txt"),
        ("filename=\"a \\\"quoted\\\" one\"", "a \"quoted\" one"),
        ("filename=\"../../etc/passwd\"", "passwd"),
        ("filename=\"old.txt\"; filename*=UTF-8''%e2%82%ac.txt", "\u{20ac}.txt"),
        ("filename*=utf-8''..%2Fx", "x"),
    ] {
        assert_eq!(file(said).as_deref(), Ok(name), "{said}");
    }
    for said in [
        "filename=\"..\"",
        "filename=\"a/\"",
        "filename=\"a\"; filename=\"b\"",
        "filename*=latin1''x",
        "filename*=utf-8''%0d%0a",
        "filename=\"open",
        "filename=\"a\" b",
        "=x",
    ] {
        let message = file(said).expect_err(said);
        assert!(message.starts_with("part 1 of the form: its "), "{said}: {message}");
    }
}

#[test]
fn malformed_forms_are_refused_with_their_part() {
    let part = "--xx\nContent-Disposition: form-data; name=a\n\n1\n";
    let nameless = "--xx\nContent-Disposition: form-data\n\n1\n--xx--";
    let encoded = "--xx\nContent-Disposition: form-data; name=a\nContent-Transfer-Encoding: base64\n\n1\n--xx--";
    for (body, message) in [
        (String::new(), "the form does not begin with its boundary"),
        ("--x\n".to_owned(), "the form does not begin with its boundary"),
        (part.to_owned(), "part 1 of the form: it has no end"),
        (format!("{part}--xx"), "part 1 of the form: a boundary is not followed by the end of its line"),
        (format!("{part}--xxy\n"), "part 1 of the form: a boundary is not followed by the end of its line"),
        (format!("{part}--xx--\nmore"), "part 1 of the form: something follows the end of the form"),
        (format!("{part}--xx\nContent-Disposition"), "part 2 of the form: its headers do not end"),
        (format!("{part}--xx\nNo header\n\n\n--xx--"), "part 2 of the form: a header is malformed"),
        (format!("{part}--xx\n\n1\n--xx--"), "part 2 of the form: it has no Content-Disposition"),
        (nameless.to_owned(), "part 1 of the form: it has no name"),
        (encoded.to_owned(), "part 1 of the form: its Content-Transfer-Encoding is not read here: send it as it is"),
    ] {
        assert_eq!(multi(&body).expect_err(&body), message, "{body}");
    }
    let bare = Bytes::from_static(b"--xx\nContent-Disposition: form-data; name=a\n\n1\n--xx--\n");
    let error = Form::read(&headers("multipart/form-data; boundary=xx"), &bare, true, &Default::default());
    assert!(error.is_err(), "lines end with CR LF");
}

#[test]
fn boundaries() {
    let body = Bytes::from_static(b"--xx--");
    for good in ["multipart/form-data; boundary=xx", "multipart/form-data ; a=b ;boundary = \"xx\""] {
        assert!(Form::read(&headers(good), &body, true, &Default::default()).is_ok(), "{good}");
    }
    let long = format!("multipart/form-data; boundary={}", "x".repeat(71));
    for bad in ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=\"x@\"", &long]
    {
        assert!(matches!(
            Form::read(&headers(bad), &body, true, &Default::default()),
            Err(FormError::Invalid(error)) if error.message == "the Content-Type names no usable boundary"
        ));
    }
}

#[test]
fn a_form_is_bounded() {
    let limits = FormLimits { max_fields: 2, max_files: 1, max_part_head_bytes: 70 };
    let field = "--xx\nContent-Disposition: form-data; name=a\n\n1\n";
    let file = "--xx\nContent-Disposition: form-data; name=f; filename=f\n\n1\n";
    let long = format!("--xx\nContent-Disposition: form-data; name={}\n\n1\n", "n".repeat(70));
    assert!(read(&format!("{field}{field}{file}--xx--"), &limits).is_ok());
    for (body, message) in [
        (format!("{field}{field}{field}--xx--"), "the form has more than 2 fields"),
        (format!("{file}{file}--xx--"), "the form has more than 1 files"),
        (format!("{long}--xx--"), "part 1 of the form: its headers are longer than 70 bytes"),
    ] {
        assert_eq!(read(&body, &limits).expect_err(&body), message);
    }
    let many = format!("--xx\nContent-Disposition: form-data; name=a\n{}\n1\n--xx--", "x: y\n".repeat(20));
    assert_eq!(multi(&many).unwrap_err(), "part 1 of the form: it has more than 16 headers");
    let body = Bytes::from_static(b"a=1&b=2&c=3");
    let error = Form::read(&headers("application/x-www-form-urlencoded"), &body, false, &limits).unwrap_err();
    assert!(matches!(error, FormError::Invalid(error) if error.code == "form_too_large"));
}

#[test]
fn other_media_types() {
    let body = Bytes::from_static(b"a=1");
    let limits = FormLimits::default();
    let wrong = |kind: &str, files| Form::read(&headers(kind), &body, files, &limits).unwrap_err();
    assert_eq!(wrong("application/json", false), FormError::WrongType("application/json".to_owned()));
    let encoded = "application/x-www-form-urlencoded; charset=utf-8";
    assert!(matches!(wrong(encoded, true), FormError::WrongType(_)), "files need a multipart form");
    assert!(Form::read(&HeaderMap::new(), &Bytes::new(), false, &limits).is_ok());
    assert!(Form::read(&HeaderMap::new(), &body, false, &limits).is_err());
}

#[test]
fn form_parameters_are_typed_and_files_follow_their_rules() {
    let rules = FileRules {
        max_size: Some(4),
        min_size: Some(1),
        types: vec!["image/*".to_owned(), "text/plain".to_owned()],
        max_files: Some(2),
    };
    let specs = || {
        vec![
            ParamSpec::new("n", Source::Form, Kind::Int),
            ParamSpec::new("tags", Source::Form, Kind::Str).list(),
            ParamSpec { rules: rules.clone(), ..ParamSpec::new("f", Source::File, Kind::Str).list() },
        ]
    };
    let binder = Binder::new(specs(), &[]).unwrap();
    assert!(binder.uses_form() && binder.uses_files());
    let file = |kind: &str, content: &str| {
        format!("--xx\nContent-Disposition: form-data; name=f; filename=f\nContent-Type: {kind}\n\n{content}\n")
    };
    let field = |name: &str, value: &str| format!("--xx\nContent-Disposition: form-data; name={name}\n\n{value}\n");
    let bind = |parts: &[String]| {
        let body = Bytes::from(format!("{}--xx--", parts.concat()).replace('\n', "\r\n"));
        let form =
            Form::read(&headers("multipart/form-data; boundary=xx"), &body, true, &FormLimits::default()).unwrap();
        let path = PathParams::empty();
        let headers = HeaderMap::new();
        match binder.read(&path, None, &headers, Some(&form)) {
            (values, errors) if errors.is_empty() => {
                assert_eq!(values[0], Value::Int(2), "the last one counts");
                let Value::List(files) = &values[2] else { panic!("{values:?}") };
                Ok(files.len())
            }
            (_, errors) => Err(errors.into_iter().map(|error| error.code).collect::<Vec<_>>()),
        }
    };
    let good = [field("n", "1"), field("n", "2"), field("tags", "a"), file("IMAGE/png; q=1", "data")];
    assert_eq!(bind(&good), Ok(1));
    let bad = [field("n", "x"), file("image/png", "large"), file("text/plain", ""), file("text/html", "x")];
    assert_eq!(
        bind(&bad),
        Err(vec!["int_parsing", "missing", "file_too_large", "file_too_small", "file_type", "too_many_files"])
    );
}
