//! What a broken or hostile client sees: a clear answer, and a closed connection.

mod served;

use served::{Served, get, post};
use tollway_server::Settings;

/// Sends one request, checks that it is refused with that status, that the
/// answer says so in a problem document, and that nothing after it is served.
#[track_caller]
fn refused(server: &Served, request: &str, status: u16, detail: &str) {
    let mut client = server.client();
    client.send(request).send(get("/smuggled"));
    let answer = client.answer();
    assert_eq!(answer.status, status, "{request:?}: {}", answer.text());
    assert!(answer.closes(), "{request:?}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert!(answer.header("date").is_some());
    let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(problem["status"], status);
    let said = problem["detail"].as_str().unwrap();
    assert!(said.contains(detail), "{request:?}: {said}");
    client.assert_closed();
}

fn with(lines: &str) -> String {
    format!("POST /echo HTTP/1.1\r\nHost: test\r\n{lines}\r\n")
}

#[test]
fn handlers_complete_refusals() {
    let server = Served::start();
    let chunked = "Host: a\r\nTransfer-Encoding: chunked\r\n\r\nno length\r\n";
    for (request, status, path) in [
        ("nothing\r\n\r\n".to_owned(), 400, "nothing"),
        ("GET /version HTTP/1.9\r\nHost: a\r\n\r\n".to_owned(), 505, "/version"),
        ("GET /panic HTTP/1.1\r\n\r\n".to_owned(), 400, "/panic"),
        (format!("POST /chunks HTTP/1.1\r\n{chunked}"), 400, "/chunks"),
        ("GET /liar HTTP/1.1\r\n\r\n".to_owned(), 400, "/liar"),
        (format!("POST /liar HTTP/1.1\r\n{chunked}"), 400, "/liar"),
    ] {
        let mut client = server.client();
        let answer = client.send(&request).answer();
        assert_eq!((answer.status, answer.header("x-refused")), (status, Some(path)), "{request:?}");
        // One length, which is right, and one end.
        let is_framing = |line: &&str| {
            let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
            ["date", "content-length", "transfer-encoding", "connection"].contains(&&*name)
        };
        assert_eq!(answer.head.lines().filter(is_framing).count(), 3, "{}", answer.head);
        let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(problem["status"], status);
        assert!(answer.closes(), "{request:?}");
        client.assert_closed();
    }
    assert_eq!(server.stop().refused, 6);
}

#[test]
fn refuses_ambiguous_lengths() {
    let server = Served::start();
    for (lines, status, detail) in [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", 400, "both"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", 400, "both"),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", 400, "more than one Content-Length"),
        ("Content-Length: 5\r\nContent-Length: 5\r\n", 400, "more than one Content-Length"),
        ("Content-Length: 5, 5\r\n", 400, "not a number"),
        ("Content-Length: +5\r\n", 400, "not a number"),
        ("Content-Length: -1\r\n", 400, "not a number"),
        ("Content-Length: 0x5\r\n", 400, "not a number"),
        ("Content-Length: 5 5\r\n", 400, "not a number"),
        ("Content-Length:\r\n", 400, "not a number"),
        ("Content-Length: 99999999999999999999\r\n", 400, "not a number"),
        ("Transfer-Encoding: gzip\r\n", 501, "chunked"),
        ("Transfer-Encoding: gzip, chunked\r\n", 501, "chunked"),
        ("Transfer-Encoding: xchunked\r\n", 501, "chunked"),
        ("Transfer-Encoding: identity\r\n", 501, "chunked"),
        ("Transfer-Encoding: chunked, chunked\r\n", 501, "chunked"),
        ("Transfer-Encoding:\r\n", 501, "chunked"),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 400, "more than one"),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", 400, "more than one"),
        ("Transfer-Encoding: \x0bchunked\r\n", 400, "header line"),
        ("Transfer-Encoding : chunked\r\n", 400, "header line"),
        ("Transfer\u{2d}Encoding\t: chunked\r\n", 400, "header line"),
    ] {
        refused(&server, &with(lines), status, detail);
    }
    let old = "POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    refused(&server, old, 400, "HTTP/1.0");
    assert_eq!(server.stop().requests, 0);
}

#[test]
fn refuses_broken_lines() {
    let server = Served::start();
    for (request, detail) in [
        ("GET / HTTP/1.1\nHost: test\n\n", "CR LF"),
        ("GET / HTTP/1.1\r\nHost: test\n\r\n", "CR LF"),
        ("GET / HTTP/1.1\r\nHost: test\r\n\n", "CR LF"),
        ("\nGET / HTTP/1.1\r\nHost: test\r\n\r\n", "CR LF"),
        ("\r\n\r\nGET / HTTP/1.1\r\nHost: test\r\n\r\n", "request line"),
        ("GET / HTTP/1.1\r\nHost: test\r\nA: b\rC: d\r\n\r\n", "header line"),
        ("GET / HTTP/1.1\r\nHost: test\r\nA: b\r\r\n\r\n", "header line"),
        ("GET / HTTP/1.1\r\nHost: test\r\nA: b\0c\r\n\r\n", "header line"),
        ("GET / HTTP/1.1\r\nHost: test\r\nA: b\x7fc\r\n\r\n", "header line"),
        ("GET / HTTP/1.1\r\nHost: test\r\nA: b\r\n folded\r\n\r\n", "next line"),
        ("GET / HTTP/1.1\r\nHost: test\r\nA: b\r\n\tfolded\r\n\r\n", "next line"),
        ("GET / HTTP/1.1\r\n Host: test\r\n\r\n", "next line"),
        ("GET / HTTP/1.1\r\nHost : test\r\n\r\n", "header line"),
        ("GET / HTTP/1.1\r\nHost: test\r\nno colon\r\n\r\n", "header line"),
        ("GET / HTTP/1.1\r\nHost: test\r\n: no name\r\n\r\n", "header line"),
        ("GET / HTTP/1.1\r\nHost: test\r\nna(me: x\r\n\r\n", "header line"),
        ("GET /\r\nHost: test\r\n\r\n", "request line"),
        ("GET  / HTTP/1.1\r\nHost: test\r\n\r\n", "request line"),
        ("GET / HTTP/1.1 \r\nHost: test\r\n\r\n", "request line"),
        ("GET\t/ HTTP/1.1\r\nHost: test\r\n\r\n", "request line"),
        ("GET /a b HTTP/1.1\r\nHost: test\r\n\r\n", "request line"),
        ("GET / http/1.1\r\nHost: test\r\n\r\n", "request line"),
        ("GET / HTTP/1.11\r\nHost: test\r\n\r\n", "request line"),
        ("G@T / HTTP/1.1\r\nHost: test\r\n\r\n", "request line"),
        (" GET / HTTP/1.1\r\nHost: test\r\n\r\n", "request line"),
        ("GET nowhere HTTP/1.1\r\nHost: test\r\n\r\n", "target"),
        ("GET * HTTP/1.1\r\nHost: test\r\n\r\n", "target"),
        ("GET /a#b HTTP/1.1\r\nHost: test\r\n\r\n", "target"),
        ("GET ftp://test/ HTTP/1.1\r\nHost: test\r\n\r\n", "target"),
        ("GET /\u{e4} HTTP/1.1\r\nHost: test\r\n\r\n", "target"),
        ("\u{16}\u{3}\u{1}\0\u{5}\r\n", "request line"),
    ] {
        refused(&server, request, 400, detail);
    }
    assert_eq!(server.stop().requests, 0);
}

#[test]
fn refuses_doubtful_hosts() {
    let server = Served::start();
    for (request, detail) in [
        ("GET / HTTP/1.1\r\n\r\n", "missing"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "more than one Host"),
        ("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", "more than one Host"),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "Host"),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "Host"),
        ("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", "Host"),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", "Host"),
        ("GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", "Host"),
        ("GET / HTTP/1.1\r\nHost: a:80:80\r\n\r\n", "Host"),
        ("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", "Host"),
        ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", "Host"),
        ("GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n", "different hosts"),
        ("GET http://a:80/ HTTP/1.1\r\nHost: a:81\r\n\r\n", "different hosts"),
        ("GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", "target"),
        ("GET http:///a HTTP/1.1\r\nHost: a\r\n\r\n", "target"),
    ] {
        refused(&server, request, 400, detail);
    }
    let mut client = server.client();
    client.send("GET http://[::1]:8000/path HTTP/1.1\r\nHost: [::1]:8000\r\n\r\n");
    assert_eq!(client.answer().text(), "/path");
    client.send("GET HTTP://EXAMPLE.org/path?a=http://b HTTP/1.1\r\nHost: example.ORG\r\n\r\n");
    assert_eq!(client.answer().text(), "/path");
}

#[test]
fn refuses_what_it_does_not_offer() {
    let server = Served::start();
    refused(&server, "CONNECT test:443 HTTP/1.1\r\nHost: test\r\n\r\n", 501, "CONNECT");
    refused(&server, "GET / HTTP/2.0\r\nHost: test\r\n\r\n", 505, "versions");
    refused(&server, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "versions");
    refused(&server, "GET / HTTP/1.2\r\nHost: test\r\n\r\n", 505, "versions");
    refused(&server, "GET / HTTP/1.1\r\nHost: test\r\nExpect: 200-ok\r\n\r\n", 417, "100-continue");
}

#[test]
fn refuses_broken_chunks() {
    let server = Served::start();
    let head = with("Transfer-Encoding: chunked\r\n");
    for (body, detail) in [
        ("x\r\n", "chunked"),
        ("\r\n", "chunked"),
        ("-1\r\n", "chunked"),
        ("+1\r\na\r\n0\r\n\r\n", "chunked"),
        ("0x1\r\na\r\n0\r\n\r\n", "chunked"),
        ("1 \r\na\r\n0\r\n\r\n", "chunked"),
        (" 1\r\na\r\n0\r\n\r\n", "chunked"),
        ("1_0\r\n", "chunked"),
        ("00000000000000001\r\na\r\n", "chunked"),
        ("1\r\nab\r\n", "chunked"),
        ("1\r\na\n0\r\n\r\n", "chunked"),
        ("1\na\r\n0\r\n\r\n", "CR LF"),
        ("1;a\rb\r\na\r\n", "chunked"),
        ("1;a\nb\r\na\r\n", "CR LF"),
        ("0\n\r\n", "CR LF"),
        ("0\r\n\n", "CR LF"),
        ("0\r\nno colon\r\n\r\n", "header line"),
        ("0\r\nname : x\r\n\r\n", "header line"),
    ] {
        refused(&server, &format!("{head}{body}"), 400, detail);
    }
    let long = "x".repeat(1100);
    refused(&server, &format!("{head}1;{long}\r\na\r\n"), 400, "chunked");
    let some = format!("1;{}\r\na\r\n", "x".repeat(1000)).repeat(9);
    refused(&server, &format!("{head}{some}"), 400, "chunked");
    let trailers = format!("0\r\n{}", "A: b\r\n".repeat(101));
    refused(&server, &format!("{head}{trailers}\r\n"), 431, "headers");
    let trailer = format!("0\r\nA: {}\r\n", "b".repeat(9000));
    refused(&server, &format!("{head}{trailer}\r\n"), 431, "head");
    assert_eq!(server.stop().requests, 0);
}

#[test]
fn refuses_heads_that_are_too_large() {
    let server = Served::with(Settings { max_head_bytes: 1024, ..Settings::default() });
    let padded = |size: usize| {
        let fixed = "GET / HTTP/1.1\r\nHost: test\r\nPad: \r\n\r\n".len();
        format!("GET / HTTP/1.1\r\nHost: test\r\nPad: {}\r\n\r\n", "x".repeat(size - fixed))
    };
    let mut client = server.client();
    assert_eq!(client.send(padded(1024)).answer().status, 200);
    refused(&server, &padded(1025), 431, "larger");
    refused(&server, &padded(200_000), 431, "larger");
    refused(&server, &format!("GET /{} HTTP/1.1\r\n", "x".repeat(2000)), 431, "larger");
    refused(&server, &"x".repeat(2000), 431, "larger");

    let server = Served::with(Settings { max_headers: 3, ..Settings::default() });
    let mut client = server.client();
    client.send("GET / HTTP/1.1\r\nHost: test\r\nA: 1\r\nB: 2\r\n\r\n");
    assert_eq!(client.answer().status, 200);
    let four = "GET / HTTP/1.1\r\nHost: test\r\nA: 1\r\nB: 2\r\nC: 3\r\n\r\n";
    refused(&server, four, 431, "headers");
}

#[test]
fn refuses_targets_that_are_too_long() {
    let server = Served::with(Settings { max_target_bytes: 100, ..Settings::default() });
    let long = |length: usize| format!("GET /{} HTTP/1.1\r\nHost: test\r\n\r\n", "x".repeat(length - 1));
    assert_eq!(server.client().send(long(100)).answer().status, 200);
    refused(&server, &long(101), 414, "target");
    refused(&server, &long(20_000), 414, "target");
}

#[test]
fn refuses_bodies_that_are_too_large() {
    let server = Served::with(Settings { max_body_bytes: 10, ..Settings::default() });
    let mut client = server.client();
    assert_eq!(client.send(post("/length", "0123456789")).answer().text(), "10");
    // The length alone is enough: the body need not come.
    refused(&server, &with("Content-Length: 11\r\n"), 413, "larger");
    refused(&server, &with("Content-Length: 18446744073709551615\r\n"), 413, "larger");
    let chunked = with("Transfer-Encoding: chunked\r\n");
    refused(&server, &format!("{chunked}b\r\n"), 413, "larger");
    refused(&server, &format!("{chunked}9\r\n012345678\r\n2\r\n"), 413, "larger");
    refused(&server, &format!("{chunked}ffffffffffffffff\r\n"), 413, "larger");
    client.send(format!("{}5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n", chunked.replace("echo", "length")));
    assert_eq!(client.answer().text(), "10");
}

#[test]
fn shows_the_refusal_to_a_client_that_goes_on_sending() {
    let server = Served::with(Settings { max_body_bytes: 10, ..Settings::default() });
    let mut client = server.client();
    client.send(with("Content-Length: 200000\r\n"));
    for _ in 0..20 {
        client.send([b'x'; 10_000]);
    }
    assert_eq!(client.answer().status, 413);
    client.assert_closed();
}

#[test]
fn answers_earlier_requests_before_it_refuses_a_later_one() {
    let server = Served::start();
    let mut client = server.client();
    let bad = "GET / HTTP/1.1\r\nHost : test\r\n\r\n";
    client.send([&get("/first"), &get("/gate"), &post("/echo", "third"), bad].concat());
    assert_eq!(client.answer().text(), "/first");
    server.gate.wait_entered(1);
    server.gate.open();
    assert_eq!(client.answer().text(), "passed");
    assert_eq!(client.answer().text(), "third");
    let answer = client.answer();
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("header line"), "{}", answer.text());
    client.assert_closed();
    let stats = server.stop();
    assert_eq!((stats.requests, stats.refused), (3, 1));
}

#[test]
fn refuses_after_a_large_answer_that_the_client_reads_late() {
    const SIZE: usize = 4 * 1024 * 1024;
    let server = Served::start();
    let mut client = server.client();
    client.send([get(&format!("/big/{SIZE}")), "nonsense\r\n\r\n".to_owned()].concat());
    // Make sure the server has met both before anything is read.
    assert_eq!(server.client().get("/other").text(), "/other");
    assert!(client.answer().body == served::pattern(SIZE), "the body differs");
    assert_eq!(client.answer().status, 400);
    client.assert_closed();
}

#[test]
fn refuses_targets_that_no_parser_takes() {
    let server = Served::start();
    for target in ["/<script>", "/a`b", "http://a:b:c/", "http://[::1/", "/?<"] {
        refused(&server, &format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n"), 400, "target");
    }
    assert_eq!(server.client().get("/a?b={}|^").status, 200);
}
