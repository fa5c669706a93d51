//! HTTP words for limits: who is asking, what the answer's headers say, what a refusal looks like.
//!
//! [`Gate`] puts them together: it takes a request's head and says whether it may pass. No server,
//! no runtime: axum users (through [`LimitLayer`]), our own server and the Python doors all speak through this crate.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod address;
mod gate;
mod headers;
mod identity;
mod layer;
mod problem;

pub use address::ClientAddress;
pub use gate::{Check, Gate, Verdict};
pub use headers::{Fields, fields, retry_after, write_fields};
pub use identity::{Facts, Identity, Verified, cookies};
pub use layer::{Limit, LimitFuture, LimitLayer};
pub use problem::{describe, problem, refusal_status, store_unavailable};
