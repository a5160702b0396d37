//! Where everything is, as the agent and the ground station say.

use anyhow::Context;
use http::Method;
use perigee_shared::signal::{Counts, Signal};
use serde_json::Value;

use crate::child::Program;
use crate::services::web::Client;
use crate::stage::SATELLITE;

/// Both programs' counts at about one time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// Answered with success by the agent.
    pub(crate) accepted: Counts,
    /// Dropped on board, all reasons together.
    pub(crate) dropped: Counts,
    /// In the agent's log.
    pub(crate) on_board: Counts,
    /// Every exporter of their pipeline is done with them; the rejected are among them.
    pub(crate) exported: Counts,
    /// Taken by a backend and then refused.
    pub(crate) rejected: Counts,
    /// No backend takes them.
    pub(crate) dead_lettered: Counts,
    /// Still to be exported.
    pub(crate) in_spool: Counts,
    /// `down`, `connecting` or `up`.
    pub(crate) link: String,
    /// Whether a contact is open by plan.
    pub(crate) contact: bool,
}

impl Snapshot {
    /// Asks both.
    pub(crate) async fn take(agent: &Program, ground: &Program) -> anyhow::Result<Self> {
        // The ground first: what is delivered in between is then still on board or was not yet accepted.
        let accounts = ground.ask(Method::GET, "/api/v1/accounting", None).await.context("ground-station")?;
        let status = agent.ask(Method::GET, "/status", None).await.context("space-agent")?;
        let account = &accounts[SATELLITE];
        let wal = &status["wal"];
        let dropped = wal["dropped"].as_object().into_iter().flat_map(|reasons| reasons.values());
        Ok(Self {
            accepted: by_signal(&wal["accepted"]),
            dropped: dropped.map(by_signal).fold(Counts::default(), |a, b| a + b),
            on_board: by_signal(&wal["on_board"]),
            exported: by_items(&account["exported"]),
            rejected: by_items(&account["rejected"]),
            dead_lettered: by_items(&account["dead_lettered"]),
            in_spool: by_items(&account["in_spool"]),
            link: status["link"]["state"].as_str().unwrap_or("unknown").to_owned(),
            contact: !status["contact"].is_null(),
        })
    }

    /// Whether nothing waits anywhere.
    pub(crate) fn at_rest(&self) -> bool {
        self.on_board.total() == 0 && self.in_spool.total() == 0
    }

    /// Items that have reached a backend or a file.
    pub(crate) fn delivered(&self) -> Counts {
        self.exported.saturating_sub(self.rejected)
    }

    /// What both programs can account for.
    pub(crate) fn accounted(&self) -> Counts {
        self.exported + self.dropped + self.dead_lettered + self.on_board + self.in_spool
    }
}

/// Counts by the name of their signal; absent counts as 0.
fn by_signal(value: &Value) -> Counts {
    counts(|signal| &value[signal.name()])
}

/// Counts by the name of their items.
fn by_items(value: &Value) -> Counts {
    counts(|signal| &value[signal.items_name()])
}

fn counts<'a>(of: impl Fn(Signal) -> &'a Value) -> Counts {
    let mut out = Counts::default();
    for signal in Signal::ALL {
        out[signal] = of(signal).as_u64().unwrap_or(0);
    }
    out
}

/// What went over the link, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LinkBytes {
    /// UDP payloads from the satellite to the ground.
    pub(crate) down: u64,
    /// UDP payloads from the ground to the satellite.
    pub(crate) up: u64,
    /// Segments within what went down.
    pub(crate) segments: u64,
    /// Of those, what had been sent on an earlier connection.
    pub(crate) resent: u64,
}

impl LinkBytes {
    /// Reads the agent's metrics at `address`.
    pub(crate) async fn read(address: &str) -> anyhow::Result<Self> {
        let url = format!("http://{address}/metrics");
        let (_, text) = Client::new().get(&url, http::HeaderMap::new()).await?;
        let value = |name: &str| {
            let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|v| v.trim().parse().ok())
                .with_context(|| format!("the agent's metrics have no {name}"))
        };
        Ok(Self {
            down: value("perigee_link_udp_sent_bytes_total")?,
            up: value("perigee_link_udp_received_bytes_total")?,
            segments: value("perigee_link_sent_bytes_total")?,
            resent: value("perigee_link_resent_bytes_total")?,
        })
    }
}
