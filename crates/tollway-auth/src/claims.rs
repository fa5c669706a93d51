//! What a token says, and when that counts.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::{Map, Value};

/// What a token must say to be believed.
#[derive(Clone, Debug)]
pub struct Rules {
    /// `aud` must name one of these; empty: it is not looked at.
    pub audience: Vec<String>,
    /// `iss` must be one of these; empty: it is not looked at.
    pub issuer: Vec<String>,
    /// By how many seconds the clocks of issuer and server may differ.
    pub leeway: f64,
    /// `typ` must be this; without it any but `refresh` will do.
    pub token_type: Option<String>,
    /// Whether a `jti` must be there, so that the token can be revoked.
    pub needs_id: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self { audience: Vec::new(), issuer: Vec::new(), leeway: 60.0, token_type: None, needs_id: false }
    }
}

/// Why a token is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// There are two of them, and nobody knows which one is meant.
    Ambiguous,
    /// It is longer than a token may be.
    TooLong,
    /// It is no token, or its parts do not read.
    Malformed,
    /// It is signed by an algorithm that is not accepted here.
    Algorithm,
    /// It names a key that is not known here.
    UnknownKey,
    /// The signature is not by the key.
    Signature,
    /// Its time is over.
    Expired,
    /// Its time has not come.
    NotYet,
    /// It is for somebody else.
    Audience,
    /// It is by somebody else.
    Issuer,
    /// It is a token for another purpose, for example a refresh token.
    Type,
    /// A claim is missing or of the wrong type.
    Claim(&'static str),
    /// It was withdrawn.
    Revoked,
}

impl Rejection {
    /// A sentence for the client. It says no more than the client can see for itself.
    pub const fn detail(self) -> &'static str {
        match self {
            Self::Expired => "the token has expired",
            Self::NotYet => "the token is not valid yet",
            Self::Revoked => "the token was revoked",
            Self::Type => "the token is of another type than the one that is needed here",
            Self::Ambiguous => "there is more than one token",
            _ => "the token is not valid",
        }
    }
}

/// The claims of a token that was verified.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Claims(Map<String, Value>);

/// A claim that stands there twice is an error: another reader of the token may have taken the other one.
impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Once;

        impl<'de> Visitor<'de> for Once {
            type Value = Claims;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of claims")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Claims, A::Error> {
                let mut map = Map::new();
                while let Some((name, value)) = members.next_entry::<String, Value>()? {
                    if map.insert(name, value).is_some() {
                        return Err(A::Error::custom("a claim stands there twice"));
                    }
                }
                Ok(Claims(map))
            }
        }

        deserializer.deserialize_map(Once)
    }
}

impl From<Map<String, Value>> for Claims {
    fn from(map: Map<String, Value>) -> Self {
        Self(map)
    }
}

impl Claims {
    /// All of them.
    pub const fn all(&self) -> &Map<String, Value> {
        &self.0
    }

    /// One of them.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// One of them as text, where it is a non-empty text or a whole number.
    pub fn text(&self, name: &str) -> Option<Cow<'_, str>> {
        match self.0.get(name)? {
            Value::String(text) if !text.is_empty() => Some(Cow::Borrowed(text)),
            Value::Number(number) if number.is_i64() || number.is_u64() => Some(Cow::Owned(number.to_string())),
            _ => None,
        }
    }

    fn string(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    fn seconds(&self, name: &'static str) -> Result<Option<f64>, Rejection> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Number(number)) => number.as_f64().map(Some).ok_or(Rejection::Claim(name)),
            Some(_) => Err(Rejection::Claim(name)),
        }
    }

    /// Whether the rules hold at `now`, in seconds since 1970.
    ///
    /// # Errors
    /// The first rule that does not.
    pub fn check(&self, rules: &Rules, now: f64) -> Result<(), Rejection> {
        let exp = self.seconds("exp")?.ok_or(Rejection::Claim("exp"))?;
        if now >= exp + rules.leeway {
            return Err(Rejection::Expired);
        }
        if self.seconds("nbf")?.is_some_and(|nbf| now + rules.leeway < nbf) {
            return Err(Rejection::NotYet);
        }
        if !rules.issuer.is_empty() && !self.string("iss").is_some_and(|iss| rules.issuer.iter().any(|one| one == iss))
        {
            return Err(Rejection::Issuer);
        }
        if !rules.audience.is_empty() && !self.is_for(&rules.audience) {
            return Err(Rejection::Audience);
        }
        let typ = self.string("typ");
        match &rules.token_type {
            Some(wanted) if typ != Some(wanted) => return Err(Rejection::Type),
            None if typ == Some("refresh") => return Err(Rejection::Type),
            _ => {}
        }
        if rules.needs_id && self.string("jti").is_none_or(str::is_empty) {
            return Err(Rejection::Claim("jti"));
        }
        Ok(())
    }

    fn is_for(&self, audience: &[String]) -> bool {
        let wanted = |value: &Value| value.as_str().is_some_and(|one| audience.iter().any(|wanted| wanted == one));
        match self.0.get("aud") {
            Some(Value::Array(list)) => list.iter().any(wanted),
            Some(value) => wanted(value),
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(claims: Value, rules: &Rules, now: f64) -> Result<(), Rejection> {
        let Value::Object(map) = claims else { unreachable!("tests give objects") };
        Claims::from(map).check(rules, now)
    }

    #[test]
    fn time_ends_on_the_second() {
        let rules = Rules { leeway: 0.0, ..Rules::default() };
        assert_eq!(check(json!({"exp": 100}), &rules, 99.9), Ok(()));
        assert_eq!(check(json!({"exp": 100}), &rules, 100.0), Err(Rejection::Expired));
        assert_eq!(check(json!({"exp": 100.5}), &rules, 100.4), Ok(()));
        assert_eq!(check(json!({"exp": 100, "nbf": 50}), &rules, 49.9), Err(Rejection::NotYet));
        assert_eq!(check(json!({"exp": 100, "nbf": 50}), &rules, 50.0), Ok(()));
    }

    #[test]
    fn leeway_moves_both_ends() {
        let rules = Rules { leeway: 10.0, ..Rules::default() };
        assert_eq!(check(json!({"exp": 100}), &rules, 109.9), Ok(()));
        assert_eq!(check(json!({"exp": 100}), &rules, 110.0), Err(Rejection::Expired));
        assert_eq!(check(json!({"exp": 100, "nbf": 60}), &rules, 50.0), Ok(()));
        assert_eq!(check(json!({"exp": 100, "nbf": 60}), &rules, 49.9), Err(Rejection::NotYet));
    }

    #[test]
    fn claims_of_the_wrong_type_are_no_claims() {
        let rules = Rules { issuer: vec!["me".into()], audience: vec!["api".into()], ..Rules::default() };
        for (claims, why) in [
            (json!({}), Rejection::Claim("exp")),
            (json!({"exp": null}), Rejection::Claim("exp")),
            (json!({"exp": "9999999999"}), Rejection::Claim("exp")),
            (json!({"exp": [9_999_999_999_u64]}), Rejection::Claim("exp")),
            (json!({"exp": true}), Rejection::Claim("exp")),
            (json!({"exp": 200, "nbf": "1"}), Rejection::Claim("nbf")),
            (json!({"exp": 200}), Rejection::Issuer),
            (json!({"exp": 200, "iss": ["me"]}), Rejection::Issuer),
            (json!({"exp": 200, "iss": "you"}), Rejection::Issuer),
            (json!({"exp": 200, "iss": "me"}), Rejection::Audience),
            (json!({"exp": 200, "iss": "me", "aud": {"api": 1}}), Rejection::Audience),
            (json!({"exp": 200, "iss": "me", "aud": ["web", 7]}), Rejection::Audience),
        ] {
            assert_eq!(check(claims.clone(), &rules, 0.0), Err(why), "{claims}");
        }
        assert_eq!(check(json!({"exp": 200, "iss": "me", "aud": ["web", "api"]}), &rules, 0.0), Ok(()));
        assert_eq!(check(json!({"exp": 200, "iss": "me", "aud": "api"}), &rules, 0.0), Ok(()));
    }

    #[test]
    fn a_refresh_token_opens_only_what_asks_for_it() {
        let any = Rules::default();
        let refresh = Rules { token_type: Some("refresh".into()), ..Rules::default() };
        assert_eq!(check(json!({"exp": 9, "typ": "refresh"}), &any, 0.0), Err(Rejection::Type));
        assert_eq!(check(json!({"exp": 9, "typ": "refresh"}), &refresh, 0.0), Ok(()));
        assert_eq!(check(json!({"exp": 9, "typ": "access"}), &refresh, 0.0), Err(Rejection::Type));
        assert_eq!(check(json!({"exp": 9}), &refresh, 0.0), Err(Rejection::Type));
        let id = Rules { needs_id: true, ..Rules::default() };
        assert_eq!(check(json!({"exp": 9}), &id, 0.0), Err(Rejection::Claim("jti")));
        assert_eq!(check(json!({"exp": 9, "jti": 5}), &id, 0.0), Err(Rejection::Claim("jti")));
        assert_eq!(check(json!({"exp": 9, "jti": "5"}), &id, 0.0), Ok(()));
    }

    #[test]
    fn only_texts_and_whole_numbers_are_texts() {
        let Value::Object(map) = json!({"a": "x", "b": 7, "c": 1.5, "d": true, "e": "", "f": [1]}) else {
            unreachable!("it is an object")
        };
        let claims = Claims::from(map);
        let found: Vec<_> = ["a", "b", "c", "d", "e", "f", "g"].map(|name| claims.text(name)).into();
        assert_eq!(found, [Some("x".into()), Some("7".into()), None, None, None, None, None]);
    }
}
