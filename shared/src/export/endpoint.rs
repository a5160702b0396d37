//! Whether an exporter's endpoint means TLS.
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
