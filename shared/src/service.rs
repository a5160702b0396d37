//! What a program tells the service manager that started it, as sd_notify(3) has it: datagrams to the socket that `NOTIFY_SOCKET` names.
//! Without one nothing is said.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::supervise::Supervisor;

/// A manager that does not read is not waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// What there is to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Everything is open, and requests are served.
    Ready,
    /// The program ends in order.
    Stopping,
    /// The program still does its work.
    Alive,
}

impl Told {
    const fn words(self) -> &'static [u8] {
        match self {
            Self::Ready => b"READY=1",
            Self::Stopping => b"STOPPING=1",
            Self::Alive => b"WATCHDOG=1",
        }
    }
}

/// The service manager.
#[derive(Debug, Clone, Default)]
pub struct Manager {
    socket: Option<Arc<UnixDatagram>>,
    /// It must be told so often that the program is alive.
    watchdog: Option<Duration>,
}

impl Manager {
    /// The manager of this process, as its environment names it.
    pub fn of_this_process() -> Self {
        Self::named(|name| std::env::var_os(name), std::process::id())
    }

    /// The same by these variables, for the process `pid`. A socket that cannot be reached is a warning.
    fn named(variable: impl Fn(&str) -> Option<OsString>, pid: u32) -> Self {
        let Some(address) = variable("NOTIFY_SOCKET").filter(|address| !address.is_empty()) else {
            return Self::default();
        };
        let number = |name: &str| variable(name)?.to_str()?.parse::<u64>().ok();
        let is_ours = variable("WATCHDOG_PID").is_none() || number("WATCHDOG_PID") == Some(u64::from(pid));
        let watchdog = number("WATCHDOG_USEC").filter(|usec| is_ours && *usec > 0).map(Duration::from_micros);
        let socket = connected(&address).map(Arc::new);
        let socket = socket.inspect_err(|error| {
            tracing::warn!(%error, address = %address.display(), "the service manager cannot be told anything (NOTIFY_SOCKET)");
        });
        Self { socket: socket.ok(), watchdog }
    }

    /// Tells it something.
    pub fn tell(&self, told: Told) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = socket.send(told.words()) {
            tracing::debug!(%error, ?told, "the service manager does not hear");
        }
    }

    /// Keeps two tasks of `signals`: one cancels `shutdown` when `termination` ends, and says so; the other tells it again and again that
    /// the program is alive.
    pub fn attend(
        &self,
        signals: &Supervisor,
        termination: impl Future<Output = ()> + Send + 'static,
        shutdown: CancellationToken,
    ) {
        let ending = (Box::pin(termination), shutdown, self.clone());
        signals.keep("termination", ending, |(termination, shutdown, manager)| {
            Box::pin(async {
                termination.as_mut().await;
                manager.tell(Told::Stopping);
                shutdown.cancel();
            })
        });
        signals.keep("watchdog", self.clone(), |manager| Box::pin(manager.keep_telling()));
    }

    /// Tells it again and again that the program is alive, twice as often as it must, if it wants to know. Never ends.
    async fn keep_telling(&self) {
        let Some(every) = self.watchdog.filter(|_| self.socket.is_some()) else {
            return std::future::pending().await;
        };
        loop {
            self.tell(Told::Alive);
            tokio::time::sleep(every / 2).await;
        }
    }
}

/// A socket to `address`: a path, or behind `@` a name without a file.
fn connected(address: &OsStr) -> io::Result<UnixDatagram> {
    let address = match address.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(address)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A manager that listens at `address` and wants to know every 20 s that process 7 is alive, and what it hears.
    fn listening(directory: &tempfile::TempDir) -> (UnixDatagram, OsString) {
        let path = directory.path().join("notify");
        (UnixDatagram::bind(&path).unwrap(), path.into())
    }

    fn manager(address: &OsStr, variables: &[(&str, &str)], pid: u32) -> Manager {
        let of = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into());
        Manager::named(|name| if name == "NOTIFY_SOCKET" { Some(address.to_owned()) } else { of(name) }, pid)
    }

    fn heard(socket: &UnixDatagram) -> Option<String> {
        socket.set_nonblocking(true).unwrap();
        let mut bytes = [0; 64];
        let length = socket.recv(&mut bytes).ok()?;
        Some(String::from_utf8(bytes[..length].to_vec()).unwrap())
    }

    #[test]
    fn it_is_told_at_a_path_and_at_a_name_without_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let (socket, path) = listening(&dir);
        manager(&path, &[], 7).tell(Told::Ready);
        assert_eq!(heard(&socket).as_deref(), Some("READY=1"));
        let name = format!("perigee-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        manager(format!("@{name}").as_ref(), &[], 7).tell(Told::Stopping);
        assert_eq!(heard(&socket).as_deref(), Some("STOPPING=1"));
    }

    #[test]
    fn without_a_manager_and_with_one_that_is_gone_nothing_happens() {
        Manager::named(|_| None, 7).tell(Told::Ready);
        let dir = tempfile::tempdir().unwrap();
        let (socket, path) = listening(&dir);
        let manager_of_ours = manager(&path, &[], 7);
        drop(socket);
        manager_of_ours.tell(Told::Ready);
        let gone = manager(dir.path().join("none").as_ref(), &[], 7);
        assert!(gone.socket.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_watchdog_is_told_twice_as_often_as_it_must_be_and_only_for_its_own_process() {
        let dir = tempfile::tempdir().unwrap();
        let (socket, path) = listening(&dir);
        let watched = [("WATCHDOG_USEC", "20000000"), ("WATCHDOG_PID", "7")];
        let during = async |manager: &Manager, time| {
            drop(tokio::time::timeout(Duration::from_secs(time), manager.keep_telling()).await);
            std::iter::from_fn(|| heard(&socket)).collect::<Vec<_>>()
        };
        assert_eq!(during(&manager(&path, &watched, 7), 25).await, ["WATCHDOG=1"; 3]);
        assert!(during(&manager(&path, &watched, 8), 25).await.is_empty());
        assert!(during(&manager(&path, &watched[1..], 7), 25).await.is_empty());
        assert!(during(&manager(&path, &[("WATCHDOG_USEC", "soon")], 7), 25).await.is_empty());
        assert_eq!(during(&manager(&path, &watched[..1], 8), 5).await, ["WATCHDOG=1"], "no process is named");
    }
}
