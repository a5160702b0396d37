//! A child process on a core of its own, and what the kernel says it has used.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};

use crate::affinity::pin_this_thread;

/// Ticks a second of the times in `/proc/PID/stat`: `USER_HZ`, which is the same on every Linux.
const TICKS: f64 = 100.0;

/// How long a process may take to end when asked.
const PATIENCE: Duration = Duration::from_secs(30);

/// A child process; it is killed when this is dropped.
pub(crate) struct Process {
    child: Child,
    name: String,
}

/// What a process has used since it began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// User and system time of all threads, in seconds.
    pub(crate) cpu_s: f64,
    /// Bytes that it made the kernel write to disks.
    pub(crate) written: u64,
    /// How often a thread of it has waited and was woken.
    pub(crate) wakeups: u64,
    /// Resident bytes now.
    pub(crate) rss: u64,
    /// The most that was ever resident.
    pub(crate) peak: u64,
}

impl Process {
    /// Starts `command` on `core`, with all its output in the file `log`.
    pub(crate) fn start(mut command: Command, core: usize, log: &Path) -> anyhow::Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let file = File::create(log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        // A child inherits the core of the thread that starts it.
        let starter = std::thread::spawn(move || {
            pin_this_thread(core);
            command.spawn()
        });
        let child = starter.join().map_err(|_| anyhow::anyhow!("the starting thread panicked"))?;
        Ok(Self { child: child.with_context(|| format!("cannot start {name}"))?, name })
    }

    /// An error when the process has ended.
    pub(crate) fn check(&mut self, log: &Path) -> anyhow::Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(10)..].join("\n");
        bail!("{} has ended ({status}):\n{tail}", self.name)
    }

    /// What it has used.
    pub(crate) fn usage(&self) -> anyhow::Result<Usage> {
        let read = |what: &str| std::fs::read_to_string(format!("/proc/{}/{what}", self.child.id()));
        let stat = read("stat")?;
        // The second field is the program's name in brackets, and may have spaces.
        let fields: Vec<_> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let ticks = |field: usize| fields.get(field).and_then(|f| f.parse::<f64>().ok()).context("stat");
        let status = read("status")?;
        Ok(Usage {
            wakeups: self.wakeups()?,
            cpu_s: (ticks(11)? + ticks(12)?) / TICKS,
            written: named(&read("io")?, "write_bytes:").context("io")?,
            rss: 1024 * named(&status, "VmRSS:").context("status")?,
            peak: 1024 * named(&status, "VmHWM:").context("status")?,
        })
    }

    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Resident bytes that are its own, without the page cache.
    pub(crate) fn anonymous(&self) -> anyhow::Result<u64> {
        crate::peak::resident(&self.child.id().to_string(), "RssAnon:")
    }

    fn wakeups(&self) -> anyhow::Result<u64> {
        let mut sum = 0;
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            // One that has ended meanwhile has no status.
            let status = std::fs::read_to_string(thread?.path().join("status")).unwrap_or_default();
            sum += named(&status, "voluntary_ctxt_switches:").unwrap_or(0);
        }
        Ok(sum)
    }

    /// Asks it to end, and kills it when it does not.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM)?;
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                eprintln!("bench: {} did not end within {PATIENCE:?} and is killed", self.name);
                return Ok(());
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail when it has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The number behind `name` at the start of a line.
fn named(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_child_is_measured_and_ended() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let mut command = Command::new("sh");
        command.args(["-c", "echo begun; exec sleep 1000"]);
        let mut process = Process::start(command, 0, &log).unwrap();
        process.check(&log).unwrap();
        let usage = process.usage().unwrap();
        assert!(usage.rss > 0 && usage.peak >= usage.rss && usage.cpu_s < 10.0);
        process.stop().await.unwrap();
    }

    #[tokio::test]
    async fn a_child_that_ended_is_reported_with_its_last_words() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such key >&2; exit 64"]);
        let mut process = Process::start(command, 0, &log).unwrap();
        process.child.wait().unwrap();
        let error = process.check(&log).unwrap_err().to_string();
        assert!(error.contains("64") && error.contains("no such key"), "{error}");
    }
}
