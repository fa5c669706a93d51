//! The kit for places that can only load and swap.

use std::fmt;
use std::time::Duration;

use crate::Reply;

/// What a cell holds under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The bytes as they were swapped in.
    pub bytes: Vec<u8>,
    /// What names this very value: it changes with every swap. An etag, a row version, the bytes.
    pub version: Vec<u8>,
}

/// A place that can load a value and swap it for another if nobody else has.
///
/// That is all a backend without server-side logic has to do: `CasStore` of `tollway-stores` makes a
/// [`Store`](crate::Store) of it, with every algorithm and operation.
pub trait Cell: Send + Sync + fmt::Debug {
    /// The redacted URL, for messages.
    fn name(&self) -> &str;

    /// What is held under `key`; `None` when there is nothing, or its time is over.
    fn load(&self, key: &str) -> Reply<Option<Loaded>>;

    /// Puts `bytes` under `key` if what is there has version `expected` (`None`: if nothing is
    /// there), to be forgotten after `ttl`. Bytes of `None` remove the value. Answers whether it did.
    fn swap(&self, key: &str, expected: Option<Vec<u8>>, bytes: Option<Vec<u8>>, ttl: Duration) -> Reply<bool>;
}
