//! Wakers: how a handler's future says that its connection can go on.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Wake;

use super::table::Key;

thread_local! {
    /// The queue of the engine that runs on this thread right now, as an
    /// address. That engine looks at its queue before it returns, so wakes on
    /// this thread need no system call.
    static RUNNING: Cell<usize> = const { Cell::new(0) };
}

/// Connections to poll, filled by wakers on any thread.
pub(super) struct ReadyQueue {
    keys: Mutex<Vec<Key>>,
    /// Whether the descriptor was made readable and the engine has not seen it.
    signalled: AtomicBool,
    shutdown: AtomicBool,
    abort: AtomicBool,
    waker: mio::Waker,
}

impl ReadyQueue {
    pub(super) fn new(registry: &mio::Registry, token: mio::Token) -> io::Result<Arc<Self>> {
        Ok(Arc::new(ReadyQueue {
            keys: Mutex::new(Vec::new()),
            signalled: AtomicBool::new(false),
            shutdown: AtomicBool::new(false),
            abort: AtomicBool::new(false),
            waker: mio::Waker::new(registry, token)?,
        }))
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }

    fn push(&self, key: Key) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).push(key);
    }

    /// Puts connections back in front: they have waited longest.
    pub(super) fn put_back(&self, first: &[Key]) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.splice(..0, first.iter().copied());
    }

    /// Moves the waiting connections to `into`, which must be empty.
    pub(super) fn take(&self, into: &mut Vec<Key>) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut *keys, into);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Makes the descriptor readable, once until the engine has seen it.
    pub(super) fn signal(&self) {
        if !self.signalled.swap(true, Ordering::AcqRel) && self.waker.wake().is_err() {
            // The counter of the eventfd cannot be full and its descriptor is
            // ours, so there is nothing to do but to try again next time.
            self.signalled.store(false, Ordering::Release);
        }
    }

    /// To be called before the queue is taken, after the descriptor was seen.
    pub(super) fn seen(&self) {
        self.signalled.store(false, Ordering::Release);
    }

    pub(super) fn ask_shutdown(&self) {
        self.shutdown.store(true, Ordering::Release);
    }

    pub(super) fn shutdown_asked(&self) -> bool {
        self.shutdown.load(Ordering::Acquire)
    }

    pub(super) fn ask_abort(&self) {
        self.abort.store(true, Ordering::Release);
    }

    pub(super) fn abort_asked(&self) -> bool {
        self.abort.load(Ordering::Acquire)
    }
}

impl fmt::Debug for ReadyQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadyQueue").finish_non_exhaustive()
    }
}

/// Marks this thread as running the engine that owns the queue.
pub(super) struct Running(usize);

impl Running {
    pub(super) fn enter(queue: &ReadyQueue) -> Self {
        Running(RUNNING.replace(queue.address()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.set(self.0);
    }
}

/// The waker of one connection.
pub(super) struct ConnectionWaker {
    key: Key,
    queued: AtomicBool,
    queue: Arc<ReadyQueue>,
}

impl ConnectionWaker {
    pub(super) fn new(key: Key, queue: Arc<ReadyQueue>) -> Arc<Self> {
        Arc::new(ConnectionWaker { key, queued: AtomicBool::new(false), queue })
    }

    /// Queues the connection, once. To be called by the running engine.
    pub(super) fn queue(self: &Arc<Self>) {
        self.wake_by_ref();
    }

    /// To be called before the connection is polled: later wakes queue it again.
    pub(super) fn reset(&self) {
        self.queued.store(false, Ordering::Release);
    }
}

impl Wake for ConnectionWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        self.queue.push(self.key);
        if RUNNING.get() != self.queue.address() {
            self.queue.signal();
        }
    }
}

/// Asks an engine to shut down, from any thread.
#[derive(Clone, Debug)]
pub struct Stopper {
    queue: Arc<ReadyQueue>,
}

impl Stopper {
    pub(super) fn new(queue: Arc<ReadyQueue>) -> Self {
        Stopper { queue }
    }

    /// Same as [`Engine::begin_shutdown`](crate::Engine::begin_shutdown).
    pub fn stop(&self) {
        self.queue.ask_shutdown();
        self.queue.signal();
    }

    /// Same as [`Engine::abort`](crate::Engine::abort).
    pub fn abort(&self) {
        self.queue.ask_abort();
        self.queue.signal();
    }
}
