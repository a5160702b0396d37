//! The network: satellites, stations and the links between them, as sockets for quinn.
//!
//! What becomes of a packet is decided when it is sent: contacts are known, so it is known then whether it arrives before LOS.
//! It waits in the inbox of its receiver until the virtual clock has come so far.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use linkem::Path;
use linkem::channel::{self, Channel};
use perigee_shared::env::Network;
use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::time::{Instant, Sleep};

use crate::log::{Entry, Fate, Log, Way, Window};
use crate::plain::Plain;

/// The port of every station.
const PORT: u16 = 4433;

/// Ephemeral ports begin here.
const FIRST_EPHEMERAL: u16 = 49_152;

/// Something with an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Node {
    /// A satellite, by its number.
    Satellite(u16),
    /// A station, by its number.
    Station(u16),
}

impl Node {
    /// Its address: `10.1.x.y` or `10.2.x.y`.
    pub fn ip(self) -> IpAddr {
        let (kind, number) = match self {
            Self::Satellite(n) => (1, n),
            Self::Station(n) => (2, n),
        };
        let [high, low] = number.to_be_bytes();
        Ipv4Addr::new(10, kind, high, low).into()
    }

    /// Where a station listens.
    pub fn address(self) -> SocketAddr {
        SocketAddr::new(self.ip(), PORT)
    }

    fn at(ip: IpAddr) -> Option<Self> {
        let IpAddr::V4(ip) = ip else { return None };
        match ip.octets() {
            [10, 1, high, low] => Some(Self::Satellite(u16::from_be_bytes([high, low]))),
            [10, 2, high, low] => Some(Self::Station(u16::from_be_bytes([high, low]))),
            _ => None,
        }
    }
}

/// A link between a satellite and a station.
struct Link {
    windows: Vec<Window>,
    /// The window of the packet before.
    current: Option<Window>,
    channels: [Channel; 2],
}

impl Link {
    fn send(&mut self, now: Duration, way: Way, bytes: usize) -> Fate {
        let at = self.windows.partition_point(|w| w.start <= now);
        let window = at.checked_sub(1).map(|n| self.windows[n]).filter(|w| now < w.end);
        let Some(window) = window else { return Fate::Down };
        if self.current != Some(window) {
            self.current = Some(window);
            self.channels.iter_mut().for_each(|c| c.clear(now));
        }
        match self.channels[way as usize].send(now, bytes) {
            channel::Fate::Arrives { at, .. } if at > window.end => Fate::Los,
            channel::Fate::Arrives { at, held } => Fate::Arrives { at, held },
            channel::Fate::Loss => Fate::Loss,
            channel::Fate::Burst => Fate::Burst,
            channel::Fate::Queue => Fate::Queue,
        }
    }
}

struct State {
    links: BTreeMap<(u16, u16), Link>,
    sockets: BTreeMap<SocketAddr, Weak<Socket>>,
    ports: BTreeMap<Node, u16>,
    packets: u64,
    endpoints: u64,
    log: Log,
}

/// The network of one simulation.
#[derive(Clone)]
pub struct Ether {
    started: Instant,
    seed: u64,
    state: Arc<Mutex<State>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ether {
    /// A network without links, whose time begins now; must be called inside the runtime.
    pub fn new(seed: u64, log: Log) -> Self {
        let state = State {
            links: BTreeMap::new(),
            sockets: BTreeMap::new(),
            ports: BTreeMap::new(),
            packets: 0,
            endpoints: 0,
            log,
        };
        Self { started: Instant::now(), seed, state: Arc::new(Mutex::new(state)) }
    }

    /// Adds the link between a satellite and a station, which is up in these windows; they are in order and do not overlap.
    pub fn connect(&self, satellite: u16, station: u16, paths: [Path; 2], windows: Vec<Window>) {
        let mut state = lock(&self.state);
        let pair = u64::from(satellite) << 16 | u64::from(station);
        let seed =
            |way: Way| self.seed.wrapping_add((pair << 1 | way as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        for way in [Way::Down, Way::Up] {
            state.log.rule(satellite, station, way, paths[way as usize].clone(), windows.clone());
        }
        let [down, up] = paths;
        let channels = [Channel::new(down, seed(Way::Down)), Channel::new(up, seed(Way::Up))];
        state.links.insert((satellite, station), Link { windows, current: None, channels });
    }

    /// The network as `node` sees it.
    pub fn of(&self, node: Node) -> Arc<dyn Network> {
        Arc::new(Attached { ether: self.clone(), node })
    }

    /// Cuts every socket of `node` off, as when its power goes.
    pub fn silence(&self, node: Node) {
        let mut state = lock(&self.state);
        let ip = node.ip();
        let own: Vec<SocketAddr> = state.sockets.keys().filter(|a| a.ip() == ip).copied().collect();
        for address in own {
            if let Some(socket) = state.sockets.remove(&address).and_then(|s| s.upgrade()) {
                let mut inbox = lock(&socket.inbox);
                inbox.silent = true;
                inbox.arrivals.clear();
            }
        }
    }

    /// Looks at the packet log.
    pub fn log<R>(&self, look: impl FnOnce(&Log) -> R) -> R {
        look(&lock(&self.state).log)
    }

    fn send(&self, from: SocketAddr, transmit: &Transmit<'_>) {
        let ends = (Node::at(from.ip()), Node::at(transmit.destination.ip()));
        let (satellite, station, way) = match ends {
            (Some(Node::Satellite(satellite)), Some(Node::Station(station))) => {
                (satellite, station, Way::Down)
            }
            (Some(Node::Station(station)), Some(Node::Satellite(satellite))) => (satellite, station, Way::Up),
            _ => return,
        };
        let now = self.started.elapsed();
        let mut state = lock(&self.state);
        let bytes = transmit.contents.len();
        let fate = state.links.get_mut(&(satellite, station)).map_or(Fate::Down, |l| l.send(now, way, bytes));
        state.log.push(Entry { sent: now, satellite, station, way, bytes: bytes as u32, fate });
        let Fate::Arrives { at, .. } = fate else { return };
        state.packets += 1;
        let number = state.packets;
        let Some(socket) = state.sockets.get(&transmit.destination).and_then(Weak::upgrade) else { return };
        drop(state);
        let packet = Packet { from, ecn: transmit.ecn, bytes: transmit.contents.into() };
        socket.deliver(Arrival { due: self.started + at, number, packet });
    }
}

/// The network of one node.
struct Attached {
    ether: Ether,
    node: Node,
}

impl Network for Attached {
    fn endpoint(
        &self,
        local: SocketAddr,
        mut config: quinn::EndpointConfig,
        mut server: Option<quinn::ServerConfig>,
    ) -> io::Result<quinn::Endpoint> {
        let socket = {
            let mut state = lock(&self.ether.state);
            let ip = if local.ip().is_unspecified() { self.node.ip() } else { local.ip() };
            let port = if local.port() == 0 {
                let next = state.ports.entry(self.node).or_insert(FIRST_EPHEMERAL);
                *next = next.checked_add(1).unwrap_or(FIRST_EPHEMERAL);
                *next
            } else {
                local.port()
            };
            let local = SocketAddr::new(ip, port);
            if state.sockets.get(&local).is_some_and(|s| s.strong_count() > 0) {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            let socket =
                Arc::new(Socket { local, ether: self.ether.clone(), inbox: Mutex::new(Inbox::default()) });
            state.sockets.insert(local, Arc::downgrade(&socket));
            state.endpoints += 1;
            let mut seed = [0; 32];
            seed[..8].copy_from_slice(&self.ether.seed.to_le_bytes());
            seed[8..16].copy_from_slice(&state.endpoints.to_le_bytes());
            config.rng_seed(Some(seed));
            socket
        };
        if let Some(server) = &mut server {
            server.crypto = Arc::new(Plain(Arc::clone(&server.crypto)));
        }
        quinn::Endpoint::new_with_abstract_socket(config, server, socket, Arc::new(quinn::TokioRuntime))
    }
}

struct Packet {
    from: SocketAddr,
    ecn: Option<EcnCodepoint>,
    bytes: Box<[u8]>,
}

struct Arrival {
    due: Instant,
    number: u64,
    packet: Packet,
}

impl PartialEq for Arrival {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Arrival {}

impl PartialOrd for Arrival {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Arrival {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

#[derive(Default)]
struct Inbox {
    arrivals: BinaryHeap<Reverse<Arrival>>,
    /// Wakes the reader when the first of them is due.
    timer: Option<Pin<Box<Sleep>>>,
    reader: Option<Waker>,
    silent: bool,
}

/// A UDP socket of a node.
struct Socket {
    local: SocketAddr,
    ether: Ether,
    inbox: Mutex<Inbox>,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Socket").field(&self.local).finish()
    }
}

impl Socket {
    fn deliver(&self, arrival: Arrival) {
        let mut inbox = lock(&self.inbox);
        if inbox.silent {
            return;
        }
        let first = inbox.arrivals.peek().is_none_or(|Reverse(first)| arrival.due < first.due);
        inbox.arrivals.push(Reverse(arrival));
        if first && let Some(reader) = inbox.reader.take() {
            reader.wake();
        }
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if !lock(&self.inbox).silent {
            self.ether.send(self.local, transmit);
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut inbox = lock(&self.inbox);
        let inbox = &mut *inbox;
        loop {
            let now = Instant::now();
            let mut count = 0;
            while count < bufs.len().min(meta.len())
                && let Some(Reverse(first)) = inbox.arrivals.peek()
                && first.due <= now
                && let Some(Reverse(Arrival { packet, .. })) = inbox.arrivals.pop()
            {
                let len = packet.bytes.len().min(bufs[count].len());
                bufs[count][..len].copy_from_slice(&packet.bytes[..len]);
                let mut about = RecvMeta::default();
                (about.addr, about.len, about.stride, about.ecn) = (packet.from, len, len, packet.ecn);
                meta[count] = about;
                count += 1;
            }
            if count > 0 {
                return Poll::Ready(Ok(count));
            }
            inbox.reader = Some(cx.waker().clone());
            let Some(Reverse(first)) = inbox.arrivals.peek() else { return Poll::Pending };
            let due = first.due;
            let timer = inbox.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
            if timer.deadline() != due {
                timer.as_mut().reset(due);
            }
            match timer.as_mut().poll(cx) {
                Poll::Ready(()) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

/// A socket that always takes what it is given: what becomes of it is for the link to say.
#[derive(Debug)]
struct Writable;

impl UdpPoller for Writable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
