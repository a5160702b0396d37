//! How much of a contact arrives: simulated links that are filled from AOS to LOS. The same on every machine.

use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use sim::{Report, Scenario};

use crate::report::Row;

/// Of a run.
#[derive(Args, Debug, Clone)]
pub(crate) struct Options {
    /// Only links whose name contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Of all chance
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Leaves out the day of passes that are cut at random, which takes longer than the rest
    #[arg(long)]
    no_day: bool,
}

/// A link and a contact over it.
struct Link {
    name: &'static str,
    rate_mbit: u64,
    rtt_ms: u64,
    return_kbit: u64,
    contact: u64,
    /// Loss in per cent.
    losses: &'static [f64],
}

const LOSSES: &[f64] = &[0.0, 0.1, 1.0];

const LINKS: [Link; 5] = [
    Link { name: "LEO", rate_mbit: 20, rtt_ms: 40, return_kbit: 1000, contact: 120, losses: LOSSES },
    Link { name: "LEO", rate_mbit: 100, rtt_ms: 60, return_kbit: 1000, contact: 120, losses: LOSSES },
    Link { name: "GEO", rate_mbit: 20, rtt_ms: 600, return_kbit: 1000, contact: 600, losses: LOSSES },
    Link { name: "Moon", rate_mbit: 20, rtt_ms: 2600, return_kbit: 1000, contact: 600, losses: LOSSES },
    Link { name: "LEO thin", rate_mbit: 20, rtt_ms: 40, return_kbit: 64, contact: 120, losses: &[0.0] },
];

/// What the telemetry, the ground and the queue are in every row: random bytes, which no codec makes
/// smaller, always enough of them, and one bandwidth-delay product.
fn scenario(link: &Link, loss: f64, seed: u64, contacts: &str) -> anyhow::Result<Scenario> {
    let Link { rate_mbit, rtt_ms, return_kbit, .. } = link;
    let way = |rate: String| {
        format!("{{rate: {rate}, delay: {}ms, loss: {loss}%, queue: 1bdp}}", *rtt_ms as f64 / 2.0)
    };
    let text = format!(
        "seed: {seed}\nstations: [svalbard]\n\
         telemetry: {{item_bytes: 64KiB, compressible: false, backlog: 64MiB}}\n\
         agent: {{codec: zstd_rows}}\n\
         link:\n  down: {}\n  up: {}\n{contacts}",
        way(format!("{rate_mbit}Mbit/s")),
        way(format!("{return_kbit}kbit/s")),
    );
    Ok(perigee_shared::config::parse(&text, "link", |_| None)?)
}

/// Runs every link.
pub(crate) fn run(options: &Options) -> anyhow::Result<Vec<Row>> {
    let wanted = |name: &str| options.only.as_ref().is_none_or(|only| name.contains(only.as_str()));
    let mut rows = Vec::new();
    for link in LINKS.iter().filter(|l| wanted(l.name)) {
        for loss in link.losses {
            let end = 60 + link.contact;
            let contacts = format!(
                "duration: {}s\ncontacts: [{{station: svalbard, start: 60s, end: {end}s}}]\n",
                end + 10
            );
            rows.push(row(link, link.name, *loss, &scenario(link, *loss, options.seed, &contacts)?)?);
        }
    }
    let day = "LEO day, cut";
    if wanted(day) && !options.no_day {
        let passes = "duration: 24h\npasses: {per_day: 14, shortest: 5m, longest: 9m, cut: 100%}\n";
        rows.push(row(&LINKS[0], day, 0.1, &scenario(&LINKS[0], 0.1, options.seed, passes)?)?);
    }
    ensure!(!rows.is_empty(), "no link has a name with {}", options.only.as_deref().unwrap_or_default());
    Ok(rows)
}

fn row(link: &Link, name: &str, loss: f64, scenario: &Scenario) -> anyhow::Result<Row> {
    let options = sim::Options { first_bytes: true, ..sim::Options::default() };
    let report: Report = sim::run(scenario.clone(), options)?;
    ensure!(report.is_right(), "{name} at {loss} % loss:\n{report}");
    let slowest = report.first_bytes.iter().flatten().max().copied().context("nothing arrived")?;
    let slowest = slowest.max(Duration::from_millis(1));
    Ok(Row::default()
        .with("link", name)
        .with("rate_mbit", link.rate_mbit)
        .with("rtt_ms", link.rtt_ms)
        .with("loss_percent", loss)
        .with("return_kbit", link.return_kbit)
        .with_rounded("goodput_percent", report.goodput_share(link.rate_mbit * 1_000_000) * 100.0, 1)
        .with("first_byte_ms", slowest.as_millis() as u64)
        .with_rounded("resent_percent", report.resent_share() * 100.0, 2)
        .with_rounded("retransmitted_percent", report.retransmitted_share() * 100.0, 2))
}
