//! Certificate and key of the HTTP server.

use std::path::Path;
use std::sync::Arc;

use contract::{Error, ErrorKind};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::TlsConfig;

/// Reads certificate chain and key.
///
/// # Errors
///
/// `Invalid`: a file cannot be read or does not hold what it should; names the file and the key in `steward.yaml`.
pub(crate) fn server_config(dir: &Path, tls: &TlsConfig) -> Result<Arc<ServerConfig>, Error> {
    let wrong = |key: &str, file: &Path, cause: &dyn std::fmt::Display| {
        Error::new(ErrorKind::Invalid, "cannot use the TLS file")
            .with("key", format!("http.tls.{key}"))
            .with("file", file.display())
            .because(cause.to_string())
            .hint("give PEM files that the server's user can read")
    };
    let (certificate, key) = (dir.join(&tls.certificate), dir.join(&tls.key));
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&certificate)
        .and_then(Iterator::collect)
        .map_err(|cause| wrong("certificate", &certificate, &cause))?;
    if chain.is_empty() {
        return Err(wrong("certificate", &certificate, &"it holds no certificate"));
    }
    let private = PrivateKeyDer::from_pem_file(&key).map_err(|cause| wrong("key", &key, &cause))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|cause| wrong("certificate", &certificate, &cause))?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|cause| wrong("key", &key, &cause))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
