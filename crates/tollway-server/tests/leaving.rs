//! Ends: of clients, of handlers, of the server.

mod served;

use std::sync::Arc;

use served::{Client, Served, get, post};
use tollway_server::Settings;

#[test]
fn drops_the_handler_when_the_client_disconnects() {
    let server = Served::start();
    let mut client = server.client();
    client.send(get("/gate"));
    server.gate.wait_entered(1);
    drop(client);
    server.gate.wait_left(1);
    let stats = server.stop();
    assert_eq!((stats.cancelled, stats.requests, stats.open), (1, 1, 0));
}

#[test]
fn drops_the_handler_when_the_client_resets() {
    let server = Served::start();
    let mut client = server.client();
    client.send(get("/gate"));
    server.gate.wait_entered(1);
    let socket = socket2::Socket::from(client.socket);
    socket.set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(socket);
    server.gate.wait_left(1);
    assert_eq!(server.stop().cancelled, 1);
}

#[test]
fn drops_the_handler_when_pipelined_requests_wait_behind_it() {
    let server = Served::start();
    let mut client = server.client();
    client.send([get("/gate"), get("/second"), get("/third")].concat());
    server.gate.wait_entered(1);
    drop(client);
    server.gate.wait_left(1);
    assert_eq!(server.stop().requests, 1);
}

#[test]
fn takes_a_half_close_for_a_disconnect() {
    let server = Served::start();
    let mut client = server.client();
    client.send(get("/gate"));
    server.gate.wait_entered(1);
    client.finish_sending();
    server.gate.wait_left(1);
    client.assert_closed();
}

#[test]
fn answers_over_a_half_close_if_told_to() {
    let server = Served::with(Settings { cancel_on_half_close: false, ..Settings::default() });
    let mut client = server.client();
    client.send(get("/gate")).finish_sending();
    server.gate.wait_entered(1);
    server.gate.open();
    assert_eq!(client.answer().text(), "passed");
    client.assert_closed();
    assert_eq!(server.stop().cancelled, 0);
}

#[test]
fn answers_at_once_what_needs_no_waiting_before_a_half_close() {
    let server = Served::start();
    let mut client = server.client();
    client.send([get("/first"), get("/second")].concat()).finish_sending();
    assert_eq!(client.answer().text(), "/first");
    assert_eq!(client.answer().text(), "/second");
    client.assert_closed();
}

#[test]
fn survives_a_client_that_leaves_in_a_head_or_a_body() {
    let server = Served::start();
    for part in ["GET / HT", "POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 9\r\n\r\nabc"] {
        let mut client = server.client();
        client.send(part);
        client.finish_sending();
        client.rest();
    }
    assert_eq!(server.client().get("/still").text(), "/still");
    assert_eq!(server.stop().requests, 1);
}

#[test]
fn answers_500_when_a_handler_panics() {
    let server = Served::start();
    let mut other = server.client();
    assert_eq!(other.get("/before").text(), "/before");
    for (path, replaced) in [("/panic", None), ("/panic-late", Some("yes"))] {
        let mut client = server.client();
        client.send([get(path), get("/unserved")].concat());
        let answer = client.answer();
        assert_eq!((answer.status, answer.header("x-replaced")), (500, replaced));
        assert!(answer.text().contains("\"status\":500"), "{}", answer.text());
        assert!(!answer.text().contains("on purpose"), "the cause is not for the client");
        client.assert_closed();
    }
    assert_eq!(other.get("/after").text(), "/after");
    let stats = server.stop();
    assert_eq!((stats.panics, stats.requests), (2, 4));
}

#[test]
fn holds_many_suspended_handlers_at_once() {
    let server = Served::start();
    let mut clients: Vec<Client> = (0..200).map(|_| server.client()).collect();
    for client in &mut clients {
        client.send(get("/gate"));
    }
    server.gate.wait_entered(200);
    server.gate.open();
    for client in &mut clients {
        assert_eq!(client.answer().text(), "passed");
    }
    for client in &mut clients {
        assert_eq!(client.get("/next").text(), "/next");
    }
}

#[test]
fn lets_clients_wait_above_the_connection_cap() {
    let server = Served::with(Settings { max_connections: 2, ..Settings::default() });
    let mut first = server.client();
    let mut second = server.client();
    assert_eq!(first.get("/1").text(), "/1");
    assert_eq!(second.get("/2").text(), "/2");
    let mut third = server.client();
    third.send(get("/3"));
    // The third is connected, by the kernel, and not served: both others are.
    assert_eq!(first.get("/1").text(), "/1");
    third.socket.set_nonblocking(true).unwrap();
    assert!(third.socket.peek(&mut [0]).is_err(), "served above the cap");
    third.socket.set_nonblocking(false).unwrap();
    drop(first);
    assert_eq!(third.answer().text(), "/3");
    assert_eq!(second.get("/2").text(), "/2");
}

#[test]
fn finishes_what_has_begun_when_it_shuts_down() {
    let server = Served::start();
    let mut idle = server.client();
    assert_eq!(idle.get("/").status, 200);
    let mut waiting = server.client();
    waiting.send(get("/gate"));
    server.gate.wait_entered(1);
    let mut sending = server.client();
    sending.send("POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nab");
    let mut fresh = server.client();
    assert_eq!(idle.get("/").status, 200);

    server.stopper.stop();
    idle.assert_closed();
    assert!(std::net::TcpStream::connect(server.address).is_err(), "still accepting");

    let answer = sending.send("cd").answer();
    assert_eq!((answer.text(), answer.closes()), ("abcd", true));
    sending.assert_closed();
    let answer = fresh.send(get("/fresh")).answer();
    assert_eq!((answer.text(), answer.closes()), ("/fresh", true));
    fresh.assert_closed();
    server.gate.open();
    let answer = waiting.answer();
    assert_eq!((answer.text(), answer.closes()), ("passed", true));
    waiting.assert_closed();
    drop((idle, waiting, sending, fresh));
    let stats = server.stop();
    assert_eq!((stats.cancelled, stats.open), (0, 0));
}

#[test]
fn serves_connections_that_queued_up_before_shutdown() {
    let server = Served::with(Settings { max_connections: 1, ..Settings::default() });
    let mut holder = server.client();
    holder.send(get("/gate"));
    server.gate.wait_entered(1);
    let mut queued: Vec<Client> = (0..20).map(|_| server.client()).collect();
    for client in &mut queued {
        client.send(get("/queued"));
    }
    server.stopper.stop();
    for client in &mut queued {
        let answer = client.answer();
        assert_eq!((answer.text(), answer.closes()), ("/queued", true));
    }
    server.gate.open();
    assert_eq!(holder.answer().text(), "passed");
}

#[test]
fn cancels_handlers_when_it_is_aborted() {
    let server = Served::start();
    let mut client = server.client();
    client.send(get("/gate"));
    server.gate.wait_entered(1);
    let stats = server.abort();
    assert_eq!((stats.cancelled, stats.open), (1, 0));
    client.wait_gone();
}

/// Clients hammer the server while it shuts down. What counts: an answer that
/// has begun is complete, and every request the server took was answered.
#[test]
fn loses_no_request_when_it_shuts_down_under_load() {
    const CLIENTS: usize = 8;
    let server = Served::start();
    let warm = Arc::new(std::sync::Barrier::new(CLIENTS + 1));
    let threads: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (address, warm) = (server.address, Arc::clone(&warm));
            std::thread::spawn(move || hammer(address, &warm))
        })
        .collect();
    warm.wait();
    server.gate.open();
    let stats = server.stop();
    let answered: u64 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    assert_eq!(stats.requests, answered);
    assert_eq!((stats.cancelled, stats.open), (0, 0));
}

/// Sends requests until the server closes, and answers how many were answered.
fn hammer(address: std::net::SocketAddr, warm: &std::sync::Barrier) -> u64 {
    let mut answered = 0;
    let mut client = Client::connect(address);
    for _ in 0..50 {
        assert_eq!(client.send(post("/echo", "warm")).answer().text(), "warm");
        answered += 1;
    }
    warm.wait();
    loop {
        if std::io::Write::write_all(&mut client.socket, get("/gate").as_bytes()).is_err() {
            return answered;
        }
        // Either nothing of an answer comes, or all of it.
        match client.socket.peek(&mut [0]) {
            Ok(0) | Err(_) => return answered,
            Ok(_) => {}
        }
        let answer = client.answer();
        assert_eq!(answer.text(), "passed");
        answered += 1;
        if answer.closes() {
            return answered;
        }
    }
}
