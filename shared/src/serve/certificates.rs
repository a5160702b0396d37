//! A listener's certificates. They are read again when their files change; what cannot be used leaves those in force.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustls::ServerConfig;
use tokio_rustls::TlsAcceptor;

use crate::config::Invalid;
use crate::env::Clock;
use crate::link::files::Files;
use crate::link::tls::{self, Credentials, Expiry, TlsError};

/// Where a listener's certificates are.
#[derive(Debug, Clone, Copy)]
pub struct CertificateFiles<'a> {
    /// The certificate chain, PEM: `cert_file`.
    pub certificate: &'a Path,
    /// Its private key, PEM: `key_file`.
    pub key: &'a Path,
    /// The authorities of clients, PEM, which then must show a certificate: `client_ca_file`.
    pub clients: Option<&'a Path>,
}

impl CertificateFiles<'_> {
    /// Everything that is wrong with them; `section` is where they are configured.
    pub fn problems(&self, section: &str) -> Vec<Invalid> {
        let key = |name: &str| format!("{section}.{name}");
        let mut wrong =
            Credentials::problems((&key("cert_file"), self.certificate), (&key("key_file"), self.key));
        let clients = self.clients.and_then(|path| tls::load_authorities(path).err());
        wrong.extend(clients.map(|error| Invalid::new(key("client_ca_file"), error.to_string())));
        wrong
    }

    /// What is to be said of their dates by a clock that says `now`, in ns since 1970: the key, and the words.
    pub fn dates(&self, section: &str, now: u64) -> Option<(String, String)> {
        Some((format!("{section}.cert_file"), tls::out_of_date(self.certificate, now)?))
    }
}

/// When the certificate ends that a listener shows. Clones are the same.
#[derive(Debug, Clone)]
pub struct CertificateEnd(Arc<AtomicU64>);

impl CertificateEnd {
    /// Ns since the Unix epoch, if its dates can be read.
    pub fn unix_nano(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|end| *end > 0)
    }
}

/// See the module.
pub struct Certificates {
    section: String,
    certificate: PathBuf,
    key: PathBuf,
    clients: Option<PathBuf>,
    files: Files,
    acceptor: TlsAcceptor,
    end: CertificateEnd,
    expiry: Expiry,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificates({})", self.section)
    }
}

impl Certificates {
    /// Reads `from`, which is configured at `section`.
    pub fn load(section: &str, from: CertificateFiles<'_>, clock: Arc<dyn Clock>) -> Result<Self, TlsError> {
        let mut files =
            Files::new([Some(from.certificate), Some(from.key), from.clients].into_iter().flatten());
        files.reading();
        let (config, end) = read(from)?;
        Ok(Self {
            section: section.to_owned(),
            certificate: from.certificate.to_owned(),
            key: from.key.to_owned(),
            clients: from.clients.map(Path::to_owned),
            files,
            acceptor: config.into(),
            end: CertificateEnd(Arc::new(AtomicU64::new(end.unwrap_or(0)))),
            expiry: Expiry::default(),
            clock,
        })
    }

    /// When the certificate in force ends, as long as these are used.
    pub fn end(&self) -> CertificateEnd {
        self.end.clone()
    }

    /// What the next connection is met with.
    pub(super) fn acceptor(&mut self) -> TlsAcceptor {
        if self.files.have_changed() {
            self.files.reading();
            let from = CertificateFiles {
                certificate: &self.certificate,
                key: &self.key,
                clients: self.clients.as_deref(),
            };
            match read(from) {
                Ok((config, end)) => {
                    self.acceptor = config.into();
                    self.end.0.store(end.unwrap_or(0), Ordering::Relaxed);
                    tracing::info!(section = self.section, "a listener's certificates were read again");
                }
                Err(error) => tracing::error!(
                    event.name = "perigee.listener.certificate",
                    section = self.section,
                    %error,
                    "a listener's new certificates cannot be used; those in force stay"
                ),
            }
        }
        self.expiry.look(
            &format!("{}.cert_file", self.section),
            self.end.unix_nano(),
            self.clock.unix_nano(),
        );
        self.acceptor.clone()
    }
}

fn read(from: CertificateFiles<'_>) -> Result<(Arc<ServerConfig>, Option<u64>), TlsError> {
    let credentials = Credentials::load(from.certificate, from.key)?;
    let clients = from.clients.map(tls::load_authorities).transpose()?;
    let end = credentials.end();
    Ok((tls::listener_config(credentials, clients)?, end))
}

#[cfg(test)]
#[path = "certificates_tests.rs"]
mod tests;
