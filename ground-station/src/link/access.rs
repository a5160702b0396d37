//! Who may connect: certificates, the list of satellites, revocation.

use std::sync::Arc;

use perigee_shared::env::Env;
use perigee_shared::link::files::Files;
use perigee_shared::link::revocation::{ListFile, Revocations};
use perigee_shared::link::tls::{self, Credentials, Expiry, Identity, Role, TlsError};
use perigee_shared::link::transport;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;

use crate::config::{Config, LinkConfig, SatelliteConfig, Satellites};
use crate::memory;

/// What is held of a handshake before it is accepted, bytes.
pub(super) const INCOMING: u64 = 64 << 10;
/// The same of all of them.
pub(super) const INCOMING_IN_ALL: u64 = 1 << 20;

/// What the link's TLS is made of.
pub(super) struct Access {
    files: Files,
    expiry: Expiry,
    credentials: Credentials,
    satellites: Arc<RootCertStore>,
    domain: String,
    revocations: Option<ListFile>,
    limits: LinkConfig,
    /// What a new connection may have sent that was not read yet.
    window: u64,
}

impl Access {
    pub(super) fn try_new(config: &Config) -> Result<Self, TlsError> {
        let link = &config.link;
        let mut files =
            Files::new([&*link.certificate_file, &*link.private_key_file, &*link.satellite_ca_file]);
        files.reading();
        let (credentials, own) = credentials(link)?;
        Ok(Self {
            files,
            expiry: Expiry::default(),
            credentials,
            satellites: tls::load_authorities(&link.satellite_ca_file)?,
            domain: own.trust_domain,
            revocations: link
                .satellite_crl_file
                .as_deref()
                .map(|path| ListFile::new(path, &link.satellite_ca_file)),
            limits: link.clone(),
            window: memory::window(config.memory.limit, link.max_connections, link.receive_window.0),
        })
    }

    /// The revocations of now.
    pub(super) fn list(&mut self) -> Result<Revocations, TlsError> {
        Ok(self.revocations.as_mut().map(ListFile::load).transpose()?.unwrap_or_default())
    }

    /// The server's configuration with these revocations.
    pub(super) fn server(&self, revoked: &Revocations, env: &Env) -> Result<quinn::ServerConfig, TlsError> {
        let mut server = tls::server_config(
            self.credentials.clone(),
            Arc::clone(&self.satellites),
            revoked.lists(),
            Arc::clone(&env.clock),
        )?;
        // Before authentication little is held.
        server
            .transport_config(transport::ground(self.window))
            .max_incoming(4 * self.limits.max_connections)
            .incoming_buffer_size(INCOMING)
            .incoming_buffer_size_total(INCOMING_IN_ALL);
        Ok(server)
    }

    /// Whether there is a revocation list that may change.
    pub(super) fn watches_revocations(&self) -> bool {
        self.revocations.is_some()
    }

    /// Whether a file of certificates is another one than was read.
    pub(super) fn is_renewed(&self) -> bool {
        self.files.have_changed()
    }

    /// Reads the certificates again; those in force stay when that fails.
    pub(super) fn renew(&mut self) -> Result<(), TlsError> {
        self.files.reading();
        let (credentials, _) = credentials(&self.limits)?;
        let satellites = tls::load_authorities(&self.limits.satellite_ca_file)?;
        (self.credentials, self.satellites) = (credentials, satellites);
        Ok(())
    }

    /// When our certificate ends, ns since the Unix epoch; warns before that.
    pub(super) fn end(&mut self, now: u64) -> Option<u64> {
        let end = self.credentials.end();
        self.expiry.look("link.certificate_file", end, now);
        end
    }

    /// What a ground that was killed signs the ends of its old connections with.
    pub(super) fn reset_secret(&self) -> [u8; 32] {
        self.credentials.secret("perigee 2026 QUIC stateless reset")
    }

    /// Whether the revocation list's file is another one than was read.
    pub(super) fn has_changed(&self) -> bool {
        self.revocations.as_ref().is_some_and(ListFile::has_changed)
    }

    /// Who may connect.
    pub(super) fn allowed(&self) -> Allowed {
        Allowed { domain: self.domain.clone() }
    }
}

/// The station's certificate and key, and who it says we are.
fn credentials(link: &LinkConfig) -> Result<(Credentials, Identity), TlsError> {
    let credentials = Credentials::load(&link.certificate_file, &link.private_key_file)?;
    let own = credentials.identity()?;
    if own.role != Role::Station || own.id != link.station {
        let (role, id, station) = (own.role.name(), &own.id, &link.station);
        let message = format!(
            "it is the certificate of the {role} {id}, and link.station is {station}: name the right file, or issue one with \
             `pki issue station {station}`"
        );
        return Err(TlsError::Identity(message.into()));
    }
    Ok((credentials, own))
}

/// Who may connect.
pub(super) struct Allowed {
    domain: String,
}

impl Allowed {
    /// Whether this peer is one of these satellites, and of our domain; what is said of it.
    pub(super) fn judge(
        &self,
        identity: &Identity,
        satellites: &Satellites,
    ) -> Result<SatelliteConfig, String> {
        if identity.role != Role::Satellite {
            return Err("the certificate is not a satellite's".to_owned());
        }
        if identity.trust_domain != self.domain {
            return Err(format!(
                "the certificate is of the domain {}, this station of {}",
                identity.trust_domain, self.domain
            ));
        }
        let found = satellites.get(&identity.id).map(|found| found.unwrap_or_default());
        found.ok_or_else(|| format!("satellite {} is not in this station's link.satellites", identity.id))
    }
}

/// The serial number of the peer's certificate.
pub(super) fn peer_serial(connection: &quinn::Connection) -> Vec<u8> {
    connection
        .peer_identity()
        .and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok())
        .and_then(|chain| {
            let certificate = webpki::EndEntityCert::try_from(chain.first()?).ok()?;
            Some(certificate.serial().to_vec())
        })
        .unwrap_or_default()
}
