//! Bodies that come over time.

mod served;

use std::io::{ErrorKind, Read};
use std::time::Duration;

use served::{Served, get, pattern};
use tollway_server::Settings;

const FRAME: usize = 1000;

#[test]
fn sends_in_chunks_and_keeps_the_connection() {
    let server = Served::start();
    let mut client = server.client();
    for _ in 0..3 {
        let answer = client.send(get("/stream/7")).chunked();
        assert_eq!((answer.status, answer.header("content-length")), (200, None));
        assert_eq!(answer.body, pattern(FRAME).repeat(7));
    }
    assert_eq!(client.get("/next").text(), "/next");
    assert_eq!(server.stop().accepted, 1);
}

#[test]
fn states_a_length_that_is_known() {
    let server = Served::start();
    let mut client = server.client();
    let answer = client.get("/stream-known/5");
    assert_eq!(answer.header("transfer-encoding"), None);
    assert_eq!(answer.body, pattern(FRAME).repeat(5));
    assert_eq!(client.get("/next").text(), "/next");
}

#[test]
fn sends_each_piece_when_it_is_there() {
    let server = Served::start();
    let mut client = server.client();
    client.send(get("/stream-gate/1"));
    client.head();
    assert_eq!(client.chunk(), Some(pattern(FRAME)));
    server.gate.open();
    assert_eq!(client.chunk(), None);
    assert_eq!(client.get("/next").text(), "/next");
}

#[test]
fn answers_pipelined_requests_behind_a_stream() {
    let server = Served::start();
    let mut client = server.client();
    client.send([get("/stream-gate/1"), get("/second"), get("/stream/2")].concat());
    client.head();
    assert_eq!(client.chunk(), Some(pattern(FRAME)));
    server.gate.open();
    assert_eq!(client.chunk(), None);
    assert_eq!(client.answer().text(), "/second");
    assert_eq!(client.chunked().body.len(), 2 * FRAME);
}

#[test]
fn never_asks_for_the_body_of_a_head() {
    let server = Served::start();
    let mut client = server.client();
    client.send("HEAD /stream/9 HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(client.bodyless().status, 200);
    assert_eq!(client.get("/next").text(), "/next");
    assert_eq!(server.gate.entered(), 0);
}

#[test]
fn ends_with_the_connection_for_old_clients() {
    let server = Served::start();
    let mut client = server.client();
    client.send("GET /stream/3 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let answer = client.bodyless();
    assert_eq!(answer.header("transfer-encoding"), None);
    assert_ne!(answer.header("connection"), Some("keep-alive"));
    assert_eq!(client.rest(), pattern(FRAME).repeat(3));
}

#[test]
fn asks_for_no_more_than_a_slow_client_takes() {
    let server = Served::start();
    let mut client = server.client();
    client.send(get("/stream/40000"));
    client.head();
    // Another client is served meanwhile, and what it sees is a moment later.
    let mut before = 0;
    loop {
        for _ in 0..50 {
            server.client().get("/other");
        }
        let now = server.gate.entered();
        if now == before {
            break;
        }
        before = now;
    }
    // What the kernel holds for the two sockets, and little else.
    assert!(before * FRAME < 16 * 1024 * 1024, "{before} frames were asked for");
    let mut total = 0;
    while let Some(chunk) = client.chunk() {
        total += chunk.len();
    }
    assert_eq!(total, 40_000 * FRAME);
}

#[test]
fn gives_others_their_turn() {
    let server = Served::start();
    let mut greedy = server.client();
    greedy.send(get("/stream/20000"));
    let reading = std::thread::spawn(move || {
        greedy.head();
        let mut total = 0;
        while let Some(chunk) = greedy.chunk() {
            total += chunk.len();
        }
        total
    });
    server.gate.wait_entered(1);
    for _ in 0..20 {
        assert_eq!(server.client().get("/other").text(), "/other");
    }
    assert_eq!(reading.join().unwrap(), 20_000 * FRAME);
}

#[test]
fn drops_the_producer_when_the_client_goes() {
    let server = Served::start();
    let mut client = server.client();
    client.send(get("/stream-gate/1"));
    client.head();
    client.chunk();
    drop(client);
    server.gate.wait_left(1);
    assert_eq!(server.stop().cancelled, 1);
}

#[test]
fn a_client_that_takes_nothing_is_dropped() {
    let settings = Settings { write_timeout: Duration::from_millis(50), ..Settings::default() };
    let server = Served::with(settings);
    let mut client = server.client();
    client.send(get("/stream-gate/40000"));
    client.head();
    server.gate.wait_left(1);
    let stats = server.stop();
    assert_eq!((stats.timed_out, stats.cancelled), (1, 1));
}

#[test]
fn a_failure_in_mid_stream_has_no_clean_end() {
    let server = Served::start();
    let mut client = server.client();
    client.send(get("/stream-fail/2"));
    client.head();
    let rest = client.rest();
    assert!(!rest.ends_with(b"0\r\n\r\n"), "the chunked body ended as if it were whole");
    assert_eq!(server.client().get("/next").text(), "/next");
}

#[test]
fn a_failure_resets_an_old_client() {
    let server = Served::start();
    let mut client = server.client();
    client.send("GET /stream-fail/2 HTTP/1.0\r\n\r\n");
    let error = loop {
        match client.socket.read(&mut [0; 4096]) {
            Ok(0) => panic!("the body ended as if it were whole"),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_panic_in_mid_stream_ends_that_connection_only() {
    let server = Served::start();
    let mut client = server.client();
    client.send(get("/stream-panic/1"));
    client.wait_gone();
    assert_eq!(server.client().get("/next").text(), "/next");
    assert_eq!(server.stop().panics, 1);
}

#[test]
fn beats_while_nothing_comes() {
    let settings = Settings { linger_timeout: Duration::from_millis(8), ..Settings::default() };
    let server = Served::with(settings);
    let mut client = server.client();
    client.send(get("/stream-beat/1"));
    client.head();
    assert_eq!(client.chunk(), Some(pattern(FRAME)));
    for _ in 0..3 {
        assert_eq!(client.chunk(), Some(b"beat".to_vec()));
    }
    server.gate.open();
    while client.chunk().is_some() {}
    assert_eq!(client.get("/next").text(), "/next");
}
