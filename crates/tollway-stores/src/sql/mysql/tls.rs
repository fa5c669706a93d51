//! TLS for MySQL: what the URL says, told to the driver, which reads the files itself.

use std::path::PathBuf;

use mysql_async::{ClientIdentity, SslOpts};
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::CertificateDer;

use crate::sql::address::Address;
use crate::sql::secure::NAMES;

/// What an address that [`Secure::read`](crate::sql::secure::Secure::read) has accepted asks for.
pub(super) fn options(address: &Address) -> SslOpts {
    // The driver takes the process's provider, and panics where two are built in and none was chosen.
    if CryptoProvider::get_default().is_none() {
        // Who was faster has chosen one.
        let _ = ring::default_provider().install_default();
    }
    let file = |name| address.access.value(name).map(PathBuf::from);
    let identity = file(NAMES.cert).zip(file(NAMES.key));
    let identity = identity.map(|(cert, key)| ClientIdentity::new(cert.into(), key.into()));
    let options = SslOpts::default().with_client_identity(identity);
    if address.access.value("sslmode") != Some("verify-full") {
        return options.with_danger_accept_invalid_certs(true);
    }
    let roots = match file(NAMES.ca) {
        Some(file) => vec![file.into()],
        None => system_roots().map(|root| root.to_vec().into()).collect(),
    };
    options.with_root_certs(roots).with_disable_built_in_roots(true)
}

/// The system's authorities, without those that the driver would stumble over.
fn system_roots() -> impl Iterator<Item = CertificateDer<'static>> {
    let found = rustls_native_certs::load_native_certs().certs.into_iter();
    found.filter(|root| RootCertStore::empty().add(root.clone()).is_ok())
}
