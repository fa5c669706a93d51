//! What to answer when a store does not.

use std::str::FromStr;

use crate::ConfigError;

/// What to answer when the store does not. The later ones are stricter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FailMode {
    /// Let everybody pass; the decision says `degraded`.
    Open,
    /// Count in another store, usually one in memory; the decision says `degraded`. What passes is
    /// bounded by the limit for each process.
    Local,
    /// Hand the error to the caller, who answers 503.
    Closed,
}

impl FailMode {
    /// The word people write.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Local => "local",
            Self::Closed => "closed",
        }
    }
}

impl FromStr for FailMode {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        match text {
            "open" => Ok(Self::Open),
            "local" => Ok(Self::Local),
            "closed" => Ok(Self::Closed),
            _ => Err(ConfigError::new(format!("fail_mode {text:?} is not known: use open, closed or local"))),
        }
    }
}
