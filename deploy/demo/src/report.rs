//! What the demo shows: a line each second while it runs, a table at the end.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};

use perigee_shared::signal::Signal;
use perigee_shared::units::ByteSize;

use crate::observe::{LinkBytes, Snapshot};
use crate::passes::Phase;
use crate::services::Tally;

/// Writes to standard output; a reader that is gone is no error.
pub(crate) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Writes to standard error.
pub(crate) fn say_error(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// The line that shows progress: in place on a terminal, else one below the other.
pub(crate) struct Progress {
    in_place: bool,
    open: bool,
}

impl Progress {
    /// Nothing is shown yet.
    pub(crate) fn new() -> Self {
        Self { in_place: std::io::stdout().is_terminal(), open: false }
    }

    /// Shows where things are, in less than 80 columns.
    pub(crate) fn show(&mut self, pass: u64, phase: Phase, at: &Snapshot) {
        let phase = match phase {
            Phase::Gap => "no contact",
            Phase::Contact => "in contact",
            Phase::Drain => "last data",
        };
        let line = format!(
            "pass {pass:<4} {phase:<10} {:>8} accepted {:>7} on board {:>8} delivered",
            at.accepted.total(),
            at.on_board.total(),
            at.delivered().total(),
        );
        if self.in_place {
            say(&format!("\r\x1b[2K{line}"));
            self.open = true;
        } else {
            say(&format!("{line}\n"));
        }
    }

    /// Ends the line, so that something else can be said.
    pub(crate) fn end(&mut self) {
        if std::mem::take(&mut self.open) {
            say("\n");
        }
    }
}

/// What the run comes to.
pub(crate) struct Result<'a> {
    /// Both programs' last counts.
    pub(crate) last: &'a Snapshot,
    /// What the services were told.
    pub(crate) tally: &'a Tally,
    /// What went over the link.
    pub(crate) link: LinkBytes,
    /// Log records in the file that they went to.
    pub(crate) records: u64,
}

impl Result<'_> {
    /// The table and what it leaves out.
    pub(crate) fn table(&self) -> String {
        let mut out = String::new();
        // Writing to a String does not fail.
        let _ = self.write_table(&mut out);
        out
    }

    fn write_table(&self, out: &mut String) -> std::fmt::Result {
        let (last, size) = (self.last, |bytes| ByteSize(bytes).to_string());
        let delivered = last.delivered();
        writeln!(
            out,
            "\n{:<8}{:>10}{:>11}{:>9}{:>10}{:>12}{:>12}{:>8}",
            "", "accepted", "delivered", "dropped", "on board", "raw OTLP", "on link", "ratio"
        )?;
        let mut raw = 0;
        for s in Signal::ALL {
            let bytes = self.tally.raw_bytes(s);
            raw += bytes;
            writeln!(
                out,
                "{:<8}{:>10}{:>11}{:>9}{:>10}{:>12}{:>12}{:>8}",
                s.name(),
                last.accepted[s],
                delivered[s],
                last.dropped[s],
                last.on_board[s],
                size(bytes),
                "-",
                "-",
            )?;
        }
        let ratio = if self.link.down == 0 { 0.0 } else { raw as f64 / self.link.down as f64 };
        writeln!(
            out,
            "{:<8}{:>10}{:>11}{:>9}{:>10}{:>12}{:>12}{:>8}",
            "total",
            last.accepted.total(),
            delivered.total(),
            last.dropped.total(),
            last.on_board.total(),
            size(raw),
            size(self.link.down),
            format!("{ratio:.1}:1"),
        )?;
        writeln!(
            out,
            "\nraw OTLP: what the services sent, as protobuf, not compressed; half of it is the\n\
             camera's noise. on link: UDP payload from the satellite, {} of it\n\
             segments; {} came up. A segment holds all signals, so the link is known in\n\
             total only.",
            size(self.link.segments),
            size(self.link.up),
        )?;
        for (what, counts) in [
            ("in the ground's spool", last.in_spool),
            ("dead-lettered on the ground", last.dead_lettered),
            ("rejected by a backend", last.rejected),
        ] {
            for s in Signal::ALL.into_iter().filter(|s| counts[*s] > 0) {
                writeln!(out, "{what}: {} of {s}", counts[s])?;
            }
        }
        Ok(())
    }

    /// What is wrong with the account; empty when everything that was accepted is accounted for.
    pub(crate) fn wrong(&self) -> Vec<String> {
        let mut out = Vec::new();
        for s in Signal::ALL {
            let (accepted, accounted) = (self.last.accepted[s], self.last.accounted()[s]);
            if accepted != accounted {
                out.push(format!("{s}: {accepted} accepted, but {accounted} accounted for"));
            }
            let acknowledged = self.tally.acknowledged(s);
            if acknowledged > accepted {
                out.push(format!("{s}: {acknowledged} acknowledged to services, but {accepted} accepted"));
            }
        }
        let logs = self.last.delivered()[Signal::Logs];
        if self.records != logs {
            out.push(format!("logs: {logs} delivered, but {} in the file", self.records));
        }
        out
    }

    /// What is worth knowing and not wrong.
    pub(crate) fn notes(&self) -> Vec<String> {
        let mut out = Vec::new();
        for s in Signal::ALL {
            let failed = self.tally.failed(s);
            if failed > 0 {
                out.push(format!("{s}: {failed} were refused, or their answer was lost; the services know"));
            }
            if self.tally.acknowledged(s) == 0 {
                out.push(format!("{s}: the services got nothing acknowledged"));
            }
            let more = self.last.accepted[s].saturating_sub(self.tally.acknowledged(s));
            match s {
                _ if more == 0 => {}
                Signal::Metrics => {
                    out.push(format!("metrics: {more} are the satellite's own (hostmetrics and the agent)"))
                }
                _ => out.push(format!("{s}: {more} accepted beyond what the services were told")),
            }
        }
        out
    }
}
