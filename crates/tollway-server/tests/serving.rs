//! What a well-behaved client sees.

mod served;

use served::{Served, get, pattern, post};
use tollway_server::Settings;

#[test]
fn answers_on_one_connection_again_and_again() {
    let server = Served::start();
    let mut client = server.client();
    for round in 0..100 {
        let path = format!("/round/{round}");
        let answer = client.get(&path);
        assert_eq!((answer.status, answer.text()), (200, path.as_str()));
        assert!(!answer.closes());
    }
    drop(client);
    let stats = server.stop();
    assert_eq!((stats.accepted, stats.requests, stats.open), (1, 100, 0));
}

#[test]
fn dates_its_answers() {
    let server = Served::start();
    let answer = server.client().get("/");
    let date = answer.header("date").expect("a Date header");
    assert!(date.ends_with(" GMT") && date.len() == 29, "{date}");
}

#[test]
fn answers_pipelined_requests_in_order_across_a_suspended_handler() {
    let server = Served::start();
    let mut client = server.client();
    let requests = [get("/first"), get("/gate"), post("/echo", "third"), get("/fourth")];
    client.send(requests.concat());
    assert_eq!(client.answer().text(), "/first");
    server.gate.wait_entered(1);
    server.gate.open();
    assert_eq!(client.answer().text(), "passed");
    assert_eq!(client.answer().text(), "third");
    assert_eq!(client.answer().text(), "/fourth");
}

#[test]
fn answers_hundreds_of_pipelined_requests_in_order() {
    let server = Served::start();
    let mut client = server.client();
    let all: String = (0..2000).map(|index| get(&format!("/{index}"))).collect();
    let mut sender = client.socket.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        std::io::Write::write_all(&mut sender, all.as_bytes()).unwrap();
    });
    for index in 0..2000 {
        assert_eq!(client.answer().text(), format!("/{index}"));
    }
    sending.join().unwrap();
}

#[test]
fn accepts_a_request_byte_by_byte() {
    let server = Served::start();
    let mut client = server.client();
    for byte in post("/echo", "slowly").bytes() {
        client.send([byte]);
    }
    assert_eq!(client.answer().text(), "slowly");
}

#[test]
fn sends_no_body_to_head() {
    let server = Served::start();
    let mut client = server.client();
    client.send("HEAD /length HTTP/1.1\r\nHost: test\r\n\r\n");
    let answer = client.bodyless();
    assert_eq!((answer.status, answer.header("content-length")), (200, Some("1")));
    assert_eq!(client.get("/next").text(), "/next");
}

#[test]
fn sends_no_body_with_204() {
    let server = Served::start();
    let mut client = server.client();
    let answer = client.get("/no-content");
    assert_eq!((answer.status, answer.header("content-length")), (204, None));
    assert_eq!(client.get("/next").text(), "/next");
}

#[test]
fn asks_for_an_expected_body() {
    let server = Served::start();
    let mut client = server.client();
    client.send("POST /echo HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    assert!(client.head().starts_with("HTTP/1.1 100 "));
    client.send("hello");
    assert_eq!(client.answer().text(), "hello");
    assert_eq!(client.get("/next").text(), "/next");
}

#[test]
fn refuses_an_expected_body_that_is_too_large_without_asking_for_it() {
    let server = Served::with(Settings { max_body_bytes: 4, ..Settings::default() });
    let mut client = server.client();
    client.send("POST /echo HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    let answer = client.answer();
    assert_eq!(answer.status, 413);
    assert!(answer.closes());
}

#[test]
fn joins_chunked_bodies() {
    let server = Served::start();
    let mut client = server.client();
    let head = "POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.send(head).send("4\r\nWiki\r\n").send("5;name=value\r\npedia\r\n");
    client.send("0\r\nTrailer: yes\r\n\r\n");
    assert_eq!(client.answer().text(), "Wikipedia");
    client.send(head).send("0\r\n\r\n");
    assert_eq!(client.answer().text(), "");
    assert_eq!(client.get("/next").text(), "/next");
}

#[test]
fn takes_large_bodies_up_to_the_limit() {
    let limit = 3 * 1024 * 1024;
    let server = Served::with(Settings { max_body_bytes: limit, ..Settings::default() });
    let mut client = server.client();
    let body = pattern(limit);
    client.send(format!("POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: {limit}\r\n\r\n"));
    client.send(&body);
    assert!(client.answer().body == body, "the echo differs");

    client.send("POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
    for chunk in body.chunks(70_000) {
        client.send(format!("{:x}\r\n", chunk.len())).send(chunk).send("\r\n");
    }
    client.send("0\r\n\r\n");
    assert!(client.answer().body == body, "the chunked echo differs");
}

#[test]
fn takes_heads_up_to_the_limit() {
    let server = Served::with(Settings { max_head_bytes: 60_000, ..Settings::default() });
    let mut client = server.client();
    let head = format!("GET /long HTTP/1.1\r\nHost: test\r\nPad: {}\r\n\r\n", "x".repeat(59_000));
    client.send(&head);
    assert_eq!(client.answer().text(), "/long");
    client.send(&head);
    assert_eq!(client.answer().text(), "/long");
}

#[test]
fn takes_as_many_headers_as_allowed() {
    let server = Served::with(Settings { max_headers: 300, ..Settings::default() });
    let mut client = server.client();
    let lines: String = (1..300).map(|index| format!("X-{index}: y\r\n")).collect();
    client.send(format!("GET /many HTTP/1.1\r\nHost: test\r\n{lines}\r\n"));
    assert_eq!(client.answer().text(), "/many");
}

#[test]
fn closes_after_http_1_0_unless_asked_not_to() {
    let server = Served::start();
    let mut client = server.client();
    client.send("GET /old HTTP/1.0\r\n\r\n");
    assert_eq!(client.answer().text(), "/old");
    client.assert_closed();

    let mut client = server.client();
    client.send("GET /old HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.text(), answer.header("connection")), ("/old", Some("keep-alive")));
    client.send("GET /again HTTP/1.0\r\n\r\n");
    assert_eq!(client.answer().text(), "/again");
    client.assert_closed();
}

#[test]
fn closes_when_the_client_asks_for_it() {
    let server = Served::start();
    let mut client = server.client();
    client.send("GET /last HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    let answer = client.answer();
    assert!(answer.closes());
    assert_eq!(answer.text(), "/last");
    client.assert_closed();
}

#[test]
fn skips_one_empty_line_before_a_request() {
    let server = Served::start();
    let mut client = server.client();
    client.send(post("/echo", "form")).send("\r\n").send(get("/next"));
    assert_eq!(client.answer().text(), "form");
    assert_eq!(client.answer().text(), "/next");
}

#[test]
fn counts_the_length_itself() {
    let server = Served::start();
    let mut client = server.client();
    let answer = client.get("/liar");
    assert_eq!(answer.header("content-length"), Some("4"));
    assert_eq!(answer.header("transfer-encoding"), None);
    assert_eq!(answer.text(), "four");
    assert_eq!(client.get("/next").text(), "/next");
}

#[test]
fn sends_megabytes_to_a_slow_reader() {
    const SIZE: usize = 8 * 1024 * 1024;
    let server = Served::start();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&server.address.into()).unwrap();
    let mut client = served::Client::over(socket.into());
    client.send(get(&format!("/big/{SIZE}"))).send(get("/small"));
    // The answer is larger than all socket buffers: the server has to stop and
    // go on, and serves others meanwhile.
    assert_eq!(server.client().get("/other").text(), "/other");
    let answer = client.answer();
    assert!(answer.body == pattern(SIZE), "the body differs");
    assert_eq!(client.answer().text(), "/small");
}

#[test]
fn sends_pipelined_answers_that_do_not_fit_the_socket() {
    let server = Served::start();
    let mut client = server.client();
    let sizes = [300_000, 10, 20_000, 5, 1_000_000, 16_000, 400_000];
    let all: String = sizes.iter().map(|size| get(&format!("/big/{size}"))).collect();
    client.send(all);
    for size in sizes {
        assert!(client.answer().body == pattern(size), "the body of {size} bytes differs");
    }
}

#[test]
fn sends_statuses_that_have_no_body_without_one() {
    let server = Served::start();
    let mut client = server.client();
    for status in [204, 304] {
        let answer = client.send(get(&format!("/status/{status}"))).bodyless();
        assert_eq!(answer.status, status);
    }
    assert_eq!(client.get("/status/599").status, 599);
    assert_eq!(client.get("/next").text(), "/next");
}

#[test]
fn ends_the_connection_when_a_handler_answers_out_of_turn() {
    let server = Served::start();
    for status in [100, 101, 103] {
        let mut client = server.client();
        client.send(get(&format!("/status/{status}")));
        let rest = client.rest();
        let said = String::from_utf8_lossy(&rest);
        assert!(said.matches("HTTP/1.1").count() <= 1, "{status}: {said}");
    }
    assert_eq!(server.client().get("/next").text(), "/next");
}

#[test]
fn ignores_an_offer_to_upgrade() {
    let server = Served::start();
    let mut client = server.client();
    client.send("GET /chat HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(client.answer().text(), "/chat");
    assert_eq!(client.get("/next").text(), "/next");
}
