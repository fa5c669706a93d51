//! Rate-limit decisions as pure functions: rates, policies, algorithms, the store port.
//!
//! A decision is a function of *(limit, state, now, cost)*. This crate is the only author of that
//! arithmetic; every store either calls it or is a translation that is tested against it.
//! It never reads a clock, never waits, never touches a network and knows nothing of HTTP.
//!
//! ```
//! use tollway_core::{Algorithm, Policy, Timestamp, decide_one};
//!
//! let policy = Policy::new("login", "5/m", Algorithm::Gcra)?;
//! let limit = &policy.limits()[0];
//! let now = Timestamp::from_secs(1_700_000_000);
//!
//! let mut state = None;
//! for _ in 0..5 {
//!     let (verdict, next) = decide_one(limit, state, now, 1);
//!     assert!(verdict.allowed);
//!     state = Some(next);
//! }
//! let (refused, _) = decide_one(limit, state, now, 1);
//! assert!(!refused.allowed);
//! assert_eq!(refused.retry_after, 12_000_000_000); // one permit each 12 s
//! # Ok::<(), tollway_core::ConfigError>(())
//! ```
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod adjust;
mod algorithm;
mod bucket;
mod calendar;
mod calls;
mod cell;
mod clock;
#[cfg(feature = "conformance")]
pub mod conformance;
mod control;
mod custom;
mod decision;
mod error;
mod fail;
mod key;
mod limit;
mod policy;
mod rate;
mod state;
mod store;

pub use adjust::{Change, adjust_one};
pub use algorithm::{Algorithm, Align, Leak, Log, State, Verdict, decide_one, judge_one};
pub use bucket::Bucket;
pub use calls::{Calls, Latency};
pub use cell::{Cell, Loaded};
pub use clock::{Clock, ManualClock, Timestamp};
pub use control::{Breaker, BreakerSettings, BreakerState, Permit};
pub use custom::{Custom, CustomAlgorithm};
pub use decision::{Decision, Mode, NEVER, Part, Reason, States, adjust, decide};
pub use error::{ConfigError, RateError, StoreError, StoreErrorKind};
pub use fail::FailMode;
pub use key::{hash_identity, store_key, store_key_start};
pub use limit::{Limit, Units};
pub use policy::Policy;
pub use rate::{CalendarUnit, MAX_PERMITS, Period, Rate, Rates, parse_duration, parse_period};
pub use state::{Saved, StateError, carry_states, read_states, write_states};
pub use store::{Capabilities, Charge, Condition, Reply, Request, Store};
