//! Asking, and telling the answer to whoever asked and to those who listen.

use std::future::Future;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use tollway::{Charge, StoreError};

use super::Limiter;
use crate::answers::{Policies, ask_and_wait, ask_now, finish, finish_many, wait};
use crate::awaiting::{Convert, Mailbox, Ready};
use crate::charges::Charges;
use crate::decision::Decision;
use crate::errors;
use crate::observe::hooks::{self, Ear};
use crate::runtime::runtime;

/// A call: whom to ask, and who is told of the answer.
pub(crate) struct Asking {
    pub(crate) limiter: Arc<tollway::Limiter>,
    ear: Option<Box<Ear>>,
}

impl Asking {
    /// The answer is there without waiting.
    pub(crate) fn is_done(&mut self) {
        self.ear.iter_mut().for_each(|ear| ear.is_done());
    }

    /// The answer comes in another context than the caller's.
    pub(crate) fn goes_elsewhere(&mut self, py: Python<'_>) -> PyResult<()> {
        self.ear.iter_mut().try_for_each(|ear| ear.keep_context(py))
    }

    /// The answer; whoever listens has heard it, as these decisions.
    pub(crate) fn told<T>(
        &self,
        py: Python<'_>,
        answer: PyResult<T>,
        decisions: impl FnOnce(&T) -> Vec<Decision>,
    ) -> PyResult<T> {
        if let Some(ear) = &self.ear {
            match &answer {
                Ok(found) => ear.hear(py, &decisions(found))?,
                Err(error) => ear.hear_error(py, error)?,
            }
        }
        answer
    }

    /// The same for one decision.
    pub(crate) fn told_one(&self, py: Python<'_>, answer: PyResult<Decision>) -> PyResult<Decision> {
        self.told(py, answer, |decision| vec![decision.clone()])
    }

    /// What Python gets of permits that are reserved or held.
    pub(crate) fn told_of_permits<T>(
        &self,
        py: Python<'_>,
        answer: Result<T, StoreError>,
        decision: fn(&T) -> &tollway::Decision,
        policies: &Policies,
    ) -> PyResult<T> {
        let answer = answer.map_err(|error| errors::from_store(&error));
        self.told(py, answer, |held| vec![Decision::new(*decision(held), Arc::clone(policies))])
    }
}

impl Limiter {
    /// Whom to ask for these charges, and who is told of the answer.
    pub(crate) fn asking(&self, operation: &'static str, charges: &[Charge<'_>]) -> PyResult<Asking> {
        let limiter = self.shared()?;
        if !self.has_ears() {
            return Ok(Asking { limiter, ear: None });
        }
        let ear = Ear::new(self.hooks.as_ref(), operation, limiter.store().name(), charges, !self.is_here());
        // Memory does not fail, and a copy is saved.
        let limiter = if self.local.is_some() { limiter } else { Arc::new(ear.beside(&limiter)) };
        Ok(Asking { limiter, ear: Some(Box::new(ear)) })
    }

    /// Whether anybody wants to hear of answers.
    #[inline]
    fn has_ears(&self) -> bool {
        self.hooks.is_some() || hooks::are_common(self.local.is_none())
    }

    /// The same for a check, or for a peek, of which nobody is told.
    pub(crate) fn checking(&self, charges: &[Charge<'_>], peek: bool) -> PyResult<Asking> {
        if peek { Ok(Asking { limiter: self.shared()?, ear: None }) } else { self.asking("check", charges) }
    }

    pub(super) fn decide(
        &self,
        py: Python<'_>,
        charges: &[Charge<'_>],
        policies: Policies,
        peek: bool,
    ) -> PyResult<Decision> {
        if let Some(local) = &self.local
            && !self.has_ears()
            && let Some(answer) = ask_now(local, charges, peek)
        {
            return finish(answer, policies);
        }
        let mut asking = self.checking(charges, peek)?;
        let answer = match ask_now(&asking.limiter, charges, peek) {
            Some(answer) => {
                asking.is_done();
                answer
            }
            None => {
                let ask = || if peek { asking.limiter.peek(charges) } else { asking.limiter.check(charges) };
                if self.recipe.is_remote() { ask_and_wait(py, ask)? } else { wait(py, ask())? }
            }
        };
        asking.told_one(py, finish(answer, policies))
    }

    pub(super) fn adecide<'py>(
        &self,
        py: Python<'py>,
        charges: &[Charge<'_>],
        policies: Policies,
        peek: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let mut asking = self.checking(charges, peek)?;
        if let Some(answer) = ask_now(&asking.limiter, charges, peek) {
            asking.is_done();
            let decision = asking.told_one(py, finish(answer, policies));
            return Ok(
                Bound::new(py, Ready::new(decision.and_then(|found| Ok(Py::new(py, found)?.into_any()))))?.into_any()
            );
        }
        let answer = if peek { asking.limiter.peek(charges) } else { asking.limiter.check(charges) };
        self.later_told(py, asking, answer, move |answer| finish(answer, policies))
    }

    pub(super) fn decide_many(&self, py: Python<'_>, charges: &Charges) -> PyResult<Vec<Decision>> {
        let asking = self.asking("check", &charges.borrow())?;
        let answers = wait(py, charges.ask_many(&asking.limiter))?;
        asking.told(py, finish_many(answers, charges.each()), Clone::clone)
    }

    pub(super) fn adecide_many<'py>(&self, py: Python<'py>, charges: &Charges) -> PyResult<Bound<'py, PyAny>> {
        let mut asking = self.asking("check", &charges.borrow())?;
        let (answers, policies) = (charges.ask_many(&asking.limiter), charges.each());
        asking.goes_elsewhere(py)?;
        self.later(py, answers, move |py, answers| {
            let answers = asking.told(py, finish_many(answers, policies), Clone::clone)?;
            Ok(answers.into_pyobject(py)?.into_any().unbind())
        })
    }

    /// A future of the running loop for one decision that listeners are told of.
    pub(crate) fn later_told<'py, T: Send + 'static>(
        &self,
        py: Python<'py>,
        mut asking: Asking,
        answer: impl Future<Output = T> + Send + 'static,
        finish: impl FnOnce(T) -> PyResult<Decision> + Send + 'static,
    ) -> PyResult<Bound<'py, PyAny>> {
        asking.goes_elsewhere(py)?;
        self.later(py, answer, move |py, answer| Ok(Py::new(py, asking.told_one(py, finish(answer))?)?.into_any()))
    }

    /// A future of the running loop that gets the answer when it is there.
    pub(crate) fn later<'py, T: Send + 'static>(
        &self,
        py: Python<'py>,
        answer: impl Future<Output = T> + Send + 'static,
        convert: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
    ) -> PyResult<Bound<'py, PyAny>> {
        let event_loop = running_loop(py)?;
        let mailbox = Mailbox::of(&event_loop)?;
        let future = event_loop.call_method0(pyo3::intern!(py, "create_future"))?;
        let waiting = future.clone().unbind();
        let runtime = runtime()?;
        let wanted = runtime.want_thread();
        runtime.handle().spawn(async move {
            let answer = answer.await;
            let convert: Convert = Box::new(move |py| convert(py, answer));
            Mailbox::post(&mailbox, waiting, convert);
            drop(wanted);
        });
        Ok(future)
    }
}

fn running_loop(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static GET: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    GET.import(py, "asyncio", "get_running_loop")?.call0()
}
