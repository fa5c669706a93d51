//! Slow clients. The time-outs are real but short; the assertions are about what
//! happens, and about time only in so far as nothing happens before its time.

mod served;

use std::time::{Duration, Instant};

use served::{Served, get};
use tollway_server::Settings;

const SHORT: Duration = Duration::from_millis(150);

/// Runs `wait` and checks that it took at least the time-out.
fn after<R>(timeout: Duration, wait: impl FnOnce() -> R) -> R {
    let start = Instant::now();
    let result = wait();
    let took = start.elapsed();
    assert!(took >= timeout.mul_f64(0.9), "already after {took:?}");
    result
}

#[test]
fn gives_up_on_a_slow_head() {
    let server = Served::with(Settings { header_timeout: SHORT, ..Settings::default() });
    let mut client = server.client();
    client.send("GET / HTTP/1.1\r\n");
    let answer = after(SHORT, || client.answer());
    assert_eq!(answer.status, 408);
    assert!(answer.closes());
    client.assert_closed();
    let stats = server.stop();
    assert_eq!((stats.refused, stats.timed_out, stats.requests), (1, 1, 0));
}

#[test]
fn does_not_let_a_head_drip_in() {
    let server = Served::with(Settings { header_timeout: SHORT, ..Settings::default() });
    let mut client = server.client();
    let start = Instant::now();
    client.socket.set_nonblocking(true).unwrap();
    let mut sent = 0;
    let mut probe = [0];
    // A byte every few milliseconds must not put the time-out off.
    while client.socket.peek(&mut probe).is_err() {
        assert!(start.elapsed() < served::PATIENCE, "{sent} bytes and no answer");
        sent += usize::from(std::io::Write::write(&mut client.socket, b"G").is_ok());
        std::thread::park_timeout(SHORT / 20);
    }
    client.socket.set_nonblocking(false).unwrap();
    assert_eq!(client.answer().status, 408);
}

#[test]
fn closes_silently_when_nothing_comes_at_all() {
    let server = Served::with(Settings { header_timeout: SHORT, ..Settings::default() });
    let mut client = server.client();
    after(SHORT, || client.assert_closed());
    assert_eq!(server.stop().timed_out, 1);
}

#[test]
fn gives_up_on_a_slow_body() {
    let server = Served::with(Settings { body_timeout: SHORT, ..Settings::default() });
    for head in ["Content-Length: 10\r\n\r\n12345", "Transfer-Encoding: chunked\r\n\r\n5\r\n123"] {
        let mut client = server.client();
        client.send(format!("POST /echo HTTP/1.1\r\nHost: test\r\n{head}"));
        let answer = after(SHORT, || client.answer());
        assert_eq!((answer.status, answer.header("x-refused")), (408, Some("/echo")));
        client.assert_closed();
    }
    let stats = server.stop();
    assert_eq!((stats.requests, stats.timed_out), (0, 2));
}

#[test]
fn closes_idle_connections() {
    let server = Served::with(Settings { keep_alive_timeout: SHORT, ..Settings::default() });
    let mut client = server.client();
    assert_eq!(client.get("/").status, 200);
    after(SHORT, || client.assert_closed());
    assert_eq!(server.stop().timed_out, 0);
}

#[test]
fn gives_up_on_a_handler_that_never_answers() {
    let server = Served::with(Settings { handler_timeout: Some(SHORT), ..Settings::default() });
    let mut client = server.client();
    client.send([get("/gate"), get("/second")].concat());
    let answer = after(SHORT, || client.answer());
    assert_eq!((answer.status, answer.header("x-replaced")), (504, Some("yes")));
    assert!(answer.text().contains("took too long"), "{}", answer.text());
    // Its future is gone, and with it what it held.
    server.gate.wait_left(1);
    client.assert_closed();
    let stats = server.stop();
    assert_eq!((stats.overdue, stats.open, stats.timed_out), (1, 0, 0));
}

#[test]
fn lets_a_handler_take_its_time() {
    let server = Served::with(Settings {
        handler_timeout: None,
        header_timeout: SHORT,
        body_timeout: SHORT,
        keep_alive_timeout: SHORT,
        write_timeout: SHORT,
        linger_timeout: SHORT,
        ..Settings::default()
    });
    let mut client = server.client();
    let mut other = server.client();
    client.send(get("/gate"));
    server.gate.wait_entered(1);
    // Meanwhile the same time passes for a second connection, which ends by it.
    other.assert_closed();
    server.gate.open();
    assert_eq!(client.answer().text(), "passed");
}

#[test]
fn gives_up_on_a_client_that_does_not_read() {
    let server = Served::with(Settings { write_timeout: SHORT, ..Settings::default() });
    let mut client = server.client();
    client.send(get("/big/50000000"));
    // Nothing is read until the server has given up: then less than all comes.
    let mut other = server.client();
    let start = Instant::now();
    while server_open(&server) > 1 {
        assert!(start.elapsed() < served::PATIENCE, "the server still waits");
        assert_eq!(other.get("/").status, 200);
        std::thread::park_timeout(SHORT / 10);
    }
    assert!(start.elapsed() >= SHORT.mul_f64(0.9));
    client.wait_gone();
    drop(other);
    assert_eq!(server.stop().timed_out, 1);
}

/// Sockets the server side holds, as the kernel sees them.
fn server_open(server: &Served) -> usize {
    let port = format!(":{:04X}", server.address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let established = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields[1].ends_with(&port) && fields[3] == "01"
    };
    table.lines().skip(1).filter(established).count()
}

#[test]
fn stops_waiting_for_a_refused_client() {
    let server = Served::with(Settings { linger_timeout: SHORT, ..Settings::default() });
    let mut client = server.client();
    client.send("nonsense\r\n\r\n");
    assert_eq!(client.answer().status, 400);
    // The client neither closes nor sends; the connection ends all the same,
    // so that shutdown does not hang on it.
    let stats = server.stop();
    assert_eq!((stats.open, stats.refused), (0, 1));
    drop(client);
}
