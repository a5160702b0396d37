//! Telemetry to send: files of recorded OTLP, or generated spans where there are none.

use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use bytes::Bytes;
use perigee_shared::compress::zstd_reader;
use perigee_shared::otlp::walk::walk;
use perigee_shared::signal::Signal;

use crate::recut::recut;
use crate::sample;

/// The largest request in a corpus.
const MAX_REQUEST: usize = 64 << 20;

/// The largest corpus.
const MAX_CORPUS: usize = 1 << 30;

/// Export requests of one signal.
pub(crate) struct Corpus {
    /// What it is called in results.
    pub(crate) name: String,
    pub(crate) signal: Signal,
    pub(crate) requests: Vec<Vec<u8>>,
}

impl Corpus {
    /// Reads a file: a zstd stream of requests, each behind its length (u32, big-endian).
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let requests = read_requests(path).with_context(|| format!("corpus {}", path.display()))?;
        let signal = signal_of(&name, &requests)
            .with_context(|| format!("corpus {}: not requests of any one signal", path.display()))?;
        Ok(Self { name, signal, requests })
    }

    /// Spans to send: `payload-traces` in `directory`, by default in ../shared/corpus, else generated ones. Says which.
    pub(crate) fn spans(directory: Option<&Path>) -> anyhow::Result<Self> {
        let usual = PathBuf::from("../shared/corpus");
        let file = directory.unwrap_or(&usual).join("payload-traces.zst");
        if directory.is_none() && !file.exists() {
            eprintln!("bench: no {}, sending generated spans", file.display());
            return Ok(sample::spans());
        }
        eprintln!("bench: sending {}", file.display());
        Self::read(&file)
    }

    /// The corpus as requests of exactly `items` items; what is left over at the end is not there.
    pub(crate) fn recut(&self, items: usize) -> anyhow::Result<Vec<Bytes>> {
        let requests = recut(self.signal, &self.requests, items, false)?;
        if requests.is_empty() {
            bail!("corpus {}: fewer than {items} items", self.name);
        }
        Ok(requests)
    }

    /// The corpus as requests of `items` items, the last of what is left over.
    pub(crate) fn recut_all(&self, items: usize) -> anyhow::Result<Vec<Bytes>> {
        recut(self.signal, &self.requests, items, true)
    }
}

fn read_requests(path: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    let file = BufReader::new(std::fs::File::open(path)?);
    let mut reader = BufReader::new(zstd_reader(file)?.take(MAX_CORPUS as u64));
    let mut requests = Vec::new();
    loop {
        let mut length = [0; 4];
        match reader.read(&mut length[..1])? {
            0 => return Ok(requests),
            _ => reader.read_exact(&mut length[1..])?,
        }
        let length = u32::from_be_bytes(length) as usize;
        if length > MAX_REQUEST {
            bail!("a request of {length} bytes");
        }
        let mut request = vec![0; length];
        reader.read_exact(&mut request)?;
        requests.push(request);
    }
}

/// By the name, else the one signal as which every request can be read.
fn signal_of(name: &str, requests: &[Vec<u8>]) -> Option<Signal> {
    let named = [("trace", Signal::Traces), ("metric", Signal::Metrics), ("log", Signal::Logs)];
    let readable = |signal: &Signal| {
        let mut items = 0;
        let all = requests.iter().all(|request| match walk(*signal, request) {
            Ok(walked) => {
                items += walked.items;
                true
            }
            Err(_) => false,
        });
        all && items > 0
    };
    let by_name = named.iter().find(|(part, _)| name.contains(part)).map(|(_, signal)| *signal);
    by_name.filter(readable).or_else(|| Signal::ALL.into_iter().find(readable))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_corpus_file_is_read_and_its_signal_found() {
        let corpus = sample::spans();
        let directory = tempfile::tempdir().unwrap();
        let mut stream = Vec::new();
        for request in &corpus.requests[..3] {
            stream.extend((request.len() as u32).to_be_bytes());
            stream.extend(request);
        }
        for name in ["some-traces.zst", "unnamed.zst"] {
            let path = directory.path().join(name);
            std::fs::write(&path, zstd::encode_all(stream.as_slice(), 3).unwrap()).unwrap();
            let read = Corpus::read(&path).unwrap();
            assert_eq!((read.signal, &read.requests[..]), (Signal::Traces, &corpus.requests[..3]));
        }
        let path = directory.path().join("cut-traces.zst");
        std::fs::write(&path, zstd::encode_all(&stream[..stream.len() - 1], 3).unwrap()).unwrap();
        assert!(Corpus::read(&path).is_err());
    }
}
