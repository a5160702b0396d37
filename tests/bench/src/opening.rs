//! `bench opening`: how long a start takes after kill -9 with much on board, beside a plain read of the same file from the medium.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use clap::Args;
use nix::fcntl::{OFlag, PosixFadviseAdvice, posix_fadvise};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use perigee_shared::signal::Signal;
use perigee_shared::units::ByteSize;
use prost::Message;
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use tokio::time::Instant;

use crate::Setup;
use crate::client::{Answer, Connection, Payload, Transport};
use crate::report::Row;
use crate::system::{AgentSettings, start_agent};

/// Bytes of a log record's body: a value in the store is not smaller.
const BODY: usize = 256 << 10;

/// Bytes of a read, and what direct reads are aligned to.
const AT_ONCE: usize = 1 << 20;
const BLOCK: usize = 4096;

/// `bench opening`.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) setup: Setup,
    /// Bytes on board
    #[arg(long, default_value = "1GiB")]
    stored: ByteSize,
    /// How often it is killed and started
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

/// A row for each round.
pub(crate) async fn run(options: &Options) -> anyhow::Result<Vec<Row>> {
    let setup = &options.setup;
    // Sealing would go on meanwhile and is not what is measured.
    let settings = AgentSettings { defer_sealing: Some(ByteSize(64 << 30)), ..AgentSettings::default() };
    let mut running = start_agent(setup, settings).await?;
    let mut connection =
        Connection::open(Transport::Grpc, Signal::Logs, running.endpoint(Transport::Grpc)).await?;
    let mut random = SmallRng::seed_from_u64(1);
    let mut stored = 0;
    while stored < options.stored.0 {
        let body = request(&mut random);
        let answer = connection.export(Payload::whole(Transport::Grpc.frame(&body))).await?;
        ensure!(matches!(answer, Answer::Accepted), "the agent refuses a request");
        stored = running.stored().await?;
    }
    let mut rows = Vec::new();
    for round in 1..=options.rounds {
        let file = running.wal();
        let killed = running.kill();
        let bytes = std::fs::metadata(&file)?.len();
        let read = plain_read(&file)?;
        forget(&file)?;
        let began = Instant::now();
        running = killed.start(setup, settings).await?;
        let start = began.elapsed();
        ensure!(running.stored().await? >= stored, "something is missing");
        rows.push(
            Row::default()
                .with("round", round)
                .with("stored_mib", stored >> 20)
                .with("file_mib", bytes >> 20)
                .with_rounded("plain_read_s", read.as_secs_f64(), 3)
                .with_rounded("start_s", start.as_secs_f64(), 3)
                .with_rounded("difference_s", start.as_secs_f64() - read.as_secs_f64(), 3),
        );
    }
    running.stop().await?;
    Ok(rows)
}

/// A request that does not compress.
fn request(random: &mut SmallRng) -> Bytes {
    let mut body = vec![0; BODY];
    random.fill_bytes(&mut body);
    let record =
        LogRecord { body: Some(AnyValue { value: Some(Value::BytesValue(body)) }), ..LogRecord::default() };
    let scope = ScopeLogs { log_records: vec![record], ..ScopeLogs::default() };
    let resource = ResourceLogs { scope_logs: vec![scope], ..ResourceLogs::default() };
    ExportLogsServiceRequest { resource_logs: vec![resource] }.encode_to_vec().into()
}

/// Gives up what the page cache has of a file, once it is on the medium.
fn forget(path: &Path) -> anyhow::Result<()> {
    let file = File::open(path)?;
    file.sync_all()?;
    Ok(posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?)
}

/// How long it takes to read a file from the medium from its beginning to its end.
fn plain_read(path: &Path) -> anyhow::Result<Duration> {
    forget(path)?;
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_DIRECT.bits()).open(path);
    let mut file = file.context("no direct reads here: name a directory on a disk with --dir")?;
    let mut buffer = vec![0; AT_ONCE + BLOCK];
    let at = buffer.as_ptr().align_offset(BLOCK);
    let buffer = buffer.get_mut(at..at + AT_ONCE).context("aligned")?;
    let began = Instant::now();
    while file.read(buffer)? > 0 {}
    Ok(began.elapsed())
}
