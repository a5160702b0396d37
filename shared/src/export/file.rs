//! `file`: one export request after the other, each synced before it counts as accepted. `json` is OTLP JSON, a line each; `proto`
//! is OTLP protobuf as it came, unknown fields and all, each behind its length (u32, big-endian) as the Collector writes it.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::config::{FileConfig, FileFormat};
use super::outcome::Outcome;
use crate::config::Invalid;
use crate::env::Env;
use crate::otlp::json::{self, WriteError};
use crate::otlp::protobuf::Malformed;
use crate::signal::Signal;
use crate::store::{DIRECTORY_MODE, FILE_MODE, sync_parent};

/// A `file` exporter.
pub struct File {
    writer: Arc<Mutex<Writer>>,
    format: FileFormat,
    env: Env,
}

impl File {
    pub(super) fn try_new(key: &str, config: &FileConfig, env: &Env) -> Result<Self, Invalid> {
        let writer = Writer::open(config.clone()).map_err(|e| {
            let remedy = match e.kind() {
                io::ErrorKind::ResourceBusy => "give each exporter of each process a path of its own",
                _ => "its directory must exist and this user must be able to write there",
            };
            let message = format!("cannot open {}: {e}; {remedy}", config.path.display());
            Invalid::new(format!("{key}.path"), message)
        })?;
        Ok(Self { writer: Arc::new(Mutex::new(writer)), format: config.format, env: env.clone() })
    }

    pub(super) async fn send(&self, signal: Signal, body: &Bytes) -> Outcome {
        let (writer, body, format) = (Arc::clone(&self.writer), body.clone(), self.format);
        self.env
            .cpu(move || {
                let put = |out: &mut dyn Write| put(format, signal, &body, out);
                match writer.lock().unwrap_or_else(PoisonError::into_inner).append(&put) {
                    Ok(()) => Outcome::ACCEPTED,
                    Err(WriteError::Malformed(_)) => Outcome::unreadable(),
                    Err(WriteError::Io(e)) => Outcome::retry(format!("cannot write: {e}")),
                }
            })
            .await
    }
}

/// Writes a request as the file has it.
fn put(format: FileFormat, signal: Signal, body: &[u8], out: &mut dyn Write) -> Result<(), WriteError> {
    match format {
        FileFormat::Json => {
            json::write_to(signal, body, out)?;
            out.write_all(b"\n")?;
        }
        FileFormat::Proto => {
            let length = u32::try_from(body.len()).map_err(|_| Malformed("a message of 4 GiB"))?;
            out.write_all(&length.to_be_bytes())?;
            out.write_all(body)?;
        }
    }
    Ok(())
}

/// Counts what is written through it.
struct Counted<W> {
    to: W,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

struct Writer {
    config: FileConfig,
    file: fs::File,
    length: u64,
}

impl Writer {
    fn open(config: FileConfig) -> io::Result<Self> {
        if config.create_directory
            && let Some(directory) = config.path.parent().filter(|at| !at.as_os_str().is_empty())
        {
            fs::DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(directory)?;
        }
        let mut options = fs::OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).mode(FILE_MODE).open(&config.path)?;
        // Where locks are not to be had, nothing tells of another writer.
        if let Err(fs::TryLockError::WouldBlock) = file.try_lock() {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "another exporter writes to it"));
        }
        sync_parent(&config.path)?;
        let length = match config.format {
            FileFormat::Json => whole_lines(&mut file)?,
            FileFormat::Proto => whole_messages(&mut file)?,
        };
        file.set_len(length)?;
        file.seek(SeekFrom::Start(length))?;
        Ok(Self { config, file, length })
    }

    /// Appends what `put` writes. It is never held as a whole, and so written twice where it may be too long for the file.
    fn append(&mut self, put: &dyn Fn(&mut dyn Write) -> Result<(), WriteError>) -> Result<(), WriteError> {
        let limit = self.config.max_bytes.0;
        if limit > 0 && self.length > 0 {
            let mut counted = Counted { to: io::sink(), bytes: self.length };
            put(&mut counted)?;
            if counted.bytes > limit {
                self.rotate()?;
            }
        }
        let mut counted = Counted { to: &self.file, bytes: 0 };
        let written = put(&mut counted).and_then(|()| Ok(self.file.sync_data()?));
        let bytes = counted.bytes;
        if let Err(e) = written {
            // Half a line is taken back, so that the next attempt does not stand behind it.
            self.file.set_len(self.length)?;
            self.file.seek(SeekFrom::Start(self.length))?;
            return Err(e);
        }
        self.length += bytes;
        Ok(())
    }

    /// `PATH.n` becomes `PATH.n+1`, the last one is dropped, and `PATH` begins again.
    fn rotate(&mut self) -> io::Result<()> {
        let name = |n: u32| {
            let mut path = self.config.path.clone();
            if n > 0 {
                path.as_mut_os_string().push(format!(".{n}"));
            }
            path
        };
        let names: Vec<PathBuf> = (0..=self.config.max_backups).map(name).collect();
        let mut new = self.config.path.clone();
        new.as_mut_os_string().push(".new");
        // Before anything moves: where no file can be made, every attempt would cost a backup.
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(&new)?;
        for pair in names.windows(2).rev() {
            match fs::rename(&pair[0], &pair[1]) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        fs::rename(&new, &names[0])?;
        *self = Self::open(self.config.clone())?;
        Ok(())
    }
}

/// The length of `file` up to its last newline: what a crash left behind it was never acknowledged and comes again.
fn whole_lines(file: &mut fs::File) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    let mut buffer = vec![0; 64 << 10];
    while end > 0 {
        let start = end.saturating_sub(buffer.len() as u64);
        let part = &mut buffer[..(end - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(part)?;
        if let Some(at) = part.iter().rposition(|b| *b == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// The length of `file` up to the end of its last whole message.
fn whole_messages(file: &mut fs::File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let mut reader = io::BufReader::new(file);
    let (mut at, mut head) = (0, [0; 4]);
    reader.rewind()?;
    while at + 4 <= length {
        reader.read_exact(&mut head)?;
        let end = at + 4 + u64::from(u32::from_be_bytes(head));
        if end > length {
            break;
        }
        reader.seek_relative((end - at - 4).cast_signed())?;
        at = end;
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::cut::tests::request;
    use crate::units::ByteSize;

    fn config(dir: &tempfile::TempDir) -> FileConfig {
        FileConfig {
            path: dir.path().join("out.jsonl"),
            create_directory: false,
            format: FileFormat::Json,
            max_bytes: ByteSize(0),
            max_backups: 2,
        }
    }

    #[tokio::test]
    async fn requests_are_lines_of_otlp_json_also_after_a_torn_one() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(&dir);
        for signal in Signal::ALL {
            let file = File::try_new("x", &config, &Env::production()).unwrap();
            assert_eq!(file.send(signal, &request(signal, &[2])).await, Outcome::ACCEPTED);
            drop(file);
            fs::OpenOptions::new().append(true).open(&config.path).unwrap().write_all(b"{\"torn").unwrap();
        }
        let file = File::try_new("x", &config, &Env::production()).unwrap();
        drop(file);
        let text = fs::read_to_string(&config.path).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines.len(), 3);
        for (line, key) in lines.iter().zip(["resourceSpans", "resourceMetrics", "resourceLogs"]) {
            assert_eq!(line[key][0]["schemaUrl"], "https://schema");
        }
    }

    #[test]
    fn a_file_has_one_writer_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let config = FileConfig { max_bytes: ByteSize(1), ..config(&dir) };
        let open = || File::try_new("exporters.file", &config, &Env::production());
        let first = open().unwrap();
        let why = open().err().unwrap().message;
        assert!(why.contains("another exporter writes to it") && why.contains("a path of its own"), "{why}");
        first.writer.lock().unwrap().rotate().unwrap();
        assert!(open().is_err(), "the new file is locked too");
        drop(first);
        open().unwrap();
    }

    #[tokio::test]
    async fn protobuf_is_written_as_it_came_also_after_a_torn_message() {
        let dir = tempfile::tempdir().unwrap();
        let config = FileConfig { format: FileFormat::Proto, ..config(&dir) };
        // A field that no version knows, and bytes that are not UTF-8 in one that is text.
        let odd = Bytes::from_static(&[0x0a, 0x07, 0x1a, 0x02, 0xff, 0xfe, 0xa8, 0x3f, 0x01]);
        let bodies = [request(Signal::Logs, &[2]), odd, Bytes::new(), request(Signal::Logs, &[1])];
        for (body, torn) in bodies.iter().zip([&b"\0\0"[..], b"\0\0\0\x09abc", b"\xff\xff\xff\xff", b""]) {
            let file = File::try_new("x", &config, &Env::production()).unwrap();
            assert_eq!(file.send(Signal::Logs, body).await, Outcome::ACCEPTED);
            drop(file);
            fs::OpenOptions::new().append(true).open(&config.path).unwrap().write_all(torn).unwrap();
        }
        let written = fs::read(&config.path).unwrap();
        let mut rest = &written[..];
        for body in &bodies {
            let (length, after) = rest.split_first_chunk().unwrap();
            let (message, after) = after.split_at(u32::from_be_bytes(*length) as usize);
            assert_eq!(message, body);
            rest = after;
        }
        assert!(rest.is_empty());
    }

    #[tokio::test]
    async fn a_full_file_makes_room_and_old_ones_are_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let config = FileConfig { max_bytes: ByteSize(600), ..config(&dir) };
        let file = File::try_new("x", &config, &Env::production()).unwrap();
        for _ in 0..20 {
            assert_eq!(file.send(Signal::Logs, &request(Signal::Logs, &[1])).await, Outcome::ACCEPTED);
        }
        let mut names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["out.jsonl", "out.jsonl.1", "out.jsonl.2"]);
    }

    #[tokio::test]
    async fn where_no_new_file_can_be_made_no_backup_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let config = FileConfig { max_bytes: ByteSize(600), ..config(&dir) };
        let file = File::try_new("x", &config, &Env::production()).unwrap();
        let body = request(Signal::Logs, &[1]);
        let content = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap_or_default();
        while content("out.jsonl.2").is_empty() {
            assert_eq!(file.send(Signal::Logs, &body).await, Outcome::ACCEPTED);
        }
        fs::create_dir(dir.path().join("out.jsonl.new")).unwrap();
        let backups = || [content("out.jsonl.1"), content("out.jsonl.2")];
        let before = backups();
        for _ in 0..5 {
            while file.send(Signal::Logs, &body).await == Outcome::ACCEPTED {}
            assert_eq!(backups(), before);
        }
        fs::remove_dir(dir.path().join("out.jsonl.new")).unwrap();
        assert_eq!(file.send(Signal::Logs, &body).await, Outcome::ACCEPTED);
        assert_eq!(content("out.jsonl.2"), before[0], "it goes on when there is room");
    }

    #[tokio::test]
    async fn its_files_are_not_for_everybody() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let config = FileConfig { max_bytes: ByteSize(1), ..config(&dir) };
        let file = File::try_new("x", &config, &Env::production()).unwrap();
        for _ in 0..2 {
            assert_eq!(file.send(Signal::Logs, &request(Signal::Logs, &[1])).await, Outcome::ACCEPTED);
        }
        for name in ["out.jsonl", "out.jsonl.1"] {
            let mode = fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o137, 0, "{name}");
        }
    }

    #[tokio::test]
    async fn a_directory_that_is_not_there_is_made_on_request() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/out.jsonl");
        let config = FileConfig { path: path.clone(), create_directory: true, ..config(&dir) };
        let file = File::try_new("exporters.file", &config, &Env::production()).unwrap();
        assert_eq!(file.send(Signal::Logs, &request(Signal::Logs, &[1])).await, Outcome::ACCEPTED);
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1);
    }

    #[test]
    fn a_directory_that_is_not_there_is_said() {
        let config = FileConfig {
            path: "/nowhere/at/all.jsonl".into(),
            create_directory: false,
            format: FileFormat::Json,
            max_bytes: ByteSize(0),
            max_backups: 1,
        };
        let Err(invalid) = File::try_new("exporters.file", &config, &Env::production()) else { panic!() };
        assert!(invalid.key == "exporters.file.path" && invalid.message.contains("/nowhere/at/all.jsonl"));
    }
}
