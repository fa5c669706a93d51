//! Policies whose algorithm is one of their own: kept apart, as bytes.

use std::sync::Arc;

use tollway_core::{Clock, Decision, Reply, Request, StoreError};

use super::cell::MemoryCell;
use crate::cas::CasStore;
use crate::own;

const PREFIX: &str = "own";

#[derive(Debug)]
pub(super) struct Own {
    cell: Arc<MemoryCell>,
    store: CasStore,
}

impl Own {
    pub(super) fn new(clock: Arc<dyn Clock>, max_keys: usize) -> Self {
        let cell = Arc::new(MemoryCell::new(Arc::clone(&clock), max_keys));
        Self { store: CasStore::with_clock(cell.clone(), PREFIX, clock), cell }
    }

    pub(super) fn held(&self) -> usize {
        self.cell.held()
    }

    pub(super) fn store(&self) -> &CasStore {
        &self.store
    }

    /// Forgets the keys of a policy that begin so. Looks at every key.
    pub(super) fn forget(&self, policy: &str, beginning: &str) -> Result<(), StoreError> {
        own::start_of("memory://", PREFIX, policy, beginning).map(|start| self.cell.forget(&start))
    }

    /// Answers requests of which some charge policies of one's own, and `answer` the others.
    pub(super) fn apply(
        &self,
        requests: &[Request<'_>],
        answer: impl Fn(&Request<'_>) -> Decision,
    ) -> Reply<Vec<Decision>> {
        own::apply(&self.store, "memory://", requests, |request| {
            Box::pin(std::future::ready(Ok(vec![answer(request)])))
        })
    }
}
