use super::*;

fn router(routes: &[(&str, &str)]) -> Router<String> {
    let mut router = Router::new();
    for (method, path) in routes {
        let label = format!("{method} {path}");
        router.insert(method.parse().unwrap(), path, "shop.handler", label).unwrap();
    }
    router
}

fn found(router: &Router<String>, method: &str, path: &str) -> Result<(String, Vec<String>), String> {
    match router.find(&method.parse().unwrap(), path) {
        Found::Route(matched) => {
            let params = (0..matched.params.len())
                .map(|i| format!("{}={}", matched.names()[i], matched.params.get(i).unwrap()))
                .collect();
            Ok((matched.value().clone(), params))
        }
        Found::Options(allow) => Err(format!("options {}", allow.to_str().unwrap())),
        Found::MethodNotAllowed(allow) => Err(format!("405 {}", allow.to_str().unwrap())),
        Found::NotFound => Err("404".to_owned()),
    }
}

#[test]
fn a_static_segment_wins_over_a_parameter() {
    let router = router(&[("GET", "/items/{id}"), ("GET", "/items/new")]);
    assert_eq!(found(&router, "GET", "/items/new").unwrap().0, "GET /items/new");
    let (label, params) = found(&router, "GET", "/items/7").unwrap();
    assert_eq!((label.as_str(), params), ("GET /items/{id}", vec!["id=7".to_owned()]));
}

#[test]
fn parameters_keep_the_order_of_the_path() {
    let router = router(&[("GET", "/{b}/x/{a}/{*rest}")]);
    let (_, params) = found(&router, "GET", "/1/x/2/3/4").unwrap();
    assert_eq!(params, ["b=1", "a=2", "rest=3/4"]);
}

#[test]
fn the_path_converter_is_a_catch_all() {
    let router = router(&[("GET", "/files/{name:path}")]);
    assert_eq!(found(&router, "GET", "/files/a/b.txt").unwrap().1, ["name=a/b.txt"]);
}

#[test]
fn head_is_answered_by_get() {
    let router = router(&[("GET", "/a"), ("POST", "/b")]);
    assert_eq!(found(&router, "HEAD", "/a").unwrap().0, "GET /a");
    assert_eq!(found(&router, "HEAD", "/b").unwrap_err(), "405 OPTIONS, POST");
}

#[test]
fn options_and_405_list_what_is_allowed() {
    let router = router(&[("GET", "/a/{x}"), ("PUT", "/a/{y}"), ("DELETE", "/b")]);
    assert_eq!(found(&router, "OPTIONS", "/a/1").unwrap_err(), "options GET, HEAD, OPTIONS, PUT");
    assert_eq!(found(&router, "POST", "/a/1").unwrap_err(), "405 GET, HEAD, OPTIONS, PUT");
    assert_eq!(found(&router, "OPTIONS", "/none").unwrap_err(), "404");
    assert_eq!(found(&router, "POST", "/none").unwrap_err(), "404");
}

#[test]
fn an_options_route_of_the_user_wins() {
    let router = router(&[("GET", "/a"), ("OPTIONS", "/a")]);
    assert_eq!(found(&router, "OPTIONS", "/a").unwrap().0, "OPTIONS /a");
    assert_eq!(found(&router, "POST", "/a").unwrap_err(), "405 GET, HEAD, OPTIONS");
}

#[test]
fn the_same_path_is_free_for_another_method() {
    let router = router(&[("GET", "/a/{x}"), ("POST", "/a/{x}"), ("POST", "/a/special")]);
    assert_eq!(found(&router, "GET", "/a/special").unwrap().0, "GET /a/{x}");
    assert_eq!(found(&router, "POST", "/a/special").unwrap().0, "POST /a/special");
}

#[test]
fn a_conflict_names_both_routes_and_both_handlers() {
    let mut router: Router<()> = Router::new();
    router.insert(Method::GET, "/items/{id}", "shop.by_id", ()).unwrap();
    router.insert(Method::GET, "/other", "shop.other", ()).unwrap();
    let message = router.insert(Method::GET, "/items/{slug}", "shop.by_slug", ()).unwrap_err().to_string();
    for part in ["GET /items/{slug}", "shop.by_slug", "/items/{id}", "shop.by_id"] {
        assert!(message.contains(part), "{part} missing in: {message}");
    }
}

#[test]
fn malformed_paths_are_refused_with_the_reason() {
    let mut router: Router<()> = Router::new();
    for (path, part) in [
        ("items", "must begin with /"),
        ("/a/{id", "without its }"),
        ("/a/{}", "without a name"),
        ("/a/{x}-{y}", "two parameters in one segment"),
        ("/a/{*x}/b", "must be the last segment"),
        ("/a/{x}/{x}", "twice"),
        ("/a/{x:int}", "converter"),
    ] {
        let message = router.insert(Method::GET, path, "shop.x", ()).unwrap_err().to_string();
        assert!(message.contains(part), "{path}: {message}");
        assert!(message.contains("shop.x"), "{path}: {message}");
    }
    assert!(router.is_empty());
}

#[test]
fn escapes_of_plain_characters_do_not_hide_a_route() {
    let router = router(&[("GET", "/caf\u{e9}/{x}"), ("GET", "/admin")]);
    assert_eq!(found(&router, "GET", "/caf%c3%a9/1").unwrap().1, ["x=1"]);
    assert_eq!(found(&router, "GET", "/%61dmin").unwrap().0, "GET /admin");
}

#[test]
fn an_escaped_slash_stays_in_its_segment() {
    let router = router(&[("GET", "/f/{name}")]);
    assert_eq!(found(&router, "GET", "/f/a%2fb").unwrap().1, ["name=a%2Fb"]);
    assert_eq!(found(&router, "GET", "/f/a/b").unwrap_err(), "404");
}

#[test]
fn broken_escapes_are_kept_as_they_are() {
    for raw in ["/%", "/%4", "/%zz", "/%+1", "/%%41"] {
        let normal = normalize(raw);
        assert!(normal.starts_with("/%"), "{raw} -> {normal}");
    }
}

#[test]
fn literal_braces_match_themselves() {
    let router = router(&[("GET", "/{{x}}")]);
    assert_eq!(found(&router, "GET", "/{x}").unwrap().0, "GET /{{x}}");
}

#[test]
fn paths_of_refused_requests_are_found_or_not() {
    let router = router(&[("GET", "/"), ("GET", "/items/{id}"), ("GET", "/files/{*rest}")]);
    for (path, expected) in [("", "404"), ("*", "404"), ("items/7", "404"), ("/items/%", "GET /items/{id}")] {
        let found = found(&router, "GET", path).map_or_else(|error| error, |(label, _)| label);
        assert_eq!(found, expected, "{path:?}");
    }
    let cut = format!("/files/{}", "%F0%9F%98%80".repeat(90).get(..1017).unwrap());
    assert_eq!(found(&router, "GET", &cut).unwrap().0, "GET /files/{*rest}");
}
