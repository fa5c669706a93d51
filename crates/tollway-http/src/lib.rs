//! HTTP words for limits: who is asking, what the answer's headers say, what a refusal looks like.
//!
//! [`Gate`] puts them together: it takes a request's head and says whether it may pass. No server,
//! no runtime: axum users (through [`LimitLayer`]), our own server and the Python doors all speak through this crate.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

#[cfg(feature = "actix")]
mod actix;
mod address;
mod gate;
mod grpc;
mod headers;
mod identity;
mod layer;
mod problem;

#[cfg(feature = "actix")]
pub use actix::{ActixLimit, ActixLimited};
pub use address::ClientAddress;
pub use gate::{Check, Gate, Verdict};
pub use headers::{Fields, fields, retry_after, write_fields};
pub use identity::{Facts, Identity, Verified, cookies};
pub use layer::{Limit, LimitBody, LimitFuture, LimitLayer};
pub use problem::{describe, problem, refusal_status, store_unavailable};
