//! May this caller pass?

use std::fmt;

use serde_json::Value;

use crate::Caller;

/// A condition on the caller. Built once, evaluated without allocation.
///
/// ```
/// use tollway_auth::{Claims, Caller, Guard, Refusal, Scalar, Scheme, Wanted, check_all};
///
/// let guards = [Guard::Authenticated, Guard::requires("role", Wanted::Any(vec![Scalar::Text("editor".into())]))];
/// assert_eq!(check_all(&guards, None), Err(Refusal::Unauthenticated));
///
/// let claims = serde_json::from_str::<serde_json::Map<_, _>>(r#"{"role": ["author", "editor"]}"#).unwrap();
/// let caller = Caller::with_claims(Scheme::Jwt, Claims::from(claims));
/// assert_eq!(check_all(&guards, Some(&caller)), Ok(()));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum Guard {
    /// Everybody may pass.
    AllowAny,
    /// Whoever was verified may pass.
    Authenticated,
    /// Whoever was verified and has this claim.
    Requires {
        /// Its name; `permissions` stands for those of an API key too.
        claim: String,
        /// What it must be.
        wanted: Wanted,
        /// What the refused are told.
        message: String,
    },
}

/// What a claim must be. A list matches by its members.
#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    /// There, and not null or false.
    Present,
    /// One of these.
    Any(Vec<Scalar>),
    /// A list with all of these.
    All(Vec<Scalar>),
    /// None of these.
    None(Vec<Scalar>),
}

/// A value that a claim can be compared with.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    /// A text.
    Text(String),
    /// A truth value.
    Flag(bool),
    /// A whole number.
    Whole(i64),
    /// Another number.
    Real(f64),
}

/// Why a caller may not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal<'a> {
    /// Nobody was verified.
    Unauthenticated,
    /// Somebody was, and this is what they lack.
    Forbidden(&'a str),
}

impl Scalar {
    fn equals(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Text(own), Value::String(text)) => own == text,
            (Self::Flag(own), Value::Bool(flag)) => own == flag,
            (Self::Whole(own), Value::Number(number)) => number.as_i64() == Some(*own),
            (Self::Real(own), Value::Number(number)) => number.as_f64() == Some(*own),
            _ => false,
        }
    }

    fn is_in(&self, value: &Value) -> bool {
        match value {
            Value::Array(list) => list.iter().any(|one| self.equals(one)),
            one => self.equals(one),
        }
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Whole(number) => write!(f, "{number}"),
            Self::Real(number) => write!(f, "{number}"),
        }
    }
}

impl Wanted {
    fn holds(&self, has: impl Fn(&Scalar) -> bool, is_there: bool) -> bool {
        match self {
            Self::Present => is_there,
            Self::Any(list) => list.iter().any(has),
            Self::All(list) => list.iter().all(has),
            Self::None(list) => !list.iter().any(has),
        }
    }

    fn told(&self, claim: &str) -> String {
        let names = |list: &[Scalar]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let kind = if claim == "permissions" { "permission" } else { claim };
        match self {
            Self::Present => format!("this needs the claim {claim}"),
            Self::Any(list) if list.len() == 1 => format!("this needs the {kind}: {}", names(list)),
            Self::Any(list) => format!("this needs one of the {kind}s: {}", names(list)),
            Self::All(list) => format!("this needs all of the {kind}s: {}", names(list)),
            Self::None(list) => format!("this is not for the {kind}: {}", names(list)),
        }
    }
}

impl Guard {
    /// A guard that says what it needs, in words of its own.
    pub fn requires(claim: &str, wanted: Wanted) -> Self {
        let message = wanted.told(claim);
        Self::Requires { claim: claim.to_owned(), wanted, message }
    }

    /// Whether the guard lets somebody pass who was not verified.
    pub const fn is_open(&self) -> bool {
        matches!(self, Self::AllowAny)
    }

    /// Whether this caller may pass.
    ///
    /// # Errors
    /// Why not. A caller that nobody verified has nothing, not even the lack of something.
    pub fn check(&self, caller: Option<&Caller>) -> Result<(), Refusal<'_>> {
        let Self::Requires { claim, wanted, message } = self else {
            let passes = self.is_open() || caller.is_some();
            return if passes { Ok(()) } else { Err(Refusal::Unauthenticated) };
        };
        let caller = caller.ok_or(Refusal::Unauthenticated)?;
        let passes = match caller.key() {
            Some(key) if claim == "permissions" => {
                let has = |scalar: &Scalar| matches!(scalar, Scalar::Text(text) if key.permissions.contains(text));
                wanted.holds(has, !key.permissions.is_empty())
            }
            _ => {
                let value = caller.claims().get(claim).unwrap_or(&Value::Null);
                wanted.holds(|scalar| scalar.is_in(value), !matches!(value, Value::Null | Value::Bool(false)))
            }
        };
        if passes { Ok(()) } else { Err(Refusal::Forbidden(message)) }
    }
}

/// Whether a caller passes all guards, asked in their order.
///
/// # Errors
/// What the first one that refuses says.
pub fn check_all<'a>(guards: &'a [Guard], caller: Option<&Caller>) -> Result<(), Refusal<'a>> {
    guards.iter().try_for_each(|guard| guard.check(caller))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::{ApiKey, Claims, Scheme};

    fn caller(claims: Value) -> Caller {
        let Value::Object(map) = claims else { unreachable!("tests give objects") };
        Caller::with_claims(Scheme::Jwt, Claims::from(map))
    }

    fn texts(list: &[&str]) -> Vec<Scalar> {
        list.iter().map(|text| Scalar::Text((*text).to_owned())).collect()
    }

    #[test]
    fn whoever_was_not_verified_passes_nothing_but_an_open_door() {
        assert_eq!(Guard::AllowAny.check(None), Ok(()));
        for guard in [
            Guard::Authenticated,
            Guard::requires("role", Wanted::Present),
            Guard::requires("role", Wanted::None(texts(&["banned"]))),
            Guard::requires("role", Wanted::All(Vec::new())),
        ] {
            assert_eq!(guard.check(None), Err(Refusal::Unauthenticated));
        }
    }

    #[test]
    fn claims_match_by_value_and_lists_by_members() {
        let passes = |claims: Value, wanted: Wanted| Guard::requires("c", wanted).check(Some(&caller(claims))).is_ok();
        let one = |scalar: Scalar| Wanted::Any(vec![scalar]);
        assert!(passes(json!({"c": "a"}), Wanted::Any(texts(&["b", "a"]))));
        assert!(passes(json!({"c": ["x", "a"]}), Wanted::Any(texts(&["a"]))));
        assert!(!passes(json!({"c": "ab"}), Wanted::Any(texts(&["a"]))));
        assert!(!passes(json!({}), Wanted::Any(texts(&["a"]))));
        assert!(passes(json!({"c": ["x", "a"]}), Wanted::All(texts(&["a", "x"]))));
        assert!(!passes(json!({"c": ["a"]}), Wanted::All(texts(&["a", "x"]))));
        assert!(passes(json!({"c": ["a"]}), Wanted::None(texts(&["x"]))));
        assert!(passes(json!({}), Wanted::None(texts(&["x"]))));
        assert!(!passes(json!({"c": "x"}), Wanted::None(texts(&["x", "y"]))));
        assert!(passes(json!({"c": true}), one(Scalar::Flag(true))));
        // What looks alike is not the same: 1 is no true, "true" is none either.
        assert!(!passes(json!({"c": 1}), one(Scalar::Flag(true))));
        assert!(!passes(json!({"c": "true"}), one(Scalar::Flag(true))));
        assert!(!passes(json!({"c": "1"}), one(Scalar::Whole(1))));
        assert!(passes(json!({"c": 1}), one(Scalar::Whole(1))));
        assert!(passes(json!({"c": 1.5}), one(Scalar::Real(1.5))));
        for (value, there) in [(json!(null), false), (json!(false), false), (json!(0), true), (json!("x"), true)] {
            assert_eq!(passes(json!({"c": value}), Wanted::Present), there);
        }
    }

    #[test]
    fn a_key_has_permissions_and_no_claims() {
        let key = ApiKey { permissions: vec!["read".into()], ..ApiKey::default() };
        let caller = Caller::with_key(Arc::new(key));
        assert_eq!(Guard::requires("permissions", Wanted::Any(texts(&["read"]))).check(Some(&caller)), Ok(()));
        assert_eq!(
            Guard::requires("permissions", Wanted::All(texts(&["read", "write"]))).check(Some(&caller)),
            Err(Refusal::Forbidden("this needs all of the permissions: read, write"))
        );
        assert!(Guard::requires("is_staff", Wanted::Any(vec![Scalar::Flag(true)])).check(Some(&caller)).is_err());
    }
}
