//! Policies whose algorithm is one of their own: kept apart, as bytes.

use std::sync::Arc;

use tollway_core::{Clock, Decision, Reply, Request};

use super::cell::MemoryCell;
use crate::cas::CasStore;
use crate::own;

#[derive(Debug)]
pub(super) struct Own {
    cell: Arc<MemoryCell>,
    store: CasStore,
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
        own::apply(&self.store, "memory://", requests, |request| {
            Box::pin(std::future::ready(Ok(vec![answer(request)])))
        })
    }
}
