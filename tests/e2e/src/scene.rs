//! A directory with certificates, and ports that nobody has.

use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};

use ground_station::pki::{Pki, Role};
use perigee_shared::env::Env;
use tempfile::TempDir;

/// The satellite of most tests.
pub const SATELLITE: &str = "sat-1";
/// Its station.
pub const STATION: &str = "svalbard";
/// In every certificate.
pub const DOMAIN: &str = "example.org";

/// Where the two programs are: `env!("CARGO_BIN_EXE_...")` in an integration test.
#[derive(Debug, Clone, Copy)]
pub struct Programs {
    /// `space-agent`
    pub agent: &'static str,
    /// `ground-station`
    pub ground: &'static str,
}

/// See the module.
pub struct Scene {
    directory: TempDir,
    pub(crate) programs: Programs,
}

impl Scene {
    /// A new directory with certificates of [`SATELLITE`] and [`STATION`].
    pub fn new(programs: Programs) -> Self {
        let directory = tempfile::Builder::new().prefix("e2e-").tempdir().unwrap();
        let scene = Self { directory, programs };
        Pki::init(&scene.pki(), DOMAIN, false, &Env::production()).unwrap();
        scene.issue(Role::Satellite, SATELLITE);
        scene.issue(Role::Station, STATION);
        scene
    }

    /// Where everything is.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Where the certificates are.
    pub fn pki(&self) -> PathBuf {
        self.path().join("pki")
    }

    /// One of the certificate files.
    pub fn certificate(&self, name: &str) -> String {
        self.pki().join(name).display().to_string()
    }

    /// A certificate more.
    pub fn issue(&self, role: Role, id: &str) {
        Pki::open(&self.pki(), &Env::production()).unwrap().issue(role, id, 60).unwrap();
    }
}

/// A port of 127.0.0.1 that nothing has, TCP and UDP, never the same twice in this process. It lies below those that the
/// kernel gives out by itself, so that no connection takes it while its owner is down.
pub fn free_port() -> u16 {
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let start = (std::process::id() % 199) as u16 * 100;
        let port = FIRST + (start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed))) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
