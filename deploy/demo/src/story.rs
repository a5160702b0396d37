//! The story: three passes, each of which shows what Perigee is for. Nothing in it is acted: the link is cut, the backend answers 503,
//! and every number is what the programs and the link say.

use std::time::Duration;

use anyhow::{Context, bail};
use http::Method;
use linkem::Direction;
use opentelemetry::logs::Severity;
use perigee_shared::signal::Signal;
use perigee_shared::units::ByteSize;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::backends::{Backends, log_times};
use crate::child::POLL;
use crate::observe::LinkBytes;
use crate::passes;
use crate::report::say;
use crate::run::Demo;
use crate::stage::{ALARM_LANE, SATELLITE};

/// The first record of the camera's dump, by which its time is followed.
pub(crate) const DUMP: &str = "camera dump begins";
/// What the alarm says.
const ALARM: &str = "battery voltage is low";
/// Records of the dump.
const DUMPED: u64 = 200;
/// The lane of what has no rule.
const BULK_LANE: u64 = 8;
/// What passes before the link breaks.
const UNTIL_CUT: u64 = 150_000;
/// How long anything of the story may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the services work without a contact.
const GAP: Duration = Duration::from_secs(4);

/// A segment of which the ground has a part.
struct Broken {
    sequence: u64,
    held: u64,
    whole: u64,
}

impl Demo {
    /// Tells it; ends early when somebody ends the demo.
    pub(crate) async fn story(&mut self) -> anyhow::Result<()> {
        let stop = self.stop.clone();
        stop.run_until_cancelled(async {
            self.out_of_contact().await?;
            let broken = self.broken_pass().await?;
            self.resumed_pass(&broken).await?;
            self.failing_backend().await?;
            self.timestamps()
        })
        .await
        .unwrap_or(Ok(()))
    }

    /// A paragraph of the story, with the time since its beginning.
    fn tell(&self, text: &str) {
        for (n, line) in text.lines().enumerate() {
            match n {
                0 => say(&format!("{:>3} s  {line}\n", self.begun.elapsed().as_secs())),
                _ => say(&format!("       {line}\n")),
            }
        }
    }

    async fn out_of_contact(&mut self) -> anyhow::Result<()> {
        self.tell("No contact. The services work; the agent keeps what they send on disk.");
        self.services.dump(DUMP, DUMPED).await?;
        self.tell(&format!("The camera dumps {DUMPED} log records of raw data."));
        sleep(GAP).await;
        let now = self.look().await?;
        self.tell(&format!(
            "{} items accepted, {} on board, {} on the ground.\n",
            now.accepted.total(),
            now.on_board.total(),
            now.delivered().total()
        ));
        Ok(())
    }

    /// A pass whose link breaks while the dump is under way.
    async fn broken_pass(&mut self) -> anyhow::Result<Broken> {
        say("\n");
        self.tell("PASS 1. The agent connects and begins to send.");
        self.radio.cut_after_bytes(Direction::Forward, UNTIL_CUT);
        passes::open(&self.agent, None).await?;
        self.within("the link does not break", async |demo| Ok((!demo.radio.is_up()).then_some(()))).await?;
        let broken = self.within("the ground holds no part of a segment", Self::partial).await?;
        self.tell(&format!(
            "The link breaks in mid-segment.\nThe ground holds {} of its {}.",
            ByteSize(broken.held),
            ByteSize(broken.whole)
        ));
        passes::close(&self.agent).await?;
        sleep(GAP).await;
        Ok(broken)
    }

    /// A pass that continues there, and is overtaken by an alarm.
    async fn resumed_pass(&mut self, broken: &Broken) -> anyhow::Result<()> {
        let resent = LinkBytes::read(&self.stage.agent_metrics).await?.resent;
        say("\n");
        self.tell("PASS 2. It continues at the byte where the first one stopped.");
        self.radio.restore();
        passes::open(&self.agent, None).await?;
        self.within("the link does not come up", async |demo| {
            Ok((demo.look().await?.link == "up").then_some(()))
        })
        .await?;
        self.services.alarm(Severity::Fatal, ALARM).await?;
        let raised = Instant::now();
        self.tell(&format!("An alarm on board: {ALARM}."));
        let waits = self
            .within("the alarm does not come", async |demo| {
                let arrived = demo.committed(u64::from(ALARM_LANE), None).await?;
                Ok(if arrived { Some(demo.bulk_on_board().await?) } else { None })
            })
            .await?;
        let waits = match waits {
            0 => String::new(),
            bytes => format!(
                " It overtook bulk data:\nof that, {} in segments were still on board.",
                ByteSize(bytes)
            ),
        };
        self.tell(&format!(
            "The alarm is on the ground, {:.1} s later.{waits}",
            raised.elapsed().as_secs_f64()
        ));
        self.within("the broken segment does not become whole", async |demo| {
            Ok(demo.committed(BULK_LANE, Some(broken.sequence)).await?.then_some(()))
        })
        .await?;
        let twice = LinkBytes::read(&self.stage.agent_metrics).await?.resent - resent;
        self.tell(&format!(
            "The broken segment is whole. {} of it were sent again:\nwhat was under way, or not yet acknowledged, when the link broke.",
            ByteSize(twice)
        ));
        passes::close(&self.agent).await
    }

    /// A pass while the backend for log records is down.
    async fn failing_backend(&mut self) -> anyhow::Result<()> {
        say("\n");
        self.logs.fail(true);
        self.tell("The backend for logs fails: it answers 503 from now on.");
        sleep(GAP).await;
        self.tell("PASS 3. The satellite delivers as always.");
        passes::open(&self.agent, None).await?;
        sleep(GAP).await;
        passes::close(&self.agent).await?;
        let now = self.look().await?;
        self.tell(&format!(
            "{} log records wait on the ground's disk, {} of other signals.",
            now.in_spool[Signal::Logs],
            now.in_spool.total() - now.in_spool[Signal::Logs]
        ));
        self.logs.fail(false);
        let back = Instant::now();
        self.within("log records still wait", async |demo| {
            Ok((demo.look().await?.in_spool[Signal::Logs] == 0).then_some(()))
        })
        .await?;
        self.tell(&format!("The backend is back; {:.1} s later none waits.", back.elapsed().as_secs_f64()));
        Ok(())
    }

    /// What the backend has of the dump's first record.
    fn timestamps(&self) -> anyhow::Result<()> {
        let came = self.logs.came().context("the camera's dump did not reach the backend")?;
        let file = Backends::file(Signal::Logs, self.stage.dir());
        let Some(&written) = log_times(&file, DUMP)?.first() else {
            bail!("{} does not have the record `{DUMP}`", file.display())
        };
        say("\n");
        self.tell(&format!(
            "TIME. `{DUMP}` reached the backend at {}.\nIts timestamp is the one that the service gave it: {}.",
            clock_time(came),
            clock_time(written)
        ));
        Ok(())
    }

    /// The segment of bulk that the ground has a part of.
    async fn partial(&mut self) -> anyhow::Result<Option<Broken>> {
        let all = self.ground.ask(Method::GET, "/api/v1/satellites", None).await?;
        let satellites = all.as_array().into_iter().flatten();
        let partials = satellites
            .filter(|satellite| satellite["satellite"] == SATELLITE)
            .flat_map(|satellite| list(&satellite["epochs"]))
            .flat_map(|epoch| list(&epoch["lanes"]))
            .filter(|lane| lane["lane"] == BULK_LANE)
            .flat_map(|lane| list(&lane["partials"]));
        let broken = partials.max_by_key(|partial| partial["held_bytes"].as_u64());
        let number = |value: &Value| value.as_u64().unwrap_or(0);
        Ok(broken.map(|partial| Broken {
            sequence: number(&partial["sequence"]),
            held: number(&partial["held_bytes"]),
            whole: number(&partial["payload_bytes"]),
        }))
    }

    /// Whether the ground has committed a segment of `lane`, or the one with this sequence.
    async fn committed(&mut self, lane: u64, sequence: Option<u64>) -> anyhow::Result<bool> {
        let rows = self.ground.ask(Method::GET, "/api/v1/catalogue?limit=1000", None).await?;
        let found =
            |row: &Value| row["lane"] == lane && sequence.is_none_or(|sequence| row["sequence"] == sequence);
        Ok(list(&rows).any(found))
    }

    /// Bytes of bulk segments on board.
    async fn bulk_on_board(&mut self) -> anyhow::Result<u64> {
        let status = self.agent.ask(Method::GET, "/status", None).await?;
        let bulk = list(&status["lanes"]).find(|lane| lane["lane"] == BULK_LANE);
        Ok(bulk.and_then(|lane| lane["segment_bytes"].as_u64()).unwrap_or(0))
    }

    /// Looks until something is there.
    async fn within<T>(
        &mut self,
        otherwise: &str,
        mut look: impl AsyncFnMut(&mut Self) -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look(self).await? {
                return Ok(found);
            }
            if Instant::now() >= deadline {
                bail!("{otherwise} within {} s; see {}", PATIENCE.as_secs(), self.stage.dir().display());
            }
            sleep(POLL).await;
        }
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The time of day, with milliseconds.
fn clock_time(unix_nano: u64) -> String {
    let (seconds, ms) = (unix_nano / 1_000_000_000 % 86_400, unix_nano / 1_000_000 % 1000);
    format!("{:02}:{:02}:{:02}.{ms:03}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}
