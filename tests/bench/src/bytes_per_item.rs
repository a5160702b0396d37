//! `bench bytes`: what an item costs on the link.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, ensure};
use bytes::Bytes;
use perigee_shared::segment::{Codec, Encoder};
use perigee_shared::signal::Signal;

use crate::corpus::Corpus;
use crate::report::Row;

/// Items of a request, the usual size of an SDK's export.
const REQUEST_ITEMS: usize = 512;

/// Raw bytes that seal a segment.
const SEGMENT_BYTES: usize = 4 << 20;

/// A row for each corpus file in `directory`.
pub(crate) fn run(directory: &Path) -> anyhow::Result<Vec<Row>> {
    let entries = std::fs::read_dir(directory).with_context(|| format!("corpus {}", directory.display()))?;
    let mut files = entries.map(|e| Ok(e?.path())).collect::<std::io::Result<Vec<_>>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "zst"));
    files.sort();
    ensure!(!files.is_empty(), "corpus {}: no .zst files", directory.display());
    files.iter().map(|file| row(&Corpus::read(file)?)).collect()
}

fn row(corpus: &Corpus) -> anyhow::Result<Row> {
    eprintln!("bench: {}", corpus.name);
    let requests = corpus.recut(REQUEST_ITEMS)?;
    let items = (requests.len() * REQUEST_ITEMS) as f64;
    let each = |packed: &dyn Fn(&[u8]) -> anyhow::Result<usize>| {
        requests.iter().map(|r| packed(r)).sum::<anyhow::Result<usize>>().map(|n| n as f64 / items)
    };
    let raw = each(&|request| Ok(request.len()))?;
    let gzip = each(&gzip)?;
    let zstd = each(&|request| Ok(zstd::bulk::compress(request, 3)?.len()))?;
    let rows = segments(corpus.signal, &requests, Codec::ZstdRows)? as f64 / items;
    Ok(Row::default()
        .with("corpus", corpus.name.as_str())
        .with("items", items as u64)
        .with_rounded("raw", raw, 2)
        .with_rounded("gzip6_request", gzip, 2)
        .with_rounded("zstd3_request", zstd, 2)
        .with_rounded("zstd_rows_segment", rows, 2)
        .with_rounded("gzip6_over_zstd_rows", gzip / rows, 2))
}

fn gzip(request: &[u8]) -> anyhow::Result<usize> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(request)?;
    Ok(encoder.finish()?.len())
}

/// Payload bytes of all segments that `requests` make.
fn segments(signal: Signal, requests: &[Bytes], codec: Codec) -> anyhow::Result<usize> {
    let (mut total, mut encoder, mut raw) = (0, Encoder::new(codec)?, 0);
    for request in requests {
        encoder.push(signal, request)?;
        raw += request.len();
        if raw >= SEGMENT_BYTES {
            total += std::mem::replace(&mut encoder, Encoder::new(codec)?).finish()?.len();
            raw = 0;
        }
    }
    if raw > 0 {
        total += encoder.finish()?.len();
    }
    Ok(total)
}
