//! The program, as people start it.
#![cfg(test)]

use std::io::{BufRead, BufReader, Read};
use std::net::UdpSocket;
use std::process::{Child, Command, Stdio};

fn linkem(arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_linkem"))
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

#[test]
fn it_passes_datagrams_reports_on_request_and_ends_with_its_statistics() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = server.local_addr().unwrap().to_string();
    let mut child =
        linkem(&["--listen", "127.0.0.1:0", "--to", &to, "--rate", "20mbit", "--seed", "4", "--json"]);
    let mut log = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut log).unwrap();
    let words: Vec<_> = log.split([' ', ',']).collect();
    assert!(log.trim_end().ends_with("seed 4"), "{log}");

    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.send_to(b"up", words[1]).unwrap();
    let mut buffer = [0; 10];
    let (length, from) = server.recv_from(&mut buffer).unwrap();
    server.send_to(b"down", from).unwrap();
    assert_eq!((length, client.recv(&mut buffer).unwrap()), (2, 4));

    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    // The first answer shows that the handlers are there.
    signal(&child, "-USR1");
    out.read_line(&mut line).unwrap();
    let stats: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&stats["forward"]["bytes"], &stats["return"]["delivered_bytes"]), (&2.into(), &4.into()));
    assert_eq!(stats["up"], true);

    signal(&child, "-USR2");
    signal(&child, "-TERM");
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(serde_json::from_str::<serde_json::Value>(&rest).is_ok(), "{rest}");
}

#[test]
fn it_ends_by_itself_with_a_table() {
    let child =
        linkem(&["--listen", "127.0.0.1:0", "--to", "127.0.0.1:9", "--for", "1ms", "--window", "5s..6s"]);
    let output = child.wait_with_output().unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && table.contains("link down") && table.contains("dropped: loss"),
        "{table}"
    );
}

#[test]
fn what_it_cannot_read_is_explained() {
    for (arguments, says) in [
        (&["--rate", "20"][..], "64kbit/s or 20Mbit/s"),
        (&["--loss", "2"], "1% or 0.01"),
        (&["--window", "5s..2s"], "does not come before"),
        (&["--outages", "/nonexistent"], "/nonexistent"),
        (&["--listen", "127.0.0.1:0"], "--listen"),
    ] {
        let base = ["--listen", "127.0.0.1:0", "--to", "127.0.0.1:9", "--for", "1ms"];
        let output = linkem(&[&base[..], arguments].concat()).wait_with_output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.contains(says), "{arguments:?}: {error}");
    }
}
