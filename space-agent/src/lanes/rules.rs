//! Rules: which items go into which lane, decided on the bytes of a request.
//!
//! A rule takes an item when all of its conditions hold. Of the rules that take an item the one of the most urgent lane counts.
//! A request is walked from the outside in: conditions on the resource and on the scope are decided once for each branch, and
//! what no rule can take any more is not looked at.
//!
//! Rules are stored in the log as JSON, `[[lane, rule], ...]`, with the number of the journal group from which on they hold. What
//! they mean must not change, since groups are split after a restart as before; a condition that earlier software does not know
//! needs a later format of the log (`wal/tables.rs`), which that software refuses.

use std::collections::BTreeMap;

use perigee_shared::otlp::protobuf::{Fields, Malformed, Value};
use perigee_shared::otlp::tree::{NAME, message};
use perigee_shared::segment::Lane;
use perigee_shared::signal::Signal;
use serde::{Deserialize, Serialize};

/// As many rules as a [`Mask`] has bits.
pub(super) const MAX_RULES: usize = 64;

/// The least severity of a log record, by the names of OpenTelemetry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Severity {
    /// TRACE
    Trace = 1,
    /// DEBUG
    Debug = 5,
    /// INFO
    Info = 9,
    /// WARN
    Warn = 13,
    /// ERROR
    Error = 17,
    /// FATAL
    Fatal = 21,
}

/// The status code of a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum SpanStatus {
    /// Not set.
    Unset = 0,
    /// The operation was marked as successful.
    Ok = 1,
    /// It has failed.
    Error = 2,
}

/// The name of a signal in a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SignalName {
    /// Spans.
    Traces,
    /// Metric data points.
    Metrics,
    /// Log records.
    Logs,
}

impl From<SignalName> for Signal {
    fn from(name: SignalName) -> Self {
        match name {
            SignalName::Traces => Self::Traces,
            SignalName::Metrics => Self::Metrics,
            SignalName::Logs => Self::Logs,
        }
    }
}

/// One rule: an item is taken when everything that is written here holds. `*` in a pattern stands for any text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RuleConfig {
    /// Of this signal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<SignalName>,
    /// A log record of this severity or above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub severity: Option<Severity>,
    /// A span with this status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<SpanStatus>,
    /// A point of a metric whose name has this pattern.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
    /// The name of the instrumentation scope, a pattern.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Attributes of the resource, by key, each a pattern.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub resource_attributes: BTreeMap<String, String>,
    /// Attributes of the scope, by key, each a pattern.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub scope_attributes: BTreeMap<String, String>,
}

impl RuleConfig {
    /// Takes what the agent says of itself and somebody has to look at.
    pub(super) fn own_alarms() -> Self {
        let resource_attributes = [("service.name".to_owned(), "space-agent".to_owned())].into();
        Self { severity: Some(Severity::Error), resource_attributes, ..Self::default() }
    }

    /// The signal that the conditions can only be about.
    fn implied(&self) -> Vec<Signal> {
        let mut out: Vec<Signal> = self.signal.map(Signal::from).into_iter().collect();
        out.extend(self.severity.map(|_| Signal::Logs));
        out.extend(self.status.map(|_| Signal::Traces));
        out.extend(self.metric.as_ref().map(|_| Signal::Metrics));
        out
    }

    /// Whether there is an item that it could take, and one that it could not.
    pub(super) fn validate(&self) -> Result<(), String> {
        if *self == Self::default() {
            return Err("has no condition; it would take everything".into());
        }
        let implied = self.implied();
        if let Some(other) = implied.iter().find(|s| **s != implied[0]) {
            return Err(format!(
                "can never hold: one condition is about {}, another about {other} (severity is of logs, status of traces, metric of metrics)",
                implied[0]
            ));
        }
        Ok(())
    }
}

/// One bit for each rule.
pub(super) type Mask = u64;

/// What goes where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules(Vec<(Lane, RuleConfig)>);

impl Rules {
    /// Rules, most urgent lane first.
    pub fn try_new(mut rules: Vec<(Lane, RuleConfig)>) -> Result<Self, String> {
        if rules.len() > MAX_RULES {
            return Err(format!("there are {} rules, more than {MAX_RULES}; join some", rules.len()));
        }
        rules.sort_by_key(|(lane, _)| *lane);
        Ok(Self(rules))
    }

    /// Whether everything goes into the bulk lane.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The lanes that a rule names.
    pub fn lanes(&self) -> impl Iterator<Item = Lane> {
        self.0.iter().map(|(lane, _)| *lane)
    }

    /// As they are stored.
    pub fn to_bytes(&self) -> Vec<u8> {
        let rules: Vec<(u8, &RuleConfig)> = self.0.iter().map(|(lane, rule)| (lane.0, rule)).collect();
        serde_json::to_vec(&rules).unwrap_or_default()
    }

    /// The inverse of [`Rules::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let rules: Vec<(u8, RuleConfig)> = serde_json::from_slice(bytes).ok()?;
        if rules.iter().any(|(lane, _)| *lane > super::MAX_LANE) {
            return None;
        }
        Self::try_new(rules.into_iter().map(|(lane, rule)| (Lane(lane), rule)).collect()).ok()
    }

    fn those(&self, mask: Mask) -> impl Iterator<Item = (usize, &(Lane, RuleConfig))> {
        self.0.iter().enumerate().filter(move |(n, _)| mask & (1 << n) != 0)
    }

    fn keep(
        &self,
        mask: Mask,
        mut holds: impl FnMut(&RuleConfig) -> Result<bool, Malformed>,
    ) -> Result<Mask, Malformed> {
        let mut out = 0;
        for (n, (_, rule)) in self.those(mask) {
            if holds(rule)? {
                out |= 1 << n;
            }
        }
        Ok(out)
    }

    /// Those that can take an item of `signal`.
    pub(super) fn for_signal(&self, signal: Signal) -> Mask {
        let possible = |rule: &RuleConfig| Ok(rule.implied().iter().all(|s| *s == signal));
        self.keep(Mask::MAX, possible).unwrap_or_default()
    }

    /// Those of `mask` that can take an item of this resource's branch.
    pub(super) fn for_resource(&self, mask: Mask, branch: &[u8]) -> Result<Mask, Malformed> {
        self.keep(mask, |rule| {
            if rule.resource_attributes.is_empty() {
                return Ok(true);
            }
            let mut missing: Vec<_> = rule.resource_attributes.iter().collect();
            for resource in Fields::new(branch) {
                let resource = resource?;
                if resource.number == NAME {
                    take_attributes(message(&resource)?, 1, &mut missing)?;
                }
            }
            Ok(missing.is_empty())
        })
    }

    /// Those of `mask` that can take an item of this scope's branch.
    pub(super) fn for_scope(&self, mask: Mask, branch: &[u8]) -> Result<Mask, Malformed> {
        self.keep(mask, |rule| {
            if rule.scope.is_none() && rule.scope_attributes.is_empty() {
                return Ok(true);
            }
            let mut missing: Vec<_> = rule.scope_attributes.iter().collect();
            let mut name: &[u8] = b"";
            for scope in Fields::new(branch) {
                let scope = scope?;
                if scope.number == NAME {
                    let scope = message(&scope)?;
                    take_attributes(scope, 3, &mut missing)?;
                    name = text(scope, 1)?.unwrap_or(name);
                }
            }
            Ok(missing.is_empty() && rule.scope.as_ref().is_none_or(|pattern| matches(pattern, name)))
        })
    }

    /// The lane of an item that only rules of `mask` can take.
    pub(super) fn lane(&self, mask: Mask, item: &[u8]) -> Result<Lane, Malformed> {
        for (_, (lane, rule)) in self.those(mask) {
            let severity = match rule.severity {
                Some(least) => number(item, 2)? >= least as u64,
                None => true,
            };
            let status = match rule.status {
                Some(wanted) => span_status(item)? == wanted as u64,
                None => true,
            };
            let metric = match &rule.metric {
                Some(pattern) => matches(pattern, text(item, 1)?.unwrap_or_default()),
                None => true,
            };
            if severity && status && metric {
                return Ok(*lane);
            }
        }
        Ok(Lane::BULK)
    }
}

/// The varint `field` of a message; the last one counts.
fn number(message: &[u8], field: u32) -> Result<u64, Malformed> {
    let mut out = 0;
    for f in Fields::new(message) {
        let f = f?;
        if let (true, Value::Varint(value)) = (f.number == field, f.value) {
            out = value;
        }
    }
    Ok(out)
}

/// The string `field` of a message; the last one counts.
fn text(message: &[u8], field: u32) -> Result<Option<&[u8]>, Malformed> {
    let mut out = None;
    for f in Fields::new(message) {
        let f = f?;
        if let (true, Value::Bytes(value)) = (f.number == field, f.value) {
            out = Some(value);
        }
    }
    Ok(out)
}

fn span_status(span: &[u8]) -> Result<u64, Malformed> {
    match text(span, 15)? {
        Some(status) => number(status, 3),
        None => Ok(0),
    }
}

/// Takes those out of `missing` that are among the attributes in `field` of a message.
fn take_attributes(
    holder: &[u8],
    field: u32,
    missing: &mut Vec<(&String, &String)>,
) -> Result<(), Malformed> {
    for attribute in Fields::new(holder) {
        let attribute = attribute?;
        if attribute.number != field || missing.is_empty() {
            continue;
        }
        let attribute = message(&attribute)?;
        let key = text(attribute, 1)?.unwrap_or_default();
        if !missing.iter().any(|(k, _)| k.as_bytes() == key) {
            continue;
        }
        let value = shown(text(attribute, 2)?.unwrap_or_default())?;
        missing.retain(|(k, pattern)| k.as_bytes() != key || !matches(pattern, &value));
    }
    Ok(())
}

/// The value of an attribute as text: strings as they are, numbers and truth values as JSON writes them, others as nothing.
fn shown(any_value: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut out = Vec::new();
    for field in Fields::new(any_value) {
        let field = field?;
        out = match (field.number, field.value) {
            (1, Value::Bytes(text)) => text.to_vec(),
            (2, Value::Varint(truth)) => (truth != 0).to_string().into_bytes(),
            (3, Value::Varint(int)) => (int as i64).to_string().into_bytes(),
            (4, Value::Fixed64(bits)) => f64::from_bits(bits).to_string().into_bytes(),
            _ => Vec::new(),
        };
    }
    Ok(out)
}

/// Whether `text` has `pattern`, in which `*` stands for any text.
fn matches(pattern: &str, text: &[u8]) -> bool {
    let mut parts = pattern.as_bytes().split(|b| *b == b'*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = find(rest, part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    if part.is_empty() {
        return Some(0);
    }
    text.windows(part.len()).position(|w| w == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, text, holds) in [
            ("battery", "battery", true),
            ("battery", "battery.low", false),
            ("battery.*", "battery.low", true),
            ("*.low", "battery.low", true),
            ("b*y*w", "battery.low", true),
            ("b*y*y", "by", false),
            ("*", "", true),
            ("", "", true),
            ("", "x", false),
            ("a**b", "ab", true),
            ("ab*b", "ab", false),
        ] {
            assert_eq!(matches(pattern, text.as_bytes()), holds, "{pattern} {text}");
        }
    }

    #[test]
    fn rules_survive_their_stored_form() {
        let rule = RuleConfig { severity: Some(Severity::Error), ..RuleConfig::default() };
        let named = RuleConfig { metric: Some("a*".into()), ..RuleConfig::default() };
        let rules = Rules::try_new(vec![(Lane(3), named), (Lane(1), rule)]).unwrap();
        assert_eq!(Rules::from_bytes(&rules.to_bytes()), Some(rules));
        assert_eq!(Rules::from_bytes(b"[]"), Some(Rules::default()));
        assert_eq!(Rules::from_bytes(b"[[99, {}]]"), None);
        assert_eq!(Rules::from_bytes(b"x"), None);
    }
}
