//! Files that are read again when they change.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What tells one content of a file from another: when it was changed, its length and its inode; `None`: there is no file.
type Version = Option<(Option<SystemTime>, u64, u64)>;

/// Files that belong together.
#[derive(Debug)]
pub struct Files {
    paths: Vec<PathBuf>,
    /// As they were read last.
    read: Option<Vec<Version>>,
}

impl Files {
    /// These, not read yet.
    pub fn new<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Self {
        Self { paths: paths.into_iter().map(Path::to_owned).collect(), read: None }
    }

    /// Whether one of them is another file than was read last.
    pub fn have_changed(&self) -> bool {
        self.read.as_ref() != Some(&self.versions())
    }

    /// They are being read now. Said before that, so that what changes meanwhile is read again.
    pub fn reading(&mut self) {
        self.read = Some(self.versions());
    }

    fn versions(&self) -> Vec<Version> {
        let version = |path: &PathBuf| {
            let meta = std::fs::metadata(path).ok()?;
            Some((meta.modified().ok(), meta.len(), meta.ino()))
        };
        self.paths.iter().map(version).collect()
    }
}
