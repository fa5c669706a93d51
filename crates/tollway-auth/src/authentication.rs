//! From a request's headers to the caller.

use std::sync::Arc;

use http::Method;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName};
use tollway_http::cookies;

use crate::{ApiKeys, Caller, Rejection, Scheme, Verifier, may_change};

/// Where a token is carried.
#[derive(Clone, Debug)]
pub enum Carrier {
    /// In this header, behind the word `Bearer`.
    Header(HeaderName),
    /// In this cookie. With `csrf`, requests that change something must come from the site itself.
    Cookie {
        /// Its name.
        name: String,
        /// Whether the origin of unsafe requests is checked.
        csrf: bool,
    },
}

/// One way to show who one is.
#[derive(Clone, Debug)]
pub enum Backend {
    /// By a signed token.
    Token {
        /// What believes it.
        verifier: Arc<Verifier>,
        /// Where it is.
        carrier: Carrier,
    },
    /// By an API key in a header.
    Key {
        /// The keys that are good.
        keys: Arc<ApiKeys>,
        /// The header.
        header: HeaderName,
    },
    /// By a session, which only Django can look up: the cookie says that there may be one.
    Session {
        /// The cookie.
        cookie: String,
        /// Whether the origin of unsafe requests is checked.
        csrf: bool,
    },
}

/// The ways a route accepts, tried in their order.
#[derive(Clone, Debug, Default)]
pub struct Authentication {
    /// The ways.
    pub backends: Vec<Backend>,
    /// Origins besides the site's own from which requests with cookies may change something.
    pub trusted_origins: Vec<String>,
}

/// Who asks.
#[derive(Debug)]
pub enum Found {
    /// Somebody who was verified.
    Caller(Caller),
    /// Nobody, and what was wrong with what they showed, if they showed something.
    Nobody(Option<&'static str>),
    /// Somebody with a session, if Django knows it.
    Session,
    /// A page of another site made a browser send this.
    CrossSite,
}

impl Authentication {
    /// Who asks at `now`, in seconds since 1970.
    pub fn find(&self, method: &Method, headers: &HeaderMap, now: f64) -> Found {
        let mut wrong = None;
        for backend in &self.backends {
            match self.ask(backend, method, headers, now) {
                Found::Nobody(problem) => wrong = wrong.or(problem),
                found => return found,
            }
        }
        Found::Nobody(wrong)
    }

    fn ask(&self, backend: &Backend, method: &Method, headers: &HeaderMap, now: f64) -> Found {
        match backend {
            Backend::Token { verifier, carrier: Carrier::Header(name) } => match one_header(headers, name) {
                Ok(value) => value
                    .and_then(|value| bearer(name, value))
                    .map_or(Found::Nobody(None), |token| believed(verifier, token, now)),
                Err(problem) => Found::Nobody(Some(problem.detail())),
            },
            Backend::Token { verifier, carrier: Carrier::Cookie { name, csrf } } => match one_cookie(headers, name) {
                Ok(None) => Found::Nobody(None),
                Ok(Some(_)) if *csrf && !may_change(method, headers, &self.trusted_origins) => Found::CrossSite,
                Ok(Some(token)) => match believed(verifier, token.as_bytes(), now) {
                    Found::Caller(caller) => Found::Caller(caller.by_cookie()),
                    other => other,
                },
                Err(problem) => Found::Nobody(Some(problem.detail())),
            },
            Backend::Key { keys, header } => match one_header(headers, header) {
                Ok(None) => Found::Nobody(None),
                Ok(Some(value)) => match keys.find(bare_key(header, value), now) {
                    Some(key) => Found::Caller(Caller::with_key(key)),
                    None => Found::Nobody(Some("the API key is not known")),
                },
                Err(_) => Found::Nobody(Some("there is more than one API key")),
            },
            Backend::Session { cookie, csrf } => match one_cookie(headers, cookie) {
                Ok(None) => Found::Nobody(None),
                Ok(Some(_)) if *csrf && !may_change(method, headers, &self.trusted_origins) => Found::CrossSite,
                Ok(Some(_)) => Found::Session,
                Err(_) => Found::Nobody(Some("there is more than one session")),
            },
        }
    }

    /// The value of `WWW-Authenticate` for somebody who was not let in (RFC 6750, RFC 9110).
    pub fn challenge(&self, problem: Option<&str>) -> String {
        let mut parts: Vec<String> = Vec::new();
        for backend in &self.backends {
            let part = match backend {
                Backend::Token { .. } => match problem {
                    Some(problem) => format!("Bearer error=\"invalid_token\", error_description=\"{problem}\""),
                    None => "Bearer".to_owned(),
                },
                Backend::Key { header, .. } => format!("ApiKey header=\"{header}\""),
                Backend::Session { .. } => "Session".to_owned(),
            };
            if !parts.contains(&part) {
                parts.push(part);
            }
        }
        parts.join(", ")
    }
}

fn believed(verifier: &Verifier, token: &[u8], now: f64) -> Found {
    match verifier.verify(token, now) {
        Ok(claims) => Found::Caller(Caller::with_claims(Scheme::Jwt, claims)),
        Err(problem) => Found::Nobody(Some(problem.detail())),
    }
}

/// The value of a header that may be there once.
fn one_header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a [u8]>, Rejection> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    match values.next() {
        None => Ok(first.map(|value| value.as_bytes().trim_ascii())),
        // Whoever stands before us may have looked at the other one.
        Some(_) => Err(Rejection::Ambiguous),
    }
}

/// The value of a cookie that may be there once: a neighbouring site can set a second one.
fn one_cookie<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Rejection> {
    let mut values = cookies(headers, name);
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(Rejection::Ambiguous),
        (first, None) => Ok(first.filter(|value| !value.is_empty())),
    }
}

/// The token in `Bearer token`; in another header than `Authorization` the word may be left out.
fn bearer<'a>(header: &HeaderName, value: &'a [u8]) -> Option<&'a [u8]> {
    without_scheme(value, b"bearer").or((header != AUTHORIZATION).then_some(value)).filter(|token| !token.is_empty())
}

fn bare_key<'a>(header: &HeaderName, value: &'a [u8]) -> &'a [u8] {
    let scheme = |name: &[u8]| without_scheme(value, name);
    match header == AUTHORIZATION {
        true => scheme(b"apikey").or_else(|| scheme(b"api-key")).or_else(|| scheme(b"bearer")).unwrap_or(value),
        false => value,
    }
}

fn without_scheme<'a>(value: &'a [u8], scheme: &[u8]) -> Option<&'a [u8]> {
    let (head, rest) = value.split_at_checked(scheme.len())?;
    (head.eq_ignore_ascii_case(scheme) && rest.first() == Some(&b' ')).then(|| rest.trim_ascii())
}

#[cfg(test)]
mod tests {
    use http::header::{COOKIE, HOST, HeaderValue, ORIGIN};

    use super::*;
    use crate::{Algorithm, KeySet, Rules, SigningKey};

    const SECRET: &[u8] = b"32 bytes that nobody else knows.";

    fn token() -> String {
        SigningKey::secret(SECRET, Algorithm::HS256).unwrap().sign(br#"{"sub":"ada","exp":100}"#).unwrap()
    }

    fn by(carrier: Carrier) -> Authentication {
        let algorithms = vec![Algorithm::HS256];
        let keys = KeySet::secret(SECRET, &algorithms).unwrap();
        let verifier = Arc::new(Verifier::new(algorithms, keys, Rules::default()));
        let backends = vec![Backend::Token { verifier, carrier }];
        Authentication { backends, trusted_origins: Vec::new() }
    }

    fn keys(header: HeaderName) -> Backend {
        Backend::Key { keys: Arc::new(ApiKeys::new([ApiKeys::from_clear("sk-1")])), header }
    }

    fn ask(authentication: &Authentication, pairs: &[(HeaderName, &[u8])]) -> Found {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        authentication.find(&Method::POST, &headers, 0.0)
    }

    #[test]
    fn a_header_is_read_as_people_write_it() {
        let authentication = by(Carrier::Header(AUTHORIZATION));
        let found = |value: String| ask(&authentication, &[(AUTHORIZATION, value.as_bytes())]);
        for good in [format!("Bearer {}", token()), format!("bEaReR   {} ", token())] {
            assert!(matches!(found(good), Found::Caller(caller) if !caller.is_by_cookie()));
        }
        for nothing in [token(), format!("Basic {}", token()), "Bearer".to_owned(), "Bearer ".to_owned()] {
            assert!(matches!(found(nothing), Found::Nobody(None)));
        }
        assert!(matches!(found("Bearer x".to_owned()), Found::Nobody(Some("the token is not valid"))));
        let wild = [b"Bearer \xff\xfe".as_slice(), &[b'a'; 100]].concat();
        assert!(matches!(ask(&authentication, &[(AUTHORIZATION, &wild)]), Found::Nobody(Some(_))));
    }

    #[test]
    fn two_are_not_one() {
        let (header, cookie) = (format!("Bearer {}", token()), format!("t={}", token()));
        let authentication = by(Carrier::Header(AUTHORIZATION));
        let twice = [(AUTHORIZATION, header.as_bytes()), (AUTHORIZATION, b"Bearer other".as_slice())];
        assert!(matches!(ask(&authentication, &twice), Found::Nobody(Some("there is more than one token"))));
        let authentication = by(Carrier::Cookie { name: "t".into(), csrf: true });
        let both = format!("t=other; {cookie}");
        assert!(matches!(ask(&authentication, &[(COOKIE, both.as_bytes())]), Found::Nobody(Some(_))));
        assert!(matches!(ask(&authentication, &[(COOKIE, cookie.as_bytes())]), Found::Caller(_)));
        assert!(matches!(ask(&authentication, &[(COOKIE, b"t=".as_slice())]), Found::Nobody(None)));
    }

    #[test]
    fn a_cookie_is_not_believed_when_another_site_sends_it() {
        let cookie = format!("t={}", token());
        let pairs = [
            (COOKIE, cookie.as_bytes()),
            (HOST, b"shop.example".as_slice()),
            (ORIGIN, b"https://evil.example".as_slice()),
        ];
        let with = |csrf| by(Carrier::Cookie { name: "t".into(), csrf });
        assert!(matches!(ask(&with(true), &pairs), Found::CrossSite));
        assert!(matches!(ask(&with(false), &pairs), Found::Caller(caller) if caller.is_by_cookie()));
    }

    #[test]
    fn the_next_way_is_tried_and_the_first_problem_told() {
        let mut authentication = by(Carrier::Header(AUTHORIZATION));
        authentication.backends.push(keys(HeaderName::from_static("x-api-key")));
        let key = (HeaderName::from_static("x-api-key"), b"sk-1".as_slice());
        let bad = (AUTHORIZATION, b"Bearer x".as_slice());
        assert!(matches!(ask(&authentication, &[bad.clone(), key]), Found::Caller(_)));
        let wrong = (HeaderName::from_static("x-api-key"), b"sk-2".as_slice());
        assert!(matches!(ask(&authentication, &[bad, wrong]), Found::Nobody(Some("the token is not valid"))));
        assert_eq!(authentication.challenge(None), "Bearer, ApiKey header=\"x-api-key\"");
        assert!(authentication.challenge(Some("the token has expired")).starts_with("Bearer error=\"invalid_token\""));
    }

    #[test]
    fn a_key_in_authorization_may_name_its_scheme() {
        let authentication = Authentication { backends: vec![keys(AUTHORIZATION)], trusted_origins: Vec::new() };
        for value in ["sk-1", "ApiKey sk-1", "Api-Key sk-1", "Bearer sk-1"] {
            assert!(matches!(ask(&authentication, &[(AUTHORIZATION, value.as_bytes())]), Found::Caller(_)), "{value}");
        }
        let twice = [(AUTHORIZATION, b"sk-1".as_slice()), (AUTHORIZATION, b"sk-1".as_slice())];
        assert!(matches!(ask(&authentication, &twice), Found::Nobody(Some(_))));
    }
}
