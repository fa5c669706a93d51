//! TLS: what a `rediss://` URL trusts, and who it says it is.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{CertificateError, ClientConfig, Error, RootCertStore};
use tollway_core::StoreErrorKind;

/// How to speak TLS to any host of an address.
#[derive(Clone)]
pub(super) struct Tls(Arc<ClientConfig>);

/// The files that a URL names.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// Who signs the servers' certificates; the system's authorities when absent.
    pub(super) ca: Option<String>,
    /// The client's own certificate and key.
    pub(super) cert: Option<String>,
    pub(super) key: Option<String>,
}

impl Tls {
    /// Reads the files. The error is a clause that follows the URL.
    pub(super) fn read(files: &Files) -> Result<Self, String> {
        let roots = match &files.ca {
            Some(path) => roots_of(path)?,
            None => system_roots()?,
        };
        // The provider is named here, so that none needs to be installed for the process.
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("cannot speak TLS ({error})"))?
            .with_root_certificates(roots);
        let config = match (&files.cert, &files.key) {
            (None, None) => config.with_no_client_auth(),
            (Some(cert), Some(key)) => {
                let chain = certificates(cert, "cert")?;
                let secret = PrivateKeyDer::from_pem_file(Path::new(key)).map_err(|error| {
                    format!("names key={key:?}, which holds no private key in PEM form ({error:?})")
                })?;
                config.with_client_auth_cert(chain, secret).map_err(|error| {
                    format!("names cert={cert:?} and key={key:?}, which do not belong together ({error})")
                })?
            }
            _ => return Err("names one of cert and key: a client's certificate needs both".into()),
        };
        Ok(Self(Arc::new(config)))
    }

    /// Shakes hands, and checks that the server's certificate is `host`'s.
    pub(super) async fn wrap(&self, host: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        TlsConnector::from(Arc::clone(&self.0)).connect(name, stream).await
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

fn certificates(path: &str, what: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(Path::new(path)).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(format!("names {what}={path:?}, which holds no certificate in PEM form")),
        Err(error) => Err(format!("names {what}={path:?}, which does not read as certificates ({error:?})")),
    }
}

fn roots_of(path: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, "ca")? {
        let added = roots.add(certificate);
        added.map_err(|error| format!("names ca={path:?}, which holds a certificate that cannot sign ({error})"))?;
    }
    Ok(roots)
}

fn system_roots() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err("names no ca, and this system has no certificate authorities: add ?ca=/PATH.pem".into());
    }
    Ok(roots)
}

/// What a failed handshake means, and the next step.
pub(super) fn explain(place: &str, error: &io::Error) -> (StoreErrorKind, String) {
    use StoreErrorKind::{Misconfigured, Unavailable};
    let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    let (kind, text) = match cause {
        Some(Error::InvalidCertificate(flaw)) => (Misconfigured, explain_certificate(flaw)),
        Some(Error::InvalidMessage(_)) => {
            (Misconfigured, "does not speak TLS: name its TLS port, or use the scheme without it".to_owned())
        }
        Some(Error::AlertReceived(alert)) => {
            (Misconfigured, format!("refused the TLS handshake ({alert:?}): does it want ?cert= and ?key=?"))
        }
        Some(other) => (Misconfigured, format!("cannot agree on TLS ({other}): see the server's log")),
        None => {
            (Unavailable, format!("closed the connection during the TLS handshake ({error}): is this its TLS port?"))
        }
    };
    (kind, format!("{place} {text}"))
}

fn explain_certificate(flaw: &CertificateError) -> String {
    match flaw {
        CertificateError::UnknownIssuer => {
            "has a certificate that nobody trusted here signed: name its authority with ?ca=/PATH.pem".into()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "has a certificate that has expired: renew it, or correct this host's clock".into()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "has a certificate that is not valid yet: correct this host's clock".into()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "has a certificate for another name: use the name that the certificate holds".into()
        }
        other => format!("has a certificate that is not valid ({other:?}): make it anew"),
    }
}
