//! What a URL says about TLS.

use tollway_core::ConfigError;

use super::address::Address;
#[cfg(feature = "sql-tls")]
use crate::tls::{Files, Names, Tls};

/// What the URL calls its files, as the database's own tools do.
#[cfg(feature = "sql-tls")]
pub(super) const NAMES: Names = Names { ca: "sslrootcert", cert: "sslcert", key: "sslkey" };

/// Whether and how to speak TLS.
#[derive(Clone, Debug)]
pub(super) enum Secure {
    Never,
    /// When the server offers it; whoever it is.
    #[cfg(feature = "sql-tls")]
    Offered(Tls),
    /// Always.
    #[cfg(feature = "sql-tls")]
    Always(Tls),
}

impl Secure {
    pub(super) fn read(address: &Address) -> Result<Self, ConfigError> {
        let mode = address.access.value("sslmode");
        #[cfg(feature = "sql-tls")]
        {
            let value = |name| address.access.value(name).map(str::to_owned);
            let files = Files { ca: value(NAMES.ca), cert: value(NAMES.cert), key: value(NAMES.key), names: NAMES };
            let blind = || Tls::blind(&files).map_err(|why| address.refuse(&why));
            if files.ca.is_some() && mode != Some("verify-full") {
                return Err(address.refuse("names sslrootcert, which only sslmode=verify-full looks at: add it"));
            }
            match mode {
                None | Some("prefer") => blind().map(Self::Offered),
                Some("disable") => Ok(Self::Never),
                Some("require") => blind().map(Self::Always),
                Some("verify-full") => Tls::read(&files).map(Self::Always).map_err(|why| address.refuse(&why)),
                Some(mode) => Err(Self::unknown(address, mode)),
            }
        }
        #[cfg(not(feature = "sql-tls"))]
        match mode {
            None | Some("disable" | "prefer") => Ok(Self::Never),
            Some("require" | "verify-full") => {
                Err(address.refuse("asks for TLS: build Tollway with the feature sql-tls"))
            }
            Some(mode) => Err(Self::unknown(address, mode)),
        }
    }

    fn unknown(address: &Address, mode: &str) -> ConfigError {
        address.refuse(&format!("has sslmode={mode}: use disable, prefer, require or verify-full"))
    }
}
