//! Whom the link trusts: our certificate, the stations' authorities, and the list of stations that are revoked.
//!
//! The list is read again before each attempt to connect if its file has changed. One that cannot be used raises an alarm and
//! never ends contact: the one before stays in force, and without one every station of the authority is trusted.

use std::sync::Arc;

use perigee_shared::config::Invalid;
use perigee_shared::env::Env;
use perigee_shared::link::revocation::{ListFile, Revocations};
use perigee_shared::link::tls::{self, Credentials, Role, TlsError};
use rustls::RootCertStore;

use crate::agent::AgentError;
use crate::config::LinkConfig;
use crate::telemetry::ShipCounters;

/// See the module.
pub struct Trust {
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
        let credentials = Credentials::load(&link.certificate_file, &link.private_key_file)?;
        let identity = credentials.identity()?;
        if identity.role != Role::Satellite {
            let message = format!("it is a station's certificate ({}); use a satellite's", identity.id);
            return Err(AgentError::Setting(Invalid::new("link.certificate_file", message)));
        }
        let authorities = tls::load_authorities(&link.station_ca_file)?;
        if let Some(end) = credentials.end() {
            env.bounds.set_end(end);
        }
        let (clock, bounds) = (Arc::clone(&env.clock), Arc::clone(&env.bounds));
        let client = tls::client_config(credentials.clone(), Arc::clone(&authorities), &[], clock, bounds)?;
        let mut trust = Self {
            credentials,
            authorities,
            list: link.station_crl_file.as_deref().map(|path| ListFile::new(path, &link.station_ca_file)),
            revocations: Revocations::default(),
            unusable: false,
            client,
            env: env.clone(),
        };
        trust.refresh();
        Ok((trust, identity.id))
    }

    /// The TLS of the next connection.
    pub fn client(&mut self, counters: &ShipCounters) -> &quinn::ClientConfig {
        self.refresh();
        let doubt = self.unusable || self.has_expired();
        counters.revocations_unusable.set(i64::from(doubt));
        &self.client
    }

    /// When the first of our certificates ends, ns since the Unix epoch.
    pub(super) fn end(&self) -> Option<u64> {
        self.credentials.end()
    }

    fn refresh(&mut self) {
        let Some(file) = self.list.as_mut().filter(|file| file.has_changed()) else { return };
        let loaded = file.load();
        let used = loaded.and_then(|list| self.trust(list));
        self.unusable = used.is_err();
        match used {
            Ok(()) if self.has_expired() => tracing::error!(
                event.name = "perigee.link.revocation_list",
                "link.station_crl_file has expired, or the clock is wrong; it is used"
            ),
            Ok(()) => tracing::info!("link.station_crl_file was read"),
            Err(error) => tracing::error!(
                event.name = "perigee.link.revocation_list",
                %error,
                "link.station_crl_file cannot be used; what was in force before stays, and contacts go on"
            ),
        }
    }

    /// Whether a new list is due for certain: with a clock that is not trusted, by the floor.
    fn has_expired(&self) -> bool {
        self.revocations.has_expired(self.env.trusted_or_earliest())
    }

    fn trust(&mut self, list: Revocations) -> Result<(), TlsError> {
        let (credentials, authorities) = (self.credentials.clone(), Arc::clone(&self.authorities));
        let (clock, bounds) = (Arc::clone(&self.env.clock), Arc::clone(&self.env.bounds));
        self.client = tls::client_config(credentials, authorities, list.lists(), clock, bounds)?;
        self.revocations = list;
        Ok(())
    }
}
