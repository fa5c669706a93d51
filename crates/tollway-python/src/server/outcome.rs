//! Limits that count answers of some kinds only: looked at before the handler, charged after it.

use std::net::IpAddr;
use std::sync::Arc;

use http::StatusCode;
use http::request::Parts;
use tollway_auth::Caller;
use tollway_http::{Check, Gate, Verified};
use tollway_server::Request as Incoming;

/// A limit that is charged when an answer has one of these statuses.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) gate: Gate,
    pub(super) statuses: Vec<u16>,
}

/// What has to be remembered of a request until its answer is known.
pub(super) struct Aftermath {
    outcomes: Arc<[Outcome]>,
    head: Parts,
    peer: Option<IpAddr>,
    caller: Option<Arc<Caller>>,
    next: usize,
}

impl Aftermath {
    pub(super) fn of(outcomes: &Arc<[Outcome]>, request: &Incoming) -> Box<Self> {
        let peer = request.peer.map(|peer| peer.ip());
        Box::new(Self { outcomes: Arc::clone(outcomes), head: request.head.clone(), peer, caller: None, next: 0 })
    }

    /// Who asked.
    pub(super) fn is_by(&mut self, caller: Option<Arc<Caller>>) {
        self.caller = caller;
    }

    /// Charges the next limit that counts an answer with this status; none when there is no further one.
    pub(super) fn charge(&mut self, status: StatusCode) -> Option<Check> {
        let left = self.outcomes.get(self.next..)?;
        let found = left.iter().position(|outcome| outcome.statuses.contains(&status.as_u16()))?;
        self.next += found + 1;
        let caller = self.caller.as_deref().map(|caller| caller as &dyn Verified);
        Some(left[found].gate.check_for(&self.head, self.peer, caller))
    }
}
