//! What can go wrong, by meaning.

use std::fmt;

/// A rate that does not read: the text, the place and what was expected there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateError {
    /// The whole text as given.
    pub text: String,
    /// Byte offset of the first character that does not fit.
    pub position: usize,
    /// What would have fitted, in words.
    pub expected: String,
}

impl fmt::Display for RateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rest: String = self.text.get(self.position..).unwrap_or("").chars().take(20).collect();
        write!(f, "rate {:?} does not read at position {}: expected {}", self.text, self.position, self.expected)?;
        if rest.is_empty() { write!(f, ", found the end") } else { write!(f, ", found {rest:?}") }
    }
}

impl std::error::Error for RateError {}

/// A configuration that cannot work. Raised when a thing is built, never while it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// A rate does not read.
    Rate(RateError),
    /// Anything else; the sentence names the thing, the place and the next step.
    Invalid(String),
}

impl ConfigError {
    /// An error with this sentence.
    pub fn new(message: impl Into<String>) -> Self {
        Self::Invalid(message.into())
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rate(error) => error.fmt(f),
            Self::Invalid(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for ConfigError {}

impl From<RateError> for ConfigError {
    fn from(error: RateError) -> Self {
        Self::Rate(error)
    }
}

/// What kind of trouble a store is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoreErrorKind {
    /// It cannot be reached.
    Unavailable,
    /// It is not asked, because too many wait for it already: says nothing about its health.
    Overloaded,
    /// It did not answer in time.
    Timeout,
    /// Others kept changing the same key until the tries ran out.
    Conflict,
    /// What it holds under a key is not a state this version can read.
    Corrupt,
    /// It cannot do what was asked.
    Unsupported,
    /// It refuses us: wrong password, missing permission, wrong kind of server.
    Misconfigured,
}

impl StoreErrorKind {
    /// Every kind there is, in the order of their discriminants.
    pub const ALL: [Self; 7] = [
        Self::Unavailable,
        Self::Overloaded,
        Self::Timeout,
        Self::Conflict,
        Self::Corrupt,
        Self::Unsupported,
        Self::Misconfigured,
    ];

    /// The word for logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Overloaded => "overloaded",
            Self::Timeout => "timeout",
            Self::Conflict => "conflict",
            Self::Corrupt => "corrupt",
            Self::Unsupported => "unsupported",
            Self::Misconfigured => "misconfigured",
        }
    }
}

/// A store could not answer. Names the store, never a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreError {
    /// What kind of trouble.
    pub kind: StoreErrorKind,
    /// The store, as its redacted URL.
    pub store: String,
    /// What happened and what to do next.
    pub detail: String,
    /// Whether only a part of the store is meant, such as one node of a cluster: what is kept
    /// elsewhere is answered.
    pub partial: bool,
}

impl StoreError {
    /// An error of `kind` in `store`.
    pub fn new(kind: StoreErrorKind, store: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { kind, store: store.into(), detail: detail.into(), partial: false }
    }

    /// The same, of a part of the store only: a breaker around the store does not open for it.
    #[must_use]
    pub fn of_a_part(self) -> Self {
        Self { partial: true, ..self }
    }

    /// Whether the same call may succeed later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        use StoreErrorKind::{Conflict, Overloaded, Timeout, Unavailable};
        matches!(self.kind, Unavailable | Overloaded | Timeout | Conflict)
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            StoreErrorKind::Unavailable => "cannot be reached",
            StoreErrorKind::Overloaded => "has too many waiting",
            StoreErrorKind::Timeout => "did not answer in time",
            StoreErrorKind::Conflict => "is contended",
            StoreErrorKind::Corrupt => "holds a state that does not read",
            StoreErrorKind::Unsupported => "cannot do this",
            StoreErrorKind::Misconfigured => "refuses the connection",
        };
        write!(f, "{} {what}: {}", self.store, self.detail)
    }
}

impl std::error::Error for StoreError {}
