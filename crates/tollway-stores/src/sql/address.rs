//! From a URL to its pieces, and a name without its password.

use std::fmt;

use tollway_core::ConfigError;

#[cfg(any(feature = "mysql", feature = "postgres"))]
use super::access::Access;
use crate::remote::url::{decode, redact};

/// The longest name of a table or schema; what PostgreSQL keeps of one.
const MOST_NAME: usize = 63;

/// What a URL says. Its `Debug` and its name never show the password.
#[derive(Clone)]
pub(super) struct Address {
    /// The URL with the password redacted.
    pub(super) name: String,
    pub(super) scheme: String,
    #[cfg(any(feature = "mysql", feature = "postgres"))]
    pub(super) access: Access,
    /// The database; of `sqlite://` the file.
    pub(super) database: String,
    /// Where the states are: a table, maybe with a schema in front.
    pub(super) table: Table,
}

/// The name of a table, legal everywhere without quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) schema: Option<String>,
    pub(super) table: String,
}

impl Address {
    /// Reads `url`. `prefix` names the table where the URL does not.
    pub(super) fn parse(url: &str, prefix: &str) -> Result<Self, ConfigError> {
        let name = redact(url);
        let refuse = |why: &str| ConfigError::new(format!("database URL {name:?} {why}"));
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(refuse("has no scheme: write postgres://USER@HOST/DATABASE, mysql://… or sqlite:///PATH"));
        };
        let known: &[&str] = match scheme {
            "postgres" | "postgresql" => &["table", "sslmode", "sslrootcert", "sslcert", "sslkey", "host"],
            "mysql" | "mariadb" => &["table", "sslmode", "sslrootcert", "sslcert", "sslkey", "socket"],
            "sqlite" => &["table"],
            _ => return Err(refuse("has another scheme: use postgres://, mysql:// or sqlite://")),
        };
        if rest.contains('#') {
            return Err(refuse("has a fragment: write %23 for a # in a password"));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let query: Vec<_> = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).collect();
        if let Some((stranger, _)) = query.iter().find(|(parameter, _)| !known.contains(parameter)) {
            return Err(refuse(&format!("has a parameter {stranger:?}: {scheme}:// knows {}", known.join(", "))));
        }
        let decoded = |text: &str| decode(text).map_err(|why| refuse(&why));
        let query = query.iter().map(|(name, value)| Ok(((*name).to_owned(), decoded(value)?)));
        let query: Vec<(String, String)> = query.collect::<Result<_, ConfigError>>()?;
        let path = match (scheme, rest.strip_prefix('/')) {
            ("sqlite", Some(path)) => path,
            ("sqlite", None) => {
                return Err(refuse("names a host: write sqlite:///FILE, or sqlite:////FOLDER/FILE from the root"));
            }
            // A password may have a slash in it.
            _ => rest.rsplit('@').next().and_then(|rest| rest.split_once('/')).map_or("", |(_, path)| path),
        };
        let table = match query.iter().find(|(name, _)| name == "table") {
            Some((_, table)) => Table::parse(table).map_err(|why| refuse(&why))?,
            None => Table::of_prefix(prefix),
        };
        Ok(Self {
            scheme: scheme.to_owned(),
            database: decoded(path)?,
            table,
            #[cfg(any(feature = "mysql", feature = "postgres"))]
            access: match scheme {
                "sqlite" => Access::default(),
                _ => Access::parse(rest, query).map_err(|why| refuse(&why))?,
            },
            name,
        })
    }

    /// An error about this URL.
    pub(super) fn refuse(&self, why: &str) -> ConfigError {
        ConfigError::new(format!("database URL {:?} {why}", self.name))
    }
}

impl Table {
    /// The table of a prefix: `PREFIX_states`, what is no letter or digit turned into `_`.
    fn of_prefix(prefix: &str) -> Self {
        let word = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
        let mut table: String = prefix.chars().take(MOST_NAME - 16).map(word).collect();
        if !table.starts_with(|c: char| c.is_ascii_lowercase() || c == '_') {
            table.insert(0, '_');
        }
        Self { schema: None, table: table + "_states" }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let legal = |name: &str| {
            (1..=MOST_NAME - 12).contains(&name.len())
                && name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
                && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        };
        let (schema, table) = text.split_once('.').map_or((None, text), |(schema, table)| (Some(schema), table));
        if !legal(table) || !schema.is_none_or(legal) {
            return Err(format!(
                "names the table {text:?}: use 1 to {} of a-z, 0-9 and _, maybe with such a schema in front, SCHEMA.TABLE",
                MOST_NAME - 12
            ));
        }
        Ok(Self { schema: schema.map(str::to_owned), table: table.to_owned() })
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(schema) = &self.schema {
            write!(f, "{schema}.")?;
        }
        f.write_str(&self.table)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        for url in [
            "postgres://me:hunter2@localhost/shop",
            "postgres://me:hun/hunter2@localhost",
            "postgres://me:h@hunter2@localhost",
            "mysql://me:hunter2@localhost:port/shop",
            "mysql://me:hunter2@localhost?table=a-b",
            "oracle://me:hunter2@localhost",
            "me:hunter2@localhost",
        ] {
            let text = match Address::parse(url, "tollway") {
                Ok(address) => format!("{address:?} {}", address.refuse("x")),
                Err(error) => error.to_string(),
            };
            assert!(!text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn what_does_not_read_is_said() {
        for (url, part) in [
            ("localhost/shop", "no scheme"),
            ("oracle://localhost/shop", "another scheme"),
            ("postgres://localhost/shop?tabel=x", "\"tabel\""),
            ("postgres://localhost/shop?table=a;drop", "the table \"a;drop\""),
            ("postgres://localhost/shop?table=Limits", "the table"),
            ("postgres://localhost/shop?table=a.b.c", "the table"),
            ("mysql://localhost/shop?sslmod=require", "\"sslmod\""),
            ("sqlite:///a.db?sslmode=require", "\"sslmode\""),
            ("sqlite://limits.db", "names a host"),
            ("postgres://me:a#b@localhost", "fragment"),
            ("sqlite:///%ff", "UTF-8"),
        ] {
            let error = Address::parse(url, "tollway").expect_err(url).to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn pieces_are_found() {
        let address = Address::parse("postgres://me:a/b@c@one/shop?table=rl.states", "x").unwrap();
        assert_eq!((address.database.as_str(), address.table.to_string()), ("shop", "rl.states".to_owned()));
        let file = Address::parse("sqlite:////var/l@b:1/limits.db", "My-App:1").unwrap();
        assert_eq!(
            (file.database.as_str(), file.table.to_string()),
            ("/var/l@b:1/limits.db", "my_app_1_states".into())
        );
    }
}
