//! Revocation lists that expire, one that changes while a satellite connects, and attempts to connect that are given up.

#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ground_station::pki::{Pki, Role};
use perigee_shared::env::{Clock, Env};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use support::{Running, Satellite, Site, get, segment};
use tokio::net::UdpSocket;
use tokio::sync::watch;

/// A clock that stands still.
struct At(u64);

impl Clock for At {
    fn unix_nano(&self) -> u64 {
        self.0
    }
}

/// Revokes `id` on a list that expired years ago.
fn revoke_long_ago(dir: &Path, id: &str) {
    let mut past = Env::production();
    past.clock = Arc::new(At(1_000_000_000_000_000_000));
    Pki::open(dir, &past).unwrap().revoke(Role::Satellite, id).unwrap();
}

/// Waits until the metric that says so does.
async fn in_doubt(ground: &Running, expected: bool) {
    let line = format!("perigee_link_revocation_list_unusable {}", u8::from(expected));
    while !get(ground.metrics, "/metrics").await.1.lines().any(|l| l == line) {
        tokio::task::yield_now().await;
    }
}

/// The certificate that a station has shown.
fn served(satellite: &Satellite) -> CertificateDer<'static> {
    let shown = satellite.connection.peer_identity().unwrap();
    shown.downcast::<Vec<CertificateDer<'static>>>().unwrap().remove(0)
}

async fn refused(site: &Site, id: &str, address: SocketAddr) {
    let error = match Satellite::connect(site.dir.path(), id, address).await {
        Ok(sat) => sat.connection.closed().await,
        Err(error) => error,
    };
    assert!(error.to_string().to_lowercase().contains("revoked"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_list_is_used_at_the_start_and_takes_the_place_of_no_other() {
    let site = Site::new();
    let good = std::fs::read(site.path("satellite-ca.crl")).unwrap();
    revoke_long_ago(site.dir.path(), "sat-1");
    let ground = site.start().await;
    in_doubt(&ground, true).await;
    refused(&site, "sat-1", ground.address).await;
    let mut other = site.satellite("sat-2", ground.address).await;
    other.hello(1..3).await;
    other.send(&segment(1, 1)).await;
    other.committed(&[1]).await;

    std::fs::write(site.path("satellite-ca.crl"), good).unwrap();
    in_doubt(&ground, false).await;
    site.satellite("sat-1", ground.address).await.hello(1..1).await;

    revoke_long_ago(site.dir.path(), "sat-2");
    in_doubt(&ground, true).await;
    other.send(&segment(2, 1)).await;
    other.committed(&[2]).await;
    site.satellite("sat-2", ground.address).await.hello(1..1).await;

    // Nor does it hold up the station's next certificate.
    for file in ["station-svalbard.crt", "station-svalbard.key"] {
        std::fs::remove_file(site.path(file)).unwrap();
    }
    Pki::open(site.dir.path(), &Env::production()).unwrap().issue(Role::Station, "svalbard", 7).unwrap();
    let pem = std::fs::read(site.path("station-svalbard.crt")).unwrap();
    let next = CertificateDer::from_pem_slice(&pem).unwrap();
    while served(&site.satellite("sat-2", ground.address).await) != next {
        tokio::task::yield_now().await;
    }
    in_doubt(&ground, true).await;
    ground.stop().await;
}

/// Passes datagrams on to `ground`, but for those of the client after its first as long as `open` is false; says how many came back.
async fn gate(ground: SocketAddr, open: watch::Receiver<bool>, answered: watch::Sender<usize>) -> SocketAddr {
    let (outer, inner) =
        (UdpSocket::bind("127.0.0.1:0").await.unwrap(), UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let address = outer.local_addr().unwrap();
    inner.connect(ground).await.unwrap();
    tokio::spawn(async move {
        let (mut open, mut client, mut first) = (open, None, true);
        let (mut there, mut back) = (vec![0; 65_536], vec![0; 65_536]);
        loop {
            tokio::select! {
                received = outer.recv_from(&mut there), if first || *open.borrow() => {
                    let (length, from) = received.unwrap();
                    (client, first) = (Some(from), false);
                    inner.send(&there[..length]).await.unwrap();
                }
                received = inner.recv(&mut back) => {
                    outer.send_to(&back[..received.unwrap()], client.unwrap()).await.unwrap();
                    answered.send_modify(|n| *n += 1);
                }
                changed = open.changed(), if !*open.borrow() => if changed.is_err() { return },
            }
        }
    });
    address
}

/// A satellite `id` that connects while `sat-1` is revoked: it has the ground's first answer, and says more when that list is in force.
async fn connects_while_the_list_changes(
    site: &Site,
    ground: &Running,
    id: &'static str,
) -> Result<Satellite, quinn::ConnectionError> {
    let (open, opened) = watch::channel(false);
    let (answered, mut answers) = watch::channel(0);
    let address = gate(ground.address, opened, answered).await;
    let dir = site.dir.path().to_owned();
    let connecting = tokio::spawn(async move { Satellite::connect(&dir, id, address).await });
    answers.wait_for(|n| *n > 0).await.unwrap();
    let mut watched = site.satellite("sat-1", ground.address).await;
    watched.hello(1..1).await;
    Pki::open(site.dir.path(), &Env::production()).unwrap().revoke(Role::Satellite, "sat-1").unwrap();
    // The new list is in force when it has ended a link that is open.
    watched.connection.closed().await;
    open.send(true).unwrap();
    connecting.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_under_way_when_the_list_changes_is_judged_by_the_new_list() {
    let site = Site::new();
    let ground = site.start().await;
    // What it verifies with was chosen for the first flight.
    let error = match connects_while_the_list_changes(&site, &ground, "sat-1").await {
        Ok(sat) => sat.connection.closed().await,
        Err(error) => error,
    };
    assert!(error.to_string().contains("the certificate is revoked"), "{error}");
    ground.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_asked_to_show_its_address_may_when_the_list_has_changed() {
    let site = Site::new();
    let ground = site.start_with("  retry_above: 0\n").await;
    // The first answer is the Retry.
    let mut connected = connects_while_the_list_changes(&site, &ground, "sat-2").await.unwrap();
    connected.hello(1..1).await;
    ground.stop().await;
}

/// Loses datagrams until `open`, then passes them on to `ground`; says how many came.
async fn lossy(ground: SocketAddr, open: watch::Receiver<bool>, came: watch::Sender<usize>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut datagram = vec![0; 65_536];
        loop {
            let (length, _) = socket.recv_from(&mut datagram).await.unwrap();
            if *open.borrow() {
                socket.send_to(&datagram[..length], ground).await.unwrap();
            }
            came.send_modify(|n| *n += 1);
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_of_which_only_the_end_comes_does_not_hold_up_the_end() {
    let site = Site::new();
    let ground = site.start().await;
    let (open, opened) = watch::channel(false);
    let (came, mut coming) = watch::channel(0);
    let address = lossy(ground.address, opened, came).await;
    let dir = site.dir.path().to_owned();
    let connecting = tokio::spawn(async move { Satellite::connect(&dir, "sat-1", address).await.map(drop) });
    coming.wait_for(|n| *n > 0).await.unwrap();
    open.send(true).unwrap();
    connecting.abort();
    coming.wait_for(|n| *n > 1).await.unwrap();
    // The ground has read what came before this.
    site.satellite("sat-2", ground.address).await.hello(1..1).await;
    tokio::time::timeout(Duration::from_secs(8), ground.stop()).await.unwrap();
}
