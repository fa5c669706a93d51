//! The answer as Python sees it.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::header::RETRY_AFTER;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString};
use tollway::{Mode, NEVER, Outcome, Policy};
use tollway_http::{Fields, describe, fields, problem, refusal_status};

/// Whether a request may pass, and what its client needs to know. True when it may.
#[pyclass(frozen, module = "tollway")]
#[derive(Clone)]
pub struct Decision {
    inner: tollway::Decision,
    policies: Arc<[Arc<Policy>]>,
    told: Option<Box<Told>>,
}

/// What rules say of a decision.
#[derive(Clone, Default)]
pub(crate) struct Told {
    /// The level that speaks.
    pub(crate) level: Option<String>,
    /// What chose the rate, or why nothing was counted.
    pub(crate) rule: Option<String>,
    /// What a shadow said.
    pub(crate) shadow: Option<(tollway::Decision, Arc<[Arc<Policy>]>)>,
}

impl Decision {
    pub(crate) fn new(inner: tollway::Decision, policies: Arc<[Arc<Policy>]>) -> Self {
        Self { inner, policies, told: None }
    }

    /// A decision that rules made.
    pub(crate) fn ruled(inner: tollway::Decision, policies: Arc<[Arc<Policy>]>, told: Told) -> Self {
        Self { inner, policies, told: Some(Box::new(told)) }
    }

    pub(crate) fn is_allowed(&self) -> bool {
        self.inner.allowed
    }
}

#[pymethods]
impl Decision {
    /// Whether the request may pass.
    #[getter]
    fn allowed(&self) -> bool {
        self.inner.allowed
    }

    /// The name of the policy that speaks here: the tightest.
    #[getter]
    fn policy(&self) -> &str {
        self.policies.get(usize::from(self.inner.charge)).map_or("", |policy| policy.name())
    }

    /// The limit's capacity.
    #[getter]
    fn limit(&self) -> u32 {
        self.inner.limit
    }

    /// Permits left.
    #[getter]
    fn remaining(&self) -> u32 {
        self.inner.remaining
    }

    /// The cost asked for.
    #[getter]
    fn cost(&self) -> u32 {
        self.inner.cost
    }

    /// Seconds until nothing is spent.
    #[getter]
    fn reset_after(&self) -> f64 {
        self.inner.reset_after as f64 / 1e9
    }

    /// The same in whole nanoseconds.
    #[getter]
    fn reset_after_ns(&self) -> u64 {
        self.inner.reset_after
    }

    /// Seconds until the same request can pass: 0.0 when allowed, infinity when it never can.
    #[getter]
    fn retry_after(&self) -> f64 {
        if self.inner.retry_after == NEVER { f64::INFINITY } else { self.inner.retry_after as f64 / 1e9 }
    }

    /// The same in whole nanoseconds; 2**64 - 1 when it never can.
    #[getter]
    fn retry_after_ns(&self) -> u64 {
        self.inner.retry_after
    }

    /// What `Retry-After` says: whole seconds, rounded up, at least 1 when refused; 0 when allowed
    /// or when waiting does not help.
    #[getter]
    fn retry_after_seconds(&self) -> u64 {
        self.inner.retry_after_secs().unwrap_or(0)
    }

    /// Seconds this request has to wait for its turn, under a leaky bucket that queues; else 0.0.
    #[getter]
    fn delay(&self) -> f64 {
        let policy = self.policies.get(usize::from(self.inner.charge));
        policy.map_or(0.0, |policy| self.inner.delay(policy) as f64 / 1e9)
    }

    /// `"enforced"`, or `"shadow"` when a refusal is only recorded.
    #[getter]
    fn mode(&self) -> &'static str {
        match self.inner.mode {
            Mode::Enforced => "enforced",
            Mode::Shadow => "shadow",
        }
    }

    /// Whether a fallback answered instead of the store.
    #[getter]
    fn degraded(&self) -> bool {
        self.inner.degraded
    }

    /// `"allowed"`, `"rate_limited"`, `"cost_above_limit"`, `"store_unavailable"`, `"denied"` or
    /// `"exempt"`.
    #[getter]
    fn reason(&self) -> &'static str {
        self.inner.reason.name()
    }

    /// What metrics call it: `"allowed"`, `"refused"`, `"degraded_allowed"`, `"degraded_refused"`,
    /// `"shadow_allowed"`, `"shadow_refused"`, `"denied"` or `"exempt"`.
    #[getter]
    fn outcome(&self) -> &'static str {
        Outcome::of(&self.inner).name()
    }

    /// The HTTP status: 200 when allowed, 403 when an access list turns the client away, else 429.
    #[getter]
    fn status(&self) -> u16 {
        if self.inner.allowed { 200 } else { refusal_status(&self.inner).as_u16() }
    }

    /// The level of the limit that speaks, as the rules name it; `None` without rules.
    #[getter]
    fn level(&self) -> Option<&str> {
        self.told.as_ref()?.level.as_deref()
    }

    /// The rule that chose the rate, such as `"tier pro"`, or why nothing was counted, such as
    /// `"allow 10.0.0.0/8"`; `None` when the limit holds as it was written.
    #[getter]
    fn rule(&self) -> Option<&str> {
        self.told.as_ref()?.rule.as_deref()
    }

    /// What a limit in shadow mode said of the same request; `None` when none was asked.
    #[getter]
    fn shadow(&self) -> Option<Self> {
        let (shadow, policies) = self.told.as_ref()?.shadow.as_ref()?;
        Some(Self::new(*shadow, Arc::clone(policies)))
    }

    /// The header fields of an answer, allowed or refused, as pairs of name and value.
    #[pyo3(signature = (x_ratelimit = true, ietf = true))]
    fn headers<'py>(&self, py: Python<'py>, x_ratelimit: bool, ietf: bool) -> Vec<(Bound<'py, PyString>, String)> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let fields = fields(&self.inner, &self.policies, now, Fields { x_ratelimit, ietf });
        fields.into_iter().map(|(name, value)| (names(py, name.as_str()).1, value)).collect()
    }

    /// The same as ASGI wants them: names in lower case, all of it bytes, behind those of `among`
    /// that are not named so. `Retry-After` is among them only with `waits`.
    #[pyo3(signature = (x_ratelimit, ietf, waits, among = None))]
    fn asgi_headers<'py>(
        &self,
        py: Python<'py>,
        x_ratelimit: bool,
        ietf: bool,
        waits: bool,
        among: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyList>> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut own = fields(&self.inner, &self.policies, now, Fields { x_ratelimit, ietf });
        own.retain(|(name, _)| waits || name != RETRY_AFTER);
        let all = PyList::empty(py);
        if let Some(others) = among {
            for other in others.try_iter()? {
                let other = other?;
                let name = other.get_item(0)?;
                let is_ours = name.cast::<PyBytes>().is_ok_and(|name| {
                    own.iter().any(|(own, _)| name.as_bytes().eq_ignore_ascii_case(own.as_str().as_bytes()))
                });
                if !is_ours {
                    all.append(other)?;
                }
            }
        }
        for (name, value) in own {
            all.append((PyBytes::new(py, name.as_str().as_bytes()), PyBytes::new(py, value.as_bytes())))?;
        }
        Ok(all)
    }

    /// The same, put into a dict of lower-case names to pairs of name and value: where Django's
    /// responses keep theirs. `Retry-After` goes there only with `waits`.
    fn write_headers(&self, store: &Bound<'_, PyDict>, x_ratelimit: bool, ietf: bool, waits: bool) -> PyResult<()> {
        let py = store.py();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let fields = fields(&self.inner, &self.policies, now, Fields { x_ratelimit, ietf });
        for (name, value) in fields {
            if !waits && name == RETRY_AFTER {
                continue;
            }
            let (key, spelled) = names(py, name.as_str());
            store.set_item(key, (spelled, value))?;
        }
        Ok(())
    }

    /// The body of a refusal as problem+json (RFC 9457).
    fn problem<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &problem(&self.inner, &self.policies))
    }

    /// The decision in one sentence for people.
    fn text(&self) -> String {
        describe(&self.inner, &self.policies)
    }

    fn __bool__(&self) -> bool {
        self.inner.allowed
    }

    fn __repr__(&self) -> String {
        format!(
            "Decision(allowed={}, policy=\"{}\", limit={}, remaining={}, retry_after={}, reset_after={})",
            if self.inner.allowed { "True" } else { "False" },
            self.policy(),
            self.inner.limit,
            self.inner.remaining,
            self.retry_after(),
            self.reset_after(),
        )
    }
}

/// A header's name in lower case and as people write it, each made once for the process.
fn names<'py>(py: Python<'py>, name: &str) -> (Bound<'py, PyString>, Bound<'py, PyString>) {
    macro_rules! pairs {
        ($($lower:literal => $spelled:literal),* $(,)?) => {
            match name {
                $($lower => (intern!(py, $lower).clone(), intern!(py, $spelled).clone()),)*
                other => (PyString::new(py, other), PyString::new(py, other)),
            }
        };
    }
    pairs! {
        "x-ratelimit-limit" => "X-RateLimit-Limit",
        "x-ratelimit-remaining" => "X-RateLimit-Remaining",
        "x-ratelimit-reset" => "X-RateLimit-Reset",
        "x-ratelimit-bucket-size" => "X-RateLimit-Bucket-Size",
        "x-ratelimit-bucket-remaining" => "X-RateLimit-Bucket-Remaining",
        "ratelimit" => "RateLimit",
        "ratelimit-policy" => "RateLimit-Policy",
        "retry-after" => "Retry-After",
    }
}
