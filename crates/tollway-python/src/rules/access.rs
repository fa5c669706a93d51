//! Access lists as Python sees them.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyString;
use tollway::rules::{Access, Entry};
use tollway::{Clock, ConfigError};

use super::Subject;
use crate::clock::ManualClock;
use crate::errors;

/// Who is turned away and who is not counted: addresses, networks, users, API keys, organisations.
#[pyclass(frozen, module = "tollway.rules", weakref)]
pub struct AccessList {
    pub(crate) inner: Arc<tollway::rules::AccessList>,
}

/// Entries from one text or from many, read without the GIL: there may be hundreds of thousands.
fn read(entries: &Bound<'_, PyAny>, plain: Access) -> PyResult<Vec<Entry>> {
    let py = entries.py();
    let read = if let Ok(text) = entries.cast::<PyString>() {
        let text = text.to_str()?.to_owned();
        py.detach(|| Entry::parse_all(&text, plain))
    } else {
        let text = |entry: PyResult<Bound<'_, PyAny>>| Ok(entry?.str()?.to_str()?.to_owned());
        let texts: Vec<String> = entries.try_iter()?.map(text).collect::<PyResult<_>>()?;
        py.detach(|| {
            let named = |number, error| ConfigError::new(format!("entry {number}: {error}"));
            let numbered = texts.iter().enumerate();
            numbered.map(|(number, text)| Entry::parse(text, plain).map_err(|error| named(number, error))).collect()
        })
    };
    read.map_err(|error| errors::from_config(&error))
}

#[pymethods]
impl AccessList {
    #[new]
    #[pyo3(signature = (entries = None, *, plain = "deny"))]
    fn new(py: Python<'_>, entries: Option<&Bound<'_, PyAny>>, plain: &str) -> PyResult<Self> {
        let plain: Access = plain.parse().map_err(|error| errors::from_config(&error))?;
        let entries = entries.map_or_else(|| Ok(Vec::new()), |entries| read(entries, plain))?;
        let inner = py.detach(|| tollway::rules::AccessList::new(entries, plain));
        let inner = inner.map_err(|error| errors::from_config(&error))?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Puts these entries in place of all that are there, at once. A text has one a line.
    fn replace(&self, py: Python<'_>, entries: &Bound<'_, PyAny>) -> PyResult<()> {
        let entries = read(entries, self.inner.plain())?;
        py.detach(|| self.inner.replace(entries)).map_err(|error| errors::from_config(&error))
    }

    /// Adds an entry, or changes what is said of the same one.
    fn add(&self, entry: &str) -> PyResult<()> {
        let entry = Entry::parse(entry, self.inner.plain()).map_err(|error| errors::from_config(&error))?;
        self.inner.add(entry).map_err(|error| errors::from_config(&error))
    }

    /// Removes what is said of somebody; true when something was.
    fn remove(&self, who: &str) -> PyResult<bool> {
        let who = who.parse().map_err(|error| errors::from_config(&error))?;
        Ok(self.inner.remove(&who))
    }

    /// The entry that speaks for a subject, such as `"deny 203.0.113.0/24"`; `None` when none does.
    #[pyo3(signature = (subject, *, clock = None))]
    fn judge(&self, subject: &Subject, clock: Option<&Bound<'_, ManualClock>>) -> Option<String> {
        let now = clock.map_or_else(tollway::rules::wall_now, |clock| clock.get().inner.now());
        self.inner.judge(&subject.borrow(), now).map(|entry| entry.to_string())
    }

    /// The entries, as they would be written, in the order they came.
    fn entries(&self) -> Vec<String> {
        self.inner.entries().iter().map(ToString::to_string).collect()
    }

    fn __len__(&self) -> usize {
        self.inner.len()
    }

    fn __repr__(&self) -> String {
        format!("AccessList({} entries)", self.inner.len())
    }
}
