//! The TLS configuration: rustls with aws-lc-rs, the system's roots, and one's own.

use std::sync::Arc;

use contract::{Error, ErrorKind};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// Reads certificates in PEM.
///
/// # Errors
///
/// `Invalid`: there is none, or one is not a certificate.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let invalid = || {
        Error::new(ErrorKind::Invalid, "the certificates are not PEM")
            .hint("give a file with `-----BEGIN CERTIFICATE-----`")
    };
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| invalid().because(error))?;
    if certificates.is_empty() { Err(invalid()) } else { Ok(certificates) }
}

/// Blocks: reading the system's certificates takes milliseconds.
pub(crate) fn configuration(extra: &[CertificateDer<'static>]) -> Result<ClientConfig, Error> {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::warn!(%error, "some of the system's certificates cannot be read");
    }
    // Some systems ship roots that no longer parse; the others serve.
    roots.add_parsable_certificates(native.certs);
    for certificate in extra {
        roots.add(certificate.clone()).map_err(|error| {
            Error::new(ErrorKind::Invalid, "a certificate cannot serve as a root").because(error)
        })?;
    }
    // The provider is named: a process-wide default depends on who was first.
    Ok(ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider offers TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth())
}
