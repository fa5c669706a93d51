//! Reading a file piece by piece without keeping the engine waiting for a disk.
//!
//! What the kernel has in memory is read at once on the engine's thread; for
//! the rest a small number of threads wait. Each body has one read at a time.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::StreamError;

/// Bytes of one piece.
const PIECE: usize = 64 * 1024;
/// Threads that wait for disks.
const THREADS: usize = 2;

/// What comes next in a body.
#[derive(Debug)]
pub(super) enum Part {
    Bytes(Bytes),
    File { from: u64, left: u64 },
}

/// A body made of parts of a file.
pub(super) struct FileBody {
    file: Arc<fs::File>,
    parts: VecDeque<Part>,
    reading: Option<Arc<Read>>,
}

impl FileBody {
    pub(super) fn new(file: Arc<fs::File>, parts: Vec<Part>) -> Self {
        let parts = parts.into_iter().filter(|part| part.len() > 0).collect();
        FileBody { file, parts, reading: None }
    }

    /// Notes that `count` bytes of the front part were read.
    fn advance(&mut self, count: usize) {
        if let Some(Part::File { from, left }) = self.parts.front_mut() {
            *from += count as u64;
            *left -= count as u64;
            if *left == 0 {
                self.parts.pop_front();
            }
        }
    }

    fn read(&mut self, outcome: io::Result<Vec<u8>>) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let bytes = match outcome {
            Ok(bytes) if bytes.is_empty() => return failed("the file became shorter while it was sent"),
            Ok(bytes) => bytes,
            Err(error) => return Poll::Ready(Some(Err(Box::new(error)))),
        };
        self.advance(bytes.len());
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(bytes)))))
    }
}

fn failed(text: &str) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
    Poll::Ready(Some(Err(text.into())))
}

impl Part {
    fn len(&self) -> u64 {
        match self {
            Part::Bytes(bytes) => bytes.len() as u64,
            Part::File { left, .. } => *left,
        }
    }
}

impl http_body::Body for FileBody {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        if let Some(reading) = self.reading.take() {
            return match reading.poll(cx.waker()) {
                Some(outcome) => self.read(outcome),
                None => {
                    self.reading = Some(reading);
                    Poll::Pending
                }
            };
        }
        let (from, left) = match self.parts.pop_front() {
            None => return Poll::Ready(None),
            Some(Part::Bytes(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Some(part @ Part::File { from, left }) => {
                self.parts.push_front(part);
                (from, left)
            }
        };
        let size = PIECE.min(usize::try_from(left).unwrap_or(PIECE));
        if let Some(outcome) = read_cached(&self.file, from, size) {
            return self.read(outcome);
        }
        let slot = Mutex::new(Slot { outcome: None, waker: Some(cx.waker().clone()) });
        let read = Arc::new(Read { file: Arc::clone(&self.file), from, size, slot });
        if waiting_threads().send(Arc::clone(&read)).is_err() {
            return failed("no thread reads files");
        }
        self.reading = Some(read);
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.parts.is_empty() && self.reading.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.parts.iter().map(Part::len).sum())
    }
}

/// What the kernel has in memory; `None` if it would have to wait for the disk,
/// or if it does not say.
#[cfg(target_os = "linux")]
fn read_cached(file: &fs::File, from: u64, size: usize) -> Option<io::Result<Vec<u8>>> {
    use rustix::io::{Errno, ReadWriteFlags, preadv2};
    let mut bytes = vec![0; size];
    match preadv2(file, &mut [IoSliceMut::new(&mut bytes)], from, ReadWriteFlags::NOWAIT) {
        Ok(count) => {
            bytes.truncate(count);
            Some(Ok(bytes))
        }
        Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::INTR) => None,
        Err(error) => Some(Err(error.into())),
    }
}

#[cfg(not(target_os = "linux"))]
fn read_cached(_file: &fs::File, _from: u64, _size: usize) -> Option<io::Result<Vec<u8>>> {
    None
}

/// One read that a thread does.
struct Read {
    file: Arc<fs::File>,
    from: u64,
    size: usize,
    slot: Mutex<Slot>,
}

struct Slot {
    outcome: Option<io::Result<Vec<u8>>>,
    waker: Option<Waker>,
}

impl Read {
    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll(&self, waker: &Waker) -> Option<io::Result<Vec<u8>>> {
        let mut slot = self.slot();
        if slot.outcome.is_none() {
            slot.waker = Some(waker.clone());
        }
        slot.outcome.take()
    }

    fn run(&self) {
        let mut bytes = vec![0; self.size];
        let outcome = self.file.read_at(&mut bytes, self.from).map(|count| {
            bytes.truncate(count);
            bytes
        });
        let mut slot = self.slot();
        slot.outcome = Some(outcome);
        let waker = slot.waker.take();
        drop(slot);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The threads, started when the first read has to wait. Their queue is no
/// longer than the number of answers.
fn waiting_threads() -> &'static Sender<Arc<Read>> {
    static QUEUE: OnceLock<Sender<Arc<Read>>> = OnceLock::new();
    QUEUE.get_or_init(|| {
        let (sender, receiver) = mpsc::channel();
        let receiver = Arc::new(Mutex::new(receiver));
        for number in 0..THREADS {
            let receiver = Arc::clone(&receiver);
            // Where no thread can be started the send fails, and with it the answer.
            let _ = std::thread::Builder::new().name(format!("tollway-files-{number}")).spawn(move || {
                while let Some(read) = next(&receiver) {
                    read.run()
                }
            });
        }
        sender
    })
}

fn next(receiver: &Mutex<Receiver<Arc<Read>>>) -> Option<Arc<Read>> {
    receiver.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}
