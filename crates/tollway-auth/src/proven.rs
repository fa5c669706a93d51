//! Signatures that were found to be right.

use std::fmt;

use portable_atomic::{AtomicU128, Ordering};
use ring::hmac;
use ring::rand::SystemRandom;

use crate::Algorithm;

/// How many signatures are remembered, 16 bytes each.
const PLACES: usize = 16_384;
/// A signature may stand in any of so many places, which its tag names.
const WAYS: usize = 4;

/// What the public keys of one set have signed, so that a token that comes again costs a hash and not
/// a signature.
///
/// Nothing but right signatures is remembered, and nothing else of a token: its claims are read, and
/// held against the time and what was revoked, whenever it comes. Other keys begin with an empty one.
/// A signature is known by 128 bits of a keyed hash over all that was verified, whose key never leaves
/// this set; none of it can be read back, and nobody can look for two texts with one hash.
pub(crate) struct Proven {
    key: hmac::Key,
    tags: Box<[AtomicU128]>,
}

/// What a signature is known by; never 0.
#[derive(Clone, Copy)]
pub(crate) struct Tag(u128);

impl Proven {
    /// An empty one; `None` where the system has no random numbers to give.
    pub(crate) fn new() -> Option<Self> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok()?;
        Some(Self { key, tags: (0..PLACES).map(|_| AtomicU128::new(0)).collect() })
    }

    /// The tag of all that a signature is verified with.
    pub(crate) fn tag(&self, algorithm: Algorithm, id: Option<&str>, message: &[u8], signature: &[u8]) -> Tag {
        let mut hash = hmac::Context::with_key(&self.key);
        // Each part behind its length, so that no two sets of parts are one text.
        for part in [algorithm.name().as_bytes(), id.unwrap_or("").as_bytes(), message, signature] {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.update(&[u8::from(id.is_some())]);
        let mut half = [0; 16];
        half.copy_from_slice(&hash.sign().as_ref()[..16]);
        Tag(u128::from_le_bytes(half).max(1))
    }

    /// Whether such a signature was found to be right.
    pub(crate) fn holds(&self, tag: Tag) -> bool {
        self.ways(tag).iter().any(|place| place.load(Ordering::Relaxed) == tag.0)
    }

    /// Remembers a signature that is right, in place of another when there is no room.
    pub(crate) fn add(&self, tag: Tag) {
        let ways = self.ways(tag);
        let free = ways.iter().find(|place| place.load(Ordering::Relaxed) == 0);
        free.unwrap_or(&ways[(tag.0 >> 64) as usize % WAYS]).store(tag.0, Ordering::Relaxed);
    }

    fn ways(&self, tag: Tag) -> &[AtomicU128] {
        let from = tag.0 as usize % (PLACES / WAYS) * WAYS;
        &self.tags[from..from + WAYS]
    }
}

impl fmt::Debug for Proven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proven").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_signature_is_part_of_its_tag() {
        let proven = Proven::new().unwrap();
        let tag = |algorithm, id, message: &str, signature: &str| {
            proven.tag(algorithm, id, message.as_bytes(), signature.as_bytes())
        };
        proven.add(tag(Algorithm::ES256, Some("one"), "message", "signature"));
        assert!(proven.holds(tag(Algorithm::ES256, Some("one"), "message", "signature")));
        for other in [
            tag(Algorithm::ES384, Some("one"), "message", "signature"),
            tag(Algorithm::ES256, Some("two"), "message", "signature"),
            tag(Algorithm::ES256, Some(""), "message", "signature"),
            tag(Algorithm::ES256, None, "message", "signature"),
            tag(Algorithm::ES256, Some("one"), "messages", "ignature"),
            tag(Algorithm::ES256, Some("onem"), "essage", "signature"),
            tag(Algorithm::ES256, Some("one"), "message", "signaturf"),
        ] {
            assert!(!proven.holds(other));
        }
        let elsewhere = Proven::new().unwrap();
        let same = elsewhere.tag(Algorithm::ES256, Some("one"), b"message", b"signature");
        assert!(!elsewhere.holds(same) && !proven.holds(same), "each has a key of its own");
    }

    #[test]
    fn new_ones_take_the_places_of_old_ones() {
        let proven = Proven::new().unwrap();
        for number in 0..10 * PLACES {
            let tag = proven.tag(Algorithm::RS256, None, number.to_string().as_bytes(), b"");
            proven.add(tag);
            assert!(proven.holds(tag));
        }
        let held = proven.tags.iter().filter(|tag| tag.load(Ordering::Relaxed) != 0).count();
        assert!(held <= PLACES && held > PLACES / 2, "{held}");
    }
}
