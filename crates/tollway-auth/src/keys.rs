//! Keys that verify tokens, read once.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::signature::{RsaPublicKeyComponents, UnparsedPublicKey};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;
use serde_json::Value;
use spki::SubjectPublicKeyInfoRef;
use spki::der::asn1::UintRef;
use spki::der::{Decode, Reader, SliceReader};
use tollway::ConfigError;

use crate::algorithm::{Algorithm, Family};
use crate::proven::Proven;

/// A shared secret has this many bytes at least, as RFC 7518 asks for HS256.
const SECRET_MIN: usize = 32;
/// Of how many different bytes a secret is made at least.
const DIFFERENT_MIN: usize = 8;
/// A key set has this many keys at most.
const KEYS_MAX: usize = 64;
/// A token that names no key is tried with this many at most.
const TRIES_MAX: usize = 4;
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

const RSA_OID: &str = "1.2.840.113549.1.1.1";
const EC_OID: &str = "1.2.840.10045.2.1";
const P256_OID: &str = "1.2.840.10045.3.1.7";
const P384_OID: &str = "1.3.132.0.34";
const ED25519_OID: &str = "1.3.101.112";

/// The keys that a verifier believes. Secrets are in none of its texts, and have 32 bytes at least.
///
/// ```
/// use tollway_auth::{Algorithm, KeySet};
///
/// let keys = KeySet::secret(b"32 bytes that nobody else knows.", &[Algorithm::HS256])?;
/// assert_eq!(keys.len(), 1);
/// assert!(KeySet::secret(b"short", &[Algorithm::HS256]).is_err());
/// # Ok::<(), tollway::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct KeySet {
    keys: Vec<Key>,
    proven: Option<Arc<Proven>>,
}

/// One key for one algorithm.
#[derive(Clone)]
struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    material: Material,
}

#[derive(Clone)]
enum Material {
    Secret(hmac::Key),
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
    Curve(Vec<u8>),
}

/// A public key before it is tied to an algorithm.
enum Public {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = self.keys.iter().map(|key| (key.algorithm.name(), key.id.as_deref().unwrap_or("-")));
        f.debug_list().entries(named).finish()
    }
}

impl KeySet {
    /// A secret that issuer and server share.
    ///
    /// # Errors
    /// When the secret is weak (see [`KeySet`]), is a public key, or an algorithm takes no secret.
    pub fn secret(secret: &[u8], algorithms: &[Algorithm]) -> Result<Self, ConfigError> {
        Self::secrets(&[secret], algorithms)
    }

    /// Secrets that issuer and server share: the one in use, then those that it took the place of, whose
    /// tokens have not all expired. A token costs a hash for each that is tried.
    ///
    /// # Errors
    /// As [`KeySet::secret`], for each of them, and for more than four.
    pub fn secrets(secrets: &[&[u8]], algorithms: &[Algorithm]) -> Result<Self, ConfigError> {
        if secrets.len() > TRIES_MAX {
            let count = secrets.len();
            return Err(ConfigError::new(format!("{count} secrets are given, and {TRIES_MAX} are the most")));
        }
        let mut keys = Vec::new();
        for secret in secrets {
            check_secret(secret)?;
            for algorithm in algorithms {
                let mac = algorithm.mac().ok_or_else(|| {
                    ConfigError::new(format!(
                        "algorithm {algorithm} takes no secret but {}: give it as public_key",
                        algorithm.family().name()
                    ))
                })?;
                let material = Material::Secret(hmac::Key::new(mac, secret));
                keys.push(Key { id: None, algorithm: *algorithm, material });
            }
        }
        Self::of(keys)
    }

    /// A public key in PEM (`-----BEGIN PUBLIC KEY-----`).
    ///
    /// # Errors
    /// When the text is no such key, is weak, or is none for one of the algorithms.
    pub fn public(pem: &str, algorithms: &[Algorithm]) -> Result<Self, ConfigError> {
        let public = read_pem(pem)?;
        let keys = algorithms.iter().map(|algorithm| public.key(None, *algorithm));
        Self::of(keys.collect::<Result<_, ConfigError>>()?)
    }

    /// The keys of a JSON Web Key Set that fit the algorithms. Keys for other uses are passed over;
    /// secrets among them are never taken.
    ///
    /// # Errors
    /// When the text is no key set, holds a key that cannot be read, or none that fits.
    pub fn jwks(text: &[u8], algorithms: &[Algorithm]) -> Result<Self, ConfigError> {
        let whole: Value = serde_json::from_slice(text)
            .map_err(|error| ConfigError::new(format!("the key set is no JSON: {error}")))?;
        let Some(list) = whole.get("keys").and_then(Value::as_array) else {
            return Err(ConfigError::new("the key set has no list \"keys\""));
        };
        if list.len() > KEYS_MAX {
            return Err(ConfigError::new(format!("the key set has {} keys, at most {KEYS_MAX}", list.len())));
        }
        let mut keys = Vec::new();
        for (position, jwk) in list.iter().enumerate() {
            let named = |error: ConfigError| ConfigError::new(format!("keys[{position}]: {error}"));
            let Some(public) = read_jwk(jwk).map_err(named)? else { continue };
            let id = jwk.get("kid").and_then(Value::as_str).map(str::to_owned);
            let only = jwk.get("alg").and_then(Value::as_str);
            for algorithm in algorithms {
                if public.family() == algorithm.family() && only.is_none_or(|only| only == algorithm.name()) {
                    keys.push(public.key(id.clone(), *algorithm).map_err(named)?);
                }
            }
        }
        if keys.is_empty() {
            let wanted: Vec<_> = algorithms.iter().map(|algorithm| algorithm.name()).collect();
            return Err(ConfigError::new(format!("the key set has no key for {}", wanted.join(", "))));
        }
        Self::of(keys)
    }

    /// No key yet: believes nothing.
    pub fn empty() -> Self {
        Self { keys: Vec::new(), proven: None }
    }

    fn of(keys: Vec<Key>) -> Result<Self, ConfigError> {
        if keys.is_empty() {
            return Err(ConfigError::new("the list of algorithms is empty: name those that you sign with"));
        }
        // A shared secret is a hash already.
        let is_slow = keys.iter().any(|key| !key.algorithm.is_shared());
        Ok(Self { keys, proven: is_slow.then(Proven::new).flatten().map(Arc::new) })
    }

    /// How many keys there are, one for each algorithm that it may be used with.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether some key goes by this id, or by none at all.
    pub(crate) fn knows(&self, id: Option<&str>) -> bool {
        self.keys.iter().any(|key| key.answers(id))
    }

    /// Whether one of the keys made this signature. One that was found right before costs a hash.
    pub(crate) fn verify(&self, algorithm: Algorithm, id: Option<&str>, message: &[u8], signature: &[u8]) -> bool {
        let proven = self.proven.as_ref().filter(|_| !algorithm.is_shared());
        let Some(proven) = proven else { return self.made(algorithm, id, message, signature) };
        let tag = proven.tag(algorithm, id, message, signature);
        if proven.holds(tag) {
            return true;
        }
        let is_right = self.made(algorithm, id, message, signature);
        if is_right {
            proven.add(tag);
        }
        is_right
    }

    fn made(&self, algorithm: Algorithm, id: Option<&str>, message: &[u8], signature: &[u8]) -> bool {
        let fitting = self.keys.iter().filter(|key| key.algorithm == algorithm && key.answers(id));
        fitting.take(TRIES_MAX).any(|key| key.verify(message, signature))
    }
}

impl Key {
    /// A key without an id answers to any; a token that names none may be of any key.
    fn answers(&self, id: Option<&str>) -> bool {
        match (&self.id, id) {
            (Some(own), Some(wanted)) => own == wanted,
            _ => true,
        }
    }

    fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.material {
            Material::Secret(key) => hmac::verify(key, message, signature).is_ok(),
            Material::Rsa(key) => self.algorithm.rsa().is_some_and(|with| key.verify(with, message, signature).is_ok()),
            Material::Curve(point) => self
                .algorithm
                .curve()
                .is_some_and(|with| UnparsedPublicKey::new(with, point).verify(message, signature).is_ok()),
        }
    }
}

impl Public {
    const fn family(&self) -> Family {
        match self {
            Self::Rsa { .. } => Family::Rsa,
            Self::P256(_) => Family::P256,
            Self::P384(_) => Family::P384,
            Self::Ed25519(_) => Family::Ed25519,
        }
    }

    fn key(&self, id: Option<String>, algorithm: Algorithm) -> Result<Key, ConfigError> {
        if self.family() != algorithm.family() {
            let (is, wants) = (self.family().name(), algorithm.family().name());
            return Err(ConfigError::new(format!("the public key is {is}, and algorithm {algorithm} takes {wants}")));
        }
        let material = match self {
            Self::Rsa { n, e } => {
                let bits = n.len() * 8 - n.first().map_or(0, |first| first.leading_zeros() as usize);
                if !RSA_BITS.contains(&bits) {
                    return Err(ConfigError::new(format!("the RSA key has {bits} bits: 2048 to 8192 are taken")));
                }
                Material::Rsa(RsaPublicKeyComponents { n: n.clone(), e: e.clone() })
            }
            Self::P256(point) | Self::P384(point) | Self::Ed25519(point) => Material::Curve(point.clone()),
        };
        Ok(Key { id, algorithm, material })
    }
}

/// Refuses a secret that others may know or guess.
pub(crate) fn check_secret(secret: &[u8]) -> Result<(), ConfigError> {
    const MAKE: &str = "make one with `python -c \"import secrets; print(secrets.token_urlsafe(48))\"`";
    if secret.is_empty() {
        return Err(ConfigError::new(format!("the secret is empty, so anybody could sign with it: {MAKE}")));
    }
    if looks_public(secret) {
        return Err(ConfigError::new(
            "the secret is a public key, so anybody could sign with it: give it as public_key, with an algorithm such \
             as RS256",
        ));
    }
    if secret.len() < SECRET_MIN {
        let length = secret.len();
        return Err(ConfigError::new(format!("the secret has {length} bytes, and {SECRET_MIN} are the least: {MAKE}")));
    }
    let different = secret.iter().collect::<std::collections::BTreeSet<_>>().len();
    if different < DIFFERENT_MIN {
        return Err(ConfigError::new(format!(
            "the secret repeats {different} characters, which is easy to guess: {MAKE}"
        )));
    }
    Ok(())
}

/// Whether a text that is meant as a secret is one that may be known to all.
fn looks_public(secret: &[u8]) -> bool {
    let head = &secret[..secret.len().min(2_048)];
    let text = String::from_utf8_lossy(head);
    ["-----BEGIN", "ssh-rsa", "ssh-ed25519", "ecdsa-sha2-"].iter().any(|mark| text.contains(mark))
        || text.contains("\"kty\"")
}

fn read_pem(pem: &str) -> Result<Public, ConfigError> {
    if pem.contains("PRIVATE KEY-----") {
        return Err(ConfigError::new(
            "public_key is a private key: whoever verifies needs the public one only \
             (openssl pkey -in private.pem -pubout)",
        ));
    }
    let der = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()).map_err(|_| {
        ConfigError::new(
            "public_key is no PEM with `-----BEGIN PUBLIC KEY-----` (openssl pkey -pubin -pubout makes it)",
        )
    })?;
    let unreadable = || ConfigError::new("public_key is in PEM, but holds no key that can be read");
    let info = SubjectPublicKeyInfoRef::try_from(der.as_ref()).map_err(|_| unreadable())?;
    let bits = info.subject_public_key.as_bytes().ok_or_else(unreadable)?;
    match info.algorithm.oid.to_string().as_str() {
        RSA_OID => read_rsa(bits).ok_or_else(unreadable),
        EC_OID => {
            let curve = info.algorithm.parameters_oid().map_err(|_| unreadable())?;
            match curve.to_string().as_str() {
                P256_OID => point(bits, 65).map(Public::P256).ok_or_else(unreadable),
                P384_OID => point(bits, 97).map(Public::P384).ok_or_else(unreadable),
                _ => Err(ConfigError::new("public_key is an EC key on another curve than P-256 and P-384")),
            }
        }
        ED25519_OID if bits.len() == 32 => Ok(Public::Ed25519(bits.to_vec())),
        _ => Err(ConfigError::new("public_key is neither RSA nor EC nor Ed25519")),
    }
}

fn read_rsa(der: &[u8]) -> Option<Public> {
    let mut reader = SliceReader::new(der).ok()?;
    reader
        .sequence(|inside| {
            let (n, e) = (UintRef::decode(inside)?, UintRef::decode(inside)?);
            Ok::<_, spki::der::Error>(Public::Rsa { n: n.as_bytes().to_vec(), e: e.as_bytes().to_vec() })
        })
        .ok()
}

/// An uncompressed point of that many bytes.
fn point(bytes: &[u8], length: usize) -> Option<Vec<u8>> {
    (bytes.len() == length && bytes[0] == 4).then(|| bytes.to_vec())
}

/// The public key of a JSON Web Key; none when it is for another use, or of a kind not known here.
fn read_jwk(jwk: &Value) -> Result<Option<Public>, ConfigError> {
    let text = |name: &str| jwk.get(name).and_then(Value::as_str);
    if text("use").is_some_and(|purpose| purpose != "sig") {
        return Ok(None);
    }
    let bytes = |name: &str| {
        text(name)
            .and_then(|value| URL_SAFE_NO_PAD.decode(value).ok())
            .filter(|value| !value.is_empty())
            .ok_or_else(|| ConfigError::new(format!("{name:?} is missing or no base64url")))
    };
    let on_curve = |length: usize| -> Result<Vec<u8>, ConfigError> {
        let (x, y) = (bytes("x")?, bytes("y")?);
        if x.len() != length || y.len() != length {
            return Err(ConfigError::new("\"x\" and \"y\" are not as long as the curve's numbers"));
        }
        Ok([&[4], x.as_slice(), y.as_slice()].concat())
    };
    Ok(match (text("kty"), text("crv")) {
        (Some("RSA"), _) => {
            let number = |name| bytes(name).map(|value| value.into_iter().skip_while(|byte| *byte == 0).collect());
            Some(Public::Rsa { n: number("n")?, e: number("e")? })
        }
        (Some("EC"), Some("P-256")) => Some(Public::P256(on_curve(32)?)),
        (Some("EC"), Some("P-384")) => Some(Public::P384(on_curve(48)?)),
        (Some("OKP"), Some("Ed25519")) => Some(Public::Ed25519(bytes("x")?)),
        (Some(_), _) => None,
        (None, _) => return Err(ConfigError::new("\"kty\" is missing")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_others_know_is_refused() {
        for (secret, part) in [
            (&b""[..], "is empty"),
            (b"0123456789abcde", "has 15 bytes"),
            (b"abababababababababababababababababab", "repeats 2 characters"),
            (b"-----BEGIN PUBLIC KEY-----\nMIIB", "is a public key"),
            (b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5", "is a public key"),
            (br#"{"kty": "RSA", "n": "abc"}"#, "is a public key"),
        ] {
            let error = KeySet::secret(secret, &[Algorithm::HS256]).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        let error = KeySet::secret(b"32 bytes that nobody else knows.", &[Algorithm::RS256]).unwrap_err().to_string();
        assert!(error.contains("takes no secret but an RSA key"), "{error}");
        assert!(KeySet::secret(b"32 bytes that nobody else knows.", &[]).is_err());
    }

    #[test]
    fn secrets_can_be_turned() {
        let secrets: [&[u8]; 2] = [b"32 bytes that nobody else knows.", b"the 32 bytes that were there before"];
        let keys = KeySet::secrets(&secrets, &[Algorithm::HS256]).unwrap();
        for secret in secrets {
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), b"text");
            assert!(keys.verify(Algorithm::HS256, None, b"text", tag.as_ref()));
        }
        let weak: [&[u8]; 2] = [secrets[0], b"short"];
        assert!(KeySet::secrets(&weak, &[Algorithm::HS256]).is_err());
        assert!(KeySet::secrets(&[secrets[0]; 5], &[Algorithm::HS256]).is_err());
    }

    #[test]
    fn nothing_of_a_key_is_shown() {
        let keys = KeySet::secret(b"32 bytes that nobody else knows.", &[Algorithm::HS256]).unwrap();
        assert_eq!(format!("{keys:?}"), r#"[("HS256", "-")]"#);
    }

    #[test]
    fn a_key_set_says_what_is_wrong() {
        let read = |text: &str| KeySet::jwks(text.as_bytes(), &[Algorithm::RS256]).unwrap_err().to_string();
        assert!(read("nope").contains("is no JSON"));
        assert!(read("{}").contains("no list"));
        assert!(read(r#"{"keys": []}"#).contains("no key for RS256"));
        assert!(read(r#"{"keys": [{"kty": "oct", "k": "AAAA"}]}"#).contains("no key for RS256"));
        assert!(read(r#"{"keys": [{"kty": "RSA", "n": "!", "e": "AQAB"}]}"#).contains("keys[0]: \"n\""));
        assert!(read(r#"{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}"#).contains("17 bits"));
        let many = format!(r#"{{"keys": [{}]}}"#, vec!["{}"; 65].join(","));
        assert!(read(&many).contains("at most 64"));
    }

    #[test]
    fn a_private_key_is_not_wanted() {
        let error = KeySet::public("-----BEGIN PRIVATE KEY-----", &[Algorithm::RS256]).unwrap_err();
        assert!(error.to_string().contains("is a private key"));
    }
}
