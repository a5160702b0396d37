//! The sockets around an [`Emulator`].

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config::{Config, Direction};
use crate::emulator::{Emulator, Packet};
use crate::stats::Stats;

const MAX_CLIENTS: usize = 1024;

/// A client that neither sends nor receives for so long is forgotten.
const IDLE: Duration = Duration::from_secs(120);

/// Receive buffers, as far as the system allows: QUIC sends in bursts, and what the kernel drops here is in no statistics.
const RECEIVE_BUFFER: usize = 4 << 20;

const MAX_DATAGRAM: usize = 65_535;

/// A running link. It ends when this is dropped.
pub struct Link {
    shared: Arc<Shared>,
    local: SocketAddr,
    up: watch::Receiver<bool>,
    _stop: DropGuard,
}

impl Link {
    /// Binds and starts the link on the current runtime.
    pub async fn start(config: Config) -> io::Result<Self> {
        let listen = bind(config.listen).await?;
        let local = listen.local_addr()?;
        let emulator = Emulator::new(&config);
        let (up, watch_up) = watch::channel(emulator.is_up());
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            started: Instant::now(),
            listen,
            to: config.to,
            emulator: Mutex::new(emulator),
            clients: Mutex::new(BTreeMap::new()),
            wake: Notify::new(),
            up,
            stop: stop.clone(),
        });
        let receive = Arc::clone(&shared);
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move { receive.from_clients().await }));
        let deliver = Arc::clone(&shared);
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move { deliver.deliver().await }));
        Ok(Self { shared, local, up: watch_up, _stop: stop.drop_guard() })
    }

    /// Where clients send to.
    pub const fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Cuts the link: what is under way is lost, and nothing passes until [`Link::restore`].
    pub fn cut(&self) {
        self.shared.change(|emulator, now| emulator.cut(now));
    }

    /// Ends a cut.
    pub fn restore(&self) {
        self.shared.change(|emulator, now| emulator.restore(now));
    }

    /// Cuts the link once `bytes` more have been delivered in `direction`.
    pub fn cut_after_bytes(&self, direction: Direction, bytes: u64) {
        self.shared.change(|emulator, _| emulator.cut_after(direction, bytes));
    }

    /// Whether the link is up.
    pub fn is_up(&self) -> bool {
        *self.up.borrow()
    }

    /// Waits until the link is down.
    pub async fn wait_down(&self) {
        // The sender lives as long as this link.
        drop(self.up.clone().wait_for(|up| !up).await);
    }

    /// What the link has done so far.
    pub fn stats(&self) -> Stats {
        self.shared.change(Emulator::stats)
    }
}

struct Client {
    address: SocketAddr,
    /// Connected to the server.
    socket: UdpSocket,
}

struct Shared {
    started: Instant,
    listen: UdpSocket,
    to: SocketAddr,
    emulator: Mutex<Emulator<Arc<Client>>>,
    clients: Mutex<BTreeMap<SocketAddr, Arc<Client>>>,
    /// Something may be due earlier than before.
    wake: Notify,
    up: watch::Sender<bool>,
    stop: CancellationToken,
}

impl Shared {
    /// Does something to the emulator and tells who waits for it.
    fn change<R>(&self, change: impl FnOnce(&mut Emulator<Arc<Client>>, Duration) -> R) -> R {
        let mut emulator = lock(&self.emulator);
        let before = emulator.next();
        let out = change(&mut emulator, self.started.elapsed());
        let (after, up) = (emulator.next(), emulator.is_up());
        drop(emulator);
        if after != before {
            self.wake.notify_one();
        }
        self.up.send_if_modified(|was| std::mem::replace(was, up) != up);
        out
    }

    fn offer(&self, direction: Direction, client: &Arc<Client>, bytes: &[u8]) {
        let packet = Packet { direction, client: Arc::clone(client), bytes: bytes.to_vec() };
        self.change(|emulator, now| emulator.offer(now, packet));
    }

    async fn from_clients(self: Arc<Self>) {
        let mut buffer = vec![0; MAX_DATAGRAM];
        loop {
            // An error here is an ICMP answer to something sent earlier.
            let Ok((length, address)) = self.listen.recv_from(&mut buffer).await else { continue };
            if let Some(client) = self.client(address).await {
                self.offer(Direction::Forward, &client, &buffer[..length]);
            }
        }
    }

    /// The client with this address; `None` when there are too many or no socket can be had.
    async fn client(self: &Arc<Self>, address: SocketAddr) -> Option<Arc<Client>> {
        {
            let clients = lock(&self.clients);
            if let Some(client) = clients.get(&address) {
                return Some(Arc::clone(client));
            }
            if clients.len() >= MAX_CLIENTS {
                return None;
            }
        }
        let any: SocketAddr = if self.to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0; 8], 0).into() };
        let socket = bind(any).await.ok()?;
        socket.connect(self.to).await.ok()?;
        let client = Arc::new(Client { address, socket });
        lock(&self.clients).insert(address, Arc::clone(&client));
        self.change(|emulator, _| emulator.client_came());
        let (shared, server) = (Arc::clone(self), Arc::clone(&client));
        let stop = self.stop.clone();
        tokio::spawn(stop.run_until_cancelled_owned(async move { shared.from_server(server).await }));
        Some(client)
    }

    async fn from_server(self: Arc<Self>, client: Arc<Client>) {
        let mut buffer = vec![0; MAX_DATAGRAM];
        loop {
            match tokio::time::timeout(IDLE, client.socket.recv(&mut buffer)).await {
                Ok(Ok(length)) => self.offer(Direction::Return, &client, &buffer[..length]),
                // Nothing listens there for the moment.
                Ok(Err(_)) => {}
                Err(_) => {
                    lock(&self.clients).remove(&client.address);
                    return;
                }
            }
        }
    }

    async fn deliver(self: Arc<Self>) {
        loop {
            while let Some(packet) = self.change(Emulator::poll) {
                // What cannot be sent is lost, as on any network.
                drop(match packet.direction {
                    Direction::Forward => packet.client.socket.send(&packet.bytes).await,
                    Direction::Return => self.listen.send_to(&packet.bytes, packet.client.address).await,
                });
            }
            let next = lock(&self.emulator).next();
            let due = async {
                match next {
                    Some(at) => tokio::time::sleep_until(self.started + at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.wake.notified() => {}
                () = due => {}
            }
        }
    }
}

async fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address).await?;
    // A shorter buffer works too.
    drop(socket2::SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER));
    Ok(socket)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
