//! Where limiter state lives: one feature, one module, one URL scheme for each backend.
//!
//! | feature | scheme | module |
//! |---|---|---|
//! | `memory` (default) | `memory://` | [`memory`] |
//! | `redis` | `redis://`, `redis+unix://` | `redis` |
//!
//! Every store passes `tollway_core::conformance`.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

#[cfg(feature = "memory")]
pub mod memory;
#[cfg(feature = "redis")]
pub mod redis;

mod clock;

pub use clock::SystemClock;
