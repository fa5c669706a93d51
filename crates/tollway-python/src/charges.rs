//! What Python asks for, checked: charges and costs.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::PyTuple;
use tollway::{Charge, Reply, Request};

use crate::answers::Policies;
use crate::errors;
use crate::policy::Policy;

/// The charges of one `check_all`, held while they are asked.
pub(crate) struct Charges(Vec<(Arc<tollway::Policy>, PyBackedStr, u32)>);

impl Charges {
    pub(crate) fn new(charges: &[Bound<'_, PyTuple>]) -> PyResult<Self> {
        let read = |charge: &Bound<'_, PyTuple>| {
            let (policy, key, cost): (Bound<'_, Policy>, PyBackedStr, i64) = match charge.len() {
                2 => charge.extract::<(Bound<'_, Policy>, PyBackedStr)>().map(|(policy, key)| (policy, key, 1))?,
                3 => charge.extract()?,
                _ => return Err(errors::config("a charge is (policy, key) or (policy, key, cost)")),
            };
            Ok((Arc::clone(&policy.get().inner), key, checked(cost)?))
        };
        Ok(Self(charges.iter().map(read).collect::<PyResult<_>>()?))
    }

    pub(crate) fn borrow(&self) -> Vec<Charge<'_>> {
        self.0.iter().map(|(policy, key, cost)| Charge { policy, key, cost: *cost }).collect()
    }

    /// For decisions that stand alone: each with its own policy.
    pub(crate) fn each(&self) -> Vec<Policies> {
        self.0.iter().map(|(policy, ..)| Policies::from([Arc::clone(policy)])).collect()
    }

    pub(crate) fn ask_many(&self, limiter: &tollway::Limiter) -> Reply<Vec<tollway::Decision>> {
        let charges = self.borrow();
        let requests: Vec<_> = charges.chunks(1).map(|charges| Request { charges, peek: false }).collect();
        limiter.check_many(&requests)
    }

    pub(crate) fn policies(&self) -> Policies {
        self.0.iter().map(|(policy, ..)| Arc::clone(policy)).collect()
    }
}

pub(crate) fn checked(cost: i64) -> PyResult<u32> {
    u32::try_from(cost).ok().filter(|cost| *cost <= tollway::MAX_PERMITS).ok_or_else(|| {
        errors::config(format!("a cost is a whole number from 0 to {}, not {cost}", tollway::MAX_PERMITS))
    })
}
