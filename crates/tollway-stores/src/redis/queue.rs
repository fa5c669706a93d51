//! What callers of a Redis store leave in its queue.

use redis::Value;
use tollway_core::{Change, StoreError};

use super::ask::{Answer, Ask, Asks};
use super::hop::{Hop, Route};
use super::script::Script;
use crate::remote;

pub(super) type Queue = remote::Queue<Errand>;
pub(super) type Job = remote::Job<Errand>;
pub(super) type Outcome = Result<Done, StoreError>;

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

/// What a caller wants, and how it may be sent.
#[derive(Debug)]
pub(super) struct Errand {
    pub(super) work: Work,
    pub(super) route: Route,
}

impl Errand {
    /// One for the server that holds all keys.
    pub(super) fn anywhere(work: Work) -> Self {
        Self { work, route: Route::Anywhere }
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
}

impl remote::Work for Errand {
    type Done = Done;

    fn size(&self) -> usize {
        match &self.work {
            Work::Apply(asks) => asks.iter().map(|ask| ask.dues.len()).sum(),
            Work::Say(_) => 1,
        }
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

/// Gives the caller its work back, to bring it elsewhere.
pub(super) fn go_elsewhere(mut job: Job, hop: Hop) {
    let work = std::mem::replace(&mut job.work.work, Work::Apply(Asks::new()));
    job.finish(Ok(Done::Elsewhere(work, hop)));
}
