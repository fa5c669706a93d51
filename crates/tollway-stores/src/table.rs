//! A flat lock-free table from key to state: one word for each key, one exchange for each decision.

use tollway_core::{Decision, Limit, Mode, NEVER, Reason, Timestamp, Verdict};

#[cfg(test)]
mod golden;
mod ground;
mod growing;
mod layout;
mod level;
#[cfg(test)]
mod model;
mod moving;
mod together;
mod word;

pub(crate) use ground::{Ground, WAYS};
pub(crate) use growing::{Room, Table};
pub(crate) use layout::{Layout, give_back};
pub(crate) use level::{Blocked, Level, Moment};
pub(crate) use together::{Applied, Together, together};

/// The decision of a request of one charge with one limit.
#[inline]
pub(crate) fn worded(limit: &Limit, verdict: Verdict, cost: u32, now: Timestamp) -> Decision {
    let reason = match (verdict.allowed, verdict.retry_after) {
        (true, _) => Reason::Allowed,
        (false, NEVER) => Reason::CostAboveLimit,
        (false, _) => Reason::RateLimited,
    };
    Decision {
        allowed: verdict.allowed,
        charge: 0,
        index: 0,
        limit: limit.capacity(),
        remaining: verdict.remaining,
        cost,
        reset_after: verdict.reset_after,
        retry_after: verdict.retry_after,
        at: now,
        mode: Mode::Enforced,
        degraded: false,
        reason,
    }
}
