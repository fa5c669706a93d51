//! Where limiter state lives: one feature, one module, one URL scheme for each backend.
//!
//! | feature | scheme | module |
//! |---|---|---|
//! | `memory` (default) | `memory://` | [`memory`] |
//! | `shm` (Linux) | `shm://` | `shm` |
//! | `redis` | `redis://`, `redis+unix://` | `redis` |
//! | `redis` | `redis+sentinel://`, `redis+cluster://` | `redis` |
//! | `redis-tls` | `rediss://`, `rediss+sentinel://`, `rediss+cluster://` | `redis` |
//! | `postgres` | `postgres://` | `sql` |
//! | `mysql` | `mysql://` | `sql` |
//! | `sqlite` | `sqlite://` | `sql` |
//!
//! [`cas`] makes a store of any place that can load and swap: a backend of your own.
//!
//! Every store passes `tollway_core::conformance`.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod cas;
#[cfg(feature = "memory")]
pub mod memory;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(all(feature = "shm", target_os = "linux"))]
pub mod shm;
#[cfg(feature = "sql")]
pub mod sql;

mod clock;
#[cfg(any(feature = "memory", feature = "redis"))]
mod own;
#[cfg(any(feature = "memory", all(feature = "shm", target_os = "linux")))]
mod places;
#[cfg(any(feature = "memory", all(feature = "shm", target_os = "linux")))]
mod prefixes;
#[cfg(any(feature = "redis", feature = "sql"))]
mod remote;
#[cfg(any(feature = "memory", all(feature = "shm", target_os = "linux")))]
mod table;
#[cfg(any(feature = "redis-tls", feature = "sql-tls"))]
mod tls;

pub use clock::SystemClock;
