//! What a scraper measures, and OTLP made of it.

use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, metric,
};
use opentelemetry_proto::tonic::resource::v1::Resource;

/// A metric that a scraper has, as the Collector describes it.
#[derive(Debug)]
pub(super) struct Description {
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
    pub(super) text: &'static str,
    pub(super) shape: Shape,
    /// Keys of its points' attributes.
    pub(super) attributes: &'static [&'static str],
    /// One of them that points have only when the configuration asks for it.
    pub(super) opt_in: &'static str,
    /// Whether it is there unless the configuration says otherwise.
    pub(super) on: bool,
}

/// What becomes of points that differ in nothing but an attribute that is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Aggregation {
    Sum,
    Avg,
    Min,
    Max,
}

/// How values of a metric follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// A value of now.
    Gauge,
    /// A sum that rises and falls.
    UpDown,
    /// A sum since the start that never falls.
    Counter,
}

impl Description {
    const fn new(shape: Shape, name: &'static str, unit: &'static str, text: &'static str) -> Self {
        Self { name, unit, text, shape, attributes: &[], opt_in: "", on: true }
    }

    pub(super) const fn gauge(name: &'static str, unit: &'static str, text: &'static str) -> Self {
        Self::new(Shape::Gauge, name, unit, text)
    }

    pub(super) const fn up_down(name: &'static str, unit: &'static str, text: &'static str) -> Self {
        Self::new(Shape::UpDown, name, unit, text)
    }

    pub(super) const fn counter(name: &'static str, unit: &'static str, text: &'static str) -> Self {
        Self::new(Shape::Counter, name, unit, text)
    }

    /// The same, with attributes.
    pub(super) const fn by(self, attributes: &'static [&'static str]) -> Self {
        Self { attributes, ..self }
    }

    /// The same, where one of the attributes is left out unless the configuration asks for it.
    pub(super) const fn opt_in(self, opt_in: &'static str) -> Self {
        Self { opt_in, ..self }
    }

    /// The same, only when the configuration asks for it.
    pub(super) const fn optional(self) -> Self {
        Self { on: false, ..self }
    }
}

/// Who makes the points: an instrumentation scope and the semantic conventions that it follows.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) scope: String,
    pub(super) schema: &'static str,
}

/// A metric as the configuration wants it.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) description: &'static Description,
    /// Attributes that points have.
    pub(super) attributes: Vec<&'static str>,
    pub(super) aggregation: Aggregation,
}

/// A metric and what was collected of it: points, and how many were put together in each.
#[derive(Debug)]
struct Collected {
    wanted: Wanted,
    points: Vec<(NumberDataPoint, u64)>,
}

/// Collects the points of one scraper.
#[derive(Debug)]
pub(super) struct Points {
    origin: Origin,
    metrics: Vec<Collected>,
    pub(super) now: u64,
    pub(super) start: u64,
}

impl Points {
    /// Takes points of these metrics.
    pub(super) fn new(origin: Origin, wanted: impl Iterator<Item = Wanted>) -> Self {
        let metrics = wanted.map(|wanted| Collected { wanted, points: Vec::new() }).collect();
        Self { origin, metrics, now: 0, start: 0 }
    }

    /// Whether one of these metrics is wanted, so that it pays to measure it.
    pub(super) fn wants(&self, names: &[&str]) -> bool {
        self.metrics.iter().any(|m| names.contains(&m.wanted.description.name))
    }

    /// A point of the metric called `name`, if that is wanted.
    pub(super) fn add(&mut self, name: &str, value: impl Into<Number>, attributes: &[(&'static str, &str)]) {
        let Some(metric) = self.metrics.iter_mut().find(|m| m.wanted.description.name == name) else {
            return;
        };
        debug_assert!(
            attributes.iter().map(|(key, _)| key).eq(metric.wanted.description.attributes),
            "{name}"
        );
        let kept = attributes.iter().filter(|(key, _)| metric.wanted.attributes.contains(key));
        let point = NumberDataPoint {
            attributes: kept.map(|(key, value)| text(key, *value)).collect(),
            start_time_unix_nano: self.start,
            time_unix_nano: self.now,
            value: Some(value.into().0),
            ..NumberDataPoint::default()
        };
        let has_less = point.attributes.len() < attributes.len();
        let same = || metric.points.iter().position(|(p, _)| p.attributes == point.attributes);
        match has_less.then(same).flatten() {
            Some(at) => {
                let (before, count) = &mut metric.points[at];
                let pair = before.value.zip(point.value);
                before.value = pair.map(|(a, b)| metric.wanted.aggregation.join(a, *count, b));
                *count += 1;
            }
            None => metric.points.push((point, 1)),
        }
    }

    /// What was collected, as one resource's metrics; nothing if there are no points.
    pub(super) fn take(&mut self, resource: Vec<KeyValue>) -> Option<ResourceMetrics> {
        let some = self.metrics.iter_mut().filter(|m| !m.points.is_empty());
        let points = |m: &mut Collected| m.points.drain(..).map(|(point, _)| point).collect();
        let metrics: Vec<Metric> = some.map(|m| metric(m.wanted.description, points(m))).collect();
        let scope = InstrumentationScope {
            name: self.origin.scope.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        (!metrics.is_empty()).then(|| ResourceMetrics {
            resource: Some(Resource { attributes: resource, ..Resource::default() }),
            scope_metrics: vec![ScopeMetrics { scope: Some(scope), metrics, ..ScopeMetrics::default() }],
            schema_url: self.origin.schema.to_owned(),
        })
    }
}

impl Aggregation {
    /// What `count` points came to, and one more.
    fn join(self, before: Value, count: u64, more: Value) -> Value {
        match (before, more) {
            (Value::AsInt(a), Value::AsInt(b)) => Value::AsInt(match self {
                Self::Sum => a.saturating_add(b),
                // As in the Collector, whole numbers have a whole average.
                Self::Avg => (a * count as i64 + b) / (count as i64 + 1),
                Self::Min => a.min(b),
                Self::Max => a.max(b),
            }),
            (Value::AsDouble(a), Value::AsDouble(b)) => Value::AsDouble(match self {
                Self::Sum => a + b,
                Self::Avg => (a * count as f64 + b) / (count + 1) as f64,
                Self::Min => a.min(b),
                Self::Max => a.max(b),
            }),
            (before, _) => before,
        }
    }
}

fn metric(description: &Description, data_points: Vec<NumberDataPoint>) -> Metric {
    let sum = |data_points, is_monotonic| {
        let aggregation_temporality = AggregationTemporality::Cumulative.into();
        metric::Data::Sum(Sum { data_points, aggregation_temporality, is_monotonic })
    };
    let data = match description.shape {
        Shape::Gauge => metric::Data::Gauge(Gauge { data_points }),
        Shape::UpDown => sum(data_points, false),
        Shape::Counter => sum(data_points, true),
    };
    Metric {
        name: description.name.to_owned(),
        description: description.text.to_owned(),
        unit: description.unit.to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}

/// The value of a point.
pub(super) struct Number(Value);

impl From<u64> for Number {
    fn from(value: u64) -> Self {
        Self(Value::AsInt(i64::try_from(value).unwrap_or(i64::MAX)))
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Self(Value::AsDouble(value))
    }
}

/// An attribute with text.
pub(super) fn text(key: &str, value: impl Into<String>) -> KeyValue {
    attribute(key, Any::StringValue(value.into()))
}

/// An attribute with any value.
pub(super) fn attribute(key: &str, value: Any) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
