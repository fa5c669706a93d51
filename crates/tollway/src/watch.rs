//! What runs beside the requests, and sleeps until there is something to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Where somebody who watches over a store hears of it.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    is_running: AtomicBool,
    is_over: AtomicBool,
    bell: Notify,
}

impl Watch {
    /// Begins to watch, until what is returned is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> Watching {
        self.is_running.store(true, Ordering::Relaxed);
        Watching(Arc::clone(self))
    }

    /// Whether somebody watches now.
    pub(crate) fn is_running(&self) -> bool {
        self.is_running.load(Ordering::Relaxed)
    }

    /// Wakes who watches: there is something to do.
    pub(crate) fn ring(&self) {
        self.bell.notify_one();
    }

    /// What is watched over is gone.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.ring();
    }
}

/// A watch that runs.
pub(crate) struct Watching(Arc<Watch>);

impl Watching {
    /// Whether what is watched over is gone.
    pub(crate) fn is_over(&self) -> bool {
        self.0.is_over.load(Ordering::Relaxed)
    }

    /// Sleeps until the next ring; at once when there was one since the last.
    pub(crate) async fn rung(&self) {
        self.0.bell.notified().await;
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.is_running.store(false, Ordering::Relaxed);
    }
}
