//! The way of a request to its handler: limits by address, credentials, limits by caller, guards.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tollway_auth::Caller;
use tollway_http::{Check, Gate, Verdict, Verified};
use tollway_server::{Body, Request as Incoming, Response};

use super::auth::Entry;
use super::limits::Limits;
use super::routes::Route;

/// The answer of a store that is not there yet.
pub(super) type Answer = Pin<Box<dyn Future<Output = Verdict> + Send>>;

/// How far a request has come, and what was found out on the way.
#[derive(Default)]
pub(super) struct Passage {
    next: Stage,
    /// The decision that the client is told: the tighter one where two were made.
    pub(super) verdict: Option<Box<Verdict>>,
    /// Who asks, if somebody was verified.
    pub(super) caller: Option<Arc<Caller>>,
    /// Whether Python must look a session up.
    pub(super) session: bool,
    wrong: Option<&'static str>,
}

#[derive(Clone, Copy, Default)]
enum Stage {
    #[default]
    Address,
    Credentials,
    Caller,
    Guards,
    Through,
}

/// What is to be done with the request now.
pub(super) enum Step {
    /// Call its handler.
    Go,
    /// Send this.
    Refuse(Response),
    /// Wait for this, tell [`Passage::decided`], and go on.
    Wait(Answer),
}

impl Passage {
    /// Goes on as far as it can.
    pub(super) fn go(&mut self, route: &Route, request: &Incoming) -> Step {
        loop {
            let stopped = match self.next {
                Stage::Address => {
                    self.next = Stage::Credentials;
                    self.ask(route.limits.as_ref().and_then(Limits::before), request)
                }
                Stage::Credentials => {
                    self.next = Stage::Caller;
                    self.enter(route, request)
                }
                Stage::Caller => {
                    self.next = Stage::Guards;
                    self.ask(route.limits.as_ref().and_then(Limits::after), request)
                }
                Stage::Guards => {
                    self.next = Stage::Through;
                    self.guard(route)
                }
                Stage::Through => return Step::Go,
            };
            if let Some(step) = stopped {
                return step;
            }
        }
    }

    /// Takes in what a store said. Returns the refusal, if it is one.
    pub(super) fn decided(&mut self, verdict: Verdict) -> Option<Response> {
        let refusal = (!verdict.allowed()).then(|| verdict.refusal().map(Body::from));
        let left = |verdict: &Verdict| verdict.decision().map_or(0, |decision| decision.remaining);
        if self.verdict.as_ref().is_none_or(|before| left(&verdict) <= left(before)) {
            self.verdict = Some(Box::new(verdict));
        }
        if refusal.is_some() {
            // It carries its own headers.
            self.verdict = None;
        }
        refusal
    }

    fn ask(&mut self, gate: Option<&Gate>, request: &Incoming) -> Option<Step> {
        let caller = self.caller.as_deref().map(|caller| caller as &dyn Verified);
        match gate?.check_for(&request.head, request.peer.map(|peer| peer.ip()), caller) {
            Check::Done(verdict) => self.decided(verdict).map(Step::Refuse),
            Check::Wait(answer) => Some(Step::Wait(answer)),
        }
    }

    fn enter(&mut self, route: &Route, request: &Incoming) -> Option<Step> {
        let (entry, wrong) = route.auth.as_ref()?.enter(request);
        self.wrong = wrong;
        match entry {
            Entry::Known(caller) => self.caller = caller.map(Arc::new),
            Entry::Session => self.session = true,
            Entry::Refused(response) => return Some(Step::Refuse(response)),
        }
        None
    }

    fn guard(&mut self, route: &Route) -> Option<Step> {
        if self.session {
            return None;
        }
        route.auth.as_ref()?.refuse(self.caller.as_deref(), self.wrong).map(Step::Refuse)
    }
}
