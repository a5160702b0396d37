//! The course of the demo: set the stage, let passes go by, bring everything down, account for it.

use std::process::ExitCode;

use perigee_shared::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::backends::{Backends, count_logs};
use crate::child::{POLL, Program};
use crate::observe::{LinkBytes, Snapshot};
use crate::options::Options;
use crate::passes::{self, Phase};
use crate::report::{self, Progress, say};
use crate::services::{Services, Tally};
use crate::stage::Stage;

/// Everything that runs.
struct Demo {
    options: Options,
    stage: Stage,
    agent: Program,
    ground: Program,
    progress: Progress,
    stop: CancellationToken,
    pass: u64,
}

/// Runs the demo; the exit code says whether everything that was accepted is accounted for.
pub(crate) async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let stop = until_told()?;
    let stage = Stage::try_new(&options)?;
    let backends = match options.files {
        true => Backends::default(),
        false => Backends::find(&options, &stop).await,
    };
    stage.set(&backends)?;
    introduce(&stage, &backends);
    let ground = Program::start("ground", stage.dir()).await?;
    let agent = Program::start("agent", stage.dir()).await?;
    let services = Services::start(&stage.otlp, options.requests).await?;
    let mut demo = Demo { options, stage, agent, ground, progress: Progress::new(), stop, pass: 0 };
    demo.passes().await?;
    demo.progress.end();
    say("stopping the services and bringing down what they still have\n");
    let tally = services.stop().await?;
    let last = demo.drain().await?;
    demo.finish(&last, &tally).await
}

/// Cancelled by the first SIGINT or SIGTERM; the second ends the program, and its children with it.
fn until_told() -> anyhow::Result<CancellationToken> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        for end in [false, true] {
            tokio::select! {
                biased;
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            told.cancel();
            if end {
                std::process::exit(130);
            }
        }
    });
    Ok(stop)
}

fn introduce(stage: &Stage, backends: &Backends) {
    let dir = stage.dir();
    let to = |signal| backends.destination(signal, dir);
    for note in &backends.notes {
        say(&format!("{note}: a file takes its place\n"));
    }
    say(&format!(
        "traces   to {}\nmetrics  to {}\nlogs     to {}\n\
         agent    http://{}/metrics, control socket {}\n\
         ground   http://{}/metrics, http://{}/api/v1/accounting\n\
         console  http://{}/ (in the browser)\n",
        to(Signal::Traces),
        to(Signal::Metrics),
        to(Signal::Logs),
        stage.agent_metrics,
        dir.join("agent.sock").display(),
        stage.ground_metrics,
        stage.api,
        stage.console,
    ));
}

impl Demo {
    /// Lets passes go by, until as many as were asked for are over or somebody ends it.
    async fn passes(&mut self) -> anyhow::Result<()> {
        let passes = self.options.passes.unwrap_or(u64::MAX);
        while self.pass < passes && !self.stop.is_cancelled() {
            self.pass += 1;
            self.watch(Phase::Gap).await?;
            if self.stop.is_cancelled() {
                break;
            }
            passes::open(&self.agent, Some(self.options.contact)).await?;
            self.watch(Phase::Contact).await?;
        }
        Ok(())
    }

    /// Shows progress each second until the phase is over or somebody ends it.
    async fn watch(&mut self, phase: Phase) -> anyhow::Result<()> {
        let length = if phase == Phase::Gap { self.options.gap } else { self.options.contact };
        let end = Instant::now() + length;
        let mut clock = interval(std::time::Duration::from_secs(1));
        clock.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(()),
                () = tokio::time::sleep_until(end) => return Ok(()),
                _ = clock.tick() => { self.look(phase).await?; }
            }
        }
    }

    async fn look(&mut self, phase: Phase) -> anyhow::Result<Snapshot> {
        self.agent.still_runs()?;
        self.ground.still_runs()?;
        let now = Snapshot::take(&self.agent, &self.ground).await?;
        self.progress.show(self.pass, self.options.passes, phase, &now);
        Ok(now)
    }

    /// Keeps a contact open until nothing waits, or for as long as the options allow; returns the counts with the link down.
    async fn drain(&mut self) -> anyhow::Result<Snapshot> {
        passes::open(&self.agent, None).await?;
        let deadline = Instant::now() + self.options.drain;
        loop {
            let now = self.look(Phase::Drain).await?;
            if now.at_rest() && now.accounted() == now.accepted {
                break;
            }
            if Instant::now() >= deadline {
                self.progress.end();
                say(&format!("not everything was delivered within {:?}\n", self.options.drain));
                break;
            }
            sleep(std::time::Duration::from_millis(500)).await;
        }
        self.progress.end();
        passes::close(&self.agent).await?;
        let deadline = Instant::now() + self.options.contact;
        loop {
            let last = Snapshot::take(&self.agent, &self.ground).await?;
            if last.link == "down" || Instant::now() >= deadline {
                return Ok(last);
            }
            sleep(POLL).await;
        }
    }

    /// Ends both programs and says what it all comes to.
    async fn finish(self, last: &Snapshot, tally: &Tally) -> anyhow::Result<ExitCode> {
        let link = LinkBytes::read(&self.stage.agent_metrics).await?;
        self.agent.stop().await?;
        self.ground.stop().await?;
        let logs = Backends::file(Signal::Logs, self.stage.dir());
        let records = count_logs(&logs)?;
        let result = report::Result { last, tally, link, records };
        say(&result.table());
        say(&format!("\nlogs: {records} records in {}\n", logs.display()));
        for note in result.notes() {
            say(&format!("note: {note}\n"));
        }
        let wrong = result.wrong();
        if wrong.is_empty() {
            say("everything that was accepted is accounted for\n");
            if last.at_rest() {
                self.stage.strike();
            } else {
                say(&format!("what was not delivered is kept in {}\n", self.stage.dir().display()));
            }
            return Ok(ExitCode::SUCCESS);
        }
        for line in wrong {
            say(&format!("WRONG  {line}\n"));
        }
        say(&format!("everything is kept in {}\n", self.stage.dir().display()));
        Ok(ExitCode::FAILURE)
    }
}
