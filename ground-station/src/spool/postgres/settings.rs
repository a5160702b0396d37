//! Where the shared ledger is, and what is asked of the servers that keep it.

use std::path::PathBuf;
use std::time::Duration;

use perigee_shared::config::Invalid;
use perigee_shared::export::client_tls;
use perigee_shared::export::config::{Secret, TlsConfig};
use perigee_shared::files;
use serde::Deserialize;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};
use tokio_postgres_rustls::MakeRustlsConnect;

/// The port when a host names none.
const PORT: u16 = 5432;

/// What must be so before the ledger trusts the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Replication {
    /// A commit is on two servers before anybody is told: `synchronous_standby_names` is set.
    #[default]
    Required,
    /// One server alone: what it acknowledged is gone with its disk.
    None,
    /// The engine replicates by itself and has no such settings: CockroachDB, YugabyteDB, some managed services.
    Engine,
}

/// How stations reach the ledger that they share.
#[derive(Debug, Clone)]
pub struct FleetSettings {
    /// `host`, `host:port`, `[v6]:port`, or the directory of a unix socket.
    pub hosts: Vec<String>,
    /// The database.
    pub database: String,
    /// The role.
    pub user: String,
    /// Its password, written in the configuration.
    pub password: Option<Secret>,
    /// Or the file that has it.
    pub password_file: Option<PathBuf>,
    /// Without it, connections are in the clear.
    pub tls: Option<TlsConfig>,
    /// What must be so.
    pub replication: Replication,
    /// Connections at once.
    pub connections: usize,
    /// After so long a worker that says nothing is replaced.
    pub lease: Duration,
}

/// A host as it is written.
#[derive(Debug, PartialEq, Eq)]
enum Host<'h> {
    Socket(&'h str),
    Tcp(&'h str, u16),
}

impl Host<'_> {
    fn parse(text: &str) -> Option<Host<'_>> {
        if text.starts_with('/') {
            return Some(Host::Socket(text));
        }
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, rest)) => (host, Some(rest.strip_prefix(':')?)),
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let port = port.map_or(Ok(PORT), str::parse).ok()?;
        (!host.is_empty() && port != 0).then_some(Host::Tcp(host, port))
    }

    /// Whether what is sent stays on this machine.
    fn is_local(&self) -> bool {
        match self {
            Self::Socket(_) => true,
            Self::Tcp(host, _) => {
                *host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
            }
        }
    }
}

impl FleetSettings {
    /// What is wrong with them; `key` is where they were configured.
    pub fn problems(&self, key: &str) -> Vec<Invalid> {
        let mut wrong = Vec::new();
        let mut complain =
            |name: &str, message: String| wrong.push(Invalid::new(format!("{key}.{name}"), message));
        if self.hosts.is_empty() {
            complain("hosts", "needs the servers, for example [10.0.0.1, 10.0.0.2, 10.0.0.3]".to_owned());
        }
        for host in &self.hosts {
            let Some(parsed) = Host::parse(host) else {
                complain(
                    "hosts",
                    format!("`{host}` is no host; write HOST, HOST:PORT or a socket's directory"),
                );
                continue;
            };
            let plain = self.tls.is_none();
            if plain && !parsed.is_local() {
                let message = format!(
                    "`{host}` is another machine: name the authority of its certificate in {key}.tls.ca_file, or \
                     write tls: {{insecure: true}} to send the ledger in the clear"
                );
                complain("tls", message);
                break;
            }
        }
        for (name, text) in [("database", &self.database), ("user", &self.user)] {
            if text.is_empty() {
                complain(name, "must be written with kind: postgres".to_owned());
            }
        }
        if self.password.is_some() && self.password_file.is_some() {
            complain("password_file", "there is password too; keep one of both".to_owned());
        }
        if !(2..=256).contains(&self.connections) {
            complain("connections", "must be from 2 to 256".to_owned());
        }
        if !(Duration::from_secs(2)..=Duration::from_secs(3600)).contains(&self.lease) {
            complain("lease", "must be from 2s to 1h".to_owned());
        }
        wrong
    }

    /// The hosts, for messages.
    pub(super) fn shown(&self) -> String {
        self.hosts.join(", ")
    }

    /// What is wrong with the files that are named; `key` is where these settings stand.
    pub fn check(&self, key: &str) -> Option<Invalid> {
        self.client(key, "").err()
    }

    /// What the client is built from, host by host. Reads the files that are named.
    pub(super) fn client(
        &self,
        key: &str,
        station: &str,
    ) -> Result<(Vec<tokio_postgres::Config>, MakeRustlsConnect), Invalid> {
        let mut common = tokio_postgres::Config::new();
        let tls = self.tls.clone().unwrap_or_default();
        let clear = self.tls.is_none() || tls.is_off();
        if let Some(password) = self.read_password(key)? {
            common.password(password);
        }
        common
            .dbname(&self.database)
            .user(&self.user)
            .application_name(format!("perigee {station}"))
            .ssl_mode(if clear { SslMode::Disable } else { SslMode::Require })
            .connect_timeout(Duration::from_secs(2))
            .tcp_user_timeout(Duration::from_secs(10))
            .keepalives_idle(Duration::from_secs(5))
            .keepalives_interval(Duration::from_secs(2))
            .keepalives_retries(3)
            .target_session_attrs(TargetSessionAttrs::ReadWrite);
        let mut configs = Vec::new();
        for host in &self.hosts {
            let mut config = common.clone();
            match Host::parse(host) {
                Some(Host::Tcp(host, port)) => {
                    match (&tls.server_name, host.parse()) {
                        (Some(name), Ok(address)) => config.host(name).hostaddr(address),
                        _ => config.host(host),
                    };
                    config.port(port);
                }
                Some(Host::Socket(path)) => {
                    config.host_path(path).port(PORT);
                }
                None => return Err(Invalid::new(format!("{key}.hosts"), format!("`{host}` is no host"))),
            }
            configs.push(config);
        }
        let tls = if clear { TlsConfig { insecure_skip_verify: true, ..TlsConfig::default() } } else { tls };
        Ok((configs, MakeRustlsConnect::new(client_tls(key, &tls)?)))
    }

    pub(super) fn read_password(&self, key: &str) -> Result<Option<String>, Invalid> {
        let Some(path) = &self.password_file else { return Ok(self.password.clone().map(|p| p.0)) };
        let text = files::read_text(path, files::SECRETS).map_err(|e| {
            let path = path.display();
            let message = format!("cannot read {path}: {e}; check the path and that this user may read it");
            Invalid::new(format!("{key}.password_file"), message)
        })?;
        let password = text.trim_end_matches(['\r', '\n']);
        if password.is_empty() {
            let message = format!("{} is empty; write the password of storage.user into it", path.display());
            return Err(Invalid::new(format!("{key}.password_file"), message));
        }
        Ok(Some(password.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_addresses_and_directories_of_sockets() {
        for (text, expected) in [
            ("db1", Some(Host::Tcp("db1", 5432))),
            ("10.0.0.1:6432", Some(Host::Tcp("10.0.0.1", 6432))),
            ("[::1]:6432", Some(Host::Tcp("::1", 6432))),
            ("[::1]", Some(Host::Tcp("::1", 5432))),
            ("/run/postgresql", Some(Host::Socket("/run/postgresql"))),
            ("db1:port", None),
            (":5432", None),
            ("", None),
        ] {
            assert_eq!(Host::parse(text), expected, "{text}");
        }
    }
}
