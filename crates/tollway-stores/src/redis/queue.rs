//! Where callers leave their jobs for the driver.
//!
//! A lock around a deque rather than a channel: the driver takes all that waits at once, and can
//! refuse at the door while the server is away, and answer those whose time runs out in the queue.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_channel::oneshot;
use redis::Value;
use tokio::sync::Notify;
use tollway_core::{Change, StoreError, StoreErrorKind};

use super::ask::{Answer, Ask, Asks};
use super::hop::{Hop, Route};
use super::script::Script;
use super::trouble;

/// What a caller wants.
#[derive(Debug)]
pub(super) enum Work {
    Apply(Asks),
    Say(Command),
}

/// A command with its arguments.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) words: Vec<Vec<u8>>,
    /// Whether it may be sent again when nobody knows whether it was carried out.
    pub(super) may_repeat: bool,
}

impl Command {
    /// One that may be carried out twice.
    pub(super) fn new<T: AsRef<[u8]>>(words: impl IntoIterator<Item = T>) -> Self {
        Self { words: words.into_iter().map(|word| word.as_ref().to_vec()).collect(), may_repeat: true }
    }

    /// One that may not.
    pub(super) fn once(self) -> Self {
        Self { may_repeat: false, ..self }
    }
}

/// What a caller gets back.
#[derive(Debug)]
pub(super) enum Done {
    Applied(Asks, Vec<Answer>),
    Said(Value),
    /// It had no effect here.
    Elsewhere(Work, Hop),
}

pub(super) type Outcome = Result<Done, StoreError>;

/// One caller's work and where its outcome goes.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) work: Work,
    pub(super) route: Route,
    pub(super) deadline: Instant,
    /// Times it was sent and came back undone.
    pub(super) tries: u8,
    /// None once the caller was told that its time ran out.
    reply: Option<oneshot::Sender<Outcome>>,
}

impl Job {
    /// Gives the caller its outcome; one who is gone does not mind.
    pub(super) fn finish(mut self, outcome: Outcome) {
        self.answer(outcome);
    }

    /// Tells the caller why it gets nothing, while the work itself is still on its way.
    pub(super) fn give_up(&mut self, cause: StoreError) {
        self.answer(Err(cause));
    }

    /// Gives the caller its work back, to bring it elsewhere.
    pub(super) fn go_elsewhere(mut self, hop: Hop) {
        let work = std::mem::replace(&mut self.work, Work::Apply(Asks::new()));
        self.answer(Ok(Done::Elsewhere(work, hop)));
    }

    fn answer(&mut self, outcome: Outcome) {
        if let Some(reply) = self.reply.take() {
            let _ = reply.send(outcome);
        }
    }

    /// Whether nobody waits for it any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.reply.as_ref().is_none_or(oneshot::Sender::is_canceled)
    }

    /// Whether it may be sent again when nobody knows whether it was carried out. A check may: it
    /// counts twice at worst. What gives permits back may not: it would free more than was spent.
    pub(super) fn may_repeat(&self) -> bool {
        match &self.work {
            Work::Apply(asks) => {
                asks.iter().all(|ask| !matches!(ask.change, Some(Change::Refund(_) | Change::Release { .. })))
            }
            Work::Say(command) => command.may_repeat,
        }
    }

    /// The script that knows all its limits.
    pub(super) fn script(&self) -> Script {
        match &self.work {
            Work::Apply(asks) => asks.iter().map(Ask::script).max().unwrap_or_default(),
            Work::Say(_) => Script::Plain,
        }
    }

    /// How many keys it names.
    pub(super) fn size(&self) -> usize {
        match &self.work {
            Work::Apply(asks) => asks.iter().map(|ask| ask.dues.len()).sum(),
            Work::Say(_) => 1,
        }
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
    /// How many came since the gate began to refuse.
    knocks: u64,
}

/// The queue of one store.
#[derive(Debug)]
pub(super) struct Queue {
    name: Arc<str>,
    bound: usize,
    connect_timeout: Duration,
    command_timeout: Duration,
    process: u32,
    state: Mutex<State>,
    pub(super) bell: Notify,
}

impl Queue {
    pub(super) fn new(name: Arc<str>, bound: usize, connect_timeout: Duration, command_timeout: Duration) -> Self {
        let state = State { waiting: VecDeque::new(), gate: Gate::Idle, knocks: 0 };
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

    /// Leaves a job, or says at once why not. `deadline` is that of an earlier try.
    pub(super) fn push(
        &self,
        work: Work,
        route: Route,
        deadline: Option<Instant>,
    ) -> Result<(oneshot::Receiver<Outcome>, Instant), StoreError> {
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
                state.knocks += 1;
                return Err(cause);
            }
            Gate::Closed => return Err(self.unavailable("the store was closed, or the runtime that drove it ended")),
        };
        if state.waiting.len() >= self.bound {
            return Err(trouble::full(&self.name, self.bound));
        }
        let deadline = deadline.unwrap_or(now + patience);
        state.waiting.push_back(Job { work, route, deadline, tries: 0, reply: Some(reply) });
        drop(state);
        self.bell.notify_one();
        Ok((receiver, deadline))
    }

    /// Takes the jobs that waited longest, about `keys` keys' worth; abandoned ones are dropped.
    pub(super) fn take(&self, keys: usize) -> Vec<Job> {
        let mut state = self.state();
        let mut taken = Vec::with_capacity(state.waiting.len().min(keys));
        let mut size = 0;
        while let Some(job) = state.waiting.pop_front() {
            if job.is_abandoned() {
                continue;
            }
            size += job.size();
            if size > keys && !taken.is_empty() {
                state.waiting.push_front(job);
                break;
            }
            taken.push(job);
        }
        taken
    }

    /// Puts jobs back where they were taken from.
    pub(super) fn put_back(&self, jobs: Vec<Job>) {
        let mut state = self.state();
        for job in jobs.into_iter().rev() {
            state.waiting.push_front(job);
        }
    }

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

    /// Connected: callers wait for answers, and those who waited for the connection get the time
    /// of a call from here on.
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
        for job in waiting {
            job.finish(Err(cause.clone()));
        }
    }

    /// Whether somebody came since the gate began to refuse.
    pub(super) fn was_asked(&self) -> bool {
        self.state().knocks > 0
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
        for job in late {
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
            self.knocks = 0;
        }
    }
}
