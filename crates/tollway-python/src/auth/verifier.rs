//! Verifiers of tokens.

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use tollway_auth::{Algorithm, Carrier, KeySet, Rules, Verifier};

use super::keys::Revocations;
use super::{dict_of, wall_clock};
use crate::errors;

/// Verifies tokens and says where they are carried.
#[pyclass(frozen, module = "tollway.bolt.auth", weakref)]
pub(crate) struct TokenVerifier {
    pub(crate) inner: Arc<Verifier>,
    pub(crate) carrier: Carrier,
}

fn algorithms(names: &[String]) -> PyResult<Vec<Algorithm>> {
    let read: Result<Vec<Algorithm>, _> = names.iter().map(|name| name.parse()).collect();
    let found = read.map_err(|error| errors::from_config(&error))?;
    let shared = found.iter().filter(|one| one.is_shared()).count();
    if shared > 0 && shared < found.len() {
        return Err(errors::config(format!(
            "algorithms {} mix shared secrets with public keys: make a backend for each, so that no token can choose",
            names.join(", ")
        )));
    }
    Ok(found)
}

#[pymethods]
impl TokenVerifier {
    #[new]
    #[pyo3(signature = (
        algorithms, *, secrets = Vec::new(), public_key = None, jwks = None, audience = Vec::new(), issuer = Vec::new(),
        leeway = 60.0, token_type = None, needs_id = false, header = "authorization", cookie = None, csrf = true,
        revoked = None
    ))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        algorithms: Vec<String>,
        secrets: Vec<String>,
        public_key: Option<&str>,
        jwks: Option<&[u8]>,
        audience: Vec<String>,
        issuer: Vec<String>,
        leeway: f64,
        token_type: Option<String>,
        needs_id: bool,
        header: &str,
        cookie: Option<String>,
        csrf: bool,
        revoked: Option<&Revocations>,
    ) -> PyResult<Self> {
        let accepted = self::algorithms(&algorithms)?;
        let secrets: Vec<&[u8]> = secrets.iter().map(String::as_bytes).collect();
        let keys = match (secrets.as_slice(), public_key, jwks) {
            ([_, ..], None, None) => KeySet::secrets(&secrets, &accepted),
            ([], Some(pem), None) => KeySet::public(pem, &accepted),
            ([], None, Some(set)) => KeySet::jwks(set, &accepted),
            ([], None, None) => Ok(KeySet::empty()),
            _ => return Err(errors::config("give one of secrets, public_key and jwks")),
        };
        let keys = keys.map_err(|error| errors::from_config(&error))?;
        if !(0.0..=86_400.0).contains(&leeway) {
            return Err(errors::config(format!("leeway={leeway} is not from 0 to 86400 seconds")));
        }
        let carrier = match cookie {
            Some(name) => Carrier::Cookie { name, csrf },
            None => Carrier::Header(
                http::HeaderName::try_from(header)
                    .map_err(|_| errors::config(format!("header {header:?} is no legal header name")))?,
            ),
        };
        let verifier = Verifier::new(accepted, keys, Rules { audience, issuer, leeway, token_type, needs_id });
        let verifier = match revoked {
            Some(revoked) => verifier.with_revoked(Arc::clone(&revoked.inner)),
            None => verifier,
        };
        Ok(Self { inner: Arc::new(verifier), carrier })
    }

    /// The claims of a token, or a ValueError that says why it is not believed.
    #[pyo3(signature = (token, now = None))]
    fn verify<'py>(&self, py: Python<'py>, token: &str, now: Option<f64>) -> PyResult<Bound<'py, PyDict>> {
        let now = now.unwrap_or_else(wall_clock);
        let claims = self.inner.verify(token.as_bytes(), now);
        let claims = claims.map_err(|problem| PyValueError::new_err(problem.detail()))?;
        dict_of(py, claims.all())
    }

    /// Puts the keys of a JSON Web Key Set in place; None leaves those that are there.
    fn replace(&self, jwks: Option<&[u8]>) -> PyResult<()> {
        let Some(jwks) = jwks else { return Ok(()) };
        let keys = KeySet::jwks(jwks, self.inner.algorithms()).map_err(|error| errors::from_config(&error))?;
        self.inner.replace_keys(keys);
        Ok(())
    }

    /// Whether a token named an unknown key since this was asked last.
    fn take_want(&self) -> bool {
        self.inner.take_want()
    }

    fn __repr__(&self) -> String {
        let names: Vec<_> = self.inner.algorithms().iter().map(|algorithm| algorithm.name()).collect();
        format!("<TokenVerifier {}>", names.join(", "))
    }
}
