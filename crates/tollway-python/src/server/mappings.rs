//! Headers and query as read-only mappings.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use http::HeaderName;
use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString};
use tollway_server::app::{QueryPairs, decode_form};

use super::request::Request;

/// The headers of a request: a read-only mapping whose names ignore case. Values are decoded as
/// Latin-1, which never fails; several lines of one name are joined with a comma, as HTTP reads
/// them.
#[pyclass(module = "tollway._tollway", frozen, mapping)]
pub(super) struct Headers {
    request: Py<Request>,
}

impl Headers {
    pub(super) fn new(request: Py<Request>) -> Self {
        Headers { request }
    }

    fn find(&self, name: &str) -> Option<String> {
        let headers = self.request.get().headers_map();
        let name = HeaderName::try_from(name).ok()?;
        let separator = if name == http::header::COOKIE { "; " } else { ", " };
        let mut lines = headers.get_all(&name).iter().map(|value| latin1(value.as_bytes()));
        let first = lines.next()?;
        Some(lines.fold(first.into_owned(), |all, line| all + separator + &line))
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.request.get().headers_map().keys().map(HeaderName::as_str)
    }
}

fn latin1(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.is_ascii() => Cow::Borrowed(text),
        _ => Cow::Owned(bytes.iter().map(|&byte| char::from(byte)).collect()),
    }
}

#[pymethods]
impl Headers {
    /// The value of a header, or `default`.
    #[pyo3(signature = (name, default=None))]
    fn get<'py>(&self, py: Python<'py>, name: &str, default: Option<Bound<'py, PyAny>>) -> Option<Bound<'py, PyAny>> {
        match self.find(name) {
            Some(value) => Some(PyString::new(py, &value).into_any()),
            None => default,
        }
    }

    /// The values of all lines with this name.
    fn getlist(&self, name: &str) -> Vec<String> {
        let headers = self.request.get().headers_map();
        headers.get_all(name).iter().map(|value| latin1(value.as_bytes()).into_owned()).collect()
    }

    /// The names, in lower case, each once.
    fn keys(&self) -> Vec<&str> {
        self.names().collect()
    }

    /// The values, one for each name.
    fn values(&self) -> Vec<String> {
        self.names().filter_map(|name| self.find(name)).collect()
    }

    /// Names and values, one pair for each name.
    fn items(&self) -> Vec<(&str, String)> {
        self.names().filter_map(|name| Some((name, self.find(name)?))).collect()
    }

    /// Names and values, one pair for each line.
    fn multi_items(&self) -> Vec<(&str, String)> {
        let headers = self.request.get().headers_map();
        headers.iter().map(|(name, value)| (name.as_str(), latin1(value.as_bytes()).into_owned())).collect()
    }

    fn __getitem__(&self, name: &str) -> PyResult<String> {
        self.find(name).ok_or_else(|| PyKeyError::new_err(name.to_owned()))
    }

    fn __contains__(&self, name: &Bound<'_, PyAny>) -> bool {
        name.extract::<Cow<'_, str>>().is_ok_and(|name| self.find(&name).is_some())
    }

    fn __len__(&self) -> usize {
        self.request.get().headers_map().keys_len()
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(PyList::new(py, self.keys())?.try_iter()?.into_any())
    }

    fn __repr__(&self) -> String {
        format!("Headers({:?})", self.multi_items())
    }
}

/// The query of a request: a read-only mapping. Of several values of one name `get` and `[]`
/// give the last, `getlist` all. Bytes that are not UTF-8 are replaced.
#[pyclass(module = "tollway._tollway", frozen, mapping)]
pub(super) struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    pub(super) fn new(query: &str) -> Self {
        let decode = |raw: &str| match decode_form(raw) {
            Some(text) => text.into_owned(),
            None => raw.to_owned(),
        };
        Query { pairs: QueryPairs::new(query).map(|(name, value)| (decode(name), decode(value))).collect() }
    }

    fn find(&self, name: &str) -> Option<&str> {
        self.pairs.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Each name once, in order, with its last value.
    fn last(&self) -> Vec<(&str, &str)> {
        let mut places: HashMap<&str, usize> = HashMap::new();
        let mut last: Vec<(&str, &str)> = Vec::new();
        for (name, value) in &self.pairs {
            match places.entry(name) {
                Entry::Occupied(place) => last[*place.get()].1 = value,
                Entry::Vacant(place) => {
                    place.insert(last.len());
                    last.push((name, value));
                }
            }
        }
        last
    }

    fn names(&self) -> Vec<&str> {
        self.last().into_iter().map(|(name, _)| name).collect()
    }
}

#[pymethods]
impl Query {
    /// The last value of a name, or `default`.
    #[pyo3(signature = (name, default=None))]
    fn get<'py>(&self, py: Python<'py>, name: &str, default: Option<Bound<'py, PyAny>>) -> Option<Bound<'py, PyAny>> {
        match self.find(name) {
            Some(value) => Some(PyString::new(py, value).into_any()),
            None => default,
        }
    }

    /// All values of a name.
    fn getlist(&self, name: &str) -> Vec<&str> {
        self.pairs.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect()
    }

    /// The names in order, each once.
    fn keys(&self) -> Vec<&str> {
        self.names()
    }

    /// The last value of each name.
    fn values(&self) -> Vec<&str> {
        self.last().into_iter().map(|(_, value)| value).collect()
    }

    /// Names and their last values.
    fn items(&self) -> Vec<(&str, &str)> {
        self.last()
    }

    /// All pairs in order.
    fn multi_items(&self) -> Vec<(&str, &str)> {
        self.pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }

    fn __getitem__(&self, name: &str) -> PyResult<&str> {
        self.find(name).ok_or_else(|| PyKeyError::new_err(name.to_owned()))
    }

    fn __contains__(&self, name: &Bound<'_, PyAny>) -> bool {
        name.extract::<Cow<'_, str>>().is_ok_and(|name| self.find(&name).is_some())
    }

    fn __len__(&self) -> usize {
        self.names().len()
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(PyList::new(py, self.names())?.try_iter()?.into_any())
    }

    fn __repr__(&self) -> String {
        format!("Query({:?})", self.pairs)
    }
}
