//! What believing a token costs: `tollway-auth` against `jsonwebtoken`.
//!
//! Prints one JSON object: for each algorithm, nanoseconds of processor time a token, one number a
//! round, for tokens that come for the first time and, ours only, for tokens that come again.
//! `tokens ROUNDS TOKENS`.

use std::collections::HashMap;
use std::hint::black_box;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{DecodingKey, Validation};
use serde_json::Value;
use tollway_auth::{Algorithm, KeySet, Rules, SigningKey, Verifier};
use tollway_bench::spent;

const SECRET: &[u8] = b"a secret of the bench, and of nobody else";

/// A way to sign, and both libraries' keys for it.
struct Case {
    signing: SigningKey,
    keys: Box<dyn Fn() -> KeySet>,
    algorithm: Algorithm,
    theirs: (jsonwebtoken::Algorithm, DecodingKey),
}

fn pem(what: &str, der: &[u8]) -> String {
    format!("-----BEGIN {what} KEY-----\n{}\n-----END {what} KEY-----\n", STANDARD.encode(der))
}

fn case(
    algorithm: Algorithm,
    private: &[u8],
    public: &[u8],
    theirs: jsonwebtoken::Algorithm,
    read: fn(&[u8]) -> jsonwebtoken::errors::Result<DecodingKey>,
) -> Case {
    let public = pem("PUBLIC", public);
    let decoding = read(public.as_bytes()).expect("a key that reads");
    Case {
        signing: SigningKey::private(&pem("PRIVATE", private), algorithm).expect("a key that reads"),
        keys: Box::new(move || KeySet::public(&public, &[algorithm]).expect("a key that reads")),
        algorithm,
        theirs: (theirs, decoding),
    }
}

fn public<K: KeyPair>(pair: &K) -> Vec<u8>
where
    K::PublicKey: AsDer<PublicKeyX509Der<'static>>,
{
    pair.public_key().as_der().expect("a public key").as_ref().to_vec()
}

fn cases() -> Vec<Case> {
    let random = SystemRandom::new();
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
    let rsa_der = AsDer::<aws_lc_rs::encoding::Pkcs8V1Der>::as_der(&rsa).expect("a key");
    let ec_der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
    let ec = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, ec_der.as_ref()).expect("a key");
    let ed_der = Ed25519KeyPair::generate_pkcs8(&random).expect("a key");
    let ed = Ed25519KeyPair::from_pkcs8(ed_der.as_ref()).expect("a key");
    vec![
        Case {
            signing: SigningKey::secret(SECRET, Algorithm::HS256).expect("a secret"),
            keys: Box::new(|| KeySet::secret(SECRET, &[Algorithm::HS256]).expect("a secret")),
            algorithm: Algorithm::HS256,
            theirs: (jsonwebtoken::Algorithm::HS256, DecodingKey::from_secret(SECRET)),
        },
        case(
            Algorithm::RS256,
            rsa_der.as_ref(),
            &public(&rsa),
            jsonwebtoken::Algorithm::RS256,
            DecodingKey::from_rsa_pem,
        ),
        case(Algorithm::ES256, ec_der.as_ref(), &public(&ec), jsonwebtoken::Algorithm::ES256, DecodingKey::from_ec_pem),
        case(Algorithm::EdDSA, ed_der.as_ref(), &public(&ed), jsonwebtoken::Algorithm::EdDSA, DecodingKey::from_ed_pem),
    ]
}

/// Tokens with ten claims, as an identity provider writes them.
fn tokens(signing: &SigningKey, count: usize, now: u64) -> Vec<String> {
    let token = |number: usize| {
        let claims = format!(
            r#"{{"iss":"https://id.example.com/","sub":"user-{number}","aud":"shop","iat":{now},"nbf":{now},"exp":{},"jti":"{number:016x}","scope":"read write","org":"acme","tier":"gold"}}"#,
            now + 3_600,
        );
        signing.sign(claims.as_bytes()).expect("a token")
    };
    (0..count).map(token).collect()
}

/// Nanoseconds a token.
fn timed(tokens: &[String], mut believe: impl FnMut(&str)) -> f64 {
    let began = spent();
    tokens.iter().for_each(|token| believe(token));
    (spent() - began).as_nanos() as f64 / tokens.len() as f64
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<usize>().expect("a whole number"));
    let rounds = arguments.next().unwrap_or(5);
    let count = arguments.next().unwrap_or(2_000);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let mut rows = Vec::new();
    for Case { signing, keys, algorithm, theirs } in cases() {
        let tokens = tokens(&signing, count, now);
        let mut validation = Validation::new(theirs.0);
        validation.set_audience(&["shop"]);
        let mut found = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..rounds {
            // Keys of its own each round: none has seen a token.
            let rules = Rules { audience: vec!["shop".to_owned()], ..Rules::default() };
            let verifier = Verifier::new(vec![algorithm], keys(), rules);
            let ours = |token: &str| {
                black_box(verifier.verify(token.as_bytes(), now as f64).expect("a good token"));
            };
            found[0].push(timed(&tokens, ours));
            found[1].push(timed(&tokens, ours));
            found[2].push(timed(&tokens, |token| {
                let claims = jsonwebtoken::decode::<HashMap<String, Value>>(token, &theirs.1, &validation);
                black_box(claims.expect("a good token"));
            }));
        }
        let [first, again, theirs] = &found;
        rows.push(format!(
            "{:?}: {{\"first\": {first:?}, \"again\": {again:?}, \"jsonwebtoken\": {theirs:?}}}",
            algorithm.name()
        ));
    }
    println!("{{{}}}", rows.join(", "));
}
