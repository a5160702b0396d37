//! Who is at the other end: certificates, keys, authorities and the identity in a certificate's URI SAN.
//!
//! Satellites and stations have separate authorities. A satellite is `spiffe://DOMAIN/satellite/ID`, a station
//! `spiffe://DOMAIN/station/ID`; a station's certificate also has `ID` as its DNS name, which rustls checks.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, InconsistentKeys, RootCertStore, ServerConfig};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

use super::ALPN;
use super::verify::{SatelliteVerifier, StationVerifier, Timekeeper};
use crate::clock::ClockBounds;
use crate::config::Invalid;
use crate::contact::shown_time;
use crate::env::Clock;
use crate::files;

/// Why TLS cannot be set up or a peer is not who it must be.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read as PEM.
    #[error("cannot read {what} {path}: {why}")]
    File {
        /// What the file should hold.
        what: &'static str,
        /// The file.
        path: String,
        /// Why, and what to do.
        why: String,
    },
    /// rustls does not accept it.
    #[error("TLS: {0}")]
    Rustls(#[from] rustls::Error),
    /// The verifier cannot be built from these authorities and revocation lists.
    #[error("TLS: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// The peer shows no certificate, or one without the identity that is asked for.
    #[error("{0}")]
    Identity(Cow<'static, str>),
}

fn unreadable(what: &'static str, path: &Path, error: &pem::Error) -> TlsError {
    let why = match error {
        pem::Error::Io(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            format!("{e}; let this process's user read it")
        }
        pem::Error::Io(e) => e.to_string(),
        pem::Error::NoItemsFound => "there is none in it; is it the right file, in PEM?".to_owned(),
        other => format!("{other}; is it in PEM?"),
    };
    TlsError::File { what, path: path.display().to_string(), why }
}

fn read(path: &Path) -> Result<Vec<u8>, pem::Error> {
    files::read(path, files::CERTIFICATES).map_err(pem::Error::Io)
}

pub(super) fn certificates(
    what: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all: Result<Vec<_>, _> = read(path).and_then(|pem| CertificateDer::pem_slice_iter(&pem).collect());
    match all {
        Ok(list) if list.is_empty() => Err(unreadable(what, path, &pem::Error::NoItemsFound)),
        Ok(list) => Ok(list),
        Err(e) => Err(unreadable(what, path, &e)),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    read(path)
        .and_then(|pem| PrivateKeyDer::from_pem_slice(&pem))
        .map_err(|e| unreadable("private key", path, &e))
}

/// A certificate that ends within this time is to be renewed.
const RENEW_BEFORE: Duration = Duration::from_secs(30 * 86_400);

/// Says that a certificate is about to end: at once of each that is new, then once a day.
#[derive(Debug, Default)]
pub struct Expiry(Option<(u64, tokio::time::Instant)>);

impl Expiry {
    /// Looks at a certificate that ends at `end` by a clock that says `now`, both in ns since 1970; `key` is where it is configured.
    pub fn look(&mut self, key: &str, end: Option<u64>, now: u64) {
        const DAY: Duration = Duration::from_secs(86_400);
        let Some(end) = end.filter(|end| *end < now.saturating_add(RENEW_BEFORE.as_nanos() as u64)) else {
            return;
        };
        if self.0.is_some_and(|(of, at)| of == end && at.elapsed() < DAY) {
            return;
        }
        self.0 = Some((end, tokio::time::Instant::now()));
        let days = end.saturating_sub(now) / DAY.as_nanos() as u64;
        tracing::error!(
            event.name = "perigee.link.certificate_expiry",
            key,
            days,
            end = shown_time(end),
            "the certificate ends soon, or has ended: issue a new one; the file is read again when it changes"
        );
    }
}

/// A certificate chain and its private key.
pub struct Credentials {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Credentials {
    /// Reads both from PEM files.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        Self::pair((certificates("certificate", certificate)?, certificate), (private_key(key)?, key))
    }

    /// Everything that is wrong with the files of a certificate and its key, each with the key at which it is configured.
    pub fn problems(certificate: (&str, &Path), key: (&str, &Path)) -> Vec<Invalid> {
        let (chain, private) = (certificates("certificate", certificate.1), private_key(key.1));
        let wrong = |key: &str, error: &TlsError| Invalid::new(key, error.to_string());
        match (chain, private) {
            (Ok(chain), Ok(private)) => {
                let pair = Self::pair((chain, certificate.1), (private, key.1));
                pair.err().iter().map(|error| wrong(key.0, error)).collect()
            }
            (chain, private) => {
                let (chain, private) = (chain.err(), private.err());
                let chain = chain.iter().map(|error| wrong(certificate.0, error));
                chain.chain(private.iter().map(|error| wrong(key.0, error))).collect()
            }
        }
    }

    fn pair(
        (chain, certificate): (Vec<CertificateDer<'static>>, &Path),
        (private, key): (PrivateKeyDer<'static>, &Path),
    ) -> Result<Self, TlsError> {
        let loaded = Self { chain, key: private };
        let signing = provider().key_provider.load_private_key(loaded.key.clone_key())?;
        match CertifiedKey::new(loaded.chain.clone(), signing).keys_match() {
            Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => Err(TlsError::File {
                what: "private key",
                path: key.display().to_string(),
                why: format!("it is the key of another certificate than {}", certificate.display()),
            }),
            // Whether an unusual certificate can be used is said where it is used.
            _ => Ok(loaded),
        }
    }

    /// A secret that follows from the private key: the same after each start, and for no other purpose.
    pub fn secret(&self, purpose: &str) -> [u8; 32] {
        blake3::derive_key(purpose, self.key.secret_der())
    }

    /// When the first certificate of the chain ends, ns since the Unix epoch.
    pub fn end(&self) -> Option<u64> {
        self.chain.iter().filter_map(end).min()
    }

    /// The identity in the certificate.
    pub fn identity(&self) -> Result<Identity, TlsError> {
        Identity::of(&self.chain[0])
    }
}

impl Clone for Credentials {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

/// When a certificate begins and ends, ns since the Unix epoch.
pub(super) fn dates(certificate: &CertificateDer<'_>) -> Option<(u64, u64)> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let nano = |time: ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0).saturating_mul(1_000_000_000);
    Some((nano(parsed.validity().not_before), nano(parsed.validity().not_after)))
}

fn end(certificate: &CertificateDer<'_>) -> Option<u64> {
    dates(certificate).map(|(_, end)| end)
}

/// When the certificate that the peer of `connection` has shown ends, ns since the Unix epoch.
pub fn peer_end(connection: &quinn::Connection) -> Option<u64> {
    end(&peer_certificate(connection)?)
}

/// The names in a certificate (DER) that was verified: common name, then DNS names, e-mail addresses and URIs.
pub fn names_in(certificate: &[u8]) -> Vec<String> {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let common = parsed.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    let others = parsed.subject_alternative_name().ok().flatten();
    let others = others.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::DNSName(name) | GeneralName::RFC822Name(name) | GeneralName::URI(name) => Some(*name),
        _ => None,
    });
    common.chain(others).map(str::to_owned).collect()
}

/// Why the certificate in a PEM file is not valid by a clock that says `now`, in ns since 1970, or will soon not be: its dates and
/// what to do.
pub fn out_of_date(path: &Path, now: u64) -> Option<String> {
    let chain = certificates("certificate", path).ok()?;
    let (begin, end) = dates(chain.first()?)?;
    let (path, clock) = (path.display(), shown_time(now));
    if now > end {
        return Some(format!(
            "{path} ended at {}, and the clock of this machine says {clock}: if the clock is right, the other side refuses it; issue a \
             new one",
            shown_time(end)
        ));
    }
    if now < begin {
        let begin = shown_time(begin);
        return Some(format!(
            "{path} begins at {begin}, and the clock of this machine says {clock}: is the clock right?"
        ));
    }
    (end - now < RENEW_BEFORE.as_nanos() as u64)
        .then(|| format!("{path} ends at {}, in less than 30 days: issue a new one in time", shown_time(end)))
}

/// What is to be said of the file `authorities`, which should be the other side's: that no authority is in it, or the one that has
/// signed our own certificate.
pub fn doubtful_authorities(certificate: &Path, authorities: &Path) -> Option<String> {
    let theirs = certificates("authority", authorities).ok()?;
    let is_authority =
        |der: &CertificateDer<'_>| X509Certificate::from_der(der).is_ok_and(|(_, c)| c.is_ca());
    if !theirs.iter().any(is_authority) {
        return Some(format!(
            "{} has no certificate of an authority, so nobody's certificate will be accepted: name the file of the authority that signs \
             the other side's",
            authorities.display()
        ));
    }
    let own = certificates("certificate", certificate).ok()?;
    let (_, own) = X509Certificate::from_der(own.first()?).ok()?;
    let has_signed = |authority: &CertificateDer<'_>| {
        X509Certificate::from_der(authority).is_ok_and(|(_, authority)| {
            authority.subject().as_raw() == own.issuer().as_raw()
                && own.verify_signature(Some(authority.public_key())).is_ok()
        })
    };
    theirs.iter().any(has_signed).then(|| {
        format!(
            "{} has the authority that signed our own certificate, {}: were the authorities of satellites and stations swapped? Here \
             the other side's is named",
            authorities.display(),
            certificate.display()
        )
    })
}

/// Reads the authorities in a PEM file; two during a change of authority.
pub fn load_authorities(path: &Path) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("authority", path)? {
        roots.add(certificate)?;
    }
    Ok(Arc::new(roots))
}

/// Certificate times are checked against the program's own clock.
struct ClockProvider(Arc<dyn Clock>);

impl std::fmt::Debug for ClockProvider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClockProvider")
    }
}

impl TimeProvider for ClockProvider {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_nanos(self.0.unix_nano())))
    }
}

pub(super) fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The ground's end of the link: TLS 1.3, a client certificate of `clients` that is not revoked, no early data.
pub fn server_config(
    credentials: Credentials,
    clients: Arc<RootCertStore>,
    revoked: &[CertificateRevocationListDer<'static>],
    clock: Arc<dyn Clock>,
) -> Result<quinn::ServerConfig, TlsError> {
    let mut verifier =
        WebPkiClientVerifier::builder_with_provider(clients, provider()).with_crls(revoked.iter().cloned());
    if !revoked.is_empty() {
        verifier = verifier.allow_unknown_revocation_status();
    }
    let mut config = ServerConfig::builder_with_details(provider(), Arc::new(ClockProvider(clock)))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(SatelliteVerifier(verifier.build()?)))
        .with_single_cert(credentials.chain, credentials.key)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.max_early_data_size = 0;
    config.send_tls13_tickets = 0;
    let crypto = QuicServerConfig::try_from(config)
        .map_err(|_| TlsError::Identity("no TLS 1.3 cipher suite".into()))?;
    Ok(quinn::ServerConfig::with_crypto(Arc::new(crypto)))
}

/// The agent's end of the link: TLS 1.3, a station certificate of `stations` for the name it connects to that is not revoked. Its
/// dates are compared with `clock`, as far as `bounds` trust that.
pub fn client_config(
    credentials: Credentials,
    stations: Arc<RootCertStore>,
    revoked: &[CertificateRevocationListDer<'static>],
    clock: Arc<dyn Clock>,
    bounds: Arc<ClockBounds>,
) -> Result<quinn::ClientConfig, TlsError> {
    let mut verifier =
        WebPkiServerVerifier::builder_with_provider(stations, provider()).with_crls(revoked.iter().cloned());
    if !revoked.is_empty() {
        verifier = verifier.allow_unknown_revocation_status();
    }
    let time = Timekeeper { clock: Arc::clone(&clock), bounds };
    let mut config = ClientConfig::builder_with_details(provider(), Arc::new(ClockProvider(clock)))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(StationVerifier::new(verifier.build()?, time)))
        .with_client_auth_cert(credentials.chain, credentials.key)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_early_data = false;
    config.resumption = rustls::client::Resumption::disabled();
    let crypto = QuicClientConfig::try_from(config)
        .map_err(|_| TlsError::Identity("no TLS 1.3 cipher suite".into()))?;
    Ok(quinn::ClientConfig::new(Arc::new(crypto)))
}

/// TLS of an OTLP listener: `clients` asks for a client certificate of those authorities.
pub fn listener_config(
    credentials: Credentials,
    clients: Option<Arc<RootCertStore>>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = match clients {
        Some(roots) => builder.with_client_cert_verifier(
            WebPkiClientVerifier::builder_with_provider(roots, provider()).build()?,
        ),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(credentials.chain, credentials.key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Which side of the link a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `/satellite/ID`
    Satellite,
    /// `/station/ID`
    Station,
}

impl Role {
    /// In a word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Satellite => "satellite",
            Self::Station => "station",
        }
    }
}

/// Who a certificate says its holder is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The authority's domain.
    pub trust_domain: String,
    /// Satellite or station.
    pub role: Role,
    /// Its id, unique in domain and role.
    pub id: String,
}

impl Identity {
    /// Parses `spiffe://DOMAIN/satellite/ID` or `spiffe://DOMAIN/station/ID`.
    pub fn parse(uri: &str) -> Option<Self> {
        let (trust_domain, path) = uri.strip_prefix("spiffe://")?.split_once('/')?;
        let (role, id) = path.split_once('/')?;
        let role = match role {
            "satellite" => Role::Satellite,
            "station" => Role::Station,
            _ => return None,
        };
        if trust_domain.is_empty() || !is_valid_id(id) {
            return None;
        }
        Some(Self { trust_domain: trust_domain.to_owned(), role, id: id.to_owned() })
    }

    pub(super) fn of(certificate: &CertificateDer<'_>) -> Result<Self, TlsError> {
        const MISSING: TlsError = TlsError::Identity(Cow::Borrowed(
            "the certificate has no URI SAN spiffe://DOMAIN/satellite/ID or /station/ID",
        ));
        let parsed = webpki::EndEntityCert::try_from(certificate).map_err(|_| MISSING)?;
        // Exactly one: a second URI would leave open which of them counts.
        let mut names = parsed.valid_uri_names();
        match (names.next().and_then(Self::parse), names.next()) {
            (Some(identity), None) => Ok(identity),
            _ => Err(MISSING),
        }
    }
}

/// Whether `id` can name a satellite or a station: a DNS label, 1 to 63 of `a-z 0-9 -`, no `-` at either end.
pub fn is_valid_id(id: &str) -> bool {
    (1..=63).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !id.starts_with('-')
        && !id.ends_with('-')
}

/// The identity that the peer of `connection` has proved.
pub fn peer_identity(connection: &quinn::Connection) -> Result<Identity, TlsError> {
    Identity::of(
        &peer_certificate(connection)
            .ok_or(TlsError::Identity("the peer has shown no certificate".into()))?,
    )
}

/// When the certificate of the peer of `connection` begins, ns since the Unix epoch.
pub fn peer_begins(connection: &quinn::Connection) -> Option<u64> {
    dates(&peer_certificate(connection)?).map(|(begin, _)| begin)
}

fn peer_certificate(connection: &quinn::Connection) -> Option<CertificateDer<'static>> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    chain.into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_spiffe_uri_is_an_identity() {
        let id = Identity::parse("spiffe://example.org/satellite/sat-1").unwrap();
        assert_eq!(
            (id.trust_domain.as_str(), id.role, id.id.as_str()),
            ("example.org", Role::Satellite, "sat-1")
        );
        for wrong in [
            "https://example.org/satellite/sat-1",
            "spiffe:///satellite/sat-1",
            "spiffe://example.org/satellite/",
            "spiffe://example.org/satellite/a/b",
            "spiffe://example.org/rocket/sat-1",
            "spiffe://example.org/satellite/UPPER",
            "spiffe://example.org/satellite/-a",
        ] {
            assert!(Identity::parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn an_unreadable_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing.crt");
        let error = Credentials::load(&missing, &missing).err().unwrap().to_string();
        assert!(error.contains("certificate") && error.contains("missing.crt"), "{error}");
        let empty = dir.path().join("empty.crt");
        std::fs::write(&empty, "nothing").unwrap();
        assert!(load_authorities(&empty).unwrap_err().to_string().contains("PEM"));
    }
}
