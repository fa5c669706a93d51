//! Checks a request head line by line, as the lines arrive.

use memchr::memchr;

use super::{Limits, Refusal, is_host};

/// How the body that follows a head is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// That many bytes follow.
    Length(u64),
    /// Chunks follow.
    Chunked,
}

/// What the lines read so far say about the framing.
#[derive(Debug, Default)]
pub(super) struct Head {
    /// Start of the first line that is not complete.
    line_start: usize,
    /// Everything before this offset was searched for a line end.
    searched: usize,
    request_line: Option<RequestLine>,
    /// The host that an absolute target names.
    authority: Option<Box<[u8]>>,
    skipped_empty_line: bool,
    headers: usize,
    hosts: usize,
    length: Option<u64>,
    coding: Option<Coding>,
    unknown_expectation: bool,
}

#[derive(Clone, Copy, Debug)]
struct RequestLine {
    is_1_1: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    Chunked,
    Other,
}

impl Head {
    /// Reads the complete lines in `bytes`, which begin at the start of the
    /// head every time. Answers the length of the head once it is complete.
    pub(super) fn advance(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<(usize, Framing)>, Refusal> {
        while let Some(found) = memchr(b'\n', &bytes[self.searched..]) {
            let end = self.searched + found;
            if end >= limits.max_head_bytes {
                return Err(Refusal::HeadTooLarge);
            }
            let line = bytes[self.line_start..end].strip_suffix(b"\r").ok_or(Refusal::BareLf)?;
            self.searched = end + 1;
            self.line_start = end + 1;
            if let Some(framing) = self.line(line, limits)? {
                return Ok(Some((end + 1, framing)));
            }
        }
        self.searched = bytes.len();
        if bytes.len() > limits.max_head_bytes {
            return Err(Refusal::HeadTooLarge);
        }
        Ok(None)
    }

    fn line(&mut self, line: &[u8], limits: &Limits) -> Result<Option<Framing>, Refusal> {
        let Some(request_line) = self.request_line else {
            if line.is_empty() && !self.skipped_empty_line {
                self.skipped_empty_line = true;
            } else {
                self.begin(line, limits)?;
            }
            return Ok(None);
        };
        if line.is_empty() {
            return self.end(request_line, limits).map(Some);
        }
        self.headers += 1;
        if self.headers > limits.max_headers {
            return Err(Refusal::TooManyHeaders);
        }
        let (name, value) = field(line)?;
        self.note(name, value)?;
        Ok(None)
    }

    /// Reads the request line.
    fn begin(&mut self, line: &[u8], limits: &Limits) -> Result<(), Refusal> {
        let (request_line, target) = request_line(line)?;
        if target.len() > limits.max_target_bytes {
            return Err(Refusal::TargetTooLong);
        }
        if let Some(authority) = authority(target) {
            if !is_host(authority) {
                return Err(Refusal::BadTarget);
            }
            self.authority = Some(authority.into());
        }
        self.request_line = Some(request_line);
        Ok(())
    }

    /// Remembers the few headers that decide about framing.
    fn note(&mut self, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                self.hosts += 1;
                if self.hosts > 1 {
                    return Err(Refusal::SeveralHosts);
                }
                if !is_host(value) {
                    return Err(Refusal::BadHost);
                }
                // Two names for one host are two readings of one request.
                if self.authority.as_ref().is_some_and(|named| !named.eq_ignore_ascii_case(value)) {
                    return Err(Refusal::OtherHost);
                }
            }
            6 if name.eq_ignore_ascii_case(b"expect") => {
                self.unknown_expectation |= !value.eq_ignore_ascii_case(b"100-continue");
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                if self.length.is_some() {
                    return Err(Refusal::SeveralLengths);
                }
                self.length = Some(decimal(value)?);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if self.coding.is_some() {
                    return Err(Refusal::SeveralCodings);
                }
                let chunked = value.eq_ignore_ascii_case(b"chunked");
                self.coding = Some(if chunked { Coding::Chunked } else { Coding::Other });
            }
            _ => {}
        }
        Ok(())
    }

    fn end(&self, request_line: RequestLine, limits: &Limits) -> Result<Framing, Refusal> {
        if request_line.is_1_1 && self.hosts == 0 {
            return Err(Refusal::NoHost);
        }
        let framing = match (self.coding, self.length) {
            (Some(_), Some(_)) => return Err(Refusal::LengthAndCoding),
            (Some(_), None) if !request_line.is_1_1 => return Err(Refusal::CodingIn10),
            (Some(Coding::Other), None) => return Err(Refusal::UnknownCoding),
            (Some(Coding::Chunked), None) => Framing::Chunked,
            (None, length) => Framing::Length(length.unwrap_or(0)),
        };
        if matches!(framing, Framing::Length(length) if length > limits.max_body_bytes) {
            return Err(Refusal::BodyTooLarge);
        }
        if self.unknown_expectation && request_line.is_1_1 {
            return Err(Refusal::UnknownExpectation);
        }
        Ok(framing)
    }
}

fn request_line(line: &[u8]) -> Result<(RequestLine, &[u8]), Refusal> {
    let space = memchr(b' ', line).ok_or(Refusal::BadRequestLine)?;
    let (method, rest) = (&line[..space], &line[space + 1..]);
    let space = memchr(b' ', rest).ok_or(Refusal::BadRequestLine)?;
    let (target, version) = (&rest[..space], &rest[space + 1..]);
    if method.is_empty() || !method.iter().all(|&byte| is_token_byte(byte)) {
        return Err(Refusal::BadRequestLine);
    }
    let is_1_1 = match version {
        b"HTTP/1.1" => true,
        b"HTTP/1.0" => false,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
            return Err(Refusal::UnknownVersion);
        }
        _ => return Err(Refusal::BadRequestLine),
    };
    if method == b"CONNECT" {
        return Err(Refusal::Tunnel);
    }
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~') && *byte != b'#';
    let shaped = match target {
        [b'/', ..] => true,
        b"*" => method == b"OPTIONS",
        _ => has_scheme(target, b"http://") || has_scheme(target, b"https://"),
    };
    if !shaped || !target.iter().all(printable) {
        return Err(Refusal::BadTarget);
    }
    // What the parser would refuse is refused here, where it is told and counted.
    let usual = target.starts_with(b"/") && target.iter().all(|&byte| is_usual(byte));
    if !usual && http::Uri::try_from(target).is_err() {
        return Err(Refusal::BadTarget);
    }
    Ok((RequestLine { is_1_1 }, target))
}

/// Characters that every target may have.
fn is_usual(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/-._~%?=&+,:;@!$'()*".contains(&byte)
}

fn has_scheme(target: &[u8], scheme: &[u8]) -> bool {
    target.len() > scheme.len() && target[..scheme.len()].eq_ignore_ascii_case(scheme)
}

/// The host and port of an absolute target; `None` for a path.
fn authority(target: &[u8]) -> Option<&[u8]> {
    if matches!(target.first(), Some(b'/' | b'*')) {
        return None;
    }
    let start = target.windows(3).position(|window| window == b"://")? + 3;
    let rest = &target[start..];
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    Some(&rest[..end])
}

/// Splits a header or trailer line into its name and its trimmed value.
pub(super) fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Refusal> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Refusal::FoldedLine);
    }
    // The name ends at the first byte that no name has, which is the colon.
    let end = line.iter().position(|&byte| !is_token_byte(byte)).ok_or(Refusal::BadHeader)?;
    if end == 0 || line[end] != b':' {
        return Err(Refusal::BadHeader);
    }
    let (name, value) = (&line[..end], &line[end + 1..]);
    if !is_text(value) {
        return Err(Refusal::BadHeader);
    }
    Ok((name, trim(value)))
}

/// Whether there is no control character except the tab.
pub(super) fn is_text(bytes: &[u8]) -> bool {
    // Without an early end the compiler looks at many bytes at a time.
    !bytes.iter().fold(false, |found, &byte| found | ((byte < b' ') & (byte != b'\t')) | (byte == 0x7f))
}

fn trim(value: &[u8]) -> &[u8] {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = value.iter().position(|byte| !blank(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !blank(byte)).map_or(start, |last| last + 1);
    &value[start..end]
}

/// Digits only: no sign, no list, no space.
fn decimal(value: &[u8]) -> Result<u64, Refusal> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Refusal::BadLength);
    }
    value
        .iter()
        .try_fold(0_u64, |sum, digit| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
        .ok_or(Refusal::BadLength)
}

/// Characters of methods and header names.
pub(super) fn is_token_byte(byte: u8) -> bool {
    TOKEN[byte as usize]
}

const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128_usize {
        let character = byte as u8;
        table[byte] = character.is_ascii_alphanumeric();
        byte += 1;
    }
    let others = b"!#$%&'*+-.^_`|~";
    let mut index = 0;
    while index < others.len() {
        table[others[index] as usize] = true;
        index += 1;
    }
    table
};
