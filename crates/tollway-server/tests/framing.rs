//! Laws of the framing guard.

use proptest::prelude::*;
use tollway_server::framing::{Guard, Inspection, Limits, Refusal};

const LIMITS: Limits = Limits { max_head_bytes: 256, max_target_bytes: 100, max_headers: 6, max_body_bytes: 64 };

/// What a guard made of a whole input.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    cleared: usize,
    refusal: Option<Refusal>,
    messages: u64,
    in_body: bool,
}

/// Gives the input in pieces, the way a connection does: what was not cleared
/// is given again with more behind it.
fn run(input: &[u8], cuts: &[usize]) -> Outcome {
    let mut guard = Guard::new(LIMITS);
    let mut start = 0;
    let mut refusal = None;
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (input.len() + 1)).collect();
    ends.push(input.len());
    ends.sort_unstable();
    for end in ends {
        let Inspection { cleared, refusal: found } = guard.inspect(&input[start..end]);
        assert!(cleared <= end - start, "more cleared than given");
        assert!(refusal.is_none() || cleared == 0, "cleared after a refusal");
        assert!(refusal.is_none() || found == refusal, "the refusal changed");
        start += cleared;
        refusal = found;
    }
    Outcome { cleared: start, refusal, messages: guard.messages(), in_body: guard.in_body() }
}

/// Pieces of messages, good and bad, so that random sequences get far.
fn fragment() -> impl Strategy<Value = Vec<u8>> {
    let words: Vec<&'static [u8]> = vec![
        b"GET / HTTP/1.1\r\n",
        b"POST /p?q=1 HTTP/1.1\r\n",
        b"GET / HTTP/1.0\r\n",
        b"GET / HTTP/2.0\r\n",
        b"Host: a\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 7\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"Content-Length: 3\r\n",
        b"content-length: 65\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip\r\n",
        b"Expect: 100-continue\r\n",
        b"X: y\r\n",
        b"X : y\r\n",
        b" folded\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b"abc",
        b"1234567",
        b"3\r\nabc\r\n",
        b"5;ext=1\r\n12345\r\n",
        b"ff\r\n",
        b"0\r\n",
        b"0\r\n\r\n",
        b"0\r\nTrailer: x\r\n\r\n",
    ];
    prop_oneof![
        8 => prop::sample::select(words).prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>(), 0..12),
        1 => (0_usize..300).prop_map(|count| vec![b'x'; count]),
    ]
}

fn input() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(fragment(), 0..14).prop_map(|parts| parts.concat())
}

/// Follows cleared bytes with httparse. Answers how many heads there are and
/// whether the last one's body is incomplete.
fn count_messages(mut bytes: &[u8]) -> Result<(u64, bool), String> {
    let mut messages = 0;
    while !bytes.is_empty() {
        let mut headers = [httparse::EMPTY_HEADER; 16];
        let mut request = httparse::Request::new(&mut headers);
        let head = match request.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            other => return Err(format!("{other:?} in {:?}", String::from_utf8_lossy(bytes))),
        };
        messages += 1;
        let named = |name: &str| {
            let all = request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
            all.map(|header| header.value.to_vec()).collect::<Vec<_>>()
        };
        let (lengths, codings) = (named("content-length"), named("transfer-encoding"));
        if lengths.len() + codings.len() > 1 {
            return Err("ambiguous".to_owned());
        }
        let hosts = named("host").len();
        if hosts > 1 || (hosts == 0 && request.version == Some(1)) {
            return Err(format!("{hosts} hosts"));
        }
        bytes = &bytes[head..];
        let body = match (lengths.first(), codings.is_empty()) {
            (Some(length), _) => std::str::from_utf8(length).unwrap().parse().ok(),
            (None, true) => Some(0),
            (None, false) => chunked_length(bytes)?,
        };
        match body.and_then(|length: usize| bytes.get(length..)) {
            Some(rest) => bytes = rest,
            None => return Ok((messages, true)),
        }
    }
    Ok((messages, false))
}

/// Bytes of a chunked body with all its framing, if it is complete.
fn chunked_length(bytes: &[u8]) -> Result<Option<usize>, String> {
    let mut at = 0;
    loop {
        let (line, size) = match httparse::parse_chunk_size(&bytes[at..]) {
            Ok(httparse::Status::Complete(found)) => found,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(error) => return Err(format!("{error:?}")),
        };
        at += line;
        if size == 0 {
            // Trailers end where an empty line begins.
            let end = bytes[at - 2..].windows(4).position(|window| window == b"\r\n\r\n");
            return Ok(end.map(|end| at + end + 2));
        }
        at += usize::try_from(size).unwrap() + 2;
        if at > bytes.len() {
            return Ok(None);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn cutting_the_input_changes_nothing(
        input in input(),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let whole = run(&input, &[]);
        prop_assert_eq!(&run(&input, &cuts), &whole);
        let every: Vec<usize> = (0..input.len()).collect();
        prop_assert_eq!(&run(&input, &every), &whole);
    }

    #[test]
    fn any_bytes_are_survived(input in prop::collection::vec(any::<u8>(), 0..600)) {
        let outcome = run(&input, &[]);
        prop_assert!(outcome.cleared <= input.len());
    }

    /// Another parser finds the same messages in what was cleared, and each of
    /// them says in exactly one way where it ends.
    #[test]
    fn another_parser_agrees_on_what_was_cleared(input in input()) {
        let outcome = run(&input, &[]);
        let heads = count_messages(&input[..outcome.cleared]);
        prop_assert_eq!(heads, Ok((outcome.messages, outcome.in_body)));
    }

    /// Messages that are well formed are cleared to the last byte, however many
    /// follow each other, and counted.
    #[test]
    fn good_messages_are_cleared(
        bodies in prop::collection::vec(
            (any::<bool>(), prop::collection::vec(any::<u8>(), 0..64), 1_usize..20), 1..6),
        cuts in prop::collection::vec(any::<usize>(), 0..20),
    ) {
        let mut input = Vec::new();
        for (chunked, body, size) in &bodies {
            input.extend_from_slice(b"POST / HTTP/1.1\r\nHost: a\r\n");
            if *chunked {
                input.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
                for piece in body.chunks(*size) {
                    input.extend_from_slice(format!("{:X}\r\n", piece.len()).as_bytes());
                    input.extend_from_slice(piece);
                    input.extend_from_slice(b"\r\n");
                }
                input.extend_from_slice(b"0\r\n\r\n");
            } else {
                let line = format!("Content-Length: {}\r\n\r\n", body.len());
                input.extend_from_slice(line.as_bytes());
                input.extend_from_slice(body);
            }
        }
        let expected = Outcome {
            cleared: input.len(),
            refusal: None,
            messages: bodies.len() as u64,
            in_body: false,
        };
        prop_assert_eq!(run(&input, &cuts), expected);
    }
}

#[test]
fn every_refusal_has_a_status_and_a_sentence() {
    for refusal in [Refusal::BareLf, Refusal::BodyTooLarge, Refusal::HeadTimeout, Refusal::Tunnel] {
        assert!((400..600).contains(&refusal.status()));
        assert!(refusal.detail().ends_with('.'));
    }
}
