//! Tokens that were withdrawn before their time.

use std::fmt;
use std::sync::Mutex;

use ahash::HashMap;

use crate::Claims;

/// Ids of tokens, and of families of tokens, that are believed no longer. Bounded: what has expired
/// makes room, and when nothing has, a further one is refused rather than an old one forgotten.
///
/// ```
/// use tollway_auth::Revoked;
///
/// let revoked = Revoked::new(1_000);
/// assert!(revoked.add("jti:7", 100.0, 0.0)?);    // until second 100, at second 0
/// assert!(!revoked.add("jti:7", 100.0, 0.0)?);   // it was there already
/// assert!(revoked.contains("jti:7", 99.0) && !revoked.contains("jti:7", 100.0));
/// # Ok::<(), tollway_auth::Full>(())
/// ```
pub struct Revoked {
    capacity: usize,
    until: Mutex<HashMap<String, f64>>,
}

/// There is no room for a further revocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full(usize);

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tokens are revoked and none of them has expired: raise the capacity", self.0)
    }
}

impl std::error::Error for Full {}

impl fmt::Debug for Revoked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revoked").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

impl Revoked {
    /// Room for that many.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, until: Mutex::default() }
    }

    fn map(&self) -> std::sync::MutexGuard<'_, HashMap<String, f64>> {
        // The map is whole between any two of its calls.
        self.until.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Withdraws `id` up to a time; both times in seconds since 1970. False when it was withdrawn already.
    ///
    /// # Errors
    /// [`Full`], and then nothing has changed.
    pub fn add(&self, id: &str, until: f64, now: f64) -> Result<bool, Full> {
        let mut map = self.map();
        if let Some(known) = map.get_mut(id) {
            let fresh = *known <= now;
            *known = known.max(until);
            return Ok(fresh);
        }
        if map.len() >= self.capacity {
            map.retain(|_, until| *until > now);
            if map.len() >= self.capacity {
                return Err(Full(self.capacity));
            }
        }
        map.insert(id.to_owned(), until);
        Ok(true)
    }

    /// Whether `id` is withdrawn at `now`.
    pub fn contains(&self, id: &str, now: f64) -> bool {
        self.map().get(id).is_some_and(|until| *until > now)
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.map().len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a token, by its `jti` or its `fam`, is withdrawn.
    pub(crate) fn holds(&self, claims: &Claims, now: f64) -> bool {
        if self.is_empty() {
            return false;
        }
        [("jti", "jti:"), ("fam", "fam:")]
            .into_iter()
            .any(|(name, prefix)| claims.text(name).is_some_and(|id| self.contains(&format!("{prefix}{id}"), now)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_expired_makes_room_and_nothing_else_does() {
        let revoked = Revoked::new(2);
        assert_eq!(revoked.add("a", 10.0, 0.0), Ok(true));
        assert_eq!(revoked.add("b", 20.0, 0.0), Ok(true));
        assert_eq!(revoked.add("c", 20.0, 5.0), Err(Full(2)));
        assert!(revoked.contains("a", 5.0));
        assert_eq!(revoked.add("c", 20.0, 10.0), Ok(true));
        assert_eq!(revoked.len(), 2);
    }

    #[test]
    fn once_means_once() {
        let revoked = Revoked::new(10);
        let won: Vec<_> = std::thread::scope(|scope| {
            let tries: Vec<_> = (0..8).map(|_| scope.spawn(|| revoked.add("jti:1", 10.0, 0.0))).collect();
            tries.into_iter().map(|one| one.join().unwrap().unwrap()).collect()
        });
        assert_eq!(won.iter().filter(|first| **first).count(), 1);
    }
}
