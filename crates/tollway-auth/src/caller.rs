//! Somebody who was verified.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::Value;
use tollway_http::Verified;

use crate::{ApiKey, Claims};

/// By what a caller was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// A signed token.
    Jwt,
    /// An API key.
    ApiKey,
    /// A session of Django's.
    Session,
}

impl Scheme {
    /// The name that handlers see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Jwt => "jwt",
            Self::ApiKey => "api_key",
            Self::Session => "session",
        }
    }
}

/// Somebody who was verified, and what is known of them.
#[derive(Clone, Debug)]
pub struct Caller {
    scheme: Scheme,
    claims: Claims,
    key: Option<Arc<ApiKey>>,
    in_cookie: bool,
}

impl Caller {
    /// The bearer of a token, or the owner of a session told in the same words.
    pub fn with_claims(scheme: Scheme, claims: Claims) -> Self {
        Self { scheme, claims, key: None, in_cookie: matches!(scheme, Scheme::Session) }
    }

    /// The holder of an API key.
    pub fn with_key(key: Arc<ApiKey>) -> Self {
        Self { scheme: Scheme::ApiKey, claims: Claims::default(), key: Some(key), in_cookie: false }
    }

    /// The same, verified by a cookie.
    #[must_use]
    pub fn by_cookie(mut self) -> Self {
        self.in_cookie = true;
        self
    }

    /// Whether they were verified by a cookie, which browsers send along with what other sites make them
    /// ask. A header is sent by those only who have what is in it.
    pub const fn is_by_cookie(&self) -> bool {
        self.in_cookie
    }

    /// By what they were verified.
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// What their token says; empty for a key.
    pub const fn claims(&self) -> &Claims {
        &self.claims
    }

    /// Their key, if they showed one.
    pub fn key(&self) -> Option<&ApiKey> {
        self.key.as_deref()
    }

    /// What they may do, by their key or by the claim `permissions`.
    pub fn permissions(&self) -> Vec<&str> {
        match (&self.key, self.claims.get("permissions")) {
            (Some(key), _) => key.permissions.iter().map(String::as_str).collect(),
            (None, Some(Value::Array(list))) => list.iter().filter_map(Value::as_str).collect(),
            (None, Some(Value::String(one))) => vec![one],
            (None, _) => Vec::new(),
        }
    }
}

impl Verified for Caller {
    fn user(&self) -> Option<Cow<'_, str>> {
        match &self.key {
            Some(key) => Some(Cow::Owned(format!("key:{}", key.hash))),
            None => self.claims.text("sub"),
        }
    }

    fn api_key(&self) -> Option<&str> {
        self.key.as_ref().map(|key| key.hash.as_str())
    }

    fn claim(&self, name: &str) -> Option<Cow<'_, str>> {
        self.claims.text(name)
    }

    fn tier(&self) -> Option<Cow<'_, str>> {
        match &self.key {
            Some(key) => key.tier.as_deref().map(Cow::Borrowed),
            None => self.claims.text("tier"),
        }
    }
}
