//! The thread that answers callers whom nobody else answers in time.
//!
//! Drivers keep their callers' time themselves. But a driver can be stuck, in a call of the system or
//! with a runtime that does not run, and then keeps nobody's time. The lookout belongs to no runtime
//! and does nothing that can block. It sleeps while nobody waits, and in traffic wakes about once in
//! the time that a call may take.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::Thread;
use std::time::Instant;

use tollway_core::ConfigError;

/// Where callers wait.
pub(super) trait Waits: Send + Sync {
    /// Answers those who have waited too long; says when to look again, if anybody is left.
    fn look(&self, now: Instant) -> Option<Instant>;
}

/// A lookout for some queues; its thread ends with it.
#[derive(Debug)]
pub(crate) struct Lookout {
    post: Arc<Post>,
    thread: Thread,
}

#[derive(Default)]
struct Post {
    queues: Mutex<Vec<Weak<dyn Waits>>>,
    over: AtomicBool,
}

impl std::fmt::Debug for Post {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Post").field("over", &self.over).finish_non_exhaustive()
    }
}

impl Lookout {
    /// A lookout for `store`, as messages call it.
    ///
    /// # Errors
    /// When the system has no thread for it.
    pub(crate) fn start(store: &str) -> Result<Arc<Self>, ConfigError> {
        let post = Arc::new(Post::default());
        let own = Arc::clone(&post);
        let thread = std::thread::Builder::new().name("tollway-lookout".into()).spawn(move || own.run());
        let thread = thread.map_err(|error| {
            ConfigError::new(format!("{store} cannot be opened: the system has no thread for it ({error})"))
        })?;
        Ok(Arc::new(Self { post, thread: thread.thread().clone() }))
    }

    /// Looks after one more.
    pub(super) fn watch(&self, queue: Weak<dyn Waits>) {
        self.post.queues().push(queue);
    }

    /// Has it look now.
    pub(super) fn call(&self) {
        self.thread.unpark();
    }
}

impl Drop for Lookout {
    fn drop(&mut self) {
        self.post.over.store(true, Ordering::Release);
        self.call();
    }
}

impl Post {
    fn queues(&self) -> MutexGuard<'_, Vec<Weak<dyn Waits>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        while !self.over.load(Ordering::Acquire) {
            let queues: Vec<_> = {
                let mut queues = self.queues();
                queues.retain(|queue| queue.strong_count() > 0);
                queues.iter().filter_map(Weak::upgrade).collect()
            };
            let now = Instant::now();
            let next = queues.iter().filter_map(|queue| queue.look(now)).min();
            // One of them may be the last to know its queue, and so its lookout.
            drop(queues);
            match next {
                Some(next) => std::thread::park_timeout(next.saturating_duration_since(Instant::now())),
                None => std::thread::park(),
            }
        }
    }
}
