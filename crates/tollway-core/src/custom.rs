//! Algorithms that others bring.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{PoisonError, RwLock};

use crate::{Change, ConfigError, Limit, Timestamp, Verdict};

/// The most algorithms a process may register: they are kept for ever.
const MOST: usize = 64;

/// An algorithm of one's own: a pure function from state bytes to a verdict and the next bytes.
///
/// Its state travels as bytes through every store that keeps whole values; a store whose decisions
/// are made elsewhere, such as `shm://`, refuses it by name. A refusal must hand the state back as
/// it was, and time that goes backwards must neither free nor lock a key; the conformance suite
/// shows whether that is so.
///
/// ```
/// use tollway_core::{Algorithm, Change, CustomAlgorithm, Limit, Policy, Timestamp, Verdict};
///
/// /// So many permits for ever: a trial that ends when it is used up.
/// #[derive(Debug)]
/// struct Trial;
///
/// fn used(state: Option<&[u8]>) -> u32 {
///     state.and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
/// }
///
/// impl CustomAlgorithm for Trial {
///     fn name(&self) -> &str {
///         "trial"
///     }
///
///     fn decide(&self, limit: &Limit, state: Option<&[u8]>, _: Timestamp, cost: u32) -> (Verdict, Vec<u8>) {
///         let used = used(state);
///         let left = limit.permits().saturating_sub(used);
///         let allowed = cost <= left;
///         let used = if allowed { used + cost } else { used };
///         let verdict = Verdict {
///             allowed,
///             remaining: limit.permits() - used,
///             reset_after: if used > 0 { limit.period() } else { 0 },
///             retry_after: if allowed { 0 } else { tollway_core::NEVER },
///         };
///         (verdict, used.to_le_bytes().to_vec())
///     }
///
///     fn adjust(&self, limit: &Limit, state: Option<&[u8]>, _: Timestamp, change: Change) -> Option<Vec<u8>> {
///         let used = (i64::from(used(state)) + change.delta()).clamp(0, i64::from(limit.permits()));
///         Some((used as u32).to_le_bytes().to_vec())
///     }
///
///     fn lifetime(&self, limit: &Limit) -> u64 {
///         limit.period()
///     }
/// }
///
/// let trial = Algorithm::register(Box::new(Trial))?;
/// let policy = Policy::new("trial", "3/365d", trial)?;
/// assert_eq!("trial".parse::<Algorithm>()?, trial);
/// # Ok::<(), tollway_core::ConfigError>(())
/// ```
pub trait CustomAlgorithm: Send + Sync + fmt::Debug {
    /// The name people write: lower-case letters, digits and underscores. It is kept with states.
    fn name(&self) -> &str;

    /// The verdict on `cost` and the state to keep. `None` stands for a key never seen.
    fn decide(&self, limit: &Limit, state: Option<&[u8]>, now: Timestamp, cost: u32) -> (Verdict, Vec<u8>);

    /// The state after a change nobody is asked about; `None` when that is not possible, and then
    /// refunds and reservations of such policies are refused.
    fn adjust(&self, limit: &Limit, state: Option<&[u8]>, now: Timestamp, change: Change) -> Option<Vec<u8>> {
        let _ = (limit, state, now, change);
        None
    }

    /// How long a state can matter, in nanoseconds.
    fn lifetime(&self, limit: &Limit) -> u64;
}

/// A registered algorithm; as cheap to copy as its name.
#[derive(Clone, Copy)]
pub struct Custom(&'static dyn CustomAlgorithm);

impl Custom {
    /// The algorithm itself.
    pub fn get(self) -> &'static dyn CustomAlgorithm {
        self.0
    }
}

impl PartialEq for Custom {
    fn eq(&self, other: &Self) -> bool {
        self.0.name() == other.0.name()
    }
}

impl Eq for Custom {}

impl Hash for Custom {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.name().hash(state);
    }
}

impl fmt::Debug for Custom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Custom").field(&self.0.name()).finish()
    }
}

static REGISTERED: RwLock<Vec<Custom>> = RwLock::new(Vec::new());

/// Keeps an algorithm for the life of the process.
pub(crate) fn register(algorithm: Box<dyn CustomAlgorithm>, taken: &[&str]) -> Result<Custom, ConfigError> {
    let name = algorithm.name().to_owned();
    let usable = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name.is_empty() || name.len() > 64 || !name.chars().all(usable) {
        return Err(ConfigError::new(format!(
            "algorithm name {name:?} is not usable: 1 to 64 lower-case letters, digits and underscores"
        )));
    }
    let mut registered = REGISTERED.write().unwrap_or_else(PoisonError::into_inner);
    if taken.contains(&name.as_str()) || registered.iter().any(|known| known.0.name() == name) {
        return Err(ConfigError::new(format!("algorithm {name:?} exists already: choose another name")));
    }
    if registered.len() == MOST {
        return Err(ConfigError::new(format!(
            "algorithm {name:?} is one too many: a process registers at most {MOST}; register each once, at start-up"
        )));
    }
    let custom = Custom(Box::leak(algorithm));
    registered.push(custom);
    Ok(custom)
}

/// The algorithm of that name.
pub(crate) fn find(name: &str) -> Option<Custom> {
    let registered = REGISTERED.read().unwrap_or_else(PoisonError::into_inner);
    registered.iter().copied().find(|known| known.0.name() == name)
}

/// All names, in the order of registration.
pub(crate) fn names() -> Vec<&'static str> {
    REGISTERED.read().unwrap_or_else(PoisonError::into_inner).iter().map(|known| known.0.name()).collect()
}
