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
    /// Of each its authority's name and when it begins, s since the Unix epoch.
    begins: Vec<(Vec<u8>, i64)>,
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
        let mut found = Self::default();
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
            found.expires = [found.expires, next].into_iter().flatten().min();
            found.begins.push((parsed.issuer().as_raw().to_vec(), parsed.last_update().timestamp()));
        }
        Ok(Self { lists, ..found })
    }

    /// Says so when one of them is older than its authority's in force: somebody who was revoked may be let in again.
    pub fn warn_if_older(&self, in_force: &Self) {
        for (authority, before) in &in_force.begins {
            let Some((_, older)) = self.begins.iter().find(|(a, begin)| a == authority && begin < before)
            else {
                continue;
            };
            tracing::warn!(
                event.name = "perigee.link.revocation_list",
                list = %shown_second(*older),
                before = %shown_second(*before),
                "the new revocation list is older than the one before; whoever was revoked since then is trusted again"
            );
        }
    }

    /// Whether it begins after this time: a clock is wrong, here or where the list was made.
    pub fn begins_later(&self, unix_nano: u64) -> bool {
        self.last_begin().is_some_and(|at| seconds(unix_nano) < at)
    }

    fn last_begin(&self) -> Option<i64> {
        self.begins.iter().map(|(_, begin)| *begin).max()
    }

    /// Whether a new list was due at this time.
    pub fn has_expired(&self, unix_nano: u64) -> bool {
        self.expires.is_some_and(|at| seconds(unix_nano) > at)
    }

    /// What is to be said of the list of `path` when a new one was due at this time, or when it begins later.
    pub fn out_of_date(&self, path: &Path, unix_nano: u64) -> Option<String> {
        let (path, now) = (path.display(), shown_time(unix_nano));
        if let Some(end) = self.expires.filter(|_| self.has_expired(unix_nano)) {
            let end = shown_second(end);
            return Some(format!(
                "{path} ended at {end}, and the clock of this machine says {now}: make a new one with `pki revoke`, or set the clock; until \
                 then it is used all the same"
            ));
        }
        let begin = shown_second(self.last_begin().filter(|_| self.begins_later(unix_nano))?);
        Some(format!(
            "{path} begins at {begin}, and the clock of this machine says {now}: set the clock here, or where the list was made; until then \
             it is used all the same"
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

fn seconds(unix_nano: u64) -> i64 {
    i64::try_from(unix_nano / 1_000_000_000).unwrap_or(i64::MAX)
}

fn shown_second(unix: i64) -> String {
    shown_time(u64::try_from(unix).unwrap_or(0).saturating_mul(1_000_000_000))
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
