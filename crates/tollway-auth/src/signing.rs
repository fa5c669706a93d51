//! Making tokens.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, RSA_PKCS1_SHA256,
    RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::json;
use tollway::ConfigError;

use crate::Algorithm;
use crate::algorithm::Family;
use crate::keys::check_secret;

/// Signs tokens. Read once; shown in no text.
///
/// ```
/// use tollway_auth::{Algorithm, SigningKey};
///
/// let key = SigningKey::secret(b"32 bytes that nobody else knows.", Algorithm::HS256)?;
/// assert_eq!(key.sign(b"{}")?.split('.').count(), 3);
/// # Ok::<(), tollway::ConfigError>(())
/// ```
pub struct SigningKey {
    algorithm: Algorithm,
    header: String,
    material: Material,
    random: SystemRandom,
}

enum Material {
    Secret(hmac::Key),
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

impl SigningKey {
    /// A secret that issuer and server share.
    ///
    /// # Errors
    /// When the secret is weak, or the algorithm takes none.
    pub fn secret(secret: &[u8], algorithm: Algorithm) -> Result<Self, ConfigError> {
        check_secret(secret)?;
        let mac = algorithm.mac().ok_or_else(|| {
            ConfigError::new(format!("algorithm {algorithm} signs with {}, in PEM", algorithm.family().name()))
        })?;
        Ok(Self::of(algorithm, Material::Secret(hmac::Key::new(mac, secret))))
    }

    /// A private key in PEM (`-----BEGIN PRIVATE KEY-----`, PKCS #8).
    ///
    /// # Errors
    /// When the text is no such key, or none for the algorithm.
    pub fn private(pem: &str, algorithm: Algorithm) -> Result<Self, ConfigError> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| {
            ConfigError::new(
                "the signing key is no PEM with `-----BEGIN PRIVATE KEY-----` (openssl pkcs8 -topk8 -nocrypt makes it)",
            )
        })?;
        let der = der.secret_pkcs8_der();
        let random = SystemRandom::new();
        let wrong = |_| ConfigError::new(format!("the signing key is not {}", algorithm.family().name()));
        let material = match algorithm.family() {
            Family::Secret => {
                return Err(ConfigError::new(format!("algorithm {algorithm} signs with a secret, not a private key")));
            }
            Family::Rsa => Material::Rsa(RsaKeyPair::from_pkcs8(der).map_err(wrong)?, rsa_encoding(algorithm)),
            Family::P256 => {
                Material::Ec(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &random).map_err(wrong)?)
            }
            Family::P384 => {
                Material::Ec(EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, der, &random).map_err(wrong)?)
            }
            Family::Ed25519 => Material::Ed(Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map_err(wrong)?),
        };
        Ok(Self::of(algorithm, material))
    }

    fn of(algorithm: Algorithm, material: Material) -> Self {
        let header = encoded_header(algorithm, None);
        Self { algorithm, header, material, random: SystemRandom::new() }
    }

    /// The same key, naming itself in the tokens.
    #[must_use]
    pub fn with_id(mut self, id: &str) -> Self {
        self.header = encoded_header(self.algorithm, Some(id));
        self
    }

    /// A token with these claims, which are a JSON object.
    ///
    /// # Errors
    /// When the system has no random numbers, which some algorithms need.
    pub fn sign(&self, claims: &[u8]) -> Result<String, ConfigError> {
        let mut token = format!("{}.{}", self.header, URL_SAFE_NO_PAD.encode(claims));
        let message = token.as_bytes();
        let failed = |_| ConfigError::new("the token could not be signed: the system gives no random numbers");
        let signature = match &self.material {
            Material::Secret(key) => hmac::sign(key, message).as_ref().to_vec(),
            Material::Rsa(key, encoding) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(*encoding, &self.random, message, &mut signature).map_err(failed)?;
                signature
            }
            Material::Ec(key) => key.sign(&self.random, message).map_err(failed)?.as_ref().to_vec(),
            Material::Ed(key) => key.sign(message).as_ref().to_vec(),
        };
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }
}

fn encoded_header(algorithm: Algorithm, id: Option<&str>) -> String {
    let mut header = json!({"alg": algorithm.name(), "typ": "JWT"});
    if let Some(id) = id {
        header["kid"] = json!(id);
    }
    URL_SAFE_NO_PAD.encode(header.to_string())
}

fn rsa_encoding(algorithm: Algorithm) -> &'static dyn RsaEncoding {
    match algorithm {
        Algorithm::RS384 => &RSA_PKCS1_SHA384,
        Algorithm::RS512 => &RSA_PKCS1_SHA512,
        Algorithm::PS256 => &RSA_PSS_SHA256,
        Algorithm::PS384 => &RSA_PSS_SHA384,
        Algorithm::PS512 => &RSA_PSS_SHA512,
        _ => &RSA_PKCS1_SHA256,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_cannot_sign_are_refused() {
        let said = |made: Result<SigningKey, ConfigError>| made.unwrap_err().to_string();
        assert!(said(SigningKey::secret(b"short", Algorithm::HS256)).contains("has 5 bytes"));
        assert!(said(SigningKey::secret(&[7; 40], Algorithm::HS256)).contains("repeats 1 characters"));
        let secret = b"32 bytes that nobody else knows.";
        assert!(said(SigningKey::secret(secret, Algorithm::RS256)).contains("signs with an RSA key"));
        assert!(said(SigningKey::private("nothing", Algorithm::RS256)).contains("is no PEM"));
        let key = SigningKey::secret(secret, Algorithm::HS256).unwrap();
        assert_eq!(format!("{key:?}"), "SigningKey { algorithm: HS256, .. }");
    }
}
