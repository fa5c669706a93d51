//! Waiting for answers, and what Python gets of them.

use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use pyo3::prelude::*;
use tollway::{Charge, StoreError};

use crate::decision::Decision;
use crate::errors;
use crate::runtime::runtime;

/// The policies of a decision's charges.
pub(crate) type Policies = Arc<[Arc<tollway::Policy>]>;

/// The answer of a store that need not be waited for.
pub(crate) fn ask_now(
    limiter: &tollway::Limiter,
    charges: &[Charge<'_>],
    peek: bool,
) -> Option<Result<tollway::Decision, StoreError>> {
    if peek { limiter.peek_now(charges) } else { limiter.check_now(charges) }
}

/// What Python gets of one answer.
pub(crate) fn finish(answer: Result<tollway::Decision, StoreError>, policies: Policies) -> PyResult<Decision> {
    answer.map(|decision| Decision::new(decision, policies)).map_err(|error| errors::from_store(&error))
}

/// What Python gets of many.
pub(crate) fn finish_many(
    answers: Result<Vec<tollway::Decision>, StoreError>,
    policies: Vec<Policies>,
) -> PyResult<Vec<Decision>> {
    let answers = answers.map_err(|error| errors::from_store(&error))?;
    Ok(answers.into_iter().zip(policies).map(|(answer, policies)| Decision::new(answer, policies)).collect())
}

/// `None`, when all went well.
pub(crate) fn nothing(py: Python<'_>, answer: Result<(), StoreError>) -> PyResult<Py<PyAny>> {
    answer.map(|()| py.None()).map_err(|error| errors::from_store(&error))
}

/// Waits without the GIL, when there is something to wait for. Stores bound the wait.
pub(crate) fn wait<T: Send>(py: Python<'_>, answer: impl Future<Output = T> + Send) -> PyResult<T> {
    let mut answer = Box::pin(answer);
    if let Poll::Ready(value) = answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        return Ok(value);
    }
    runtime()?.wait(py, answer)
}

/// The same for what surely has to be waited for. The question is put by whoever drives the stores,
/// who need not be woken for it.
pub(crate) fn ask_and_wait<T, F>(py: Python<'_>, ask: impl FnOnce() -> F + Send) -> PyResult<T>
where
    T: Send,
    F: Future<Output = T> + Send,
{
    runtime()?.wait(py, async { ask().await })
}
