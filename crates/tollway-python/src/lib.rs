//! The native module of the Python package: conversion, GIL, event loop. No business rules.

mod algorithm;
mod answers;
mod auth;
mod awaiting;
mod breaker;
mod cell;
mod charges;
mod clock;
mod conformance;
mod decision;
mod errors;
mod health;
mod hold;
mod identity;
mod interpreter;
mod limiter;
mod observe;
mod policy;
mod reservation;
mod rules;
mod runtime;
mod server;
mod stores;

use pyo3::prelude::*;

/// The native module `tollway._tollway`.
#[pymodule]
fn _tollway(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<breaker::Breaker>()?;
    module.add_class::<clock::ManualClock>()?;
    module.add_class::<decision::Decision>()?;
    module.add_class::<health::BackendHealth>()?;
    module.add_class::<health::Health>()?;
    module.add_class::<hold::Held>()?;
    module.add_class::<identity::ClientAddress>()?;
    module.add_class::<limiter::Limiter>()?;
    module.add_class::<policy::Policy>()?;
    module.add_class::<policy::Rate>()?;
    module.add_class::<reservation::Reservation>()?;
    module.add_class::<rules::AccessList>()?;
    module.add_class::<rules::Attempt>()?;
    module.add_class::<rules::Lockout>()?;
    module.add_class::<rules::Rules>()?;
    module.add_class::<rules::Subject>()?;
    module.add_function(wrap_pyfunction!(conformance::check_store, module)?)?;
    module.add_function(wrap_pyfunction!(identity::hash_identity, module)?)?;
    auth::register(module)?;
    interpreter::register(module)?;
    observe::register(module)?;
    server::register(module)?;
    Ok(())
}
