//! A store that counts how often it is asked, and can be away.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tollway::{
    Algorithm, Capabilities, Change, Charge, Clock, Decision, Policy, Reply, Request, Store, StoreError, StoreErrorKind,
};
use tollway_stores::memory::MemoryStore;

/// Memory that pretends to be remote, counts its callers and can be away.
#[derive(Debug)]
pub struct Remote {
    memory: MemoryStore,
    asked: AtomicU32,
    pinged: AtomicU32,
    pub away: AtomicBool,
    /// Whether it is only a part that is away.
    pub partly: AtomicBool,
    /// Keeps callers waiting instead of failing.
    pub is_hung: AtomicBool,
    kind: StoreErrorKind,
}

impl Remote {
    pub fn new(clock: Arc<dyn Clock>, kind: StoreErrorKind) -> Arc<Self> {
        let memory = MemoryStore::with_clock(10_000, clock);
        let (asked, pinged) = (AtomicU32::new(0), AtomicU32::new(0));
        let [away, partly, is_hung] = [false, false, false].map(AtomicBool::new);
        Arc::new(Self { memory, asked, pinged, away, partly, is_hung, kind })
    }

    fn answer<T: Send + 'static>(&self, ask: impl FnOnce(&MemoryStore) -> Reply<T>) -> Reply<T> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.is_hung.load(Ordering::SeqCst) {
            return Box::pin(std::future::pending());
        }
        if self.away.load(Ordering::SeqCst) {
            let error = StoreError::new(self.kind, "remote://", "away");
            let error = if self.partly.load(Ordering::SeqCst) { error.of_a_part() } else { error };
            return Box::pin(std::future::ready(Err(error)));
        }
        ask(&self.memory)
    }

    /// Calls so far, pings included.
    pub fn asked(&self) -> u32 {
        self.asked.load(Ordering::SeqCst)
    }

    /// Pings so far.
    pub fn pinged(&self) -> u32 {
        self.pinged.load(Ordering::SeqCst)
    }
}

impl Store for Remote {
    fn name(&self) -> &str {
        "remote://"
    }

    fn capabilities(&self) -> Capabilities {
        self.memory.capabilities()
    }

    fn apply(&self, requests: &[Request<'_>]) -> Reply<Vec<Decision>> {
        self.answer(|memory| memory.apply(requests))
    }

    fn adjust(&self, policy: &Arc<Policy>, key: &str, change: Change) -> Reply<Decision> {
        self.answer(|memory| memory.adjust(policy, key, change))
    }

    fn reset(&self, policy: &Arc<Policy>, key: &str) -> Reply<()> {
        self.answer(|memory| memory.reset(policy, key))
    }

    fn ping(&self) -> Reply<()> {
        self.pinged.fetch_add(1, Ordering::SeqCst);
        self.answer(MemoryStore::ping)
    }
}

pub async fn ask(store: &dyn Store, policy: &Arc<Policy>, key: &str, cost: u32) -> Result<Decision, StoreError> {
    let charges = [Charge { policy, key, cost }];
    let request = Request { charges: &charges, peek: false };
    match store.apply_now(&request) {
        Some(answer) => answer,
        None => Ok(store.apply(&[request]).await?[0]),
    }
}

pub fn policy(rates: &str) -> Arc<Policy> {
    Arc::new(Policy::new("p", rates, Algorithm::Gcra).unwrap())
}
