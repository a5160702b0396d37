//! Both programs with every listener, in this process, and bytes that come over their connections.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ground_station::ground::Ground;
use ground_station::pki::{Pki, Role};
use perigee_shared::config::ConfigFile;
use perigee_shared::config::collector::{self, Program};
use perigee_shared::env::Env;
use simdisk::Disk;
use space_agent::agent::Agent;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Who does not answer in this time is not waited for; an answer may have no end.
const PATIENCE: Duration = Duration::from_secs(2);

/// An answer to what is whole takes less.
const MOMENT: Duration = Duration::from_millis(100);

/// Panics in any thread since the programs were started.
static PANICS: AtomicU64 = AtomicU64::new(0);

/// Where a listener is.
enum Address {
    Tcp(u16),
    Unix(PathBuf),
}

/// The programs, and where they listen: receivers first.
struct Programs {
    addresses: Vec<Address>,
    _directory: tempfile::TempDir,
}

/// A port that is free now.
fn port() -> std::io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn agent(dir: &Path, ports: &[u16]) -> String {
    let [grpc, http, metrics, health] = ports[..4] else { unreachable!("four were chosen") };
    let dir = dir.display();
    format!(
        "receivers: {{otlp: {{protocols: {{grpc: {{endpoint: 127.0.0.1:{grpc}}}, http: {{endpoint: 127.0.0.1:{http}}}}}}}}}\n\
         exporters: {{file: {{path: {dir}/direct.jsonl}}}}\n\
         storage: {{directory: /virtual/agent, max_bytes: 64MiB, ballast: 0B}}\n\
         extensions: {{control: {{socket: {dir}/agent.sock}}, health_check: {{endpoint: 127.0.0.1:{health}}}}}\n\
         service:\n\
         \x20 pipelines: {{traces: {{receivers: [otlp], exporters: [file]}}, logs: {{receivers: [otlp], exporters: [file]}}}}\n\
         \x20 telemetry: {{metrics: {{endpoint: 127.0.0.1:{metrics}}}, otlp: {{enabled: false}}}}\n"
    )
}

fn ground(dir: &Path, ports: &[u16]) -> String {
    let [api, console, metrics, health] = ports[..4] else { unreachable!("four were chosen") };
    let dir = dir.display();
    format!(
        "link: {{station: svalbard, listen: [127.0.0.1:0], certificate_file: {dir}/station-svalbard.crt, private_key_file: \
         {dir}/station-svalbard.key, satellite_ca_file: {dir}/satellite-ca.crt, satellites: {{sat-1: {{}}}}}}\n\
         exporters: {{file: {{path: {dir}/ground.jsonl}}}}\n\
         storage: {{directory: /virtual/ground, max_bytes: 64MiB, ballast: 0B}}\n\
         extensions: {{control: {{socket: {dir}/ground.sock}}, health_check: {{endpoint: 127.0.0.1:{health}}}, \
         api: {{endpoint: 127.0.0.1:{api}}}, console: {{endpoint: 127.0.0.1:{console}}}}}\n\
         service:\n\
         \x20 pipelines: {{traces: {{exporters: [file]}}, metrics: {{exporters: [file]}}, logs: {{exporters: [file]}}}}\n\
         \x20 telemetry: {{metrics: {{endpoint: 127.0.0.1:{metrics}}}, otlp: {{enabled: false}}}}\n"
    )
}

impl Programs {
    /// Starts both; what they store is in memory.
    fn start() -> Result<Self, Box<dyn std::error::Error>> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let directory = tempfile::tempdir()?;
        let dir = directory.path().to_owned();
        let env = || {
            let mut env = Env::production();
            env.store = Disk::new().env().store;
            env
        };
        Pki::init(&dir, "example.org", false, &env())?.issue(Role::Station, "svalbard", 1)?;
        let ports = (0..8).map(|_| port()).collect::<Result<Vec<_>, _>>()?;
        let none = |_: &str| None;
        let for_agent =
            space_agent::config::Config::read(ConfigFile::parse(&agent(&dir, &ports), "agent.yaml", &none)?)?;
        let mut file = ConfigFile::parse(&ground(&dir, &ports[4..]), "ground.yaml", &none)?;
        let config = file.read(|section| collector::keys(Program::Ground, section));
        let for_ground: ground_station::config::Config = file.finish(config)?;
        let (started, ready) = std::sync::mpsc::sync_channel(1);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let never = CancellationToken::new();
                let (agent, receivers) =
                    Box::pin(Agent::build(for_agent, env(), None)).await.expect("an agent");
                let ground =
                    Box::pin(Ground::build(for_ground, &env(), None)).await.expect("a ground-station");
                let running = tokio::spawn(ground.run(never.clone()));
                started.send(()).expect("somebody waits");
                let agent = Box::pin(agent.run(|intake| receivers.run(intake, never))).await;
                panic!("they ended: {agent:?}, {:?}", running.await);
            });
        });
        ready.recv()?;
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.fetch_add(1, Ordering::Relaxed);
            usual(info);
        }));
        let mut addresses: Vec<Address> = ports.into_iter().map(Address::Tcp).collect();
        addresses.push(Address::Unix(dir.join("agent.sock")));
        addresses.push(Address::Unix(dir.join("ground.sock")));
        Ok(Self { addresses, _directory: directory })
    }
}

/// What talks, and what ends its own half.
trait Talk: Read + Write {
    fn end(&self) -> std::io::Result<()>;
    fn patience(&self, time: Duration) -> std::io::Result<()>;
}

impl Talk for TcpStream {
    fn end(&self) -> std::io::Result<()> {
        self.shutdown(Shutdown::Write)
    }

    fn patience(&self, time: Duration) -> std::io::Result<()> {
        self.set_read_timeout(Some(time))
    }
}

impl Talk for UnixStream {
    fn end(&self) -> std::io::Result<()> {
        self.shutdown(Shutdown::Write)
    }

    fn patience(&self, time: Duration) -> std::io::Result<()> {
        self.set_read_timeout(Some(time))
    }
}

fn connect(address: &Address) -> std::io::Result<Box<dyn Talk>> {
    Ok(match address {
        Address::Tcp(port) => Box::new(TcpStream::connect(("127.0.0.1", *port))?),
        Address::Unix(path) => Box::new(UnixStream::connect(path)?),
    })
}

/// Sends everything, ends the own half, and reads what comes.
fn answer(stream: &mut dyn Talk, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let (mut answer, mut piece, begun) = (Vec::new(), [0; 4096], Instant::now());
    stream.write_all(bytes)?;
    // HTTP/2 has no half-closed connections: that would end the stream without an answer.
    let mut open = bytes.starts_with(b"PRI");
    stream.patience(if open { MOMENT } else { PATIENCE })?;
    if !open {
        stream.end()?;
    }
    while begun.elapsed() < PATIENCE {
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(more) => answer.extend_from_slice(&piece[..more]),
            Err(_) if !open => break,
            Err(_) => {}
        }
        if open && (has_ended(&answer) || begun.elapsed() > MOMENT) {
            open = false;
            stream.patience(PATIENCE)?;
            stream.end()?;
        }
    }
    Ok(answer)
}

/// Whether these frames of HTTP/2 have one that ends a stream, or the connection.
fn has_ended(mut frames: &[u8]) -> bool {
    while let Some(([a, b, c, kind, flags, ..], rest)) = frames.split_first_chunk::<9>() {
        if *kind == 3 || *kind == 7 || matches!(kind, 0 | 1) && flags & 1 != 0 {
            return true;
        }
        frames =
            rest.get(usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c)..).unwrap_or_default();
    }
    false
}

/// Whether an answer says that something was done.
fn succeeded(answer: &[u8]) -> bool {
    let has = |what: &[u8]| answer.windows(what.len()).any(|w| w == what);
    // Over gRPC, a data frame of stream 1 with an empty message.
    answer.starts_with(b"HTTP/1.1 2") || has(b"\0\0\x05\0\0\0\0\0\x01\0\0\0\0\0")
}

/// What a client sends over a connection, behind a byte that says to which listener: it is answered, or the connection ends, and no
/// task panics.
pub(crate) fn talked(input: &[u8]) -> bool {
    static PROGRAMS: OnceLock<Arc<Programs>> = OnceLock::new();
    let Some((first, bytes)) = input.split_first() else { return false };
    let programs = PROGRAMS.get_or_init(|| Arc::new(Programs::start().expect("both programs")));
    let before = PANICS.load(Ordering::Relaxed);
    let address = &programs.addresses[usize::from(*first) % programs.addresses.len()];
    let mut stream = connect(address).expect("they listen");
    // A listener may close before everything is sent.
    let answer = answer(&mut *stream, bytes).unwrap_or_default();
    assert_eq!(PANICS.load(Ordering::Relaxed), before, "a task panicked");
    succeeded(&answer)
}
