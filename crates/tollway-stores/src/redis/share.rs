//! A request over several slots: cut into what each is asked, and put together again.

use std::sync::Arc;

use smallvec::SmallVec;
use tollway_core::{Algorithm, Bucket, Change, Decision, Policy, Timestamp};

use super::ask::{Ask, Due};
use super::hop::slot;

/// Part of a request whose keys share a slot, and which charges those are.
pub(super) struct Share {
    pub(super) slot: u16,
    pub(super) charges: Vec<u16>,
    pub(super) ask: Ask,
}

/// The slot of all keys of a request, when it is one.
pub(super) fn one_slot(ask: &Ask) -> Option<u16> {
    let mut slots = ask.dues.iter().map(|due| slot(&due.key));
    let first = slots.next()?;
    slots.all(|other| other == first).then_some(first)
}

/// A request, cut by slots, in the order of its charges.
pub(super) fn shares(ask: &Ask, peek: bool) -> Vec<Share> {
    let mut shares: Vec<Share> = Vec::new();
    for (index, due) in ask.dues.iter().enumerate() {
        let number = slot(&due.key);
        let known = shares.iter().position(|share| share.slot == number);
        let at = known.unwrap_or_else(|| {
            let ask = Ask { peek, change: None, dues: SmallVec::new(), swaps: Vec::new(), around: None };
            shares.push(Share { slot: number, charges: Vec::new(), ask });
            shares.len() - 1
        });
        shares[at].charges.push(index as u16);
        shares[at].ask.dues.push(Due { policy: in_whole(&due.policy), ..due.clone() });
    }
    shares
}

/// What gives a charge back that was made at an instant: of permits that are held, those very ones.
pub(super) fn back(due: Due, since: Timestamp) -> Ask {
    let change = match due.policy.algorithm() {
        Algorithm::Concurrency => Change::Release { since, cost: due.cost },
        _ => Change::Refund(due.cost),
    };
    Ask::change(due.policy, due.key, change)
}

/// The policy without service in part, which goes with one charge only.
fn in_whole(policy: &Arc<Policy>) -> Arc<Policy> {
    let bucket = *policy.limits()[0].bucket();
    let whole = || Policy::clone(policy).with_bucket(Bucket { partial: false, ..bucket }).ok();
    bucket.partial.then(whole).flatten().map_or_else(|| Arc::clone(policy), Arc::new)
}

/// The one that speaks for both, as it does in one request: of refusing ones the longest wait, else the
/// fewest permits left; `one` when they are equal.
pub(super) fn tighter(one: Decision, other: Decision) -> Decision {
    let second = match (one.allowed, other.allowed) {
        (true, true) => (other.remaining, one.reset_after) < (one.remaining, other.reset_after),
        (true, false) => true,
        (false, true) => false,
        (false, false) => other.retry_after > one.retry_after,
    };
    if second { other } else { one }
}
