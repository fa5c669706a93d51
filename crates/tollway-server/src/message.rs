//! What a handler receives and what it answers with.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

/// A request whose head is parsed and whose body has arrived in full.
#[derive(Debug)]
pub struct Request {
    /// Method, target, version, headers and extensions.
    pub head: http::request::Parts,
    /// The whole body, at most [`Settings::max_body_bytes`](crate::Settings) long.
    pub body: Bytes,
    /// The other end of the socket. `None` where the transport has no address.
    pub peer: Option<SocketAddr>,
}

/// What a handler answers. The engine adds `Date`, `Content-Length` and
/// `Connection` where they are missing, and sends no body to a `HEAD` request.
///
/// ```
/// use tollway_server::{Body, Response};
/// let pong: Response = http::Response::new(Body::from("pong"));
/// assert_eq!(pong.body().len(), 4);
/// ```
pub type Response = http::Response<Body>;

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
}

impl Body {
    /// Number of bytes.
    pub fn len(&self) -> usize {
        match self {
            Body::Empty => 0,
            Body::Full(bytes) => bytes.len(),
        }
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match std::mem::take(self.get_mut()) {
            Body::Empty => Poll::Ready(None),
            Body::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.len() as u64)
    }
}
