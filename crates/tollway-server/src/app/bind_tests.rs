use http::header::{COOKIE, HeaderValue};

use super::*;

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn query_binder(specs: Vec<ParamSpec>) -> Binder {
    Binder::new(specs, &[]).unwrap()
}

fn codes(errors: &[FieldError]) -> Vec<(&'static str, String)> {
    errors.iter().map(|error| (error.code, format_loc(&error.loc))).collect()
}

fn format_loc(loc: &[Part]) -> String {
    let parts: Vec<String> = loc
        .iter()
        .map(|part| match part {
            Part::Name(name) => name.clone(),
            Part::Index(index) => index.to_string(),
        })
        .collect();
    parts.join(".")
}

#[test]
fn all_mistakes_are_listed_in_order() {
    let binder = query_binder(vec![
        ParamSpec::new("a", Source::Query, Kind::Int),
        ParamSpec::new("b", Source::Query, Kind::Bool),
        ParamSpec::new("c", Source::Query, Kind::Str),
        ParamSpec::new("x_token", Source::Header, Kind::Uuid),
        ParamSpec::new("session", Source::Cookie, Kind::Str),
        ParamSpec::new("ids", Source::Query, Kind::Int).list(),
    ]);
    let mut headers = HeaderMap::new();
    headers.insert("x-token", HeaderValue::from_static("nope"));
    let path = PathParams::empty();
    let errors = binder.bind(&path, Some("a=x&b=2&ids=1&ids=z&ids=3"), &headers).unwrap_err();
    let expected = [
        ("int_parsing", "query.a"),
        ("bool_parsing", "query.b"),
        ("missing", "query.c"),
        ("uuid_parsing", "header.x_token"),
        ("missing", "cookie.session"),
        ("int_parsing", "query.ids.1"),
    ];
    assert_eq!(codes(&errors), expected.map(|(code, loc)| (code, loc.to_owned())));
    assert!(errors[0].message.contains("whole number"));
}

#[test]
fn optional_parameters_are_absent() {
    let binder = query_binder(vec![
        ParamSpec::new("a", Source::Query, Kind::Int).optional(),
        ParamSpec::new("b", Source::Query, Kind::Int).optional().list(),
        ParamSpec::new("c", Source::Header, Kind::Int).optional().list(),
        ParamSpec::new("d", Source::Cookie, Kind::Int).optional(),
    ]);
    let (path, headers) = (PathParams::empty(), HeaderMap::new());
    let values = binder.bind(&path, None, &headers).unwrap();
    assert_eq!(values.to_vec(), vec![Value::Absent; 4]);
}

#[test]
fn the_last_of_several_counts_and_lists_keep_all() {
    let binder = query_binder(vec![
        ParamSpec::new("a", Source::Query, Kind::Int),
        ParamSpec::new("a", Source::Query, Kind::Int).list(),
        ParamSpec::new("x", Source::Header, Kind::Str).list(),
    ]);
    let mut headers = HeaderMap::new();
    headers.append("x", HeaderValue::from_static("1"));
    headers.append("x", HeaderValue::from_static("2"));
    let path = PathParams::empty();
    let values = binder.bind(&path, Some("a=1&b=0&a=2"), &headers).unwrap();
    assert_eq!(values[0], Value::Int(2));
    assert_eq!(values[1], Value::List(vec![Value::Int(1), Value::Int(2)]));
    assert_eq!(values[2], Value::List(vec![Value::Str("1".into()), Value::Str("2".into())]));
}

#[test]
fn encoded_names_and_values_are_decoded() {
    let binder = query_binder(vec![
        ParamSpec::new("q r", Source::Query, Kind::Str),
        ParamSpec::new("s", Source::Query, Kind::Str),
    ]);
    let path = PathParams::empty();
    let headers = HeaderMap::new();
    let values = binder.bind(&path, Some("q+r=caf%C3%A9&%73=1%2B1"), &headers).unwrap();
    assert_eq!(values[0], Value::Str("caf\u{e9}".into()));
    assert_eq!(values[1], Value::Str("1+1".into()));
}

#[test]
fn text_that_is_not_utf8_is_a_mistake_of_its_own() {
    let binder = query_binder(vec![ParamSpec::new("a", Source::Query, Kind::Int)]);
    let errors = binder.bind(&PathParams::empty(), Some("a=%ff"), &HeaderMap::new()).unwrap_err();
    assert_eq!(errors[0].code, "string_unicode");
}

#[test]
fn path_parameters_are_found_by_name_not_by_order() {
    let specs = vec![ParamSpec::new("b", Source::Path, Kind::Int), ParamSpec::new("a", Source::Path, Kind::Str)];
    let mut router = super::super::Router::new();
    router.insert(http::Method::GET, "/{a}/{b}", "h", ()).unwrap();
    let super::super::Found::Route(found) = router.find(&http::Method::GET, "/x%20y/5") else {
        panic!("no route");
    };
    let binder = Binder::new(specs, found.names()).unwrap();
    let headers = HeaderMap::new();
    let values = binder.bind(&found.params, None, &headers).unwrap();
    assert_eq!(values.to_vec(), [Value::Int(5), Value::Str("x y".into())]);
}

#[test]
fn cookies_are_found() {
    let binder = query_binder(vec![ParamSpec::new("id", Source::Cookie, Kind::Int)]);
    let mut headers = HeaderMap::new();
    headers.insert(COOKIE, HeaderValue::from_static("a=b; id=7"));
    let path = PathParams::empty();
    assert_eq!(binder.bind(&path, None, &headers).unwrap()[0], Value::Int(7));
}

#[test]
fn impossible_specifications_are_refused() {
    let missing = Binder::new(vec![ParamSpec::new("x", Source::Path, Kind::Str)], &names(&["y"]));
    assert!(missing.unwrap_err().to_string().contains("{x}"));
    let list = Binder::new(vec![ParamSpec::new("x", Source::Path, Kind::Str).list()], &names(&["x"]));
    assert!(list.unwrap_err().to_string().contains("several times"));
    let header = Binder::new(vec![ParamSpec::new("x y", Source::Header, Kind::Str)], &[]);
    assert!(header.unwrap_err().to_string().contains("header name"));
}
