//! The way of a request: route, limits, parameters, call.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::{ALLOW, HeaderValue};
use http::{Response as HttpResponse, StatusCode};
use pyo3::prelude::*;
use tollway_http::{Check, Verdict};
use tollway_server::app::{Found, Problem, Seen};
use tollway_server::{Body, Handler, Refused, Request as Incoming, Response};

use super::arguments::{self, Bound1, Refusal};
use super::asyncio::Asyncio;
use super::calls::{self, Args, Entered};
use super::core::Core;
use super::limits;
use super::outcome::Aftermath;
use super::passage::{Answer, Passage, Step, tell};
use super::pool::{Job, Ticket};
use super::request::{Asking, Request};
use super::respond::{problem, report};
use super::routes::{Mode, Route};
use super::task::{self, Task};

/// Seconds after which a client may try again when the server had no room.
const TRY_AGAIN: u32 = 1;

/// Answers the engine's requests by calling Python.
pub(super) struct PyHandler {
    pub(super) core: Arc<Core>,
}

/// The token of the thread that drives the engine.
#[inline]
pub(super) fn driving_thread<'py>() -> Python<'py> {
    // SAFETY: the engine calls handlers and polls their futures and bodies only from inside `turn`,
    // `run_with`, `run_ready`, `expire`, `begin_shutdown` and `abort`, and all of these are called
    // by methods of `Server`, which hold the GIL throughout. The token does not outlive the call.
    unsafe { Python::assume_attached() }
}

impl Handler for PyHandler {
    type Future = Reply;

    fn max_body(&self, head: &http::request::Parts) -> usize {
        match self.core.router.find(&head.method, head.uri.path()) {
            Found::Route(found) => self.core.bodies.most(found.value()),
            _ => self.core.bodies.max_body,
        }
    }

    fn refuse(&self, refused: &Refused, answer: &mut Response) {
        if let Some(seen) = self.core.finishing.refuse(&self.core.router, refused) {
            seen.refuse(answer);
        }
    }

    fn replace(&self, future: Pin<&mut Reply>, answer: &mut Response) {
        future.get_mut().finish(answer);
    }

    fn call(&self, request: Incoming) -> Reply {
        let py = driving_thread();
        let found = self.core.router.find(&request.head.method, request.head.uri.path());
        let (seen, preflight) = self.core.finishing.see(&self.core.router, &found, &request);
        if let Some(answer) = preflight {
            return Reply::ready(answer, seen);
        }
        let found = match found {
            Found::Route(found) => found,
            Found::NotFound => return Reply::ready(problem(Problem::not_found(request.head.uri.path())), seen),
            Found::Options(allow) => return Reply::ready(options(allow), seen),
            Found::MethodNotAllowed(allow) => {
                let method = request.head.method.as_str();
                return Reply::ready(problem(Problem::method_not_allowed(method, allow)), seen);
            }
        };
        let route = Arc::clone(found.value());
        let mut passage = Passage::default();
        match passage.go(&route, &request) {
            Step::Go => {}
            Step::Refuse(response) => return Reply::of(State::Ready(response), passage, seen),
            Step::Wait(answer) => {
                let core = Arc::clone(&self.core);
                let request = Some(named(request, seen.as_deref()));
                let waiting = Waiting { answer, request, passage, core };
                return Reply { state: State::Limited(Box::new(waiting)), verdict: None, aftermath: None, seen };
            }
        }
        let bound = arguments::bind(py, &route, &found.params, &self.core.bodies.forms, &request.head, &request.body);
        let request = named(request, seen.as_deref());
        Reply::of(start(py, &self.core, &route, bound, request, &passage), passage, seen)
    }
}

/// The request with its id, where it has one.
#[inline]
fn named(mut request: Incoming, seen: Option<&Seen>) -> Incoming {
    if let Some(seen) = seen {
        seen.name(&mut request.head);
    }
    request
}

fn options(allow: HeaderValue) -> Response {
    let mut response = HttpResponse::new(Body::Empty);
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(ALLOW, allow);
    response
}

/// Goes on after the store of a limit answered: the route is looked up again, since what the
/// first look-up found points into the request.
fn resume(py: Python<'_>, mut waiting: Box<Waiting>, verdict: Verdict) -> (State, Passage) {
    if let Some(response) = waiting.passage.decided(verdict) {
        return (State::Ready(response), waiting.passage);
    }
    let Some(request) = waiting.request.take() else { return (State::Taken, Passage::default()) };
    let core = Arc::clone(&waiting.core);
    let Found::Route(found) = core.router.find(&request.head.method, request.head.uri.path()) else {
        return (State::Ready(problem(Problem::internal())), Passage::default());
    };
    let route = Arc::clone(found.value());
    let state = match waiting.passage.go(&route, &request) {
        Step::Go => {
            let bound = arguments::bind(py, &route, &found.params, &core.bodies.forms, &request.head, &request.body);
            start(py, &core, &route, bound, request, &waiting.passage)
        }
        Step::Refuse(response) => State::Ready(response),
        Step::Wait(answer) => {
            waiting.answer = answer;
            waiting.request = Some(request);
            return (State::Limited(waiting), Passage::default());
        }
    };
    (state, waiting.passage)
}

fn start(
    py: Python<'_>,
    core: &Arc<Core>,
    route: &Arc<Route>,
    bound: Result<Bound1, Refusal>,
    request: Incoming,
    passage: &Passage,
) -> State {
    let decision = match &passage.verdict {
        Some(verdict) => limits::decision(py, verdict),
        None => Ok(None),
    };
    let made = decision
        .and_then(|decision| Bound::new(py, Request::new(request, Arc::clone(route), decision, Asking::of(passage))));
    let request = match made {
        Ok(request) => request,
        Err(error) => {
            report(py, "a request object could not be made", &error);
            return State::Ready(problem(Problem::internal()));
        }
    };
    let args = match bound {
        Ok(bound) => arguments::complete(py, route, bound, &request),
        Err(Refusal::Invalid(errors)) => return State::Ready(core.hooks.invalid(&request, errors.bind(py))),
        Err(Refusal::Answer(answer)) => return State::Ready(problem(*answer)),
        Err(Refusal::Failed(error)) => Err(error),
    };
    let started = args.and_then(|args| match route.mode {
        Mode::Async => start_task(core, route, &request, &args),
        Mode::Pool => start_job(core, route, &request, args),
        Mode::Inline => start_inline(core, route, &request, &args),
    });
    started.unwrap_or_else(|error| State::Ready(core.hooks.raised(&request, error)))
}

fn start_task(
    core: &Arc<Core>,
    route: &Arc<Route>,
    request: &Bound<'_, Request>,
    args: &[Py<PyAny>],
) -> PyResult<State> {
    let py = request.py();
    if core.suspended(py) >= core.max_tasks {
        core.count_busy();
        return Ok(State::Ready(busy("too many requests are being handled")));
    }
    let around = core.surroundings(py)?;
    let task = {
        let _entered = Entered::new(&around.context)?;
        let coroutine = calls::coroutine_of(calls::call(route.handler.bind(py), args)?)?;
        let task = Bound::new(py, Task::new(&around, coroutine, route, request))?;
        task::step(&task, None);
        task
    };
    match task.get().take_response(py) {
        Some(response) => {
            // Whoever kept the task may have made a cycle with it.
            if calls::is_shared(task.as_any()) {
                calls::track(task.as_any())?;
            }
            Ok(State::Ready(response))
        }
        None => {
            task::suspend(&task, core)?;
            Ok(State::Task(task.unbind()))
        }
    }
}

fn start_inline(
    core: &Arc<Core>,
    route: &Arc<Route>,
    request: &Bound<'_, Request>,
    args: &[Py<PyAny>],
) -> PyResult<State> {
    let py = request.py();
    let around = core.surroundings(py)?;
    let _entered = Entered::new(&around.context)?;
    let handler = route.handler.bind(py);
    let value = Asyncio::get(py)?.without_loop(&around.event_loop, || calls::call(handler, args))?;
    Ok(State::Ready(core.hooks.returned(core, route, request, &value)))
}

fn start_job(core: &Arc<Core>, route: &Arc<Route>, request: &Bound<'_, Request>, args: Args) -> PyResult<State> {
    let py = request.py();
    let around = core.surroundings(py)?;
    let Some(pool) = core.pool(py) else {
        return Ok(State::Ready(busy("the server is shutting down")));
    };
    let job = Job {
        core: Arc::clone(core),
        route: Arc::clone(route),
        request: request.clone().unbind(),
        args,
        context: around.context.unbind(),
        ticket: Arc::new(Ticket::default()),
    };
    let ticket = Arc::clone(&job.ticket);
    match pool.submit(job) {
        Ok(()) => Ok(State::Job(ticket)),
        Err(job) => {
            drop(job);
            core.count_busy();
            Ok(State::Ready(busy("too many requests wait for a thread")))
        }
    }
}

pub(super) fn busy(detail: &str) -> Response {
    problem(Problem::busy(detail, TRY_AGAIN))
}

/// The answer to come.
pub(super) struct Reply {
    state: State,
    verdict: Option<Box<Verdict>>,
    aftermath: Option<Box<Aftermath>>,
    seen: Option<Box<Seen>>,
}

/// How far a request is.
pub(super) enum State {
    /// Answered.
    Ready(Response),
    /// An async handler is suspended.
    Task(Py<Task>),
    /// A plain handler waits for a thread or runs on one.
    Job(Arc<Ticket>),
    /// The store of a limit is being asked.
    Limited(Box<Waiting>),
    /// The answer is there, and the store of a limit that counts it is being asked.
    Counted(Answer, Box<Response>),
    /// Handed over.
    Taken,
}

/// A request whose limits are being asked for.
pub(super) struct Waiting {
    answer: Answer,
    request: Option<Incoming>,
    passage: Passage,
    core: Arc<Core>,
}

impl Reply {
    fn ready(response: Response, seen: Option<Box<Seen>>) -> Self {
        Self::of(State::Ready(response), Passage::default(), seen)
    }

    fn of(state: State, passage: Passage, seen: Option<Box<Seen>>) -> Self {
        Reply { state, verdict: passage.verdict, aftermath: passage.aftermath, seen }
    }

    /// Charges the limits that count such an answer. False when a store has to be waited for first.
    fn count(&mut self, response: &mut Option<Response>) -> bool {
        let Some(aftermath) = &mut self.aftermath else { return true };
        while let Some(check) = response.as_ref().and_then(|response| aftermath.charge(response.status())) {
            match (check, response.take()) {
                (Check::Wait(answer), Some(given)) => {
                    self.state = State::Counted(answer, Box::new(given));
                    return false;
                }
                (Check::Done(verdict), given) => {
                    tell(&mut self.verdict, verdict);
                    *response = given;
                }
                (Check::Wait(_), None) => {}
            }
        }
        true
    }

    /// Adds to the answer what the route and its limits promise.
    fn finish(&mut self, response: &mut Response) {
        if let Some(verdict) = &self.verdict {
            verdict.write_headers(response.headers_mut());
        }
        if let Some(seen) = self.seen.take() {
            seen.end(response);
        }
    }
}

impl Future for Reply {
    type Output = Response;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Response> {
        let this = self.get_mut();
        let py = driving_thread();
        loop {
            let mut response = match &mut this.state {
                State::Task(task) => task.get().poll_response(py, cx.waker()),
                State::Job(ticket) => ticket.poll_response(cx.waker()),
                State::Limited(waiting) => {
                    let Poll::Ready(verdict) = waiting.answer.as_mut().poll(cx) else {
                        return Poll::Pending;
                    };
                    if let State::Limited(waiting) = std::mem::replace(&mut this.state, State::Taken) {
                        let passage;
                        (this.state, passage) = resume(py, waiting, verdict);
                        (this.verdict, this.aftermath) = (passage.verdict, passage.aftermath);
                    }
                    continue;
                }
                State::Counted(answer, _) => {
                    let Poll::Ready(verdict) = answer.as_mut().poll(cx) else {
                        return Poll::Pending;
                    };
                    tell(&mut this.verdict, verdict);
                    match std::mem::replace(&mut this.state, State::Taken) {
                        State::Counted(_, response) => Some(*response),
                        _ => None,
                    }
                }
                State::Ready(_) | State::Taken => match std::mem::replace(&mut this.state, State::Taken) {
                    State::Ready(response) => Some(response),
                    _ => Some(problem(Problem::internal())),
                },
            };
            if response.is_some() && !this.count(&mut response) {
                continue;
            }
            let Some(mut response) = response else { return Poll::Pending };
            this.state = State::Taken;
            this.finish(&mut response);
            return Poll::Ready(response);
        }
    }
}

impl Drop for Reply {
    /// The client went away, or the answer was given: then there is nothing left to cancel.
    fn drop(&mut self) {
        if let Some(seen) = self.seen.take() {
            seen.give_up();
        }
        match std::mem::replace(&mut self.state, State::Taken) {
            // Where the interpreter is gone there is nothing to cancel either.
            State::Task(task) => {
                Python::try_attach(|py| task::abandon(task.bind(py)));
            }
            State::Job(ticket) => ticket.abandon(),
            State::Ready(_) | State::Limited(_) | State::Counted(..) | State::Taken => {}
        }
    }
}
