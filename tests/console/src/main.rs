//! `console-fleet CONFIG`: fills the store that a ground-station's configuration names with a thousand satellites, thousands of
//! passes, gaps, segments and dead letters, hostile names and texts among them. Nothing may run on it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use ground_station::config::Config;
use ground_station::ground::open_store;
use ground_station::spool::{Applied, Ending, Heard, Incoming, Letter, Piece, Progress, Store};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use perigee_proto::link::{self, PassReport, PassState};
use perigee_shared::env::Env;
use perigee_shared::segment::{self, Codec, Encoder, Header, Lane, SegmentId};
use perigee_shared::signal::{Counts, Signal, SignalSet, TimeRange};
use prost::Message;

/// As many satellites, with those of [`odd`].
const SATELLITES: u64 = 1_000;

/// Reports of passes of each.
const PASSES: u64 = 12;

/// Satellites that segments come from, and how many from each.
const SENDERS: std::ops::Range<u64> = 4..104;
/// See [`SENDERS`].
const SEGMENTS: u64 = 3;

/// Log records in a segment; the first one has [`MANY`].
const RECORDS: u64 = 5;
/// See [`RECORDS`].
const MANY: u64 = 300;

/// Every so many satellites one has dropped something, this often.
const DROPPED: (u64, u64) = (10, 3);

/// The satellite that has dropped more, and how often.
const LOSER: (u64, u64) = (10, 400);

/// Requests that a backend refused.
const LETTERS: u64 = 250;

const EPOCH: u64 = 7;
const MINUTE: u64 = 60_000_000_000;

/// Text that would do something if it were not escaped.
const HOSTILE: &str = r#"<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'"&"#;

/// Names that a page must bear.
fn odd(n: u64) -> Option<String> {
    match n {
        0 => Some(HOSTILE.to_owned()),
        1 => Some(format!("long-{}", "x".repeat(250))),
        2 => Some("../a b?find=%3C&page=9#x".to_owned()),
        3 => Some("\u{202e}drawkcab\u{200b}".to_owned()),
        _ => None,
    }
}

fn name(n: u64) -> Arc<str> {
    odd(n).unwrap_or_else(|| format!("sat-{n:04}")).into()
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let path = std::env::args().nth(1).context("console-fleet CONFIG")?;
    let config: Config = perigee_shared::config::parse(&std::fs::read_to_string(&path)?, &path, |_| None)?;
    let env = Env::production();
    let store = open_store(&config, &env).await?;
    let now = env.unix_nano();
    for n in 0..SATELLITES {
        store.intake().ledger(name(n), Arc::new(hello(n, now))).await?;
    }
    for n in (0..SATELLITES).step_by(10) {
        store.intake().heard(name(n), heard(n, now)).await?;
    }
    for n in SENDERS {
        let mut batch = Vec::new();
        for sequence in 1..=SEGMENTS {
            batch.push(store.intake().put_payload(incoming(n, sequence, now)?).await?);
        }
        let applied = store.intake().commit(batch).await?;
        ensure!(applied.iter().all(|one| *one == Applied::New), "{applied:?}");
    }
    let exporter: Arc<str> = "otlphttp/backend".into();
    refuse(&store, exporter).await?;
    store.close().await;
    Ok(())
}

/// When the pass number `p` of a satellite was opened, by all clocks.
const fn opened(n: u64, p: u64, now: u64) -> u64 {
    now - (p * 97 + 1) * MINUTE - n * 1_000_000_000
}

fn pass(n: u64, p: u64, now: u64) -> PassReport {
    let states = [
        PassState::DeliveredAll,
        PassState::EndedByPlan,
        PassState::Cut,
        PassState::Unreachable,
        PassState::Refused,
        PassState::NothingToSend,
        PassState::BudgetSpent,
        PassState::Closed,
    ];
    let start = opened(n, p, now);
    PassReport {
        station: if n == 1 || n == 3 { HOSTILE.to_owned() } else { "svalbard".to_owned() },
        start_unix_nano: start,
        end_unix_nano: start + 8 * MINUTE,
        planned_bytes: 60 << 20,
        held_bytes: (n * p % 60) << 20,
        connected_nano: 7 * MINUTE,
        connect_nano: 2_000_000_000,
        backlog_bytes: (n % 5) << 20,
        backlog_since_unix_nano: start,
        state: states[((n + p) % 8) as usize].into(),
        sent_packets: 1_000,
        lost_packets: n % 100,
        planned_start_unix_nano: start,
        planned_end_unix_nano: start + 8 * MINUTE,
        guard_end_nano: 5_000_000_000,
        ..PassReport::default()
    }
}

fn hello(n: u64, now: u64) -> link::Hello {
    let id = name(n);
    let lane = |lane: u32| link::Lane {
        lane,
        on_board: vec![link::Range { start: 1, end: 9 }],
        next_sequence: 9,
        ..link::Lane::default()
    };
    let waits = |lane: u32, name: &str| link::LaneBacklog {
        lane,
        name: name.to_owned(),
        bytes: (n + 1) << 12,
        items: Some(link::Counts { log_records: n + 1, ..link::Counts::default() }),
        since_unix_nano: now - MINUTE,
    };
    let drops = match n {
        _ if n == LOSER.0 => LOSER.1,
        _ if n.is_multiple_of(DROPPED.0) => DROPPED.1,
        _ => 0,
    };
    let drop = |id: u64| link::Drop {
        id,
        reason: link::DropReason::Lifetime.into(),
        lane: 8,
        sequences: Some(link::Range { start: 100 * id, end: 100 * id + 1 }),
        items: Some(link::Counts { log_records: id, ..link::Counts::default() }),
        dropped_unix_nano: now - id * MINUTE,
        ..link::Drop::default()
    };
    link::Hello {
        satellite: id.to_string(),
        software: if n < 4 { HOSTILE.to_owned() } else { "space-agent 0.1.0".to_owned() },
        contact: "svalbard".to_owned(),
        epochs: vec![link::Epoch {
            epoch: EPOCH,
            start_counter: 1,
            lanes: vec![lane(1), lane(8)],
            drops: (1..=drops).map(drop).collect(),
            ..link::Epoch::default()
        }],
        passes: (0..PASSES).rev().map(|p| pass(n, p, now)).collect(),
        backlog: vec![waits(1, if n < 4 { HOSTILE } else { "alarms" }), waits(8, "bulk")],
        plan: Some(link::Plan {
            source: "plan".to_owned(),
            next_start_unix_nano: now + (n + 10) * MINUTE,
            next_station: if n == 0 { HOSTILE.to_owned() } else { "svalbard".to_owned() },
            ..link::Plan::default()
        }),
        forecast: Some(link::Forecast {
            made_unix_nano: now,
            stored_bytes: 1 << 20,
            max_bytes: 1 << 30,
            planned_bytes: 1 << 30,
            plan_until_unix_nano: now + 1_000 * MINUTE,
            empty_unix_nano: now + (n + 20) * MINUTE,
            ..link::Forecast::default()
        }),
        agent: Some(link::AgentState {
            configuration: n + 1,
            resident_bytes: 20 << 20,
            memory_limit_bytes: 64 << 20,
            cpu_nano: MINUTE,
            running_nano: 1_000 * MINUTE,
            certificate_end_unix_nano: now + (n + 1) * 100 * 24 * 60 * MINUTE,
        }),
        ..link::Hello::default()
    }
}

/// The latest pass of a satellite as this station had it.
fn heard(n: u64, now: u64) -> Heard {
    Heard {
        connections: 1,
        opened: opened(n, 0, now),
        began: Duration::from_nanos(now - opened(n, 0, now)),
        lost: Duration::from_secs(1),
        received: 1 << 20,
        held: 1 << 20,
        segments: 3,
        items: Counts::of(Signal::Logs, 3 * RECORDS),
        handover_twice: 0,
        ended: Some(Ending::Lost),
        goodbye: None,
    }
}

fn request(n: u64, sequence: u64, records: u64, now: u64) -> Vec<u8> {
    let text = |text: String| Some(AnyValue { value: Some(Value::StringValue(text)) });
    let record = |k: u64| LogRecord {
        time_unix_nano: now - k * 1_000_000,
        severity_number: 9,
        body: text(format!("record {k} of segment {sequence} {HOSTILE}")),
        ..LogRecord::default()
    };
    let service = KeyValue {
        key: "service.name".to_owned(),
        value: text(format!("service-{n}{HOSTILE}")),
        ..KeyValue::default()
    };
    let logs = ResourceLogs {
        resource: Some(Resource { attributes: vec![service], ..Resource::default() }),
        scope_logs: vec![ScopeLogs {
            log_records: (0..records).map(record).collect(),
            ..ScopeLogs::default()
        }],
        ..ResourceLogs::default()
    };
    ExportLogsServiceRequest { resource_logs: vec![logs] }.encode_to_vec()
}

fn incoming(n: u64, sequence: u64, now: u64) -> anyhow::Result<Incoming> {
    let records = if (n, sequence) == (SENDERS.start, 1) { MANY } else { RECORDS };
    let body = request(n, sequence, records, now);
    let mut encoder = Encoder::new(Codec::ZstdRows, None)?;
    encoder.push(Signal::Logs, &body)?;
    let payload = encoder.finish()?.payload;
    let header = Header {
        id: SegmentId { epoch: EPOCH, lane: Lane::BULK, sequence },
        codec: Codec::ZstdRows as u32,
        payload_len: payload.len() as u64,
        raw_len: body.len() as u64,
        hash: segment::hash(&payload),
        items: Counts::of(Signal::Logs, records),
        time: TimeRange { start: now - records * 1_000_000, end: now },
        requests: 1,
        sealed_unix_nano: now,
        base_sequence: None,
        is_base: false,
        delivery: None,
        made_of: None,
    };
    let pieces = vec![Piece { offset: 0, bytes: payload }].into();
    Ok(Incoming {
        satellite: name(n),
        header: Arc::new(header),
        pieces,
        max_partial_bytes: u64::MAX,
        age: None,
    })
}

/// Has a backend refuse requests of the next segment, in hostile words.
async fn refuse(store: &Store, exporter: Arc<str>) -> anyhow::Result<()> {
    let work =
        store.outlet().next(Arc::clone(&exporter), SignalSet::ALL, 1).await?.context("a segment waits")?;
    let letter = |n: u64| Letter {
        signal: Signal::Logs,
        body: Bytes::from_static(b""),
        items: Counts::of(Signal::Logs, 1),
        reason: format!("refused {n}: {HOSTILE}"),
    };
    let progress = Progress {
        finished: true,
        letters: (1..=LETTERS).map(letter).collect(),
        ..Progress::at(work.place, 1)
    };
    store.outlet().progress(exporter, progress).await?;
    Ok(())
}
