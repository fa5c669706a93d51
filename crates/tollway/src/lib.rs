//! The limiter: policies, fail modes and observers over any store.
//!
//! [`Limiter`] asks a store and decides what happens when the store does not answer. It brings no
//! driver: give it any [`Store`], such as the ones of `tollway-stores`.
//!
//! ```
//! use std::sync::Arc;
//! use tollway::{Algorithm, Charge, FailMode, Limiter, Policy};
//! use tollway_stores::memory::MemoryStore;
//!
//! let limiter = Limiter::new(Arc::new(MemoryStore::new(1_000_000)), FailMode::Closed);
//! let login = Arc::new(Policy::new("login", "5/m; 100/d", Algorithm::Gcra)?);
//!
//! let charges = [Charge { policy: &login, key: "203.0.113.7", cost: 1 }];
//! let decision = limiter.check_now(&charges).expect("memory answers at once")?;
//! assert!(decision.allowed);
//! assert_eq!(decision.remaining, 4);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod acquire;
mod deadline;
mod fail;
mod failover;
mod guard;
mod health;
mod hold;
mod keeper;
mod lease;
mod limiter;
mod near;
mod observe;
mod owned;
mod reserve;
pub mod rules;
mod watch;

pub use fail::Share;
pub use failover::{Failover, Strategy};
pub use guard::Guard;
pub use health::{BackendHealth, Health, Status};
pub use hold::Held;
pub use lease::{LeaseSettings, Leases};
pub use limiter::{Answer, Limiter};
pub use near::NearCache;
pub use observe::{Metrics, Observer, Outcome, PolicyChecks, Snapshot, StoreCalls};
pub use reserve::Reservation;
pub use tollway_core::*;
