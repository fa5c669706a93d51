//! What a handler receives and what it answers with.

use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};

/// A request whose head is parsed and whose body has arrived in full.
#[derive(Debug)]
pub struct Request {
    /// Method, target, version, headers and extensions.
    pub head: http::request::Parts,
    /// The whole body, at most [`Settings::max_body_bytes`](crate::Settings) long.
    pub body: Bytes,
    /// The other end of the socket. Clients of a Unix socket are on this machine:
    /// theirs is the loopback address with port 0.
    pub peer: Option<SocketAddr>,
    /// Whether the request came over TLS.
    pub secure: bool,
}

/// A request that the engine answers by itself, because its handler must not see it.
#[derive(Debug)]
pub struct Refused {
    /// What could be read of the head, which is not to be relied on; `None` for what does
    /// not even begin like a request.
    pub head: Option<http::request::Parts>,
    /// As in a [`Request`].
    pub peer: Option<SocketAddr>,
}

/// What a handler answers. The engine adds `Date`, `Content-Length` and
/// `Connection` where they are missing, and sends no body to a `HEAD` request.
///
/// ```
/// use tollway_server::{Body, Response};
/// let pong: Response = http::Response::new(Body::from("pong"));
/// assert_eq!(pong.body().exact_len(), Some(4));
/// ```
pub type Response = http::Response<Body>;

/// Why a streamed body ended before its end.
pub type StreamError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a [`Response`].
///
/// Bodies that share memory with their owner ([`Bytes::from_owner`]) are sent
/// without a copy once they are larger than about 16 KiB; smaller ones are
/// copied next to the head so that both leave in one system call.
#[derive(Debug, Default)]
#[non_exhaustive]
pub enum Body {
    /// No bytes at all.
    #[default]
    Empty,
    /// All bytes at once.
    Full(Bytes),
    /// Bytes that come over time.
    Stream(Box<Stream>),
}

impl Body {
    /// A body whose frames come over time.
    ///
    /// The engine asks for a frame only while the socket takes bytes, so a slow
    /// client slows the producer down, and drops the producer as soon as the
    /// client is gone. With an exact size hint the answer has a
    /// `Content-Length`; otherwise it is chunked, or ends with the connection
    /// for HTTP/1.0. An error closes the connection in a way that the client
    /// can tell from the end.
    ///
    /// `frames` may wake its waker from any thread. It must be `Send` so that
    /// a response can be made on one thread and sent by another; it is polled
    /// by the engine's thread only.
    pub fn stream<B>(frames: B) -> Body
    where
        B: http_body::Body<Data = Bytes, Error = StreamError> + Send + 'static,
    {
        Body::Stream(Box::new(Stream { frames: Box::pin(frames), heartbeat: None }))
    }

    /// Number of bytes, where that is known.
    pub fn exact_len(&self) -> Option<u64> {
        match self {
            Body::Empty => Some(0),
            Body::Full(bytes) => Some(bytes.len() as u64),
            Body::Stream(stream) => stream.frames.size_hint().exact(),
        }
    }
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(bytes: T) -> Self {
        let bytes = bytes.into();
        if bytes.is_empty() { Body::Empty } else { Body::Full(bytes) }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let this = self.get_mut();
        if let Body::Stream(stream) = this {
            return stream.frames.as_mut().poll_frame(cx);
        }
        match std::mem::take(this) {
            Body::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Body::Empty | Body::Stream(_) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Empty => true,
            Body::Full(bytes) => bytes.is_empty(),
            Body::Stream(stream) => stream.frames.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Stream(stream) => stream.frames.size_hint(),
            Body::Empty => SizeHint::with_exact(0),
            Body::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
        }
    }
}

/// Frames that come over time, and what is sent while none comes. Made by
/// [`Body::stream`].
pub struct Stream {
    frames: Pin<Box<dyn http_body::Body<Data = Bytes, Error = StreamError> + Send>>,
    pub(crate) heartbeat: Option<Heartbeat>,
}

/// What is sent whenever nothing else was for some time.
#[derive(Clone, Debug)]
pub(crate) struct Heartbeat {
    pub(crate) interval: Duration,
    pub(crate) bytes: Bytes,
}

impl Stream {
    /// Sends `bytes` whenever the producer has given nothing for `interval`, so
    /// that proxies keep the connection and a client that vanished is noticed.
    /// For formats in which such bytes mean nothing; not with a known length.
    /// Kept to about a quarter of a second.
    ///
    /// ```
    /// # use tollway_server::{Body, Stream};
    /// # fn events(mut body: Body) -> Body {
    /// if let Body::Stream(stream) = &mut body {
    ///     stream.set_heartbeat(std::time::Duration::from_secs(15), &b": ping\n\n"[..]);
    /// }
    /// # body }
    /// ```
    pub fn set_heartbeat(&mut self, interval: Duration, bytes: impl Into<Bytes>) {
        self.heartbeat = Some(Heartbeat { interval, bytes: bytes.into() });
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stream { frames, heartbeat } = self;
        let hint = frames.size_hint();
        f.debug_struct("Stream").field("size_hint", &hint).field("heartbeat", heartbeat).finish_non_exhaustive()
    }
}
