//! What a URL says about a server, which a file does not have.

use crate::remote::url::decode;

/// Where a server is, who asks it, and how.
#[derive(Clone, Default)]
pub(super) struct Access {
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    /// Host names with their ports.
    pub(super) hosts: Vec<(String, Option<u16>)>,
    query: Vec<(String, String)>,
}

impl Access {
    /// Reads what follows the scheme, up to the database, and takes the parameters along.
    ///
    /// # Errors
    /// What is wrong, as the rest of a sentence about the URL.
    pub(super) fn parse(rest: &str, query: Vec<(String, String)>) -> Result<Self, String> {
        let (login, rest) = rest.rsplit_once('@').unwrap_or(("", rest));
        let hosts = rest.split_once('/').map_or(rest, |(hosts, _)| hosts);
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let some = |text: &str| decode(text).map(|text| Some(text).filter(|text| !text.is_empty()));
        let hosts = hosts.split(',').filter(|host| !host.is_empty()).map(host_of);
        Ok(Self { user: some(user)?, password: some(password)?, hosts: hosts.collect::<Result<_, _>>()?, query })
    }

    /// A parameter's value.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(parameter, _)| parameter == name).map(|(_, value)| value.as_str())
    }
}

fn host_of(host: &str) -> Result<(String, Option<u16>), String> {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    };
    let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let port = port.map(|port| port.parse().map_err(|_| format!("has a port {port:?}: use 1 to 65535")));
    Ok((decode(name)?, port.transpose()?))
}

#[cfg(test)]
mod tests {
    use crate::sql::address::Address;

    #[test]
    fn pieces_are_found() {
        let address = Address::parse("postgres://me:a%40b@one:7000,[::1],two/shop?host=x%2Fy", "x").unwrap();
        let access = &address.access;
        assert_eq!((access.user.as_deref(), access.password.as_deref()), (Some("me"), Some("a@b")));
        let hosts = [("one".to_owned(), Some(7000)), ("::1".to_owned(), None), ("two".to_owned(), None)];
        assert_eq!((&access.hosts[..], access.value("host")), (&hosts[..], Some("x/y")));
        assert_eq!((address.database.as_str(), access.value("socket")), ("shop", None));
    }

    #[test]
    fn what_does_not_read_is_said() {
        for (url, part) in [
            ("mysql://localhost:99999/shop", "port \"99999\""),
            ("postgres://me:%ff@localhost", "UTF-8"),
            ("postgres://me@%ff/shop", "UTF-8"),
        ] {
            let error = Address::parse(url, "tollway").expect_err(url).to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
