//! `bench thin`: what a link that is thin beside its segments brings, pass by pass: real processes, an emulated link, real time.

use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};
use clap::Args;
use e2e::{Agent, Batch, Ground, SATELLITE, STATION, Scene};
use linkem::{Config, Link, Path, Schedule};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use perigee_shared::segment::{Codec, Encoder};
use perigee_shared::signal::Signal;
use perigee_shared::units::parse_duration;
use prost::Message;
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use crate::client::{Answer, Connection, Payload, Transport};
use crate::corpus::Corpus;
use crate::report::Row;

/// Spans of a request.
const ITEMS: usize = 500;

/// Raw bytes of the segment that others are compared with.
const WHOLE: usize = 4 << 20;

/// Nothing is sent twice: more spans than the link can carry are made of the corpus, with ids and times of their own.
const COPIES: u64 = 4;

/// An alarm as SDKs send it.
const ERROR: i32 = 17;

/// `bench thin`.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// A directory with payload-traces.zst [default: ../shared/corpus]
    #[arg(long, value_name = "DIR")]
    corpus: Option<std::path::PathBuf>,
    /// Of the link, in kbit/s of UDP payload
    #[arg(long, default_value_t = 64)]
    rate: u64,
    /// The way there and back
    #[arg(long, default_value = "40ms", value_parser = parse_duration)]
    rtt: Duration,
    /// How many passes
    #[arg(long, default_value_t = 10)]
    passes: u32,
    /// From AOS to LOS
    #[arg(long, default_value = "30s", value_parser = parse_duration)]
    pass: Duration,
    /// From the plan's file to the first AOS; all spans are on board by then
    #[arg(long, default_value = "30s", value_parser = parse_duration)]
    ahead: Duration,
    /// From LOS to the next AOS
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    gap: Duration,
}

/// What the ground has committed.
#[derive(Debug, Clone, Copy, Default)]
struct Committed {
    bytes: u64,
    spans: u64,
    logs: u64,
}

async fn committed(ground: &Ground) -> Committed {
    let account = ground.accounting_of(SATELLITE).await;
    let number = |at: &serde_json::Value| at.as_u64().unwrap_or(0);
    let items = &account["committed"];
    Committed {
        bytes: number(&account["bytes"]),
        spans: number(&items["spans"]),
        logs: number(&items["log_records"]),
    }
}

/// A row for each pass, then one for all.
pub(crate) fn run(options: &Options) -> anyhow::Result<Vec<Row>> {
    let directory = tempfile::tempdir()?;
    let programs = ::survive::programs::links(directory.path())?;
    let corpus = Corpus::spans(options.corpus.as_deref())?;
    let requests = copies(&corpus)?;
    let whole = whole_segment(&requests)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(fly(options, programs, &requests, whole))
}

/// The corpus several times, each time of other traces at another time.
fn copies(corpus: &Corpus) -> anyhow::Result<Vec<Vec<u8>>> {
    ensure!(corpus.signal == Signal::Traces, "{} has no spans", corpus.name);
    let mut out = Vec::new();
    for copy in 0..COPIES {
        // The first copy is the corpus as it is.
        let mask = if copy > 0 { *blake3::hash(&copy.to_le_bytes()).as_bytes() } else { [0; 32] };
        for request in corpus.recut(ITEMS)? {
            let mut request = ExportTraceServiceRequest::decode(request)?;
            let scopes = request.resource_spans.iter_mut().flat_map(|r| &mut r.scope_spans);
            for span in scopes.flat_map(|s| &mut s.spans) {
                let shift = copy * 86_400_000_000_000;
                span.start_time_unix_nano += shift;
                span.end_time_unix_nano += shift;
                let links = span.links.iter_mut().flat_map(|l| [&mut l.trace_id, &mut l.span_id]);
                let own = [&mut span.trace_id, &mut span.span_id, &mut span.parent_span_id];
                for id in own.into_iter().chain(links) {
                    id.iter_mut().zip(&mask).for_each(|(byte, mask)| *byte ^= mask);
                }
            }
            out.push(request.encode_to_vec());
        }
    }
    Ok(out)
}

/// Bytes and items of a segment of [`WHOLE`] raw bytes.
fn whole_segment(requests: &[Vec<u8>]) -> anyhow::Result<(u64, u64)> {
    let mut encoder = Encoder::new(Codec::Columns, None)?;
    let (mut raw, mut items) = (0, 0);
    for request in requests {
        if raw >= WHOLE {
            break;
        }
        encoder.push(Signal::Traces, request)?;
        raw += request.len();
        items += ITEMS;
    }
    Ok((encoder.finish()?.payload.len() as u64, items as u64))
}

async fn fly(
    options: &Options,
    programs: e2e::Programs,
    requests: &[Vec<u8>],
    whole: (u64, u64),
) -> anyhow::Result<Vec<Row>> {
    let scene = Scene::new(programs);
    let mut ground = Ground::new(&scene);
    ground.start().await;
    let rate = options.rate * 1000;
    let path = Path { rate: Some(rate), overhead: 0, delay: options.rtt / 2, ..Path::default() };
    let starts: Vec<Duration> =
        (0..options.passes).map(|n| options.ahead + (options.pass + options.gap) * n).collect();
    let windows: Vec<_> = starts.iter().map(|at| (*at, *at + options.pass)).collect();
    let schedule = Schedule::windows(&windows).map_err(anyhow::Error::msg)?;
    let config = Config { forward: path.clone(), back: path, schedule, ..Config::perfect(ground.link) };
    let link = Link::start(config).await?;
    // The plan's AOS is that of the link, or a moment later.
    let (began, clock) = (Instant::now(), SystemTime::now());
    let mut agent = Agent::new(&scene, link.local_addr());
    let time = |at: Duration| humantime::format_rfc3339_millis(clock + at).to_string();
    let entry = |(start, end): &(Duration, Duration)| {
        let (start, end) = (time(*start), time(*end));
        let light = format!("{}ms", options.rtt.as_millis() / 2);
        let rate = format!("{}kbit/s", options.rate);
        json!({"station": STATION, "start": start, "end": end, "rate_down": rate, "rate_up": rate, "light_time": light})
    };
    let plan = scene.path().join("plan.yaml");
    std::fs::write(&plan, json!({"contacts": windows.iter().map(entry).collect::<Vec<_>>()}).to_string())?;
    agent.config["contacts"] = json!({"source": "plan", "file": plan});
    agent.config["lanes"] =
        json!({"alarms": {"number": 1, "match": [{"severity": "error"}], "timeout": "0s"}});
    agent.start().await;
    let mut connection =
        Connection::open(Transport::Http, Signal::Traces, ([127, 0, 0, 1], agent.http).into()).await?;
    for request in requests {
        let answer = connection.export(Payload::whole(request.clone().into())).await?;
        ensure!(answer == Answer::Accepted, "the agent refused spans");
    }
    ensure!(
        began.elapsed() < options.ahead,
        "the spans were not on board before the first pass: give more --ahead"
    );
    let mut rows = Vec::new();
    let (mut before, mut worst, mut first_item, mut slowest_alarm) =
        (Committed::default(), f64::MAX, None::<Duration>, Duration::ZERO);
    for (n, (aos, los)) in windows.iter().enumerate() {
        // Raised while nobody hears it.
        let alarm = Batch { severity: ERROR, ..Batch::new(Signal::Logs, &format!("alarm {n}"), 1, 50) };
        agent.accept(&alarm).await;
        let (mut item, mut alarm) = (None::<Duration>, None::<Duration>);
        let after = *los + options.gap / 2;
        let mut now = before;
        while began.elapsed() < after {
            sleep_until(Instant::now() + Duration::from_millis(20)).await;
            now = committed(&ground).await;
            let since = began.elapsed().saturating_sub(*aos);
            item = item.or((now.spans > before.spans).then_some(since));
            alarm = alarm.or((now.logs > before.logs).then_some(since));
        }
        let share = (now.bytes - before.bytes) as f64 * 8.0 / (rate as f64 * options.pass.as_secs_f64());
        first_item = first_item.or(item);
        worst = worst.min(share);
        let status = agent.status().await;
        slowest_alarm = slowest_alarm
            .max(alarm.with_context(|| format!("no alarm arrived in pass {}: {status}", n + 1))?);
        rows.push(
            Row::default()
                .with("pass", (n + 1).to_string())
                .with_rounded("whole_segments_percent", share * 100.0, 1)
                .with("first_item_ms", item.map(|at| at.as_millis() as u64))
                .with("alarm_ms", alarm.map(|at| at.as_millis() as u64))
                .with("spans", now.spans - before.spans)
                .with("of_whole_percent", None::<f64>)
                .with("of_cut_percent", None::<f64>),
        );
        before = now;
    }
    // Spans that large segments would have brought in the same bytes: those that are whole, and if part of one were of use.
    let (bytes, items) = whole;
    let of_whole = before.spans as f64 / (before.bytes / bytes * items).max(1) as f64;
    let of_cut = before.spans as f64 / (before.bytes as f64 / bytes as f64 * items as f64);
    rows.push(
        Row::default()
            .with("pass", "worst, all")
            .with_rounded("whole_segments_percent", worst * 100.0, 1)
            .with("first_item_ms", first_item.map(|at| at.as_millis() as u64))
            .with("alarm_ms", slowest_alarm.as_millis() as u64)
            .with("spans", before.spans)
            .with_rounded("of_whole_percent", of_whole * 100.0, 1)
            .with_rounded("of_cut_percent", of_cut * 100.0, 1),
    );
    Ok(rows)
}
