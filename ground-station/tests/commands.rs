//! The program as people start it.

#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

mod support;

use std::path::Path;
use std::process::{Command, Output};

use ground_station::config::Config;
use ground_station::ground::open_store;
use ground_station::spool::{Applied, Incoming, Piece, Progress};
use perigee_shared::env::Env;
use perigee_shared::signal::SignalSet;
use support::{Running, Segment, Site, columns, segment};

fn ground(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ground-station")).args(arguments).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(output)))
}

fn write(path: &Path, text: &str) -> String {
    std::fs::write(path, text).unwrap();
    path.display().to_string()
}

/// A configuration file of this site.
fn file(site: &Site) -> String {
    let dir = site.dir.path().display();
    let text = format!(
        "link:\n  station: svalbard\n  listen: [\"127.0.0.1:0\"]\n  certificate_file: {dir}/station-svalbard.crt\n  \
         private_key_file: {dir}/station-svalbard.key\n  satellite_ca_file: {dir}/satellite-ca.crt\n  \
         satellites:\n    sat-1:\nexporters: {{file: {{path: {dir}/out.jsonl}}}}\n\
         storage: {{directory: {dir}/spool}}\nextensions:\n  control: {{socket: {dir}/ground.sock}}\n\
         service:\n  pipelines:\n    traces: {{exporters: [file]}}\n    metrics: {{exporters: [file]}}\n    \
         logs: {{exporters: [file]}}\n"
    );
    write(&site.path("ground.yaml"), &text)
}

/// The program with this configuration and the listeners that tests ask.
async fn start(site: &Site, path: &str) -> Running {
    let mut yaml = std::fs::read_to_string(path).unwrap();
    yaml = yaml.replace("extensions:\n", "extensions:\n  api: {endpoint: 127.0.0.1:0}\n");
    yaml.push_str("  telemetry:\n    metrics: {endpoint: 127.0.0.1:0}\n");
    let config = write(&site.path("run.yaml"), &yaml);
    Running::start(Config::load(Path::new(&config)).unwrap()).await
}

#[test]
fn a_wrong_configuration_ends_with_64_and_says_what_is_wrong() {
    let site = Site::new();
    let good = file(&site);
    let output = ground(&["validate", "--config", &good]);
    assert!(output.status.success(), "{}", text(&output));
    for (from, to, expected) in [
        ("  station:", "  statoin:", "did you mean `station`"),
        (
            "station: svalbard",
            "station: tromso",
            "link.certificate_file: it is the certificate of the station svalbard, and link.station is tromso: name the right \
             file, or issue one with `pki issue station tromso`",
        ),
        ("satellite-ca.crt", "nothing.crt", "nothing.crt"),
        ("[file]", "[flie]", "did you mean `file`"),
    ] {
        let wrong = std::fs::read_to_string(&good).unwrap().replacen(from, to, 1);
        let wrong = write(&site.path("wrong.yaml"), &wrong);
        let output = ground(&["validate", "--config", &wrong]);
        assert_eq!(output.status.code(), Some(64), "{}", text(&output));
        assert!(text(&output).contains(expected), "{}", text(&output));
    }
    let output = ground(&["run", "--config", "/nowhere.yaml"]);
    assert_eq!(output.status.code(), Some(64));
}

/// As the guide has it: in a new folder, with certificates and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn the_files_for_one_machine_are_right_before_anything_was_started() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ground-station"));
        let output = command.args(arguments).current_dir(folder.path()).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
    };
    run(&["pki", "init", "--dir", "pki", "--domain", "example.org"]);
    run(&["pki", "issue", "station", "svalbard", "--dir", "pki"]);
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/config/local/ground.yaml");
    run(&["validate", "--config", file]);
    assert!(!folder.path().join("data").exists(), "validate makes nothing");
}

/// A file of an exporter may lie in the folder of the spool, which the first start makes.
#[tokio::test(flavor = "multi_thread")]
async fn an_exporter_writes_into_the_folder_of_the_spool_that_the_first_start_makes() {
    let site = Site::new();
    let path = file(&site);
    let moved = std::fs::read_to_string(&path).unwrap().replace("/out.jsonl", "/spool/out.jsonl");
    std::fs::write(&path, moved).unwrap();
    assert!(ground(&["validate", "--config", &path]).status.success());
    let running = start(&site, &path).await;
    assert!(site.path("spool/out.jsonl").exists());
    running.stop().await;
    let elsewhere = std::fs::read_to_string(&path).unwrap().replace("/spool/out.jsonl", "/none/out.jsonl");
    let output = ground(&["validate", "--config", &write(&site.path("wrong.yaml"), &elsewhere)]);
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output).contains("is not there; make it"), "{}", text(&output));
}

/// What is typed behind `ground-station`, the exit code, and parts of what is said. `GOOD` is a right configuration of which nothing
/// runs, `DIR` the site's directory.
const MISTAKES: &[(&str, i32, &[&str])] = &[
    ("", 2, &["Usage: ground-station <COMMAND>", "satellites"]),
    ("rnu", 2, &["unrecognized subcommand 'rnu'", "'--help'"]),
    ("run --confg x", 2, &["unexpected argument '--confg'", "'--config'"]),
    ("run -c", 2, &["a value is required for '--config <FILE>'"]),
    ("run --role everything", 2, &["invalid value 'everything'", "link"]),
    ("spool", 2, &["inspect", "replay"]),
    ("spool inspcet", 2, &["unrecognized subcommand 'inspcet'", "inspect"]),
    ("spool inspect --each", 2, &["--columns"]),
    ("spool replay", 2, &["--all"]),
    ("spool replay --id x", 2, &["invalid value 'x' for '--id <ID>'"]),
    ("spool replay --all --id 1", 2, &["cannot be used with"]),
    ("spool backup", 2, &["<FILE>"]),
    ("spool catalogue --limit -1", 2, &["unexpected argument '-1'"]),
    ("pki init", 2, &["were not provided", "--domain <DOMAIN>"]),
    ("pki issue plane p-1 --dir DIR", 2, &["invalid value 'plane'", "satellite", "station"]),
    ("pki issue satellite s-1 --dir DIR/none", 1, &["DIR/none"]),
    ("pki issue satellite s-1 --dir DIR --days 0", 2, &["'--days <DAYS>'"]),
    ("pki issue satellite s-1 --dir DIR --name other", 1, &["--name is for stations"]),
    ("pki revoke a b c --dir DIR", 2, &["unexpected"]),
    ("pki list --dir DIR/none", 1, &["DIR/none"]),
    ("run -c DIR/nothing.yaml", 64, &["cannot read DIR/nothing.yaml", "No such file"]),
    ("run -c DIR", 64, &["cannot read DIR", "directory"]),
    ("validate -c DIR/nothing.yaml", 64, &["cannot read DIR/nothing.yaml"]),
    ("validate -c DIR/empty.yaml", 64, &["DIR/empty.yaml"]),
    ("satellites -c DIR/nothing.yaml", 64, &["cannot read"]),
    ("run -c DIR/pipe", 64, &["cannot read DIR/pipe", "it is a pipe, not a file"]),
    ("validate -c DIR/pipe", 64, &["cannot read DIR/pipe", "it is a pipe, not a file"]),
    ("satellites -c /dev/zero", 64, &["cannot read /dev/zero", "it is a device, not a file"]),
    ("validate -c DIR/long.yaml", 64, &["cannot read DIR/long.yaml", "more than 4.0 MiB"]),
    ("satellites -c GOOD", 1, &["nothing answers on the control socket", "no spool"]),
    ("spool verify -c GOOD", 1, &["nothing answers on the control socket", "no spool"]),
    ("spool catalogue --from yesterday -c GOOD", 1, &["`from` is not a time: write 2026-11-26T14:00:00Z"]),
    ("top -c GOOD", 1, &["top needs a terminal", "ground-station satellites"]),
];

/// A configuration whose every file is wrong.
const WRONG_OUTSIDE: &str = "link:
  station: svalbard
  listen: ['127.0.0.1:0']
  certificate_file: DIR/station-svalbard.crt
  private_key_file: DIR/station-ca.key
  satellite_ca_file: DIR/satellite-ca.crt
  satellite_crl_file: DIR/long.yaml
  satellites: {sat-1: }
exporters:
  file: {path: DIR/none/out.jsonl}
  otlphttp: {endpoint: 'http://127.0.0.1:1', auth: {authenticator: bearertokenauth}}
storage: {directory: DIR/empty.yaml/spool}
extensions:
  bearertokenauth: {filename: DIR/pipe}
  control: {socket: DIR/empty.yaml/control.sock}
  console: {endpoint: '127.0.0.1:0', read_tokens_file: DIR/pipe, act_tokens_file: DIR, tls: {cert_file: DIR/none.crt, key_file: DIR/none.key}}
service:
  pipelines:
    traces: {exporters: [file]}
    metrics: {exporters: [otlphttp]}
    logs: {exporters: [file]}
";

/// All that is said of it, line by line.
const OUTSIDE: &[&str] = &[
    "outside.yaml has 10 problems:",
    "outside.yaml:5: link.private_key_file: cannot read private key DIR/station-ca.key: it is the key of another certificate",
    "outside.yaml:7: link.satellite_crl_file: cannot read revocation list DIR/long.yaml: it has more than 16.0 MiB",
    "outside.yaml:10: exporters.file.path: the directory DIR/none is not there; make it, or write create_directory: true",
    "outside.yaml:12: storage.directory: DIR/empty.yaml is a file; name a directory",
    "outside.yaml:14: extensions.bearertokenauth.filename: cannot be used: DIR/pipe: it is a pipe",
    "outside.yaml:15: extensions.control.socket: DIR/empty.yaml is a file; name a directory",
    "outside.yaml:16: extensions.console.read_tokens_file: DIR/pipe: it is a pipe",
    "outside.yaml:16: extensions.console.act_tokens_file: DIR: it is a directory",
    "outside.yaml:16: extensions.console.tls.cert_file: cannot read certificate DIR/none.crt",
    "outside.yaml:16: extensions.console.tls.key_file: cannot read private key DIR/none.key",
];

#[test]
fn every_file_that_is_wrong_is_said_at_once_by_run_and_validate() {
    let site = Site::new();
    let here = site.dir.path().display().to_string();
    write(&site.path("empty.yaml"), "");
    assert!(Command::new("mkfifo").arg(site.path("pipe")).status().unwrap().success());
    std::fs::File::create(site.path("long.yaml")).unwrap().set_len(1 << 30).unwrap();
    let wrong = write(&site.path("outside.yaml"), &WRONG_OUTSIDE.replace("DIR", &here));
    for command in ["run", "validate"] {
        let output = ground(&[command, "-c", &wrong]);
        assert_eq!(output.status.code(), Some(64), "{}", text(&output));
        for part in OUTSIDE {
            let part = part.replace("DIR", &here);
            assert!(text(&output).contains(&part), "{command}: `{part}` is not in: {}", text(&output));
        }
    }
}

#[test]
fn swapped_authorities_are_a_warning_and_the_right_ones_are_none() {
    let site = Site::new();
    let good = file(&site);
    let output = ground(&["validate", "--config", &good]);
    assert!(output.status.success() && !text(&output).contains("swapped"), "{}", text(&output));
    let swapped = std::fs::read_to_string(&good).unwrap().replace("satellite-ca.crt", "station-ca.crt");
    let swapped = write(&site.path("swapped.yaml"), &swapped);
    let output = ground(&["validate", "--config", &swapped]);
    assert!(output.status.success(), "{}", text(&output));
    for part in [
        "swapped.yaml:6: warning: link.satellite_ca_file",
        "station-ca.crt",
        "were the authorities of satellites and stations swapped?",
    ] {
        assert!(text(&output).contains(part), "{part}: {}", text(&output));
    }
}

#[test]
fn every_mistake_has_its_exit_code_and_says_what_to_do_once() {
    let site = Site::new();
    let good = file(&site);
    write(&site.path("empty.yaml"), "");
    let pipe = Command::new("mkfifo").arg(site.path("pipe")).status().unwrap();
    assert!(pipe.success());
    std::fs::File::create(site.path("long.yaml")).unwrap().set_len(1 << 30).unwrap();
    let here = site.dir.path().display().to_string();
    let mut wrong = Vec::new();
    for (typed, code, parts) in MISTAKES {
        let place = |text: &str| text.replace("DIR", &here).replace("GOOD", &good);
        let words = place(typed);
        let output = ground(&words.split_whitespace().collect::<Vec<_>>());
        let said = text(&output);
        if output.status.code() != Some(*code) {
            wrong.push(format!("{typed}: ends with {:?}, not {code}: {said}", output.status.code()));
        }
        let missing = parts.iter().map(|part| place(part)).filter(|part| !said.contains(part));
        wrong.extend(missing.map(|part| format!("{typed}: `{part}` is not in: {said}")));
        // A cause that the error's own words have already must not follow once more.
        let causes: Vec<&str> = said.trim().split(": ").collect();
        let again =
            causes.iter().enumerate().find(|(n, cause)| cause.len() > 8 && causes[..*n].contains(cause));
        wrong.extend(again.map(|(_, cause)| format!("{typed}: `{cause}` is said twice: {said}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn pki_makes_revokes_and_lists() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("pki").display().to_string();
    assert!(ground(&["pki", "init", "--dir", &dir, "--domain", "example.org"]).status.success());
    assert!(ground(&["pki", "issue", "satellite", "sat-1", "--dir", &dir]).status.success());
    let output = ground(&["pki", "issue", "station", "North_Pole", "--dir", &dir]);
    assert!(!output.status.success() && text(&output).contains("a-z"), "{}", text(&output));
    assert!(ground(&["pki", "revoke", "satellite", "sat-1", "--dir", &dir]).status.success());
    let output = ground(&["pki", "list", "--dir", &dir, "--json"]);
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(list[0]["id"], "sat-1");
    assert!(list[0]["revoked_unix"].is_u64());
    let output = ground(&["pki", "init", "--dir", &dir, "--domain", "example.org"]);
    assert!(!output.status.success() && text(&output).contains("--force"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_running_process_is_asked_and_the_file_when_nothing_runs() {
    let site = Site::new();
    let path = file(&site);
    let nothing = ground(&["satellites", "--config", &path]);
    assert!(!nothing.status.success() && text(&nothing).contains("no spool"), "{}", text(&nothing));
    let running = start(&site, &path).await;
    let mut sat = site.satellite("sat-1", running.address).await;
    sat.hello(1..5).await;
    sat.send(&segment(1, 3)).await;
    sat.committed(&[1]).await;
    let (base, _) = columns(2, 5, None);
    sat.send(&base).await;
    sat.committed(&[2]).await;
    running.drained("sat-1").await;
    let ask = |arguments: &'static [&'static str]| {
        let path = path.clone();
        tokio::task::spawn_blocking(move || ground(&[arguments, &["--config", &path, "--json"]].concat()))
    };
    let output = ask(&["satellites"]).await.unwrap();
    let all: serde_json::Value = json(&output);
    assert_eq!((&all[0]["satellite"], &all[0]["connected"]), (&"sat-1".into(), &true.into()));
    assert_eq!(all[0]["epochs"][0]["lanes"][0]["backlog_segments"], 2);
    let output = ask(&["spool", "inspect"]).await.unwrap();
    let view: serde_json::Value = json(&output);
    assert_eq!(view["accounting"]["sat-1"]["exported"]["spans"], 8);
    assert!(ask(&["spool", "verify"]).await.unwrap().status.success());
    let output = ask(&["spool", "replay", "--all"]).await.unwrap();
    assert!(text(&output).contains("\"replayed\": 0"), "{}", text(&output));
    let take = |output: &Output| -> (serde_json::Value, f64) {
        let view = json(output);
        let columns = view["columns"].as_array().unwrap();
        (view.clone(), columns.iter().map(|c| c["bytes"].as_f64().unwrap()).sum())
    };
    let (running_view, sum) = take(&ask(&["spool", "inspect", "--columns"]).await.unwrap());
    assert!(
        (sum - base.payload.len() as f64).abs() < 0.01 || running_view["segments"] == 2,
        "{running_view}"
    );
    running.stop().await;
    let (view, sum) = take(&ask(&["spool", "inspect", "--columns", "--each"]).await.unwrap());
    assert!((sum - base.payload.len() as f64).abs() < 0.01, "{view}");
    assert_eq!((&view["segments"], &view["each"][0]["is_base"]), (&1.into(), &true.into()));
    let output = ground(&["spool", "inspect", "--columns", "--config", &path]);
    assert!(text(&output).contains("span.span_id"), "{}", text(&output));
    let output = ask(&["satellites"]).await.unwrap();
    let all: serde_json::Value = json(&output);
    assert_eq!(all[0]["connected"], false);
    assert!(ask(&["spool", "verify"]).await.unwrap().status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_made_by_the_running_process_and_from_the_file_when_nothing_runs() {
    let site = Site::new();
    let path = file(&site);
    let running = start(&site, &path).await;
    let mut sat = site.satellite("sat-1", running.address).await;
    sat.hello(1..3).await;
    sat.send(&segment(1, 3)).await;
    sat.committed(&[1]).await;
    let copy = |name: &'static str| {
        let (path, to) = (path.clone(), site.path(name).display().to_string());
        tokio::task::spawn_blocking(move || ground(&["spool", "backup", &to, "--config", &path]))
    };
    let output = copy("first.redb").await.unwrap();
    assert!(output.status.success() && text(&output).contains("first.redb"), "{}", text(&output));
    let output = copy("first.redb").await.unwrap();
    assert!(!output.status.success() && text(&output).contains("exists already"), "{}", text(&output));
    running.stop().await;
    let output = copy("second.redb").await.unwrap();
    assert!(output.status.success(), "{}", text(&output));
    for name in ["first.redb", "second.redb"] {
        let directory = site.path("spool");
        std::fs::rename(site.path(name), directory.join("spool.redb")).unwrap();
        let output = ground(&["spool", "inspect", "--json", "--config", &path]);
        assert_eq!(json(&output)["accounting"]["sat-1"]["committed"]["spans"], 3, "{}", text(&output));
    }
}

/// A segment with the payload of another, whole.
fn handed_in(satellite: &str, segment: &Segment) -> Incoming {
    Incoming {
        satellite: satellite.into(),
        header: segment.header.clone().into(),
        pieces: [Piece { offset: 0, bytes: segment.payload.clone() }].into(),
        max_partial_bytes: 1 << 30,
        age: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_is_migrated_by_a_command_that_may_be_killed_and_the_station_goes_on_from_there() {
    const SEGMENTS: u64 = 8;
    let Some((host, database)) = fleet::shared_database() else { return };
    let server = fleet::shared().unwrap();
    let site = Site::new();
    let path = file(&site);
    let store = open_store(&Config::load(Path::new(&path)).unwrap(), &Env::production()).await.unwrap();
    for sequence in 1..=SEGMENTS {
        let taken = store.intake().put_payload(handed_in("sat-1", &segment(sequence, 400))).await.unwrap();
        assert_eq!(store.intake().commit(vec![taken]).await.unwrap(), [Applied::New]);
    }
    // The backend has the first two already.
    for _ in 0..2 {
        let work = store.outlet().next("file".into(), SignalSet::ALL, 1).await.unwrap().unwrap();
        let done = Progress { finished: true, ..Progress::at(work.place, 1) };
        store.outlet().progress("file".into(), done).await.unwrap();
    }
    store.close().await;
    let shared = std::fs::read_to_string(&path).unwrap().replace(
        "storage: {",
        &format!(
            "storage: {{kind: postgres, hosts: [\"{host}\"], database: {database}, user: perigee, replication: none, "
        ),
    );
    let shared = write(&site.path("shared.yaml"), &shared);
    let migrate = |config: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ground-station"));
        command.args(["spool", "migrate", "--from", "redb", "--to", "postgres", "--config", config]);
        command
    };
    let output = migrate(&path).output().unwrap();
    assert!(!output.status.success() && text(&output).contains("kind: postgres"), "{}", text(&output));
    // The tables are made; then somebody holds one of them, so that the migration is in the middle for certain when it is killed.
    assert!(ground(&["satellites", "--config", &shared]).status.success());
    let at = format!("host=127.0.0.1 port={} user=perigee dbname={database}", server.port());
    let (holder, connection) = tokio_postgres::connect(&at, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    holder.batch_execute("begin; lock table place in share mode").await.unwrap();
    let mut killed = migrate(&shared).spawn().unwrap();
    const WAITS: &str =
        "select exists(select from pg_locks where relation = 'place'::regclass and not granted)";
    while !holder.query_one(WAITS, &[]).await.unwrap().get::<_, bool>(0) {
        assert!(killed.try_wait().unwrap().is_none(), "it ended by itself");
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    holder.batch_execute("rollback").await.unwrap();
    assert_eq!(server.sql(&database, "select count(*) from entry where open <> 0"), "6");
    let output = ground(&["run", "--config", &shared]);
    assert!(!output.status.success() && text(&output).contains("spool migrate"), "{}", text(&output));

    let output = migrate(&shared).output().unwrap();
    assert!(
        output.status.success() && text(&output).contains("stations may be started"),
        "{}",
        text(&output)
    );
    assert!(text(&output).contains("sat-1: 6 segments to export"), "{}", text(&output));
    assert!(!site.path("spool").join("spool.redb").exists());
    let running = start(&site, &shared).await;
    let mut sat = site.satellite("sat-1", running.address).await;
    let resume = sat.hello(1..SEGMENTS + 2).await;
    let committed = resume.epochs[0].lanes[0].committed[0].sequences.unwrap();
    assert_eq!((committed.start, committed.end), (1, SEGMENTS + 1));
    // An acknowledgement was lost before the migration; and the next segment comes.
    for sequence in [SEGMENTS, SEGMENTS + 1] {
        sat.send(&segment(sequence, 400)).await;
    }
    sat.committed(&[SEGMENTS, SEGMENTS + 1]).await;
    let account = running.drained("sat-1").await;
    assert_eq!((account.committed.spans, account.exported.spans), (9 * 400, 9 * 400));
    assert_eq!(account.duplicates, 1);
    running.stop().await;
    let exported = site.exported();
    for sequence in 1..=SEGMENTS + 1 {
        for span in [0, 399] {
            let times = exported.matches(&format!("\"s{sequence}-{span}-")).count();
            assert_eq!(times, usize::from(sequence > 2), "span {span} of segment {sequence}");
        }
    }
}

#[test]
fn a_busy_port_is_named_with_what_to_do() {
    let site = Site::new();
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let yaml = std::fs::read_to_string(file(&site)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let path = write(&site.path("busy.yaml"), &yaml.replace("127.0.0.1:0", &address));
    let output = ground(&["run", "--config", &path]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output);
    assert!(said.contains(&address) && said.contains("another program has it"), "{said}");
}
