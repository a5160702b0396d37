//! What encoding a segment holds in memory, measured in a process that does nothing else.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use perigee_shared::segment::{Codec, Encoder};
use perigee_shared::signal::Signal;

use crate::stream::Piece;

/// MiB that encoding a segment of `pieces` takes at most in `codec`, its raw input included, as a new process finds it.
pub(crate) fn in_process(codec: Codec, pieces: &[Piece]) -> anyhow::Result<f64> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["peak", &(codec as u32).to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()?;
    let mut input = child.stdin.take().context("stdin")?;
    for piece in pieces {
        input.write_all(&[piece.signal as u8])?;
        input.write_all(&(piece.body.len() as u32).to_le_bytes())?;
        input.write_all(&piece.body)?;
    }
    drop(input);
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "bench peak ended with {}", output.status);
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

/// Encodes what comes on stdin in the codec with this number and prints how much memory that took.
pub(crate) fn run(codec: u32) -> anyhow::Result<()> {
    let mut input = std::io::stdin().lock();
    let mut pieces = Vec::new();
    let mut head = [0; 5];
    while input.read(&mut head[..1])? == 1 {
        input.read_exact(&mut head[1..])?;
        let signal = Signal::from_number(head[0]).context("signal")?;
        let mut body = vec![0; u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize];
        input.read_exact(&mut body)?;
        pieces.push((signal, body));
    }
    let raw: usize = pieces.iter().map(|p| p.1.len()).sum();
    forget("self")?;
    let before = resident("self", "VmRSS:")?;
    let mut encoder = Encoder::new(Codec::from_number(codec).context("codec")?, None)?;
    for (signal, body) in &pieces {
        encoder.push(*signal, body)?;
    }
    drop(encoder.finish()?);
    let peak = resident("self", "VmHWM:")?.saturating_sub(before) + raw as u64;
    crate::report::line(&format!("{:.1}", peak as f64 / f64::from(1 << 20)))
}

/// Has the kernel forget the highest resident size so far (proc(5), clear_refs).
pub(crate) fn forget(process: &str) -> anyhow::Result<()> {
    Ok(std::fs::write(format!("/proc/{process}/clear_refs"), "5")?)
}

/// A field of `/proc/PROCESS/status` in bytes.
pub(crate) fn resident(process: &str, field: &str) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix(field)).context("no memory in its status")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse()?;
    Ok(kib << 10)
}
