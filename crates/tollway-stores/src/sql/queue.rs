//! Where callers leave their jobs for the driver.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_channel::oneshot;
use tokio::sync::Notify;
use tollway_core::{Decision, StoreError, StoreErrorKind};

use super::ask::{Ask, Asks};
use super::trouble;

/// What a caller wants.
#[derive(Debug)]
pub(super) enum Work {
    /// Decisions: callers who want these share a transaction.
    Decide(Asks),
    /// Forget the keys from the first to before the second.
    Forget {
        from: String,
        to: String,
    },
    /// Delete at most so many rows that have expired.
    Sweep(u32),
    Ping,
}

/// What a caller gets back.
#[derive(Debug)]
pub(super) enum Done {
    Decided(Vec<Decision>),
    /// So many rows are gone.
    Deleted(u64),
}

pub(super) type Outcome = Result<Done, StoreError>;

/// One caller's work and where its outcome goes.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) work: Work,
    pub(super) deadline: Instant,
    /// Times it was on its way and came back undone.
    pub(super) tries: u8,
    own: bool,
    /// None once the caller was told that its time ran out.
    reply: Option<oneshot::Sender<Outcome>>,
}

impl Job {
    /// Work of the store itself, which nobody waits for.
    pub(super) fn own(work: Work) -> Self {
        Self { work, deadline: Instant::now(), tries: 0, own: true, reply: None }
    }

    /// Whether nobody ever waited for it.
    pub(super) fn is_own(&self) -> bool {
        self.own
    }

    /// Gives the caller its outcome; one who is gone does not mind.
    pub(super) fn finish(&mut self, outcome: Outcome) {
        if let Some(reply) = self.reply.take() {
            let _ = reply.send(outcome);
        }
    }

    /// Whether nobody waits for it any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.reply.as_ref().is_none_or(oneshot::Sender::is_canceled)
    }

    /// Whether it may be done again when nobody knows whether it was done.
    pub(super) fn may_repeat(&self) -> bool {
        self.asks().is_none_or(|asks| asks.iter().all(Ask::may_repeat))
    }

    /// What is to be decided for it, if anything.
    pub(super) fn asks(&self) -> Option<&Asks> {
        match &self.work {
            Work::Decide(asks) => Some(asks),
            _ => None,
        }
    }

    fn size(&self) -> usize {
        self.asks().map_or(1, |asks| asks.iter().map(Ask::size).sum())
    }
}

/// What happens to those who come.
#[derive(Debug)]
enum Gate {
    /// No connection, and no reason to think that none can be had: they wait for it.
    Idle,
    /// Connected: they wait for an answer.
    Open,
    /// The server is away: they are told why, at once.
    Refusing(StoreError),
    /// The store or its runtime is gone.
    Closed,
}

#[derive(Debug)]
struct State {
    waiting: VecDeque<Job>,
    gate: Gate,
    /// Whether somebody came since the gate began to refuse.
    knocked: bool,
}

/// The queue of one store.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) name: Arc<str>,
    bound: usize,
    pub(super) connect_timeout: Duration,
    pub(super) command_timeout: Duration,
    process: u32,
    state: Mutex<State>,
    pub(super) bell: Notify,
}

impl Queue {
    pub(super) fn new(name: Arc<str>, bound: usize, connect_timeout: Duration, command_timeout: Duration) -> Self {
        let state = State { waiting: VecDeque::new(), gate: Gate::Idle, knocked: false };
        let process = std::process::id();
        Self { name, bound, connect_timeout, command_timeout, process, state: Mutex::new(state), bell: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under the lock with the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unavailable(&self, detail: &str) -> StoreError {
        StoreError::new(StoreErrorKind::Unavailable, &*self.name, detail)
    }

    /// Leaves a job, or says at once why not.
    pub(super) fn push(&self, work: Work) -> Result<oneshot::Receiver<Outcome>, StoreError> {
        if std::process::id() != self.process {
            return Err(self.unavailable("this process was forked after the store was opened: open it in the child"));
        }
        let now = Instant::now();
        let (reply, receiver) = oneshot::channel();
        let mut state = self.state();
        let patience = match &state.gate {
            Gate::Open => self.command_timeout,
            Gate::Idle => self.connect_timeout + self.command_timeout,
            Gate::Refusing(cause) => {
                let cause = cause.clone();
                state.knocked = true;
                return Err(cause);
            }
            Gate::Closed => return Err(self.unavailable("the store was closed, or the runtime that drove it ended")),
        };
        if state.waiting.len() >= self.bound {
            return Err(self.unavailable(&format!(
                "the queue is full: {} calls wait already; slow down or raise the queue's bound",
                self.bound
            )));
        }
        state.waiting.push_back(Job { work, deadline: now + patience, tries: 0, own: false, reply: Some(reply) });
        drop(state);
        self.bell.notify_one();
        Ok(receiver)
    }

    /// Takes the jobs that waited longest and can travel together: requests for about `keys` keys,
    /// or one job of another kind. Abandoned ones are dropped.
    pub(super) fn take(&self, keys: usize) -> Vec<Job> {
        let mut state = self.state();
        let mut taken: Vec<Job> = Vec::with_capacity(state.waiting.len().min(keys));
        let mut size = 0;
        while let Some(job) = state.waiting.pop_front() {
            if job.is_abandoned() {
                continue;
            }
            size += job.size();
            let alone = job.asks().is_none();
            if !taken.is_empty() && (alone || size > keys) {
                state.waiting.push_front(job);
                break;
            }
            taken.push(job);
            if alone {
                break;
            }
        }
        taken
    }

    /// Puts jobs back where they were taken from.
    pub(super) fn put_back(&self, jobs: Vec<Job>) {
        if jobs.is_empty() {
            return;
        }
        let mut state = self.state();
        for job in jobs.into_iter().rev() {
            state.waiting.push_front(job);
        }
        drop(state);
        self.bell.notify_one();
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.state().waiting.len()
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(self.state().gate, Gate::Closed)
    }

    /// Waits for a job; false when there will be none.
    pub(super) async fn asked(&self) -> bool {
        loop {
            {
                let state = self.state();
                if !state.waiting.is_empty() {
                    return true;
                }
                if matches!(state.gate, Gate::Closed) {
                    return false;
                }
            }
            self.bell.notified().await;
        }
    }

    /// Connected: callers wait for answers, and those who waited for the connection get the time of
    /// a call from here on.
    pub(super) fn open(&self, now: Instant) {
        let mut state = self.state();
        for job in &mut state.waiting {
            job.deadline = job.deadline.min(now + self.command_timeout);
        }
        state.turn(Gate::Open);
    }

    /// Callers may wait for a connection.
    pub(super) fn idle(&self) {
        self.state().turn(Gate::Idle);
    }

    /// Tells everybody who waits, and who will come, why it cannot be.
    pub(super) fn refuse(&self, cause: &StoreError) {
        let waiting = {
            let mut state = self.state();
            state.turn(Gate::Refusing(cause.clone()));
            std::mem::take(&mut state.waiting)
        };
        for mut job in waiting {
            job.finish(Err(cause.clone()));
        }
    }

    /// Whether somebody came since the gate began to refuse.
    pub(super) fn was_asked(&self) -> bool {
        self.state().knocked
    }

    /// Answers those whose time ran out while they waited; says when the next one's does.
    pub(super) fn expire(&self, now: Instant) -> Option<Instant> {
        let mut late = Vec::new();
        let next = {
            let mut state = self.state();
            for job in std::mem::take(&mut state.waiting) {
                if job.deadline <= now { late.push(job) } else { state.waiting.push_back(job) }
            }
            state.waiting.iter().map(|job| job.deadline).min()
        };
        for mut job in late {
            job.finish(Err(trouble::timed_out(&self.name, self.command_timeout)));
        }
        next
    }

    /// Takes no more jobs; those that wait are still done.
    pub(super) fn close(&self) {
        self.state().gate = Gate::Closed;
        self.bell.notify_one();
    }

    /// Takes no more jobs and drops those that wait.
    pub(super) fn abandon(&self) {
        let mut state = self.state();
        state.gate = Gate::Closed;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        drop(waiting);
    }
}

impl State {
    /// Changes the gate, but a closed one stays closed.
    fn turn(&mut self, gate: Gate) {
        if !matches!(self.gate, Gate::Closed) {
            self.gate = gate;
            self.knocked = false;
        }
    }
}
