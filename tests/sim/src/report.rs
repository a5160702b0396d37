//! What a simulation has come to.

use std::fmt;
use std::time::Duration;

use perigee_shared::units::ByteSize;

use crate::account::Account;
use crate::log::{Entry, Traffic};
use crate::picture::Sample;

/// Items that came out at the backend of one ledger.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reached(pub u64);

/// How full a pass was.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Filled {
    /// How long it was in fact.
    pub lasted: Duration,
    /// Distinct segment bytes that came to the ground, as a share of what the link carries in that time.
    pub share: f64,
}

/// A pass as a ground knows it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Told {
    /// How it ended, as the satellite has told; none: it has not.
    pub state: Option<String>,
    /// How long the ground has heard the satellite in it, s.
    pub connected: f64,
}

/// What a simulation has come to. Everything follows from the scenario: how long it took does not belong to it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// Where every item is.
    pub account: Account,
    /// Virtual time.
    pub simulated: Duration,
    /// Contacts that were planned.
    pub passes: usize,
    /// Those in which no connection came up though both sides ran all the time, by their numbers.
    pub missed: Vec<usize>,
    /// How long they were in fact, together.
    pub contact_time: Duration,
    /// Connections that came up.
    pub connections: u64,
    /// Bytes of OTLP accepted.
    pub raw_bytes: u64,
    /// Requests that agents refused, to be sent again.
    pub refused: u64,
    /// Passes as grounds know them, by ground and satellite, the latest first.
    pub told: Vec<Told>,
    /// Distinct segment bytes that the grounds hold or held.
    pub held_bytes: u64,
    /// How full each pass was, where one satellite has always more to send than a pass carries.
    pub filled: Vec<Filled>,
    /// Segment bytes handed to QUIC.
    pub sent_bytes: u64,
    /// Of those, bytes handed to it again on a later connection.
    pub resent_bytes: u64,
    /// Bytes of packets that QUIC took to be lost.
    pub lost_bytes: u64,
    /// Gaps that are alarms, as grounds know them: of data that no rule dropped and that does not come.
    pub losses: u64,
    /// By ledger.
    pub reached: Vec<Reached>,
    /// What exporters wrote that names no item of ours.
    pub unknown: u64,
    /// Packets, both ways.
    pub packets: u64,
    /// A hash over time, size, direction and fate of each.
    pub packet_hash: String,
    /// From satellites to the ground.
    pub down: Traffic,
    /// From the ground to satellites.
    pub up: Traffic,
    /// Packets that the link's rules do not allow.
    pub violated: u64,
    /// The first of them.
    pub violations: Vec<String>,
    /// Every packet, if that was wanted.
    pub kept: Vec<Entry>,
    /// A hash over what each spool holds, decoded.
    pub spool_hash: Vec<String>,
    /// When the first payload byte of each contact came, from AOS on, if that was wanted.
    pub first_bytes: Vec<Option<Duration>>,
    /// For pictures.
    pub samples: Vec<Sample>,
}

impl Report {
    /// Whether nothing is lost or there twice, and the network kept to its rules.
    pub fn is_right(&self) -> bool {
        self.account.is_right() && self.violated == 0 && self.unknown == 0
    }

    /// Segment bytes sent again on a later connection, as a share of those delivered.
    pub fn resent_share(&self) -> f64 {
        self.resent_bytes as f64 / self.held_bytes.max(1) as f64
    }

    /// Bytes of packets that QUIC took to be lost, as a share of the segment bytes delivered.
    pub fn retransmitted_share(&self) -> f64 {
        self.lost_bytes as f64 / self.held_bytes.max(1) as f64
    }

    /// Segment bytes delivered, as a share of what a link of this many bit/s carries in all contacts.
    pub fn goodput_share(&self, rate: u64) -> f64 {
        self.held_bytes as f64 * 8.0 / (rate as f64 * self.contact_time.as_secs_f64()).max(1.0)
    }
}

fn traffic(f: &mut fmt::Formatter<'_>, way: &str, traffic: &Traffic) -> fmt::Result {
    write!(
        f,
        "{way:<10} {} sent, {} arrived; packets:",
        ByteSize(traffic.sent_bytes),
        ByteSize(traffic.arrived_bytes)
    )?;
    for (name, packets) in traffic.fates().filter(|(_, n)| *n > 0) {
        write!(f, " {name} {packets}")?;
    }
    writeln!(f)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hours = self.simulated.as_secs_f64() / 3600.0;
        writeln!(
            f,
            "simulated  {hours:.1} h, {} contacts of {:.1} min together, {} missed, {} connections",
            self.passes,
            self.contact_time.as_secs_f64() / 60.0,
            self.missed.len(),
            self.connections
        )?;
        writeln!(
            f,
            "telemetry  {} of OTLP accepted, {} requests refused and sent again",
            ByteSize(self.raw_bytes),
            self.refused
        )?;
        writeln!(
            f,
            "segments   {} held by the grounds, {:.2} % sent again on a later connection, {:.2} % retransmitted by QUIC",
            ByteSize(self.held_bytes),
            self.resent_share() * 100.0,
            self.retransmitted_share() * 100.0
        )?;
        if let Some(emptiest) = self.filled.iter().min_by(|a, b| a.share.total_cmp(&b.share)) {
            let mean = self.filled.iter().map(|p| p.share).sum::<f64>() / self.filled.len() as f64;
            writeln!(
                f,
                "passes     filled to {:.1} % on average, the emptiest, of {:.0} s, to {:.1} %",
                mean * 100.0,
                emptiest.lasted.as_secs_f64(),
                emptiest.share * 100.0
            )?;
        }
        if !self.first_bytes.is_empty() {
            let shown = |at: &Option<Duration>| at.map_or("never".to_owned(), |at| format!("{at:?}"));
            let all: Vec<String> = self.first_bytes.iter().map(shown).collect();
            writeln!(f, "first byte {} after AOS", all.join(", "))?;
        }
        traffic(f, "down", &self.down)?;
        traffic(f, "up", &self.up)?;
        let reached: Vec<String> = self.reached.iter().map(|r| r.0.to_string()).collect();
        writeln!(f, "backends   {} items", reached.join(", "))?;
        let delays: Vec<(f64, f64)> = self.samples.iter().filter_map(|s| s.delay).collect();
        if !delays.is_empty() {
            let longest = delays.iter().map(|d| d.1).fold(0.0, f64::max);
            writeln!(f, "delay      {:.1} min at most", longest / 60.0)?;
        }
        if self.account.repeated + self.account.unanswered > 0 {
            writeln!(
                f,
                "crashes    {} items came again that were undecided, {} came whose answer was lost",
                self.account.repeated, self.account.unanswered
            )?;
        }
        writeln!(f, "log        {} packets, {}", self.packets, self.packet_hash)?;
        if self.losses > 0 {
            writeln!(f, "gaps       {} of data that no rule dropped", self.losses)?;
        }
        for violation in &self.violations {
            writeln!(f, "VIOLATION  {violation}")?;
        }
        if self.violated > 0 || self.unknown > 0 || self.account.miscounted > 0 {
            writeln!(
                f,
                "WRONG      {} packets against the link's rules, {} unknown lines, {} miscounted drops",
                self.violated, self.unknown, self.account.miscounted
            )?;
        }
        writeln!(f, "{}", self.account.line())
    }
}
