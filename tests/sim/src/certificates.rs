//! Certificates of a simulated fleet. Keys are Ed25519, whose signatures all have the same size, so that handshakes do too.

use std::fs;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ED25519, SanType, SerialNumber,
};

/// The trust domain.
const DOMAIN: &str = "sim.test";

/// A day in seconds.
const DAY: u64 = 86_400;

/// Makes certificates in a directory: `satellite-ca.crt`, `station-ca.crt`, and `NAME.crt` with `NAME.key` for each name.
pub(crate) struct Certificates<'a> {
    directory: &'a Path,
    /// s since the Unix epoch.
    valid: [u64; 2],
    satellites: Issuer<'static, KeyPair>,
    stations: Issuer<'static, KeyPair>,
    serial: u64,
}

impl<'a> Certificates<'a> {
    /// Authorities that are valid from a day before `start` for ten years.
    pub(crate) fn new(directory: &'a Path, start: Duration) -> anyhow::Result<Self> {
        let valid = [start.as_secs().saturating_sub(DAY), start.as_secs() + 3_650 * DAY];
        let satellites = authority(directory, "satellite", valid, 1)?;
        let stations = authority(directory, "station", valid, 2)?;
        Ok(Self { directory, valid, satellites, stations, serial: 2 })
    }

    /// The certificate of a satellite.
    pub(crate) fn satellite(&mut self, id: &str) -> anyhow::Result<()> {
        self.issue("satellite", id, &[], ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// The certificate of a ground that serves the stations `names`, the first of which is its own.
    pub(crate) fn ground(&mut self, names: &[&str]) -> anyhow::Result<()> {
        let id = names.first().copied().unwrap_or_default();
        self.issue("station", id, names, ExtendedKeyUsagePurpose::ServerAuth)
    }

    fn issue(
        &mut self,
        role: &str,
        id: &str,
        names: &[&str],
        usage: ExtendedKeyUsagePurpose,
    ) -> anyhow::Result<()> {
        self.serial += 1;
        let mut params = params(id, self.valid, self.serial);
        params.subject_alt_names =
            vec![SanType::URI(Ia5String::try_from(format!("spiffe://{DOMAIN}/{role}/{id}"))?)];
        for name in names {
            params.subject_alt_names.push(SanType::DnsName(Ia5String::try_from(*name)?));
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let issuer = if role == "satellite" { &self.satellites } else { &self.stations };
        let certificate = params.signed_by(&key, issuer)?;
        fs::write(self.directory.join(format!("{id}.crt")), certificate.pem())?;
        fs::write(self.directory.join(format!("{id}.key")), key.serialize_pem())?;
        Ok(())
    }
}

fn params(name: &str, valid: [u64; 2], serial: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let [from, to] = valid.map(|s| (UNIX_EPOCH + Duration::from_secs(s)).into());
    (params.not_before, params.not_after) = (from, to);
    // Of the same length whatever the number.
    params.serial_number = Some(SerialNumber::from_slice(&(0x4000_0000_0000_0000 | serial).to_be_bytes()));
    params
}

fn authority(
    directory: &Path,
    role: &str,
    valid: [u64; 2],
    serial: u64,
) -> anyhow::Result<Issuer<'static, KeyPair>> {
    let mut params = params(role, valid, serial);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate_for(&PKCS_ED25519)?;
    let certificate = params.self_signed(&key)?;
    fs::write(directory.join(format!("{role}-ca.crt")), certificate.pem())?;
    Ok(Issuer::new(params, key))
}
