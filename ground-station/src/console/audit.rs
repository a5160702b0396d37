//! Who did what: a file that only grows, one JSON object a line, written before something is done and after.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use perigee_shared::env::Env;
use serde::{Deserialize, Serialize};

/// The file, beside the spool.
const FILE: &str = "audit.jsonl";

/// A file that is longer is put aside under the time, and a new one begun.
const LARGEST: u64 = 16 << 20;

/// Bytes at the end of the file that are read to be shown.
const SHOWN: u64 = 256 << 10;

/// The longest line.
const LINE: usize = 4 << 10;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deed {
    /// When, ns since the Unix epoch.
    pub unix_nano: u64,
    /// Who: the name beside the token, or in the certificate.
    pub who: String,
    /// From where.
    pub from: String,
    /// What: `replay` or `discard`.
    pub what: String,
    /// Of what.
    pub of: String,
    /// `asked` before it is done; then what came of it.
    pub result: String,
}

/// The file.
#[derive(Clone)]
pub struct Audit {
    path: Arc<PathBuf>,
    /// One line at a time.
    writing: Arc<Mutex<()>>,
    env: Env,
}

impl Audit {
    /// The file in this directory.
    pub fn new(directory: &Path, env: &Env) -> Self {
        Self { path: Arc::new(directory.join(FILE)), writing: Arc::default(), env: env.clone() }
    }

    /// Adds a line; it is synced when this returns.
    pub async fn note(&self, deed: Deed) -> io::Result<()> {
        let audit = self.clone();
        self.env.cpu(move || audit.append(&deed)).await
    }

    /// The latest lines, the latest first.
    pub async fn latest(&self, most: usize) -> io::Result<Vec<Deed>> {
        let audit = self.clone();
        self.env.cpu(move || audit.read(most)).await
    }

    fn append(&self, deed: &Deed) -> io::Result<()> {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let line = format!("{}\n", serde_json::to_string(deed)?);
        if line.len() > LINE {
            return Err(io::Error::other("the line is too long"));
        }
        let mut options = OpenOptions::new();
        let mut file = options.append(true).create(true).mode(0o600).open(&*self.path)?;
        let length = file.metadata()?.len();
        if length > LARGEST {
            std::fs::rename(&*self.path, self.path.with_extension(format!("{}.jsonl", deed.unix_nano)))?;
            file = options.open(&*self.path)?;
        } else if length > 0 && !ends_whole(&self.path)? {
            // A power cut in the middle of a line must not spoil this one.
            file.write_all(b"\n")?;
        }
        file.write_all(line.as_bytes())?;
        file.sync_data()
    }

    fn read(&self, most: usize) -> io::Result<Vec<Deed>> {
        let mut file = match File::open(&*self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            file => file?,
        };
        let from = file.metadata()?.len().saturating_sub(SHOWN);
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(SHOWN).read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes);
        Ok(text.lines().rev().filter_map(|line| serde_json::from_str(line).ok()).take(most).collect())
    }
}

fn ends_whole(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_added_also_behind_one_that_was_torn_and_shown_latest_first() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::new(dir.path(), &Env::production());
        assert_eq!(audit.latest(10).await.unwrap(), []);
        let deed = |n: u64| Deed {
            unix_nano: n,
            who: "ann\n\"".to_owned(),
            from: "127.0.0.1".to_owned(),
            what: "replay".to_owned(),
            of: "dead letter 1".to_owned(),
            result: "asked".to_owned(),
        };
        audit.note(deed(1)).await.unwrap();
        let path = dir.path().join(FILE);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"unix_na").unwrap();
        audit.note(deed(2)).await.unwrap();
        assert_eq!(audit.latest(10).await.unwrap(), [deed(2), deed(1)]);
        assert_eq!(audit.latest(1).await.unwrap(), [deed(2)]);
        let long = Deed { of: "x".repeat(LINE), ..deed(3) };
        assert!(audit.note(long).await.is_err());
        assert_eq!(audit.latest(10).await.unwrap().len(), 2);
    }
}
