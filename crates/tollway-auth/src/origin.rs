//! Whether a browser sent a request from a page of the site itself.

use http::header::{HOST, HeaderMap, HeaderValue, ORIGIN, REFERER};
use http::{Method, Uri};

/// Whether a request that is believed for its cookie may change something: browsers send cookies along
/// with requests that pages of other sites make, and say in `Sec-Fetch-Site` or `Origin` that they do.
///
/// A request without any of these is by no browser that knows cookies' dangers, and passes. `trusted`
/// are further origins, such as `https://app.example.com`.
///
/// ```
/// use http::{HeaderMap, HeaderValue, Method};
/// use tollway_auth::may_change;
///
/// let mut headers = HeaderMap::new();
/// headers.insert("host", HeaderValue::from_static("shop.example"));
/// headers.insert("origin", HeaderValue::from_static("https://evil.example"));
/// assert!(!may_change(&Method::POST, &headers, &[]));
/// assert!(may_change(&Method::GET, &headers, &[]));
/// assert!(may_change(&Method::POST, &headers, &["https://evil.example".to_owned()]));
/// ```
pub fn may_change(method: &Method, headers: &HeaderMap, trusted: &[String]) -> bool {
    if method.is_safe() {
        return true;
    }
    let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
    if let Some(origin) = headers.get(ORIGIN) {
        return text(origin).is_some_and(|origin| is_own(&origin, headers, trusted));
    }
    if let Some(site) = headers.get("sec-fetch-site") {
        return matches!(site.as_bytes(), b"same-origin" | b"none");
    }
    match headers.get(REFERER) {
        Some(referer) => text(referer)
            .and_then(|referer| origin_of(&referer))
            .is_some_and(|origin| is_own(&origin, headers, trusted)),
        None => true,
    }
}

fn origin_of(referer: &str) -> Option<String> {
    let uri: Uri = referer.parse().ok()?;
    Some(format!("{}://{}", uri.scheme_str()?, uri.authority()?))
}

fn is_own(origin: &str, headers: &HeaderMap, trusted: &[String]) -> bool {
    if trusted.iter().any(|one| one.eq_ignore_ascii_case(origin)) {
        return true;
    }
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    // A proxy may speak TLS for us, so the scheme is not compared.
    let (Some(host), Some((_, own))) = (host, origin.split_once("://")) else { return false };
    own.eq_ignore_ascii_case(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(pairs: &[(&'static str, &'static str)]) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("shop.example"));
        for (name, value) in pairs {
            headers.insert(*name, HeaderValue::from_static(value));
        }
        may_change(&Method::DELETE, &headers, &["https://app.example".to_owned()])
    }

    #[test]
    fn pages_of_others_change_nothing() {
        assert!(passes(&[]));
        assert!(passes(&[("origin", "https://shop.example")]));
        assert!(passes(&[("origin", "https://app.example"), ("sec-fetch-site", "cross-site")]));
        assert!(passes(&[("sec-fetch-site", "same-origin")]));
        assert!(passes(&[("referer", "https://shop.example/cart?x=1")]));
        for pairs in [
            [("origin", "null")],
            [("origin", "https://shop.example.evil")],
            [("origin", "https://shop.example:8443")],
            [("sec-fetch-site", "same-site")],
            [("sec-fetch-site", "cross-site")],
            [("referer", "https://evil.example/shop.example")],
            [("referer", "nonsense")],
        ] {
            assert!(!passes(&pairs), "{pairs:?}");
        }
    }
}
