//! The text part of `bytes`: what the lines of log files cost as bodies of log records, beside compressors of text.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value::Value as Any};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use perigee_shared::segment::{Base, Codec, Decoder, Encoder, inspect};
use perigee_shared::signal::{Counts, Signal};
use prost::Message;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::bytes_per_item::{header, items};
use crate::cpu::CpuTime;
use crate::peak;
use crate::report::Row;
use crate::stream::{Piece, Stream};

/// Records of a request.
const REQUEST: usize = 512;

/// How often everything is encoded and decoded, the codecs in turns; the median counts.
const RUNS: usize = 5;

/// Raw bytes that seal a segment, in KiB.
const LARGE: usize = 4096;
const SMALL: usize = 256;

/// When the first line without a time happens, and how far apart such lines are.
const START: u64 = 1_750_000_000_000_000_000;
const APART: u64 = 1_000_003;

/// Rows for the files `*.log` in `directory`, and for hostile text. A log `SERVICE.log` or `SERVICE-FORMAT.log` is also measured beside
/// the spans of `SERVICE.spans`. Empty if there are no logs.
pub(crate) fn run(directory: &Path) -> anyhow::Result<Vec<Row>> {
    let entries = std::fs::read_dir(directory).with_context(|| format!("{}", directory.display()))?;
    let mut files = entries.map(|e| Ok(e?.path())).collect::<std::io::Result<Vec<PathBuf>>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    files.sort();
    let mut rows = Vec::new();
    for file in &files {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        eprintln!("bench: {name}");
        let text = String::from_utf8_lossy(&std::fs::read(file)?).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        let best = references(&lines)?;
        rows.push(row(&name, &lines, None, &best)?);
        let service = name.split('-').next().unwrap_or_default();
        let spans = directory.join(format!("{service}.spans"));
        if spans.is_file() {
            let spans = std::fs::read_to_string(spans)?;
            rows.push(row(&format!("{name} + spans"), &lines, Some(&spans), &best)?);
        }
    }
    if !files.is_empty() {
        for (name, lines) in hostile() {
            eprintln!("bench: {name}");
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            rows.push(row(name, &lines, None, &[Value::Null, Value::Null, Value::Null])?);
        }
    }
    Ok(rows)
}

fn row(name: &str, lines: &[&str], spans: Option<&str>, references: &[Value]) -> anyhow::Result<Row> {
    let stream = stream(lines, spans)?;
    let records = lines.len() as f64;
    let [plain, text] = in_turns(&stream)?;
    let kept = measure(&stream, Codec::ColumnsText, SMALL, true)?;
    let peak = match stream.segments(LARGE << 10).first() {
        Some(first) => peak::in_process(Codec::ColumnsText, first)?.into(),
        None => Value::Null,
    };
    let best = references.iter().filter_map(Value::as_f64).fold(f64::INFINITY, f64::min);
    let body = text.body / records;
    let ratio = |of: f64, to: f64| {
        if to.is_finite() && to > 0.0 { json!((of / to * 1000.0).round() / 1000.0) } else { Value::Null }
    };
    let size: usize = lines.iter().map(|l| l.len()).sum();
    Ok(Row::default()
        .with("file", name)
        .with("records", lines.len())
        .with_rounded("text", size as f64 / records, 1)
        .with("zstd-19", references[0].clone())
        .with("xz-9", references[1].clone())
        .with("clp", references[2].clone())
        .with_rounded("body_2", plain.body / records, 2)
        .with_rounded("body_8", body, 2)
        .with("of_best", ratio(body, best))
        .with_rounded("record_2", plain.logs / records, 2)
        .with_rounded("record_8", text.logs / records, 2)
        .with("of_2", ratio(text.logs, plain.logs))
        .with_rounded("record_8_256KiB_kept", kept.logs / records, 2)
        .with_rounded("encode_2", plain.encode, 0)
        .with_rounded("encode_8", text.encode, 0)
        .with("encode_8_mib", peak)
        .with_rounded("decode_2", plain.decode, 0)
        .with_rounded("decode_8", text.decode, 0)
        .with("equal", plain.equal && text.equal && kept.equal))
}

/// Bytes a line of `zstd -19`, `xz -9` and CLP's archive over all lines.
fn references(lines: &[&str]) -> anyhow::Result<[Value; 3]> {
    let mut all = lines.join("\n");
    all.push('\n');
    let rounded = |bytes: usize| json!((bytes as f64 / lines.len() as f64 * 100.0).round() / 100.0);
    let directory = tempfile::tempdir()?;
    let plain = directory.path().join("lines");
    std::fs::write(&plain, &all)?;
    // The zstd of this program is built without its slowest levels.
    let compressed = |program: &str, level: &str| match Command::new(program)
        .args([level, "--keep", "--stdout"])
        .arg(&plain)
        .output()
    {
        Ok(output) if output.status.success() => rounded(output.stdout.len()),
        _ => format!("{program} not installed").into(),
    };
    let (zstd, xz) = (compressed("zstd", "-19"), compressed("xz", "-9"));
    Ok([zstd, xz, clp(lines, directory.path())?.map_or("CLP not installed".into(), rounded)])
}

/// Bytes of the archive that `clp-s` (PyPI `yscope-clp-core`, on the PATH) makes of lines; `None` without it. Lines that are no JSON
/// objects are objects with one field.
fn clp(lines: &[&str], directory: &Path) -> anyhow::Result<Option<usize>> {
    let mut records = String::new();
    for line in lines {
        match serde_json::from_str(line) {
            Ok(Value::Object(_)) => records.push_str(line),
            _ => records.push_str(&json!({ "body": line }).to_string()),
        }
        records.push('\n');
    }
    let (input, archives) = (directory.join("lines.json"), directory.join("archives"));
    std::fs::write(&input, records)?;
    std::fs::create_dir(&archives)?;
    let mut command = Command::new("clp-s");
    command.args(["c", "--compression-level", "19", "--single-file-archive"]).args([&archives, &input]);
    let Ok(output) = command.output() else { return Ok(None) };
    ensure!(output.status.success(), "clp-s: {}", String::from_utf8_lossy(&output.stderr));
    let mut bytes = 0;
    for file in std::fs::read_dir(&archives)? {
        bytes += file?.metadata()?.len() as usize;
    }
    Ok(Some(bytes))
}

/// What a stream came to in one codec.
#[derive(Default)]
struct Measured {
    body: f64,
    logs: f64,
    /// MB/s of OTLP.
    encode: f64,
    decode: f64,
    equal: bool,
}

/// Codec 2 and codec 8 over segments of 4 MiB, in turns.
fn in_turns(stream: &Stream) -> anyhow::Result<[Measured; 2]> {
    let mut runs: [Vec<Measured>; 2] = Default::default();
    for _ in 0..RUNS {
        for (runs, codec) in runs.iter_mut().zip([Codec::Columns, Codec::ColumnsText]) {
            runs.push(measure(stream, codec, LARGE, false)?);
        }
    }
    let median = |mut runs: Vec<Measured>| {
        let of = |speed: fn(&Measured) -> f64| {
            let mut speeds: Vec<f64> = runs.iter().map(speed).collect();
            speeds.sort_by(f64::total_cmp);
            speeds[speeds.len() / 2]
        };
        let (encode, decode) = (of(|r| r.encode), of(|r| r.decode));
        Measured { encode, decode, ..runs.remove(0) }
    };
    Ok(runs.map(median))
}

fn measure(stream: &Stream, codec: Codec, kib: usize, keep: bool) -> anyhow::Result<Measured> {
    let mut base: Option<[Base; 2]> = None;
    let mut measured = Measured { equal: true, ..Measured::default() };
    let (mut raw_all, mut encode, mut decode) = (0, 0.0, 0.0);
    for pieces in stream.segments(kib << 10) {
        let raw: usize = pieces.iter().map(|p| p.body.len()).sum();
        raw_all += raw;
        let cpu = CpuTime::now();
        let mut encoder = Encoder::new(codec, base.as_ref().map(|b| &b[0]))?;
        for piece in pieces {
            encoder.push(piece.signal, &piece.body)?;
        }
        let encoded = encoder.finish()?;
        encode += cpu.elapsed();
        let header = header(codec, raw, &encoded.payload, base.is_some());
        let cpu = CpuTime::now();
        let mut decoder = Decoder::new(&header, &encoded.payload, base.as_ref().map(|b| &b[1]))?;
        let back = decoder.by_ref().collect::<Result<Vec<_>, _>>()?;
        decode += cpu.elapsed();
        let back: Vec<Piece> =
            back.into_iter().map(|r| Piece { signal: r.signal, body: r.body, time: 0 }).collect();
        measured.equal &= items(pieces)? == items(&back)?;
        for cost in inspect(&header, &encoded.payload, base.as_ref().map(|b| &b[1]))? {
            if cost.signal == Signal::Logs {
                measured.logs += cost.bytes;
                measured.body += if cost.column.starts_with("log.body") { cost.bytes } else { 0.0 };
            }
        }
        if keep {
            let learnt = decoder.into_base().context("the codec gives a base")?;
            base = Some([encoded.base.context("the codec gives a base")?, learnt]);
        }
    }
    (measured.encode, measured.decode) = (raw_all as f64 / encode / 1e6, raw_all as f64 / decode / 1e6);
    Ok(measured)
}

/// Lines as log records at the times that are in them, merged with spans by time.
fn stream(lines: &[&str], spans: Option<&str>) -> anyhow::Result<Stream> {
    let (mut pieces, mut items) = (Vec::new(), Counts::ZERO);
    let (mut records, mut last) = (Vec::with_capacity(lines.len()), START);
    for (n, line) in lines.iter().enumerate() {
        last = time_of(line).unwrap_or(last + APART);
        // An agent sees a record some time after it happened.
        let delay = 1_000_000 + ((last ^ n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 44) * 100;
        records.push(LogRecord {
            time_unix_nano: last,
            observed_time_unix_nano: last + delay,
            severity_number: 9,
            body: Some(AnyValue { value: Some(Any::StringValue((*line).to_owned())) }),
            ..LogRecord::default()
        });
    }
    for log_records in records.chunks(REQUEST) {
        let scope_logs = vec![ScopeLogs { log_records: log_records.to_vec(), ..ScopeLogs::default() }];
        let resource_logs = vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }];
        let body = Bytes::from(ExportLogsServiceRequest { resource_logs }.encode_to_vec());
        pieces.push(Piece { signal: Signal::Logs, body, time: log_records[0].time_unix_nano });
        items += Counts::of(Signal::Logs, log_records.len() as u64);
    }
    let all = spans.unwrap_or_default().lines().map(span).collect::<anyhow::Result<Vec<_>>>()?;
    for spans in all.chunks(REQUEST) {
        let scope_spans = vec![ScopeSpans { spans: spans.to_vec(), ..ScopeSpans::default() }];
        let resource_spans = vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }];
        let body = Bytes::from(ExportTraceServiceRequest { resource_spans }.encode_to_vec());
        pieces.push(Piece { signal: Signal::Traces, body, time: spans[0].start_time_unix_nano });
        items += Counts::of(Signal::Traces, spans.len() as u64);
    }
    pieces.sort_by_key(|p| p.time);
    Ok(Stream { pieces, items })
}

/// A line of `SERVICE.spans`: trace, span, parent or -, start and end in ns, name.
fn span(line: &str) -> anyhow::Result<Span> {
    let parts: Vec<&str> = line.splitn(6, ' ').collect();
    let [trace, id, parent, start, end, name] = parts[..] else { anyhow::bail!("not a span: {line}") };
    let bytes = |hex: &str| -> anyhow::Result<Vec<u8>> {
        let pair = |n| Ok(u8::from_str_radix(hex.get(n..n + 2).context("hexadecimal")?, 16)?);
        (0..hex.len()).step_by(2).map(pair).collect()
    };
    Ok(Span {
        trace_id: bytes(trace)?,
        span_id: bytes(id)?,
        parent_span_id: if parent == "-" { Vec::new() } else { bytes(parent)? },
        start_time_unix_nano: start.parse()?,
        end_time_unix_nano: end.parse()?,
        name: name.to_owned(),
        kind: 1,
        ..Span::default()
    })
}

/// The first time of a line that is written as a date and a time of day, to ms, in ns.
fn time_of(line: &str) -> Option<u64> {
    let bytes = line.as_bytes();
    let is_time = |w: &[u8]| w[4] == b'-' && w[7] == b'-' && w[13] == b':' && w[16] == b':';
    let at = bytes.windows(19).position(is_time)?;
    let text = line.get(at..at + 19)?.replacen(['T'], " ", 1);
    let millis = line.get(at + 19..at + 23).and_then(|f| f.get(1..)?.parse::<u64>().ok()).unwrap_or(0);
    let time = humantime::parse_rfc3339_weak(&text).ok()?;
    let nanos = time.duration_since(std::time::UNIX_EPOCH).ok()?.as_nanos();
    Some(u64::try_from(nanos).ok()? + millis * 1_000_000)
}

/// Text that would cost much, were anything unbounded: some 8 MiB each.
fn hostile() -> [(&'static str, Vec<String>); 4] {
    let mut rng = SmallRng::seed_from_u64(17);
    let mut word = move |longest: usize| -> String {
        (0..rng.random_range(1..=longest)).map(|_| rng.random_range('a'..='z')).collect()
    };
    let templates = (0..1 << 17).map(|n| (0..n % 12 + 2).map(|_| word(9)).collect::<Vec<_>>().join(" "));
    let templates = templates.collect();
    let long = (0..4).map(|n| format!("{{\"a\":[{}1]}}", format!("\"{n}\",").repeat(1 << 19))).collect();
    let deep = (0..256).map(|n| format!("{}{n}{}", "{\"a\":[".repeat(4096), "]}".repeat(4096))).collect();
    let mut rng = SmallRng::seed_from_u64(18);
    let mut random = |_| (0..256).map(|_| rng.random_range(' '..='~')).collect();
    let random = (0..1 << 15).map(&mut random).collect();
    [
        ("templates that never recur", templates),
        ("lines of 2 MiB", long),
        ("deep nesting", deep),
        ("random text", random),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_and_a_span_are_read_as_they_were_written() {
        assert_eq!(time_of("x 1970-01-02T00:00:01.250Z y"), Some(86_401_250_000_000));
        assert_eq!(time_of("1970-01-01 00:00:02,007 é"), Some(2_007_000_000));
        assert_eq!(time_of("1970-01-01 00:00:02é.007"), Some(2_000_000_000));
        assert_eq!(time_of("no time at all, but a long line"), None);
        let span = span("0102 03 - 5 7 GET /cart").unwrap();
        assert_eq!(
            (&span.trace_id[..], &span.parent_span_id[..], &*span.name),
            (&[1, 2][..], &[][..], "GET /cart")
        );
    }

    #[test]
    fn lines_come_back_and_cost_less_than_their_text() {
        let lines: Vec<String> =
            (0..2000).map(|n| format!("2026-11-26 06:25:{:02} INFO took {n} ms", n % 60)).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let stream =
            stream(&lines, Some("0102030405060708090a0b0c0d0e0f10 0102030405060708 - 5 7 GET")).unwrap();
        assert_eq!((stream.items[Signal::Logs], stream.items[Signal::Traces]), (2000, 1));
        let measured = measure(&stream, Codec::ColumnsText, SMALL, true).unwrap();
        assert!(measured.equal && measured.body > 0.0 && measured.body < measured.logs);
        assert!(measured.logs < 10.0 * 2000.0, "{} bytes", measured.logs);
    }
}
