//! How keys are spelled in a shared store.

use std::fmt::Write;

use blake2::digest::consts::U16;
use blake2::digest::{KeyInit, Mac};

/// Identities longer than this are stored as a hash.
const MAX_IDENTITY: usize = 96;

/// `{prefix}:{policy}:{identity}` with the identity as the hash tag.
///
/// All limits of one client share a Redis Cluster slot, and clients spread over all slots. What
/// could be mistaken for structure is percent-escaped; long identities are hashed.
///
/// ```
/// use tollway_core::store_key;
///
/// assert_eq!(store_key("tollway", "login", "203.0.113.7"), "tollway:login:{203.0.113.7}");
/// assert_eq!(store_key("tollway", "login", "a}b"), "tollway:login:{a%7Db}");
/// ```
pub fn store_key(prefix: &str, policy: &str, identity: &str) -> String {
    let mut key = String::with_capacity(prefix.len() + policy.len() + identity.len() + 4);
    key.push_str(prefix);
    key.push(':');
    key.push_str(policy);
    key.push_str(":{");
    if identity.is_empty() {
        // An empty hash tag would make the whole key the tag.
        key.push('%');
    } else if identity.len() > MAX_IDENTITY {
        key.push('#');
        key.push_str(&hash_identity(&[], identity));
    } else {
        for byte in identity.bytes() {
            if byte.is_ascii_graphic() && !matches!(byte, b'{' | b'}' | b'%' | b'#') {
                key.push(byte as char);
            } else {
                let _ = write!(key, "%{byte:02X}");
            }
        }
    }
    key.push('}');
    key
}

/// What the keys of all identities begin with that begin with `beginning`; an empty one is all of them.
///
/// `None` when it is longer than what is stored in clear: then such keys are hashes, which nothing
/// finds. For the same reason a shorter one finds no identity that is itself too long, but the empty
/// one does.
///
/// ```
/// use tollway_core::store_key_start;
///
/// assert_eq!(store_key_start("tollway", "login", "org 1:").unwrap(), "tollway:login:{org%201:");
/// assert_eq!(store_key_start("tollway", "login", "").unwrap(), "tollway:login:{");
/// assert_eq!(store_key_start("tollway", "login", &"x".repeat(97)), None);
/// ```
pub fn store_key_start(prefix: &str, policy: &str, beginning: &str) -> Option<String> {
    if beginning.len() > MAX_IDENTITY {
        return None;
    }
    let mut key = store_key(prefix, policy, beginning);
    // Without the closing brace, and of the empty identity without the sign that stands for it.
    key.truncate(key.len() - if beginning.is_empty() { 2 } else { 1 });
    Some(key)
}

/// A 128-bit keyed hash of a long or secret identity, as 32 hexadecimal digits.
///
/// `secret` may be empty; longer than 32 bytes is cut. Use it for API keys, so that they are
/// neither stored nor logged in clear.
pub fn hash_identity(secret: &[u8], identity: &str) -> String {
    let secret = &secret[..secret.len().min(32)];
    let mut mac = <blake2::Blake2sMac<U16> as KeyInit>::new_from_slice(secret).expect("at most 32 bytes of key");
    mac.update(identity.as_bytes());
    mac.finalize().into_bytes().iter().fold(String::with_capacity(32), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_that_look_like_structure_cannot_meet() {
        let long = "x".repeat(200);
        let identities = ["a", "a}", "{a", "a%7D", "", "%", "#", " ", "é", &long];
        let keys: std::collections::HashSet<_> = identities.iter().map(|i| store_key("p", "q", i)).collect();
        assert_eq!(keys.len(), identities.len());
        for key in keys {
            assert_eq!(key.matches('{').count(), 1);
            assert!(key.ends_with('}') && !key.contains("{}"));
        }
    }

    #[test]
    fn a_hash_depends_on_the_secret() {
        assert_ne!(hash_identity(b"one", "k"), hash_identity(b"two", "k"));
        assert_eq!(hash_identity(b"one", "k").len(), 32);
    }
}
