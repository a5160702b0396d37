//! `receivers.hostmetrics`, with the Collector's keys.

use std::collections::BTreeMap;
use std::path::PathBuf;

use perigee_shared::config::{Component, Components, Invalid, settings_or_default, unknown};
use perigee_shared::units::Span;
use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess};

use super::filter::{Filter, List, MatchType};
use super::points::{Aggregation, Shape, Wanted};
use super::scrapers::{self, Kind};

/// `receivers.hostmetrics`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostMetricsConfig {
    /// From one scrape to the next.
    #[serde(default = "default_interval")]
    pub collection_interval: Span,
    /// From the start to the first scrape.
    #[serde(default = "default_delay")]
    pub initial_delay: Span,
    /// Where the root directory of the machine is, when it is not this process's.
    #[serde(default)]
    pub root_path: PathBuf,
    /// What is measured.
    #[serde(default)]
    pub scrapers: Components<ScraperConfig>,
}

const fn default_interval() -> Span {
    Span::secs(60)
}

const fn default_delay() -> Span {
    Span::secs(1)
}

/// One scraper.
#[derive(Debug, Clone)]
pub struct ScraperConfig {
    pub(super) kind: Kind,
    metrics: Metrics,
    pub(super) options: Options,
}

/// Metrics by name.
type Metrics = BTreeMap<String, MetricConfig>;

/// What is wanted of a metric.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct MetricConfig {
    enabled: Option<bool>,
    /// Attributes that points have; others are aggregated away.
    attributes: Option<Vec<String>>,
    aggregation_strategy: Option<Aggregation>,
}

/// Names that are turned on or off.
type Toggles = BTreeMap<String, Toggle>;

/// Whether something is measured.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct Toggle {
    enabled: bool,
}

/// What only some scrapers have.
#[derive(Debug, Clone)]
pub(super) enum Options {
    Nothing,
    Load(LoadConfig),
    Disk(DiskConfig),
    Network(NetworkConfig),
    Filesystem(Box<FilesystemConfig>),
    Process(Box<ProcessConfig>),
}

/// A scraper that has metrics alone.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PlainConfig {
    metrics: Metrics,
}

/// `load`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LoadConfig {
    metrics: Metrics,
    /// Whether the load is divided by the number of CPUs.
    pub(super) cpu_average: bool,
}

/// A list under its own name, and how names are compared with it.
macro_rules! list {
    ($name:ident, $field:ident) => {
        #[derive(Debug, Clone, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct $name {
            $field: Vec<String>,
            match_type: MatchType,
            /// The Collector's cache of what matched.
            #[serde(default, rename = "regexp")]
            _cache: IgnoredAny,
        }

        impl $name {
            const KEY: &str = stringify!($field);

            fn list(this: Option<&Self>) -> List<'_> {
                this.map(|this| (this.$field.as_slice(), this.match_type))
            }

            /// What `include` takes and `exclude` does not; both stand in the section `key`.
            fn filter(
                key: &str,
                (include, i): (Option<&Self>, &str),
                (exclude, x): (Option<&Self>, &str),
            ) -> Result<Filter, Invalid> {
                let at = |part: &str| format!("{key}.{part}.{}", Self::KEY);
                Filter::try_new((Self::list(include), &at(i)), (Self::list(exclude), &at(x)))
            }
        }
    };
}

list!(Devices, devices);
list!(Interfaces, interfaces);
list!(FsTypes, fs_types);
list!(MountPoints, mount_points);
list!(Names, names);

/// `disk`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct DiskConfig {
    metrics: Metrics,
    include: Option<Devices>,
    exclude: Option<Devices>,
}

/// `network`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct NetworkConfig {
    metrics: Metrics,
    include: Option<Interfaces>,
    exclude: Option<Interfaces>,
}

/// `filesystem`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct FilesystemConfig {
    metrics: Metrics,
    /// Whether file systems without a device are measured too.
    pub(super) include_virtual_filesystems: bool,
    include_devices: Option<Devices>,
    exclude_devices: Option<Devices>,
    include_fs_types: Option<FsTypes>,
    exclude_fs_types: Option<FsTypes>,
    include_mount_points: Option<MountPoints>,
    exclude_mount_points: Option<MountPoints>,
}

/// `process`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ProcessConfig {
    metrics: Metrics,
    resource_attributes: Toggles,
    include: Option<Names>,
    exclude: Option<Names>,
    pub(super) mute_process_all_errors: bool,
    pub(super) mute_process_name_error: bool,
    pub(super) mute_process_exe_error: bool,
    pub(super) mute_process_io_error: bool,
    pub(super) mute_process_user_error: bool,
    pub(super) mute_process_cgroup_error: bool,
    /// Processes that are younger are left out.
    pub(super) scrape_process_delay: Span,
}

impl DiskConfig {
    pub(super) fn filter(&self, key: &str) -> Result<Filter, Invalid> {
        Devices::filter(key, (self.include.as_ref(), "include"), (self.exclude.as_ref(), "exclude"))
    }
}

impl NetworkConfig {
    pub(super) fn filter(&self, key: &str) -> Result<Filter, Invalid> {
        Interfaces::filter(key, (self.include.as_ref(), "include"), (self.exclude.as_ref(), "exclude"))
    }
}

impl FilesystemConfig {
    /// Filters of devices, types and mount points.
    pub(super) fn filters(&self, key: &str) -> Result<[Filter; 3], Invalid> {
        let devices = (self.include_devices.as_ref(), "include_devices");
        let types = (self.include_fs_types.as_ref(), "include_fs_types");
        let mounts = (self.include_mount_points.as_ref(), "include_mount_points");
        Ok([
            Devices::filter(key, devices, (self.exclude_devices.as_ref(), "exclude_devices"))?,
            FsTypes::filter(key, types, (self.exclude_fs_types.as_ref(), "exclude_fs_types"))?,
            MountPoints::filter(key, mounts, (self.exclude_mount_points.as_ref(), "exclude_mount_points"))?,
        ])
    }
}

impl ProcessConfig {
    pub(super) fn filter(&self, key: &str) -> Result<Filter, Invalid> {
        Names::filter(key, (self.include.as_ref(), "include"), (self.exclude.as_ref(), "exclude"))
    }

    /// Whether a resource has this attribute.
    pub(super) fn has_attribute(&self, name: &str) -> bool {
        let default = scrapers::PROCESS_ATTRIBUTES.iter().any(|(n, on)| *n == name && *on);
        self.resource_attributes.get(name).map_or(default, |toggle| toggle.enabled)
    }
}

impl Component for ScraperConfig {
    const KINDS: &'static [&'static str] = &Kind::NAMES;
    const NOUN: &'static str = "scraper";

    fn deserialize_kind<'de, A: MapAccess<'de>>(kind: &str, map: &mut A) -> Result<Self, A::Error> {
        let (metrics, options) = match kind {
            "load" => {
                let c: LoadConfig = settings_or_default(map)?;
                (c.metrics.clone(), Options::Load(c))
            }
            "disk" => {
                let c: DiskConfig = settings_or_default(map)?;
                (c.metrics.clone(), Options::Disk(c))
            }
            "network" => {
                let c: NetworkConfig = settings_or_default(map)?;
                (c.metrics.clone(), Options::Network(c))
            }
            "filesystem" => {
                let c: FilesystemConfig = settings_or_default(map)?;
                (c.metrics.clone(), Options::Filesystem(Box::new(c)))
            }
            "process" => {
                let c: ProcessConfig = settings_or_default(map)?;
                (c.metrics.clone(), Options::Process(Box::new(c)))
            }
            _ => (settings_or_default::<PlainConfig, A>(map)?.metrics, Options::Nothing),
        };
        Ok(Self { kind: Kind::named(kind), metrics, options })
    }
}

impl ScraperConfig {
    /// The metrics that are measured, and how.
    pub(super) fn wanted(&self) -> impl Iterator<Item = Wanted> {
        self.kind.metrics().iter().filter_map(|description| {
            let said = self.metrics.get(description.name);
            let is_wanted = |key: &&str| match said.and_then(|s| s.attributes.as_ref()) {
                Some(attributes) => attributes.iter().any(|a| a == key),
                None => *key != description.opt_in,
            };
            let default = if description.shape == Shape::Gauge { Aggregation::Avg } else { Aggregation::Sum };
            let wanted = Wanted {
                description,
                attributes: description.attributes.iter().copied().filter(is_wanted).collect(),
                aggregation: said.and_then(|s| s.aggregation_strategy).unwrap_or(default),
            };
            said.and_then(|s| s.enabled).unwrap_or(description.on).then_some(wanted)
        })
    }

    /// Names that the scraper does not have.
    fn problems(&self, key: &str, wrong: &mut Vec<Invalid>) {
        let known: Vec<&str> = self.kind.metrics().iter().map(|m| m.name).collect();
        let strange = self.metrics.keys().filter(|name| !known.contains(&name.as_str()));
        wrong.extend(strange.map(|n| Invalid::new(format!("{key}.metrics"), unknown("metric", n, &known))));
        for m in self.kind.metrics() {
            let said = self.metrics.get(m.name).and_then(|s| s.attributes.as_ref());
            let strange = said.into_iter().flatten().filter(|a| !m.attributes.contains(&a.as_str()));
            let key = format!("{key}.metrics");
            wrong.extend(strange.map(|a| {
                Invalid::new(&key, format!("{}: {}", m.name, unknown("attribute", a, m.attributes)))
            }));
        }
        if let Options::Process(process) = &self.options {
            let known: Vec<&str> = scrapers::PROCESS_ATTRIBUTES.iter().map(|(name, _)| *name).collect();
            let strange = process.resource_attributes.keys().filter(|n| !known.contains(&n.as_str()));
            let key = format!("{key}.resource_attributes");
            wrong.extend(strange.map(|n| Invalid::new(&key, unknown("resource attribute", n, &known))));
        }
        wrong.extend(scrapers::build(self, key).err());
    }
}

impl HostMetricsConfig {
    /// Everything that is wrong with the section `key`.
    pub(crate) fn problems(&self, key: &str, wrong: &mut Vec<Invalid>) {
        if self.collection_interval < Span::millis(100) {
            wrong.push(Invalid::new(format!("{key}.collection_interval"), "must be at least 100ms"));
        }
        if self.scrapers.0.is_empty() {
            let message = format!("is empty; name at least one of {}", Kind::NAMES.join(", "));
            wrong.push(Invalid::new(format!("{key}.scrapers"), message));
        }
        let root = self.root_path.as_os_str();
        if !root.is_empty() && !self.root_path.is_absolute() {
            wrong.push(Invalid::new(format!("{key}.root_path"), "must be an absolute path"));
        }
        for (name, scraper) in self.scrapers.iter() {
            let key = format!("{key}.scrapers.{name}");
            if name.contains('/') {
                wrong.push(Invalid::new(&key, "a scraper has no name of its own; use another receiver"));
            }
            scraper.problems(&key, wrong);
        }
    }
}
