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

impl AccessList {
    fn entries_of(&self, entries: &Bound<'_, PyAny>) -> PyResult<Vec<Entry>> {
        read(entries, self.inner.plain())
    }
}

/// Entries from one text or from many.
fn read(entries: &Bound<'_, PyAny>, plain: Access) -> PyResult<Vec<Entry>> {
    if let Ok(text) = entries.cast::<PyString>() {
        return Entry::parse_all(text.to_str()?, plain).map_err(|error| errors::from_config(&error));
    }
    let mut read = Vec::new();
    for (number, entry) in entries.try_iter()?.enumerate() {
        let entry = entry?.str()?;
        let named = |error: ConfigError| errors::config(format!("entry {number}: {error}"));
        read.push(Entry::parse(entry.to_str()?, plain).map_err(named)?);
    }
    Ok(read)
}

#[pymethods]
impl AccessList {
    #[new]
    #[pyo3(signature = (entries = None, *, plain = "deny"))]
    fn new(entries: Option<&Bound<'_, PyAny>>, plain: &str) -> PyResult<Self> {
        let plain: Access = plain.parse().map_err(|error| errors::from_config(&error))?;
        let entries = entries.map_or_else(|| Ok(Vec::new()), |entries| read(entries, plain))?;
        let inner = tollway::rules::AccessList::new(entries, plain).map_err(|error| errors::from_config(&error))?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Puts these entries in place of all that are there, at once. A text has one a line.
    fn replace(&self, entries: &Bound<'_, PyAny>) -> PyResult<()> {
        let entries = self.entries_of(entries)?;
        self.inner.replace(entries).map_err(|error| errors::from_config(&error))
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
