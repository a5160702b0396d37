//! Mistakes on the command line and in files: what was typed, the exit code, and what is said. Mistakes within a configuration are in
//! `config/tests.rs`.

use clap::Parser;
use perigee_shared::env::Env;

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
    ("status -c DIR/nothing.yaml", 64, &["cannot read"]),
    ("status -c GOOD", 1, &["no program answers on DIR/agent.sock", "is space-agent running"]),
    ("contact list -c GOOD", 1, &["no program answers on DIR/agent.sock"]),
    ("contact close -c GOOD", 1, &["no program answers on DIR/agent.sock"]),
    ("status -c DIR/uncontrolled.yaml", 64, &["extensions.control is missing"]),
    ("top -c GOOD", 1, &["top needs a terminal", "space-agent status"]),
    ("wal inspect -c GOOD", 1, &["DIR/log"]),
    ("wal verify -c GOOD", 1, &["DIR/log"]),
    ("wal backup DIR/copy -c GOOD", 1, &["DIR/log"]),
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
    write("empty.yaml", b"");
    write("binary.yaml", b"\xff\xfe\x00");
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
