//! Keys that sign tokens.

use pyo3::prelude::*;
use tollway_auth::Algorithm;

use super::claims_of;
use crate::errors;

/// Signs tokens: `SigningKey("HS256", secret)`, or with a private key in PEM.
#[pyclass(frozen, module = "tollway.bolt.auth")]
pub(crate) struct SigningKey {
    inner: tollway_auth::SigningKey,
}

#[pymethods]
impl SigningKey {
    #[new]
    #[pyo3(signature = (algorithm, key, kid = None))]
    fn new(algorithm: &str, key: &str, kid: Option<&str>) -> PyResult<Self> {
        let algorithm: Algorithm = algorithm.parse().map_err(|error| errors::from_config(&error))?;
        let made = match algorithm.is_shared() {
            true => tollway_auth::SigningKey::secret(key.as_bytes(), algorithm),
            false => tollway_auth::SigningKey::private(key, algorithm),
        };
        let mut inner = made.map_err(|error| errors::from_config(&error))?;
        if let Some(kid) = kid {
            inner = inner.with_id(kid);
        }
        Ok(Self { inner })
    }

    /// A token with these claims, which are a JSON object.
    fn sign(&self, claims: &[u8]) -> PyResult<String> {
        claims_of(claims)?;
        self.inner.sign(claims).map_err(|error| errors::from_config(&error))
    }

    fn __repr__(&self) -> String {
        format!("{:?}", self.inner)
    }
}
