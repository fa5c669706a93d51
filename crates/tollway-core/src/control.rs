//! Machines that steer: pure, the time given.

mod breaker;

pub use breaker::{Breaker, BreakerSettings, BreakerState, Permit};
