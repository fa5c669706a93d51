//! Threads for plain functions.
//!
//! Each thread keeps its Python thread state for its whole life, because making one for each job
//! costs more than the job. The queue is bounded: what does not fit is refused at once.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::thread;
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use tollway_server::Response;
use tollway_server::app::Problem;

use super::calls::{self, Args, Entered};
use super::core::Core;
use super::request::Request;
use super::respond::problem;
use super::routes::Route;

/// Jobs that may wait for each thread.
pub(super) const QUEUE_PER_THREAD: usize = 64;
/// Jobs that a thread does before it lets go of the GIL between two of them.
const JOBS_PER_TURN: usize = 32;

/// What a pool's threads do.
pub(super) trait Work: Send + 'static {
    /// Does it. A panic ends this piece of work only.
    fn run(self, py: Python<'_>);
}

/// One call of a plain handler.
pub(super) struct Job {
    pub(super) core: Arc<Core>,
    pub(super) route: Arc<Route>,
    pub(super) request: Py<Request>,
    pub(super) args: Args,
    pub(super) context: Py<PyAny>,
    pub(super) ticket: Arc<Ticket>,
}

/// Where a job's response is put and fetched.
#[derive(Default)]
pub(super) struct Ticket {
    slot: Mutex<Slot>,
}

#[derive(Default)]
struct Slot {
    response: Option<Response>,
    waker: Option<Waker>,
    abandoned: bool,
}

/// The lock, whether or not a thread died with it: nothing inside can be left half done.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ticket {
    /// The response, or `None` and a promise to wake `waker`.
    pub(super) fn poll_response(&self, waker: &Waker) -> Option<Response> {
        let mut slot = lock(&self.slot);
        if slot.response.is_none() && !slot.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            slot.waker = Some(waker.clone());
        }
        slot.response.take()
    }

    /// Nobody waits for the response any more. A job that has not begun will not.
    pub(super) fn abandon(&self) {
        let mut slot = lock(&self.slot);
        slot.abandoned = true;
        let dropped = (slot.response.take(), slot.waker.take());
        drop(slot);
        drop(dropped);
    }

    fn is_abandoned(&self) -> bool {
        lock(&self.slot).abandoned
    }

    fn complete(&self, response: Response) {
        let mut slot = lock(&self.slot);
        if !slot.abandoned {
            slot.response = Some(response);
        }
        let waker = slot.waker.take();
        drop(slot);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The threads and their queue. No thread ever waits for the GIL while it holds the lock.
pub(super) struct Pool<W> {
    queue: Mutex<Queue<W>>,
    changed: Condvar,
    capacity: usize,
}

struct Queue<W> {
    jobs: VecDeque<W>,
    closed: bool,
    /// Threads that have not ended.
    alive: usize,
    /// Threads that wait for a job.
    idle: usize,
    /// Whether a thread was woken that has not looked at the queue yet.
    rising: bool,
}

impl<W> Queue<W> {
    fn new() -> Self {
        Queue { jobs: VecDeque::new(), closed: false, alive: 0, idle: 0, rising: false }
    }

    /// Whether the caller should wake a thread: one at a time, because each must wait for the GIL
    /// anyway. A woken thread wakes the next before it runs its job, so that handlers which block
    /// still run side by side.
    fn should_wake(&mut self) -> bool {
        let wake = self.idle > 0 && !self.rising && !self.jobs.is_empty();
        self.rising |= wake;
        wake
    }
}

impl<W: Work> Pool<W> {
    /// Starts `threads` threads, named after what they are for.
    pub(super) fn start(threads: usize, purpose: &str) -> io::Result<Arc<Self>> {
        let capacity = threads.saturating_mul(QUEUE_PER_THREAD);
        let pool = Arc::new(Pool { queue: Mutex::new(Queue::new()), changed: Condvar::new(), capacity });
        for number in 0..threads {
            let shared = Arc::clone(&pool);
            lock(&pool.queue).alive += 1;
            let spawned = thread::Builder::new()
                .name(format!("tollway-{purpose}-{number}"))
                .spawn(move || Python::attach(|py| shared.work(py)));
            if let Err(error) = spawned {
                lock(&pool.queue).alive -= 1;
                pool.close();
                return Err(error);
            }
        }
        Ok(pool)
    }

    /// Queues a job, or gives it back when the queue is full or closed.
    pub(super) fn submit(&self, job: W) -> Result<(), Box<W>> {
        let mut queue = lock(&self.queue);
        if queue.closed || queue.jobs.len() >= self.capacity {
            drop(queue);
            return Err(Box::new(job));
        }
        queue.jobs.push_back(job);
        let wake = queue.should_wake();
        drop(queue);
        if wake {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// How many jobs wait.
    pub(super) fn waiting(&self) -> usize {
        lock(&self.queue).jobs.len()
    }

    /// Takes no more jobs and lets the threads end once they have done those that are there.
    pub(super) fn finish(&self) {
        lock(&self.queue).closed = true;
        self.changed.notify_all();
    }

    /// Takes no more jobs and lets the threads end. Jobs that have not begun are dropped, so the
    /// caller must hold the GIL.
    pub(super) fn close(&self) {
        let mut queue = lock(&self.queue);
        queue.closed = true;
        let jobs = std::mem::take(&mut queue.jobs);
        drop(queue);
        self.changed.notify_all();
        drop(jobs);
    }

    /// Waits until all threads have ended, at most `patience`. The caller must not hold the GIL.
    pub(super) fn join(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut queue = lock(&self.queue);
        while queue.alive > 0 {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return };
            queue = match self.changed.wait_timeout(queue, left) {
                Ok((queue, _)) => queue,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// One thread's life.
    fn work(&self, py: Python<'_>) {
        let _leaving = Leaving { pool: self };
        while py.detach(|| self.wait()) {
            // Giving up the GIL between two jobs costs more than a short job.
            for _ in 0..JOBS_PER_TURN {
                let Some(job) = self.next() else { break };
                job.run(py);
            }
        }
    }

    /// Waits until there is a job. False when the pool is closed.
    fn wait(&self) -> bool {
        let mut queue = lock(&self.queue);
        while queue.jobs.is_empty() {
            if queue.closed {
                return false;
            }
            queue.idle += 1;
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.idle -= 1;
            if queue.jobs.is_empty() {
                queue.rising = false;
            }
        }
        true
    }

    /// Takes a job, if there is one, and wakes another thread for the rest.
    fn next(&self) -> Option<W> {
        let mut queue = lock(&self.queue);
        let job = queue.jobs.pop_front();
        queue.rising = false;
        let wake = queue.should_wake();
        drop(queue);
        if wake {
            self.changed.notify_one();
        }
        job
    }
}

/// Counts a thread out, however it ends.
struct Leaving<'a, W> {
    pool: &'a Pool<W>,
}

impl<W> Drop for Leaving<'_, W> {
    fn drop(&mut self) {
        lock(&self.pool.queue).alive -= 1;
        self.pool.changed.notify_all();
    }
}

impl Work for Job {
    fn run(self, py: Python<'_>) {
        if self.ticket.is_abandoned() {
            return;
        }
        let ticket = Arc::clone(&self.ticket);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| answer(py, self)));
        ticket.complete(outcome.unwrap_or_else(|_| problem(Problem::internal())));
    }
}

fn answer(py: Python<'_>, job: Job) -> Response {
    let Job { core, route, request, args, context, ticket: _ } = job;
    let request = request.bind(py);
    let context = context.bind(py);
    let entered = match Entered::new(context) {
        Ok(entered) => entered,
        Err(error) => return core.hooks.raised(request, error),
    };
    let result = calls::call(route.handler.bind(py), &args);
    drop(args);
    let response = match result {
        Ok(value) => core.hooks.returned(&core, &route, request, &value),
        Err(error) => core.hooks.raised(request, error),
    };
    drop(entered);
    response
}
