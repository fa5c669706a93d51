//! Cross-origin requests: who may read an answer, and the preflight that asks before sending.

use std::fmt;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
    HeaderMap, HeaderName, HeaderValue, ORIGIN, VARY,
};
use http::{Method, request::Parts};
use regex::Regex;

const ALLOW_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");
const REQUEST_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-request-private-network");
const TRUE: HeaderValue = HeaderValue::from_static("true");
const PREFLIGHT_VARY: HeaderValue =
    HeaderValue::from_static("origin, access-control-request-method, access-control-request-private-network");

/// Rules that cannot hold. The message says which, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorsError(String);

impl fmt::Display for CorsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CORS: {}", self.0)
    }
}

impl std::error::Error for CorsError {}

/// The rules as they are written.
#[derive(Clone, Debug, Default)]
pub struct CorsSpec {
    /// Origins such as `https://shop.example`, or `*` alone for every one.
    pub origins: Vec<String>,
    /// Patterns that a whole origin may match.
    pub patterns: Vec<String>,
    /// Whether the browser may send cookies and let the page read the answer to that.
    pub credentials: bool,
    /// Methods a page may use; `*` alone for every one.
    pub methods: Vec<String>,
    /// Request headers a page may set; `*` alone for every one but `Authorization`.
    pub headers: Vec<String>,
    /// Response headers a page may read beside the few that it always may.
    pub expose: Vec<String>,
    /// Seconds a browser may remember the answer to a preflight. 0 sends no such header.
    pub max_age: u32,
    /// Whether public pages may reach this server in a private network.
    pub private_network: bool,
}

#[derive(Debug)]
enum Origins {
    Every,
    Listed { exact: Vec<String>, patterns: Vec<Regex> },
}

/// The rules, checked, with every header value made.
///
/// ```
/// use tollway_server::app::{Cors, CorsSpec};
///
/// let spec = CorsSpec { origins: vec!["https://shop.example".into()], ..CorsSpec::default() };
/// let cors = Cors::new(&spec).unwrap();
/// assert!(cors.allows(b"https://shop.example"));
/// assert!(!cors.allows(b"https://shop.example.evil.test"));
///
/// let open = CorsSpec { origins: vec!["*".into()], credentials: true, ..CorsSpec::default() };
/// assert!(Cors::new(&open).is_err());
/// ```
#[derive(Debug)]
pub struct Cors {
    origins: Origins,
    credentials: bool,
    methods: Option<HeaderValue>,
    headers: Option<HeaderValue>,
    expose: Option<HeaderValue>,
    max_age: Option<HeaderValue>,
    private_network: bool,
}

/// A question of a browser: may a page send this?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preflight {
    /// The method that the page wants to use.
    pub method: Method,
}

impl Preflight {
    /// The question, if this request is one: OPTIONS with `Origin` and
    /// `Access-Control-Request-Method`.
    #[inline]
    pub fn of(head: &Parts) -> Option<Preflight> {
        if head.method != Method::OPTIONS || !head.headers.contains_key(ORIGIN) {
            return None;
        }
        let asked = head.headers.get(ACCESS_CONTROL_REQUEST_METHOD)?;
        Some(Preflight { method: Method::from_bytes(asked.as_bytes()).ok()? })
    }
}

impl Cors {
    /// Checks the rules.
    ///
    /// # Errors
    /// `*` together with credentials, which browsers refuse; an origin that no browser sends; a
    /// pattern that does not read; a name that is no header or method.
    pub fn new(spec: &CorsSpec) -> Result<Cors, CorsError> {
        let origins = origins(spec)?;
        if spec.credentials {
            refuse_star_with_credentials(spec)?;
        }
        Ok(Cors {
            origins,
            credentials: spec.credentials,
            methods: list("method", &spec.methods, |name| Method::from_bytes(name.as_bytes()).is_ok())?,
            headers: list("header", &spec.headers, is_header)?,
            expose: list("exposed header", &spec.expose, is_header)?,
            max_age: (spec.max_age > 0).then(|| HeaderValue::from(spec.max_age)),
            private_network: spec.private_network,
        })
    }

    /// Whether pages of this origin may read answers.
    pub fn allows(&self, origin: &[u8]) -> bool {
        match &self.origins {
            Origins::Every => true,
            Origins::Listed { exact, patterns } => {
                exact.iter().any(|known| known.as_bytes() == origin)
                    || std::str::from_utf8(origin).is_ok_and(|text| patterns.iter().any(|p| p.is_match(text)))
            }
        }
    }

    /// Whether answers differ by origin, so that caches must keep them apart.
    fn varies(&self) -> bool {
        matches!(self.origins, Origins::Listed { .. })
    }

    /// What goes into `Access-Control-Allow-Origin` for this request, if anything.
    fn granted(&self, origin: &HeaderValue) -> Option<HeaderValue> {
        match self.origins {
            Origins::Every => Some(HeaderValue::from_static("*")),
            Origins::Listed { .. } => self.allows(origin.as_bytes()).then(|| origin.clone()),
        }
    }

    /// Writes the headers of an answer to a request with this `Origin`. What a handler wrote is
    /// replaced: two values would make browsers refuse both.
    pub fn write(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
        if self.varies() {
            add_vary(headers);
        }
        match origin.and_then(|origin| self.granted(origin)) {
            Some(granted) => {
                headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, granted);
                if self.credentials {
                    headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
                }
                if let Some(expose) = &self.expose {
                    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
                }
            }
            None => {
                headers.remove(ACCESS_CONTROL_ALLOW_ORIGIN);
            }
        }
    }

    /// The headers of the answer to a preflight. A stranger gets none of the permissions.
    pub fn preflight(&self, head: &Parts) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(VARY, PREFLIGHT_VARY);
        let Some(granted) = head.headers.get(ORIGIN).and_then(|origin| self.granted(origin)) else {
            return headers;
        };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, granted);
        if self.credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        }
        let permissions = [
            (ACCESS_CONTROL_ALLOW_METHODS, &self.methods),
            (ACCESS_CONTROL_ALLOW_HEADERS, &self.headers),
            (ACCESS_CONTROL_MAX_AGE, &self.max_age),
        ];
        for (name, value) in permissions {
            headers.extend(value.clone().map(|value| (name, value)));
        }
        if self.private_network && head.headers.get(REQUEST_PRIVATE_NETWORK).is_some_and(|asked| asked == "true") {
            headers.insert(ALLOW_PRIVATE_NETWORK, TRUE);
        }
        headers
    }
}

/// Adds `Origin` to `Vary`, unless it stands there.
fn add_vary(headers: &mut HeaderMap) {
    let named = headers.get_all(VARY).iter().any(|line| {
        let text = line.to_str().unwrap_or("");
        text.split(',').any(|name| name.trim() == "*" || name.trim().eq_ignore_ascii_case("origin"))
    });
    if !named {
        headers.append(VARY, HeaderValue::from_static("origin"));
    }
}

fn is_star(list: &[String]) -> bool {
    list.iter().any(|item| item == "*")
}

fn refuse_star_with_credentials(spec: &CorsSpec) -> Result<(), CorsError> {
    let fields = [
        ("origins", &spec.origins, "name the origins"),
        ("methods", &spec.methods, "name the methods"),
        ("headers", &spec.headers, "name the headers"),
        ("exposed headers", &spec.expose, "name the headers"),
    ];
    match fields.iter().find(|(_, list, _)| is_star(list)) {
        None => Ok(()),
        Some((what, _, step)) => Err(CorsError(format!(
            "{what} are \"*\" together with credentials, which browsers refuse (and which would open every account to \
             every page): {step}, or leave the credentials out"
        ))),
    }
}

fn origins(spec: &CorsSpec) -> Result<Origins, CorsError> {
    if is_star(&spec.origins) {
        return match spec.origins.len() + spec.patterns.len() {
            1 => Ok(Origins::Every),
            _ => Err(CorsError("\"*\" stands for every origin: leave the others out, or the \"*\"".to_owned())),
        };
    }
    if spec.origins.is_empty() && spec.patterns.is_empty() {
        return Err(CorsError(
            "no origin may read anything: name one, for example \"https://shop.example\"".to_owned(),
        ));
    }
    let exact = spec.origins.iter().map(|origin| normal(origin)).collect::<Result<_, _>>()?;
    let patterns = spec.patterns.iter().map(|pattern| compiled(pattern)).collect::<Result<_, _>>()?;
    Ok(Origins::Listed { exact, patterns })
}

/// An origin as browsers write it: lower case, without the scheme's own port.
fn normal(origin: &str) -> Result<String, CorsError> {
    if origin == "null" {
        return Ok(origin.to_owned());
    }
    let lower = origin.to_ascii_lowercase();
    let Some((scheme, host)) = lower.split_once("://") else {
        return Err(CorsError(format!("the origin {origin:?} lacks its scheme: write \"https://{origin}\"")));
    };
    let own_port = match scheme {
        "https" => ":443",
        "http" => ":80",
        _ => "",
    };
    let host = if own_port.is_empty() { host } else { host.strip_suffix(own_port).unwrap_or(host) };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
    if host.is_empty() || !host.bytes().all(plain) {
        return Err(CorsError(format!(
            "the origin {origin:?} is not a scheme, a host and perhaps a port: write it like \"https://shop.example\", \
             without a path, or use a pattern"
        )));
    }
    Ok(format!("{scheme}://{host}"))
}

fn compiled(pattern: &str) -> Result<Regex, CorsError> {
    Regex::new(&format!("^(?:{pattern})$")).map_err(|error| {
        let reason = error.to_string();
        let reason = reason.lines().last().unwrap_or("it does not read").trim();
        CorsError(format!(
            "the origin pattern {pattern:?} cannot be used: {reason} (patterns are matched in linear time, so there is \
             no look-around and no back-reference)"
        ))
    })
}

fn is_header(name: &str) -> bool {
    HeaderName::from_bytes(name.as_bytes()).is_ok()
}

fn list(what: &str, names: &[String], valid: impl Fn(&str) -> bool) -> Result<Option<HeaderValue>, CorsError> {
    if let Some(wrong) = names.iter().find(|name| *name != "*" && !valid(name)) {
        return Err(CorsError(format!("{wrong:?} is not a possible {what}")));
    }
    if names.is_empty() {
        return Ok(None);
    }
    let joined = if is_star(names) { "*".to_owned() } else { names.join(", ") };
    HeaderValue::try_from(joined).map(Some).map_err(|_| CorsError(format!("the {what}s cannot be sent")))
}

#[cfg(test)]
#[path = "cors_tests.rs"]
mod tests;
