//! The small files that a configuration names: read whole, bounded, and only when they are files.
//!
//! A pipe without a writer would hang for ever, and a device never ends; both are refused before a byte is read.

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::units::ByteSize;

/// The largest configuration.
pub const CONFIGURATION: u64 = 4 << 20;

/// The largest file of certificates or of a key: a system's own authorities take about 250 KiB.
pub const CERTIFICATES: u64 = 4 << 20;

/// The largest file of passwords or tokens.
pub const SECRETS: u64 = 1 << 20;

/// Whether the medium or its file system has failed, and neither a name nor a right is wrong.
pub fn is_of_the_disk(error: &io::Error) -> bool {
    // What a wrong checksum in the file system's own data is called is one of the latter two.
    let failures = [Errno::EIO, Errno::EUCLEAN, Errno::EBADMSG];
    error.raw_os_error().is_some_and(|code| failures.contains(&Errno::from_raw(code)))
}

/// Whether there is nothing of that name.
pub(crate) fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Opens the file at `path` to be read; what is no file is an error that says what it is.
fn open(path: &Path) -> io::Result<File> {
    // Opening a device may do something, so it is looked at first; between both it may become another.
    is_file(std::fs::metadata(path)?.file_type())?;
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    is_file(file.metadata()?.file_type())?;
    Ok(file)
}

fn is_file(kind: FileType) -> io::Result<()> {
    let what = if kind.is_file() {
        return Ok(());
    } else if kind.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a directory; name a file"));
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("it is {what}, not a file; name a file")))
}

/// The content of the file at `path`, of at most `most` bytes. A disk that fails is asked once more.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    read_once(path, most).or_else(|e| if is_of_the_disk(&e) { read_once(path, most) } else { Err(e) })
}

fn read_once(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut file = open(path)?;
    let large = || {
        let message = format!("it has more than {}; is it the right file?", ByteSize(most));
        io::Error::new(io::ErrorKind::FileTooLarge, message)
    };
    let length = file.metadata()?.len();
    if length > most {
        return Err(large());
    }
    let mut bytes = Vec::with_capacity(length as usize + 1);
    // What /proc has says no length, and a file may grow.
    file.by_ref().take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most { Err(large()) } else { Ok(bytes) }
}

/// The same as text.
pub fn read_text(path: &Path, most: u64) -> io::Result<String> {
    let not_text = |_| io::Error::new(io::ErrorKind::InvalidData, "it is not text in UTF-8");
    String::from_utf8(read(path, most)?).map_err(not_text)
}

/// The same as text without its byte order mark. What is not UTF-8 becomes U+FFFD.
pub fn read_lossy(path: &Path, most: u64) -> io::Result<String> {
    let text = String::from_utf8(read(path, most)?);
    let text = text.unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned());
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

#[cfg(test)]
mod tests {
    use nix::sys::stat::Mode;

    use super::*;

    #[test]
    fn what_is_no_file_is_said_at_once_and_what_is_too_long_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        nix::unistd::mkfifo(&path("pipe"), Mode::S_IRWXU).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        std::fs::File::create(path("long")).unwrap().set_len(1 << 30).unwrap();
        std::os::unix::fs::symlink(path("pipe"), path("link")).unwrap();
        for (file, said) in [
            (path("pipe"), "a pipe"),
            (path("link"), "a pipe"),
            (path("socket"), "a socket"),
            (path("."), "a directory"),
            (path("long"), "more than 1.0 MiB"),
            ("/dev/zero".into(), "a device"),
            (path("nothing"), "No such file"),
        ] {
            let error = read(&file, 1 << 20).unwrap_err().to_string();
            assert!(error.contains(said), "{}: {error}", file.display());
        }
    }

    #[test]
    fn a_file_without_a_length_is_read_whole_and_text_is_text() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!read(Path::new("/proc/self/status"), 1 << 20).unwrap().is_empty());
        assert!(read(Path::new("/proc/self/status"), 10).is_err());
        let file = dir.path().join("t");
        std::fs::write(&file, b"\xef\xbb\xbfa\xff").unwrap();
        assert!(read_text(&file, 10).unwrap_err().to_string().contains("UTF-8"));
        assert_eq!(read_lossy(&file, 10).unwrap(), "a\u{fffd}");
    }
}
