//! Requests that outlive their caller's borrow: for replies that may ask again.

use std::sync::Arc;

use tollway_core::{Charge, Policy, Request};

/// A request that owns its keys.
#[derive(Clone, Debug)]
pub(crate) struct OwnedRequest {
    charges: Vec<(Arc<Policy>, Box<str>, u32)>,
    peek: bool,
}

impl OwnedRequest {
    pub(crate) fn new(request: &Request<'_>) -> Self {
        let own = |charge: &Charge<'_>| (Arc::clone(charge.policy), charge.key.into(), charge.cost);
        Self { charges: request.charges.iter().map(own).collect(), peek: request.peek }
    }

    /// The same at what its policies ask for one request.
    pub(crate) fn paid(request: &Request<'_>) -> Self {
        let pay =
            |charge: &Charge<'_>| (Arc::clone(charge.policy), charge.key.into(), charge.policy.charged(charge.cost));
        Self { charges: request.charges.iter().map(pay).collect(), peek: request.peek }
    }

    fn charges(&self) -> Vec<Charge<'_>> {
        self.charges.iter().map(|(policy, key, cost)| Charge { policy, key, cost: *cost }).collect()
    }

    /// Calls `ask` with the request as everybody knows it.
    pub(crate) fn with<T>(&self, ask: impl FnOnce(&Request<'_>) -> T) -> T {
        ask(&Request { charges: &self.charges(), peek: self.peek })
    }

    /// The same for several.
    pub(crate) fn with_all<T>(requests: &[Self], ask: impl FnOnce(&[Request<'_>]) -> T) -> T {
        let charges: Vec<_> = requests.iter().map(Self::charges).collect();
        let pairs = requests.iter().zip(&charges);
        let borrowed: Vec<_> = pairs.map(|(request, charges)| Request { charges, peek: request.peek }).collect();
        ask(&borrowed)
    }
}
