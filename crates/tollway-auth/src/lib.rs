//! Who is asking, and what may they.
//!
//! A [`Verifier`] believes a JSON Web Token whose signature, times, audience and issuer are right; an
//! [`ApiKeys`] believes a key whose hash it knows. What they find is a [`Caller`], and a [`Guard`] says
//! whether a caller may pass. Nothing here waits, reads a clock or knows a server: keys are read once,
//! time is a value, and the primitives are ring's.

#![forbid(unsafe_code)]

mod algorithm;
mod api_keys;
mod authentication;
mod caller;
mod claims;
mod guard;
mod keys;
mod origin;
mod proven;
mod revoked;
mod signing;
mod token;

pub use algorithm::Algorithm;
pub use api_keys::{ApiKey, ApiKeys};
pub use authentication::{Authentication, Backend, Carrier, Found};
pub use caller::{Caller, Scheme};
pub use claims::{Claims, Rejection, Rules};
pub use guard::{Guard, Refusal, Scalar, Wanted, check_all};
pub use keys::KeySet;
pub use origin::may_change;
pub use revoked::{Full, Revoked};
pub use signing::SigningKey;
pub use token::{TOKEN_MAX, Verifier};
