//! Counts alarms: log events of ours that have a name.

use std::fmt::Debug;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::capture::{EVENT_NAME, is_ours};

/// How often each alarm was raised since the start, whatever is logged. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Alarms(Family<[(&'static str, String); 1], Counter>);

impl Alarms {
    /// Adds the counts to a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("perigee_alarms", "Alarms raised since the start, by name", self.0.clone());
    }
}

impl<S: Subscriber> Layer<S> for Alarms {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let of = event.metadata();
        if is_ours(of) && of.fields().field(EVENT_NAME).is_some() {
            event.record(&mut Named(self));
        }
    }
}

struct Named<'a>(&'a Alarms);

impl Visit for Named<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == EVENT_NAME {
            self.0.0.get_or_create(&[("name", value.to_owned())]).inc();
        }
    }

    // Names are literals.
    fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::telemetry::metrics_text;

    #[test]
    fn an_alarm_is_counted_by_its_name_and_nothing_else_is() {
        let (alarms, mut registry) = (Alarms::default(), Registry::default());
        alarms.register(&mut registry);
        let subscriber = tracing_subscriber::registry().with(alarms);
        tracing::subscriber::with_default(subscriber, || {
            for _ in 0..2 {
                tracing::error!(event.name = "perigee.store.failed", why = "x", "the disk");
            }
            tracing::warn!(target: "perigee_shared::export", { event.name = "perigee.exporter.kept" }, "kept");
            tracing::error!(target: "quinn", { event.name = "perigee.panic" }, "of a library");
            tracing::error!("without a name");
        });
        let text = metrics_text(&registry);
        let counted: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(counted.len(), 2, "{text}");
        assert!(counted.contains(&"perigee_alarms_total{name=\"perigee.store.failed\"} 2"), "{text}");
        assert!(counted.contains(&"perigee_alarms_total{name=\"perigee.exporter.kept\"} 1"), "{text}");
    }
}
