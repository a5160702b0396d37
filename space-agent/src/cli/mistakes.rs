//! Mistakes on the command line and in files: what was typed, the exit code, and what is said. Mistakes within a configuration are in
//! `config/tests.rs`.

use clap::Parser;
use perigee_shared::env::Env;
use perigee_shared::units::ByteSize;

use super::{Cli, execute};

/// A configuration that is right. The link's files exist and are empty.
const GOOD: &str = "
receivers: {otlp: {protocols: {grpc: {endpoint: '127.0.0.1:0'}}}}
exporters: {link: , debug: }
storage: {directory: DIR/log}
link:
  certificate_file: DIR/satellite.crt
  private_key_file: DIR/satellite.key
  station_ca_file: DIR/station-ca.crt
  stations: {svalbard: {address: '127.0.0.1:4433'}}
contacts: {source: manual}
extensions: {control: {socket: DIR/agent.sock}}
service: {pipelines: {traces: {receivers: [otlp], exporters: [EXPORTER]}}}
";

/// What is typed behind `space-agent`, the exit code, and parts of what is said. `GOOD` stands for a file without a link, `LINKED` for
/// one with a link, `DIR` for an empty directory.
const MISTAKES: &[(&str, u8, &[&str])] = &[
    ("", 2, &["Usage: space-agent <COMMAND>", "validate", "status"]),
    ("rnu", 2, &["unrecognized subcommand 'rnu'", "'--help'"]),
    ("stauts", 2, &["'stauts'", "status"]),
    ("run --confg x", 2, &["unexpected argument '--confg'", "'--config'"]),
    ("run -c", 2, &["a value is required for '--config <FILE>'"]),
    ("run --role link", 2, &["unexpected argument '--role'"]),
    ("contact", 2, &["open", "close", "report"]),
    ("contact opne svalbard", 2, &["unrecognized subcommand 'opne'", "open"]),
    ("contact open", 2, &["<STATION>"]),
    ("contact open svalbard --for 8", 2, &["'8'", "'--for <DURATION>'", "not a duration"]),
    ("contact open svalbard --for -8m", 2, &["unexpected argument '-8'"]),
    ("contact open svalbard --rate-down 20", 2, &["'--rate-down <RATE>'", "Mbit/s"]),
    ("contact open svalbard --rate-down fast", 2, &["'fast'", "Mbit/s"]),
    ("contact open svalbard --byte-budget 100parsecs", 2, &["'--byte-budget <SIZE>'"]),
    ("contact list --until yesterday", 2, &["'yesterday'", "'--until <TIME>'"]),
    ("contact list --limit many", 2, &["'many'", "'--limit <N>'"]),
    ("wal inspect --most -1", 2, &["unexpected argument '-1'"]),
    ("wal release", 2, &["<CONSUMER>"]),
    ("wal backup", 2, &["<FILE>"]),
    ("wal recode", 2, &["<SEGMENT>..."]),
    ("wal recode --all --lane bulk", 2, &["'--all' cannot be used with '--lane <NAME>'"]),
    ("wal recode --all --codec zip", 2, &["'zip'", "columns, columns_text or zstd_rows"]),
    (
        "run -c /etc/perigee/none/agent.yaml",
        64,
        &["cannot read /etc/perigee/none/agent.yaml", "; -c FILE names another one"],
    ),
    ("run -c DIR/nothing.yaml", 64, &["cannot read", "DIR/nothing.yaml", "No such file"]),
    ("run -c DIR", 64, &["cannot read DIR", "directory"]),
    ("validate -c DIR/nothing.yaml", 64, &["cannot read", "DIR/nothing.yaml"]),
    ("validate -c DIR/empty.yaml", 64, &["DIR/empty.yaml"]),
    ("validate -c DIR/binary.yaml", 64, &["DIR/binary.yaml"]),
    (
        "validate -c LINKED",
        64,
        &["cannot read certificate DIR/satellite.crt", "is it the right file, in PEM?"],
    ),
    ("run -c LINKED", 64, &["cannot read certificate DIR/satellite.crt", "is it the right file, in PEM?"]),
    ("validate --from-collector DIR/nothing.yaml", 64, &["DIR/nothing.yaml"]),
    ("validate --from-collector DIR/theirs.yaml --json", 2, &["cannot be used with '--json'"]),
    ("validate -c DIR/proc.yaml --json", 64, &["DIR/proc.yaml cannot be used; the JSON says why"]),
    ("validate --from-collector DIR/pipe", 64, &["cannot read DIR/pipe", "a pipe"]),
    (
        "validate --from-collector LINKED",
        64,
        &["linked.yaml:5: link: no Collector has such a section", "validate -c"],
    ),
    ("validate --from-collector DIR/text.yaml", 64, &["text.yaml", "no Collector's configuration"]),
    ("validate --from-collector DIR/theirs.yaml", 64, &["theirs.yaml:3:", "4 parsecs", "`exporter`"]),
    ("run -c DIR/pipe", 64, &["cannot read DIR/pipe", "it is a pipe, not a file"]),
    ("validate -c DIR/pipe", 64, &["cannot read DIR/pipe", "it is a pipe, not a file"]),
    ("status -c DIR/pipe", 64, &["cannot read DIR/pipe", "it is a pipe, not a file"]),
    ("validate -c /dev/zero", 64, &["cannot read /dev/zero", "it is a device, not a file"]),
    ("validate -c DIR/long.yaml", 64, &["cannot read DIR/long.yaml", "more than 4.0 MiB"]),
    ("validate -c DIR/text.yaml", 64, &["text.yaml"]),
    ("run -c DIR/outside.yaml", 64, OUTSIDE),
    ("validate -c DIR/outside.yaml", 64, OUTSIDE),
    ("run -c DIR/proc.yaml", 64, PROC),
    ("validate -c DIR/proc.yaml", 64, PROC),
    ("status -c DIR/nothing.yaml", 64, &["cannot read"]),
    ("status -c GOOD", 1, &["no program answers on DIR/agent.sock", "is space-agent running"]),
    ("contact list -c GOOD", 1, &["no program answers on DIR/agent.sock"]),
    ("contact close -c GOOD", 1, &["no program answers on DIR/agent.sock"]),
    (
        "status -c DIR/uncontrolled.yaml",
        64,
        &["extensions.control is missing", "\nextensions:\n  control: {socket: "],
    ),
    ("top -c GOOD", 1, &["top needs a terminal", "space-agent status"]),
    ("wal inspect -c GOOD", 1, &["DIR/log"]),
    ("wal verify -c GOOD", 1, &["DIR/log"]),
    ("wal backup DIR/copy -c GOOD", 1, &["DIR/log"]),
];

/// A configuration whose every file is wrong.
const WRONG_OUTSIDE: &str = "receivers:
  otlp:
    protocols:
      grpc: {endpoint: 'unix://DIR/empty.yaml', tls: {cert_file: DIR/none.crt, key_file: DIR/pipe}}
exporters:
  link:
  file: {path: DIR/none/out.jsonl}
  otlp_http: {endpoint: 'http://ada:secret@x:4318'}
  otlp_grpc: {endpoint: 'x:4317', tls: {ca_file: DIR/long.yaml, cert_file: DIR/none.crt, key_file: DIR/none.key}}
storage: {directory: DIR/empty.yaml/log}
link:
  certificate_file: DIR/pipe
  private_key_file: DIR/none.key
  station_ca_file: DIR
  stations: {svalbard: {address: '127.0.0.1:4433'}}
contacts: {source: orbit, file: DIR/none.tle, stations: {svalbard: {latitude: 78, longitude: 15}}}
extensions: {control: {socket: DIR/empty.yaml}}
service: {pipelines: {traces: {receivers: [otlp], exporters: [link, file, otlp_http, otlp_grpc]}}}
";

/// All that is said of it, line by line.
const OUTSIDE: &[&str] = &[
    "outside.yaml has 14 problems:",
    "outside.yaml:4: receivers.otlp.protocols.grpc.endpoint: DIR/empty.yaml is there and is no socket",
    "outside.yaml:4: receivers.otlp.protocols.grpc.tls.cert_file: cannot read certificate DIR/none.crt",
    "outside.yaml:4: receivers.otlp.protocols.grpc.tls.key_file: cannot read private key DIR/pipe: it is a pipe",
    "outside.yaml:7: exporters.file.path: the directory DIR/none is not there; make it, or write create_directory: true",
    "outside.yaml:8: exporters.otlp_http.endpoint: has a user in it",
    "outside.yaml:9: exporters.otlp_grpc.tls.ca_file: cannot read DIR/long.yaml: it has more than 4.0 MiB",
    "outside.yaml:9: exporters.otlp_grpc.tls.cert_file: cannot read DIR/none.crt",
    "outside.yaml:9: exporters.otlp_grpc.tls.key_file: cannot read DIR/none.key",
    "outside.yaml:10: storage.directory: DIR/empty.yaml is a file; name a directory",
    "outside.yaml:12: link.certificate_file: cannot read certificate DIR/pipe: it is a pipe",
    "outside.yaml:13: link.private_key_file: cannot read private key DIR/none.key: No such file",
    "outside.yaml:14: link.station_ca_file: cannot read authority DIR: it is a directory",
    "outside.yaml:16: contacts.file: DIR/none.tle: orbit:",
    "outside.yaml:17: extensions.control.socket: DIR/empty.yaml is there and is no socket",
];

#[test]
fn a_budget_that_the_volume_has_no_room_for_is_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("log");
    let said = |size| perigee_shared::config::check_budget("storage.max_bytes", &at, size);
    assert!(said(ByteSize::mib(1)).is_none());
    let (key, words) = said(ByteSize(u64::MAX)).unwrap();
    assert!(key == "storage.max_bytes" && words.contains("keep the budget below half of it"), "{words}");
}

/// A directory that root may write in, and that nobody can make anything in.
const PROC: &[&str] = &[
    "storage.directory: cannot make /proc/nope/agent: cannot write in /proc: ",
    "or name another directory",
];

#[tokio::test]
async fn every_mistake_has_its_exit_code_and_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().display().to_string();
    let write = |name: &str, text: &[u8]| std::fs::write(dir.path().join(name), text).unwrap();
    let good = GOOD.replace("DIR", &here);
    write("direct.yaml", good.replace("EXPORTER", "debug").as_bytes());
    write("linked.yaml", good.replace("EXPORTER", "link").as_bytes());
    let control = format!("extensions: {{control: {{socket: {here}/agent.sock}}}}\n");
    write("uncontrolled.yaml", good.replace("EXPORTER", "debug").replace(&control, "").as_bytes());
    let log = format!("{here}/log");
    write("proc.yaml", good.replace("EXPORTER", "debug").replace(&log, "/proc/nope/agent").as_bytes());
    write("empty.yaml", b"");
    write("binary.yaml", b"\xff\xfe\x00");
    write("text.yaml", b"a: b\n");
    write("outside.yaml", WRONG_OUTSIDE.replace("DIR", &here).as_bytes());
    write("theirs.yaml", b"receivers: {otlp: {protocols: {grpc: }}}\nexporters:\n  otlp: {endpoint: 'x:1', timeout: 4 parsecs}\nservice: {pipelines: {traces: {receivers: [otlp], exporter: [otlp]}}}\n");
    nix::unistd::mkfifo(&dir.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::fs::File::create(dir.path().join("long.yaml")).unwrap().set_len(1 << 30).unwrap();
    for name in ["satellite.crt", "satellite.key", "station-ca.crt"] {
        write(name, b"");
    }
    let mut wrong = Vec::new();
    for (typed, code, parts) in MISTAKES {
        let place = |text: &str| {
            let (direct, linked) = (format!("{here}/direct.yaml"), format!("{here}/linked.yaml"));
            text.replace("DIR", &here).replace("GOOD", &direct).replace("LINKED", &linked)
        };
        let words = place(typed);
        let typed_in = ["space-agent"].into_iter().chain(words.split_whitespace());
        let (got, said) = match Cli::try_parse_from(typed_in) {
            Err(error) => (error.exit_code() as u8, error.to_string()),
            Ok(cli) => match Box::pin(execute(cli, Env::production())).await {
                Ok(()) => (0, String::new()),
                Err(failure) => failure.parts(),
            },
        };
        if got != *code {
            wrong.push(format!("{typed}: ends with {got}, not {code}: {said}"));
        }
        let missing = parts.iter().map(|part| place(part)).filter(|part| !said.contains(part));
        wrong.extend(missing.map(|part| format!("{typed}: `{part}` is not in: {said}")));
    }
    // `run` has panics logged without their message.
    eprintln!("{}", wrong.join("\n"));
    assert!(wrong.is_empty());
}
