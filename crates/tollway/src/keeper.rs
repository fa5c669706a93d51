//! The thread that renews held permits and gives back those that were dropped.
//!
//! One for each process, started when the first permit is held. It polls replies and sleeps until the
//! next renewal is due; it needs no runtime.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Instant;

use tollway_core::{Decision, Reply};

use crate::hold::Grip;

/// The longest sleep, so that a thread that missed a wake-up is late by no more.
const NAP: std::time::Duration = std::time::Duration::from_secs(1);

#[derive(Default)]
struct Tasks {
    grips: Vec<Weak<Grip>>,
    replies: Vec<Reply<Decision>>,
}

/// What callers hand over, and the process and thread that take it.
struct Keeper {
    process: u32,
    thread: Thread,
    tasks: Arc<Mutex<Tasks>>,
}

static KEEPER: Mutex<Option<Keeper>> = Mutex::new(None);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Renews the permits of a grip until it is dropped.
pub(crate) fn keep(grip: &Arc<Grip>) {
    hand_over(|tasks| tasks.grips.push(Arc::downgrade(grip)));
}

/// Sees a reply to its end, whatever it says.
pub(crate) fn finish(reply: Reply<Decision>) {
    hand_over(|tasks| tasks.replies.push(reply));
}

fn hand_over(put: impl FnOnce(&mut Tasks)) {
    let mut keeper = lock(&KEEPER);
    // A forked child has its parent's memory, but not its threads.
    if keeper.as_ref().is_none_or(|keeper| keeper.process != std::process::id()) {
        *keeper = start();
    }
    // Without a thread permits simply end with their leases.
    let Some(keeper) = &*keeper else { return };
    put(&mut lock(&keeper.tasks));
    keeper.thread.unpark();
}

fn start() -> Option<Keeper> {
    let tasks = Arc::new(Mutex::new(Tasks::default()));
    let own = Arc::clone(&tasks);
    let thread = std::thread::Builder::new().name("tollway-keeper".into()).spawn(move || run(&own)).ok()?;
    Some(Keeper { process: std::process::id(), thread: thread.thread().clone(), tasks })
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// A renewal that is due at some instant.
struct Due(Instant, Weak<Grip>);

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

fn run(tasks: &Mutex<Tasks>) {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut due: BinaryHeap<Reverse<Due>> = BinaryHeap::new();
    let mut replies: Vec<Reply<Decision>> = Vec::new();
    loop {
        let new = std::mem::take(&mut *lock(tasks));
        let now = Instant::now();
        replies.extend(new.replies);
        due.extend(new.grips.into_iter().filter_map(|grip| next(grip, now)).map(Reverse));
        while due.peek().is_some_and(|Reverse(Due(at, _))| *at <= now) {
            let Some(Reverse(Due(_, grip))) = due.pop() else { break };
            let Some(held) = grip.upgrade() else { continue };
            replies.extend(held.renew());
            due.extend(next(grip, now).map(Reverse));
        }
        let mut context = Context::from_waker(&waker);
        replies.retain_mut(|reply| matches!(reply.as_mut().poll(&mut context), Poll::Pending));
        let until = due.peek().map_or(NAP, |Reverse(Due(at, _))| at.saturating_duration_since(Instant::now()));
        std::thread::park_timeout(until.min(NAP));
    }
}

/// When a grip is to be renewed next: three times a lease, so that two failures are survived.
fn next(grip: Weak<Grip>, now: Instant) -> Option<Due> {
    let third = grip.upgrade()?.lease / 3;
    Some(Due(now + third, grip))
}
