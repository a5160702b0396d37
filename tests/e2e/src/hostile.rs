//! A satellite that was taken over: its certificate is valid, its software is not ours. And an honest one beside it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use perigee_proto::link::{self, agent_message, ground_message};
use perigee_shared::env::Env;
use perigee_shared::link::bounds;
use perigee_shared::link::tls::{Credentials, client_config, load_authorities};
use perigee_shared::link::wire;
use perigee_shared::segment::{self, Codec, Encoder, Header, Lane, SegmentId};
use perigee_shared::signal::{Counts, Signal, TimeRange};
use prost::Message;
use rand::Rng;
use tokio::time::Instant;

use crate::{Batch, STATION, Scene};

/// What an attack does on each of its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "`Attack::ALL` says what each does")]
pub enum Attack {
    LaneAgain,
    EmptyEpochs,
    FullHello,
    ForgottenEpochs,
    Drops,
    EmptyDrops,
    OneByteRanges,
    OpenStreams,
    EmptyRanges,
    NoBytes,
    EverySecond,
    NoHello,
    ManySlots,
    LongMessage,
}

impl Attack {
    /// All of them, with what they do.
    pub const ALL: [(Self, &'static str); 14] = [
        (Self::LaneAgain, "Hello names one lane 5,000 times"),
        (Self::EmptyEpochs, "Hello of 500,000 empty epochs"),
        (Self::FullHello, "Hello up to every bound, again and again"),
        (Self::ForgottenEpochs, "Hello with other epochs each time"),
        (Self::Drops, "drops up to the bound, again and again"),
        (Self::EmptyDrops, "500,000 empty drops in a message"),
        (Self::OneByteRanges, "a segment in ranges of one byte"),
        (Self::OpenStreams, "128 open streams with many ranges"),
        (Self::EmptyRanges, "a segment's stream with 400,000 empty ranges"),
        (Self::NoBytes, "20,000 segments of which no byte comes"),
        (Self::EverySecond, "tiny segments, every second sequence"),
        (Self::NoHello, "32 connections that say nothing"),
        (Self::ManySlots, "connections in 32 slots"),
        (Self::LongMessage, "a message of 2 GiB is announced"),
    ];
}

/// The agent's end of a link, spoken by hand.
pub struct Peer {
    id: String,
    connection: quinn::Connection,
    send: quinn::SendStream,
    receive: quinn::RecvStream,
    _endpoint: quinn::Endpoint,
}

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

impl Peer {
    /// Connects as the satellite `id`, whose certificate was issued.
    pub async fn connect(scene: &Scene, id: &str, ground: SocketAddr) -> Result<Self> {
        let path = |name: String| std::path::PathBuf::from(scene.certificate(&name));
        let credentials =
            Credentials::load(&path(format!("satellite-{id}.crt")), &path(format!("satellite-{id}.key")))?;
        let stations = load_authorities(&path("station-ca.crt".to_owned()))?;
        let mut config =
            client_config(credentials, stations, &[], Env::production().clock, Env::production().bounds)?;
        let mut transport = quinn::TransportConfig::default();
        transport.keep_alive_interval(Some(Duration::from_secs(3)));
        config.transport_config(Arc::new(transport));
        let endpoint = quinn::Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let connection = endpoint.connect_with(config, ground, STATION)?.await?;
        let (send, receive) = connection.open_bi().await?;
        Ok(Self { id: id.to_owned(), connection, send, receive, _endpoint: endpoint })
    }

    /// Why the ground has closed the link; waits for it.
    pub async fn closed(&self) -> quinn::ConnectionError {
        self.connection.closed().await
    }

    /// Sends a message.
    pub async fn say(&mut self, body: agent_message::Body) -> Result<()> {
        self.say_raw(&link::AgentMessage { body: Some(body) }.encode_to_vec()).await
    }

    /// Sends bytes with their length, whatever they are.
    async fn say_raw(&mut self, message: &[u8]) -> Result<()> {
        self.send.write_all(&(message.len() as u32).to_be_bytes()).await?;
        Ok(self.send.write_all(message).await?)
    }

    /// The next message of the ground.
    pub async fn hear(&mut self) -> Result<ground_message::Body> {
        let heard = wire::read::<link::GroundMessage>(&mut self.receive).await?;
        heard.and_then(|(message, _)| message.body).ok_or_else(|| "the ground has said its last".into())
    }

    /// Says Hello with these epochs.
    pub async fn hello(&mut self, epochs: Vec<link::Epoch>) -> Result<ground_message::Body> {
        self.hello_in(0, epochs).await
    }

    /// The same in a slot.
    pub async fn hello_in(&mut self, slot: u32, epochs: Vec<link::Epoch>) -> Result<ground_message::Body> {
        let hello = link::Hello { satellite: self.id.clone(), epochs, slot, ..link::Hello::default() };
        self.say(agent_message::Body::Hello(hello)).await?;
        self.hear().await
    }

    /// Opens a stream for these ranges of a segment and writes `bytes`.
    async fn open(
        &self,
        header: &Header,
        ranges: Vec<link::Range>,
        bytes: &[u8],
    ) -> Result<quinn::SendStream> {
        let open = link::SegmentOpen { header: Some(header.into()), ranges, age_milli: None }.encode_to_vec();
        let mut stream = self.connection.open_uni().await?;
        stream.write_all(&(open.len() as u32).to_be_bytes()).await?;
        stream.write_all(&open).await?;
        stream.write_all(bytes).await?;
        Ok(stream)
    }

    /// Sends a segment of one request whole and waits for its acknowledgement; how long that took.
    pub async fn commit(&mut self, epoch: u64, sequence: u64) -> Result<Duration> {
        let (header, payload) = segment_of(epoch, sequence);
        let whole = vec![link::Range { start: 0, end: header.payload_len }];
        let began = Instant::now();
        let mut stream = self.open(&header, whole, &payload).await?;
        stream.finish()?;
        loop {
            if let ground_message::Body::Ack(ack) = self.hear().await?
                && ack.committed.iter().any(|id| id.sequence == sequence)
            {
                return Ok(began.elapsed());
            }
        }
    }
}

/// A segment of ten spans.
fn segment_of(epoch: u64, sequence: u64) -> (Header, Vec<u8>) {
    let mut encoder = Encoder::new(Codec::ZstdRows, None).unwrap();
    let body = Batch::new(Signal::Traces, &format!("h{epoch}-{sequence}"), 10, 100).protobuf();
    encoder.push(Signal::Traces, &body).unwrap();
    let payload = encoder.finish().unwrap().payload;
    (header(epoch, sequence, body.len() as u64, &payload), payload)
}

fn header(epoch: u64, sequence: u64, raw_len: u64, payload: &[u8]) -> Header {
    Header {
        id: SegmentId { epoch, lane: Lane::BULK, sequence },
        codec: Codec::ZstdRows as u32,
        payload_len: payload.len() as u64,
        raw_len,
        hash: segment::hash(payload),
        items: Counts::of(Signal::Traces, 10),
        time: TimeRange { start: 1_000, end: 2_000 },
        requests: 1,
        sealed_unix_nano: 3_000,
        base_sequence: None,
        is_base: false,
        delivery: None,
        made_of: None,
    }
}

/// An epoch whose bulk lane has everything on board.
pub fn epoch(epoch: u64) -> link::Epoch {
    let on_board = vec![link::Range { start: 1, end: u64::MAX / 2 }];
    let bulk =
        link::Lane { lane: u32::from(Lane::BULK.0), on_board, next_sequence: 1, ..link::Lane::default() };
    link::Epoch { epoch, start_counter: 1, lanes: vec![bulk], ..link::Epoch::default() }
}

/// Attacks once; ends when the ground has closed the link, or when nothing more is to be done.
pub async fn attack(scene: &Scene, id: &str, ground: SocketAddr, attack: Attack) -> Result<()> {
    let mut peer = Peer::connect(scene, id, ground).await?;
    let random = |n: u64| rand::rng().random_range(1..n);
    match attack {
        Attack::LaneAgain => {
            let mut all = epoch(random(1 << 60));
            all.lanes = vec![all.lanes[0].clone(); 5_000];
            drop(peer.hello(vec![all]).await?);
        }
        Attack::EmptyEpochs => {
            let epochs = [0x32, 0].repeat(500_000);
            let mut hello = Vec::from([0x0a]);
            prost::encoding::encode_varint(epochs.len() as u64, &mut hello);
            hello.extend(epochs);
            peer.say_raw(&hello).await?;
            peer.closed().await;
        }
        Attack::FullHello => drop(peer.hello(full(random(1 << 60))).await?),
        Attack::ForgottenEpochs => {
            let first = random(1 << 60);
            drop(peer.hello((first..).take(bounds::EPOCHS).map(epoch).collect()).await?);
        }
        Attack::Drops => {
            drop(peer.hello(vec![epoch(1)]).await?);
            for _ in 0..16 {
                let first = random(1 << 60);
                let drops = (first..).take(bounds::DROPS).map(dropped).collect();
                peer.say(agent_message::Body::Drops(link::EpochDrops { epoch: 1, drops })).await?;
            }
            peer.closed().await;
        }
        Attack::EmptyDrops => {
            drop(peer.hello(vec![epoch(1)]).await?);
            let drops = [0x12, 0].repeat(500_000);
            let mut message = Vec::from([0x12]);
            prost::encoding::encode_varint(drops.len() as u64, &mut message);
            message.extend(drops);
            peer.say_raw(&message).await?;
            peer.closed().await;
        }
        Attack::OneByteRanges => {
            drop(peer.hello(vec![epoch(1)]).await?);
            let payload = vec![7; 1 << 20];
            let header = header(1, random(1 << 60), 1 << 20, &payload);
            for part in 0..16 {
                let at = |n| (part * bounds::SEGMENT_RANGES as u64 + n) * 4;
                let ranges: Vec<_> = (0..bounds::SEGMENT_RANGES as u64)
                    .map(|n| link::Range { start: at(n), end: at(n) + 1 })
                    .collect();
                let mut stream = peer.open(&header, ranges, &payload[..bounds::SEGMENT_RANGES]).await?;
                stream.finish()?;
                drop(peer.hear().await?);
            }
        }
        Attack::OpenStreams => {
            drop(peer.hello(vec![epoch(1)]).await?);
            let mut streams = Vec::new();
            for n in 0..128 {
                let payload = vec![7; 1 << 20];
                let header = header(1, n + 1, 1 << 20, &payload);
                let ranges = (0..bounds::SEGMENT_RANGES as u64)
                    .map(|n| link::Range { start: n * 100, end: n * 100 + 1 })
                    .collect();
                streams.push(peer.open(&header, ranges, &payload[..100]).await?);
            }
            peer.closed().await;
        }
        Attack::EmptyRanges => {
            drop(peer.hello(vec![epoch(1)]).await?);
            let open = [0x12, 0].repeat(400_000);
            let mut stream = peer.connection.open_uni().await?;
            stream.write_all(&(open.len() as u32).to_be_bytes()).await?;
            stream.write_all(&open).await?;
            peer.closed().await;
        }
        Attack::NoBytes => {
            drop(peer.hello(vec![epoch(1)]).await?);
            for n in 0..20_000 {
                let header = header(1, random(1 << 60), 1 << 20, &[n as u8; 1 << 10]);
                let mut stream = peer.open(&header, Vec::new(), &[]).await?;
                stream.finish()?;
            }
        }
        Attack::EverySecond => {
            drop(peer.hello(vec![epoch(1)]).await?);
            let first = random(1 << 60);
            for n in 0..2_000 {
                peer.commit(1, first + 2 * n).await?;
            }
        }
        Attack::NoHello => {
            let mut silent = Vec::new();
            for _ in 0..32 {
                silent.push(Peer::connect(scene, id, ground).await);
            }
            peer.closed().await;
        }
        Attack::ManySlots => {
            let mut peers = Vec::new();
            for slot in 0..32 {
                let mut peer = Peer::connect(scene, id, ground).await?;
                drop(peer.hello_in(slot, vec![epoch(1)]).await?);
                peers.push(peer);
            }
            peer.closed().await;
        }
        Attack::LongMessage => {
            peer.send.write_all(&0x7fff_ffff_u32.to_be_bytes()).await?;
            peer.closed().await;
        }
    }
    Ok(())
}

fn dropped(id: u64) -> link::Drop {
    let sequences = Some(link::Range { start: id, end: id + 1 });
    link::Drop { id, reason: 1, lane: u32::from(Lane::BULK.0), sequences, ..link::Drop::default() }
}

/// Epochs that take what a Hello may have.
fn full(first: u64) -> Vec<link::Epoch> {
    let (lanes, epochs) = (bounds::LANES / bounds::EPOCHS, bounds::EPOCHS as u64);
    let each = bounds::RANGES / bounds::LANES;
    let lane = |n| link::Lane {
        lane: n as u32,
        on_board: (0..each as u64).map(|r| link::Range { start: 4 * r, end: 4 * r + 2 }).collect(),
        next_sequence: 1 << 30,
        ..link::Lane::default()
    };
    let drops = bounds::DROPS as u64 / epochs;
    (first..first + epochs)
        .map(|epoch| link::Epoch {
            epoch,
            start_counter: 1,
            lanes: (0..lanes).map(lane).collect(),
            drops: (1..=drops).map(dropped).collect(),
            ..link::Epoch::default()
        })
        .collect()
}
