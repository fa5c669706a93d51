//! What to answer when the store does not.

use std::sync::Arc;

use tollway_core::{Decision, Mode, Reason, Request, Store, StoreError, Timestamp};

/// What to answer when the store does not.
#[derive(Clone, Debug)]
pub enum FailMode {
    /// Let everybody pass; the decision says `degraded`.
    Open,
    /// Hand the error to the caller, who answers 503.
    Closed,
    /// Ask this store instead, usually one in memory; the decision says `degraded`. What passes is
    /// bounded by the limit for each process.
    Local(Arc<dyn Store>),
}

impl FailMode {
    /// The word people write.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
            Self::Local(_) => "local",
        }
    }

    /// The answer to `request` after `error`.
    pub(crate) fn answer(&self, request: &Request<'_>, error: StoreError) -> Result<Decision, StoreError> {
        let decision = match self {
            Self::Closed => return Err(error),
            Self::Open => pass(request),
            Self::Local(store) => match store.apply_now(request) {
                Some(answer) => answer?,
                None => return Err(error),
            },
        };
        Ok(Decision {
            degraded: true,
            reason: if decision.allowed { Reason::StoreUnavailable } else { decision.reason },
            ..decision
        })
    }
}

/// A pass that nobody counted: the limits as if nothing were spent.
fn pass(request: &Request<'_>) -> Decision {
    let (charge, limit) = (request.charges.iter().enumerate())
        .flat_map(|(number, charge)| charge.policy.limits().iter().map(move |limit| (number, limit)))
        .min_by_key(|(_, limit)| limit.capacity())
        .map_or((0, 0), |(number, limit)| (number, limit.capacity()));
    Decision {
        allowed: true,
        charge: charge as u16,
        index: 0,
        limit,
        remaining: limit,
        cost: request.charges.get(charge).map_or(0, |charge| charge.cost),
        reset_after: 0,
        retry_after: 0,
        at: Timestamp::default(),
        mode: Mode::Enforced,
        degraded: true,
        reason: Reason::StoreUnavailable,
    }
}
