//! TLS of exporters.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::config::{Secret, TlsConfig, TlsVersion};
use crate::config::Invalid;
use crate::files;

/// PEM, from a file or from the configuration itself.
fn pem(key: &str, name: &str, file: Option<&Path>, text: Option<&str>) -> Result<Option<Vec<u8>>, Invalid> {
    match (file, text) {
        (Some(_), Some(_)) => {
            let message = format!("there is {name}_pem too; keep one of both");
            Err(Invalid::new(format!("{key}.tls.{name}_file"), message))
        }
        (None, text) => Ok(text.map(|t| t.as_bytes().to_vec())),
        (Some(path), None) => files::read(path, files::CERTIFICATES).map(Some).map_err(|e| {
            let path = path.display();
            let message = format!("cannot read {path}: {e}; check the path and that this user may read it");
            Invalid::new(format!("{key}.tls.{name}_file"), message)
        }),
    }
}

/// Every file of `config` that cannot be read.
pub(super) fn unreadable(key: &str, config: &TlsConfig) -> Vec<Invalid> {
    let parts = [
        ("ca", &config.ca_file, &config.ca_pem),
        ("cert", &config.cert_file, &config.cert_pem),
        ("key", &config.key_file, &config.key_pem),
    ];
    let read = |(name, file, text): (_, &Option<PathBuf>, &Option<Secret>)| {
        pem(key, name, file.as_deref(), text.as_ref().map(|s| s.0.as_str())).err()
    };
    parts.into_iter().filter_map(read).collect()
}

/// The key under which a part was configured.
fn part(key: &str, name: &str, from_file: bool) -> String {
    format!("{key}.tls.{name}_{}", if from_file { "file" } else { "pem" })
}

/// What `config` says, as rustls takes it; `key` is where it was configured.
pub fn client_config(key: &str, config: &TlsConfig) -> Result<ClientConfig, Invalid> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions: &[_] = match config.min_version {
        TlsVersion::Tls12 => rustls::ALL_VERSIONS,
        TlsVersion::Tls13 => &[&rustls::version::TLS13],
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(|e| Invalid::new(format!("{key}.tls"), e.to_string()))?;
    let builder = if config.insecure_skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)))
    } else {
        builder.with_root_certificates(roots(key, config)?)
    };
    let cert = pem(key, "cert", config.cert_file.as_deref(), config.cert_pem.as_ref().map(|s| s.0.as_str()))?;
    let private = pem(key, "key", config.key_file.as_deref(), config.key_pem.as_ref().map(|s| s.0.as_str()))?;
    let (cert_key, key_key) =
        (part(key, "cert", config.cert_file.is_some()), part(key, "key", config.key_file.is_some()));
    let (cert, private) = match (cert, private) {
        (Some(cert), Some(private)) => (cert, private),
        (None, None) => return Ok(builder.with_no_client_auth()),
        (Some(_), None) => {
            return Err(Invalid::new(format!("{key}.tls.key_file"), "cert_file needs its key_file"));
        }
        (None, Some(_)) => {
            return Err(Invalid::new(format!("{key}.tls.cert_file"), "key_file needs its cert_file"));
        }
    };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&cert)
        .collect::<Result<_, _>>()
        .map_err(|e| Invalid::new(&cert_key, format!("is not PEM: {e}")))?;
    if chain.is_empty() {
        return Err(Invalid::new(cert_key, "has no certificate in it"));
    }
    let private = PrivateKeyDer::from_pem_slice(&private)
        .map_err(|e| Invalid::new(key_key, format!("has no private key in it: {e}")))?;
    builder
        .with_client_auth_cert(chain, private)
        .map_err(|e| Invalid::new(cert_key, format!("does not go with the private key: {e}")))
}

/// The authorities that the server's certificate may come from.
fn roots(key: &str, config: &TlsConfig) -> Result<RootCertStore, Invalid> {
    let mut roots = RootCertStore::empty();
    let ca = pem(key, "ca", config.ca_file.as_deref(), config.ca_pem.as_ref().map(|s| s.0.as_str()))?;
    if ca.is_none() || config.include_system_ca_certs_pool {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let why = found.errors.first().map(|e| format!(" ({e})")).unwrap_or_default();
            let message =
                format!("this system has no authorities that can be read{why}; name yours in ca_file");
            return Err(Invalid::new(format!("{key}.tls"), message));
        }
    }
    let Some(ca) = ca else { return Ok(roots) };
    let key = part(key, "ca", config.ca_file.is_some());
    let mut any = false;
    for certificate in CertificateDer::pem_slice_iter(&ca) {
        let certificate = certificate.map_err(|e| Invalid::new(&key, format!("is not PEM: {e}")))?;
        roots.add(certificate).map_err(|e| Invalid::new(&key, format!("is no authority: {e}")))?;
        any = true;
    }
    if any { Ok(roots) } else { Err(Invalid::new(key, "has no certificate in it")) }
}

/// Takes every certificate, as `insecure_skip_verify` asks for; only that the server has its key is checked.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
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
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreadable_certificate_is_named_with_its_key() {
        for file in ["/nowhere/ca.pem", "/"] {
            let config = TlsConfig { ca_file: Some(file.into()), ..TlsConfig::default() };
            let invalid = client_config("exporters.otlp", &config).unwrap_err();
            assert_eq!(invalid.key, "exporters.otlp.tls.ca_file");
            assert!(invalid.message.contains(file), "{}", invalid.message);
        }
        let config = TlsConfig { ca_pem: Some("nothing".to_owned().into()), ..TlsConfig::default() };
        let invalid = client_config("exporters.otlp", &config).unwrap_err();
        assert_eq!(
            (invalid.key.as_str(), invalid.message.as_str()),
            ("exporters.otlp.tls.ca_pem", "has no certificate in it")
        );
    }
}
