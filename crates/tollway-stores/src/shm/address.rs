//! What a `shm://` URL says.

use tollway_core::ConfigError;

/// Keys of each limit, and limits, unless the URL says otherwise.
const MAX_KEYS: usize = 100_000;
const TABLES: usize = 64;
/// The most of both.
const MOST_KEYS: usize = 1 << 30;
const MOST_TABLES: usize = 4_096;
const LONGEST_NAME: usize = 64;

/// A segment by name, and its size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) name: String,
    pub(super) max_keys: usize,
    pub(super) tables: usize,
}

impl Address {
    pub(super) fn parse(url: &str) -> Result<Self, ConfigError> {
        let wrong = |what: String| ConfigError::new(format!("backend {url:?} {what}"));
        let rest = url.strip_prefix("shm://").ok_or_else(|| wrong("does not begin with shm://".to_owned()))?;
        let (name, options) = rest.split_once('?').unwrap_or((rest, ""));
        let usable = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > LONGEST_NAME || name.starts_with('.') || !name.chars().all(usable) {
            return Err(wrong(format!(
                "names its segment {name:?}: use 1 to {LONGEST_NAME} letters, digits, -, _ and ., such as shm://tollway"
            )));
        }
        let mut address = Self { name: name.to_owned(), max_keys: MAX_KEYS, tables: TABLES };
        for option in options.split('&').filter(|option| !option.is_empty()) {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            let (place, most) = match key {
                "max_keys" => (&mut address.max_keys, MOST_KEYS),
                "tables" => (&mut address.tables, MOST_TABLES),
                _ => return Err(wrong(format!("has an option {key:?}: use max_keys and tables"))),
            };
            *place = (value.parse().ok())
                .filter(|number| (1..=most).contains(number))
                .ok_or_else(|| wrong(format!("says {key}={value}: use a number from 1 to {most}")))?;
        }
        Ok(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_a_name_and_a_size() {
        let plain = Address::parse("shm://tollway").unwrap();
        assert_eq!(plain, Address { name: "tollway".to_owned(), max_keys: 100_000, tables: 64 });
        let sized = Address::parse("shm://a-b_c.d?max_keys=500&tables=8").unwrap();
        assert_eq!((sized.name.as_str(), sized.max_keys, sized.tables), ("a-b_c.d", 500, 8));
    }

    #[test]
    fn what_does_not_read_is_named() {
        for (url, part) in [
            ("shm://", "names its segment \"\""),
            ("shm://../etc", "names its segment \"../etc\""),
            ("shm://.hidden", "letters, digits"),
            ("shm://a/b", "letters, digits"),
            ("shm://a?max_keys=0", "max_keys=0: use a number from 1"),
            ("shm://a?max_keys=many", "max_keys=many"),
            ("shm://a?tables=5000", "tables=5000: use a number from 1 to 4096"),
            ("shm://a?size=5", "option \"size\": use max_keys and tables"),
            ("memory://", "does not begin with shm://"),
        ] {
            let error = Address::parse(url).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
