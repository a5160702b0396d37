//! A child process with its log: started, killed, ended, and never left behind.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

/// How long a process may take to end after SIGTERM.
const END: Duration = Duration::from_secs(20);

/// The programs' own events in detail, those of what they use when they matter.
const LOGS: &str = "warn,space_agent=debug,ground_station=debug,perigee_shared=debug";

/// How a panic is written, by the programs and by Rust.
const PANICKED: [&str; 2] = ["perigee.panic", "panicked at"];

/// How much of a log is shown when a test fails.
const TAIL: usize = 60;

/// What a command that has ended said.
#[derive(Debug)]
pub struct Exit {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// A program with arguments, and the child that runs it at the moment.
pub struct Process {
    name: String,
    program: PathBuf,
    args: Vec<String>,
    /// Arguments behind those, from the next start on.
    pub more_args: Vec<&'static str>,
    log: PathBuf,
    env: Vec<(String, String)>,
    child: Option<Child>,
    /// Where it looks for panics that are planted.
    pub plants: Option<PathBuf>,
}

impl Process {
    /// `program` with `args`; its output goes to `NAME.log` in `directory`.
    pub fn new(name: &str, program: &str, args: &[&str], directory: &Path) -> Self {
        Self {
            name: name.to_owned(),
            program: program.into(),
            args: args.iter().map(ToString::to_string).collect(),
            more_args: Vec::new(),
            log: directory.join(format!("{name}.log")),
            env: Vec::new(),
            child: None,
            plants: None,
        }
    }

    /// With these variables in its environment.
    #[must_use]
    pub fn with(mut self, env: &[(&str, &str)]) -> Self {
        self.env.extend(env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        self
    }

    /// With this variable in its environment from the next start on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.env.push((name.to_owned(), value.to_owned()));
    }

    fn command(&self, args: &[String]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).stdin(Stdio::null()).kill_on_drop(true).env("RUST_LOG", LOGS);
        if let Some(plants) = &self.plants {
            command.env(crate::PLANTS, plants);
        }
        command.envs(self.env.iter().cloned());
        command
    }

    /// Starts the child.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        let mut command = self.command(&self.args);
        command.args(&self.more_args).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap_or_else(|e| panic!("{}: {e}", self.program.display())));
    }

    /// Runs the program once with other arguments and waits for its end.
    pub async fn run(&self, args: &[&str]) -> Exit {
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        let output = tokio::time::timeout(END, self.command(&args).output());
        let output = output.await.unwrap_or_else(|_| panic!("{} {args:?} does not end", self.name)).unwrap();
        Exit {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Fails when the child has ended by itself.
    pub fn must_run(&mut self) -> Result<(), String> {
        let child = self.child.as_mut().ok_or_else(|| format!("{} was not started", self.name))?;
        match child.try_wait() {
            Ok(None) => Ok(()),
            other => panic!("{} has ended by itself: {other:?}", self.name),
        }
    }

    /// How the child has ended by itself; it can be started again then.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().unwrap()?;
        self.child = None;
        Some(status)
    }

    /// Whether the child was started and not ended since.
    pub const fn is_started(&self) -> bool {
        self.child.is_some()
    }

    /// kill -9.
    pub async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().await.unwrap();
        }
    }

    /// Stops (`SIGSTOP`) or continues (`SIGCONT`) the child.
    pub fn signal(&self, signal: Signal) {
        let id = self.child.as_ref().and_then(Child::id).expect("it runs");
        kill(Pid::from_raw(i32::try_from(id).unwrap()), signal).unwrap();
    }

    /// The id of the child.
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// SIGTERM; the exit status, which must come in time.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait().await
    }

    /// Waits for the child's end.
    pub async fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it was started");
        let ended = tokio::time::timeout(END, child.wait()).await;
        ended.unwrap_or_else(|_| panic!("{} has not ended after {END:?}", self.name)).unwrap()
    }

    /// Everything it has written since this was asked for last; what is taken is not judged when the test ends.
    pub fn take_log(&self) -> String {
        let log = self.log();
        // The child appends: what it writes next is at the file's new end.
        if let Ok(file) = OpenOptions::new().write(true).open(&self.log) {
            file.set_len(0).unwrap();
        }
        log
    }

    /// Everything it has written.
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
    }
}

impl Drop for Process {
    /// The child is killed with its handle; when the test has failed its last lines are shown. A program must not panic.
    fn drop(&mut self) {
        let log = self.log();
        if !std::thread::panicking() {
            let panicked = self.plants.is_none() && PANICKED.iter().any(|word| log.contains(word));
            assert!(!panicked, "{} has panicked:\n{log}", self.name);
        } else {
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- {} ---", self.log.display());
            lines[lines.len().saturating_sub(TAIL)..].iter().for_each(|line| eprintln!("{line}"));
        }
    }
}
