//! One HTTP/2 connection: the parser and the streams it has opened.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hyper::rt::Executor;
use hyper::server::conn::http2;

use super::exchange::Service;
use super::piping::Io;
use crate::{Handler, Settings};

/// Streams reset before they were taken up: more than this ends the connection.
const MAX_PENDING_RESETS: usize = 20;
/// Streams reset for the client's mistakes: more than this ends the connection.
const MAX_MISTAKES: usize = 64;
/// Bytes of answers held for each stream.
const SEND_BUFFER: usize = 64 * 1024;
/// Largest frame that is accepted.
const MAX_FRAME: u32 = 16 * 1024;

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Takes the streams that the parser opens.
#[derive(Clone, Default)]
pub(super) struct Spawner(Rc<RefCell<Vec<Task>>>);

impl<F: Future<Output = ()> + 'static> Executor<F> for Spawner {
    fn execute(&self, stream: F) {
        self.0.borrow_mut().push(Box::pin(stream));
    }
}

/// The parser with its open streams, each of which is polled only when it was
/// woken.
pub(super) struct Streams<H: Handler> {
    parser: Pin<Box<http2::Connection<Io, Service<H>, Spawner>>>,
    spawner: Spawner,
    open: FuturesUnordered<Task>,
}

impl<H: Handler> Streams<H> {
    pub(super) fn new(settings: &Settings, io: Io, service: Service<H>) -> Self {
        let spawner = Spawner::default();
        let parser = http2::Builder::new(spawner.clone())
            .max_concurrent_streams(settings.max_http2_streams)
            .max_header_list_size(u32::try_from(settings.max_head_bytes).unwrap_or(u32::MAX))
            .initial_stream_window_size(settings.stream_window_bytes)
            .initial_connection_window_size(settings.stream_window_bytes.saturating_mul(4))
            .max_frame_size(MAX_FRAME)
            .max_send_buf_size(SEND_BUFFER)
            .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
            .max_local_error_reset_streams(MAX_MISTAKES)
            .serve_connection(io, service);
        Streams { parser: Box::pin(parser), spawner, open: FuturesUnordered::new() }
    }

    /// Ready when the connection is over.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        loop {
            if let Poll::Ready(result) = self.parser.as_mut().poll(cx) {
                return Poll::Ready(result);
            }
            let opened = std::mem::take(&mut *self.spawner.0.borrow_mut());
            self.open.extend(opened);
            let mut ended = false;
            while let Poll::Ready(Some(())) = self.open.poll_next_unpin(cx) {
                ended = true;
            }
            // What a stream has to send goes out through the parser. One that is
            // not at its end wakes the parser by itself.
            if !ended {
                return Poll::Pending;
            }
        }
    }

    /// Takes no more streams, and ends when those that are open have ended.
    pub(super) fn finish(&mut self) {
        self.parser.as_mut().graceful_shutdown();
    }

    /// Whether no stream is open.
    pub(super) fn is_idle(&self) -> bool {
        self.open.is_empty()
    }
}
