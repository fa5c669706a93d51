//! A clock that stands still until it is moved.

use std::sync::Arc;

use pyo3::prelude::*;
use tollway::{Clock, Timestamp};

use crate::errors;

/// A clock for tests: it stands still until `advance` moves it.
#[pyclass(frozen, module = "tollway")]
pub struct ManualClock {
    pub(crate) inner: Arc<tollway::ManualClock>,
}

#[pymethods]
impl ManualClock {
    #[new]
    #[pyo3(signature = (start = 1_700_000_000.0))]
    fn new(start: f64) -> PyResult<Self> {
        let start = Timestamp::from_nanos(nanos(start)?);
        Ok(Self { inner: Arc::new(tollway::ManualClock::new(start)) })
    }

    /// Moves the clock forward.
    fn advance(&self, seconds: f64) -> PyResult<()> {
        self.inner.advance(nanos(seconds)?);
        Ok(())
    }

    /// Seconds since the epoch on this clock.
    #[getter]
    fn now(&self) -> f64 {
        self.inner.now().nanos() as f64 / 1e9
    }
}

/// Seconds as nanoseconds, rounded to the nearest microsecond so that `0.1` is what it says.
pub(crate) fn nanos(seconds: f64) -> PyResult<u64> {
    if !(0.0..1e10).contains(&seconds) {
        return Err(errors::config(format!("{seconds} is not a usable number of seconds")));
    }
    Ok((seconds * 1e6).round() as u64 * 1_000)
}
