use super::*;

fn spec(origins: &[&str]) -> CorsSpec {
    CorsSpec {
        origins: origins.iter().map(|&text| text.to_owned()).collect(),
        methods: vec!["GET".into(), "POST".into()],
        headers: vec!["content-type".into()],
        max_age: 600,
        ..CorsSpec::default()
    }
}

fn head(method: Method, pairs: &[(&str, &str)]) -> Parts {
    let mut builder = http::Request::builder().method(method).uri("/");
    for (name, value) in pairs {
        builder = builder.header(*name, *value);
    }
    builder.body(()).unwrap().into_parts().0
}

fn written(cors: &Cors, origin: &str, before: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in before {
        headers.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    cors.write(Some(&HeaderValue::from_str(origin).unwrap()), &mut headers);
    headers
}

fn refusal(spec: &CorsSpec) -> String {
    Cors::new(spec).unwrap_err().to_string()
}

#[test]
fn origins_are_compared_as_browsers_write_them() {
    let cors = Cors::new(&spec(&["https://Shop.Example:443", "http://localhost:3000", "null"])).unwrap();
    for known in ["https://shop.example", "http://localhost:3000", "null"] {
        assert!(cors.allows(known.as_bytes()), "{known}");
    }
    for stranger in
        ["http://shop.example", "https://shop.example:444", "https://a.shop.example", "", "http://localhost"]
    {
        assert!(!cors.allows(stranger.as_bytes()), "{stranger}");
    }
}

#[test]
fn patterns_match_whole_origins_only() {
    let patterns = vec![r"https://\w+\.shop\.example".to_owned()];
    let cors = Cors::new(&CorsSpec { patterns, ..CorsSpec::default() }).unwrap();
    assert!(cors.allows(b"https://eu.shop.example"));
    assert!(!cors.allows(b"https://eu.shop.example.evil.test"));
    assert!(!cors.allows(b"xhttps://eu.shop.example"));
    assert!(!cors.allows(b"https://\xff.shop.example"));
}

#[test]
fn what_cannot_hold_is_refused_with_the_next_step() {
    let open = CorsSpec { credentials: true, ..spec(&["*"]) };
    assert!(refusal(&open).contains("origins are \"*\" together with credentials"));
    let headers = CorsSpec { credentials: true, headers: vec!["*".into()], ..spec(&["https://a.example"]) };
    assert!(refusal(&headers).contains("headers are \"*\""));
    assert!(refusal(&spec(&["shop.example"])).contains("write \"https://shop.example\""));
    assert!(refusal(&spec(&["https://shop.example/"])).contains("without a path"));
    assert!(refusal(&spec(&[])).contains("name one"));
    assert!(refusal(&spec(&["*", "https://a.example"])).contains("leave the others out"));
    let look = CorsSpec { patterns: vec!["(?=a)".into()], ..CorsSpec::default() };
    assert!(refusal(&look).contains("no look-around"));
    let verb = CorsSpec { methods: vec!["G T".into()], ..spec(&["https://a.example"]) };
    assert!(refusal(&verb).contains("\"G T\" is not a possible method"));
}

#[test]
fn an_answer_names_the_one_origin_that_asked() {
    let cors =
        Cors::new(&CorsSpec { credentials: true, expose: vec!["x-total".into()], ..spec(&["https://a.example"]) })
            .unwrap();
    let headers = written(&cors, "https://a.example", &[("access-control-allow-origin", "*"), ("vary", "cookie")]);
    assert_eq!(headers.get_all("access-control-allow-origin").iter().count(), 1);
    assert_eq!(headers["access-control-allow-origin"], "https://a.example");
    assert_eq!(headers["access-control-allow-credentials"], "true");
    assert_eq!(headers["access-control-expose-headers"], "x-total");
    let vary: Vec<_> = headers.get_all(VARY).iter().collect();
    assert_eq!(vary, ["cookie", "origin"]);
}

#[test]
fn a_stranger_gets_the_answer_and_no_permission() {
    let cors = Cors::new(&spec(&["https://a.example"])).unwrap();
    let headers = written(&cors, "https://b.example", &[("access-control-allow-origin", "*")]);
    assert!(!headers.contains_key("access-control-allow-origin"));
    assert_eq!(headers[VARY], "origin");
    let known = written(&cors, "https://a.example", &[("vary", "Accept, Origin")]);
    assert_eq!(known.get_all(VARY).iter().count(), 1);
}

#[test]
fn every_origin_needs_no_vary() {
    let cors = Cors::new(&spec(&["*"])).unwrap();
    let headers = written(&cors, "https://anything.example", &[]);
    assert_eq!(headers["access-control-allow-origin"], "*");
    assert!(!headers.contains_key(VARY));
}

#[test]
fn a_preflight_is_known_by_its_three_marks() {
    let origin = ("origin", "https://a.example");
    let method = ("access-control-request-method", "PATCH");
    let asked = Preflight::of(&head(Method::OPTIONS, &[origin, method]));
    assert_eq!(asked, Some(Preflight { method: Method::PATCH }));
    assert_eq!(Preflight::of(&head(Method::GET, &[origin, method])), None);
    assert_eq!(Preflight::of(&head(Method::OPTIONS, &[origin])), None);
    assert_eq!(Preflight::of(&head(Method::OPTIONS, &[method])), None);
}

#[test]
fn a_preflight_tells_friends_what_they_may_and_strangers_nothing() {
    let cors = Cors::new(&CorsSpec { private_network: true, ..spec(&["https://a.example"]) }).unwrap();
    let ask = |origin, private| {
        cors.preflight(&head(
            Method::OPTIONS,
            &[
                ("origin", origin),
                ("access-control-request-method", "GET"),
                ("access-control-request-private-network", private),
            ],
        ))
    };
    let friend = ask("https://a.example", "true");
    assert_eq!(friend["access-control-allow-methods"], "GET, POST");
    assert_eq!(friend["access-control-allow-headers"], "content-type");
    assert_eq!(friend["access-control-max-age"], "600");
    assert_eq!(friend["access-control-allow-private-network"], "true");
    assert!(!ask("https://a.example", "no").contains_key("access-control-allow-private-network"));
    let stranger = ask("https://b.example", "true");
    assert_eq!(stranger.len(), 1);
    assert!(stranger.contains_key(VARY));
}
