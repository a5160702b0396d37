//! What a link has done, counted.

use std::fmt;

use serde::Serialize;

use crate::config::Direction;

/// What a link has done since its start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// How long it has run.
    pub elapsed_ms: u64,
    /// Whether it is up.
    pub up: bool,
    /// How often it went down.
    pub outages: u64,
    /// Clients that have sent something.
    pub clients: u64,
    /// From the clients to the server.
    pub forward: Traffic,
    /// From the server to the clients.
    #[serde(rename = "return")]
    pub back: Traffic,
}

/// What went one way. Bytes are those of UDP payloads; offered is delivered, dropped and still under way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Datagrams given to the link.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Datagrams that arrived.
    pub delivered_packets: u64,
    /// Their bytes.
    pub delivered_bytes: u64,
    /// Datagrams that were held, so that later ones could overtake them.
    pub reordered: u64,
    /// Datagrams that did not arrive, by reason.
    pub dropped: Dropped,
}

/// Datagrams that did not arrive, by reason.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// Lost by themselves.
    pub loss: u64,
    /// Lost in a burst.
    pub burst: u64,
    /// The queue was full.
    pub queue: u64,
    /// Offered while the link was down.
    pub down: u64,
    /// Under way when the link went down.
    pub in_flight: u64,
}

impl Dropped {
    /// For any reason.
    pub const fn total(&self) -> u64 {
        self.loss + self.burst + self.queue + self.down + self.in_flight
    }
}

impl Stats {
    /// What went in `direction`.
    pub const fn traffic(&self, direction: Direction) -> &Traffic {
        match direction {
            Direction::Forward => &self.forward,
            Direction::Return => &self.back,
        }
    }

    pub(crate) const fn traffic_mut(&mut self, direction: Direction) -> &mut Traffic {
        match direction {
            Direction::Forward => &mut self.forward,
            Direction::Return => &mut self.back,
        }
    }
}

type Row = (&'static str, fn(&Traffic) -> u64);

impl fmt::Display for Stats {
    /// A table with a column for each direction.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: [Row; 10] = [
            ("packets offered", |t| t.packets),
            ("bytes offered", |t| t.bytes),
            ("packets delivered", |t| t.delivered_packets),
            ("bytes delivered", |t| t.delivered_bytes),
            ("reordered", |t| t.reordered),
            ("dropped: loss", |t| t.dropped.loss),
            ("dropped: burst", |t| t.dropped.burst),
            ("dropped: queue full", |t| t.dropped.queue),
            ("dropped: link down", |t| t.dropped.down),
            ("dropped: in flight", |t| t.dropped.in_flight),
        ];
        writeln!(
            f,
            "{:.1} s, link {}, {} outages, {} clients",
            self.elapsed_ms as f64 / 1000.0,
            if self.up { "up" } else { "down" },
            self.outages,
            self.clients
        )?;
        writeln!(f, "{:<22}{:>16}{:>16}", "", "forward", "return")?;
        for (name, value) in rows {
            writeln!(f, "{name:<22}{:>16}{:>16}", value(&self.forward), value(&self.back))?;
        }
        Ok(())
    }
}
