//! `/proc` and `/sys` below a root.
//!
//! Parsed here rather than with the crate `procfs`: that one loses the numbers of CPUs where one is offline, reads loads as `f32`, cuts
//! names at a colon and leaves escapes in mount points.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use nix::unistd::{SysconfVar, sysconf};

/// Why something could not be measured.
#[derive(Debug, thiserror::Error)]
pub(super) enum ScrapeError {
    /// A file or directory.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel writes it in another way.
    #[error("{path} does not have the expected form")]
    Form {
        /// Which.
        path: PathBuf,
    },
    /// No account has this id.
    #[error("no user has the id {0}")]
    User(u32),
}

impl ScrapeError {
    /// Whether what was looked at is gone, as processes are that end meanwhile.
    pub(super) fn is_gone(&self) -> bool {
        const ESRCH: i32 = 3;
        let Self::Read { source, .. } = self else { return false };
        source.kind() == io::ErrorKind::NotFound || source.raw_os_error() == Some(ESRCH)
    }
}

/// The machine as one scrape sees it.
#[derive(Debug)]
pub(super) struct Host {
    /// Where its root directory is.
    pub(super) root: PathBuf,
    /// `/proc/stat` of this scrape.
    pub(super) stat: String,
    /// Its CPUs.
    pub(super) cpus: usize,
    /// When it was started, ns since the Unix epoch.
    pub(super) boot: u64,
    /// Units in which the kernel counts CPU time, a second.
    pub(super) ticks: f64,
    /// Bytes of a page.
    pub(super) page: u64,
    /// When this scrape began, ns since the Unix epoch.
    pub(super) now: u64,
}

/// The kernel computes its start from the clock, which may be off by one second from read to read; more is a clock that was set. A start
/// that moves would look like a reset of every counter.
const JITTER: u64 = 2_000_000_000;

impl Host {
    pub(super) fn new(root: &Path) -> Self {
        let of = |variable, default| sysconf(variable).ok().flatten().unwrap_or(default);
        Self {
            root: if root.as_os_str().is_empty() { "/".into() } else { root.to_owned() },
            stat: String::new(),
            cpus: 0,
            boot: 0,
            ticks: of(SysconfVar::CLK_TCK, 100) as f64,
            page: of(SysconfVar::PAGE_SIZE, 4096).unsigned_abs(),
            now: 0,
        }
    }

    /// Whether it is the machine on which this program runs, as this program sees it.
    pub(super) fn is_own(&self) -> bool {
        self.root == Path::new("/")
    }

    /// Reads what every scraper needs.
    pub(super) fn begin(&mut self, now: u64) -> Result<(), ScrapeError> {
        self.now = now;
        self.stat = self.read("proc/stat")?;
        self.cpus = cpu_lines(&self.stat).count();
        let boot = field(&self.stat, "btime").ok_or_else(|| self.form("proc/stat"))? * 1_000_000_000;
        if boot.abs_diff(self.boot) > JITTER {
            self.boot = boot;
        }
        Ok(())
    }

    /// The text of a file; what is not UTF-8 is replaced.
    pub(super) fn read(&self, path: impl AsRef<Path>) -> Result<String, ScrapeError> {
        let path = self.root.join(path);
        let bytes = std::fs::read(&path).map_err(|source| ScrapeError::Read { path, source })?;
        Ok(String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
    }

    /// The text of a table that the kernel walks whole for every read, as it does for TCP's, in several ms.
    ///
    /// It fills a page with whole lines, so a read that left room for a line was the last; another one would walk all to find nothing.
    pub(super) fn read_table(&self, path: impl AsRef<Path>) -> Result<String, ScrapeError> {
        const LINE: usize = 512;
        let path = self.root.join(path);
        let (mut out, mut page) = (Vec::new(), vec![0; self.page as usize]);
        let mut read = || {
            let mut file = File::open(&path)?;
            loop {
                let bytes = file.read(&mut page)?;
                out.extend_from_slice(&page[..bytes]);
                if bytes + LINE < page.len() {
                    return Ok(());
                }
            }
        };
        read().map_err(|source| ScrapeError::Read { path: path.clone(), source })?;
        Ok(String::from_utf8_lossy(&out).into_owned())
    }

    /// The names in a directory, sorted.
    pub(super) fn list(&self, path: impl AsRef<Path>) -> Result<Vec<String>, ScrapeError> {
        let path = self.root.join(path);
        let entries = std::fs::read_dir(&path).map_err(|source| ScrapeError::Read { path, source })?;
        let mut names: Vec<String> =
            entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        Ok(names)
    }

    /// Ids of all processes.
    pub(super) fn processes(&self) -> Result<Vec<u32>, ScrapeError> {
        Ok(self.list("proc")?.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// That a file does not have the expected form.
    pub(super) fn form(&self, path: impl AsRef<Path>) -> ScrapeError {
        ScrapeError::Form { path: self.root.join(path) }
    }

    /// The first number in a file.
    pub(super) fn number(&self, path: &str) -> Result<u64, ScrapeError> {
        self.read(path)?.trim().parse().map_err(|_| self.form(path))
    }
}

/// The number behind `key`, and perhaps a colon, at the beginning of a line. Sizes keep their unit: KiB in `/proc/meminfo`.
pub(super) fn field(text: &str, key: &str) -> Option<u64> {
    line(text, key)?.split_ascii_whitespace().next()?.parse().ok()
}

/// What stands behind `key`, and perhaps a colon, at the beginning of a line.
pub(super) fn line<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let rest = text.lines().filter_map(|line| line.strip_prefix(key));
    rest.filter_map(|rest| rest.strip_prefix([':', ' ', '\t'])).map(str::trim).next()
}

/// Columns that are numbers.
pub(super) fn numbers<'a, const N: usize>(columns: impl IntoIterator<Item = &'a str>) -> Option<[u64; N]> {
    let mut out = [0; N];
    let mut columns = columns.into_iter();
    for slot in &mut out {
        *slot = columns.next()?.parse().ok()?;
    }
    Some(out)
}

/// Name and times of each CPU that is online, from `/proc/stat`.
pub(super) fn cpu_lines(stat: &str) -> impl Iterator<Item = (&str, &str)> {
    let of_one = |name: &str| name.starts_with("cpu") && name.len() > 3;
    stat.lines().filter_map(|line| line.split_once(' ')).filter(move |(name, _)| of_one(name))
}
