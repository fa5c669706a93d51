//! Policies whose algorithm is one of their own: kept apart, as bytes.

use std::sync::Arc;

use tollway_core::{Clock, Decision, Reply, Request, Store, StoreError, StoreErrorKind};

use super::cell::MemoryCell;
use crate::cas::CasStore;

#[derive(Debug)]
pub(super) struct Own {
    cell: Arc<MemoryCell>,
    store: CasStore,
}

/// Whether a request charges a policy whose algorithm is no built-in one.
#[inline]
pub(super) fn has_own(requests: &[Request<'_>]) -> bool {
    requests.iter().flat_map(|request| request.charges).any(|charge| !charge.policy.is_built_in())
}

impl Own {
    pub(super) fn new(clock: Arc<dyn Clock>, max_keys: usize) -> Self {
        let cell = Arc::new(MemoryCell::new(Arc::clone(&clock), max_keys));
        Self { store: CasStore::with_clock(cell.clone(), "own", clock), cell }
    }

    pub(super) fn held(&self) -> usize {
        self.cell.held()
    }

    pub(super) fn store(&self) -> &CasStore {
        &self.store
    }

    /// Answers requests of which some charge policies of one's own, and `answer` the others.
    pub(super) fn apply(
        &self,
        requests: &[Request<'_>],
        answer: impl Fn(&Request<'_>) -> Decision,
    ) -> Reply<Vec<Decision>> {
        let one = |request: &Request<'_>| -> Reply<Vec<Decision>> {
            if !has_own(std::slice::from_ref(request)) {
                return Box::pin(std::future::ready(Ok(vec![answer(request)])));
            }
            if let Some(charge) = request.charges.iter().find(|charge| charge.policy.is_built_in()) {
                return Box::pin(std::future::ready(Err(mixed(charge.policy.name()))));
            }
            self.store.apply(std::slice::from_ref(request))
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
}

fn mixed(name: &str) -> StoreError {
    let detail = format!(
        "a request charges policy {name:?} together with one whose algorithm is your own: they cannot pass together, \
         so check them one after the other"
    );
    StoreError::new(StoreErrorKind::Unsupported, "memory://", detail)
}
