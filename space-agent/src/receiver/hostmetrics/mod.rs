//! The receiver `hostmetrics`: what the machine does, measured at an interval, off unless it is configured.
//!
//! Names, units, attributes and keys are those of the Collector's `hostmetricsreceiver`. A scrape runs on a blocking thread, since `/proc`
//! and file systems may make it wait, and goes in like any request: refused when there is no room, journaled when there is.

mod config;
mod filter;
mod host;
mod points;
mod scrapers;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::ResourceMetrics;
use perigee_shared::config::Invalid;
use perigee_shared::env::Clock;
use perigee_shared::signal::Signal;
use prost::Message;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

pub use self::config::{HostMetricsConfig, ScraperConfig};
use self::host::Host;
use self::scrapers::{Outcome, Running};
use super::Intake;

/// A request holds no more than this, unless one resource does: a machine may have thousands of processes.
const REQUEST: usize = 512 << 10;

/// Measures the machine at an interval.
pub(super) struct HostMetrics {
    name: String,
    config: HostMetricsConfig,
    clock: Arc<dyn Clock>,
    intake: Option<Arc<Intake>>,
    /// What is carried from scrape to scrape; away while one runs.
    state: Option<State>,
}

/// The scrapers and what they know.
struct State {
    host: Host,
    scrapers: Vec<Running>,
    /// Scrapers whose trouble has been told.
    failing: BTreeSet<&'static str>,
}

impl State {
    fn try_new(config: &HostMetricsConfig, key: &str) -> Result<Self, Invalid> {
        let scrapers =
            config.scrapers.iter().map(|(name, s)| scrapers::build(s, &format!("{key}.scrapers.{name}")));
        let scrapers = scrapers.collect::<Result<_, _>>()?;
        Ok(Self { host: Host::new(&config.root_path), scrapers, failing: BTreeSet::new() })
    }

    /// One scrape, as export requests.
    fn scrape(&mut self, now: u64) -> Vec<Bytes> {
        if let Err(error) = self.host.begin(now) {
            self.tell("all", Some((error.to_string(), 1)));
            return Vec::new();
        }
        self.tell("all", None);
        let mut metrics = Vec::new();
        for at in 0..self.scrapers.len() {
            let scraper = &mut self.scrapers[at];
            let (kind, Outcome { metrics: more, failed }) = (scraper.kind, scraper.scrape(&self.host));
            metrics.extend(more);
            self.tell(kind.name(), failed.map(|(error, count)| (error.to_string(), count)));
        }
        requests(metrics)
    }

    /// Says once that a scraper has trouble, and once that it has none any more.
    fn tell(&mut self, scraper: &'static str, failed: Option<(String, usize)>) {
        match failed {
            Some((error, errors)) if self.failing.insert(scraper) => {
                tracing::warn!(scraper, errors, error, "hostmetrics cannot measure everything");
            }
            None if self.failing.remove(scraper) => {
                tracing::info!(scraper, "hostmetrics measures everything again");
            }
            _ => {}
        }
    }
}

/// The same metrics as requests of bounded size.
fn requests(metrics: Vec<ResourceMetrics>) -> Vec<Bytes> {
    let mut out = Vec::new();
    let (mut request, mut size) = (ExportMetricsServiceRequest::default(), 0);
    for resource in metrics {
        let more = resource.encoded_len();
        if size + more > REQUEST && size > 0 {
            out.push(std::mem::take(&mut request).encode_to_vec().into());
            size = 0;
        }
        size += more;
        request.resource_metrics.push(resource);
    }
    if size > 0 {
        out.push(request.encode_to_vec().into());
    }
    out
}

impl HostMetrics {
    /// The receiver called `name`.
    pub(super) fn try_new(
        name: &str,
        config: &HostMetricsConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Invalid> {
        let (name, config) = (name.to_owned(), config.clone());
        State::try_new(&config, &format!("receivers.{name}"))?;
        Ok(Self { name, config, clock, intake: None, state: None })
    }

    /// Its name in the configuration.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Where its requests go.
    pub(super) fn into(self, intake: Arc<Intake>) -> Self {
        Self { intake: Some(intake), ..self }
    }

    /// Measures until `stop`.
    pub(super) async fn run(&mut self, stop: CancellationToken) {
        let Some(intake) = self.intake.clone() else { return };
        let first = Instant::now() + self.config.initial_delay.0;
        let mut ticks = interval_at(first, self.config.collection_interval.0);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut refused = false;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let scraped = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                scraped = self.scrape() => scraped,
            };
            for request in scraped {
                match intake.accept(Signal::Metrics, request).await {
                    Err(status) if !refused => {
                        tracing::warn!(receiver = self.name, error = %status.message, "a scrape was refused and is lost");
                        refused = true;
                    }
                    Err(_) => {}
                    Ok(()) => refused = false,
                }
            }
        }
    }

    /// Scrapes on a blocking thread. A scrape that panics takes what it knew with it, and the task with it.
    async fn scrape(&mut self) -> Vec<Bytes> {
        let (config, key, now) = (&self.config, format!("receivers.{}", self.name), self.clock.unix_nano());
        let state = self.state.take().map_or_else(|| State::try_new(config, &key), Ok);
        let mut state = state.expect("checked by try_new");
        let work = move || {
            let requests = state.scrape(now);
            (state, requests)
        };
        match tokio::task::spawn_blocking(work).await {
            Ok((state, requests)) => {
                self.state = Some(state);
                requests
            }
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is going down.
                Err(_) => Vec::new(),
            },
        }
    }
}
