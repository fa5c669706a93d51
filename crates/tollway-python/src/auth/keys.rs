//! API keys and revocations.

use std::sync::Arc;

use pyo3::prelude::*;
use tollway_auth::{ApiKey, Revoked};

use super::wall_clock;
use crate::errors;

/// The API keys that are good, by their hashes.
#[pyclass(frozen, module = "tollway.bolt.auth", weakref)]
pub(crate) struct ApiKeys {
    pub(crate) inner: Arc<tollway_auth::ApiKeys>,
    pub(crate) header: http::HeaderName,
}

/// What Python says of one key: hash, owner, tier, permissions, end.
type Told = (String, Option<String>, Option<String>, Vec<String>, Option<f64>);

fn key((hash, owner, tier, permissions, expires): Told) -> ApiKey {
    ApiKey { hash, owner, tier, permissions, expires }
}

#[pymethods]
impl ApiKeys {
    #[new]
    fn new(header: &str, keys: Vec<Told>) -> PyResult<Self> {
        let header = http::HeaderName::try_from(header)
            .map_err(|_| errors::config(format!("header {header:?} is no legal header name")))?;
        Ok(Self { inner: Arc::new(tollway_auth::ApiKeys::new(keys.into_iter().map(key))), header })
    }

    /// Other keys in place of these.
    fn replace(&self, keys: Vec<Told>) {
        self.inner.replace(keys.into_iter().map(key));
    }

    fn __len__(&self) -> usize {
        self.inner.len()
    }

    fn __repr__(&self) -> String {
        format!("<ApiKeys: {} in {}>", self.inner.len(), self.header)
    }
}

/// What was revoked, in the memory of this process. A full table refuses a further one.
#[pyclass(frozen, module = "tollway.bolt.auth")]
pub(crate) struct Revocations {
    pub(super) inner: Arc<Revoked>,
}

#[pymethods]
impl Revocations {
    #[new]
    fn new(capacity: usize) -> Self {
        Self { inner: Arc::new(Revoked::new(capacity)) }
    }

    /// Withdraws `jti:ID` or `fam:ID` until a time in seconds since 1970; false when it was withdrawn already.
    fn add(&self, id: &str, until: f64) -> PyResult<bool> {
        self.inner
            .add(id, until, wall_clock())
            .map_err(|full| pyo3::exceptions::PyRuntimeError::new_err(full.to_string()))
    }

    fn __contains__(&self, id: &str) -> bool {
        self.inner.contains(id, wall_clock())
    }

    fn __len__(&self) -> usize {
        self.inner.len()
    }
}
