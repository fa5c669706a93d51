//! Policies whose algorithm is one of their own, beside a store that keeps the built-in ones.

use tollway_core::{Decision, Reply, Request, Store, StoreError, StoreErrorKind, store_key_start};

use crate::cas::CasStore;

/// Whether a request charges a policy whose algorithm is no built-in one.
#[inline]
pub(crate) fn has_own(requests: &[Request<'_>]) -> bool {
    requests.iter().flat_map(|request| request.charges).any(|charge| !charge.policy.is_built_in())
}

/// Answers requests of which some charge policies of one's own, which `own` keeps; `answer` the
/// others. `name` is the store's, for messages.
pub(crate) fn apply(
    own: &CasStore,
    name: &str,
    requests: &[Request<'_>],
    answer: impl Fn(&Request<'_>) -> Reply<Vec<Decision>>,
) -> Reply<Vec<Decision>> {
    let one = |request: &Request<'_>| -> Reply<Vec<Decision>> {
        if !has_own(std::slice::from_ref(request)) {
            return answer(request);
        }
        if let Some(charge) = request.charges.iter().find(|charge| charge.policy.is_built_in()) {
            return Box::pin(std::future::ready(Err(mixed(name, charge.policy.name()))));
        }
        own.apply(std::slice::from_ref(request))
    };
    let replies: Vec<_> = requests.iter().map(one).collect();
    Box::pin(async move {
        let mut decisions = Vec::with_capacity(replies.len());
        for reply in replies {
            decisions.extend(reply.await?);
        }
        Ok(decisions)
    })
}

/// What the keys begin with that a reset by prefix forgets.
pub(crate) fn start_of(store: &str, prefix: &str, policy: &str, beginning: &str) -> Result<String, StoreError> {
    store_key_start(prefix, policy, beginning).ok_or_else(|| {
        let detail = "keys that begin with more than 96 bytes are stored hashed and cannot be found by their beginning: \
                      reset them one by one, or all of the policy with an empty prefix";
        StoreError::new(StoreErrorKind::Unsupported, store, detail)
    })
}

fn mixed(store: &str, policy: &str) -> StoreError {
    let detail = format!(
        "a request charges policy {policy:?} together with one whose algorithm is your own: they cannot pass together, \
         so check them one after the other"
    );
    StoreError::new(StoreErrorKind::Unsupported, store, detail)
}
