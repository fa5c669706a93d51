//! Who gets which limit, as Python sees it.

mod access;
mod lockout;
mod subject;
mod twins;

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};
use tollway::StoreError;
use tollway::rules::{Asked, Resolution, Ruling};

use crate::answers::{Policies, wait};
use crate::awaiting::Ready;
use crate::charges::Charges;
use crate::clock::ManualClock;
use crate::decision::{Decision, Told};
use crate::errors;
use crate::limiter::{Asking, Limiter};

pub use access::AccessList;
pub use lockout::{Attempt, Lockout};
pub use subject::Subject;

/// Access lists, overrides, tiers, schedules, levels, shadows and skips, read from data and
/// replaced as a whole.
#[pyclass(frozen, module = "tollway.rules", weakref)]
pub struct Rules {
    pub(crate) inner: Arc<tollway::rules::Rules>,
    lists: Py<PyTuple>,
}

impl Rules {
    fn ask(
        &self,
        limiter: &Limiter,
        charges: &Charges,
        subject: Option<&Subject>,
        peek: bool,
    ) -> PyResult<(Asking, Asked)> {
        let subject = subject.map(Subject::borrow).unwrap_or_default();
        let charges = charges.borrow();
        let mut asking = limiter.checking(&charges, peek)?;
        let asked = self.inner.check(&asking.limiter, &charges, &subject, peek);
        if let Asked::Done(_) = asked {
            asking.is_done();
        }
        Ok((asking, asked))
    }

    fn decide(
        &self,
        py: Python<'_>,
        limiter: &Limiter,
        charges: &[Bound<'_, PyTuple>],
        subject: Option<&Subject>,
        peek: bool,
    ) -> PyResult<Decision> {
        let charges = Charges::new(charges)?;
        let (asking, asked) = self.ask(limiter, &charges, subject, peek)?;
        let answer = match asked {
            Asked::Done(answer) => answer,
            Asked::Wait(answer) => wait(py, answer)?,
        };
        asking.told_one(py, ruled(answer, charges.policies()))
    }

    fn adecide<'py>(
        &self,
        py: Python<'py>,
        limiter: &Limiter,
        charges: &[Bound<'py, PyTuple>],
        subject: Option<&Subject>,
        peek: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let charges = Charges::new(charges)?;
        let policies = charges.policies();
        match self.ask(limiter, &charges, subject, peek)? {
            (asking, Asked::Done(answer)) => {
                let decision = asking.told_one(py, ruled(answer, policies));
                Ok(Bound::new(py, Ready::new(decision.and_then(|found| Ok(Py::new(py, found)?.into_any()))))?
                    .into_any())
            }
            (asking, Asked::Wait(answer)) => {
                limiter.later_told(py, asking, answer, move |answer| ruled(answer, policies))
            }
        }
    }
}

#[pymethods]
impl Rules {
    #[new]
    #[pyo3(signature = (data = None, *, lists = None, clock = None))]
    fn new(
        py: Python<'_>,
        data: Option<&Bound<'_, PyAny>>,
        lists: Option<Vec<Py<AccessList>>>,
        clock: Option<&Bound<'_, ManualClock>>,
    ) -> PyResult<Self> {
        let text = data.map_or_else(|| Ok("{}".to_owned()), |data| json(data))?;
        let mut rules = tollway::rules::Rules::new(&text).map_err(|error| errors::from_config(&error))?;
        let lists = lists.unwrap_or_default();
        for list in &lists {
            rules = rules.with_list(Arc::clone(&list.bind(py).get().inner));
        }
        if let Some(clock) = clock {
            rules = rules.with_clock(clock.get().inner.clone());
        }
        Ok(Self { inner: Arc::new(rules), lists: PyTuple::new(py, lists)?.unbind() })
    }

    /// Puts other rules in place of all that hold, at once; answers the new version. On a fault the
    /// old ones stay, and `ConfigError` names its place.
    fn replace(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<u64> {
        let text = json(data)?;
        py.detach(|| self.inner.replace(&text)).map_err(|error| errors::from_config(&error))
    }

    /// How often rules were put in place: 1 for the first.
    #[getter]
    fn version(&self) -> u64 {
        self.inner.version()
    }

    /// The access lists that are fed from elsewhere.
    #[getter]
    fn lists(&self, py: Python<'_>) -> Py<PyTuple> {
        self.lists.clone_ref(py)
    }

    /// Decides what a door would charge, as the rules have it. One round trip on a remote backend,
    /// none for a client that is turned away or not counted.
    #[pyo3(signature = (limiter, charges, subject = None))]
    fn check(
        &self,
        py: Python<'_>,
        limiter: &Limiter,
        charges: Vec<Bound<'_, PyTuple>>,
        subject: Option<&Subject>,
    ) -> PyResult<Decision> {
        self.decide(py, limiter, &charges, subject, false)
    }

    /// The same for `await`.
    #[pyo3(signature = (limiter, charges, subject = None))]
    fn acheck<'py>(
        &self,
        py: Python<'py>,
        limiter: &Limiter,
        charges: Vec<Bound<'py, PyTuple>>,
        subject: Option<&Subject>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.adecide(py, limiter, &charges, subject, false)
    }

    /// What `check` would answer; spends nothing.
    #[pyo3(signature = (limiter, charges, subject = None))]
    fn peek(
        &self,
        py: Python<'_>,
        limiter: &Limiter,
        charges: Vec<Bound<'_, PyTuple>>,
        subject: Option<&Subject>,
    ) -> PyResult<Decision> {
        self.decide(py, limiter, &charges, subject, true)
    }

    /// The same for `await`.
    #[pyo3(signature = (limiter, charges, subject = None))]
    fn apeek<'py>(
        &self,
        py: Python<'py>,
        limiter: &Limiter,
        charges: Vec<Bound<'py, PyTuple>>,
        subject: Option<&Subject>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.adecide(py, limiter, &charges, subject, true)
    }

    /// What would be charged, without asking anybody: a list of dicts with `policy`, `rates`,
    /// `algorithm`, `key`, `cost`, `level`, `rule` and `mode`; or a text that says why nothing is.
    #[pyo3(signature = (charges, subject = None))]
    fn explain<'py>(
        &self,
        py: Python<'py>,
        charges: Vec<Bound<'py, PyTuple>>,
        subject: Option<&Subject>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let charges = Charges::new(&charges)?;
        let subject = subject.map(Subject::borrow).unwrap_or_default();
        let resolution = self.inner.resolve(&charges.borrow(), &subject);
        let mut told = Vec::new();
        let mut tell = |policy: &tollway::Policy, key: &str, cost: u32, level: &str, rule: String, mode: &str| {
            let dict = PyDict::new(py);
            let rates: Vec<_> = policy.limits().iter().map(|limit| limit.rate().to_string()).collect();
            dict.set_item("policy", policy.name())?;
            dict.set_item("rates", rates)?;
            dict.set_item("algorithm", policy.algorithm().name())?;
            dict.set_item("key", key)?;
            dict.set_item("cost", cost)?;
            dict.set_item("level", level)?;
            dict.set_item("rule", rule)?;
            dict.set_item("mode", mode)?;
            told.push(dict);
            PyResult::Ok(())
        };
        match resolution {
            Resolution::AsGiven => {
                for charge in charges.borrow() {
                    tell(charge.policy, charge.key, charge.cost, "client", String::new(), "enforced")?;
                }
            }
            Resolution::Ruled(ruled) => {
                let pairs = ruled.charges.iter().map(|charge| (charge, "enforced"));
                for (charge, mode) in pairs.chain(ruled.shadows.iter().map(|charge| (charge, "shadow"))) {
                    tell(&charge.policy, &charge.key, charge.cost, &charge.level, charge.rule.to_string(), mode)?;
                }
            }
            why => return Ok(PyString::new(py, &why.to_string()).into_any()),
        }
        Ok(told.into_pyobject(py)?.into_any())
    }

    /// What the shadows have seen since they were first there: `{limit: (asked, would have refused)}`.
    fn shadows<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        for (name, count) in self.inner.shadows() {
            dict.set_item(&*name, (count.asked(), count.refused()))?;
        }
        Ok(dict)
    }

    fn __repr__(&self) -> String {
        format!("Rules(version={})", self.inner.version())
    }
}

/// Data as the text that the engine reads. What JSON does not know is written as its `str`.
fn json(data: &Bound<'_, PyAny>) -> PyResult<String> {
    if let Ok(text) = data.cast::<PyString>() {
        return Ok(text.to_str()?.to_owned());
    }
    let py = data.py();
    let options = PyDict::new(py);
    options.set_item("default", py.get_type::<PyString>())?;
    py.import("json")?.call_method("dumps", (data,), Some(&options))?.extract()
}

/// A ruling as a decision that says which rules made it.
fn ruled(answer: Result<Ruling, StoreError>, given: Policies) -> PyResult<Decision> {
    let ruling = answer.map_err(|error| errors::from_store(&error))?;
    let rule = ruling.why().map(str::to_owned).or_else(|| ruling.rule().map(ToString::to_string));
    let told = Told {
        level: ruling.level().map(str::to_owned),
        rule,
        shadow: ruling.shadow.map(|shadow| (shadow, ruling.shadow_policies())),
    };
    let policies = ruling.policies().unwrap_or(given);
    Ok(Decision::ruled(ruling.decision, policies, told))
}
