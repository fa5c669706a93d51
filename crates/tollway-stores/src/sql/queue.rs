//! What callers of a database leave in its queue.

use tollway_core::Decision;

use super::ask::{Ask, Asks};
use crate::remote;

pub(super) type Queue = remote::Queue<Work>;
pub(super) type Job = remote::Job<Work>;

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

impl Work {
    /// What is to be decided for it, if anything.
    pub(super) fn asks(&self) -> Option<&Asks> {
        match self {
            Self::Decide(asks) => Some(asks),
            _ => None,
        }
    }

    /// Whether it may be done again when nobody knows whether it was done.
    pub(super) fn may_repeat(&self) -> bool {
        self.asks().is_none_or(|asks| asks.iter().all(Ask::may_repeat))
    }
}

impl remote::Work for Work {
    type Done = Done;

    fn size(&self) -> usize {
        self.asks().map_or(1, |asks| asks.iter().map(Ask::size).sum())
    }

    fn is_alone(&self) -> bool {
        self.asks().is_none()
    }
}

/// What a caller gets back.
#[derive(Debug)]
pub(super) enum Done {
    Decided(Vec<Decision>),
    /// So many rows are gone.
    Deleted(u64),
}
