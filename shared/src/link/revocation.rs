//! Revocation lists: read, checked against their authority, and asked for a certificate's serial number.

use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::files::Files;
use super::tls::{TlsError, certificates};
use crate::contact::shown_time;

/// Bytes of a list's file.
const LARGEST: u64 = 16 << 20;

/// Lists that are signed by an authority of ours.
#[derive(Debug, Clone, Default)]
pub struct Revocations {
    lists: Vec<CertificateRevocationListDer<'static>>,
    /// When the first of them expires, s since the Unix epoch.
    expires: Option<i64>,
}

impl Revocations {
    /// Reads the lists in a file, PEM or DER. Each must be signed by an authority in `authorities`, PEM.
    pub fn load(path: &Path, authorities: &Path) -> Result<Self, TlsError> {
        let unusable =
            |why: String| TlsError::File { what: "revocation list", path: path.display().to_string(), why };
        let bytes = crate::files::read(path, LARGEST).map_err(|e| unusable(e.to_string()))?;
        let lists = split(bytes).map_err(unusable)?;
        let authorities = certificates("authority", authorities)?;
        let mut expires = None;
        for list in &lists {
            let (rest, parsed) = CertificateRevocationList::from_der(list)
                .map_err(|e| unusable(format!("it cannot be read ({e}); make it again with `pki revoke`")))?;
            if !rest.is_empty() || webpki::BorrowedCertRevocationList::from_der(list).is_err() {
                return Err(unusable("it cannot be read; make it again with `pki revoke`".to_owned()));
            }
            if !authorities.iter().any(|authority| is_of(&parsed, authority)) {
                let issuer = parsed.issuer();
                return Err(unusable(format!(
                    "it is of another authority ({issuer}), or its signature is wrong"
                )));
            }
            let next = parsed.next_update().map(|time| time.timestamp());
            expires = [expires, next].into_iter().flatten().min();
        }
        Ok(Self { lists, expires })
    }

    /// Whether a new list was due at this time.
    pub fn has_expired(&self, unix_nano: u64) -> bool {
        self.expires.is_some_and(|at| i64::try_from(unix_nano / 1_000_000_000).is_ok_and(|now| now > at))
    }

    /// What is to be said of the list of `path` when a new one was due at this time.
    pub fn out_of_date(&self, path: &Path, unix_nano: u64) -> Option<String> {
        let due = self.expires.filter(|_| self.has_expired(unix_nano))?;
        Some(format!(
            "{} ended at {}, and the clock of this machine says {}: make a new one with `pki revoke`, or set the clock; until then it is \
             used all the same",
            path.display(),
            shown_time(u64::try_from(due).unwrap_or(0).saturating_mul(1_000_000_000)),
            shown_time(unix_nano)
        ))
    }

    /// Whether a certificate with this serial number, big-endian, is revoked.
    pub fn contain(&self, serial: &[u8]) -> bool {
        self.lists.iter().any(|list| {
            webpki::BorrowedCertRevocationList::from_der(list)
                .map(webpki::CertRevocationList::from)
                .is_ok_and(|list| matches!(list.find_serial(serial), Ok(Some(_))))
        })
    }

    /// As rustls takes them.
    pub fn lists(&self) -> &[CertificateRevocationListDer<'static>] {
        &self.lists
    }
}

/// A file of lists that is read again when it changes.
pub struct ListFile {
    path: PathBuf,
    authorities: PathBuf,
    file: Files,
}

impl ListFile {
    /// The lists at `path`, which an authority in the file `authorities` must have signed. Nothing is read yet.
    pub fn new(path: &Path, authorities: &Path) -> Self {
        Self { path: path.to_owned(), authorities: authorities.to_owned(), file: Files::new([path]) }
    }

    /// Whether it is another file than was read last.
    pub fn has_changed(&self) -> bool {
        self.file.have_changed()
    }

    /// Reads it.
    pub fn load(&mut self) -> Result<Revocations, TlsError> {
        self.file.reading();
        Revocations::load(&self.path, &self.authorities)
    }
}

/// The lists in a file's bytes.
fn split(bytes: Vec<u8>) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    const PEM: &[u8] = b"-----BEGIN ";
    if bytes.is_empty() {
        return Err("it is empty; make it again with `pki revoke`".to_owned());
    }
    // A list in DER is a sequence; text has no such byte before its first block.
    if bytes[0] == 0x30 && !bytes.windows(PEM.len()).any(|w| w == PEM) {
        return Ok(vec![CertificateRevocationListDer::from(bytes)]);
    }
    let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&bytes).collect();
    match lists {
        Ok(lists) if lists.is_empty() => {
            Err("there is no list in it; it has to be DER, or PEM with X509 CRL blocks".to_owned())
        }
        Ok(lists) => Ok(lists),
        Err(error) => Err(format!("{error}; it has to be DER, or PEM with X509 CRL blocks")),
    }
}

/// Whether this authority has signed the list.
fn is_of(list: &CertificateRevocationList<'_>, authority: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(authority).is_ok_and(|(_, authority)| {
        authority.subject().as_raw() == list.issuer().as_raw()
            && list.verify_signature(authority.public_key()).is_ok()
    })
}
