//! A ground-station in this process, and a satellite that speaks the link's protocol to it.
#![allow(dead_code, reason = "each test uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use ground_station::config::Config;
use ground_station::ground::{Ended, Ground, Part};
use ground_station::pki::{Pki, Role};
use ground_station::spool::{AccountView, SatelliteView, Store};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use perigee_proto::link::{self, agent_message, ground_message};
use perigee_shared::env::Env;
use perigee_shared::link::tls::{Credentials, client_config, load_authorities};
use perigee_shared::link::wire;
use perigee_shared::segment::{self, Base, Codec, Encoder, Header, Lane, SegmentId};
use perigee_shared::signal::{Counts, Signal, TimeRange};
use prost::Message;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const EPOCH: u64 = 7;

/// A directory with authorities, a station, two satellites, and one that no station lists.
pub(crate) struct Site {
    pub(crate) dir: tempfile::TempDir,
    /// Where the ledger is, if it is shared: host and database.
    database: Option<(String, String)>,
}

/// Whether the tests of this program are over PostgreSQL: `contact_fleet` has the same as `contact`.
fn is_shared() -> bool {
    env!("CARGO_CRATE_NAME").ends_with("_fleet")
}

impl Site {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut pki = Pki::init(dir.path(), "example.org", false, &Env::production()).unwrap();
        pki.issue(Role::Station, "svalbard", 1).unwrap();
        for id in ["sat-1", "sat-2", "stranger"] {
            pki.issue(Role::Satellite, id, 1).unwrap();
        }
        let database = if is_shared() { fleet::shared_database() } else { None };
        Self { dir, database }
    }

    /// Whether its ledger is in PostgreSQL.
    pub(crate) fn is_shared(&self) -> bool {
        self.database.is_some()
    }

    /// `storage` without the bound.
    fn storage(&self) -> String {
        let dir = self.dir.path().display();
        match &self.database {
            None => format!("directory: {dir}/spool, ballast: 0B"),
            Some((host, database)) => format!(
                "kind: postgres, directory: {dir}/spool, hosts: [\"{host}\"], database: {database}, user: perigee, \
                 replication: none"
            ),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn exported(&self) -> String {
        std::fs::read_to_string(self.path("out.jsonl")).unwrap_or_default()
    }

    /// The configuration, with `storage` and `link` lines of the test's own.
    pub(crate) fn config(&self, link: &str, exporter: &str) -> Config {
        let (dir, storage) = (self.dir.path().display(), self.storage());
        let names: Vec<&str> = exporter.lines().filter_map(|l| l.trim().split(':').next()).collect();
        let text = format!(
            "link:\n  station: svalbard\n  listen: [\"127.0.0.1:0\"]\n  certificate_file: {dir}/station-svalbard.crt\n  \
             private_key_file: {dir}/station-svalbard.key\n  satellite_ca_file: {dir}/satellite-ca.crt\n  \
             satellite_crl_file: {dir}/satellite-ca.crl\n  satellites: {{sat-1: {{}}, sat-2: {{}}}}\n{link}\
             exporters:\n  {exporter}\nstorage: {{{storage}, max_bytes: 8MiB}}\n\
             extensions:\n  api: {{endpoint: 127.0.0.1:0}}\n  control: {{socket: {dir}/ground.sock}}\n\
             service:\n  pipelines:\n    traces: {{exporters: [out]}}\n    metrics: {{exporters: [out]}}\n    \
             logs: {{exporters: [out]}}\n  telemetry:\n    metrics: {{endpoint: 127.0.0.1:0}}\n"
        )
        .replace("[out]", &format!("[{}]", names.join(", ")));
        perigee_shared::config::parse(&text, "test.yaml", |_| None).unwrap()
    }

    pub(crate) fn file_exporter(&self) -> String {
        format!("file: {{path: {}}}", self.path("out.jsonl").display())
    }

    pub(crate) async fn start(&self) -> Running {
        self.start_with("").await
    }

    pub(crate) async fn start_with(&self, link: &str) -> Running {
        Running::start(self.config(link, &self.file_exporter())).await
    }

    pub(crate) async fn satellite(&self, id: &str, address: SocketAddr) -> Satellite {
        Satellite::connect(self.dir.path(), id, address).await.unwrap()
    }
}

/// A ground-station that works.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) api: SocketAddr,
    pub(crate) metrics: SocketAddr,
    pub(crate) health: Option<SocketAddr>,
    pub(crate) console: Option<SocketAddr>,
    pub(crate) store: Option<Store>,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), Ended>>,
}

impl Running {
    pub(crate) async fn start(config: Config) -> Self {
        Self::start_parts(config, &Part::ALL).await
    }

    /// A process that does a part of the work; addresses that it does not have are `0.0.0.0:0`.
    pub(crate) async fn start_parts(config: Config, parts: &[Part]) -> Self {
        Self::start_on(config, parts, &Env::production()).await
    }

    /// The same on another machine.
    pub(crate) async fn start_on(config: Config, parts: &[Part], env: &Env) -> Self {
        let ground = Box::pin(Ground::build_parts(config, env, parts, None)).await.unwrap();
        let shutdown = CancellationToken::new();
        let none = SocketAddr::from(([0, 0, 0, 0], 0));
        Self {
            address: ground.link_addresses().first().copied().unwrap_or(none),
            api: ground.address("api").unwrap_or(none),
            metrics: ground.address("metrics").unwrap(),
            health: ground.address("health_check"),
            console: ground.address("console"),
            store: Some(ground.store()),
            task: tokio::spawn(ground.run(shutdown.clone())),
            shutdown,
        }
    }

    pub(crate) async fn stop(mut self) {
        self.store = None;
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// How it ended by itself.
    pub(crate) async fn ended(self) -> Result<(), Ended> {
        drop(self.store);
        self.task.await.unwrap()
    }

    pub(crate) async fn account(&self, satellite: &str) -> AccountView {
        let mut all = self.store.as_ref().unwrap().views().accounting().await.unwrap();
        all.remove(satellite).unwrap_or_default()
    }

    pub(crate) async fn satellites(&self) -> Vec<SatelliteView> {
        self.store.as_ref().unwrap().views().satellites().await.unwrap()
    }

    /// Waits until everything that is committed was exported.
    pub(crate) async fn drained(&self, satellite: &str) -> AccountView {
        loop {
            let account = self.account(satellite).await;
            if account.in_spool == Default::default() {
                return account;
            }
            tokio::task::yield_now().await;
        }
    }
}

/// Serves a backend on a free port.
pub(crate) async fn serve(router: axum::Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// A sealed segment.
#[derive(Clone)]
pub(crate) struct Segment {
    pub(crate) header: Header,
    pub(crate) payload: Vec<u8>,
}

/// A segment with `spans` spans whose names tell where they come from.
pub(crate) fn segment(sequence: u64, spans: usize) -> Segment {
    sealed(sequence, &request(sequence, spans), spans as u64)
}

/// The same with codec 2, leaning on the base `on`, and what others may lean on.
pub(crate) fn columns(sequence: u64, spans: usize, on: Option<(u64, &Base)>) -> (Segment, Base) {
    let body = request(sequence, spans);
    let mut encoder = Encoder::new(Codec::Columns, on.map(|(_, base)| base)).unwrap();
    encoder.push(Signal::Traces, &body).unwrap();
    let encoded = encoder.finish().unwrap();
    let header = Header {
        codec: Codec::Columns as u32,
        payload_len: encoded.payload.len() as u64,
        hash: segment::hash(&encoded.payload),
        base_sequence: on.map(|(sequence, _)| sequence),
        is_base: true,
        ..sealed(sequence, &body, spans as u64).header
    };
    (Segment { header, payload: encoded.payload }, encoded.base.unwrap())
}

fn request(sequence: u64, spans: usize) -> Vec<u8> {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(sequence + 1);
    let spans: Vec<Span> = (0..spans)
        .map(|n| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            Span {
                name: format!("s{sequence}-{n}-{random:016x}"),
                trace_id: [random.to_le_bytes(), random.to_be_bytes()].concat(),
                span_id: random.to_le_bytes().to_vec(),
                start_time_unix_nano: 1_000 + n as u64,
                end_time_unix_nano: 2_000 + n as u64,
                ..Span::default()
            }
        })
        .collect();
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }],
    }
    .encode_to_vec()
}

/// A segment whose only request is `body`.
pub(crate) fn sealed(sequence: u64, body: &[u8], items: u64) -> Segment {
    let mut encoder = Encoder::new(Codec::ZstdRows, None).unwrap();
    encoder.push(Signal::Traces, body).unwrap();
    let payload = encoder.finish().unwrap().payload;
    let header = Header {
        id: SegmentId { epoch: EPOCH, lane: Lane::BULK, sequence },
        codec: Codec::ZstdRows as u32,
        payload_len: payload.len() as u64,
        raw_len: body.len() as u64,
        hash: segment::hash(&payload),
        items: Counts::of(Signal::Traces, items),
        time: TimeRange { start: 1_000, end: 2_000 },
        requests: 1,
        sealed_unix_nano: 3_000,
        base_sequence: None,
        is_base: false,
        delivery: None,
        made_of: None,
    };
    Segment { header, payload }
}

/// A lane with these sequences on board.
pub(crate) fn lane(on_board: Range<u64>, next_sequence: u64) -> link::Lane {
    link::Lane {
        lane: u32::from(Lane::BULK.0),
        on_board: vec![link::Range { start: on_board.start, end: on_board.end }],
        next_sequence,
        oldest_base: None,
        acknowledged: Vec::new(),
        ..link::Lane::default()
    }
}

/// The agent's end of a contact.
pub(crate) struct Satellite {
    pub(crate) id: String,
    pub(crate) connection: quinn::Connection,
    send: quinn::SendStream,
    receive: quinn::RecvStream,
    /// What it says of the age of the segments that it sends.
    pub(crate) age_milli: Option<u64>,
    _endpoint: quinn::Endpoint,
}

impl Satellite {
    pub(crate) async fn connect(
        dir: &Path,
        id: &str,
        address: SocketAddr,
    ) -> Result<Self, quinn::ConnectionError> {
        let credentials = Credentials::load(
            &dir.join(format!("satellite-{id}.crt")),
            &dir.join(format!("satellite-{id}.key")),
        )
        .unwrap();
        let stations = load_authorities(&dir.join("station-ca.crt")).unwrap();
        let config =
            client_config(credentials, stations, &[], Env::production().clock, Env::production().bounds)
                .unwrap();
        let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let connection = endpoint.connect_with(config, address, "svalbard").unwrap().await?;
        let (send, receive) = connection.open_bi().await?;
        Ok(Self { id: id.to_owned(), connection, send, receive, age_milli: None, _endpoint: endpoint })
    }

    pub(crate) async fn say(&mut self, body: agent_message::Body) {
        let message = link::AgentMessage { body: Some(body) };
        self.send.write_all(&wire::frame(&message)).await.unwrap();
    }

    /// Says a message as another version of the software would.
    pub(crate) async fn say_bytes(&mut self, message: &[u8]) {
        self.send.write_all(&(message.len() as u32).to_be_bytes()).await.unwrap();
        self.send.write_all(message).await.unwrap();
    }

    pub(crate) async fn hear(&mut self) -> ground_message::Body {
        let (message, _): (link::GroundMessage, _) = wire::read(&mut self.receive).await.unwrap().unwrap();
        message.body.unwrap()
    }

    pub(crate) async fn hello_epoch(&mut self, epoch: link::Epoch) -> link::Resume {
        let hello = link::Hello { satellite: self.id.clone(), epochs: vec![epoch], ..link::Hello::default() };
        self.say(agent_message::Body::Hello(hello)).await;
        match self.hear().await {
            ground_message::Body::Resume(resume) => resume,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn hello(&mut self, on_board: Range<u64>) -> link::Resume {
        let lanes = vec![lane(on_board.clone(), on_board.end)];
        self.hello_epoch(link::Epoch { epoch: EPOCH, start_counter: 1, lanes, ..link::Epoch::default() })
            .await
    }

    pub(crate) async fn ack(&mut self) -> link::Ack {
        match self.hear().await {
            ground_message::Body::Ack(ack) => ack,
            other => panic!("{other:?}"),
        }
    }

    /// Opens a segment's stream for these ranges and writes the first `bytes` of them.
    pub(crate) async fn send_part(
        &mut self,
        segment: &Segment,
        ranges: &[Range<u64>],
        bytes: usize,
    ) -> quinn::SendStream {
        let open = link::SegmentOpen {
            header: Some((&segment.header).into()),
            ranges: ranges.iter().map(|r| link::Range { start: r.start, end: r.end }).collect(),
            age_milli: self.age_milli,
        };
        let mut stream = self.connection.open_uni().await.unwrap();
        stream.write_all(&wire::frame(&open)).await.unwrap();
        let body: Vec<u8> =
            ranges.iter().flat_map(|r| segment.payload[r.start as usize..r.end as usize].to_vec()).collect();
        match stream.write_all(&body[..bytes.min(body.len())]).await {
            // The ground has refused the segment before all of it was written.
            Ok(()) | Err(quinn::WriteError::Stopped(_)) => stream,
            Err(error) => panic!("{error}"),
        }
    }

    pub(crate) async fn send(&mut self, segment: &Segment) {
        let whole = 0..segment.header.payload_len;
        let mut stream = self.send_part(segment, &[whole], usize::MAX).await;
        stream.finish().unwrap();
    }

    /// Waits until these sequences are acknowledged.
    pub(crate) async fn committed(&mut self, sequences: &[u64]) {
        let mut left: std::collections::BTreeSet<u64> = sequences.iter().copied().collect();
        while !left.is_empty() {
            for id in self.ack().await.committed {
                left.remove(&id.sequence);
            }
        }
    }
}

/// `GET` over TCP: status line and body.
pub(crate) async fn get(address: SocketAddr, path: &str) -> (String, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}
