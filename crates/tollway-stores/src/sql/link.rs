//! What a database must be able to do.

use std::future::Future;
use std::sync::Arc;

use tollway_core::{StoreError, StoreErrorKind, Timestamp};

use super::ask::{Puts, Row};

/// Why something that was asked of a connection was not done.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The connection is gone. Whether what was sent was done is not known.
    Cut(StoreError),
    /// The server said no, and changed nothing.
    Refused(StoreError),
}

impl Trouble {
    /// Whether others were quicker, and nothing was changed: the same again may succeed.
    pub(super) fn is_lost(&self) -> bool {
        matches!(self, Self::Refused(error) if error.kind == StoreErrorKind::Conflict)
    }

    pub(super) fn into_error(self) -> StoreError {
        match self {
            Self::Cut(error) | Self::Refused(error) => error,
        }
    }
}

/// A database that can be connected to.
pub(super) trait Server: Send + Sync + 'static {
    type Link: Link;

    /// A connection with its table in place.
    fn connect(&self) -> impl Future<Output = Result<Self::Link, StoreError>> + Send;

    /// Nobody answered the attempt to connect in time.
    fn silent(&self) -> StoreError;
}

/// A connection.
pub(super) trait Link: Send + 'static {
    /// Begins a transaction, locks the rows of these keys in this order, and reads them and then the
    /// server's clock.
    fn read(&mut self, keys: &[Arc<str>]) -> impl Future<Output = Result<(Vec<Row>, Timestamp), Trouble>> + Send;

    /// Writes and commits. What [is lost](Trouble::is_lost) when a row that is new here was made by somebody else.
    fn write(&mut self, puts: &Puts) -> impl Future<Output = Result<(), Trouble>> + Send;

    /// Ends a transaction in which nothing was written.
    fn leave(&mut self) -> impl Future<Output = Result<(), Trouble>> + Send;

    /// Deletes the keys from one to before another; says how many.
    fn forget(&mut self, from: &str, to: &str) -> impl Future<Output = Result<u64, Trouble>> + Send;

    /// Deletes at most so many expired rows, of those that nobody has locked; says how many.
    fn sweep(&mut self, most: u32) -> impl Future<Output = Result<u64, Trouble>> + Send;

    /// Succeeds when the server answers.
    fn ping(&mut self) -> impl Future<Output = Result<(), Trouble>> + Send;
}
