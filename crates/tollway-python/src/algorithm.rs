//! Algorithms written in Python.

use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};
use tollway::{Algorithm, Change, CustomAlgorithm, Limit, NEVER, Timestamp, Verdict};

use crate::policy::Rate;
use crate::{errors, interpreter};

/// What a failing algorithm lets its caller wait: it refuses, and its error is reported.
const A_MOMENT: u64 = 1_000_000_000;

/// An object with `decide`, and perhaps `adjust` and `lifetime`.
#[derive(Debug)]
struct PyAlgorithm {
    name: String,
    object: Py<PyAny>,
    adjusts: bool,
}

/// The algorithm that `given` names or is: a built-in name, a registered one, the dotted path of a
/// class, or an object, which is registered under its name.
pub(crate) fn read(given: &Bound<'_, PyAny>) -> PyResult<Algorithm> {
    let Ok(text) = given.cast::<PyString>() else { return register(given) };
    let text = text.to_str()?;
    text.parse().or_else(|error| match text.rsplit_once(['.', ':']) {
        Some((module, class)) => {
            let object = given.py().import(module).and_then(|module| module.getattr(class));
            let object = object.map_err(|cause| {
                errors::config(format!(
                    "algorithm {text:?} cannot be imported: {cause}; write it as \"package.module.Class\""
                ))
            })?;
            register(&object)
        }
        None => Err(errors::from_config(&error)),
    })
}

/// Registers an object, or an instance of a class; one that is registered already stays what it is.
fn register(given: &Bound<'_, PyAny>) -> PyResult<Algorithm> {
    let py = given.py();
    let class = if given.is_instance_of::<pyo3::types::PyType>() { given.clone() } else { given.get_type().into_any() };
    if !class.getattr("decide").is_ok_and(|method| method.is_callable()) {
        return Err(errors::config(format!(
            "{} is no algorithm: give a name, or an object with name and decide() (see tollway.algorithms.Algorithm)",
            given.repr()?
        )));
    }
    let object = if given.is_instance_of::<pyo3::types::PyType>() { given.call0()? } else { given.clone() };
    let name: String = object.getattr(intern!(py, "name"))?.extract()?;
    if let Ok(known) = name.parse::<Algorithm>() {
        let same = py.import("tollway.algorithms")?.call_method1("_is_registered", (&name, &class))?;
        if same.is_truthy()? {
            return Ok(known);
        }
    }
    let adjusts = object.getattr("adjust").is_ok_and(|method| method.is_callable());
    let algorithm = PyAlgorithm { name: name.clone(), object: object.unbind(), adjusts };
    let algorithm = Algorithm::register(Box::new(algorithm)).map_err(|error| errors::from_config(&error))?;
    py.import("tollway.algorithms")?.call_method1("_note", (name, class))?;
    Ok(algorithm)
}

impl PyAlgorithm {
    fn ask<'py>(
        &self,
        py: Python<'py>,
        method: &str,
        limit: &Limit,
        state: Option<&[u8]>,
        now: Timestamp,
        amount: i64,
    ) -> PyResult<Bound<'py, PyAny>> {
        let state = state.map(|bytes| PyBytes::new(py, bytes));
        let rate = Rate { inner: limit.rate().clone() };
        self.object.bind(py).call_method1(method, (rate, state, now.nanos(), amount))
    }

    fn decided(
        &self,
        py: Python<'_>,
        limit: &Limit,
        state: Option<&[u8]>,
        now: Timestamp,
        cost: u32,
    ) -> PyResult<(Verdict, Vec<u8>)> {
        let answer = self.ask(py, "decide", limit, state, now, i64::from(cost))?;
        let (verdict, next): (Bound<'_, PyAny>, Vec<u8>) = answer.extract().map_err(|_| {
            PyTypeError::new_err(format!("decide() of algorithm {} returns a Verdict and bytes", self.name))
        })?;
        let retry_after: Option<u64> = verdict.getattr("retry_after")?.extract()?;
        let allowed = verdict.getattr("allowed")?.extract()?;
        let verdict = Verdict {
            allowed,
            remaining: verdict.getattr("remaining")?.extract()?,
            reset_after: verdict.getattr("reset_after")?.extract()?,
            retry_after: if allowed { 0 } else { retry_after.unwrap_or(NEVER) },
        };
        Ok((verdict, next))
    }
}

impl CustomAlgorithm for PyAlgorithm {
    fn name(&self) -> &str {
        &self.name
    }

    fn decide(&self, limit: &Limit, state: Option<&[u8]>, now: Timestamp, cost: u32) -> (Verdict, Vec<u8>) {
        let answer = interpreter::enter(|py| {
            let answer = self.decided(py, limit, state, now, cost);
            // Nobody slips through a broken algorithm, and whoever runs it hears of it.
            answer.map_err(|error| error.write_unraisable(py, Some(self.object.bind(py)))).ok()
        });
        answer.flatten().unwrap_or_else(|| {
            let verdict = Verdict { allowed: false, remaining: 0, reset_after: A_MOMENT, retry_after: A_MOMENT };
            (verdict, state.unwrap_or_default().to_vec())
        })
    }

    fn adjust(&self, limit: &Limit, state: Option<&[u8]>, now: Timestamp, change: Change) -> Option<Vec<u8>> {
        if !self.adjusts {
            return None;
        }
        let next = interpreter::enter(|py| {
            let answer = self.ask(py, "adjust", limit, state, now, change.delta());
            answer
                .and_then(|next| next.extract())
                .map_err(|error| error.write_unraisable(py, Some(self.object.bind(py))))
                .ok()
        });
        next.flatten()
    }

    fn lifetime(&self, limit: &Limit) -> u64 {
        let nanos = interpreter::enter(|py| {
            let rate = Rate { inner: limit.rate().clone() };
            let answer = self.object.bind(py).call_method1(intern!(py, "lifetime"), (rate,));
            answer.and_then(|nanos| nanos.extract()).ok()
        });
        nanos.flatten().unwrap_or_else(|| limit.period())
    }
}
