//! Encryption of connections.

use std::path::Path;
use std::sync::Arc;

use contract::{Error, ErrorKind};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, NamedGroup, RootCertStore, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::Tls;

/// What opens encrypted connections in this mode. Reads files, so it belongs on a blocking thread.
pub(crate) fn connector(mode: Tls, ca_file: Option<&Path>) -> Result<MakeRustlsConnect, Error> {
    let mut provider = aws_lc_rs::default_provider();
    // What servers before 18 take when nobody set it; to offer another one first costs a round trip.
    provider.kx_groups.sort_by_key(|group| group.name() != NamedGroup::secp256r1);
    let provider = Arc::new(provider);
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::new(ErrorKind::Other, "cannot set up TLS").because(error))?;
    let config = if mode == Tls::Verify {
        builder.with_root_certificates(roots(ca_file)?)
    } else {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Believe(provider)))
    };
    Ok(MakeRustlsConnect::new(config.with_no_client_auth()))
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    let Some(file) = ca_file else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(Error::new(
                ErrorKind::NotFound,
                "the operating system has no certificate authorities",
            )
            .hint("install the package `ca-certificates`, or set `tls_ca_file`"));
        }
        return Ok(roots);
    };
    let wrong = |message: &str| {
        Error::new(ErrorKind::Invalid, message).with("key", "tls_ca_file").with("file", file.display())
    };
    let pem =
        std::fs::read(file).map_err(|error| wrong("cannot read the certificate file").because(error))?;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        certificate
            .map_err(|error| error.to_string())
            .and_then(|certificate| roots.add(certificate).map_err(|error| error.to_string()))
            .map_err(|error| wrong("cannot use a certificate in the file").because(error))?;
    }
    if roots.is_empty() {
        return Err(wrong("no certificate in the file").hint("it must hold `-----BEGIN CERTIFICATE-----`"));
    }
    Ok(roots)
}

/// `prefer` and `require`: the line is encrypted to whoever answers, as these modes say.
#[derive(Debug)]
struct Believe(Arc<CryptoProvider>);

impl ServerCertVerifier for Believe {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
