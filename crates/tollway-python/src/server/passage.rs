//! The way of a request to its handler: limits by address, credentials, limits by caller, guards.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tollway_auth::Caller;
use tollway_http::{Check, Gate, Verdict, Verified};
use tollway_server::{Body, Request as Incoming, Response};

use super::auth::Entry;
use super::limits::Limits;
use super::outcome::Aftermath;
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
    /// What is charged when the answer is known.
    pub(super) aftermath: Option<Box<Aftermath>>,
    wrong: Option<&'static str>,
}

#[derive(Clone, Copy, Default)]
enum Stage {
    #[default]
    Address,
    AddressLook,
    Credentials,
    Caller,
    CallerLook,
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
                    self.next = Stage::AddressLook;
                    self.ask(route.limits.as_ref().and_then(Limits::before), request)
                }
                Stage::AddressLook => {
                    self.next = Stage::Credentials;
                    let outcomes = route.limits.as_ref().and_then(Limits::outcomes);
                    self.aftermath = outcomes.map(|outcomes| Aftermath::of(outcomes, request));
                    self.look(route, request, false)
                }
                Stage::Credentials => {
                    self.next = Stage::Caller;
                    self.enter(route, request)
                }
                Stage::Caller => {
                    self.next = Stage::CallerLook;
                    self.ask(route.limits.as_ref().and_then(Limits::after), request)
                }
                Stage::CallerLook => {
                    self.next = Stage::Guards;
                    self.look(route, request, true)
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
        // What was only looked at is told when it is charged.
        if !matches!(self.next, Stage::Credentials | Stage::Guards) {
            tell(&mut self.verdict, verdict);
        }
        if refusal.is_some() {
            // It carries its own headers.
            self.verdict = None;
        }
        refusal
    }

    fn ask(&mut self, gate: Option<&Gate>, request: &Incoming) -> Option<Step> {
        let check = gate?.check_for(&request.head, request.peer.map(|peer| peer.ip()), self.verified());
        self.checked(check)
    }

    fn look(&mut self, route: &Route, request: &Incoming, known: bool) -> Option<Step> {
        let gate = route.limits.as_ref()?.look(known)?;
        let check = gate.peek_for(&request.head, request.peer.map(|peer| peer.ip()), self.verified());
        self.checked(check)
    }

    fn verified(&self) -> Option<&dyn Verified> {
        self.caller.as_deref().map(|caller| caller as &dyn Verified)
    }

    fn checked(&mut self, check: Check) -> Option<Step> {
        match check {
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
        if let Some(aftermath) = &mut self.aftermath {
            aftermath.is_by(self.caller.clone());
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

/// Has the client be told of the tighter one of two decisions.
pub(super) fn tell(told: &mut Option<Box<Verdict>>, verdict: Verdict) {
    let left = |verdict: &Verdict| verdict.decision().map_or(0, |decision| decision.remaining);
    if told.as_ref().is_none_or(|before| left(&verdict) <= left(before)) {
        *told = Some(Box::new(verdict));
    }
}
