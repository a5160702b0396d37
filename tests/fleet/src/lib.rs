//! PostgreSQL servers for tests, from the packages of this machine, each in a temporary directory and on a port of its own.
//!
//! A server is the child of a small shell script that waits on a pipe: when the test process ends, however that is, the pipe closes
//! and the server is stopped. Started by root, servers run as the user `postgres`, as PostgreSQL demands.

#![allow(clippy::unwrap_used, reason = "a test harness: what goes wrong ends the test")]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use tempfile::TempDir;

/// Where Debian puts the programs; the latest version that is there.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let number = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let mut all: Vec<PathBuf> = versions.filter_map(|entry| Some(entry.ok()?.path())).collect();
    all.retain(|path| number(path).is_some_and(|n| n >= 15) && path.join("bin/initdb").exists());
    all.sort_by_key(|path| number(path));
    Some(all.pop()?.join("bin"))
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0)
}

/// A port of 127.0.0.1 that nothing has.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Settings that are for small servers in tests; durability is as it must be.
const SETTINGS: &str = "listen_addresses = '127.0.0.1'\nmax_connections = 200\nshared_buffers = 64MB\nwal_compression = off\n\
                        jit = off\nmax_wal_size = 4GB\nmax_wal_senders = 10\nmax_replication_slots = 10\n\
                        logging_collector = off\nlog_min_messages = warning\n";

/// The script that runs a server until its input ends. Arguments: programs, data, socket directory, port, who.
const SCRIPT: &str = r#"
bin=$1 data=$2 sockets=$3 port=$4
cd /
set -- "$bin/postgres" -D "$data" -k "$sockets" -p "$port"
if [ "$(id -u)" = 0 ]; then set -- setpriv --reuid postgres --regid postgres --clear-groups "$@"; fi
(exec "$@" <&- >"$data.log" 2>&1) &
server=$!
echo $server
read -r how
kill -INT $server 2>/dev/null
wait $server
# Nobody told it to stop: the test process has ended.
[ -n "$how" ] || rm -rf "$sockets"
"#;

/// A server.
pub struct Postgres {
    programs: PathBuf,
    directory: TempDir,
    port: u16,
    script: Option<Child>,
    pid: u32,
    databases: AtomicU32,
}

impl Postgres {
    /// A new server without standbys on the disk of the temporary directory; `None`, and a word on standard error, when this
    /// machine has no PostgreSQL.
    pub fn start() -> Option<Self> {
        Self::start_in(&std::env::temp_dir(), "")
    }

    /// The same in memory, as far as that can be had: for tests that start many databases.
    pub fn start_in_memory() -> Option<Self> {
        let memory = Path::new("/dev/shm");
        let directory = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        Self::start_in(&directory, "")
    }

    /// A new server with these settings more.
    pub fn start_in(parent: &Path, settings: &str) -> Option<Self> {
        let Some(programs) = programs() else {
            // Nobody reads standard output of a test that passes; this is for who looks.
            eprintln!(
                "skipped: no PostgreSQL 15 or later in /usr/lib/postgresql; install the package postgresql-15"
            );
            return None;
        };
        let directory = tempfile::Builder::new().prefix("fleet-pg-").tempdir_in(parent).unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut server = Self {
            programs,
            directory,
            port: free_port(),
            script: None,
            pid: 0,
            databases: AtomicU32::new(0),
        };
        std::fs::create_dir(server.data()).unwrap();
        server.own();
        server.run(
            "initdb",
            &["-A", "trust", "-U", "perigee", "--data-checksums", "-E", "UTF8", "--locale=C", "-D"],
            true,
        );
        server.configure(&format!("{SETTINGS}{settings}"));
        server.begin();
        Some(server)
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The directory belongs to who runs the server.
    fn own(&self) {
        if is_root() {
            let done = Command::new("chown").arg("-R").arg("postgres").arg(self.directory.path()).status();
            assert!(done.unwrap().success());
        }
        std::fs::set_permissions(self.data(), std::fs::Permissions::from_mode(0o700)).unwrap();
    }

    /// Runs one of PostgreSQL's programs as the server's user.
    fn run(&self, program: &str, arguments: &[&str], data: bool) {
        let path = self.programs.join(program);
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]).arg(path);
            command
        } else {
            Command::new(path)
        };
        command.args(arguments).current_dir("/");
        if data {
            command.arg(self.data());
        }
        let out = command.output().unwrap();
        assert!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
    }

    /// Adds settings, which count from the next start on, or from [`Postgres::reload`].
    pub fn configure(&self, settings: &str) {
        let mut file =
            std::fs::OpenOptions::new().append(true).open(self.data().join("postgresql.conf")).unwrap();
        writeln!(file, "{settings}").unwrap();
    }

    /// Has the server read its settings again.
    pub fn reload(&self) {
        self.sql("postgres", "select pg_reload_conf()");
    }

    /// Starts the server and waits until it answers. One that was killed is waited for: its last processes still have its memory.
    pub fn begin(&mut self) {
        for _ in 0..100 {
            self.spawn();
            if self.is_ready() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("the server does not start: {}", self.log());
    }

    fn spawn(&mut self) {
        let mut script = Command::new("sh")
            .args(["-c", SCRIPT, "fleet-postgres"])
            .arg(&self.programs)
            .arg(self.data())
            .arg(self.directory.path())
            .arg(self.port.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut first = String::new();
        BufReader::new(script.stdout.take().unwrap()).read_line(&mut first).unwrap();
        self.pid = first.trim().parse().unwrap();
        self.script = Some(script);
    }

    /// Waits until it answers; false when it has ended instead.
    fn is_ready(&mut self) -> bool {
        let mut ready = Command::new(self.programs.join("pg_isready"));
        ready.args(["-q", "-t", "1", "-U", "perigee", "-h", "127.0.0.1", "-p", &self.port.to_string()]);
        while !ready.status().unwrap().success() {
            if !Path::new("/proc").join(self.pid.to_string()).exists() {
                self.stop();
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        true
    }

    /// What it has written to its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("data.log")).unwrap_or_default()
    }

    /// Ends the server in order.
    pub fn stop(&mut self) {
        if let Some(mut script) = self.script.take() {
            if let Some(mut input) = script.stdin.take() {
                let _ = input.write_all(b"stop\n");
            }
            let _ = script.wait();
        }
    }

    /// Sends the server's first process a signal: `KILL`, `STOP`, `CONT`.
    pub fn signal(&mut self, signal: &str) {
        let done = Command::new("kill").args(["-s", signal, &self.pid.to_string()]).status().unwrap();
        assert!(done.success());
        if signal == "KILL" {
            self.stop();
        }
    }

    /// The port of 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `host:port`
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The role that owns everything; it needs no password.
    pub fn user(&self) -> &'static str {
        "perigee"
    }

    /// Makes a database with nothing in it; its name.
    pub fn database(&self) -> String {
        let name = format!("ledger_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("create database {name} template template0"));
        name
    }

    /// Runs SQL; what it answers, without headings.
    pub fn sql(&self, database: &str, text: &str) -> String {
        let out = Command::new(self.programs.join("psql"))
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", "perigee"])
            .args(["-p", &self.port.to_string(), "-d", database, "-c", text])
            .output()
            .unwrap();
        assert!(out.status.success(), "{text}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    }

    /// Starts a standby of this server. It is asynchronous until `synchronous_standby_names` names it.
    pub fn standby(&self, name: &str) -> Self {
        let parent = self.directory.path().parent().unwrap();
        let directory = tempfile::Builder::new().prefix("fleet-pg-").tempdir_in(parent).unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut standby = Self {
            programs: self.programs.clone(),
            directory,
            port: free_port(),
            script: None,
            pid: 0,
            databases: AtomicU32::new(0),
        };
        std::fs::create_dir(standby.data()).unwrap();
        standby.own();
        let from = format!("host=127.0.0.1 port={} user=perigee application_name={name}", self.port);
        let slot = format!("slot_{name}");
        standby.run(
            "pg_basebackup",
            &["-d", &from, "-R", "-X", "stream", "-C", "-S", &slot, "-c", "fast", "-D"],
            true,
        );
        standby.begin();
        standby
    }

    /// Makes a standby the primary.
    pub fn promote(&self) {
        self.sql("postgres", "select pg_promote(true, 60)");
    }

    /// Resident memory of all its processes and bytes that they wrote to files, of those that still run.
    pub fn resident_bytes(&self) -> u64 {
        let pages = |pid: &str| -> Option<u64> {
            let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
            let line = text.lines().find(|line| line.starts_with("Pss:"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        };
        self.processes().iter().filter_map(|pid| pages(pid)).sum::<u64>() << 10
    }

    /// The first process and those that it started.
    pub fn processes(&self) -> Vec<String> {
        let mut all = vec![self.pid.to_string()];
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.pid));
        all.extend(children.unwrap_or_default().split_whitespace().map(str::to_owned));
        all
    }

    /// Where its data lies.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
        if is_root() {
            // The server's user made files that only it may list.
            let _ = Command::new("rm").arg("-rf").arg(self.data()).status();
        }
    }
}

/// The server that the tests of one process share; each takes a database of its own. `None`: this machine has none.
pub fn shared() -> Option<&'static Postgres> {
    static SERVER: OnceLock<Option<Postgres>> = OnceLock::new();
    SERVER.get_or_init(Postgres::start_in_memory).as_ref()
}

/// A new database of the shared server: host and name.
pub fn shared_database() -> Option<(String, String)> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let server = shared()?;
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    Some((server.host(), server.database()))
}
