//! PostgreSQL servers for tests, from the packages of this machine, each in a temporary directory and on a port of its own.
//!
//! A server is the child of a small shell script that waits on a pipe: when the test process ends, however that is, the pipe closes
//! and the server is stopped. Started by root, servers run as the user `postgres`, as PostgreSQL demands.

#![allow(clippy::unwrap_used, reason = "a test harness: what goes wrong ends the test")]

pub mod network;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use tempfile::TempDir;

use self::network::Home;

/// Where Debian puts the programs; the latest version that is there.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let number = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let mut all: Vec<PathBuf> = versions.filter_map(|entry| Some(entry.ok()?.path())).collect();
    all.retain(|path| number(path).is_some_and(|n| n >= 15) && path.join("bin/initdb").exists());
    all.sort_by_key(|path| number(path));
    Some(all.pop()?.join("bin"))
}

/// Whether this machine has PostgreSQL.
pub fn is_there() -> bool {
    programs().is_some()
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0)
}

/// A port of 127.0.0.1 that nothing has.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Whether a process runs: one that has ended stays there until its parent, which waits for something else, looks for it.
fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// Gives a file or a directory to the user who runs servers.
fn give(path: &Path) {
    if is_root() {
        assert!(Command::new("chown").arg("-R").arg("postgres").arg(path).status().unwrap().success());
    }
}

/// Adds a line to a file that is there.
fn append(path: &Path, line: &str) {
    let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
    writeln!(file, "{line}").unwrap();
}

/// Settings that are for small servers in tests; durability is as it must be.
const SETTINGS: &str = "max_connections = 200\nshared_buffers = 64MB\nwal_compression = off\n\
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
# When nobody told it to stop, the test process has ended: nothing of it is needed any more, nor waited for.
if [ -n "$how" ]; then kill -INT $server 2>/dev/null; else kill -QUIT $server 2>/dev/null; fi
wait $server
[ -n "$how" ] || rm -rf "$sockets"
"#;

/// A server.
pub struct Postgres {
    programs: PathBuf,
    directory: TempDir,
    home: Option<Home>,
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
        Self::start_at(parent, settings, None)
    }

    fn start_at(parent: &Path, settings: &str, home: Option<Home>) -> Option<Self> {
        let Some(programs) = programs() else {
            // Nobody reads standard output of a test that passes; this is for who looks.
            eprintln!(
                "skipped: no PostgreSQL 15 or later in /usr/lib/postgresql; install the package postgresql-15"
            );
            return None;
        };
        let mut server = Self::new(programs, parent, home);
        std::fs::create_dir(server.data()).unwrap();
        server.own();
        server.run(
            "initdb",
            &["-A", "trust", "-U", "perigee", "--data-checksums", "-E", "UTF8", "--locale=C", "-D"],
            true,
        );
        // Standbys get a copy of these settings.
        let listen = if server.home.is_some() { "0.0.0.0" } else { "127.0.0.1" };
        server.configure(&format!("{SETTINGS}listen_addresses = '{listen}'\n{settings}"));
        if server.home.is_some() {
            let trust = "host all,replication all 10.77.0.0/24 trust";
            append(&server.data().join("pg_hba.conf"), trust);
        }
        server.begin();
        Some(server)
    }

    /// Nothing but a directory.
    fn new(programs: PathBuf, parent: &Path, home: Option<Home>) -> Self {
        let directory = tempfile::Builder::new().prefix("fleet-pg-").tempdir_in(parent).unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let (port, databases) = (free_port(), AtomicU32::new(0));
        Self { programs, directory, home, port, script: None, pid: 0, databases }
    }

    /// Where others reach it.
    fn address(&self) -> String {
        self.home.as_ref().map_or_else(|| "127.0.0.1".to_owned(), Home::address)
    }

    /// Cuts it off from everybody, or connects it again. Only one that has a network of its own.
    pub fn plug(&self, is_in: bool) {
        self.home.as_ref().unwrap().plug(is_in);
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The directory belongs to who runs the server.
    fn own(&self) {
        give(self.directory.path());
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
        append(&self.data().join("postgresql.conf"), settings);
    }

    /// Puts a file beside the server's settings, which only the server's user may read.
    pub fn keep_file(&self, name: &str, content: &str) {
        let path = self.data().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        give(&path);
    }

    /// Makes a directory that belongs to the server's user.
    pub fn keep_directory(&self, path: &Path) {
        std::fs::create_dir(path).unwrap();
        give(path);
    }

    /// Has the server read its settings again: whatever it is asked after this goes by them.
    pub fn reload(&self) {
        // Of the process that makes a new connection's. It tells the others before it makes the next.
        let read = || self.sql("postgres", "select pg_conf_load_time()");
        let before = read();
        self.sql("postgres", "select pg_reload_conf()");
        for _ in 0..200 {
            if read() != before {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the server does not read its settings: {}", self.log());
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
        let mut script = self
            .home
            .as_ref()
            .map_or_else(|| Command::new("sh"), |home| home.command("sh"))
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
        ready.args(["-q", "-t", "1", "-U", "perigee", "-h", &self.address(), "-p", &self.port.to_string()]);
        while !ready.status().unwrap().success() {
            if !runs(self.pid) {
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

    /// Stops all of its processes, as a machine that hangs, or has them go on: `STOP`, `CONT`.
    pub fn signal_all(&self, signal: &str) {
        // One that has ended meanwhile needs no signal.
        Command::new("kill").args(["-s", signal]).args(self.processes()).output().unwrap();
    }

    /// Sends the server's first process a signal: `KILL`, `STOP`, `CONT`.
    pub fn signal(&mut self, signal: &str) {
        let done = Command::new("kill").args(["-s", signal, &self.pid.to_string()]).status().unwrap();
        assert!(done.success());
        if signal == "KILL" {
            self.stop();
        }
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `host:port`
    pub fn host(&self) -> String {
        format!("{}:{}", self.address(), self.port)
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

    /// Runs SQL that may fail; whether it did not.
    pub fn try_sql(&self, database: &str, text: &str) -> bool {
        self.psql(database, text).status.success()
    }

    fn psql(&self, database: &str, text: &str) -> Output {
        Command::new(self.programs.join("psql"))
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", &self.address(), "-U", "perigee"])
            .args(["-p", &self.port.to_string(), "-d", database, "-c", text])
            .output()
            .unwrap()
    }

    /// Runs SQL; what it answers, without headings.
    pub fn sql(&self, database: &str, text: &str) -> String {
        let out = self.psql(database, text);
        assert!(out.status.success(), "{text}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    }

    /// Ends every connection to `database`.
    pub fn disconnect(&self, database: &str) {
        let end = "select pg_terminate_backend(pid) from pg_stat_activity where datname =";
        self.sql("postgres", &format!("{end} '{database}'"));
    }

    /// Starts a standby of this server. It is asynchronous until `synchronous_standby_names` names it.
    pub fn standby(&self, name: &str) -> Self {
        self.standby_at(name, None)
    }

    fn standby_at(&self, name: &str, home: Option<Home>) -> Self {
        let parent = self.directory.path().parent().unwrap();
        let mut standby = Self::new(self.programs.clone(), parent, home);
        standby.follow(self, name);
        standby
    }

    /// Begins again as a standby of `primary`, with a new copy of its data, whatever this server had. It must not run.
    pub fn follow(&mut self, primary: &Self, name: &str) {
        if self.data().exists() {
            std::fs::remove_dir_all(self.data()).unwrap();
        }
        std::fs::create_dir(self.data()).unwrap();
        self.own();
        let from = primary.reached_as(name);
        let slot = format!("slot_{name}");
        let drop = format!(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = '{slot}'"
        );
        primary.sql("postgres", &drop);
        self.run(
            "pg_basebackup",
            &["-d", &from, "-R", "-X", "stream", "-C", "-S", &slot, "-c", "fast", "-D"],
            true,
        );
        self.begin();
    }

    /// How a standby of this name reaches it.
    fn reached_as(&self, name: &str) -> String {
        format!("host={} port={} user=perigee application_name={name}", self.address(), self.port)
    }

    /// Follows another primary from where it is.
    pub fn follow_on(&self, primary: &Self, name: &str) {
        let from = primary.reached_as(name);
        self.sql("postgres", &format!("alter system set primary_conninfo = '{from}'"));
        self.sql("postgres", "alter system set primary_slot_name = ''");
        self.reload();
    }

    /// Bytes of the primary's log that a standby has.
    pub fn received(&self) -> u64 {
        // One that has just begun has received nothing and has what its copy had.
        const HAS: &str =
            "select (greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - '0/0'::pg_lsn)::int8";
        self.sql("postgres", HAS).parse().unwrap()
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

/// Three servers: a primary and two standbys, of which one must have each commit. Nobody watches over them: a test does what Patroni
/// would.
pub struct Cluster {
    servers: Vec<Postgres>,
    leads: usize,
}

impl Cluster {
    /// `None`: this machine has no PostgreSQL.
    pub fn start() -> Option<Self> {
        Self::start_at([None, None, None])
    }

    /// The same in the network that the calling thread has entered, where each can be cut off.
    pub fn start_apart() -> Option<Self> {
        Self::start_at([0, 1, 2].map(|number| Some(Home::new(number))))
    }

    fn start_at([home, one, two]: [Option<Home>; 3]) -> Option<Self> {
        let primary = Postgres::start_at(&std::env::temp_dir(), "", home)?;
        let standbys = [primary.standby_at("s1", one), primary.standby_at("s2", two)];
        let cluster = Self { servers: [primary].into_iter().chain(standbys).collect(), leads: 0 };
        cluster.asks_of(0);
        Some(cluster)
    }

    /// Has this server want one of the two others to have each commit.
    fn asks_of(&self, leads: usize) {
        let others: Vec<String> = (0..3).filter(|n| *n != leads).map(|n| format!("s{n}")).collect();
        self.servers[leads]
            .configure(&format!("synchronous_standby_names = 'ANY 1 ({})'", others.join(", ")));
        self.servers[leads].reload();
    }

    /// All of them, whichever leads.
    pub fn hosts(&self) -> Vec<String> {
        self.servers.iter().map(Postgres::host).collect()
    }

    /// The one that leads.
    pub fn primary(&mut self) -> &mut Postgres {
        &mut self.servers[self.leads]
    }

    /// One of the two that follow.
    pub fn standby(&mut self, which: usize) -> &mut Postgres {
        &mut self.servers[(self.leads + 1 + which % 2) % 3]
    }

    /// Cuts all of them off, or connects them again.
    pub fn plug_all(&self, is_in: bool) {
        self.servers.iter().for_each(|server| server.plug(is_in));
    }

    /// The primary is killed for good, and the standby that is ahead leads. The old one's place, for [`Cluster::rebuild`].
    pub fn fail_over(&mut self) -> usize {
        self.primary().signal("KILL");
        self.succeed()
    }

    /// The standby that is ahead leads: it has every commit that was answered. The place of the one that led.
    pub fn succeed(&mut self) -> usize {
        let old = self.leads;
        let (a, b) = ((old + 1) % 3, (old + 2) % 3);
        let ahead = self.servers[a].received() >= self.servers[b].received();
        let (next, other) = if ahead { (a, b) } else { (b, a) };
        self.asks_of(next);
        self.servers[next].promote();
        self.servers[other].follow_on(&self.servers[next], &format!("s{other}"));
        self.leads = next;
        usize::from((next + 1) % 3 != old)
    }

    /// The disk of one that does not lead is lost; it begins again with a new copy. Also what the last primary does after a failover.
    pub fn rebuild(&mut self, which: usize) {
        let at = (self.leads + 1 + which % 2) % 3;
        let [one, primary] = self.servers.get_disjoint_mut([at, self.leads]).unwrap();
        one.stop();
        one.follow(primary, &format!("s{at}"));
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
