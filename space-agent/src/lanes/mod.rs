//! Lanes: priority classes with an order, a lifetime, a quota and a share of each contact.
//!
//! A lane has a number; a smaller one is more urgent. Rules say which items go into a lane ([`Rules`]), and an item that no rule
//! takes goes into the bulk lane. Requests are split while they are sealed ([`Part`]); until then they stand in the journal as
//! they came.

mod rules;
mod split;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use perigee_shared::config::Invalid;
use perigee_shared::segment::Lane;
use perigee_shared::units::{ByteSize, Span};
use serde::{Deserialize, Deserializer, de};

use rules::MAX_RULES;
pub use rules::{RuleConfig, Rules, Severity, SpanStatus};
pub use split::{Part, Share};

/// The largest number of a lane.
pub const MAX_LANE: u8 = 15;

/// The name of [`Lane::BULK`].
pub const BULK: &str = "bulk";

/// The share of bulk when nothing is said, so that it never starves.
pub const BULK_SHARE: f64 = 0.1;

/// Lanes at once, bulk included: each may have two segments on the link, which has room for sixteen.
const MAX_LANES: usize = 8;

/// In which order a lane's segments are sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// By number.
    #[default]
    OldestFirst,
    /// Against the numbers: what is new goes before the backlog.
    NewestFirst,
    /// By the time at which a segment's lifetime ends. Within a lane that is the order of the numbers, whatever the clock was set to.
    EarliestExpiry,
}

/// What a lane drops when its quota is used up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuotaPolicy {
    /// Its oldest segments.
    #[default]
    DropOldest,
    /// Its newest segments.
    DropNewest,
}

/// A share of a whole, written as `20%`; from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default)]
pub struct Percent(pub f64);

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let number: Option<f64> = text.trim().strip_suffix('%').and_then(|n| n.trim().parse().ok());
        match number {
            Some(n) if (0.0..=100.0).contains(&n) => Ok(Self(n / 100.0)),
            _ => {
                Err(de::Error::custom(format!("`{text}` is not a share; write for example 20%, up to 100%")))
            }
        }
    }
}

/// One of `lanes`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LaneConfig {
    /// Its number, from 1 to [`MAX_LANE`]; a smaller one is more urgent, bulk is 8. It is stored with the data: keep it.
    pub number: Option<u8>,
    /// An item that one of these takes goes into the lane.
    #[serde(rename = "match")]
    pub rules: Vec<RuleConfig>,
    /// In which order its segments are sent.
    pub order: Order,
    /// A segment is dropped when it was sealed so long ago.
    pub lifetime: Option<Span>,
    /// Bytes that its segments may have together.
    pub quota: Option<ByteSize>,
    /// What is dropped above that.
    pub when_full: QuotaPolicy,
    /// The part of what is sent in a contact that it gets at least, however much more urgent lanes have; when absent
    /// [`BULK_SHARE`] for bulk and nothing for others.
    pub share: Option<Percent>,
    /// The age that seals a segment while somebody takes it; that of the batch processor when absent.
    pub timeout: Option<Span>,
}

/// `lanes`, by name.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct LanesConfig(pub BTreeMap<String, LaneConfig>);

/// How a lane is kept and sent.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Policy {
    /// In which order its segments are sent.
    pub order: Order,
    /// A segment is dropped when it was sealed so long ago.
    pub lifetime: Option<Duration>,
    /// Bytes that its segments may have together.
    pub quota: Option<u64>,
    /// What is dropped above that.
    pub when_full: QuotaPolicy,
    /// The part of what is sent in a contact that it gets at least, from 0 to 1.
    pub share: f64,
    /// The age that seals a segment while somebody takes it; `None`: that of the batch processor.
    pub timeout: Option<Duration>,
}

/// Every lane that is configured.
#[derive(Debug, Clone, Default)]
pub struct Lanes {
    /// What goes where.
    pub rules: Arc<Rules>,
    /// How each lane is kept and sent; one that is not in it has the defaults.
    pub policies: BTreeMap<Lane, Policy>,
    /// Names, for people.
    pub names: BTreeMap<Lane, String>,
}

impl Lanes {
    /// How `lane` is kept and sent.
    pub fn policy(&self, lane: Lane) -> Policy {
        self.policies.get(&lane).copied().unwrap_or_default()
    }

    /// What `lane` is called: its name, or its number when it has left the configuration.
    pub fn name(&self, lane: Lane) -> String {
        match self.names.get(&lane) {
            Some(name) => name.clone(),
            None if lane == Lane::BULK => BULK.to_owned(),
            None => lane.to_string(),
        }
    }
}

impl LanesConfig {
    /// Everything that is wrong with them; whether they make sense together once each does alone.
    pub fn problems(&self) -> Vec<Invalid> {
        let alone: Vec<Invalid> = self.0.iter().flat_map(|(name, lane)| lane.problems(name)).collect();
        if alone.is_empty() { self.lanes().err().into_iter().collect() } else { alone }
    }

    /// The lanes, or why they make no sense together.
    pub fn lanes(&self) -> Result<Lanes, Invalid> {
        let mut lanes = Lanes::default();
        let mut rules = Vec::new();
        let mut shares = 0.0;
        for (name, config) in &self.0 {
            let lane = config.lane(name)?;
            if let Some(other) = lanes.names.insert(lane, name.clone()) {
                let message = format!("{lane} is the number of `{other}` already; choose another");
                return Err(Invalid::new(format!("lanes.{name}.number"), message));
            }
            rules.extend(config.rules.iter().map(|rule| (lane, rule.clone())));
            shares += config.share.map_or(0.0, |share| share.0);
            lanes.policies.insert(lane, config.policy());
        }
        let bulk = lanes.policies.entry(Lane::BULK).or_default();
        if self.0.get(BULK).is_none_or(|bulk| bulk.share.is_none()) {
            bulk.share = BULK_SHARE.min(1.0 - shares).max(0.0);
        }
        if lanes.policies.len() > MAX_LANES {
            return Err(Invalid::new("lanes", format!("there may be {MAX_LANES}, bulk included; join some")));
        }
        if shares > 1.0 {
            return Err(Invalid::new("lanes", "the shares of all lanes together are above 100%"));
        }
        // The agent's own alarms go before everything else.
        if let Some(first) = lanes.policies.keys().next().filter(|first| **first < Lane::BULK)
            && rules.len() < MAX_RULES
        {
            rules.push((*first, RuleConfig::own_alarms()));
        }
        lanes.rules = Arc::new(Rules::try_new(rules).map_err(|message| Invalid::new("lanes", message))?);
        Ok(lanes)
    }
}

impl LaneConfig {
    fn lane(&self, name: &str) -> Result<Lane, Invalid> {
        match self.problems(name).into_iter().next() {
            Some(wrong) => Err(wrong),
            None if name == BULK => Ok(Lane::BULK),
            None => Ok(Lane(self.number.unwrap_or_default())),
        }
    }

    /// Everything that is wrong with it, whatever other lanes there are.
    fn problems(&self, name: &str) -> Vec<Invalid> {
        let mut wrong = Vec::new();
        let mut check = |right: bool, part: &str, message: String| {
            if !right {
                wrong.push(Invalid::new(format!("lanes.{name}.{part}"), message));
            }
        };
        if name == BULK {
            let message = "bulk takes what no other lane takes; leave `match` out";
            check(self.rules.is_empty(), "match", message.to_owned());
            let message = "the number of bulk is 8; leave it out";
            check(self.number.is_none_or(|n| n == Lane::BULK.0), "number", message.to_owned());
        } else {
            let message = "is empty; say which items go into this lane";
            check(!self.rules.is_empty(), "match", message.to_owned());
            let message = match self.number {
                Some(_) => format!("must be from 1 to {MAX_LANE} and not 8, which is bulk"),
                None => "is missing; a smaller number is more urgent, bulk is 8".to_owned(),
            };
            let fits = |n: u8| (1..=MAX_LANE).contains(&n) && n != Lane::BULK.0;
            check(self.number.is_some_and(fits), "number", message);
        }
        let short = self.lifetime.is_some_and(|l| l < Span::secs(1));
        check(!short, "lifetime", "must be at least 1s".to_owned());
        let small = self.quota.is_some_and(|q| q < ByteSize::kib(64));
        check(!small, "quota", "must be at least 64KiB".to_owned());
        for (n, rule) in self.rules.iter().enumerate() {
            if let Err(message) = rule.validate() {
                check(false, &format!("match[{n}]"), message);
            }
        }
        wrong
    }

    fn policy(&self) -> Policy {
        Policy {
            order: self.order,
            lifetime: self.lifetime.map(|l| l.0),
            quota: self.quota.map(|q| q.0),
            when_full: self.when_full,
            share: self.share.map_or(0.0, |share| share.0),
            timeout: self.timeout.map(|t| t.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes(text: &str) -> Result<Lanes, String> {
        let config: LanesConfig =
            perigee_shared::config::parse(text, "agent.yaml", |_| None).map_err(|e| e.to_string())?;
        config.lanes().map_err(|e| format!("{}: {}", e.key, e.message))
    }

    #[test]
    fn a_lane_has_a_number_rules_and_limits() {
        let lanes = lanes(
            "alarms: {number: 1, match: [{severity: error}], order: newest_first, lifetime: 1h, timeout: 0s}\n\
             bulk: {share: 20%, quota: 1MiB}\n",
        )
        .unwrap();
        assert!(!lanes.rules.is_empty());
        let alarms = lanes.policy(Lane(1));
        assert_eq!((alarms.order, alarms.lifetime), (Order::NewestFirst, Some(Duration::from_secs(3600))));
        assert_eq!(lanes.policy(Lane::BULK).share, 0.2);
        assert_eq!(lanes.policy(Lane(3)), Policy::default());
        assert_eq!((lanes.name(Lane(1)), lanes.name(Lane(3))), ("alarms".to_owned(), "3".to_owned()));
    }

    #[test]
    fn lanes_that_make_no_sense_are_named() {
        for (text, part) in [
            ("a: {match: [{severity: error}]}", "lanes.a.number"),
            ("a: {number: 8, match: [{severity: error}]}", "lanes.a.number"),
            ("a: {number: 1}", "lanes.a.match"),
            ("a: {number: 1, match: [{}]}", "lanes.a.match[0]"),
            ("a: {number: 1, match: [{signal: traces, severity: error}]}", "lanes.a.match[0]"),
            ("a: {number: 1, match: [{status: error, severity: error}]}", "lanes.a.match[0]"),
            ("bulk: {match: [{severity: error}]}", "lanes.bulk.match"),
            ("bulk: {share: 30}", "is not a share"),
            ("bulk: {order: fastest}", "`fastest`"),
            ("a: {number: 1, share: 90%, match: [{severity: error}]}\nbulk: {share: 20%}", "100%"),
            (
                "a: {number: 1, match: [{severity: error}]}\nb: {number: 1, match: [{severity: warn}]}",
                "already",
            ),
        ] {
            let error = lanes(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn every_mistake_of_every_lane_is_named_at_once() {
        let text = "x: {match: [], quota: 1KiB}\ny: {number: 3}\nbulk: {number: 2}";
        let config: LanesConfig = perigee_shared::config::parse(text, "agent.yaml", |_| None).unwrap();
        let keys: Vec<String> = config.problems().into_iter().map(|p| p.key).collect();
        assert_eq!(
            keys,
            ["lanes.bulk.number", "lanes.x.match", "lanes.x.number", "lanes.x.quota", "lanes.y.match"]
        );
    }
}
