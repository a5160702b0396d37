//! Certificates of listeners: renewed while they serve, and what is said of them before.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::env::Env;
use crate::serve::{Closed, Endpoint, Limits, Listener, keep};
use crate::supervise::Supervisor;

const DAY: Duration = Duration::from_secs(86_400);

struct Authority(rcgen::Certificate, Issuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "an authority");
        let key = KeyPair::generate().unwrap();
        let own = params.self_signed(&key).unwrap();
        Self(own, Issuer::new(params, key))
    }

    /// A certificate for `localhost` that is valid in these days since 1970, and its key.
    fn issue(&self, days: (u32, u32)) -> (String, String) {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        (params.not_before, params.not_after) =
            ((UNIX_EPOCH + DAY * days.0).into(), (UNIX_EPOCH + DAY * days.1).into());
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.1).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

const ALWAYS: (u32, u32) = (0, 40_000);

/// Files in a directory of their own.
struct Place(tempfile::TempDir);

impl Place {
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A new file under a name, as whoever renews certificates leaves it.
    fn put(&self, name: &str, text: &str) {
        std::fs::write(self.path("new"), text).unwrap();
        std::fs::rename(self.path("new"), self.path(name)).unwrap();
    }
}

fn files<'a>(certificate: &'a Path, key: &'a Path) -> CertificateFiles<'a> {
    CertificateFiles { certificate, key, clients: None }
}

/// The certificate that is served.
async fn served(address: SocketAddr, client: &Arc<ClientConfig>) -> Vec<u8> {
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(Arc::clone(client)).connect(name, stream).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn renewed_certificates_are_served_and_those_that_do_not_fit_leave_the_old_ones_in_force() {
    let (authority, place) = (Authority::new(), Place(tempfile::tempdir().unwrap()));
    let (first, first_key) = authority.issue(ALWAYS);
    let (second, second_key) = authority.issue(ALWAYS);
    place.put("tls.crt", &first);
    place.put("tls.key", &first_key);
    let env = Env::production();
    let (certificate, key) = (place.path("tls.crt"), place.path("tls.key"));
    let loaded = Certificates::load("a.tls", files(&certificate, &key), Arc::clone(&env.clock)).unwrap();
    let endpoint = Endpoint::Tcp("127.0.0.1:0".into());
    let listener = Listener::bind(&endpoint, "a test", Some(loaded)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = hyper::service::service_fn(async |_| {
        Ok::<_, std::convert::Infallible>(hyper::Response::new("ok".to_owned()))
    });
    let (tasks, stop) = (Supervisor::new(&env), CancellationToken::new());
    keep(&tasks, "test", listener, (Limits::default(), Closed::default()), service, stop.clone());

    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.0.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let client = Arc::new(client.with_root_certificates(roots).with_no_client_auth());
    let der = |pem: &str| {
        use rustls::pki_types::pem::PemObject;
        rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
    };
    assert_eq!(served(address, &client).await, der(&first));
    place.put("tls.crt", &second);
    assert_eq!(served(address, &client).await, der(&first), "its key is not there yet");
    place.put("tls.key", &second_key);
    assert_eq!(served(address, &client).await, der(&second));
    std::fs::remove_file(&key).unwrap();
    assert_eq!(served(address, &client).await, der(&second), "what cannot be read changes nothing");
    stop.cancel();
}

#[test]
fn every_file_that_is_wrong_is_named_with_its_key() {
    let (authority, place) = (Authority::new(), Place(tempfile::tempdir().unwrap()));
    let (certificate, _) = authority.issue(ALWAYS);
    let (_, other) = authority.issue(ALWAYS);
    place.put("tls.crt", &certificate);
    place.put("other.key", &other);
    let (good, missing, wrong) = (place.path("tls.crt"), place.path("none"), place.path("other.key"));
    let keys = |files: CertificateFiles<'_>| -> Vec<String> {
        files.problems("x.tls").into_iter().map(|invalid| invalid.key).collect()
    };
    assert_eq!(keys(files(&good, &wrong)), ["x.tls.key_file"]);
    let all = CertificateFiles { certificate: &missing, key: &missing, clients: Some(&wrong) };
    assert_eq!(keys(all), ["x.tls.cert_file", "x.tls.key_file", "x.tls.client_ca_file"]);
    let said = files(&good, &wrong).problems("x.tls").remove(0).message;
    assert!(said.contains("other.key") && said.contains("key of another certificate"), "{said}");
    let pipe = place.path("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let said = files(&pipe, &pipe).problems("x.tls").remove(0).message;
    assert!(said.contains("it is a pipe"), "{said}");
}

#[test]
fn dates_are_said_with_the_clock() {
    let (authority, place) = (Authority::new(), Place(tempfile::tempdir().unwrap()));
    let (certificate, key) = authority.issue((20_000, 20_100));
    place.put("tls.crt", &certificate);
    place.put("tls.key", &key);
    let (certificate, key) = (place.path("tls.crt"), place.path("tls.key"));
    for (day, parts) in [
        (19_999, &["begins at 2024-10-04T00:00:00Z", "the clock of this machine says 2024-10-03"][..]),
        (20_050, &[]),
        (20_090, &["ends at 2025-01-12T00:00:00Z", "in less than 30 days"]),
        (20_101, &["ended at 2025-01-12T00:00:00Z", "the clock of this machine says 2025-01-13"]),
    ] {
        let said = files(&certificate, &key).dates("x.tls", (DAY * day).as_nanos() as u64);
        assert_eq!(said.is_some(), !parts.is_empty(), "{day}: {said:?}");
        let Some((key, said)) = said else { continue };
        assert_eq!(key, "x.tls.cert_file");
        assert!(parts.iter().all(|part| said.contains(part)), "{day}: {said}");
    }
}

#[test]
fn the_authority_of_our_own_certificate_is_not_the_other_sides() {
    let (ours, theirs, place) = (Authority::new(), Authority::new(), Place(tempfile::tempdir().unwrap()));
    place.put("own.crt", &ours.issue(ALWAYS).0);
    place.put("ours.crt", &ours.0.pem());
    place.put("theirs.crt", &theirs.0.pem());
    place.put("both.crt", &format!("{}{}", theirs.0.pem(), ours.0.pem()));
    let own = place.path("own.crt");
    assert_eq!(
        tls::doubtful_authorities(&own, &place.path("theirs.crt")),
        None,
        "it has the same name and another key"
    );
    let leaf = tls::doubtful_authorities(&own, &own).unwrap();
    assert!(leaf.contains("own.crt has no certificate of an authority"), "{leaf}");
    for file in ["ours.crt", "both.crt"] {
        let said = tls::doubtful_authorities(&own, &place.path(file)).unwrap();
        assert!(said.contains(file) && said.contains("own.crt") && said.contains("swapped"), "{said}");
    }
}
