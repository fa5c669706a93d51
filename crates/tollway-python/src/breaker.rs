//! When to stop asking a backend, as Python says it.

use pyo3::prelude::*;
use tollway::BreakerSettings;

use crate::errors;

/// When a backend is not asked any more, and for how long: `Breaker(failures=3, pause=0.5)`.
///
/// It opens after `failures` in a row (1 unless a rate is given), or when `failure_rate` of the last
/// `window` calls failed. Then nothing is asked for `pause` seconds, for twice as long each time it
/// fails again, up to `max_pause`; `probes` requests at once find out whether the backend works.
#[pyclass(frozen, module = "tollway")]
pub struct Breaker {
    pub(crate) settings: BreakerSettings,
}

#[pymethods]
impl Breaker {
    #[new]
    #[pyo3(signature = (failures = None, *, failure_rate = None, window = 20, pause = 0.1, max_pause = 5.0, probes = 1))]
    fn new(
        failures: Option<i64>,
        failure_rate: Option<f64>,
        window: i64,
        pause: f64,
        max_pause: f64,
        probes: i64,
    ) -> PyResult<Self> {
        if failure_rate.is_some_and(|rate| !(0.01..=1.0).contains(&rate)) {
            let given = failure_rate.unwrap_or_default();
            return Err(errors::config(format!("a breaker's failure_rate is from 0.01 to 1, not {given}")));
        }
        let failures = failures.map(|failures| count("failures", failures, 1_000_000)).transpose()?;
        let settings = BreakerSettings {
            failures: failures.unwrap_or(u32::from(failure_rate.is_none())),
            failure_percent: failure_rate.map_or(0, |rate| (rate * 100.0).round() as u8),
            window: count("window", window, 64)? as u8,
            pause: nanos("pause", pause)?,
            max_pause: nanos("max_pause", max_pause)?,
            probes: count("probes", probes, 1_000_000)?,
        };
        let settings = settings.checked().map_err(|error| errors::from_config(&error))?;
        Ok(Self { settings })
    }

    /// Failures in a row that open it; `None` when they are not counted.
    #[getter]
    fn failures(&self) -> Option<u32> {
        (self.settings.failures > 0).then_some(self.settings.failures)
    }

    /// The share of failures among the last `window` calls that opens it; `None` when not counted.
    #[getter]
    fn failure_rate(&self) -> Option<f64> {
        let percent = self.settings.failure_percent;
        (percent > 0).then_some(f64::from(percent) / 100.0)
    }

    /// The calls that `failure_rate` is taken of.
    #[getter]
    fn window(&self) -> u8 {
        self.settings.window
    }

    /// The first pause, in seconds.
    #[getter]
    fn pause(&self) -> f64 {
        self.settings.pause as f64 / 1e9
    }

    /// The longest pause, in seconds.
    #[getter]
    fn max_pause(&self) -> f64 {
        self.settings.max_pause as f64 / 1e9
    }

    /// Requests that may find out at once whether the backend works again.
    #[getter]
    fn probes(&self) -> u32 {
        self.settings.probes
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        other.cast::<Self>().is_ok_and(|other| other.get().settings == self.settings)
    }

    fn __hash__(&self) -> u64 {
        self.settings.pause ^ u64::from(self.settings.failures) << 32
    }

    fn __repr__(&self) -> String {
        let shown = |value: Option<String>| value.unwrap_or_else(|| "None".to_owned());
        format!(
            "Breaker(failures={}, failure_rate={}, window={}, pause={}, max_pause={}, probes={})",
            shown(self.failures().map(|failures| failures.to_string())),
            shown(self.failure_rate().map(|rate| rate.to_string())),
            self.window(),
            self.pause(),
            self.max_pause(),
            self.probes()
        )
    }
}

fn count(name: &str, given: i64, most: u32) -> PyResult<u32> {
    let fits = u32::try_from(given).ok().filter(|count| (1..=most).contains(count));
    fits.ok_or_else(|| errors::config(format!("a breaker's {name} is a whole number from 1 to {most}, not {given}")))
}

fn nanos(name: &str, seconds: f64) -> PyResult<u64> {
    if !(0.001..=3_600.0).contains(&seconds) {
        return Err(errors::config(format!("a breaker's {name} is from 0.001 to 3600 seconds, not {seconds}")));
    }
    Ok((seconds * 1e9) as u64)
}
