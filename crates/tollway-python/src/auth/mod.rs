//! Tokens, API keys and revocations as Python makes them. The rules are those of `tollway-auth`.

mod keys;
mod signing;
mod values;
mod verifier;

use std::time::{SystemTime, UNIX_EPOCH};

use pyo3::prelude::*;

pub(crate) use keys::ApiKeys;
pub(crate) use values::{claims_of, dict_of};
pub(crate) use verifier::TokenVerifier;

/// Seconds since 1970, by the wall clock: the times in tokens are its.
pub(crate) fn wall_clock() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Adds the classes to the native module.
///
/// # Errors
/// What Python raised.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<keys::ApiKeys>()?;
    module.add_class::<keys::Revocations>()?;
    module.add_class::<signing::SigningKey>()?;
    module.add_class::<verifier::TokenVerifier>()?;
    Ok(())
}
