//! The course of the demo: set the stage, tell the story, let passes go by, bring everything down, account for it.

use std::process::ExitCode;

use linkem::Link;
use perigee_shared::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::backends::{Backends, count_logs};
use crate::child::{POLL, Program};
use crate::logs::LogsBackend;
use crate::observe::{LinkBytes, Snapshot};
use crate::options::Options;
use crate::passes::{self, Phase};
use crate::report::{self, Progress, say};
use crate::services::{Services, Tally};
use crate::stage::Stage;
use crate::{radio, story};

/// Passes of the story.
const STORY_PASSES: u64 = 3;

/// Everything that runs.
pub(crate) struct Demo {
    options: Options,
    pub(crate) stage: Stage,
    backends: Backends,
    pub(crate) logs: LogsBackend,
    pub(crate) radio: Link,
    pub(crate) agent: Program,
    pub(crate) ground: Program,
    pub(crate) services: Services,
    progress: Progress,
    pub(crate) stop: CancellationToken,
    pub(crate) begun: Instant,
    pass: u64,
}

/// Runs the demo; the exit code says whether everything that was accepted is accounted for.
pub(crate) async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let stop = until_told()?;
    let stage = Stage::try_new(&options)?;
    let mut backends = match options.files {
        true => Backends::default(),
        false => Backends::find(&options, &stop).await,
    };
    let (logs, url) = LogsBackend::start(&Backends::file(Signal::Logs, stage.dir()), story::DUMP).await?;
    backends.logs = url;
    let radio = radio::start(stage.link).await?;
    stage.set(&backends, radio.local_addr())?;
    introduce(&stage, &backends);
    let ground = Program::start("ground", stage.dir()).await?;
    let agent = Program::start("agent", stage.dir()).await?;
    let services = Services::start(&stage.otlp, options.requests).await?;
    let (progress, begun, pass) = (Progress::new(), Instant::now(), STORY_PASSES);
    let mut demo =
        Demo { options, stage, backends, logs, radio, agent, ground, services, progress, stop, begun, pass };
    demo.story().await?;
    demo.addresses();
    demo.passes().await?;
    demo.end().await
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
    say("Three services and space-agent on board, ground-station below, and between them\n\
         a radio link of 512 kbit/s with passes of seconds. The story takes 30 seconds.\n\n");
    for note in &backends.notes {
        say(&format!("{note}: a file takes its place\n"));
    }
    for signal in Signal::ALL {
        say(&format!("{:<9}to {}\n", signal.name(), backends.destination(signal, stage.dir())));
    }
    say("\n");
}

impl Demo {
    /// What can be looked at while everything runs.
    fn addresses(&self) {
        if self.stop.is_cancelled() || self.options.once {
            return;
        }
        let dir = self.stage.dir().display();
        say(&format!(
            "\nEverything still runs, and passes go on. Look around, then press Ctrl-C.\n\
             console  http://{}/ in the browser\n\
             {}\
             alarm    grep -c 'battery voltage' {dir}/logs.jsonl\n\
             account  curl http://{}/api/v1/accounting\n\
             metrics  curl http://{}/metrics\n\n",
            self.stage.console,
            self.backends.queries(self.stage.dir()),
            self.stage.api,
            self.stage.agent_metrics,
        ));
    }

    /// Lets passes go by until somebody ends it.
    async fn passes(&mut self) -> anyhow::Result<()> {
        while !self.options.once && !self.stop.is_cancelled() {
            self.pass += 1;
            self.watch(Phase::Gap).await?;
            if self.stop.is_cancelled() {
                break;
            }
            passes::open(&self.agent, Some(self.options.contact)).await?;
            self.watch(Phase::Contact).await?;
        }
        self.progress.end();
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
                _ = clock.tick() => { self.show(phase).await?; }
            }
        }
    }

    async fn show(&mut self, phase: Phase) -> anyhow::Result<Snapshot> {
        let now = self.look().await?;
        self.progress.show(self.pass, phase, &now);
        Ok(now)
    }

    /// Where everything is.
    pub(crate) async fn look(&mut self) -> anyhow::Result<Snapshot> {
        self.agent.still_runs()?;
        self.ground.still_runs()?;
        Snapshot::take(&self.agent, &self.ground).await
    }

    /// Brings down what is left, ends everything and says what it comes to.
    async fn end(mut self) -> anyhow::Result<ExitCode> {
        say("\nThe services stop, and what they still have is brought down.\n");
        let tally = self.services.stop().await?;
        let last = self.drain().await?;
        self.finish(&last, &tally).await
    }

    /// Brings everything down; returns the counts with the link down.
    async fn drain(&mut self) -> anyhow::Result<Snapshot> {
        // The satellite goes on measuring itself: what it accepts just as a contact closes goes in the next one.
        const CONTACTS: u32 = 3;
        self.logs.fail(false);
        self.radio.restore();
        let mut last = self.drain_once().await?;
        for _ in 1..CONTACTS {
            if last.at_rest() {
                break;
            }
            last = self.drain_once().await?;
        }
        Ok(last)
    }

    /// Keeps a contact open until nothing waits, or for as long as the options allow.
    async fn drain_once(&mut self) -> anyhow::Result<Snapshot> {
        passes::open(&self.agent, None).await?;
        let deadline = Instant::now() + self.options.drain;
        loop {
            let now = self.show(Phase::Drain).await?;
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
