//! What can be measured, each in a file of its own: names, units and attributes are those of the Collector's `hostmetricsreceiver` 0.160.

mod cpu;
mod disk;
mod filesystem;
mod load;
mod memory;
mod network;
mod paging;
mod process;
mod processes;
mod sockets;
mod system;
mod temperature;

use perigee_shared::config::Invalid;

pub(super) use self::process::ATTRIBUTES as PROCESS_ATTRIBUTES;
use super::config::{Options, ScraperConfig};
use super::host::{Host, ScrapeError};
use super::points::{Description, Origin, Points};
use opentelemetry_proto::tonic::metrics::v1::ResourceMetrics;

/// What came of one scrape.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Metrics, by resource.
    pub(super) metrics: Vec<ResourceMetrics>,
    /// The first of the things that went wrong, and how many there were.
    pub(super) failed: Option<(ScrapeError, usize)>,
}

impl Outcome {
    /// Something could not be measured.
    fn fail(&mut self, error: ScrapeError) {
        match &mut self.failed {
            Some((_, count)) => *count += 1,
            None => self.failed = Some((error, 1)),
        }
    }

    /// Notes what went wrong and goes on with what there is.
    fn tried<T>(&mut self, result: Result<T, ScrapeError>) -> Option<T> {
        result.map_err(|error| self.fail(error)).ok()
    }
}

/// Measures one part of the machine.
pub(super) trait Scraper: Send {
    /// Adds the points of one scrape; what is not in `points` may go to `outcome` itself.
    fn scrape(&mut self, host: &Host, points: &mut Points, outcome: &mut Outcome);
}

/// A scraper and where its points go.
pub(super) struct Running {
    pub(super) kind: Kind,
    scraper: Box<dyn Scraper>,
    points: Points,
}

impl Running {
    /// Measures now.
    pub(super) fn scrape(&mut self, host: &Host) -> Outcome {
        let mut outcome = Outcome::default();
        (self.points.now, self.points.start) = (host.now, host.boot);
        self.scraper.scrape(host, &mut self.points, &mut outcome);
        outcome.metrics.extend(self.points.take(Vec::new()));
        outcome
    }
}

/// A scraper as `config` wants it, which stands at `key`.
pub(super) fn build(config: &ScraperConfig, key: &str) -> Result<Running, Invalid> {
    let scraper: Box<dyn Scraper> = match (config.kind, &config.options) {
        (Kind::Load, Options::Load(load)) => Box::new(load::Load { cpu_average: load.cpu_average }),
        (Kind::Disk, Options::Disk(disk)) => Box::new(disk::Disk { devices: disk.filter(key)? }),
        (Kind::Network, Options::Network(network)) => Box::new(network::Network::new(network.filter(key)?)),
        (Kind::Filesystem, Options::Filesystem(fs)) => Box::new(filesystem::Filesystem {
            filters: fs.filters(key)?,
            with_virtual: fs.include_virtual_filesystems,
        }),
        (Kind::Process, Options::Process(config)) => {
            Box::new(process::Process::new(config.filter(key)?, config))
        }
        (Kind::Cpu, _) => Box::new(cpu::Cpu::default()),
        (Kind::Memory, _) => Box::new(memory::Memory),
        (Kind::Paging, _) => Box::new(paging::Paging),
        (Kind::Processes, _) => Box::new(processes::Processes),
        (Kind::System, _) => Box::new(system::System),
        (Kind::Temperature, _) => Box::new(temperature::Temperature),
        (kind, options) => unreachable!("{kind:?} is not read with {options:?}"),
    };
    let points = Points::new(config.kind.origin(), config.wanted());
    Ok(Running { kind: config.kind, scraper, points })
}

/// The semantic conventions of the Collector's scrapers of the whole machine.
const SCHEMA: &str = "https://opentelemetry.io/schemas/1.9.0";

macro_rules! kinds {
    ($($kind:ident $name:literal $module:ident),* $(,)?) => {
        /// A kind of scraper.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Kind {
            $($kind),*
        }

        impl Kind {
            /// As they are written.
            pub(super) const NAMES: [&'static str; 11] = [$($name),*];

            /// The kind that is written so, which is one of [`Kind::NAMES`].
            pub(super) fn named(name: &str) -> Self {
                match name {
                    $($name => Self::$kind,)*
                    other => unreachable!("{other} is not the name of a scraper"),
                }
            }

            /// As it is written.
            pub(super) const fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name),*
                }
            }

            /// Everything that it can measure.
            pub(super) const fn metrics(self) -> &'static [Description] {
                match self {
                    $(Self::$kind => $module::METRICS),*
                }
            }
        }
    };
}

kinds! {
    Cpu "cpu" cpu,
    Memory "memory" memory,
    Load "load" load,
    Disk "disk" disk,
    Filesystem "filesystem" filesystem,
    Network "network" network,
    Paging "paging" paging,
    Processes "processes" processes,
    Process "process" process,
    System "system" system,
    Temperature "temperature" temperature,
}

impl Kind {
    /// Who its points are from: the Collector's scraper of the same name, since dashboards ask for it.
    fn origin(self) -> Origin {
        const COLLECTOR: &str = "github.com/open-telemetry/opentelemetry-collector-contrib/receiver/hostmetricsreceiver/internal/scraper";
        let (scope, schema) = match self {
            Self::Temperature => ("perigee/receiver/hostmetrics/temperature".to_owned(), temperature::SCHEMA),
            Self::Process => (format!("{COLLECTOR}/processscraper"), process::SCHEMA),
            other => (format!("{COLLECTOR}/{}scraper", other.name()), SCHEMA),
        };
        Origin { scope, schema }
    }
}
