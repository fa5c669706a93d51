//! Opening the port, and what is said when that fails.

use std::error::Error;
use std::net::TcpListener;

use tollway_server::{Body, Engine, Request, Response, Settings, bind, check_free};

#[test]
fn names_a_taken_port_and_the_way_out() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for reuse_port in [false, true] {
        let error = bind("127.0.0.1", port, reuse_port).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
        let said = error.to_string();
        assert!(said.contains(&format!("port {port} on 127.0.0.1")), "{said}");
        assert!(said.contains("already in use") && said.contains("--port"), "{said}");
        assert!(error.source().is_some());
    }
}

#[test]
fn shares_a_port_only_when_both_agree() {
    let first = bind("127.0.0.1", 0, true).unwrap();
    let port = first.local_addr().unwrap().port();
    let second = bind("127.0.0.1", port, true).unwrap();
    assert_eq!(second.local_addr().unwrap().port(), port);
    assert!(bind("127.0.0.1", port, false).is_err());
    // The question before workers are started finds the sharing server too.
    let error = check_free("127.0.0.1", port).unwrap_err();
    assert!(error.to_string().contains("already in use"), "{error}");
    drop((first, second));
    check_free("127.0.0.1", port).unwrap();
    let again = bind("127.0.0.1", port, true).unwrap();
    assert_eq!(again.local_addr().unwrap().port(), port);
}

#[test]
fn names_an_address_of_another_machine() {
    let error = bind("192.0.2.1", 0, false).unwrap_err();
    assert!(error.to_string().contains("192.0.2.1 is not an address of this machine"), "{error}");
}

#[test]
fn names_a_host_that_does_not_exist() {
    let error = bind("no such host", 8000, false).unwrap_err();
    let said = error.to_string();
    assert!(said.contains("\"no such host\" cannot be resolved"), "{said}");
    assert!(said.contains("--host"), "{said}");
}

#[test]
fn resolves_names_and_bracketed_addresses() {
    assert!(bind("localhost", 0, false).unwrap().local_addr().unwrap().ip().is_loopback());
    // Machines without IPv6 answer with an error; those with it listen there.
    if let Ok(listener) = bind("[::1]", 0, false) {
        assert!(listener.local_addr().unwrap().is_ipv6());
    }
}

#[test]
fn names_the_setting_that_cannot_work() {
    let listener = bind("127.0.0.1", 0, false).unwrap();
    let settings = Settings { max_connections: 0, ..Settings::default() };
    let handler = |_: Request| async { Response::new(Body::Empty) };
    let error = Engine::new(listener, handler, settings).err().unwrap();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    assert!(error.to_string().contains("max_connections must be from 1"), "{error}");
}
