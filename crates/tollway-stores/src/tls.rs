//! TLS: what a URL trusts, and who it says it is.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::WantsClientCert;
#[cfg(feature = "sql-tls")]
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::ring;
#[cfg(feature = "sql-tls")]
use tokio_rustls::rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
#[cfg(feature = "sql-tls")]
use tokio_rustls::rustls::pki_types::UnixTime;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{CertificateError, ClientConfig, ConfigBuilder, Error, RootCertStore, WantsVerifier};
#[cfg(feature = "sql-tls")]
use tokio_rustls::rustls::{DigitallySignedStruct, SignatureScheme};
use tollway_core::StoreErrorKind;

/// How to speak TLS to any host of an address.
#[derive(Clone)]
pub(crate) struct Tls(Arc<ClientConfig>);

/// The files that a URL names.
#[derive(Debug, Default)]
pub(crate) struct Files {
    /// Who signs the servers' certificates; the system's authorities when absent.
    pub(crate) ca: Option<String>,
    /// The client's own certificate and key.
    pub(crate) cert: Option<String>,
    pub(crate) key: Option<String>,
    /// What the URL calls them.
    pub(crate) names: Names,
}

/// What a URL calls the files of an authority, a certificate and a key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names {
    pub(crate) ca: &'static str,
    pub(crate) cert: &'static str,
    pub(crate) key: &'static str,
}

impl Default for Names {
    fn default() -> Self {
        Self { ca: "ca", cert: "cert", key: "key" }
    }
}

impl Tls {
    /// Reads the files. The error is a clause that follows the URL.
    pub(crate) fn read(files: &Files) -> Result<Self, String> {
        let Names { ca, .. } = files.names;
        let roots = match &files.ca {
            Some(path) => roots_of(path, ca)?,
            None => system_roots(ca)?,
        };
        files.identify(builder()?.with_root_certificates(roots))
    }

    /// The same without asking who the server is: against those who listen, not those who pretend.
    #[cfg(feature = "sql-tls")]
    pub(crate) fn blind(files: &Files) -> Result<Self, String> {
        let anybody = Arc::new(Anybody(ring::default_provider().signature_verification_algorithms));
        files.identify(builder()?.dangerous().with_custom_certificate_verifier(anybody))
    }

    /// Shakes hands, and checks that the server's certificate is `host`'s.
    pub(crate) async fn wrap<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        host: &str,
        stream: S,
    ) -> io::Result<TlsStream<S>> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        TlsConnector::from(Arc::clone(&self.0)).connect(name, stream).await
    }
}

impl Files {
    /// Adds the client's own certificate, if the URL names one.
    fn identify(&self, config: ConfigBuilder<ClientConfig, WantsClientCert>) -> Result<Tls, String> {
        let names = self.names;
        let config = match (&self.cert, &self.key) {
            (None, None) => config.with_no_client_auth(),
            (Some(cert), Some(key)) => {
                let chain = certificates(cert, names.cert)?;
                let secret = PrivateKeyDer::from_pem_file(Path::new(key)).map_err(|error| {
                    format!("names {}={key:?}, which holds no private key in PEM form ({error:?})", names.key)
                })?;
                config.with_client_auth_cert(chain, secret).map_err(|error| {
                    let (one, two) = (names.cert, names.key);
                    format!("names {one}={cert:?} and {two}={key:?}, which do not belong together ({error})")
                })?
            }
            _ => {
                return Err(format!(
                    "names one of {} and {}: a client's certificate needs both",
                    names.cert, names.key
                ));
            }
        };
        Ok(Tls(Arc::new(config)))
    }
}

// The provider is named here, so that none needs to be installed for the process.
fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, String> {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("cannot speak TLS ({error})"))
}

/// Believes every server. Signatures are checked, names and authorities are not.
#[cfg(feature = "sql-tls")]
#[derive(Debug)]
struct Anybody(WebPkiSupportedAlgorithms);

#[cfg(feature = "sql-tls")]
impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
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

fn roots_of(path: &str, name: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, name)? {
        let added = roots.add(certificate);
        added
            .map_err(|error| format!("names {name}={path:?}, which holds a certificate that cannot sign ({error})"))?;
    }
    Ok(roots)
}

fn system_roots(name: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(format!("names no {name}, and this system has no certificate authorities: add ?{name}=/PATH.pem"));
    }
    Ok(roots)
}

/// What a failed handshake means, and the next step.
pub(crate) fn explain(place: &str, error: &io::Error, names: &Names) -> (StoreErrorKind, String) {
    use StoreErrorKind::{Misconfigured, Unavailable};
    let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    let (kind, text) = match cause {
        Some(Error::InvalidCertificate(flaw)) => (Misconfigured, explain_certificate(flaw, names)),
        Some(Error::InvalidMessage(_)) => {
            (Misconfigured, "does not speak TLS: name its TLS port, or use the scheme without it".to_owned())
        }
        Some(Error::AlertReceived(alert)) => (
            Misconfigured,
            format!("refused the TLS handshake ({alert:?}): does it want ?{}= and ?{}=?", names.cert, names.key),
        ),
        Some(other) => (Misconfigured, format!("cannot agree on TLS ({other}): see the server's log")),
        None => {
            (Unavailable, format!("closed the connection during the TLS handshake ({error}): is this its TLS port?"))
        }
    };
    (kind, format!("{place} {text}"))
}

fn explain_certificate(flaw: &CertificateError, names: &Names) -> String {
    match flaw {
        CertificateError::UnknownIssuer => {
            format!(
                "has a certificate that nobody trusted here signed: name its authority with ?{}=/PATH.pem",
                names.ca
            )
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
