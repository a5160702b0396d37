//! Scenarios: what is simulated, as people write it.
//!
//! ```yaml
//! seed: 1
//! start: 2026-03-01T00:00:00Z
//! duration: 24h
//! stations: [svalbard, beijing]
//! telemetry: {raw_per_day: 60MB}
//! link: {down: {rate: 20Mbit/s, delay: 4ms}, up: {rate: 1Mbit/s, delay: 4ms}}
//! passes: {per_day: 14, shortest: 5m, longest: 9m}
//! ```

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use linkem::config::{Burst, Queue, Reorder, parse_chance};
use perigee_shared::config::{self, ConfigError, Invalid};
use perigee_shared::contact::parse_rate;
use perigee_shared::link::tls::is_valid_id;
use perigee_shared::segment::Codec;
use perigee_shared::units::{ByteSize, Span};
use serde::{Deserialize, Deserializer, de};

use crate::items::Shape;

/// The longest time that can be simulated.
const LONGEST: Duration = Duration::from_secs(3_660 * 86_400 / 10);

/// Everything in a scenario file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Of all chance.
    #[serde(default)]
    pub seed: u64,
    /// What the clocks show at the start.
    #[serde(default)]
    pub start: Time,
    /// How long it goes on.
    pub duration: Span,
    /// How many satellites: `sat-0`, `sat-1`, ...
    #[serde(default = "one")]
    pub satellites: u16,
    /// Stations, by id.
    pub stations: Vec<String>,
    /// Whose ledger they commit into.
    #[serde(default)]
    pub ledger: Ledger,
    /// What the payloads send.
    pub telemetry: Telemetry,
    /// The link in a contact.
    pub link: Link,
    /// Contacts made by chance.
    pub passes: Option<Passes>,
    /// Contacts one by one.
    #[serde(default)]
    pub contacts: Vec<Contact>,
    /// What the agents are configured with.
    #[serde(default)]
    pub agent: Agent,
    /// What the grounds are configured with.
    #[serde(default)]
    pub ground: Ground,
    /// What goes wrong.
    #[serde(default)]
    pub faults: Vec<Fault>,
    /// What clocks are set to.
    #[serde(default)]
    pub clocks: Vec<ClockSet>,
}

const fn one() -> u16 {
    1
}

/// A time as RFC 3339, since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time(pub Duration);

impl Default for Time {
    /// 2026-01-01.
    fn default() -> Self {
        Self(Duration::from_secs(1_767_225_600))
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let time = humantime::parse_rfc3339_weak(&text).ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
        time.map(Self).ok_or_else(|| {
            de::Error::custom(format!("`{text}` is not a time; write for example 2026-03-01T00:00:00Z"))
        })
    }
}

/// Whose ledger stations commit into.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ledger {
    /// Each station has a ground-station and a ledger of its own.
    #[default]
    Own,
    /// One ground-station serves them all.
    Shared,
}

/// What the payloads of a satellite send.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    /// OTLP bytes a day, before compression.
    #[serde(default)]
    pub raw_per_day: ByteSize,
    /// Time between two requests.
    #[serde(default = "default_every")]
    pub every: Span,
    /// Bytes of one item.
    #[serde(default = "default_item")]
    pub item_bytes: ByteSize,
    /// Whether it repeats itself as telemetry does; else it is random bytes.
    #[serde(default = "yes")]
    pub compressible: bool,
    /// Keeps so many bytes on board at all times during a contact, whatever `raw_per_day` says, so that every pass is filled.
    pub backlog: Option<ByteSize>,
}

const fn default_every() -> Span {
    Span::secs(120)
}

const fn default_item() -> ByteSize {
    ByteSize(500)
}

const fn yes() -> bool {
    true
}

impl Telemetry {
    /// What an item looks like.
    pub fn shape(&self) -> Shape {
        Shape { item_bytes: self.item_bytes.as_usize(), compressible: self.compressible }
    }
}

/// The link in a contact, and what the plan says of it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// From the satellite to the ground.
    pub down: Way,
    /// From the ground to the satellite.
    pub up: Way,
    /// Whether the plan names rates and light time.
    #[serde(default = "yes")]
    pub planned: bool,
    /// What the plan says to keep free at the end.
    #[serde(default)]
    pub guard: Span,
    /// Segment bytes that the plan allows in a contact.
    pub byte_budget: Option<ByteSize>,
    /// Whether there is a new plan in each pass, by which this pass and all later ones begin and end some seconds off.
    #[serde(default)]
    pub replanned: bool,
    /// How often there is one in a pass, but for its first and last ten seconds, where it is not just once in the middle.
    pub replanned_every: Option<Span>,
}

/// One direction of a link.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Way {
    /// UDP payload bits a second.
    #[serde(deserialize_with = "rate")]
    pub rate: u64,
    /// The time on the way.
    pub delay: Span,
    /// The chance that a packet is lost by itself, such as `0.1%`.
    #[serde(default, deserialize_with = "chance")]
    pub loss: f64,
    /// Losses that come together, such as `0.1%:20`: chance and packets.
    #[serde(default, deserialize_with = "parsed")]
    pub burst: Option<Burst>,
    /// Packets that are overtaken, such as `1%:5ms`: chance and for how long they are held.
    #[serde(default, deserialize_with = "parsed")]
    pub reorder: Option<Reorder>,
    /// What may wait for the link, such as `1bdp` or `64KiB`.
    #[serde(default, deserialize_with = "queue")]
    pub queue: Queue,
}

impl Way {
    /// As the network has it.
    pub fn path(&self) -> linkem::Path {
        linkem::Path {
            rate: Some(self.rate),
            overhead: 0,
            delay: self.delay.0,
            queue: self.queue,
            loss: self.loss,
            burst: self.burst,
            reorder: self.reorder,
        }
    }
}

fn rate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    parse_rate(&String::deserialize(deserializer)?).map_err(de::Error::custom)
}

fn chance<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    parse_chance(&String::deserialize(deserializer)?).map_err(de::Error::custom)
}

fn queue<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Queue, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
}

fn parsed<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: std::str::FromStr<Err = String>,
{
    String::deserialize(deserializer)?.parse().map(Some).map_err(de::Error::custom)
}

/// Contacts made by chance: so many a day for each satellite, spread evenly, with the stations by lot.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Passes {
    /// How many a day.
    pub per_day: f64,
    /// The shortest.
    pub shortest: Span,
    /// The longest.
    pub longest: Span,
    /// The chance that a pass ends before the plan says so, at any time in it.
    #[serde(default, deserialize_with = "chance")]
    pub cut: f64,
    /// The chance that another station sees the satellite too, from somewhere in the second half of a pass on.
    #[serde(default, deserialize_with = "chance")]
    pub handover: f64,
}

/// One contact; times since the start.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contact {
    /// The satellite's number.
    #[serde(default)]
    pub satellite: u16,
    /// The station's id.
    pub station: String,
    /// AOS.
    pub start: Span,
    /// LOS as the plan has it.
    pub end: Span,
    /// LOS as it is, when that is earlier.
    pub cut: Option<Span>,
}

/// What the agents are configured with.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Agent {
    /// `storage.max_bytes`.
    pub max_bytes: ByteSize,
    /// `storage.when_full`.
    pub when_full: WhenFull,
    /// `processors.batch.codec`.
    pub codec: Codec,
    /// `lanes.bulk.lifetime`.
    pub lifetime: Option<Span>,
    /// `contacts.probe.interval`.
    pub probe_interval: Span,
    /// `contacts.probe.duration`.
    pub probe_duration: Span,
    /// `contacts.simultaneous`.
    pub simultaneous: usize,
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            max_bytes: ByteSize::mib(1024),
            when_full: WhenFull::default(),
            codec: Codec::default(),
            lifetime: None,
            probe_interval: Span::secs(600),
            probe_duration: Span::secs(30),
            simultaneous: 1,
        }
    }
}

/// What an agent does when its store is full.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// Refuses.
    #[default]
    Refuse,
    /// Drops the oldest.
    DropOldest,
    /// Drops what comes.
    DropNewest,
}

impl WhenFull {
    /// As the agent's configuration has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::DropOldest => "drop_oldest",
            Self::DropNewest => "drop_newest",
        }
    }
}

/// What the grounds are configured with.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ground {
    /// Items a second that a backend takes; 0: any number.
    pub export_rate: u64,
}

/// Something goes wrong.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// When, since the start.
    pub at: Span,
    /// What.
    pub kind: FaultKind,
    /// `sat-N`, or a station's id (with a shared ledger it is the one ground-station).
    pub node: String,
    /// How long it is gone.
    #[serde(default)]
    pub down: Span,
    /// What its clock shows when the power is back; absent: it has gone on.
    pub clock: Option<Time>,
}

/// A wall clock is set.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClockSet {
    /// When, since the start.
    pub at: Span,
    /// `sat-N`, or a station's id.
    pub node: String,
    /// To what.
    pub to: Setting,
}

/// What a wall clock is set to: `right`, a time as RFC 3339, `20y` too far or `-20y`, or a speed such as `x-1` or `x0.5`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Setting {
    /// This time since the Unix epoch.
    To(Duration),
    /// Ahead of the right time.
    Ahead(Duration),
    /// Behind it.
    Behind(Duration),
    /// From what it shows on, so many times as fast.
    Rate(f64),
}

impl std::str::FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no setting of a clock: write right, a time, 20y, -20y or x-1");
        if text == "right" {
            return Ok(Self::Ahead(Duration::ZERO));
        }
        if let Some(rate) = text.strip_prefix('x') {
            return rate.parse().ok().filter(|r: &f64| r.abs() <= 1000.0).map(Self::Rate).ok_or_else(wrong);
        }
        if let Ok(time) = humantime::parse_rfc3339_weak(text) {
            return time.duration_since(UNIX_EPOCH).map(Self::To).map_err(|_| wrong());
        }
        match text.strip_prefix('-') {
            Some(behind) => humantime::parse_duration(behind).map(Self::Behind),
            None => humantime::parse_duration(text).map(Self::Ahead),
        }
        .map_err(|_| wrong())
    }
}

impl<'de> Deserialize<'de> for Setting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer)?.ok_or_else(|| de::Error::custom("is missing"))
    }
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FaultKind {
    /// It is stopped in order and started again.
    Restart,
    /// Its power goes: what was not synced is lost.
    Crash,
    /// Its power goes, and some of what was not synced is on the disk, torn where it likes.
    Torn,
}

impl Scenario {
    /// Reads and checks the file at `path`.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let scenario: Self = config::load(path, |_| None)?;
        scenario.validate().map_err(|Invalid { key, message }| ConfigError::Invalid {
            path: path.display().to_string(),
            key,
            message,
        })?;
        Ok(scenario)
    }

    /// The satellite's id.
    pub fn satellite_id(number: u16) -> String {
        format!("sat-{number}")
    }

    /// Whether the keys make sense together.
    pub fn validate(&self) -> Result<(), Invalid> {
        let duration = self.duration.0;
        if duration.is_zero() || duration > LONGEST {
            return Err(Invalid::new("duration", "must be above 0 and at most a year"));
        }
        if !(1..=10_000).contains(&self.satellites) {
            return Err(Invalid::new("satellites", "must be from 1 to 10000"));
        }
        self.validate_stations()?;
        self.validate_telemetry()?;
        for (key, way) in [("link.down", &self.link.down), ("link.up", &self.link.up)] {
            if way.rate < 1_000 {
                return Err(Invalid::new(format!("{key}.rate"), "must be at least 1kbit/s"));
            }
            if way.delay.0 > Duration::from_secs(60) {
                return Err(Invalid::new(format!("{key}.delay"), "must be at most 60s"));
            }
        }
        self.validate_contacts()?;
        for (n, set) in self.clocks.iter().enumerate() {
            if self.node(&set.node).is_none() {
                return Err(Invalid::new(format!("clocks[{n}].node"), format!("there is no `{}`", set.node)));
            }
        }
        for (n, fault) in self.faults.iter().enumerate() {
            let key = |name: &str| format!("faults[{n}].{name}");
            if self.node(&fault.node).is_none() {
                let message = format!(
                    "there is no `{}`; write sat-0 to sat-{} or a station",
                    fault.node,
                    self.satellites - 1
                );
                return Err(Invalid::new(key("node"), message));
            }
            if fault.at.0 + fault.down.0 >= duration {
                return Err(Invalid::new(key("at"), "must be over before the end of the simulation"));
            }
        }
        Ok(())
    }

    fn validate_stations(&self) -> Result<(), Invalid> {
        if self.stations.is_empty() {
            return Err(Invalid::new("stations", "needs at least one"));
        }
        for (n, id) in self.stations.iter().enumerate() {
            if !is_valid_id(id) || id.starts_with("sat-") {
                let message = "is not a station's id: 1 to 63 of a-z, 0-9 and -, and not sat-...";
                return Err(Invalid::new(format!("stations[{n}]"), message));
            }
            if self.stations[..n].contains(id) {
                return Err(Invalid::new(format!("stations[{n}]"), format!("`{id}` is there twice")));
            }
        }
        Ok(())
    }

    fn validate_telemetry(&self) -> Result<(), Invalid> {
        let telemetry = &self.telemetry;
        if telemetry.every.0 < Duration::from_millis(1) {
            return Err(Invalid::new("telemetry.every", "must be at least 1ms"));
        }
        if !(128..=1 << 20).contains(&telemetry.item_bytes.0) {
            return Err(Invalid::new("telemetry.item_bytes", "must be from 128B to 1MiB"));
        }
        let request = telemetry.raw_per_day.0 as f64 * telemetry.every.0.as_secs_f64() / 86_400.0;
        if request > f64::from(4u32 << 20) {
            return Err(Invalid::new("telemetry.every", "makes requests above 4MiB; send more often"));
        }
        Ok(())
    }

    fn validate_contacts(&self) -> Result<(), Invalid> {
        if self.passes.is_some() != self.contacts.is_empty() {
            return Err(Invalid::new("passes", "write either passes or contacts"));
        }
        if let Some(passes) = &self.passes {
            let slot = 86_400.0 / passes.per_day;
            let at_once = if passes.handover > 0.0 { 2.0 } else { 1.0 };
            if !(passes.per_day > 0.0 && slot > at_once * passes.longest.0.as_secs_f64() + 60.0) {
                let message = "must be above 0, and so few that the longest and a minute fit between two";
                return Err(Invalid::new("passes.per_day", message));
            }
            if passes.shortest.0.is_zero() || passes.shortest > passes.longest {
                return Err(Invalid::new("passes.shortest", "must be above 0 and not above longest"));
            }
            if passes.handover > 0.0 && self.stations.len() < 2 {
                return Err(Invalid::new("passes.handover", "needs two stations"));
            }
        }
        // Contacts with different stations may overlap where an agent has two at once.
        let mut ends = BTreeMap::new();
        for (n, contact) in self.contacts.iter().enumerate() {
            let key = |name: &str| format!("contacts[{n}].{name}");
            if contact.satellite >= self.satellites {
                let message = format!("there are {} satellites, numbered from 0", self.satellites);
                return Err(Invalid::new(key("satellite"), message));
            }
            if !self.stations.contains(&contact.station) {
                return Err(Invalid::new(key("station"), format!("stations has no `{}`", contact.station)));
            }
            if contact.end <= contact.start {
                return Err(Invalid::new(key("end"), "must be after start"));
            }
            if contact.end.0 > self.duration.0 {
                return Err(Invalid::new(key("end"), "must not be after the end of the simulation"));
            }
            if contact.cut.is_some_and(|cut| cut <= contact.start || cut > contact.end) {
                return Err(Invalid::new(key("cut"), "must be after start and not after end"));
            }
            let with = Some(&contact.station).filter(|_| self.agent.simultaneous > 1);
            let end = ends.entry((contact.satellite, with)).or_insert(Duration::ZERO);
            if contact.start.0 < *end {
                let message =
                    "must not be before the end of the satellite's contact before it; write them in order";
                return Err(Invalid::new(key("start"), message));
            }
            *end = contact.end.0;
        }
        Ok(())
    }

    /// The node that a fault names.
    pub fn node(&self, name: &str) -> Option<crate::network::Node> {
        use crate::network::Node;
        if let Some(number) = name.strip_prefix("sat-") {
            return number.parse().ok().filter(|n| *n < self.satellites).map(Node::Satellite);
        }
        let at = self.stations.iter().position(|s| s == name)?;
        u16::try_from(at).ok().map(Node::Station)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
duration: 24h
satellites: 2
stations: [svalbard, beijing]
telemetry: {raw_per_day: 60MB}
link:
  down: {rate: 20Mbit/s, delay: 4ms, loss: 0.1%, burst: 0.1%:20, reorder: 1%:5ms, queue: 1bdp}
  up: {rate: 1Mbit/s, delay: 4ms}
contacts:
- {station: svalbard, start: 1h, end: 1h10m}
- {station: beijing, start: 2h, end: 2h10m, cut: 2h5m}
- {satellite: 1, station: beijing, start: 1h, end: 2h}
faults:
- {at: 3h, kind: crash, node: sat-1, down: 1m}
- {at: 4h, kind: restart, node: beijing}
clocks:
- {at: 5h, node: sat-1, to: 1970-01-01T00:00:00Z}
- {at: 6h, node: sat-1, to: -20y}
- {at: 7h, node: sat-1, to: x-1}
- {at: 8h, node: sat-1, to: right}
";

    fn read(text: &str) -> Result<Scenario, String> {
        let scenario: Scenario = config::parse(text, "s.yaml", |_| None).map_err(|e| e.to_string())?;
        scenario.validate().map_err(|e| format!("{}: {}", e.key, e.message))?;
        Ok(scenario)
    }

    #[test]
    fn a_scenario_is_read() {
        let scenario = read(TEXT).unwrap();
        assert_eq!(scenario.link.down.burst, Some(Burst { chance: 0.001, length: 20.0 }));
        assert_eq!(scenario.link.down.path().overhead, 0);
        assert_eq!(scenario.ledger, Ledger::Own);
        let years = Duration::from_secs(20 * 31_557_600);
        let settings = [Setting::To(Duration::ZERO), Setting::Behind(years), Setting::Rate(-1.0)];
        assert_eq!(scenario.clocks.iter().take(3).map(|c| c.to).collect::<Vec<_>>(), settings);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (from, to, expected) in [
            ("duration: 24h", "duration: 0s", "duration"),
            ("satellites: 2", "satellites: 0", "satellites"),
            ("[svalbard, beijing]", "[svalbard, beijing, beijing]", "stations[2]"),
            ("[svalbard, beijing]", "[svalbard, beijing, sat-9]", "stations[2]"),
            ("raw_per_day: 60MB", "raw_per_day: 60MB, every: 24h", "telemetry.every"),
            ("raw_per_day: 60MB", "raw_per_day: 60MB, item_bytes: 1B", "telemetry.item_bytes"),
            ("rate: 20Mbit/s", "rate: 20", "rate"),
            ("loss: 0.1%", "loss: lots", "lots"),
            ("queue: 1bdp", "queue: 1bpd", "1bpd"),
            ("rate: 1Mbit/s, delay: 4ms", "rate: 1Mbit/s, delay: 1h", "link.up.delay"),
            ("start: 2h,", "start: 1h5m,", "contacts[1].start"),
            ("cut: 2h5m", "cut: 3h", "contacts[1].cut"),
            ("satellite: 1", "satellite: 2", "contacts[2].satellite"),
            ("{station: svalbard", "{station: mars", "contacts[0].station"),
            ("node: sat-1", "node: sat-2", "faults[0].node"),
            ("at: 4h", "at: 24h", "faults[1].at"),
            ("kind: restart", "kind: explode", "explode"),
            ("to: -20y", "to: soon", "soon"),
            ("to: right", "to: xyz", "xyz"),
            ("{at: 8h, node: sat-1", "{at: 8h, node: sat-2", "clocks[3].node"),
            ("  up:", "  upp:", "did you mean `up`"),
        ] {
            assert!(TEXT.contains(from), "{from}");
            let error = read(&TEXT.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(expected), "{to}: {error}");
        }
        let both = format!("{TEXT}passes: {{per_day: 14, shortest: 5m, longest: 9m}}\n");
        assert!(read(&both).unwrap_err().contains("either"));
        let text = "
duration: 24h
stations: [svalbard]
telemetry: {raw_per_day: 60MB}
link: {down: {rate: 1Mbit/s, delay: 4ms}, up: {rate: 1Mbit/s, delay: 4ms}}
passes: {per_day: 14, shortest: 5m, longest: 9m, handover: 10%}
";
        assert!(read(text).unwrap_err().contains("two stations"));
    }
}
