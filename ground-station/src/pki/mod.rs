//! Authorities and certificates, so that nobody needs openssl.
//!
//! A directory holds two authorities (`satellite-ca`, `station-ca`), what they issued (`satellite-ID`, `station-ID`), their
//! revocation lists (`*-ca.crl`) and `pki.json`, which says what was issued. Keys are ECDSA P-256 and readable by their owner
//! only.

mod index;

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use perigee_shared::env::Env;
use perigee_shared::files;
use perigee_shared::link::tls::is_valid_id;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertificateSigningRequestParams,
    DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    PublicKeyData, RevokedCertParams, SanType, SerialNumber,
};

use index::Index;
pub use index::{Issued, Role};

/// How long an authority is valid.
const AUTHORITY_DAYS: u32 = 3650;
/// Certificates are valid from a day before, since clocks differ.
const BACKDATED: u64 = DAY;
/// Seconds.
const DAY: u64 = 86_400;

/// A point in time as rcgen wants it, from s since the Unix epoch.
macro_rules! date {
    ($seconds:expr) => {
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs($seconds)
    };
}

/// Why a certificate was not made or revoked.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file.
    #[error("{path}: {why}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why, and what to do.
        why: String,
    },
    /// Not an id.
    #[error(
        "`{0}` is not an id: it is 1 to 63 of a-z, 0-9 and -, with no - at either end (it becomes a DNS name)"
    )]
    Id(String),
    /// Not a domain.
    #[error("`{0}` is not a domain; write for example example.org")]
    Domain(String),
    /// There is something already.
    #[error("{0} exists; --force replaces it, and certificates issued from it become worthless")]
    Exists(PathBuf),
    /// There is a key or a certificate of that name.
    #[error("{0} exists and may be in use: nothing was issued; move it away first if it is not")]
    InUse(PathBuf),
    /// A request for somebody else.
    #[error("{path}: the request is for {asked}, not for {id}")]
    OtherId {
        /// The request.
        path: PathBuf,
        /// Whom it names.
        asked: String,
        /// Whom it is to be issued to.
        id: String,
    },
    /// Nothing of that name was issued.
    #[error("no valid certificate of {0} was issued here; `pki list` shows what was")]
    Unknown(String),
    /// Making keys or certificates failed.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// The authorities in a directory.
pub struct Pki {
    directory: PathBuf,
    index: Index,
    names: Vec<String>,
    env: Env,
}

/// A name without its extension.
fn authority(role: Role) -> String {
    format!("{role}-ca")
}

impl Pki {
    /// Makes both authorities in `directory`; `force` replaces those that are there.
    pub fn init(directory: &Path, domain: &str, force: bool, env: &Env) -> Result<Self, PkiError> {
        let valid = !domain.is_empty() && domain.len() < 200 && domain.split('.').all(is_valid_id);
        if !valid {
            return Err(PkiError::Domain(domain.to_owned()));
        }
        fs::create_dir_all(directory).map_err(|e| failed(directory, &e))?;
        let path = directory.join("pki.json");
        if path.exists() && !force {
            return Err(PkiError::Exists(path));
        }
        let this = Self {
            directory: directory.to_owned(),
            index: Index { domain: domain.to_owned(), issued: Vec::new() },
            names: Vec::new(),
            env: env.clone(),
        };
        for role in Role::ALL {
            let key = KeyPair::generate()?;
            let certificate = this.authority_params(role).self_signed(&key)?;
            this.write(&format!("{}.key", authority(role)), &key.serialize_pem(), true)?;
            this.write(&format!("{}.crt", authority(role)), &certificate.pem(), false)?;
            this.write_revocations(role)?;
        }
        this.save()?;
        Ok(this)
    }

    /// Opens the authorities that [`Pki::init`] made.
    pub fn open(directory: &Path, env: &Env) -> Result<Self, PkiError> {
        let path = directory.join("pki.json");
        let text = fs::read(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => PkiError::File {
                path: path.clone(),
                why: format!(
                    "not found; make the authorities first: pki init --dir {} --domain example.org",
                    directory.display()
                ),
            },
            _ => failed(&path, &e),
        })?;
        let index = serde_json::from_slice(&text).map_err(|e| PkiError::File { path, why: e.to_string() })?;
        Ok(Self { directory: directory.to_owned(), index, names: Vec::new(), env: env.clone() })
    }

    /// Certificates of stations carry these names too: of several antennas behind one ground-station.
    pub fn also_named(self, names: Vec<String>) -> Result<Self, PkiError> {
        match names.iter().find(|name| !is_valid_id(name)) {
            Some(wrong) => Err(PkiError::Id(wrong.clone())),
            None => Ok(Self { names, ..self }),
        }
    }

    /// Issues a certificate for `days`; returns the paths of certificate and key.
    pub fn issue(&mut self, role: Role, id: &str, days: u32) -> Result<(PathBuf, PathBuf), PkiError> {
        if !is_valid_id(id) {
            return Err(PkiError::Id(id.to_owned()));
        }
        let key_path = self.free(&format!("{role}-{id}.key"))?;
        self.free(&format!("{role}-{id}.crt"))?;
        let key = KeyPair::generate()?;
        let certificate_path = self.sign(role, id, days, &key)?;
        let name = key_path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok((certificate_path, self.write(&name, &key.serialize_pem(), true)?))
    }

    /// Issues a certificate for the key that the request in `csr` is signed with: it never leaves the machine where it was made.
    pub fn issue_to(&mut self, role: Role, id: &str, days: u32, csr: &Path) -> Result<PathBuf, PkiError> {
        if !is_valid_id(id) {
            return Err(PkiError::Id(id.to_owned()));
        }
        let pem = files::read_text(csr, files::CERTIFICATES).map_err(|e| failed(csr, &e))?;
        let request = CertificateSigningRequestParams::from_pem(&pem).map_err(|e| PkiError::File {
            path: csr.to_owned(),
            why: format!("is not a certificate signing request in PEM, or not signed with its own key: {e}"),
        })?;
        let uri = format!("spiffe://{}/{role}/{id}", self.index.domain);
        for name in &request.params.subject_alt_names {
            let asked = match name {
                SanType::URI(asked) if asked.as_str() != uri => asked.as_str(),
                SanType::DnsName(asked) if asked.as_str() != id && !self.is_name(asked.as_str()) => {
                    asked.as_str()
                }
                _ => continue,
            };
            return Err(PkiError::OtherId {
                path: csr.to_owned(),
                asked: asked.to_owned(),
                id: id.to_owned(),
            });
        }
        if let Some(asked) = request.params.distinguished_name.get(&DnType::CommonName).map(text)
            && asked != id
        {
            return Err(PkiError::OtherId { path: csr.to_owned(), asked, id: id.to_owned() });
        }
        self.free(&format!("{role}-{id}.crt"))?;
        // A key that lies here would pass for that of the new certificate.
        let key = format!("{role}-{id}.key");
        if !self.is_key_of(&key, &request) {
            self.free(&key)?;
        }
        self.sign(role, id, days, &request.public_key)
    }

    /// Whether the request is signed with the key in this file.
    fn is_key_of(&self, name: &str, request: &CertificateSigningRequestParams) -> bool {
        let pem = files::read_text(&self.directory.join(name), files::CERTIFICATES).ok();
        let key = pem.and_then(|pem| KeyPair::from_pem(&pem).ok());
        key.is_some_and(|key| key.der_bytes() == request.public_key.der_bytes())
    }

    fn is_name(&self, name: &str) -> bool {
        self.names.iter().any(|known| known == name)
    }

    /// A name that no file has.
    fn free(&self, name: &str) -> Result<PathBuf, PkiError> {
        let path = self.directory.join(name);
        if path.exists() { Err(PkiError::InUse(path)) } else { Ok(path) }
    }

    fn sign(
        &mut self,
        role: Role,
        id: &str,
        days: u32,
        key: &impl PublicKeyData,
    ) -> Result<PathBuf, PkiError> {
        let mut params = CertificateParams::default();
        let uri = format!("spiffe://{}/{role}/{id}", self.index.domain);
        params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(uri)?)];
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, id);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        match role {
            Role::Satellite => params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
            Role::Station => {
                // The agent connects with this as the server's name.
                for name in std::iter::once(id).chain(self.names.iter().map(String::as_str)) {
                    params.subject_alt_names.push(SanType::DnsName(Ia5String::try_from(name)?));
                }
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            }
        }
        let (begin, end) = self.validity(days);
        (params.not_before, params.not_after) = (date!(begin), date!(end));
        let serial = self.serial();
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let certificate = params.signed_by(key, &self.issuer(role)?)?;
        let certificate_path = self.write(&format!("{role}-{id}.crt"), &certificate.pem(), false)?;
        self.index.issued.push(Issued {
            serial: hex(&serial),
            role,
            id: id.to_owned(),
            not_after_unix: end,
            revoked_unix: None,
        });
        self.save()?;
        Ok(certificate_path)
    }

    /// Revokes every certificate of a satellite or a station; returns their serial numbers.
    pub fn revoke(&mut self, role: Role, id: &str) -> Result<Vec<String>, PkiError> {
        self.revoke_where(|i| i.role == role && i.id == id, || format!("{role} {id}"))
    }

    /// Revokes the certificate with this serial number.
    pub fn revoke_serial(&mut self, serial: &str) -> Result<Vec<String>, PkiError> {
        let serial = serial.to_lowercase();
        self.revoke_where(|i| i.serial == serial, || format!("serial number {serial}"))
    }

    fn revoke_where(
        &mut self,
        matches: impl Fn(&Issued) -> bool,
        what: impl Fn() -> String,
    ) -> Result<Vec<String>, PkiError> {
        let now = self.now();
        let mut revoked = Vec::new();
        for issued in self.index.issued.iter_mut().filter(|i| i.revoked_unix.is_none() && matches(i)) {
            issued.revoked_unix = Some(now);
            revoked.push(issued.serial.clone());
        }
        if revoked.is_empty() {
            return Err(PkiError::Unknown(what()));
        }
        // The lists first: an index that says revoked while a list does not would never be mended.
        for role in Role::ALL {
            self.write_revocations(role)?;
        }
        self.save()?;
        Ok(revoked)
    }

    /// What was issued, oldest first.
    pub fn issued(&self) -> &[Issued] {
        &self.index.issued
    }

    /// s since the Unix epoch.
    fn now(&self) -> u64 {
        self.env.unix_nano() / 1_000_000_000
    }

    fn validity(&self, days: u32) -> (u64, u64) {
        (self.now().saturating_sub(BACKDATED), self.now() + u64::from(days) * DAY)
    }

    /// Positive, and of 16 bytes.
    fn serial(&self) -> [u8; 16] {
        let mut out = [0; 16];
        out[..8].copy_from_slice(&self.env.random().to_be_bytes());
        out[8..].copy_from_slice(&self.env.random().to_be_bytes());
        out[0] = (out[0] & 0x7f) | 0x40;
        out
    }

    fn authority_params(&self, role: Role) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, format!("Perigee {role}s of {}", self.index.domain));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(SerialNumber::from_slice(&self.serial()));
        let (begin, end) = self.validity(AUTHORITY_DAYS);
        (params.not_before, params.not_after) = (date!(begin), date!(end));
        params
    }

    /// The authority as it signs: its name follows from the domain, its key is in the file.
    fn issuer(&self, role: Role) -> Result<Issuer<'static, KeyPair>, PkiError> {
        let path = self.directory.join(format!("{}.key", authority(role)));
        let pem = files::read_text(&path, files::CERTIFICATES).map_err(|e| failed(&path, &e))?;
        let key = KeyPair::from_pem(&pem)
            .map_err(|e| PkiError::File { path, why: format!("is not a private key: {e}") })?;
        Ok(Issuer::new(self.authority_params(role), key))
    }

    fn write_revocations(&self, role: Role) -> Result<(), PkiError> {
        let revoked_certs = self
            .index
            .issued
            .iter()
            .filter(|i| i.role == role)
            .filter_map(|i| {
                Some(RevokedCertParams {
                    serial_number: SerialNumber::from_slice(&unhex(&i.serial)?),
                    revocation_time: date!(i.revoked_unix?),
                    reason_code: None,
                    invalidity_date: None,
                })
            })
            .collect();
        let (begin, end) = self.validity(AUTHORITY_DAYS);
        let number = self.env.unix_nano().to_be_bytes();
        let list = CertificateRevocationListParams {
            this_update: date!(begin),
            next_update: date!(end),
            crl_number: SerialNumber::from_slice(&number),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer(role)?)?;
        self.write(&format!("{}.crl", authority(role)), &list.pem()?, false)?;
        Ok(())
    }

    fn save(&self) -> Result<(), PkiError> {
        let text = serde_json::to_string_pretty(&self.index).unwrap_or_default();
        self.write("pki.json", &text, false).map(drop)
    }

    /// Replaces a file whole, so that a reader sees the old or the new.
    fn write(&self, name: &str, text: &str, secret: bool) -> Result<PathBuf, PkiError> {
        let path = self.directory.join(name);
        let temporary = self.directory.join(format!("{name}.new"));
        let mode = if secret { 0o600 } else { 0o644 };
        let result = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&temporary)
            .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_data()))
            .and_then(|()| fs::rename(&temporary, &path));
        result.map_err(|e| failed(&path, &e))?;
        Ok(path)
    }
}

/// A name, whatever it is written in.
fn text(value: &DnValue) -> String {
    let wide = |bytes: &[u8], width: usize| -> String {
        let number = |all: &[u8]| all.iter().fold(0, |n: u32, byte| n << 8 | u32::from(*byte));
        bytes
            .chunks(width)
            .map(|c| char::from_u32(number(c)).unwrap_or(char::REPLACEMENT_CHARACTER))
            .collect()
    };
    match value {
        DnValue::Utf8String(text) => text.clone(),
        DnValue::PrintableString(text) => text.as_str().to_owned(),
        DnValue::Ia5String(text) => text.as_str().to_owned(),
        DnValue::TeletexString(text) => text.as_str().to_owned(),
        DnValue::BmpString(text) => wide(text.as_bytes(), 2),
        DnValue::UniversalString(text) => wide(text.as_bytes(), 4),
        other => format!("{other:?}"),
    }
}

fn failed(path: &Path, error: &std::io::Error) -> PkiError {
    let why = match error.kind() {
        std::io::ErrorKind::PermissionDenied => format!("{error}; run as a user that may write there"),
        _ => error.to_string(),
    };
    PkiError::File { path: path.to_owned(), why }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(text.get(i..i + 2)?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use perigee_shared::env::Clock;
    use perigee_shared::link::revocation::Revocations;
    use perigee_shared::link::tls::{Credentials, load_authorities};
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};

    use super::*;

    #[test]
    fn what_is_issued_is_what_the_link_reads() {
        let dir = tempfile::tempdir().unwrap();
        let env = Env::production();
        Pki::init(dir.path(), "example.org", false, &env).unwrap();
        let mut pki = Pki::open(dir.path(), &env).unwrap();
        for (role, id) in [(Role::Satellite, "sat-1"), (Role::Station, "svalbard")] {
            let (certificate, key) = pki.issue(role, id, 30).unwrap();
            let identity = Credentials::load(&certificate, &key).unwrap().identity().unwrap();
            assert_eq!((identity.trust_domain.as_str(), identity.id.as_str()), ("example.org", id));
            assert_eq!(fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
        }
        load_authorities(&dir.path().join("satellite-ca.crt")).unwrap();
        let (list, authority) = (dir.path().join("satellite-ca.crl"), dir.path().join("satellite-ca.crt"));
        Revocations::load(&list, &authority).unwrap();
    }

    struct At(u64);

    impl Clock for At {
        fn unix_nano(&self) -> u64 {
            self.0
        }
    }

    #[test]
    fn a_list_is_read_as_pem_and_as_der_and_only_from_its_own_authority() {
        let dir = tempfile::tempdir().unwrap();
        let env = Env::production();
        let path = |name: &str| dir.path().join(name);
        let mut pki = Pki::init(dir.path(), "example.org", false, &env).unwrap();
        pki.issue(Role::Satellite, "sat-1", 30).unwrap();
        let serial = pki.issued()[0].serial.clone();
        pki.revoke(Role::Satellite, "sat-1").unwrap();
        let (pem, authority) = (path("satellite-ca.crl"), path("satellite-ca.crt"));
        let der = CertificateRevocationListDer::from_pem_file(&pem).unwrap();
        fs::write(path("list.der"), &der).unwrap();
        for file in [pem.clone(), path("list.der")] {
            let list = Revocations::load(&file, &authority).unwrap();
            assert!(list.contain(&unhex(&serial).unwrap()), "{}", file.display());
            assert!(!list.has_expired(env.unix_nano()));
        }
        let text = fs::read_to_string(&pem).unwrap();
        for (content, says) in [
            (Vec::new(), "it is empty"),
            (b"nobody is revoked\n".to_vec(), "there is no list in it"),
            (fs::read(&authority).unwrap(), "there is no list in it"),
            (der[..der.len() - 1].to_vec(), "it cannot be read"),
            ([&der[..], b"x"].concat(), "it cannot be read"),
            (fs::read(path("station-ca.crl")).unwrap(), "another authority"),
            (text.replacen("-----END", "=====END", 1).into_bytes(), "PEM"),
        ] {
            fs::write(path("list"), &content).unwrap();
            let error = Revocations::load(&path("list"), &authority).unwrap_err().to_string();
            assert!(error.contains(says), "{error} for {says}");
        }
        let mut signed = der.to_vec();
        let last = signed.len() - 1;
        signed[last] ^= 1;
        fs::write(path("list"), &signed).unwrap();
        assert!(Revocations::load(&path("list"), &authority).is_err(), "its signature is wrong");
    }

    #[test]
    fn an_expired_list_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let env = Env::production();
        Pki::init(dir.path(), "example.org", false, &env).unwrap();
        let mut past = env.clone();
        past.clock = std::sync::Arc::new(At(1_000_000_000_000_000_000));
        let mut pki = Pki::open(dir.path(), &past).unwrap();
        pki.issue(Role::Satellite, "sat-1", 30).unwrap();
        pki.revoke(Role::Satellite, "sat-1").unwrap();
        let (list, authority) = (dir.path().join("satellite-ca.crl"), dir.path().join("satellite-ca.crt"));
        let list = Revocations::load(&list, &authority).unwrap();
        assert_eq!(list.has_expired(env.unix_nano()), AUTHORITY_DAYS < 20 * 365);
        assert!(list.has_expired(u64::MAX));
        assert!(list.begins_later(0) && !list.begins_later(env.unix_nano()));
        let words = list.out_of_date(Path::new("list"), 0).unwrap();
        assert!(words.starts_with("list begins at 2001-09-"), "{words}");
    }

    #[test]
    fn authorities_are_not_replaced_by_accident() {
        let dir = tempfile::tempdir().unwrap();
        let env = Env::production();
        Pki::init(dir.path(), "example.org", false, &env).unwrap();
        let before = fs::read(dir.path().join("station-ca.key")).unwrap();
        assert!(matches!(Pki::init(dir.path(), "example.org", false, &env), Err(PkiError::Exists(_))));
        assert_eq!(fs::read(dir.path().join("station-ca.key")).unwrap(), before);
        Pki::init(dir.path(), "example.org", true, &env).unwrap();
        assert_ne!(fs::read(dir.path().join("station-ca.key")).unwrap(), before);
    }

    #[test]
    fn ids_and_domains_that_cannot_be_names_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let env = Env::production();
        for domain in ["", "Example.org", "a..b", "x/y"] {
            assert!(
                matches!(Pki::init(dir.path(), domain, false, &env), Err(PkiError::Domain(_))),
                "{domain}"
            );
        }
        let mut pki = Pki::init(dir.path(), "example.org", false, &env).unwrap();
        for id in ["", "SAT", "a/b", "a.b"] {
            assert!(matches!(pki.issue(Role::Satellite, id, 1), Err(PkiError::Id(_))), "{id}");
        }
        assert!(Pki::open(&dir.path().join("none"), &env).err().unwrap().to_string().contains("pki init"));
    }

    #[test]
    fn a_key_that_is_there_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let mut pki = Pki::init(dir.path(), "example.org", false, &Env::production()).unwrap();
        let (certificate, key) = pki.issue(Role::Satellite, "sat-1", 30).unwrap();
        let before = (fs::read(&certificate).unwrap(), fs::read(&key).unwrap());
        for gone in [None, Some(&certificate)] {
            gone.into_iter().for_each(|file| fs::rename(file, dir.path().join("old")).unwrap());
            let error = pki.issue(Role::Satellite, "sat-1", 30).unwrap_err();
            assert!(error.to_string().contains("exists and may be in use"), "{error}");
        }
        assert_eq!((fs::read(dir.path().join("old")).unwrap(), fs::read(&key).unwrap()), before);
        assert_eq!(pki.issued().len(), 1);
    }

    #[test]
    fn a_request_is_signed_and_its_key_stays_where_it_was_made() {
        let dir = tempfile::tempdir().unwrap();
        let mut pki = Pki::init(dir.path(), "example.org", false, &Env::production()).unwrap();
        let key = KeyPair::generate().unwrap();
        let request_of = |name: DnValue, san: Option<&str>| {
            let mut params = CertificateParams::default();
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, name);
            params.subject_alt_names =
                san.into_iter().map(|uri| SanType::URI(Ia5String::try_from(uri).unwrap())).collect();
            let path = dir.path().join("request");
            fs::write(&path, params.serialize_request(&key).unwrap().pem().unwrap()).unwrap();
            path
        };
        let request = |name: &str, san| request_of(name.into(), san);
        for (name, san) in [("sat-2", None), ("sat-1", Some("spiffe://example.org/satellite/sat-2"))] {
            let error = pki.issue_to(Role::Satellite, "sat-1", 30, &request(name, san)).unwrap_err();
            assert!(matches!(&error, PkiError::OtherId { asked, .. } if asked.contains("sat-2")), "{error}");
        }
        let (ascii, wide) = ("sat-2".try_into().unwrap(), "sat-2".try_into().unwrap());
        for name in [DnValue::PrintableString(ascii), DnValue::BmpString(wide)] {
            let error = pki.issue_to(Role::Satellite, "sat-1", 30, &request_of(name, None)).unwrap_err();
            assert!(matches!(&error, PkiError::OtherId { asked, .. } if asked == "sat-2"), "{error}");
        }
        fs::write(dir.path().join("junk"), "junk").unwrap();
        let error = pki.issue_to(Role::Satellite, "sat-1", 30, &dir.path().join("junk")).unwrap_err();
        assert!(error.to_string().contains("signing request"), "{error}");
        assert!(pki.issued().is_empty());

        let asked = request("sat-1", Some("spiffe://example.org/satellite/sat-1"));
        let certificate = pki.issue_to(Role::Satellite, "sat-1", 30, &asked).unwrap();
        let own = dir.path().join("own.key");
        fs::write(&own, key.serialize_pem()).unwrap();
        let credentials = Credentials::load(&certificate, &own).unwrap();
        let identity = credentials.identity().unwrap();
        assert_eq!((identity.id.as_str(), pki.issued().len()), ("sat-1", 1));
        assert!(!dir.path().join("satellite-sat-1.key").exists());
    }

    #[test]
    fn a_station_asks_for_the_names_of_its_antennas_and_for_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::init(dir.path(), "example.org", false, &Env::production()).unwrap();
        let key = KeyPair::generate().unwrap();
        let names = ["svalbard", "svalbard-2", "svalbard-3"];
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "svalbard");
        params.subject_alt_names =
            names.iter().map(|name| SanType::DnsName(Ia5String::try_from(*name).unwrap())).collect();
        let (asked, own) = (dir.path().join("request"), dir.path().join("own.key"));
        fs::write(&asked, params.serialize_request(&key).unwrap().pem().unwrap()).unwrap();
        fs::write(&own, key.serialize_pem()).unwrap();
        let mut pki = pki.also_named(vec!["svalbard-2".into()]).unwrap();
        let error = pki.issue_to(Role::Station, "svalbard", 30, &asked).unwrap_err();
        assert!(matches!(&error, PkiError::OtherId { asked, .. } if asked == "svalbard-3"), "{error}");
        let mut pki = pki.also_named(vec!["svalbard-2".into(), "svalbard-3".into()]).unwrap();
        let certificate = pki.issue_to(Role::Station, "svalbard", 30, &asked).unwrap();
        assert_eq!(Credentials::load(&certificate, &own).unwrap().identity().unwrap().id, "svalbard");
        let der = CertificateDer::from_pem_file(&certificate).unwrap();
        let carries = |name: &str| {
            // A dNSName (RFC 5280, section 4.2.1.6): tag 2 in context, length, text.
            let san = [&[0x82, name.len() as u8], name.as_bytes()].concat();
            der.windows(san.len()).any(|bytes| bytes == san)
        };
        assert!(names.iter().all(|name| carries(name)) && !carries("svalbard-4"));
    }

    #[test]
    fn a_request_is_not_signed_beside_a_key_that_is_not_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let mut pki = Pki::init(dir.path(), "example.org", false, &Env::production()).unwrap();
        let (certificate, old) = pki.issue(Role::Satellite, "sat-1", 30).unwrap();
        fs::remove_file(&certificate).unwrap();
        let key = KeyPair::generate().unwrap();
        let asked = dir.path().join("request");
        let request = |key: &KeyPair| {
            let mut params = CertificateParams::default();
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, "sat-1");
            fs::write(&asked, params.serialize_request(key).unwrap().pem().unwrap()).unwrap();
        };
        request(&key);
        let error = pki.issue_to(Role::Satellite, "sat-1", 30, &asked).unwrap_err();
        assert!(matches!(&error, PkiError::InUse(path) if *path == old), "{error}");
        assert!(!certificate.exists() && pki.issued().len() == 1);
        request(&KeyPair::from_pem(&fs::read_to_string(&old).unwrap()).unwrap());
        pki.issue_to(Role::Satellite, "sat-1", 30, &asked).unwrap();
        Credentials::load(&certificate, &old).unwrap();
        fs::remove_file(&certificate).unwrap();
        fs::rename(&old, dir.path().join("moved.key")).unwrap();
        request(&key);
        pki.issue_to(Role::Satellite, "sat-1", 30, &asked).unwrap();
    }

    #[test]
    fn a_revoked_certificate_is_listed_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut pki = Pki::init(dir.path(), "example.org", false, &Env::production()).unwrap();
        let (certificate, key) = pki.issue(Role::Satellite, "sat-1", 30).unwrap();
        fs::remove_file(certificate).unwrap();
        fs::remove_file(key).unwrap();
        pki.issue(Role::Satellite, "sat-1", 30).unwrap();
        let serial = pki.issued()[0].serial.clone();
        assert_eq!(pki.revoke_serial(&serial).unwrap(), std::slice::from_ref(&serial));
        assert_eq!(pki.revoke(Role::Satellite, "sat-1").unwrap(), [pki.issued()[1].serial.clone()]);
        assert!(matches!(pki.revoke(Role::Satellite, "sat-1"), Err(PkiError::Unknown(_))));
        let (list, authority) = (dir.path().join("satellite-ca.crl"), dir.path().join("satellite-ca.crt"));
        assert!(Revocations::load(&list, &authority).unwrap().contain(&unhex(&serial).unwrap()));
    }
}
