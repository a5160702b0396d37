//! Notices that a file has changed without looking at it again and again.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::net::unix::pipe::Receiver;

/// Where the kernel does not tell, the file is looked at so often.
const POLL: Duration = Duration::from_secs(10);

/// An event before its name: watch, mask, cookie and the name's length, four bytes each.
const EVENT: usize = 16;

/// See the module.
pub(super) struct FileWatch {
    /// What inotify says of the file's directory, since a file is best replaced by renaming.
    events: Option<Receiver>,
    name: OsString,
}

impl FileWatch {
    /// Watches `path` if it is a `real` file and the kernel can; looks at it now and then otherwise.
    pub(super) fn new(path: &Path, real: bool) -> Self {
        let name = path.file_name().unwrap_or_default().to_owned();
        let events = match real.then(|| watch(path)) {
            Some(Ok(events)) => Some(events),
            Some(Err(error)) => {
                tracing::warn!(%error, "the contact plan's directory cannot be watched; the file is looked at every 10 s");
                None
            }
            None => None,
        };
        Self { events, name }
    }

    /// Ends when the file may have changed: true when the kernel says so, false when it is merely time to look.
    pub(super) async fn changed(&mut self) -> bool {
        loop {
            match self.next().await {
                Some(Ok(true)) => return true,
                Some(Ok(false)) => {}
                Some(Err(_)) => self.events = None,
                None => {
                    tokio::time::sleep(POLL).await;
                    return false;
                }
            }
        }
    }

    /// Whether the next events are about the file; `None` when nothing tells.
    async fn next(&self) -> Option<io::Result<bool>> {
        let events = self.events.as_ref()?;
        if let Err(error) = events.readable().await {
            return Some(Err(error));
        }
        let mut buffer = [0; 4096];
        match events.try_read(&mut buffer) {
            Ok(length) => Some(Ok(names(&buffer[..length], self.name.as_bytes()))),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Some(Ok(false)),
            Err(error) => Some(Err(error)),
        }
    }
}

/// Whether inotify's events name the file, or no file: then some were lost.
fn names(mut events: &[u8], file: &[u8]) -> bool {
    while let Some((event, rest)) = events.split_at_checked(EVENT) {
        let length = event[12..].try_into().map_or(0, u32::from_ne_bytes) as usize;
        let Some((name, rest)) = rest.split_at_checked(length) else { return true };
        // Zeros fill it up.
        let name = name.split(|b| *b == 0).next().unwrap_or_default();
        if name.is_empty() || name == file {
            return true;
        }
        events = rest;
    }
    false
}

fn watch(path: &Path) -> io::Result<Receiver> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let what = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_DELETE;
    inotify.add_watch(directory, what)?;
    Receiver::from_owned_fd_unchecked(OwnedFd::from(inotify))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_is_written_or_replaced_is_noticed_and_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("plan.yaml");
        std::fs::write(&file, "a").unwrap();
        let mut watch = FileWatch::new(&file, true);
        std::fs::write(&file, "b").unwrap();
        watch.changed().await;
        std::fs::write(dir.path().join("other"), "c").unwrap();
        let nothing = tokio::time::timeout(Duration::from_millis(100), watch.changed());
        assert!(nothing.await.is_err());
        std::fs::rename(dir.path().join("other"), &file).unwrap();
        watch.changed().await;
    }
}
