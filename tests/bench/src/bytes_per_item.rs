//! `bytes`: what an item costs on the link, in each codec, and how fast it is encoded and decoded.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use perigee_shared::otlp::items::visit;
use perigee_shared::segment::{Base, Codec, Decoder, Encoder, Header, Lane, SegmentId, hash, inspect};
use perigee_shared::signal::{Counts, Signal, TimeRange};
use serde_json::Value;

use crate::corpus::Corpus;
use crate::cpu::CpuTime;
use crate::peak;
use crate::report::Row;
use crate::stream::{self, Piece, Stream};
use crate::text;

/// Items of a request, the usual size of an SDK's export.
const REQUEST_ITEMS: usize = 512;

/// Raw bytes that seal a segment, in KiB.
const SEGMENTS: [usize; 3] = [256, 1024, 4096];

/// A segment leans on this one before it, when that was the last of the pass before: a pass takes so many.
const PASS: usize = 8;

/// zstd's level for rows, as a reference: the agent's codec 1 uses level 3.
const ROWS_LEVEL: i32 = 9;

/// How often each segment is encoded and decoded.
const RUNS: usize = 3;

/// What `bytes` takes.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// A directory of corpus files (*.zst), or of log files (*.log) as tests/text-logs.sh captures them
    #[arg(default_value = "../shared/corpus")]
    directory: PathBuf,
}

/// Rows for each file in the directory, and for the files of one capture as one stream; or for its log files, if it has some.
pub(crate) fn run(options: &Options) -> anyhow::Result<Vec<Row>> {
    let text = text::run(&options.directory)?;
    if !text.is_empty() {
        return Ok(text);
    }
    let files = corpora(&options.directory)?;
    let mut rows = Vec::new();
    for corpus in &files {
        eprintln!("bench: {}", corpus.name);
        let stream = Stream::of(&[corpus])?;
        for (method, sizes) in per_request(corpus)? {
            let mut row = row(&corpus.name, corpus.signal, stream.items, 0, method).with_rounded(
                "bytes_per_item",
                sizes,
                3,
            );
            for column in ["encode_mb_s", "decode_mb_s", "peak_mib", "equal"] {
                row = row.with(column, Value::Null);
            }
            rows.push(row);
        }
        rows.extend(all_methods(&corpus.name, &stream)?);
    }
    for (name, members) in stream::captures(&files) {
        eprintln!("bench: {name} as one stream");
        rows.extend(all_methods(&format!("{name}-*"), &Stream::of(&members)?)?);
    }
    Ok(rows)
}

fn corpora(directory: &Path) -> anyhow::Result<Vec<Corpus>> {
    let entries = std::fs::read_dir(directory).with_context(|| format!("corpus {}", directory.display()))?;
    let mut files = entries.map(|e| Ok(e?.path())).collect::<std::io::Result<Vec<_>>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "zst"));
    files.sort();
    ensure!(!files.is_empty(), "corpus {}: no .zst and no .log files", directory.display());
    files.iter().map(|file| Corpus::read(file)).collect()
}

fn row(file: &str, signal: Signal, items: Counts, segment_kib: usize, method: &str) -> Row {
    Row::default()
        .with("file", file)
        .with("signal", signal.name())
        .with("items", items[signal])
        .with("segment_kib", segment_kib)
        .with("method", method)
}

/// Bytes an item of requests of 512 items, each compressed for itself.
fn per_request(corpus: &Corpus) -> anyhow::Result<[(&'static str, f64); 2]> {
    let requests = corpus.recut(REQUEST_ITEMS)?;
    let items = (requests.len() * REQUEST_ITEMS) as f64;
    let (mut gzipped, mut zstd3) = (0, 0);
    for request in &requests {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
        encoder.write_all(request)?;
        gzipped += encoder.finish()?.len();
        zstd3 += zstd::bulk::compress(request, 3)?.len();
    }
    Ok([("gzip", gzipped as f64 / items), ("zstd3", zstd3 as f64 / items)])
}

/// How a segment is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Rows,
    Alone,
    Kept,
    Pass,
    /// Codec 8, which takes the text of logs apart.
    Text,
    TextKept,
}

impl Method {
    const ALL: [Self; 6] = [Self::Rows, Self::Alone, Self::Kept, Self::Pass, Self::Text, Self::TextKept];

    const fn name(self) -> &'static str {
        match self {
            Self::Rows => "rows",
            Self::Alone => "perigee",
            Self::Kept => "perigee-kept",
            Self::Pass => "perigee-pass",
            Self::Text => "perigee-text",
            Self::TextKept => "perigee-text-kept",
        }
    }

    const fn codec(self) -> Codec {
        match self {
            Self::Text | Self::TextKept => Codec::ColumnsText,
            Self::Rows | Self::Alone | Self::Kept | Self::Pass => Codec::Columns,
        }
    }
}

fn all_methods(name: &str, stream: &Stream) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for kib in SEGMENTS {
        for method in Method::ALL {
            let mut total = Total::default();
            for signal in Signal::ALL {
                total.bytes.push((signal, 0.0));
            }
            let segments = stream.segments(kib << 10);
            total.run(method, &segments)?;
            let peak = match segments.first() {
                Some(first) if method == Method::Alone => peak::in_process(Codec::Columns, first)?.into(),
                _ => Value::Null,
            };
            for (signal, bytes) in &total.bytes {
                if stream.items[*signal] == 0 {
                    continue;
                }
                rows.push(
                    row(name, *signal, stream.items, kib, method.name())
                        .with_rounded("bytes_per_item", bytes / stream.items[*signal] as f64, 3)
                        .with_rounded("encode_mb_s", total.raw as f64 / total.encode / 1e6, 0)
                        .with_rounded("decode_mb_s", total.raw as f64 / total.decode / 1e6, 0)
                        .with("peak_mib", peak.clone())
                        .with("equal", total.equal),
                );
            }
        }
    }
    Ok(rows)
}

/// What all segments of a stream came to.
#[derive(Default)]
struct Total {
    raw: usize,
    bytes: Vec<(Signal, f64)>,
    /// Processor seconds.
    encode: f64,
    decode: f64,
    equal: bool,
}

impl Total {
    fn run(&mut self, method: Method, segments: &[&[Piece]]) -> anyhow::Result<()> {
        self.equal = true;
        // What the segments lean on, as the encoder and the decoder know it.
        let (mut base, mut last): (Option<[Base; 2]>, Option<[Base; 2]>) = (None, None);
        for (n, pieces) in segments.iter().enumerate() {
            match method {
                Method::Kept | Method::TextKept => base = last.take(),
                Method::Pass if n % PASS == 0 => base = last.take(),
                _ => {}
            }
            let raw: usize = pieces.iter().map(|p| p.body.len()).sum();
            self.raw += raw;
            if method == Method::Rows {
                self.rows(pieces)?;
                continue;
            }
            last = Some(self.columns(method.codec(), pieces, raw, base.as_ref())?);
        }
        Ok(())
    }

    fn rows(&mut self, pieces: &[Piece]) -> anyhow::Result<()> {
        let mut framed = Vec::new();
        for piece in pieces {
            framed.push(piece.signal as u8);
            framed.extend((piece.body.len() as u32).to_le_bytes());
            framed.extend_from_slice(&piece.body);
        }
        let (payload, cpu) = fastest(|| Ok(zstd::bulk::compress(&framed, ROWS_LEVEL)?))?;
        self.encode += cpu;
        let (back, cpu) = fastest(|| {
            let mut reader = perigee_shared::compress::zstd_reader(&payload[..])?;
            let mut back = Vec::with_capacity(framed.len());
            std::io::Read::read_to_end(&mut reader, &mut back)?;
            Ok(back)
        })?;
        self.decode += cpu;
        self.equal &= back == framed;
        for (signal, bytes) in &mut self.bytes {
            let raw: usize = pieces.iter().filter(|p| p.signal == *signal).map(|p| p.body.len()).sum();
            *bytes += payload.len() as f64 * raw as f64 / framed.len() as f64;
        }
        Ok(())
    }

    fn columns(
        &mut self,
        codec: Codec,
        pieces: &[Piece],
        raw: usize,
        base: Option<&[Base; 2]>,
    ) -> anyhow::Result<[Base; 2]> {
        let (encoded, cpu) = fastest(|| {
            let mut encoder = Encoder::new(codec, base.map(|b| &b[0]))?;
            for piece in pieces {
                encoder.push(piece.signal, &piece.body)?;
            }
            Ok(encoder.finish()?)
        })?;
        self.encode += cpu;

        let header = header(codec, raw, &encoded.payload, base.is_some());
        let ((back, decoder), cpu) = fastest(|| {
            let mut decoder = Decoder::new(&header, &encoded.payload, base.map(|b| &b[1]))?;
            Ok((decoder.by_ref().collect::<Result<Vec<_>, _>>()?, decoder))
        })?;
        self.decode += cpu;
        let back: Vec<Piece> =
            back.into_iter().map(|r| Piece { signal: r.signal, body: r.body, time: 0 }).collect();
        self.equal &= items(pieces)? == items(&back)?;
        let costs = inspect(&header, &encoded.payload, base.map(|b| &b[1]))?;
        for (signal, bytes) in &mut self.bytes {
            *bytes += costs.iter().filter(|c| c.signal == *signal).map(|c| c.bytes).sum::<f64>();
        }
        Ok([
            encoded.base.context("the codec gives a base")?,
            decoder.into_base().context("the codec gives a base")?,
        ])
    }
}

/// What `run` gives, and the processor seconds of its fastest time of [`RUNS`]: whatever else the machine does only adds.
fn fastest<T>(mut run: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<(T, f64)> {
    let mut fastest = f64::INFINITY;
    let mut out = None;
    for _ in 0..RUNS {
        drop(out.take());
        let cpu = CpuTime::now();
        out = Some(run()?);
        fastest = fastest.min(cpu.elapsed());
    }
    Ok((out.context("it never ran")?, fastest))
}

pub(crate) fn header(codec: Codec, raw: usize, payload: &[u8], leans: bool) -> Header {
    Header {
        id: SegmentId { epoch: 1, lane: Lane::BULK, sequence: 2 },
        codec: codec as u32,
        payload_len: payload.len() as u64,
        raw_len: raw as u64,
        hash: hash(payload),
        items: Counts::ZERO,
        time: TimeRange::EMPTY,
        requests: 1,
        sealed_unix_nano: 0,
        base_sequence: leans.then_some(1),
        is_base: false,
        delivery: None,
        made_of: None,
    }
}

/// Every item with what encloses it, as a hash each, in an order of their own: equal when the items are, whatever their order.
pub(crate) fn items(pieces: &[Piece]) -> anyhow::Result<Vec<[u8; 32]>> {
    let mut all = Vec::new();
    for piece in pieces {
        visit(piece.signal, &piece.body, |item| {
            let mut hasher = blake3::Hasher::new();
            for part in [item.resource, item.scope, item.metric, item.body] {
                hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
            }
            hasher.update(&[piece.signal as u8]).update(&item.data.to_le_bytes());
            all.push(*hasher.finalize().as_bytes());
        })?;
    }
    all.sort_unstable();
    Ok(all)
}
