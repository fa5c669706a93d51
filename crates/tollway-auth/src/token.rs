//! JSON Web Tokens in their compact form (RFC 7515, 7519).

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::{Algorithm, Claims, KeySet, Rejection, Revoked, Rules};

/// The longest token that is looked at, in bytes.
pub const TOKEN_MAX: usize = 16_384;

/// Believes tokens, or does not. What a token says of its own algorithm decides nothing: the server's
/// list does.
///
/// ```
/// use tollway_auth::{Algorithm, KeySet, Rejection, Rules, SigningKey, Verifier};
///
/// let secret = b"32 bytes that nobody else knows.";
/// let signing = SigningKey::secret(secret, Algorithm::HS256)?;
/// let token = signing.sign(br#"{"sub": "ada", "exp": 2000000000}"#)?;
///
/// let verifier = Verifier::new(vec![Algorithm::HS256], KeySet::secret(secret, &[Algorithm::HS256])?, Rules::default());
/// let claims = verifier.verify(token.as_bytes(), 1_900_000_000.0).map_err(Rejection::detail);
/// assert_eq!(claims.unwrap().text("sub").as_deref(), Some("ada"));
/// assert_eq!(verifier.verify(token.as_bytes(), 2_000_000_060.0), Err(Rejection::Expired));
/// # Ok::<(), tollway::ConfigError>(())
/// ```
#[derive(Debug)]
pub struct Verifier {
    algorithms: Vec<Algorithm>,
    keys: ArcSwap<KeySet>,
    rules: Rules,
    revoked: Option<Arc<Revoked>>,
    wants_keys: AtomicBool,
}

/// The header, as far as it is believed. Members that appear twice are an error.
#[derive(Deserialize)]
struct Header<'a> {
    #[serde(borrow)]
    alg: Cow<'a, str>,
    #[serde(borrow, default)]
    kid: Option<Cow<'a, str>>,
    #[serde(default)]
    crit: Option<IgnoredAny>,
    #[serde(default)]
    b64: Option<IgnoredAny>,
}

impl Verifier {
    /// A verifier that accepts these algorithms, keys and claims.
    pub fn new(algorithms: Vec<Algorithm>, keys: KeySet, rules: Rules) -> Self {
        Self { algorithms, keys: ArcSwap::from_pointee(keys), rules, revoked: None, wants_keys: AtomicBool::new(false) }
    }

    /// The same verifier, which does not believe what was revoked.
    #[must_use]
    pub fn with_revoked(mut self, revoked: Arc<Revoked>) -> Self {
        self.revoked = Some(revoked);
        self
    }

    /// The algorithms that are accepted.
    pub fn algorithms(&self) -> &[Algorithm] {
        &self.algorithms
    }

    /// Puts other keys in place; requests in flight see the old ones or the new ones.
    pub fn replace_keys(&self, keys: KeySet) {
        self.keys.store(Arc::new(keys));
    }

    /// Whether a token named a key that is not known, since this was asked last: the issuer may have
    /// new keys.
    pub fn take_want(&self) -> bool {
        self.wants_keys.swap(false, Ordering::Relaxed)
    }

    /// The claims of a token that is to be believed at `now`, in seconds since 1970.
    ///
    /// Costs one signature and the reading of the claims: 2.5 µs with HS256 and ten claims, 24 with RS256, 52 with
    /// EdDSA, 59 with ES256, more than a millisecond with ES384. A signature by a private key that was right
    /// before, with the keys that are in use, costs a hash: 3 µs then. All else is looked at each time.
    ///
    /// # Errors
    /// The first thing that is wrong with it. Nothing is read of claims whose signature is wrong.
    pub fn verify(&self, token: &[u8], now: f64) -> Result<Claims, Rejection> {
        if token.len() > TOKEN_MAX {
            return Err(Rejection::TooLong);
        }
        let (message, signature) = split(token).ok_or(Rejection::Malformed)?;
        let (header, payload) = split(message).ok_or(Rejection::Malformed)?;
        if header.contains(&b'.') {
            return Err(Rejection::Malformed);
        }
        let (algorithm, id) = self.read_header(header)?;
        let signature = decoded(signature)?;
        let keys = self.keys.load();
        if !keys.verify(algorithm, id.as_deref(), message, &signature) {
            if keys.knows(id.as_deref()) {
                return Err(Rejection::Signature);
            }
            self.wants_keys.store(true, Ordering::Relaxed);
            return Err(Rejection::UnknownKey);
        }
        let claims: Claims = serde_json::from_slice(&decoded(payload)?).map_err(|_| Rejection::Malformed)?;
        claims.check(&self.rules, now)?;
        match &self.revoked {
            Some(revoked) if revoked.holds(&claims, now) => Err(Rejection::Revoked),
            _ => Ok(claims),
        }
    }

    fn read_header(&self, encoded: &[u8]) -> Result<(Algorithm, Option<String>), Rejection> {
        let bytes = decoded(encoded)?;
        let header: Header<'_> = serde_json::from_slice(&bytes).map_err(|_| Rejection::Malformed)?;
        // Extensions that must be understood, and are not.
        if header.crit.is_some() || header.b64.is_some() {
            return Err(Rejection::Malformed);
        }
        let accepted = self.algorithms.iter().find(|one| one.name() == header.alg).ok_or(Rejection::Algorithm)?;
        Ok((*accepted, header.kid.map(Cow::into_owned)))
    }
}

/// What stands before and behind the last dot.
fn split(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let dot = text.iter().rposition(|byte| *byte == b'.')?;
    Some((&text[..dot], &text[dot + 1..]))
}

fn decoded(text: &[u8]) -> Result<Vec<u8>, Rejection> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| Rejection::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SigningKey;
    use base64::engine::general_purpose::STANDARD;
    use ring::rand::SystemRandom;
    use ring::signature::{Ed25519KeyPair, KeyPair};

    const SECRET: &[u8] = b"32 bytes that nobody else knows.";
    const CLAIMS: &[u8] = br#"{"sub":"ada","exp":100}"#;

    fn verifier() -> Verifier {
        let algorithms = vec![Algorithm::HS256];
        Verifier::new(algorithms.clone(), KeySet::secret(SECRET, &algorithms).unwrap(), Rules::default())
    }

    fn token(claims: &[u8]) -> String {
        SigningKey::secret(SECRET, Algorithm::HS256).unwrap().sign(claims).unwrap()
    }

    /// A token with a header of one's own, signed with the secret.
    fn with_header(header: &str, claims: &[u8]) -> String {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET);
        let tag = ring::hmac::sign(&key, message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()))
    }

    #[test]
    fn a_good_token_is_believed() {
        let claims = verifier().verify(token(CLAIMS).as_bytes(), 0.0).unwrap();
        assert_eq!(claims.text("sub").as_deref(), Some("ada"));
    }

    /// A key pair made for this test.
    fn ed25519() -> (SigningKey, KeySet) {
        let der = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(der.as_ref()).unwrap();
        let text = STANDARD.encode(der.as_ref());
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n");
        let x = URL_SAFE_NO_PAD.encode(pair.public_key());
        let jwks = format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","x":"{x}"}}]}}"#);
        let keys = KeySet::jwks(jwks.as_bytes(), &[Algorithm::EdDSA]).unwrap();
        (SigningKey::private(&pem, Algorithm::EdDSA).unwrap(), keys)
    }

    #[test]
    fn a_token_that_comes_again_is_held_against_all_but_its_signature() {
        let (signing, keys) = ed25519();
        let revoked = Arc::new(Revoked::new(10));
        let verifier = Verifier::new(vec![Algorithm::EdDSA], keys, Rules::default()).with_revoked(revoked.clone());
        let (good, other) = (signing.sign(CLAIMS).unwrap(), signing.sign(br#"{"sub":"eve","exp":100}"#).unwrap());
        let at = |token: &str, now| {
            verifier.verify(token.as_bytes(), now).map(|claims| claims.text("sub").unwrap().into_owned())
        };
        for _ in 0..3 {
            assert_eq!(at(&good, 0.0).as_deref(), Ok("ada"));
        }
        assert_eq!(at(&good, 1_000.0), Err(Rejection::Expired));
        let forged = format!("{}.{}", good.rsplit_once('.').unwrap().0, other.rsplit_once('.').unwrap().1);
        for _ in 0..3 {
            assert_eq!(at(&forged, 0.0), Err(Rejection::Signature), "no wrong signature becomes a right one");
        }
        let named = signing.sign(br#"{"sub":"ada","exp":100,"jti":"7"}"#).unwrap();
        assert_eq!(at(&named, 0.0).as_deref(), Ok("ada"));
        revoked.add("jti:7", 100.0, 0.0).unwrap();
        assert_eq!(at(&named, 0.0), Err(Rejection::Revoked));
        verifier.replace_keys(ed25519().1);
        assert_eq!(at(&good, 0.0), Err(Rejection::Signature), "what other keys signed is forgotten with them");
    }

    #[test]
    fn no_byte_of_a_token_can_be_changed() {
        let (signing, keys) = ed25519();
        let by_key = Verifier::new(vec![Algorithm::EdDSA], keys, Rules::default());
        for (verifier, good) in [(verifier(), token(CLAIMS)), (by_key, signing.sign(CLAIMS).unwrap())] {
            assert!(verifier.verify(good.as_bytes(), 0.0).is_ok());
            no_byte_can_be_changed(&verifier, &good);
        }
    }

    fn no_byte_can_be_changed(verifier: &Verifier, good: &str) {
        for at in 0..good.len() {
            for other in [b'A', b'Q', b'_', b'.', b'=', b' ', 0, 0xff] {
                let mut bad = good.as_bytes().to_vec();
                if bad[at] == other {
                    continue;
                }
                bad[at] = other;
                assert!(verifier.verify(&bad, 0.0).is_err(), "byte {at} as {other}");
            }
            assert!(verifier.verify(&good.as_bytes()[..at], 0.0).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn what_a_header_asks_for_decides_nothing() {
        let verify = |header: &str| verifier().verify(with_header(header, CLAIMS).as_bytes(), 0.0);
        assert!(verify(r#"{"alg":"HS256"}"#).is_ok());
        assert!(verify(r#"{"alg":"HS256","typ":7,"x5c":["a"],"kid":null}"#).is_ok());
        for (header, why) in [
            (r#"{"alg":"none"}"#, Rejection::Algorithm),
            (r#"{"alg":"NONE"}"#, Rejection::Algorithm),
            (r#"{"alg":"HS512"}"#, Rejection::Algorithm),
            (r#"{"alg":"RS256"}"#, Rejection::Algorithm),
            (r#"{"alg":null}"#, Rejection::Malformed),
            (r#"{"alg":["HS256"]}"#, Rejection::Malformed),
            (r#"{"typ":"JWT"}"#, Rejection::Malformed),
            (r#"{"alg":"none","alg":"HS256"}"#, Rejection::Malformed),
            (r#"{"alg":"HS256","crit":["exp"]}"#, Rejection::Malformed),
            (r#"{"alg":"HS256","b64":false}"#, Rejection::Malformed),
            (r#"{"alg":"HS256","kid":7}"#, Rejection::Malformed),
            ("[]", Rejection::Malformed),
            ("", Rejection::Malformed),
        ] {
            assert_eq!(verify(header), Err(why), "{header}");
        }
    }

    #[test]
    fn claims_that_are_no_object_say_nothing() {
        for claims in [
            &b"[]"[..],
            b"7",
            b"null",
            b"",
            b"{",
            b"\xff\xfe",
            b"{\"exp\":1e999}",
            br#"{"sub":"eve","exp":100,"sub":"ada"}"#,
        ] {
            assert_eq!(verifier().verify(token(claims).as_bytes(), 0.0), Err(Rejection::Malformed), "{claims:?}");
        }
        let deep = [vec![b'['; 1_000], vec![b']'; 1_000]].concat();
        assert_eq!(verifier().verify(token(&deep).as_bytes(), 0.0), Err(Rejection::Malformed));
    }

    #[test]
    fn long_and_shapeless_texts_are_refused() {
        let verifier = verifier();
        assert_eq!(verifier.verify(&vec![b'a'; 100_000], 0.0), Err(Rejection::TooLong));
        for text in ["", ".", "..", "...", "a.b", "a.b.c.d", "a.b.c", "....."] {
            assert!(verifier.verify(text.as_bytes(), 0.0).is_err(), "{text}");
        }
        let padded = token(CLAIMS) + "=";
        assert_eq!(verifier.verify(padded.as_bytes(), 0.0), Err(Rejection::Malformed));
    }

    #[test]
    fn an_unknown_key_asks_for_new_ones() {
        let jwks = br#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"one","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
        let algorithms = vec![Algorithm::EdDSA];
        let verifier = Verifier::new(algorithms.clone(), KeySet::jwks(jwks, &algorithms).unwrap(), Rules::default());
        assert!(!verifier.take_want());
        let known = with_header(r#"{"alg":"EdDSA","kid":"one"}"#, CLAIMS);
        assert_eq!(verifier.verify(known.as_bytes(), 0.0), Err(Rejection::Signature));
        assert!(!verifier.take_want());
        let unknown = with_header(r#"{"alg":"EdDSA","kid":"two"}"#, CLAIMS);
        assert_eq!(verifier.verify(unknown.as_bytes(), 0.0), Err(Rejection::UnknownKey));
        assert!(verifier.take_want() && !verifier.take_want());
    }
}
