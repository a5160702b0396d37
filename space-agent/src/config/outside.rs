//! What a configuration names outside of it: files, directories, sockets. All of it is looked at before anything is opened or bound.

use std::path::Path;

use perigee_shared::config::{ConfigError, ConfigFile, Invalid, Outside, check_budget, check_store};
use perigee_shared::env::Env;
use perigee_shared::export::Client;
use perigee_shared::link::revocation::Revocations;
use perigee_shared::link::tls::{self, Credentials};
use perigee_shared::serve::{CertificateFiles, check_endpoint, check_socket};

use super::{Config, ExporterConfig, LINK, LinkConfig, ListenerConfig, ListenerTls};
use crate::agent::{self, AgentError};
use crate::contacts;
use crate::shipper::Trust;
use crate::wal::Volatile;

/// How much is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// What keeps an agent from starting, and everything if something does. A plan that cannot be used does not by itself: data has to
    /// be kept.
    Start,
    /// Everything.
    All,
}

impl Config {
    /// Reads and checks the file at `path` and what it names; must be called inside a tokio runtime.
    pub fn open(path: &Path, env: &Env, extent: Extent) -> Result<Self, ConfigError> {
        let file = ConfigFile::open(path, &|name| std::env::var(name).ok())?;
        Self::read_with(file, |config, is_wrong| config.outside(env, extent, is_wrong))
    }

    fn outside(&self, env: &Env, extent: Extent, is_wrong: bool) -> Outside {
        let mut found = Outside::default();
        let storage = &self.storage;
        let then = match storage.volatile {
            Volatile::Accept => "storage.volatile is accept: the log is in memory until then",
            Volatile::Refuse => "Until then a start fails",
        };
        check_store("storage.directory", &storage.directory, then, &mut found);
        found.odd.extend(check_budget("storage.max_bytes", &storage.directory, storage.max_bytes));
        self.look_at_exporters(env, &mut found);
        self.look_at_listeners(env, &mut found);
        if let Some(link) = self.link.as_ref().filter(|_| !self.signals_of(LINK).is_empty()) {
            let satellite = look_at_link(link, env, &mut found);
            let owner = agent::owner_of_log(self, env).zip(satellite).filter(|(log, ours)| log != ours);
            found.odd.extend(owner.map(|(log, ours)| {
                let directory = self.storage.directory.display();
                let words = format!(
                    "the certificate is of {ours}, and counters.json in {directory} is of {log}: if the log beside it is too, the start \
                     sets it aside and begins a new one; is it the right certificate?"
                );
                (CERTIFICATE.to_owned(), words)
            }));
        }
        if extent == Extent::All || is_wrong || !found.wrong.is_empty() {
            let stations: Vec<String> = self.link.iter().flat_map(|l| l.stations.keys().cloned()).collect();
            match contacts::look(&self.contacts, &stations, env.trusted_or_earliest()) {
                Ok(odd) => found.odd.extend(odd.into_iter().map(|words| ("contacts.file".to_owned(), words))),
                Err(error) => found.wrong.push(Invalid::new("contacts.file", error.to_string())),
            }
        }
        found
    }

    fn look_at_exporters(&self, env: &Env, found: &mut Outside) {
        for name in self.consumers().keys() {
            let Some(ExporterConfig::Direct(direct)) = self.exporters.get(name) else { continue };
            let key = format!("exporters.{name}");
            found.wrong.extend(Client::check(&key, direct, env, None));
            found.odd.extend(direct.dates(&key, env.unix_nano()));
        }
    }

    fn look_at_listeners(&self, env: &Env, found: &mut Outside) {
        for (name, receiver) in self.otlp_receivers() {
            if self.signals_from(name).is_empty() {
                continue;
            }
            let protocols = [("grpc", &receiver.protocols.grpc), ("http", &receiver.protocols.http)];
            for (protocol, listener) in protocols {
                let Some(listener) = listener else { continue };
                let key = format!("receivers.{name}.protocols.{protocol}");
                look_at_listener(&key, listener, env, found);
            }
        }
        let metrics = &self.service.telemetry.metrics_endpoint();
        let health = &self.extensions.health_check;
        for (key, http) in [("extensions.health_check", health), ("service.telemetry.metrics", metrics)] {
            let Some(http) = http else { continue };
            found.wrong.extend(check_endpoint(&format!("{key}.endpoint"), &http.endpoint));
        }
        if let Some(control) = &self.extensions.control {
            found.wrong.extend(check_socket("extensions.control.socket", &control.socket).err());
        }
    }
}

fn look_at_listener(key: &str, listener: &ListenerConfig, env: &Env, found: &mut Outside) {
    found.wrong.extend(check_endpoint(&format!("{key}.endpoint"), &listener.endpoint));
    if let Some(tls) = &listener.tls {
        let (files, section) = (tls.files(), format!("{key}.tls"));
        found.wrong.extend(files.problems(&section));
        found.odd.extend(files.dates(&section, env.unix_nano()));
    }
}

const CERTIFICATE: &str = "link.certificate_file";

/// Which satellite we are, if the certificate can be used.
fn look_at_link(link: &LinkConfig, env: &Env, found: &mut Outside) -> Option<String> {
    let before = found.wrong.len();
    let (certificate, authorities) = (&*link.certificate_file, &*link.station_ca_file);
    found.wrong.extend(Credentials::problems(
        (CERTIFICATE, certificate),
        ("link.private_key_file", &link.private_key_file),
    ));
    let unusable = tls::load_authorities(authorities).err();
    found.wrong.extend(unusable.map(|error| Invalid::new("link.station_ca_file", error.to_string())));
    let mut satellite = None;
    if found.wrong.len() == before {
        match Trust::try_new(link, env) {
            Ok((_, ours)) => satellite = Some(ours),
            Err(AgentError::Setting(invalid)) => found.wrong.push(invalid),
            Err(other) => found.wrong.push(Invalid::new(CERTIFICATE, other.to_string())),
        }
    }
    if let Some(list) = &link.station_crl_file {
        // It never ends contact.
        let words = match Revocations::load(list, authorities) {
            Ok(loaded) => loaded.out_of_date(list, env.unix_nano()),
            Err(error) => Some(error.to_string()),
        };
        found.odd.extend(words.map(|words| ("link.station_crl_file".to_owned(), words)));
    }
    let dates = tls::out_of_date(certificate, env.unix_nano());
    found.odd.extend(dates.map(|words| (CERTIFICATE.to_owned(), words)));
    let doubt = tls::doubtful_authorities(certificate, authorities);
    found.odd.extend(doubt.map(|words| ("link.station_ca_file".to_owned(), words)));
    satellite
}

impl ListenerTls {
    /// The files.
    pub fn files(&self) -> CertificateFiles<'_> {
        CertificateFiles {
            certificate: &self.cert_file,
            key: &self.key_file,
            clients: self.client_ca_file.as_deref(),
        }
    }
}
