//! How each side judges the other's certificate, and what it says of dates and clocks when it refuses one.
//!
//! A station goes by its clock. A satellite's may be wrong. With a trusted clock the dates are compared with the clock. Without one, only the floor of the [bounds](crate::clock) is certain:
//! the time is that or later. So a certificate that had ended by then is refused, and one that begins later is accepted, since it may
//! have begun. Its beginning becomes the floor once the connection stands.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::tls::{Identity, dates};
use crate::clock::{ClockBounds, Wall};
use crate::contact::shown_time;
use crate::env::Clock;

/// Checks station certificates by a clock that may be wrong.
#[derive(Debug)]
pub(super) struct StationVerifier {
    webpki: Arc<WebPkiServerVerifier>,
    time: Timekeeper,
}

/// The clock and what it is held against.
pub(super) struct Timekeeper {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) bounds: Arc<ClockBounds>,
}

impl std::fmt::Debug for Timekeeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Timekeeper")
    }
}

impl Timekeeper {
    fn wall(&self) -> Wall {
        self.bounds.judge(self.clock.unix_nano())
    }

    /// The time to check a chain at: the clock's; with one that is not trusted the earliest that the chain and the floor allow, but
    /// nothing behind the end of our own certificate.
    fn of_chain<'a>(&self, chain: impl Iterator<Item = &'a CertificateDer<'a>>) -> u64 {
        let wall = self.wall();
        wall.trusted().unwrap_or_else(|| {
            let begins = chain.filter_map(|certificate| dates(certificate)).map(|(begin, _)| begin).max();
            begins.unwrap_or(0).min(self.bounds.end()).max(self.bounds.floor())
        })
    }
}

impl StationVerifier {
    pub(super) const fn new(webpki: Arc<WebPkiServerVerifier>, time: Timekeeper) -> Self {
        Self { webpki, time }
    }
}

/// `error` with the dates of the certificate that `whose` names and what they were compared with, for people.
fn explain(error: Error, whose: &str, certificate: &CertificateDer<'_>, compared: &str) -> Error {
    let Error::InvalidCertificate(why) = &error else { return error };
    let Some((begin, end)) = dates(certificate) else { return error };
    let dates = match why {
        CertificateError::NotValidYetContext { .. } => format!("is valid from {}", shown_time(begin)),
        CertificateError::ExpiredContext { .. } => format!("was valid until {}", shown_time(end)),
        _ => return error,
    };
    // rustls shows no other error of a verifier's own as it is.
    Error::General(format!("the certificate of {whose} {dates}, but {compared}"))
}

impl ServerCertVerifier for StationVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let at = self.time.of_chain(std::iter::once(end_entity).chain(intermediates));
        let time = UnixTime::since_unix_epoch(Duration::from_nanos(at));
        self.webpki.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, time).map_err(
            |error| {
                let compared = match self.time.wall().doubt {
                    None => format!("this satellite's clock says {}", shown_time(at)),
                    Some(doubt) => format!("it is {} or later ({doubt})", shown_time(at)),
                };
                explain(error, &format!("station {}", server_name.to_str()), end_entity, &compared)
            },
        )
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        self.webpki.root_hint_subjects()
    }
}

/// Checks satellites' certificates by the station's clock.
#[derive(Debug)]
pub(super) struct SatelliteVerifier(pub(super) Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for SatelliteVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.0.verify_client_cert(end_entity, intermediates, now).map_err(|error| {
            let whose = Identity::of(end_entity)
                .map_or_else(|_| "a satellite".to_owned(), |of| format!("satellite {}", of.id));
            let says = shown_time(now.as_secs().saturating_mul(1_000_000_000));
            explain(error, &whose, end_entity, &format!("the station's clock says {says}"))
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
    use rustls::RootCertStore;
    use rustls::server::WebPkiClientVerifier;

    use super::super::tls::provider;
    use super::*;

    const S: u64 = 1_000_000_000;
    const DAY: u64 = 86_400 * S;
    const YEAR: u64 = 365 * DAY;
    /// 2025-01-01.
    const BUILT: u64 = 1_735_689_600 * S;

    struct At(u64);

    impl Clock for At {
        fn unix_nano(&self) -> u64 {
            self.0
        }
    }

    fn params(begin: u64, end: u64) -> CertificateParams {
        let mut params = CertificateParams::default();
        (params.not_before, params.not_after) = (
            (UNIX_EPOCH + Duration::from_nanos(begin)).into(),
            (UNIX_EPOCH + Duration::from_nanos(end)).into(),
        );
        params
    }

    /// An authority, and a certificate that it has issued for this name or identity.
    fn issued(subject: SanType, begin: u64, end: u64) -> (RootCertStore, CertificateDer<'static>) {
        let mut authority = params(BUILT, BUILT + 20 * YEAR);
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let root = authority.self_signed(&key).unwrap();
        let mut certificate = params(begin, end);
        certificate.subject_alt_names = vec![subject];
        let issued =
            certificate.signed_by(&KeyPair::generate().unwrap(), &Issuer::new(authority, key)).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(root.der().clone()).unwrap();
        (roots, issued.der().clone())
    }

    /// What a satellite whose clock says `now`, which was built in 2025 and whose own certificate ends in five years, says of the
    /// certificate of svalbard that is valid from `begin` to `end`.
    fn judge(now: u64, begin: u64, end: u64) -> Result<(), String> {
        let (roots, station) = issued(SanType::DnsName("svalbard".try_into().unwrap()), begin, end);
        let webpki = WebPkiServerVerifier::builder_with_provider(roots.into(), provider()).build().unwrap();
        let bounds = Arc::new(ClockBounds::new(BUILT));
        bounds.set_end(BUILT + 5 * YEAR);
        let verifier = StationVerifier::new(webpki, Timekeeper { clock: Arc::new(At(now)), bounds });
        let name = ServerName::try_from("svalbard").unwrap();
        let verified = verifier.verify_server_cert(
            &station,
            &[],
            &name,
            &[],
            UnixTime::since_unix_epoch(Duration::ZERO),
        );
        verified.map(drop).map_err(|error| error.to_string())
    }

    #[test]
    fn a_trusted_clock_refuses_what_begins_later_or_has_ended_and_says_who_refuses_whom() {
        let now = BUILT + YEAR;
        assert_eq!(judge(now, now - DAY, now + DAY), Ok(()));
        let early = judge(now, now + DAY, now + 2 * DAY).unwrap_err();
        for part in ["station svalbard", "valid from 2026-01-02", "this satellite's clock says 2026-01-01"] {
            assert!(early.contains(part), "{early}");
        }
        let late = judge(now, now - 2 * DAY, now - DAY).unwrap_err();
        assert!(late.contains("valid until 2025-12-31"), "{late}");
    }

    #[test]
    fn a_station_says_which_satellite_it_refuses_and_what_its_clock_says() {
        let uri = SanType::URI("spiffe://example.org/satellite/sat-1".try_into().unwrap());
        let (roots, satellite) = issued(uri, BUILT, BUILT + DAY);
        let webpki = WebPkiClientVerifier::builder_with_provider(roots.into(), provider()).build().unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_nanos(BUILT + YEAR));
        let error =
            SatelliteVerifier(webpki).verify_client_cert(&satellite, &[], now).unwrap_err().to_string();
        for part in [
            "certificate of satellite sat-1",
            "valid until 2025-01-02",
            "the station's clock says 2026-01-01",
        ] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_clock_at_1970_or_in_2046_refuses_only_what_had_ended_before_the_floor() {
        for now in [0, BUILT + 21 * YEAR] {
            assert_eq!(judge(now, BUILT - DAY, BUILT + DAY), Ok(()));
            assert_eq!(judge(now, BUILT + YEAR, BUILT + 2 * YEAR), Ok(()), "it may have begun");
            let ended = judge(now, BUILT - 2 * DAY, BUILT - DAY).unwrap_err();
            for part in [
                "svalbard",
                "valid until 2024-12-31",
                "it is 2025-01-01T00:00:00Z or later",
                "the clock says",
            ] {
                assert!(ended.contains(part), "{ended}");
            }
            let never = judge(now, BUILT + 6 * YEAR, BUILT + 7 * YEAR).unwrap_err();
            assert!(
                never.contains("valid from"),
                "behind the end of our own certificate nothing begins: {never}"
            );
        }
    }
}
