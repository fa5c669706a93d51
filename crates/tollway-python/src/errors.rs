//! One table: Rust errors and the Python exceptions of `tollway.errors` they become.

use pyo3::prelude::*;
use pyo3::types::PyType;
use tollway::{ConfigError, RateError, StoreError, StoreErrorKind};

fn raise(class: &str, message: String) -> PyErr {
    Python::attach(|py| {
        let class = py.import("tollway.errors").and_then(|module| module.getattr(class));
        match class.and_then(|class| Ok(class.cast_into::<PyType>()?)) {
            Ok(class) => PyErr::from_type(class, message),
            Err(error) => error,
        }
    })
}

/// A configuration error with this sentence.
pub(crate) fn config(message: impl Into<String>) -> PyErr {
    raise("ConfigError", message.into())
}

/// A rate that does not read.
pub(crate) fn rate(error: &RateError) -> PyErr {
    raise("RateError", error.to_string())
}

/// A configuration that cannot work.
pub(crate) fn from_config(error: &ConfigError) -> PyErr {
    match error {
        ConfigError::Rate(error) => rate(error),
        ConfigError::Invalid(message) => config(message.clone()),
    }
}

/// A store that could not answer.
pub(crate) fn from_store(error: &StoreError) -> PyErr {
    let class = match error.kind {
        StoreErrorKind::Unavailable | StoreErrorKind::Overloaded => "StoreUnavailable",
        StoreErrorKind::Timeout => "StoreTimeout",
        StoreErrorKind::Unsupported => "ConfigError",
        StoreErrorKind::Conflict | StoreErrorKind::Corrupt | StoreErrorKind::Misconfigured => "StoreError",
    };
    raise(class, error.to_string())
}
