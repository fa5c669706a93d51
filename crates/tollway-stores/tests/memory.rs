//! `memory://` keeps the promises of every store.

use std::sync::Arc;

use tollway_core::conformance;
use tollway_stores::memory::MemoryStore;

#[tokio::test]
async fn conforms() {
    for seed in ["memory-1", "memory-2", "memory-3"] {
        conformance::run(Arc::new(MemoryStore::new(100_000)), seed).await;
    }
}
