//! The server's certificate, read with errors that name the file.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A certificate chain and its key, ready for connections: TLS 1.2 and 1.3, with
/// HTTP/2 and HTTP/1.1 offered by ALPN.
#[derive(Clone)]
pub struct Tls {
    pub(crate) config: Arc<ServerConfig>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// Why a certificate or its key cannot be used.
#[derive(Debug)]
pub struct TlsError {
    file: PathBuf,
    why: String,
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.why)
    }
}

impl std::error::Error for TlsError {}

impl Tls {
    /// Reads PEM files: the certificate with those it was signed by, leaf first,
    /// and the key that belongs to it.
    ///
    /// Fails with a sentence that names the file when one is missing, holds
    /// nothing of the kind, or the two do not belong together.
    ///
    /// ```
    /// use tollway_server::Tls;
    /// let error = Tls::from_files("no-such.pem".as_ref(), "no-such.key".as_ref()).unwrap_err();
    /// assert!(error.to_string().starts_with("no-such.pem: "));
    /// ```
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Tls, TlsError> {
        let fail = |file: &Path, why: String| TlsError { file: file.to_owned(), why };
        let chain = CertificateDer::pem_file_iter(certificate)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| fail(certificate, reason(error, "certificate")))?;
        if chain.is_empty() {
            return Err(fail(certificate, reason(pem::Error::NoItemsFound, "certificate")));
        }
        let private = PrivateKeyDer::from_pem_file(key).map_err(|error| fail(key, reason(error, "private key")))?;
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| fail(certificate, error.to_string()))?
            .with_no_client_auth()
            .with_single_cert(chain, private)
            .map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => {
                    fail(key, format!("this key does not belong to the certificate in {}", certificate.display()))
                }
                error => fail(certificate, error.to_string()),
            })?;
        Ok(Tls { config: Arc::new(with_alpn(config)) })
    }
}

fn with_alpn(mut config: ServerConfig) -> ServerConfig {
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

fn reason(error: pem::Error, what: &str) -> String {
    match error {
        pem::Error::Io(error) => format!("cannot be read: {error}"),
        pem::Error::NoItemsFound => format!("there is no {what} in PEM form"),
        error => format!("this is not PEM: {error}"),
    }
}
