//! Compression of answers, in pieces that leave the other connections their turn.

use std::io::{self, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use brotli::CompressorWriter;
use bytes::Bytes;
use flate2::write::GzEncoder;
use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    HeaderMap, HeaderValue, VARY,
};
use http::{Response, StatusCode};
use http_body::Frame;

use crate::{Body, StreamError};

/// Most bytes that are compressed before other connections get their turn, and the largest body
/// that is compressed as a whole. About a millisecond with the dearest coding.
const PIECE: usize = 32 * 1024;
/// Window of brotli, as a power of two: 256 KiB, so that a stream takes memory in proportion.
const BROTLI_WINDOW: u32 = 18;
/// Size of brotli's buffer for output.
const BROTLI_BUFFER: usize = 4 * 1024;

/// A content coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// `gzip`.
    Gzip,
    /// `br`.
    Brotli,
    /// `zstd`.
    Zstd,
}

impl Coding {
    /// All codings.
    pub const ALL: [Coding; 3] = [Coding::Zstd, Coding::Brotli, Coding::Gzip];

    /// Its name in HTTP.
    pub fn name(self) -> &'static str {
        match self {
            Coding::Gzip => "gzip",
            Coding::Brotli => "br",
            Coding::Zstd => "zstd",
        }
    }
}

/// Which answers are compressed, and how.
#[derive(Clone, Debug)]
pub struct Compression {
    /// Bodies shorter than this are sent as they are. A stream of unknown length is compressed.
    pub minimum_size: u64,
    /// Codings and their levels; of those that a client likes equally the first is taken.
    pub codings: Vec<(Coding, i32)>,
    /// Media types; one that ends with `/` or `+` stands for all that begin or end so.
    pub types: Vec<String>,
}

/// What a client accepts, until its answer is there.
#[derive(Clone, Copy, Debug)]
pub struct Accepted(Option<(Coding, i32)>);

impl Compression {
    /// The coding for a request. Costs a look at one header.
    pub fn accepted(&self, request: &HeaderMap) -> Accepted {
        let mut best: Option<(u16, (Coding, i32))> = None;
        if request.contains_key(ACCEPT_ENCODING) {
            for &(coding, level) in &self.codings {
                let quality = quality(request, coding.name());
                if quality > best.map_or(0, |(quality, _)| quality) {
                    best = Some((quality, (coding, level)));
                }
            }
        }
        Accepted(best.map(|(_, coding)| coding))
    }

    /// Compresses an answer, or leaves it as it is: because it is short, of another type, encoded
    /// already, a part of something, an event stream, or nothing that the client accepts.
    ///
    /// Bodies up to 32 KiB are compressed at once; of larger ones and streams a piece whenever the
    /// client has taken the last. A stream that waits sends what it has.
    pub fn apply(&self, accepted: Accepted, response: &mut Response<Body>) {
        if !self.suits(response) {
            return;
        }
        let headers = response.headers_mut();
        vary(headers);
        let Accepted(Some((coding, level))) = accepted else { return };
        let Ok(encoder) = Encoder::new(coding, level) else { return };
        let body = std::mem::take(response.body_mut());
        let body = match body {
            Body::Full(bytes) if bytes.len() <= PIECE => match encoder.whole(&bytes) {
                Ok(shorter) if shorter.len() < bytes.len() => Body::Full(Bytes::from(shorter)),
                _ => return *response.body_mut() = Body::Full(bytes),
            },
            body => {
                Body::stream(Compressed { body, piece: Bytes::new(), encoder: Some(encoder), done: 0, held: false })
            }
        };
        *response.body_mut() = body;
        let headers = response.headers_mut();
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
        headers.remove(CONTENT_LENGTH);
        headers.remove(ACCEPT_RANGES);
        weaken(headers);
    }

    fn suits(&self, response: &Response<Body>) -> bool {
        let headers = response.headers();
        let status = response.status();
        let length = response.body().exact_len();
        if matches!(response.body(), Body::Empty)
            || length.is_some_and(|length| length < self.minimum_size)
            || status == StatusCode::PARTIAL_CONTENT
            || headers.contains_key(CONTENT_ENCODING)
            || headers.contains_key(CONTENT_RANGE)
        {
            return false;
        }
        let fixed = headers.get(CACHE_CONTROL).is_some_and(|value| contains(value.as_bytes(), b"no-transform"));
        !fixed && headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).is_some_and(|kind| self.has_type(kind))
    }

    fn has_type(&self, kind: &str) -> bool {
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        kind != "text/event-stream"
            && self.types.iter().any(|listed| match listed.strip_prefix('+') {
                Some(suffix) => kind.rsplit_once('+').is_some_and(|(_, found)| found == suffix),
                None if listed.ends_with('/') => kind.starts_with(listed.as_str()),
                None => kind == *listed,
            })
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    memchr::memmem::find(haystack, needle).is_some()
}

/// How much a client likes a coding, in thousandths. What it does not name it does not accept,
/// unless it accepts anything.
fn quality(request: &HeaderMap, name: &str) -> u16 {
    let mut any = 0;
    for line in request.get_all(ACCEPT_ENCODING) {
        for item in line.to_str().unwrap_or_default().split(',') {
            let mut parts = item.split(';');
            let coding = parts.next().unwrap_or_default().trim();
            let quality = parts.find_map(|part| part.trim().strip_prefix("q=").map(thousandths)).unwrap_or(1000);
            if coding.eq_ignore_ascii_case(name) {
                return quality;
            }
            if coding == "*" {
                any = quality;
            }
        }
    }
    any
}

fn thousandths(text: &str) -> u16 {
    let value = text.trim().parse::<f32>().unwrap_or(0.0);
    (value.clamp(0.0, 1.0) * 1000.0) as u16
}

/// Says that the answer depends on what the client accepts.
fn vary(headers: &mut HeaderMap) {
    let named = headers.get_all(VARY).iter().any(|value| {
        let value = value.as_bytes().to_ascii_lowercase();
        value == b"*" || contains(&value, b"accept-encoding")
    });
    if !named {
        headers.append(VARY, HeaderValue::from_static("accept-encoding"));
    }
}

/// The compressed form means the same, but is not the same byte for byte.
fn weaken(headers: &mut HeaderMap) {
    let Some(tag) = headers.get(ETAG).filter(|tag| tag.as_bytes().starts_with(b"\"")) else { return };
    if let Ok(weak) = HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat()) {
        headers.insert(ETAG, weak);
    }
}

/// A compressor that collects its output.
enum Encoder {
    Gzip(GzEncoder<Vec<u8>>),
    Brotli(Box<CompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Encoder {
    fn new(coding: Coding, level: i32) -> io::Result<Self> {
        let positive = u32::try_from(level).unwrap_or(0);
        Ok(match coding {
            Coding::Gzip => Encoder::Gzip(GzEncoder::new(Vec::new(), flate2::Compression::new(positive.min(9)))),
            Coding::Brotli => {
                let quality = positive.min(11);
                Encoder::Brotli(Box::new(CompressorWriter::new(Vec::new(), BROTLI_BUFFER, quality, BROTLI_WINDOW)))
            }
            Coding::Zstd => Encoder::Zstd(zstd::stream::write::Encoder::new(Vec::new(), level)?),
        })
    }

    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Encoder::Gzip(encoder) => encoder,
            Encoder::Brotli(encoder) => encoder,
            Encoder::Zstd(encoder) => encoder,
        }
    }

    /// What came out so far.
    fn take(&mut self) -> Vec<u8> {
        std::mem::take(match self {
            Encoder::Gzip(encoder) => encoder.get_mut(),
            Encoder::Brotli(encoder) => encoder.get_mut(),
            Encoder::Zstd(encoder) => encoder.get_mut(),
        })
    }

    /// The rest, the end included.
    fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Encoder::Gzip(encoder) => encoder.finish(),
            Encoder::Brotli(encoder) => Ok(encoder.into_inner()),
            Encoder::Zstd(encoder) => encoder.finish(),
        }
    }

    fn whole(mut self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        self.writer().write_all(bytes)?;
        self.finish()
    }
}

/// A body that is compressed while it is sent.
struct Compressed {
    body: Body,
    /// What came out of the body and was not compressed yet.
    piece: Bytes,
    /// `None` at the end.
    encoder: Option<Encoder>,
    /// Bytes compressed since others had their turn.
    done: usize,
    /// The compressor may hold something back.
    held: bool,
}

impl Compressed {
    /// Compresses the next bytes of the piece.
    fn compress(&mut self) -> io::Result<Vec<u8>> {
        let Some(encoder) = &mut self.encoder else { return Ok(Vec::new()) };
        let next = self.piece.split_to(self.piece.len().min(PIECE));
        self.done += next.len();
        self.held = true;
        encoder.writer().write_all(&next)?;
        Ok(encoder.take())
    }

    /// What the compressor holds back while nothing comes.
    fn flush(&mut self) -> io::Result<Vec<u8>> {
        self.held = false;
        let Some(encoder) = &mut self.encoder else { return Ok(Vec::new()) };
        encoder.writer().flush()?;
        Ok(encoder.take())
    }
}

type Given = Poll<Option<Result<Frame<Bytes>, StreamError>>>;

fn given(output: io::Result<Vec<u8>>) -> Given {
    Poll::Ready(Some(output.map(|bytes| Frame::data(Bytes::from(bytes))).map_err(Into::into)))
}

impl http_body::Body for Compressed {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Given {
        if self.encoder.is_none() {
            return Poll::Ready(None);
        }
        loop {
            if self.done >= PIECE {
                self.done = 0;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if !self.piece.is_empty() {
                match self.compress() {
                    Ok(output) if output.is_empty() => continue,
                    output => return given(output),
                }
            }
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => self.piece = frame.into_data().unwrap_or_default(),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => {
                    let Some(encoder) = self.encoder.take() else { return Poll::Ready(None) };
                    return given(encoder.finish());
                }
                Poll::Pending if self.held => match self.flush() {
                    Ok(output) if output.is_empty() => return Poll::Pending,
                    output => return given(output),
                },
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

#[cfg(test)]
#[path = "compress_tests.rs"]
mod tests;
