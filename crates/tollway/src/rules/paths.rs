//! Requests by method and path: `/api/`, `POST /login/`, `/files/*.css`.

use std::fmt;
use std::str::FromStr;

use tollway_core::ConfigError;

/// A path prefix of whole segments, or a pattern with `*` (within a segment) and `**` (anything) for
/// the whole path; with methods before it when they matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    methods: Vec<Box<str>>,
    path: Box<str>,
    glob: bool,
}

impl Pattern {
    /// How closely it fits a request, the letters of the path that it spells out and then how it names
    /// the method; `None` when it does not. `GET` fits `HEAD` too, which frameworks answer by the same
    /// code: a limit that it went past would be none.
    pub(super) fn fit(&self, method: Option<&str>, path: &str) -> Option<(usize, Naming)> {
        let names = |wanted: &str| self.methods.iter().any(|known| **known == *wanted);
        let naming = match method {
            _ if self.methods.is_empty() => Naming::Any,
            Some(method) if names(method) => Naming::Named,
            Some("HEAD") if names("GET") => Naming::Implied,
            _ => return None,
        };
        if self.glob {
            let spelled = self.path.bytes().filter(|byte| *byte != b'*').count();
            return matches(self.path.as_bytes(), path.as_bytes()).then_some((spelled, naming));
        }
        let rest = path.strip_prefix(&*self.path)?;
        let whole = self.path.ends_with('/') || rest.is_empty() || rest.starts_with('/');
        whole.then_some((self.path.len(), naming))
    }
}

/// How a pattern names the method of a request that it fits, the loosest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Naming {
    Any,
    Implied,
    Named,
}

impl FromStr for Pattern {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let bad =
            || ConfigError::new(format!("{text:?} is no path: write \"/api/\", \"POST /login/\" or \"/files/*.css\""));
        let (methods, path) = match text.trim().rsplit_once(' ') {
            Some((methods, path)) => (methods, path),
            None => ("", text.trim()),
        };
        if !path.starts_with(['/', '*']) {
            return Err(bad());
        }
        let method = |name: &str| {
            let name = name.trim();
            let legal = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphabetic());
            if legal { Ok(name.to_ascii_uppercase().into()) } else { Err(bad()) }
        };
        let methods = if methods.is_empty() { Ok(Vec::new()) } else { methods.split(',').map(method).collect() };
        Ok(Self { methods: methods?, path: path.into(), glob: path.contains('*') })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.methods.is_empty() {
            f.write_str(&self.path)
        } else {
            write!(f, "{} {}", self.methods.join(","), self.path)
        }
    }
}

/// Whether a pattern with stars covers the whole text. The last star tries again one letter further,
/// and a `**` before it if that does not help: at most pattern times text steps each.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on when a letter does not fit: after the star, and how far it has swallowed.
    let mut single: Option<(usize, usize)> = None;
    let mut double: Option<(usize, usize)> = None;
    loop {
        if pattern[p..].starts_with(b"**") {
            p += 2;
            (double, single) = (Some((p, t)), None);
        } else if pattern.get(p) == Some(&b'*') {
            p += 1;
            single = Some((p, t));
        } else if p == pattern.len() && t == text.len() {
            return true;
        } else if p < pattern.len() && pattern.get(p) == text.get(t) {
            (p, t) = (p + 1, t + 1);
        } else if let Some((back, eaten)) = single.filter(|(_, eaten)| text.get(*eaten).is_some_and(|c| *c != b'/')) {
            (p, t) = (back, eaten + 1);
            single = Some((back, t));
        } else if let Some((back, eaten)) = double.filter(|(_, eaten)| *eaten < text.len()) {
            (p, t) = (back, eaten + 1);
            (double, single) = (Some((back, t)), None);
        } else {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_fit_by_whole_segments_and_stars() {
        for (pattern, method, path, fits) in [
            ("/api", None, "/api", true),
            ("/api", None, "/api/x", true),
            ("/api", None, "/apix", false),
            ("/api/", None, "/api", false),
            ("POST /login/", Some("POST"), "/login/", true),
            ("POST /login/", Some("GET"), "/login/", false),
            ("GET,HEAD /", Some("HEAD"), "/x", true),
            ("GET /", Some("HEAD"), "/x", true),
            ("POST /", Some("HEAD"), "/x", false),
            ("HEAD /", Some("GET"), "/x", false),
            ("GET /", None, "/x", false),
            ("*.css", None, "a.css", true),
            ("/*.css", None, "/a/b.css", false),
            ("/**.css", None, "/a/b.css", true),
            ("/**/edit", None, "/a/b/edit", true),
            ("/users/*/edit", None, "/users/7/edit", true),
            ("/users/*/edit", None, "/users/7/8/edit", false),
            ("/**/x*y/z", None, "/a/x/xby/z", true),
            ("/a**", None, "/b", false),
            ("/*", None, "/", true),
        ] {
            let pattern: Pattern = pattern.parse().unwrap();
            assert_eq!(pattern.fit(method, path).is_some(), fits, "{pattern} {path}");
        }
    }

    #[test]
    fn what_names_the_method_fits_more_closely() {
        let fit = |pattern: &str| pattern.parse::<Pattern>().unwrap().fit(Some("HEAD"), "/x");
        assert!(fit("HEAD /") > fit("GET /") && fit("GET /") > fit("/") && fit("/") > fit("POST /"));
        assert!(fit("/x") > fit("HEAD /"), "the path counts first");
    }

    proptest::proptest! {
        #[test]
        fn stars_agree_with_the_plain_definition(pattern in "[ab/*]{0,7}", text in "[ab/]{0,9}") {
            fn plain(pattern: &[u8], text: &[u8]) -> bool {
                match pattern {
                    [] => text.is_empty(),
                    [b'*', b'*', rest @ ..] => (0..=text.len()).any(|n| plain(rest, &text[n..])),
                    [b'*', rest @ ..] => (0..=text.len())
                        .take_while(|n| !text[..*n].contains(&b'/')).any(|n| plain(rest, &text[n..])),
                    [letter, rest @ ..] => text.first() == Some(letter) && plain(rest, &text[1..]),
                }
            }
            proptest::prop_assert_eq!(
                matches(pattern.as_bytes(), text.as_bytes()), plain(pattern.as_bytes(), text.as_bytes())
            );
        }
    }

    #[test]
    fn what_is_no_path_is_named() {
        for text in ["api", "", "POST", "P0ST /x", ", /x"] {
            assert!(text.parse::<Pattern>().unwrap_err().to_string().contains("is no path"), "{text}");
        }
    }
}
