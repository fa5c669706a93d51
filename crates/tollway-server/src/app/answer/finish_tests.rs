use http::header::HeaderMap;

use super::super::CorsSpec;
use super::*;
use crate::app::Problem;

fn head(pairs: &[(&str, &str)]) -> Parts {
    let mut builder = http::Request::builder().uri("/items?q=1");
    for (name, value) in pairs {
        builder = builder.header(*name, *value);
    }
    builder.body(()).unwrap().into_parts().0
}

fn finished(finish: Finish, asked: &[(&str, &str)], mut response: Response<Body>) -> Response<Body> {
    Arc::new(finish).begin(&head(asked), true, |_| None).end(&mut response);
    response
}

fn pair(name: &'static str, value: &'static str) -> (HeaderName, HeaderValue) {
    (HeaderName::from_static(name), HeaderValue::from_static(value))
}

fn text(response: &Response<Body>) -> &str {
    match response.body() {
        Body::Full(bytes) => std::str::from_utf8(bytes).unwrap(),
        _ => "",
    }
}

#[test]
fn headers_are_added_where_the_handler_set_none() {
    let finish = || Finish {
        headers: vec![pair("x-frame-options", "DENY"), pair("referrer-policy", "same-origin")],
        ..Finish::default()
    };
    let mut response = Response::new(Body::Empty);
    response.headers_mut().insert("x-frame-options", HeaderValue::from_static("SAMEORIGIN"));
    let response = finished(finish(), &[], response);
    assert_eq!(response.headers()["x-frame-options"], "SAMEORIGIN");
    assert_eq!(response.headers()["referrer-policy"], "same-origin");
}

#[test]
fn promises_about_tls_are_made_over_tls_only() {
    let name = HeaderName::from_static("x-forwarded-proto");
    let told = Secure::Told(name, HeaderValue::from_static("https"));
    let with = |secure: Secure, asked: &[(&str, &str)]| -> HeaderMap {
        let secure_headers = vec![pair("strict-transport-security", "max-age=60")];
        let finish = Finish { secure, secure_headers, ..Finish::default() };
        finished(finish, asked, Response::new(Body::Empty)).headers().clone()
    };
    assert!(with(Secure::Never, &[("x-forwarded-proto", "https")]).is_empty());
    assert!(with(told.clone(), &[]).is_empty());
    assert!(with(told.clone(), &[("x-forwarded-proto", "http, https")]).is_empty());
    assert_eq!(with(told, &[("x-forwarded-proto", "https, http")]).len(), 1);
    assert_eq!(with(Secure::Always, &[]).len(), 1);
}

#[test]
fn an_id_is_on_the_answer_and_inside_a_problem() {
    let header = HeaderName::from_static("x-request-id");
    let finish = || Finish { ids: Some(RequestIds { header: header.clone(), trusted: true }), ..Finish::default() };
    let asked = [("x-request-id", "from-nginx")];
    let plain = finished(finish(), &asked, Response::new(Body::from("{\"a\":1}")));
    assert_eq!(
        (&plain.headers()["x-request-id"], text(&plain)),
        (&HeaderValue::from_static("from-nginx"), "{\"a\":1}")
    );

    let problem = Problem::not_found("/x").response().map(Body::from);
    let named = finished(finish(), &asked, problem);
    let read: serde_json::Value = serde_json::from_str(text(&named)).unwrap();
    assert_eq!((&read["request_id"], &read["status"]), (&"from-nginx".into(), &404.into()));
    let again = finished(finish(), &asked, named);
    assert_eq!(text(&again).matches("request_id").count(), 1);
}

#[test]
fn a_preflight_is_answered_where_there_are_rules_for_it() {
    let asked = head(&[("origin", "https://a.example"), ("access-control-request-method", "GET")]);
    assert!(Finish::default().preflight(&asked).is_none());
    let spec = CorsSpec { origins: vec!["https://a.example".into()], ..CorsSpec::default() };
    let finish = Arc::new(Finish { cors: Some(Cors::new(&spec).unwrap()), ..Finish::default() });
    let mut response = finish.preflight(&asked).unwrap();
    let before = response.headers().clone();
    assert_eq!((response.status().as_u16(), response.headers().len()), (204, 2));
    finish.begin(&asked, false, |_| None).end(&mut response);
    assert_eq!(response.headers(), &before);
}
