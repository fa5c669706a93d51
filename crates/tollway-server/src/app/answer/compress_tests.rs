use std::io::Read;
use std::task::Waker;

use http_body::Body as _;

use super::*;

fn config() -> Compression {
    let types = ["text/", "application/json", "+json"].map(str::to_owned).to_vec();
    Compression { minimum_size: 100, codings: vec![(Coding::Zstd, 3), (Coding::Brotli, 4), (Coding::Gzip, 6)], types }
}

fn asked(accept: &str) -> HeaderMap {
    [(ACCEPT_ENCODING, HeaderValue::from_str(accept).unwrap())].into_iter().collect()
}

fn applied(accept: &str, kind: &str, body: Body, change: impl FnOnce(&mut Response<Body>)) -> Response<Body> {
    let config = config();
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_str(kind).unwrap());
    change(&mut response);
    config.apply(config.accepted(&asked(accept)), &mut response);
    response
}

fn coding(response: &Response<Body>) -> Option<&str> {
    response.headers().get(CONTENT_ENCODING).map(|value| value.to_str().unwrap())
}

fn text(length: usize) -> Vec<u8> {
    (0..length).map(|index| b'a' + (index % 7 * index % 23) as u8).collect()
}

/// All bytes of a body, polled as the engine does.
fn collect(mut body: Body) -> Vec<u8> {
    let mut all = Vec::new();
    let mut context = Context::from_waker(Waker::noop());
    let mut turns = 0;
    while turns < 10_000 {
        match Pin::new(&mut body).poll_frame(&mut context) {
            Poll::Ready(Some(frame)) => all.extend_from_slice(&frame.unwrap().into_data().unwrap()),
            Poll::Ready(None) => return all,
            Poll::Pending => turns += 1,
        }
    }
    panic!("the body never ends");
}

fn decoded(coding: &str, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match coding {
        "gzip" => drop(flate2::read::GzDecoder::new(bytes).read_to_end(&mut out).unwrap()),
        "br" => drop(brotli::Decompressor::new(bytes, 4096).read_to_end(&mut out).unwrap()),
        _ => out = zstd::decode_all(bytes).unwrap(),
    }
    out
}

#[test]
fn a_client_gets_what_it_likes_best() {
    for (accept, expected) in [
        ("gzip, br, zstd", Some("zstd")),
        ("gzip;q=1.0, br;q=0.9", Some("gzip")),
        ("gzip;q=0.5, br;q=0.8, zstd;q=0", Some("br")),
        ("GZIP", Some("gzip")),
        ("*", Some("zstd")),
        ("*;q=0.1, gzip", Some("gzip")),
        ("zstd;q=0, *", Some("br")),
        ("identity", None),
        ("deflate", None),
        ("gzip;q=0", None),
        ("gzip;q=oops", None),
    ] {
        let response = applied(accept, "text/plain", Body::from(text(5000)), |_| ());
        assert_eq!(coding(&response), expected, "{accept}");
        assert_eq!(response.headers()[VARY], "accept-encoding", "{accept}");
    }
}

#[test]
fn bodies_of_every_size_come_out_as_they_went_in() {
    for name in ["gzip", "br", "zstd"] {
        for length in [100, 5000, PIECE, PIECE + 1, 10 * PIECE + 17] {
            let response = applied(name, "application/problem+json", Body::from(text(length)), |_| ());
            assert_eq!(coding(&response), Some(name), "{length}");
            assert_eq!(response.body().exact_len().is_some(), length <= PIECE);
            assert_eq!(decoded(name, &collect(response.into_body())), text(length), "{name} {length}");
        }
    }
}

#[test]
fn a_large_body_is_compressed_in_pieces() {
    let mut body = applied("gzip", "text/plain", Body::from(text(10 * PIECE)), |_| ()).into_body();
    let mut context = Context::from_waker(Waker::noop());
    let mut pauses = 0;
    loop {
        match Pin::new(&mut body).poll_frame(&mut context) {
            Poll::Ready(None) => break,
            Poll::Ready(Some(_)) => {}
            Poll::Pending => pauses += 1,
        }
    }
    assert_eq!(pauses, 10);
}

#[test]
fn what_is_left_as_it_is() {
    let set = |name: http::HeaderName, value: &'static str| {
        move |response: &mut Response<Body>| drop(response.headers_mut().insert(name, HeaderValue::from_static(value)))
    };
    type Change = Box<dyn FnOnce(&mut Response<Body>)>;
    let untouched = |kind: &str, change: Change| {
        let response = applied("gzip", kind, Body::from(text(5000)), change);
        assert_eq!((response.headers().get(VARY), response.body().exact_len()), (None, Some(5000)), "{kind}");
    };
    untouched("image/png", Box::new(|_| ()));
    untouched("text/event-stream", Box::new(|_| ()));
    untouched("text/plain", Box::new(set(CONTENT_ENCODING, "br")));
    untouched("text/plain", Box::new(set(CACHE_CONTROL, "public, no-transform")));
    untouched("text/plain", Box::new(set(CONTENT_RANGE, "bytes 0-4999/10000")));
    untouched("text/plain", Box::new(|response| *response.status_mut() = StatusCode::PARTIAL_CONTENT));
    let short = applied("gzip", "text/plain", Body::from(text(99)), |_| ());
    assert_eq!((coding(&short), short.headers().get(VARY)), (None, None));
    // Bytes without any order do not become shorter: then the body is sent as it was.
    let mut noise = 1_u64;
    let random: Vec<u8> = (0..5000)
        .map(|_| {
            noise = noise.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (noise >> 56) as u8
        })
        .collect();
    let response = applied("gzip", "text/plain", Body::from(random), |_| ());
    assert_eq!((coding(&response), response.body().exact_len()), (None, Some(5000)));
}

#[test]
fn validators_and_ranges_change_with_the_bytes() {
    let response = applied("gzip", "text/plain; charset=utf-8", Body::from(text(5000)), |response| {
        response.headers_mut().insert(ETAG, HeaderValue::from_static("\"abc\""));
        response.headers_mut().insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        response.headers_mut().insert(VARY, HeaderValue::from_static("Cookie"));
    });
    assert_eq!(response.headers()[ETAG], "W/\"abc\"");
    assert!(!response.headers().contains_key(ACCEPT_RANGES));
    let vary: Vec<_> = response.headers().get_all(VARY).iter().collect();
    assert_eq!(vary, ["Cookie", "accept-encoding"]);
}
