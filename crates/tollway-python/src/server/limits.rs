//! Limits of a route: decided before any Python code runs.

use std::sync::{Arc, OnceLock};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use pyo3::{PyTraverseError, PyVisit};
use tollway_http::{ClientAddress, Gate, Identity, Verdict};

use super::outcome::Outcome;
use crate::decision::Decision;
use crate::limiter::Limiter;
use crate::policy::Policy;
use crate::rules::Rules;
use crate::runtime::{Wanted, runtime};

/// The limits of one route as Python gave them, and the gate they become.
///
/// The gate is made when the server starts, not when the route is described: a server may be
/// described before the process forks, and a limiter's connections do not survive a fork.
#[derive(Debug)]
pub(super) struct Limits {
    limiter: Py<Limiter>,
    charges: Vec<(Arc<tollway::Policy>, Identity)>,
    outcomes: Vec<(Arc<tollway::Policy>, Identity, Vec<u16>)>,
    rules: Option<Arc<tollway::rules::Rules>>,
    gates: OnceLock<Gates>,
}

/// What is asked before a caller is known, and what when one is.
#[derive(Debug, Default)]
struct Gates {
    before: Option<Gate>,
    after: Option<Gate>,
    /// What is looked at before a caller is known and when one is, and charged by the answer.
    looks: [Option<Gate>; 2],
    outcomes: Option<Arc<[Outcome]>>,
    /// The server's loop does not drive the stores that it asks.
    _driven: Option<Wanted>,
}

impl Limits {
    /// Reads a non-empty list of `{"limiter", "policy", "key"}`, the first with `"rules"` if there are
    /// any; one with rules alone has a limiter and nothing to charge. With `"statuses"` a limit is
    /// charged only when the answer has one of them.
    ///
    /// # Errors
    /// `ValueError` for an entry of another shape, an unknown key, or more than one limiter.
    pub(super) fn read(list: &Bound<'_, PyList>) -> PyResult<Option<Limits>> {
        let py = list.py();
        let mut read: Option<Limits> = None;
        for (position, item) in list.iter().enumerate() {
            let wrong = |what: &str| PyValueError::new_err(format!("limits[{position}] {what}"));
            let dict = item.cast::<PyDict>().map_err(|_| wrong("must be a dict"))?;
            let field = |name: &str| dict.get_item(name)?.ok_or_else(|| wrong(&format!("lacks {name:?}")));
            let limiter = field("limiter")?.cast_into::<Limiter>().map_err(|_| wrong("needs a Limiter"))?;
            let rules = match dict.get_item("rules")? {
                Some(rules) => Some(rules.cast_into::<Rules>().map_err(|_| wrong("needs Rules"))?),
                None => None,
            };
            let rules = rules.map(|rules| Arc::clone(&rules.get().inner));
            let none = (Vec::new(), Vec::new());
            let made = |limiter: Bound<'_, Limiter>, (charges, outcomes)| Limits {
                limiter: limiter.unbind(),
                charges,
                outcomes,
                rules: rules.clone(),
                gates: OnceLock::new(),
            };
            if rules.is_some() && !dict.contains("policy")? {
                read = Some(made(limiter, none));
                continue;
            }
            let policy = field("policy")?.cast_into::<Policy>().map_err(|_| wrong("needs a Policy"))?;
            let key: String = field("key")?.extract().map_err(|_| wrong("needs a key like \"ip\""))?;
            let identity: Identity = key.parse().map_err(|error| wrong(&format!("cannot be used: {error}")))?;
            if read.as_ref().is_some_and(|limits| !limits.limiter.bind(py).is(&limiter)) {
                return Err(wrong(
                    "uses another Limiter than the limits before it: all limits of one route are decided together, \
                     so they need the same one",
                ));
            }
            let limits = read.get_or_insert_with(|| made(limiter, none));
            let policy = Arc::clone(&policy.get().inner);
            match dict.get_item("statuses")? {
                Some(statuses) => limits.outcomes.push((policy, identity, statuses.extract()?)),
                None => limits.charges.push((policy, identity)),
            }
        }
        Ok(read)
    }

    /// Connects the limits to the limiter of this process. Where callers are `known` by credentials, the
    /// limits that count them are asked after those that do not: a flood of forged tokens is refused by
    /// its address before a single one is verified. Rules may speak of anybody, so they come last.
    pub(super) fn open(&self, py: Python<'_>, address: &Arc<ClientAddress>, known: bool) -> PyResult<()> {
        let limiter = self.limiter.bind(py).get();
        let (here, limiter) = (limiter.is_here(), limiter.shared()?);
        let gate = |charges: Vec<_>| {
            let gate = Gate::new(Arc::clone(&limiter), charges, Arc::clone(address));
            match &self.rules {
                Some(rules) => gate.with_rules(Arc::clone(rules)),
                None => gate,
            }
        };
        let late = |identity: &Identity| known && (self.rules.is_some() || identity.needs_caller());
        let (after, before): (Vec<_>, Vec<_>) = self.charges.iter().cloned().partition(|(_, identity)| late(identity));
        let rules_alone = self.charges.is_empty() && self.rules.is_some();
        let look = |at: bool| {
            let found = self.outcomes.iter().filter(|(_, identity, _)| late(identity) == at);
            let charges: Vec<_> = found.map(|(policy, identity, _)| (Arc::clone(policy), identity.clone())).collect();
            (!charges.is_empty()).then(|| gate(charges))
        };
        let outcome = |(policy, identity, statuses): &(Arc<tollway::Policy>, Identity, Vec<u16>)| Outcome {
            gate: gate(vec![(Arc::clone(policy), identity.clone())]),
            statuses: statuses.clone(),
        };
        let gates = Gates {
            before: (!before.is_empty() || rules_alone && !known).then(|| gate(before)),
            after: (!after.is_empty() || rules_alone && known).then(|| gate(after)),
            looks: [look(false), look(true)],
            outcomes: (!self.outcomes.is_empty()).then(|| self.outcomes.iter().map(outcome).collect()),
            _driven: if here { None } else { Some(runtime()?.want_thread()) },
        };
        // A second opening finds the first one's gates, which are as good.
        let _ = self.gates.set(gates);
        Ok(())
    }

    /// What is asked before a caller is known, once the server has started.
    #[inline]
    pub(super) fn before(&self) -> Option<&Gate> {
        self.gates.get().and_then(|gates| gates.before.as_ref())
    }

    /// What is asked when a caller is known, or known to be nobody.
    #[inline]
    pub(super) fn after(&self) -> Option<&Gate> {
        self.gates.get().and_then(|gates| gates.after.as_ref())
    }

    /// What is looked at, and not charged yet, before a caller is known, or when one is.
    #[inline]
    pub(super) fn look(&self, known: bool) -> Option<&Gate> {
        self.gates.get().and_then(|gates| gates.looks[usize::from(known)].as_ref())
    }

    /// What is charged when the answer is known.
    #[inline]
    pub(super) fn outcomes(&self) -> Option<&Arc<[Outcome]>> {
        self.gates.get().and_then(|gates| gates.outcomes.as_ref())
    }

    /// Shows the collector the limiter.
    pub(super) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.limiter)
    }
}

/// The `Decision` that a handler sees.
pub(super) fn decision(py: Python<'_>, verdict: &Verdict) -> PyResult<Option<Py<PyAny>>> {
    match verdict.decision() {
        Ok(decision) => {
            let decision = Decision::new(*decision, Arc::clone(verdict.policies()));
            Ok(Some(Py::new(py, decision)?.into_any()))
        }
        Err(_) => Ok(None),
    }
}
