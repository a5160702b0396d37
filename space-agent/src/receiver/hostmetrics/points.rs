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
    /// Whether it is there unless the configuration says otherwise.
    pub(super) on: bool,
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
        Self { name, unit, text, shape, on: true }
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

/// Collects the points of one scraper.
#[derive(Debug)]
pub(super) struct Points {
    origin: Origin,
    metrics: Vec<(&'static Description, Vec<NumberDataPoint>)>,
    pub(super) now: u64,
    pub(super) start: u64,
}

impl Points {
    /// Takes points of the metrics among `all` for which `is_on` holds.
    pub(super) fn new(
        origin: Origin,
        all: &'static [Description],
        is_on: impl Fn(&Description) -> bool,
    ) -> Self {
        let metrics = all.iter().filter(|m| is_on(m)).map(|m| (m, Vec::new())).collect();
        Self { origin, metrics, now: 0, start: 0 }
    }

    /// Whether one of these metrics is wanted, so that it pays to measure it.
    pub(super) fn wants(&self, names: &[&str]) -> bool {
        self.metrics.iter().any(|(m, _)| names.contains(&m.name))
    }

    /// A point of the metric called `name`, if that is wanted.
    pub(super) fn add(&mut self, name: &str, value: impl Into<Number>, attributes: &[(&'static str, &str)]) {
        let Some((_, points)) = self.metrics.iter_mut().find(|(m, _)| m.name == name) else { return };
        points.push(NumberDataPoint {
            attributes: attributes.iter().map(|(key, value)| text(key, *value)).collect(),
            start_time_unix_nano: self.start,
            time_unix_nano: self.now,
            value: Some(value.into().0),
            ..NumberDataPoint::default()
        });
    }

    /// What was collected, as one resource's metrics; nothing if there are no points.
    pub(super) fn take(&mut self, resource: Vec<KeyValue>) -> Option<ResourceMetrics> {
        let taken = self.metrics.iter_mut().map(|(m, points)| (*m, std::mem::take(points)));
        let metrics: Vec<Metric> =
            taken.filter(|(_, points)| !points.is_empty()).map(|(m, points)| metric(m, points)).collect();
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
