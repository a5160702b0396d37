//! `bench memory --hostile`: requests whose contents take many times their own size, each kind for itself, from four connections as
//! fast as they are answered, and 64 senders of large ones at once; with a link that has no contact, and some with direct exporters,
//! which must deliver everything in the end. Memory is what the process has for itself, without the page cache and the program's own text; where
//! control groups can be made, it runs in one of the limit and a quarter, which must never kill it.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use perigee_shared::otlp::protobuf::{put_bytes, put_tag};
use perigee_shared::signal::Signal;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::Transport;
use crate::corpus::Corpus;
use crate::hostile_ground;
use crate::ingest::mib;
use crate::load::{Load, Tally};
use crate::memory::{Kind, Offer, Options, recovers};
use crate::report::Row;
use crate::sink::Sink;
use crate::system::{AgentSettings, To, start_agent};

const CONNECTIONS: usize = 4;
const SENDERS: usize = 64;

/// Requests of each kind, which follow one another.
const REQUESTS: u64 = 4;

/// Below the agent's `max_request_bytes`.
const LARGEST: usize = (4 << 20) - (64 << 10);

/// After the last request it is looked on for so long: what waits is sealed then.
const AFTERWARDS: Duration = Duration::from_secs(8);

fn field(number: u32, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 8);
    put_bytes(&mut out, number, body);
    out
}

fn fixed64(number: u32, value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_tag(&mut out, number, 1);
    out.extend_from_slice(&value.to_le_bytes());
    out
}

fn attribute(key: &str) -> Vec<u8> {
    [field(1, key.as_bytes()), field(2, &field(1, b"v"))].concat()
}

/// As many of them as a request may hold.
fn filled(one: impl Fn(usize) -> Vec<u8>, most: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for n in 0..most {
        let one = one(n);
        if out.len() + one.len() > LARGEST {
            break;
        }
        out.extend(one);
    }
    out
}

fn in_scope(items: &[u8]) -> Vec<u8> {
    field(1, &field(2, items))
}

/// One kind of request.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) signal: Signal,
    pub(crate) transport: Transport,
    /// The n-th request.
    pub(crate) make: fn(u64) -> Vec<u8>,
}

const fn protobuf(name: &'static str, signal: Signal, make: fn(u64) -> Vec<u8>) -> Case {
    Case { name, signal, transport: Transport::Http, make }
}

pub(crate) const CASES: &[Case] = &[
    protobuf("20,000 metrics", Signal::Metrics, |r| {
        let point = [fixed64(3, 1 << 60), fixed64(4, 7)].concat();
        let data = field(5, &field(1, &point));
        in_scope(&filled(
            |n| field(2, &[field(1, format!("m{r}.{n}").as_bytes()), data.clone()].concat()),
            20_000,
        ))
    }),
    protobuf("empty spans", Signal::Traces, |_| in_scope(&filled(|_| field(2, b""), usize::MAX))),
    protobuf("15,000 resources", Signal::Traces, |r| {
        let span = field(2, &field(2, &field(5, b"x")));
        let resource = |n| field(1, &field(1, &attribute(&format!("r{r}.{n}"))));
        filled(|n| field(1, &[resource(n), span.clone()].concat()), 15_000)
    }),
    protobuf("15,000 scopes", Signal::Traces, |r| {
        let scope = |n| field(1, &field(1, format!("s{r}.{n}").as_bytes()));
        field(1, &filled(|n| field(2, &[scope(n), field(2, &field(5, b"x"))].concat()), 15_000))
    }),
    protobuf("20,000 buckets", Signal::Metrics, |r| {
        let bounds: Vec<u8> = (0..20_000).flat_map(|n| f64::from(n).to_le_bytes()).collect();
        let counts: Vec<u8> = (0..=20_000u64).flat_map(|n| (n + r).to_le_bytes()).collect();
        let point = [fixed64(3, 1 << 60), fixed64(4, 5), field(6, &counts), field(7, &bounds)].concat();
        in_scope(&filled(
            |n| field(2, &[field(1, &[b'h', n as u8]), field(9, &field(1, &point))].concat()),
            200,
        ))
    }),
    protobuf("60,000 attributes", Signal::Traces, |r| {
        in_scope(&field(2, &filled(|n| field(9, &attribute(&format!("k{r}.{n}"))), 60_000)))
    }),
    protobuf("events of a span", Signal::Traces, events),
    protobuf("random lines", Signal::Logs, lines),
    Case {
        name: "JSON of escapes",
        signal: Signal::Logs,
        transport: Transport::Json,
        make: |_| {
            let text = "\\u0000".repeat(LARGEST / 6);
            let record = format!("{{\"body\":{{\"stringValue\":\"{text}\"}}}}");
            format!("{{\"resourceLogs\":[{{\"scopeLogs\":[{{\"logRecords\":[{record}]}}]}}]}}").into()
        },
    },
    Case {
        name: "JSON of empty records",
        signal: Signal::Logs,
        transport: Transport::Json,
        make: |_| {
            let records = vec!["{}"; LARGEST / 3].join(",");
            format!("{{\"resourceLogs\":[{{\"scopeLogs\":[{{\"logRecords\":[{records}]}}]}}]}}").into()
        },
    },
];

/// What has cost a direct exporter most, and how many connections send it.
const DIRECT: &[(usize, Case)] = &[
    (SENDERS, protobuf("random lines", Signal::Logs, lines)),
    (SENDERS / 4, protobuf("random bytes", Signal::Logs, random)),
    (CONNECTIONS, protobuf("text of 0xff", Signal::Logs, text)),
    (CONNECTIONS, protobuf("events of a span", Signal::Traces, events)),
];

/// A record of one long text that nothing compresses.
fn random(r: u64) -> Vec<u8> {
    let mut bytes = vec![0; LARGEST];
    blake3::Hasher::new().update(&r.to_le_bytes()).finalize_xof().fill(&mut bytes);
    in_scope(&field(2, &field(5, &field(1, &bytes))))
}

fn lines(r: u64) -> Vec<u8> {
    let line = |n| blake3::hash(format!("{r} {n}").as_bytes()).to_hex();
    in_scope(&filled(|n| field(2, &field(5, &field(1, line(n).as_bytes()))), usize::MAX))
}

fn events(_: u64) -> Vec<u8> {
    in_scope(&field(2, &filled(|_| field(11, b""), usize::MAX)))
}

/// A record of one long text that is not UTF-8: three times as long in JSON.
fn text(_: u64) -> Vec<u8> {
    in_scope(&field(2, &field(5, &field(1, &vec![0xff; LARGEST]))))
}

/// A row for each kind.
pub(crate) async fn run(options: &Options) -> anyhow::Result<Vec<Row>> {
    let corpus = Corpus::spans(options.setup.corpus.as_deref())?;
    let small = Load::new(Transport::Http, corpus.signal, 1000, &corpus.recut(1000)?);
    let mut rows = Vec::new();
    let meant = |name: &str| options.only.as_ref().is_none_or(|only| only == name);
    let sink = Sink::start().await?;
    let link_alone = CASES.iter().map(|case| (CONNECTIONS, case, To::Link));
    let direct = DIRECT.iter().flat_map(|(connections, case)| {
        [To::Link, To::File, To::Http(sink.at)].map(|to| (*connections, case, to))
    });
    for (connections, case, to) in link_alone.chain(direct).filter(|(.., to)| meant(to.name())) {
        rows.push(row(options, case, (connections, to), &small).await?);
    }
    if meant("ground") {
        rows.extend(hostile_ground::run(options.ground_limit, &sink).await?);
    }
    Ok(rows)
}

async fn row(
    options: &Options,
    case: &Case,
    (connections, to): (usize, To),
    small: &Load,
) -> anyhow::Result<Row> {
    let settings = AgentSettings { memory_limit: Some(options.limit), to, ..AgentSettings::default() };
    let bodies: Vec<Bytes> = (0..REQUESTS).map(|n| (case.make)(n).into()).collect();
    let bytes = bodies[0].len() as u64;
    let load = Load::new(case.transport, case.signal, 1, &bodies);
    let mut running = start_agent(&options.setup, settings).await?;
    let group = Group::around(running.process.id(), options.limit.0 + options.limit.0 / 4);
    let end = Instant::now() + options.setup.time;
    let mut tasks = JoinSet::new();
    for n in 0..connections {
        let offer = Offer {
            load: load.clone(),
            kind: Kind::Large,
            to: running.endpoint(load.transport),
            next: n,
            end,
        };
        tasks.spawn(offer.run());
    }
    let (mut tally, mut peak) = (Tally::default(), 0);
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    let mut watch_until = None;
    while watch_until.is_none_or(|until| Instant::now() < until) {
        tokio::select! {
            biased;
            done = tasks.join_next(), if watch_until.is_none() => match done {
                Some(done) => tally.add(done?),
                None => watch_until = Some(Instant::now() + AFTERWARDS),
            },
            _ = ticks.tick() => {
                running.check()?;
                peak = peak.max(running.process.anonymous()?);
            }
        }
    }
    let recovery = recovers(&mut running, small).await?;
    let undelivered = match to {
        To::Link => None,
        To::File | To::Http(_) => Some(running.wait_delivered().await?),
    };
    peak = peak.max(running.process.anonymous()?);
    let killed = group.as_ref().and_then(Group::killed);
    running.stop().await?;
    let row = Row::default()
        .with("case", case.name)
        .with("exporter", to.name())
        .with("senders", connections)
        .with_rounded("request_mib", mib(bytes), 2)
        .with_rounded("peak_mib", mib(peak), 1)
        .with_rounded("limit_mib", mib(options.limit.0), 1)
        .with_rounded("peak_of_limit", peak as f64 / options.limit.0 as f64, 3)
        .with("group_killed", killed)
        .with_rounded("recovery_s", recovery.as_secs_f64(), 3)
        .with("accepted_requests", tally.accepted)
        .with("refused_requests", tally.refused)
        .with("broken_connections", tally.broken)
        .with("undelivered_items", undelivered);
    eprintln!("bench: {}", serde_json::to_string(&row).unwrap_or_default());
    Ok(row)
}

/// A control group of its own, with a limit of memory; it goes when this is dropped.
pub(crate) struct Group(PathBuf);

impl Group {
    /// `None` where none can be made.
    pub(crate) fn around(process: u32, limit: u64) -> Option<Self> {
        let name = format!("perigee-bench-{process}");
        let (first, second) = (PathBuf::from("/sys/fs/cgroup/memory"), PathBuf::from("/sys/fs/cgroup"));
        let (root, file) = match first.is_dir() {
            true => (first, "memory.limit_in_bytes"),
            false => (second, "memory.max"),
        };
        let group = Self(root.join(name));
        let made = std::fs::create_dir(&group.0)
            .and_then(|()| std::fs::write(group.0.join(file), limit.to_string()))
            .and_then(|()| std::fs::write(group.0.join("cgroup.procs"), process.to_string()));
        made.inspect_err(|error| eprintln!("bench: without a control group: {error}")).ok()?;
        Some(group)
    }

    /// How many processes it has killed.
    pub(crate) fn killed(&self) -> Option<u64> {
        let read = |file| std::fs::read_to_string(self.0.join(file)).ok();
        let text = read("memory.events").or_else(|| read("memory.oom_control"))?;
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // It goes once nothing runs in it any more.
        let _ = std::fs::remove_dir(&self.0);
    }
}
