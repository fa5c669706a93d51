//! A segment of a test's own, removed afterwards.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tollway_core::{
    Algorithm, Charge, Clock, ConfigError, Decision, ManualClock, Policy, Request, Store, StoreError, Timestamp,
};
use tollway_stores::shm::{ShmOptions, ShmStore};

pub const SECOND: u64 = 1_000_000_000;
pub const START: Timestamp = Timestamp::from_secs(1_700_000_000);

pub struct Here {
    pub name: String,
    pub clock: Option<Arc<ManualClock>>,
}

impl Here {
    /// On the real clock.
    pub fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test-{name}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Self { name, clock: None }
    }

    /// On a clock that the test moves.
    pub fn still(name: &str) -> Self {
        let mut here = Self::new(name);
        here.clock = Some(Arc::new(ManualClock::new(START)));
        here
    }

    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/dev/shm/tollway-{}", self.name))
    }

    pub fn url(&self, options: &str) -> String {
        format!("shm://{}?{options}", self.name)
    }

    pub fn try_open(&self, options: &str) -> Result<ShmStore, ConfigError> {
        let clock = self.clock.clone().map(|clock| clock as Arc<dyn Clock>);
        ShmStore::open(&self.url(options), ShmOptions { clock, ..ShmOptions::default() })
    }

    pub fn open(&self, options: &str) -> ShmStore {
        self.try_open(options).unwrap_or_else(|error| panic!("{error}"))
    }

    pub fn advance(&self, nanos: u64) {
        self.clock.as_ref().expect("a clock to move").advance(nanos);
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.path());
    }
}

pub fn policy(name: &str, rates: &str, algorithm: Algorithm) -> Arc<Policy> {
    Arc::new(Policy::new(name, rates, algorithm).unwrap())
}

pub fn try_ask(store: &dyn Store, policy: &Arc<Policy>, key: &str, cost: u32) -> Result<Decision, StoreError> {
    let charges = [Charge { policy, key, cost }];
    store.apply_now(&Request { charges: &charges, peek: false }).expect("shared memory answers at once")
}

pub fn ask(store: &dyn Store, policy: &Arc<Policy>, key: &str, cost: u32) -> Decision {
    try_ask(store, policy, key, cost).unwrap_or_else(|error| panic!("{error}"))
}
