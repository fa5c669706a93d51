//! The limiter: policies, fail modes and observers over any store.
