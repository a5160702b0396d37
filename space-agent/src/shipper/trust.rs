//! Whom the link trusts: our certificate, the stations' authorities, and the list of stations that are revoked.
//!
//! Files are read again before each attempt to connect if they have changed. What cannot be used raises an alarm and never ends
//! contact: what was in force before stays so, and without a list every station of the authority is trusted.

use std::sync::Arc;

use perigee_shared::config::Invalid;
use perigee_shared::env::Env;
use perigee_shared::link::files::Files;
use perigee_shared::link::revocation::{ListFile, Revocations};
use perigee_shared::link::tls::{self, Credentials, Expiry, Role, TlsError};
use rustls::RootCertStore;

use crate::agent::AgentError;
use crate::config::LinkConfig;
use crate::telemetry::ShipCounters;

/// See the module.
pub struct Trust {
    link: LinkConfig,
    files: Files,
    satellite: String,
    expiry: Expiry,
    credentials: Credentials,
    authorities: Arc<RootCertStore>,
    list: Option<ListFile>,
    revocations: Revocations,
    unusable: bool,
    client: quinn::ClientConfig,
    env: Env,
}

impl Trust {
    /// Reads the files of `link`; also which satellite we are.
    pub fn try_new(link: &LinkConfig, env: &Env) -> Result<(Self, String), AgentError> {
        let mut files =
            Files::new([&*link.certificate_file, &*link.private_key_file, &*link.station_ca_file]);
        files.reading();
        let (credentials, satellite) = credentials(link)?;
        let authorities = tls::load_authorities(&link.station_ca_file)?;
        let client = client(env, &credentials, &authorities, &Revocations::default())?;
        let mut trust = Self {
            files,
            satellite: satellite.clone(),
            expiry: Expiry::default(),
            list: link.station_crl_file.as_deref().map(|path| ListFile::new(path, &link.station_ca_file)),
            link: link.clone(),
            credentials,
            authorities,
            revocations: Revocations::default(),
            unusable: false,
            client,
            env: env.clone(),
        };
        trust.take_end();
        trust.refresh();
        Ok((trust, satellite))
    }

    /// The TLS of the next connection.
    pub fn client(&mut self, counters: &ShipCounters) -> &quinn::ClientConfig {
        self.refresh();
        let doubt = self.unusable || self.has_expired();
        counters.revocations_unusable.set(i64::from(doubt));
        counters.certificate_end(self.end());
        self.expiry.look("link.certificate_file", self.end(), self.env.trusted_or_earliest());
        &self.client
    }

    /// When the first of our certificates ends, ns since the Unix epoch.
    pub fn end(&self) -> Option<u64> {
        self.credentials.end()
    }

    fn refresh(&mut self) {
        if self.files.have_changed() {
            self.files.reading();
            match self.renew() {
                Ok(()) => tracing::info!("the link's certificates were read again"),
                Err(error) => tracing::error!(
                    event.name = "perigee.link.certificate",
                    %error,
                    "the link's new certificates cannot be used; those in force stay"
                ),
            }
        }
        let Some(file) = self.list.as_mut().filter(|file| file.has_changed()) else { return };
        let loaded = file.load();
        let used = loaded.and_then(|list| self.trust(list));
        self.unusable = used.is_err();
        match used {
            Ok(()) if self.has_expired() => tracing::error!(
                event.name = "perigee.link.revocation_list",
                "link.station_crl_file has expired, or the clock is wrong; it is used all the same"
            ),
            Ok(()) => tracing::info!("link.station_crl_file was read"),
            Err(error) => tracing::error!(
                event.name = "perigee.link.revocation_list",
                %error,
                "link.station_crl_file cannot be used; the previous list stays in force, and contacts continue"
            ),
        }
    }

    /// Whether a new list is due for certain: with a clock that is not trusted, by the floor.
    fn has_expired(&self) -> bool {
        self.revocations.has_expired(self.env.trusted_or_earliest())
    }

    fn trust(&mut self, list: Revocations) -> Result<(), TlsError> {
        self.client = client(&self.env, &self.credentials, &self.authorities, &list)?;
        list.warn_if_older(&self.revocations);
        self.revocations = list;
        Ok(())
    }

    /// Takes what the files say now.
    fn renew(&mut self) -> Result<(), AgentError> {
        let (credentials, satellite) = credentials(&self.link)?;
        if satellite != self.satellite {
            let message =
                format!("it is of {satellite} now, and this is {}; restart to change that", self.satellite);
            return Err(AgentError::Setting(Invalid::new("link.certificate_file", message)));
        }
        let authorities = tls::load_authorities(&self.link.station_ca_file)?;
        self.client = client(&self.env, &credentials, &authorities, &self.revocations)?;
        (self.credentials, self.authorities) = (credentials, authorities);
        self.take_end();
        Ok(())
    }

    /// The clock is not beyond the end of our own certificate.
    fn take_end(&self) {
        if let Some(end) = self.end() {
            self.env.bounds.set_end(end);
        }
    }
}

/// The satellite's certificate and key, and its id.
fn credentials(link: &LinkConfig) -> Result<(Credentials, String), AgentError> {
    let credentials = Credentials::load(&link.certificate_file, &link.private_key_file)?;
    let identity = credentials.identity()?;
    if identity.role != Role::Satellite {
        let message = format!("it is a station's certificate ({}); use a satellite's", identity.id);
        return Err(AgentError::Setting(Invalid::new("link.certificate_file", message)));
    }
    Ok((credentials, identity.id))
}

fn client(
    env: &Env,
    credentials: &Credentials,
    authorities: &Arc<RootCertStore>,
    list: &Revocations,
) -> Result<quinn::ClientConfig, TlsError> {
    let (clock, bounds) = (Arc::clone(&env.clock), Arc::clone(&env.bounds));
    tls::client_config(credentials.clone(), Arc::clone(authorities), list.lists(), clock, bounds)
}
