//! What an exporter's endpoint means: whether TLS, and what cannot stand in it.
//!
//! An endpoint without a scheme is TLS, as in the Collector, unless `tls.insecure` says otherwise or it is this machine: what goes to
//! another machine is never plaintext without a word that asks for it.

use super::config::TlsConfig;
use crate::serve::Endpoint;

/// An address and how it is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// `HOST:PORT` and what follows, without a scheme.
    pub address: String,
    /// Whether with TLS.
    pub tls: bool,
}

/// What `endpoint` means with these settings; the error is what is wrong with it.
pub fn target(endpoint: &str, tls: Option<&TlsConfig>) -> Result<Target, String> {
    let (tls, address) = match endpoint.split_once("://") {
        Some(("https", address)) => (true, address),
        Some(("http", address)) if tls.is_none_or(TlsConfig::is_off) => (false, address),
        Some(("http", _)) => {
            return Err(
                "begins with http:// but tls is set; write https://, or tls: {insecure: true}".to_owned()
            );
        }
        Some((scheme, _)) => {
            return Err(format!(
                "`{scheme}://` is not implemented; write http://HOST:PORT, https://HOST:PORT or HOST:PORT"
            ));
        }
        None => (means_tls(endpoint, tls), endpoint),
    };
    Ok(Target { address: address.to_owned(), tls })
}

/// What is wrong with an address or a URL of a backend, whatever it is used for. Its words never repeat it: it may hold a password.
pub(super) fn wrong_in(endpoint: &str) -> Option<&'static str> {
    let address = endpoint.split_once("://").map_or(endpoint, |(_, address)| address);
    let end = address.find(['/', '?', '#']).unwrap_or(address.len());
    let (authority, rest) = address.split_at(end);
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !authority.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let is_web = matches!(endpoint.split_once("://"), None | Some(("http" | "https", _)));
    let is_number =
        |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse().is_ok_and(|n: u16| n > 0);
    if endpoint.chars().any(|c| c.is_whitespace() || c.is_control()) {
        Some("has a blank in it; remove it")
    } else if authority.contains('@') {
        Some(
            "has a user in it (USER:PASSWORD@); write HOST:PORT here, the user and the password in extensions.basicauth, and \
             `auth: {authenticator: basicauth}` beside the endpoint",
        )
    } else if rest.contains('#') {
        Some("has a fragment (#...), which is never sent; remove it")
    } else if host.contains(':') && !host.starts_with('[') {
        Some("has an IPv6 address without brackets; write [ADDRESS]:PORT")
    } else if host.is_empty() && is_web {
        Some("has no host; for this machine, which the Collector means by that, write localhost:PORT")
    } else if port.is_some_and(|port| !is_number(port)) {
        Some("has a port that is no number from 1 to 65535")
    } else {
        None
    }
}

/// Whether an endpoint without a scheme means TLS.
fn means_tls(endpoint: &str, tls: Option<&TlsConfig>) -> bool {
    match tls {
        Some(tls) => !tls.is_off(),
        None => !is_loopback(endpoint),
    }
}

/// Whether an address without a scheme is this machine.
pub fn is_loopback(address: &str) -> bool {
    let address = address.split('/').next().unwrap_or(address);
    Endpoint::Tcp(address.to_owned()).is_local()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_stand_in_an_endpoint_is_named_and_never_repeated() {
        for (endpoint, named) in [
            ("http://ada:secret@collector:4318", Some("basicauth")),
            ("ada:secret@collector:4317", Some("basicauth")),
            ("https://secret@collector/", Some("basicauth")),
            (" http://collector:4318", Some("blank")),
            ("http://collector:4318\t", Some("blank")),
            ("http://collector:4318/#secret", Some("fragment")),
            ("http://::1:4318/x", Some("[ADDRESS]:PORT")),
            ("fe80::1:4317", Some("[ADDRESS]:PORT")),
            ("http://[::1]:4318/a@b?c=d:e", None),
            ("[::1]:4317", None),
            ("collector:4317", None),
            ("collector", None),
            ("[::1]", None),
            (":4317", Some("localhost:PORT")),
            ("http://:4318/v1/traces", Some("localhost:PORT")),
            ("dns:///collector:4317", None),
            ("collector:99999", Some("1 to 65535")),
            ("collector:0", Some("1 to 65535")),
            ("https://collector:port/", Some("1 to 65535")),
            ("collector:", Some("1 to 65535")),
        ] {
            let said = wrong_in(endpoint);
            assert_eq!(said.is_some(), named.is_some(), "{endpoint}: {said:?}");
            if let (Some(said), Some(named)) = (said, named) {
                assert!(said.contains(named) && !said.contains("secret"), "{endpoint}: {said}");
            }
        }
    }

    #[test]
    fn without_a_scheme_another_machine_is_spoken_to_with_tls() {
        let insecure = TlsConfig { insecure: true, ..TlsConfig::default() };
        let demanding = TlsConfig { insecure: true, ca_file: Some("ca.pem".into()), ..TlsConfig::default() };
        for (endpoint, tls, expected) in [
            ("collector:4317", None, Ok(true)),
            ("192.0.2.1:4317", None, Ok(true)),
            ("localhost:4317", None, Ok(false)),
            ("[::1]:4317", None, Ok(false)),
            ("127.0.0.1:4317", Some(&TlsConfig::default()), Ok(true)),
            ("collector:4317", Some(&insecure), Ok(false)),
            ("collector:4317", Some(&demanding), Ok(true)),
            ("http://collector:4317", None, Ok(false)),
            ("http://collector:4317", Some(&insecure), Ok(false)),
            ("http://collector:4317", Some(&demanding), Err(())),
            ("https://collector:4317", Some(&insecure), Ok(true)),
            ("ftp://collector:4317", None, Err(())),
        ] {
            let found = target(endpoint, tls).map(|t| t.tls).map_err(|_| ());
            assert_eq!(found, expected, "{endpoint} {tls:?}");
        }
    }
}
