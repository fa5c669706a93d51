//! API keys, held as hashes.

use std::fmt;
use std::sync::Arc;

use ahash::HashMap;
use arc_swap::ArcSwap;
use subtle::ConstantTimeEq;
use tollway::hash_identity;

/// The longest key that is looked at, in bytes.
const KEY_MAX: usize = 1_024;
/// With what keys are hashed everywhere here, so that one hash is known to limits, rules and the
/// database alike.
const PEPPER: &[u8] = b"tollway";

/// One API key that is good: what stands beside its hash.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ApiKey {
    /// Its hash, as [`hash_identity`](tollway::hash_identity) spells it with the secret `tollway`.
    pub hash: String,
    /// Whom it was given to.
    pub owner: Option<String>,
    /// In which tier it is.
    pub tier: Option<String>,
    /// What it may do.
    pub permissions: Vec<String>,
    /// When it ends, in seconds since 1970.
    pub expires: Option<f64>,
}

/// The keys that are believed. Clear keys are hashed at once and never kept.
///
/// A key that a client shows is hashed before it is looked for, and the hashes are compared in
/// constant time: how long the answer takes says nothing about how nearly a guess was right.
///
/// ```
/// use tollway_auth::{ApiKey, ApiKeys};
///
/// let keys = ApiKeys::new([ApiKeys::from_clear("sk-live-1234567890abcdef")]);
/// assert!(keys.find(b"sk-live-1234567890abcdef", 0.0).is_some());
/// assert!(keys.find(b"sk-live-1234567890abcdeg", 0.0).is_none());
/// ```
pub struct ApiKeys {
    keys: ArcSwap<HashMap<String, Arc<ApiKey>>>,
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKeys({})", self.len())
    }
}

impl ApiKeys {
    /// These keys.
    pub fn new(keys: impl IntoIterator<Item = ApiKey>) -> Self {
        let made = Self { keys: ArcSwap::from_pointee(HashMap::default()) };
        made.replace(keys);
        made
    }

    /// A key with this text, and no more known about it.
    pub fn from_clear(key: &str) -> ApiKey {
        ApiKey { hash: hash_identity(PEPPER, key), ..ApiKey::default() }
    }

    /// Other keys in place of these; requests in flight see the old ones or the new ones.
    pub fn replace(&self, keys: impl IntoIterator<Item = ApiKey>) {
        let map = keys.into_iter().map(|key| (key.hash.clone(), Arc::new(key))).collect();
        self.keys.store(Arc::new(map));
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.keys.load().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The key that was shown, if it is good at `now`, in seconds since 1970.
    pub fn find(&self, shown: &[u8], now: f64) -> Option<Arc<ApiKey>> {
        if shown.is_empty() || shown.len() > KEY_MAX {
            return None;
        }
        let hash = hash_identity(PEPPER, std::str::from_utf8(shown).ok()?);
        let found = Arc::clone(self.keys.load().get(&hash)?);
        let same = bool::from(found.hash.as_bytes().ct_eq(hash.as_bytes()));
        (same && found.expires.is_none_or(|end| now < end)).then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_good_until_it_ends_or_is_replaced() {
        let key = ApiKey { expires: Some(10.0), ..ApiKeys::from_clear("sk-1") };
        let keys = ApiKeys::new([key]);
        assert!(keys.find(b"sk-1", 9.9).is_some());
        assert!(keys.find(b"sk-1", 10.0).is_none());
        keys.replace([ApiKeys::from_clear("sk-2")]);
        assert!(keys.find(b"sk-1", 0.0).is_none() && keys.find(b"sk-2", 0.0).is_some());
    }

    #[test]
    fn no_clear_key_is_kept_or_shown() {
        let keys = ApiKeys::new([ApiKeys::from_clear("sk-live-secret")]);
        let found = keys.find(b"sk-live-secret", 0.0).unwrap();
        assert!(!format!("{keys:?} {found:?}").contains("sk-live"));
        assert_eq!(found.hash.len(), 32);
        // A hash that leaked opens nothing.
        assert!(keys.find(found.hash.as_bytes(), 0.0).is_none());
    }

    #[test]
    fn shapeless_keys_are_no_keys() {
        let keys = ApiKeys::new([ApiKeys::from_clear("")]);
        for shown in [&b""[..], b"\xff\xfe", &[b'a'; 2_000]] {
            assert!(keys.find(shown, 0.0).is_none());
        }
    }
}
