//! Rates and policies as Python sees them.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};
use tollway::{Algorithm, Bucket, Period, parse_duration, parse_period};

use crate::charges::checked;
use crate::errors;

/// What is allowed: `Rate(100, "1m", burst=20)` or `Rate("100/m burst 20")`.
#[pyclass(frozen, eq, hash, module = "tollway", from_py_object)]
#[derive(Clone, PartialEq)]
pub struct Rate {
    pub(crate) inner: tollway::Rate,
}

impl Hash for Rate {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}

#[pymethods]
impl Rate {
    #[new]
    #[pyo3(signature = (permits, per = None, burst = 0, *, smooth = false))]
    fn new(permits: &Bound<'_, PyAny>, per: Option<&str>, burst: i64, smooth: bool) -> PyResult<Self> {
        if let Ok(text) = permits.cast::<PyString>() {
            if per.is_some() || burst != 0 {
                return Err(errors::config("a rate is given as one text or as numbers, not both"));
            }
            let rate: tollway::Rate = text.to_str()?.parse().map_err(|error| errors::rate(&error))?;
            return Ok(Self { inner: if smooth { rate.smooth() } else { rate } });
        }
        let per = per.ok_or_else(|| errors::config("a rate needs a period: Rate(100, \"1m\")"))?;
        let count = |name, value: i64| {
            u32::try_from(value)
                .map_err(|_| errors::config(format!("{name} must be from 0 to 1000000000, not {value}")))
        };
        let permits = count("permits", permits.extract()?)?;
        let rate = match parse_period(per).map_err(|error| errors::rate(&error))? {
            Period::Fixed(period) => tollway::Rate::new(permits, period, count("burst", burst)?),
            Period::Calendar { .. } if burst != 0 || smooth => {
                return Err(errors::config(format!("a calendar quota such as {permits}/{per} has no burst")));
            }
            Period::Calendar { unit, zone } => tollway::Rate::calendar(permits, unit, zone.as_deref()),
        };
        let rate = rate.map_err(|error| errors::from_config(&error))?;
        Ok(Self { inner: if smooth { rate.smooth() } else { rate } })
    }

    /// Reads one or more rates: `10/s; 1000/h`.
    #[staticmethod]
    fn parse(text: &str) -> PyResult<Vec<Self>> {
        let rates: tollway::Rates = text.parse().map_err(|error| errors::rate(&error))?;
        Ok(rates.0.into_iter().map(|inner| Self { inner }).collect())
    }

    /// Permits in a period.
    #[getter]
    fn permits(&self) -> u32 {
        self.inner.permits()
    }

    /// Permits that may come at once beyond the rate's own.
    #[getter]
    fn burst(&self) -> u32 {
        self.inner.burst()
    }

    /// Whether requests are spaced from the first on.
    #[getter]
    fn smooth(&self) -> bool {
        self.inner.is_smooth()
    }

    /// The most that can pass at one instant.
    #[getter]
    fn capacity(&self) -> u32 {
        self.inner.capacity()
    }

    /// The period in seconds; `None` for a calendar day, week, month or year.
    #[getter]
    fn period(&self) -> Option<f64> {
        match self.inner.period() {
            Period::Fixed(nanos) => Some(*nanos as f64 / 1e9),
            Period::Calendar { .. } => None,
        }
    }

    fn __str__(&self) -> String {
        self.inner.to_string()
    }

    fn __repr__(&self) -> String {
        format!("Rate(\"{}\")", self.inner)
    }
}

/// A name and the limits that go with it.
#[pyclass(frozen, module = "tollway")]
pub struct Policy {
    pub(crate) inner: Arc<tollway::Policy>,
    /// The same as a list of one, ready for a decision to hold.
    pub(crate) alone: Arc<[Arc<tollway::Policy>]>,
    key: Py<PyAny>,
}

#[pymethods]
impl Policy {
    #[new]
    #[pyo3(signature = (name = "default", rates = None, *, algorithm = None, key = None, fail_mode = None,
        refill_every = None, initial_tokens = None, tokens_per_request = 1, allow_partial = false))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of the Python class")]
    fn new(
        py: Python<'_>,
        name: &str,
        rates: Option<&Bound<'_, PyAny>>,
        algorithm: Option<&Bound<'_, PyAny>>,
        key: Option<Py<PyAny>>,
        fail_mode: Option<&str>,
        refill_every: Option<&str>,
        initial_tokens: Option<i64>,
        tokens_per_request: i64,
        allow_partial: bool,
    ) -> PyResult<Self> {
        let rates =
            rates.ok_or_else(|| errors::config(format!("policy {name:?} has no rates: give it rates=\"100/m\"")))?;
        let algorithm = algorithm.map_or(Ok(Algorithm::Gcra), crate::algorithm::read)?;
        let mut list = Vec::new();
        collect(rates, &mut list, name)?;
        let mut policy =
            tollway::Policy::from_rates(name, list, algorithm).map_err(|error| errors::from_config(&error))?;
        if let Some(fail_mode) = fail_mode {
            policy = policy.with_fail_mode(fail_mode.parse().map_err(|error| errors::from_config(&error))?);
        }
        let bucket = Bucket {
            refill_every: refill_every.map_or(Ok(0), parse_duration).map_err(|error| errors::rate(&error))?,
            initial: initial_tokens.map(checked).transpose()?,
            per_request: checked(tokens_per_request)?,
            partial: allow_partial,
        };
        if bucket != Bucket::default() {
            policy = policy.with_bucket(bucket).map_err(|error| errors::from_config(&error))?;
        }
        let inner = Arc::new(policy);
        Ok(Self { alone: Arc::new([Arc::clone(&inner)]), inner, key: key.unwrap_or_else(|| py.None()) })
    }

    /// The name: part of the key, so that two policies never share a budget by accident.
    #[getter]
    fn name(&self) -> &str {
        self.inner.name()
    }

    /// The rates, in the order given.
    #[getter]
    fn rates<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.inner.limits().iter().map(|limit| Rate { inner: limit.rate().clone() }))
    }

    /// The algorithm's name.
    #[getter]
    fn algorithm(&self) -> &'static str {
        self.inner.algorithm().name()
    }

    /// Who is charged, as it was given; read by the doors.
    #[getter]
    fn key(&self, py: Python<'_>) -> Py<PyAny> {
        self.key.clone_ref(py)
    }

    /// How often a token bucket is refilled, in seconds; 0.0 when its tokens come evenly.
    #[getter]
    fn refill_every(&self) -> f64 {
        self.inner.limits()[0].bucket().refill_every as f64 / 1e9
    }

    /// Tokens of a client that is not known; `None` when it begins with a full bucket.
    #[getter]
    fn initial_tokens(&self) -> Option<u32> {
        self.inner.limits()[0].bucket().initial
    }

    /// Tokens that one request pays.
    #[getter]
    fn tokens_per_request(&self) -> u32 {
        self.inner.per_request()
    }

    /// Whether a request that costs more than is there takes what is there.
    #[getter]
    fn allow_partial(&self) -> bool {
        self.inner.limits()[0].bucket().partial
    }

    /// What is answered when the backend does not; `None` leaves it to the limiter.
    #[getter]
    fn fail_mode(&self) -> Option<&'static str> {
        self.inner.fail_mode().map(tollway::FailMode::name)
    }

    fn __repr__(&self) -> String {
        let rates: Vec<_> = self.inner.limits().iter().map(|limit| limit.rate().to_string()).collect();
        format!("Policy(\"{}\", \"{}\", algorithm=\"{}\")", self.name(), rates.join("; "), self.algorithm())
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        other.cast::<Self>().is_ok_and(|other| other.get().inner == self.inner)
    }

    fn __hash__(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.inner.name().hash(&mut hasher);
        hasher.finish()
    }
}

/// A text, a rate, or a sequence of either.
fn collect(rates: &Bound<'_, PyAny>, list: &mut Vec<tollway::Rate>, name: &str) -> PyResult<()> {
    if let Ok(text) = rates.cast::<PyString>() {
        let rates: tollway::Rates = text.to_str()?.parse().map_err(|error| errors::rate(&error))?;
        list.extend(rates.0);
    } else if let Ok(rate) = rates.cast::<Rate>() {
        list.push(rate.get().inner.clone());
    } else {
        let items = rates.try_iter().map_err(|_| {
            errors::config(format!("policy {name:?}: rates are texts such as \"100/m\" or Rate objects, not {rates}"))
        })?;
        for item in items {
            collect(&item?, list, name)?;
        }
    }
    Ok(())
}
