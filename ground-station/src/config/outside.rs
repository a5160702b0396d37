//! What a configuration names outside of it: files, directories, sockets. All of it is looked at before anything is opened or bound.

use std::path::Path;

use perigee_shared::config::{ConfigError, ConfigFile, Invalid, Outside, check_budget, check_store};
use perigee_shared::env::Env;
use perigee_shared::export::Client;
use perigee_shared::link::revocation::Revocations;
use perigee_shared::link::tls::{self, Credentials};
use perigee_shared::serve::{CertificateFiles, check_endpoint, check_socket};

use super::{Config, LinkConfig};
use crate::console::{Console, ConsoleTls};
use crate::ground::Part;
use crate::link::{Link, LinkError};

impl Config {
    /// Reads and checks the file at `path`, and what it names for these parts of the work; must be called inside a tokio runtime.
    pub fn open(path: &Path, env: &Env, parts: &[Part]) -> Result<Self, ConfigError> {
        let file = ConfigFile::open(path, &|name| std::env::var(name).ok())?;
        Self::read_with(file, |config| config.outside(env, parts))
    }

    fn outside(&self, env: &Env, parts: &[Part]) -> Outside {
        let mut found = Outside::default();
        let storage = &self.storage;
        let then = "Until then a start fails";
        check_store("storage.directory", &storage.directory, then, &mut found);
        if storage.fleet().is_none() {
            found.odd.extend(check_budget("storage.max_bytes", &storage.directory, storage.max_bytes));
        }
        found.wrong.extend(self.storage.fleet().and_then(|fleet| fleet.check("storage")));
        if parts.contains(&Part::Export) {
            self.look_at_exporters(env, &mut found);
        }
        if parts.contains(&Part::Link) {
            look_at_link(self, env, &mut found);
        }
        self.look_at_listeners(env, parts, &mut found);
        if self.link.satellites.is_empty() && parts.contains(&Part::Link) {
            let words = "is empty: no satellite can connect until it is named there";
            found.odd.push(("link.satellites".to_owned(), words.to_owned()));
        }
        found
    }

    fn look_at_exporters(&self, env: &Env, found: &mut Outside) {
        for name in self.service.pipelines.routes().keys() {
            let Some(exporter) = self.exporters.get(name) else { continue };
            let key = format!("exporters.{name}");
            // The store is opened before them.
            found.wrong.extend(Client::check(&key, exporter, env, Some(&self.storage.directory)));
            found.odd.extend(exporter.dates(&key, env.unix_nano()));
        }
    }

    fn look_at_listeners(&self, env: &Env, parts: &[Part], found: &mut Outside) {
        let extensions = &self.extensions;
        let metrics = self.service.telemetry.metrics_endpoint();
        let api = extensions.api.as_ref().filter(|_| parts.contains(&Part::Api));
        for (key, http) in [
            ("extensions.health_check", extensions.health_check.as_ref()),
            ("extensions.api", api),
            ("service.telemetry.metrics", metrics.as_ref()),
        ] {
            let Some(http) = http else { continue };
            found.wrong.extend(check_endpoint(&format!("{key}.endpoint"), &http.endpoint));
        }
        if let Some(control) = &extensions.control {
            found.wrong.extend(check_socket("extensions.control.socket", &control.socket).err());
        }
        let Some(console) = &extensions.console else { return };
        found.wrong.extend(Console::check(console));
        if let Some(tls) = &console.tls {
            const SECTION: &str = "extensions.console.tls";
            found.wrong.extend(tls.files().problems(SECTION));
            found.odd.extend(tls.files().dates(SECTION, env.unix_nano()));
        }
    }
}

fn look_at_link(config: &Config, env: &Env, found: &mut Outside) {
    const CERTIFICATE: &str = "link.certificate_file";
    let LinkConfig { certificate_file, private_key_file, satellite_ca_file, satellite_crl_file, .. } =
        &config.link;
    let before = found.wrong.len();
    let complain = |key: &str, error: &dyn std::fmt::Display| Invalid::new(key, error.to_string());
    found.wrong.extend(Credentials::problems(
        (CERTIFICATE, certificate_file),
        ("link.private_key_file", private_key_file),
    ));
    match tls::load_authorities(satellite_ca_file) {
        Err(error) => found.wrong.push(complain("link.satellite_ca_file", &error)),
        Ok(_) => {
            const LIST: &str = "link.satellite_crl_file";
            if let Some(list) = satellite_crl_file {
                match Revocations::load(list, satellite_ca_file) {
                    Ok(loaded) => {
                        let words = loaded.out_of_date(list, env.unix_nano());
                        found.odd.extend(words.map(|words| (LIST.to_owned(), words)));
                    }
                    Err(error) => found.wrong.push(complain(LIST, &error)),
                }
            }
        }
    }
    if found.wrong.len() == before {
        found.wrong.extend(Link::check(config, env).err().map(|error| match error {
            LinkError::Tls(error) => complain(CERTIFICATE, &error),
            other => complain(CERTIFICATE, &other),
        }));
    }
    let dates = tls::out_of_date(certificate_file, env.unix_nano());
    found.odd.extend(dates.map(|words| (CERTIFICATE.to_owned(), words)));
    let doubt = tls::doubtful_authorities(certificate_file, satellite_ca_file);
    found.odd.extend(doubt.map(|words| ("link.satellite_ca_file".to_owned(), words)));
}

impl ConsoleTls {
    /// The files.
    pub fn files(&self) -> CertificateFiles<'_> {
        CertificateFiles {
            certificate: &self.cert_file,
            key: &self.key_file,
            clients: self.client_ca_file.as_deref(),
        }
    }
}
