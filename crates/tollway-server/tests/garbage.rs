//! Whatever clients send, the server goes on and leaks nothing.

mod served;

use std::io::Write;

use proptest::prelude::*;
use served::{Served, get, post};
use tollway_server::Settings;

fn fragment() -> impl Strategy<Value = Vec<u8>> {
    let words = vec![
        get("/a"),
        get("/big/70000"),
        get("/panic-late"),
        post("/echo", "twelve bytes"),
        "HEAD /a HTTP/1.1\r\nHost: test\r\n\r\n".to_owned(),
        "POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
        "POST /a HTTP/1.1\r\nHost: test\r\nContent-Length: 5000\r\n\r\n".to_owned(),
        "GET /a HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".to_owned(),
        "POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n".into(),
        "GET / HTTP/1.1\r\n".to_owned(),
        "4\r\nabcd\r\n".to_owned(),
        "0\r\n\r\n".to_owned(),
        "\r\n".to_owned(),
        "Host: test\r\n".to_owned(),
    ];
    prop_oneof![
        9 => prop::sample::select(words).prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..40),
    ]
}

#[test]
fn survives_garbage() {
    let server = Served::with(Settings { max_body_bytes: 100_000, ..Settings::default() });
    let address = server.address;
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig { cases: 300, ..ProptestConfig::default() });
    let parts = prop::collection::vec(fragment(), 1..12);
    let outcome = runner.run(&(parts, any::<bool>()), |(parts, at_once)| {
        let mut client = served::Client::connect(address);
        if at_once {
            let _ = client.socket.write_all(&parts.concat());
        } else {
            for part in &parts {
                // The server may have closed by now, as it should.
                let _ = client.socket.write_all(part);
            }
        }
        let _ = client.socket.shutdown(std::net::Shutdown::Write);
        client.wait_gone();
        let alive = served::Client::connect(address).get("/alive");
        prop_assert_eq!(alive.text(), "/alive");
        Ok(())
    });
    outcome.unwrap();
    assert_eq!(server.stop().open, 0);
}
