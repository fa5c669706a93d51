//! What URLs of all remote stores have in common.

use percent_encoding::percent_decode_str;

/// A part of a URL without its escapes.
pub(crate) fn decode(text: &str) -> Result<String, String> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(|text| text.into_owned()).map_err(|_| "holds an escape that is no UTF-8 text".to_owned())
}

/// The URL with `***` for whatever may be a password, even in a URL that does not read.
pub(crate) fn redact(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.rsplit_once('@').map_or_else(|| url.to_owned(), |(_, host)| format!("***@{host}"));
    };
    // The last @, so that an unescaped @ or / in a password does not show a part of it.
    let rest = match rest.rsplit_once('@') {
        Some((user, host)) => match user.split_once(':') {
            Some((user, _)) => format!("{user}:***@{host}"),
            None => rest.to_owned(),
        },
        None => rest.to_owned(),
    };
    let Some((path, query)) = rest.split_once('?') else {
        return format!("{scheme}://{rest}");
    };
    let hidden = |pair: &str| match pair.split_once('=') {
        Some((name, _)) if name.contains("pass") || name.contains("auth") => format!("{name}=***"),
        _ => pair.to_owned(),
    };
    let query: Vec<_> = query.split('&').map(hidden).collect();
    format!("{scheme}://{path}?{}", query.join("&"))
}
