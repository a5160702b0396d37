//! Whether the keys make sense together. Everything that is wrong is found at once.

use std::collections::BTreeMap;
use std::path::Path;

use perigee_shared::config::collector::{self, Program};
use perigee_shared::config::reload::{InForce, Reread};
use perigee_shared::config::{ConfigError, ConfigFile, Invalid, Outside, Problem};
use perigee_shared::link::tls::is_valid_id;
use perigee_shared::serve::{Endpoint, check_apart, validate_endpoint};
use perigee_shared::signal::{Signal, SignalSet};
use perigee_shared::units::{ByteSize, Span};

use super::{
    Acknowledge, Config, ExporterConfig, LINK, ListenerConfig, MIN_WINDOW, OtlpReceiver, Protocols,
    ReceiverConfig,
};
use crate::lanes::Percent;

/// The smallest memory limit: below it the program itself would be refused.
const LEAST_MEMORY: ByteSize = ByteSize::mib(4);

/// The largest request that a receiver may be told to take.
const MOST_REQUEST: ByteSize = ByteSize::mib(32);

impl Reread for Config {
    fn written(&self) -> &InForce {
        &self.written
    }

    fn warnings(&self) -> &[Problem] {
        &self.warnings
    }
}

impl Config {
    /// Reads and checks the file at `path`: Perigee's own form, or a Collector's.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::read(ConfigFile::open(path, &|name| std::env::var(name).ok())?)
    }

    /// Checks a file whose text is read.
    pub fn read(file: ConfigFile) -> Result<Self, ConfigError> {
        Self::read_with(file, |_, _| Outside::default())
    }

    /// The same with what `look` finds of what it names; it is told whether something is wrong already.
    pub(super) fn read_with(
        mut file: ConfigFile,
        look: impl FnOnce(&Self, bool) -> Outside,
    ) -> Result<Self, ConfigError> {
        let names_directory = file.tree.at(&["storage", "directory"]).is_some_and(|d| !d.is_null());
        collector::translate(&mut file, Program::Agent);
        let mut config: Option<Self> = file.read(|section| collector::keys(Program::Agent, section));
        if let Some(config) = &mut config {
            config.hash = file.hash;
            config.names_directory = names_directory;
            config.written = InForce::new(file.tree.settings());
            if file.tree.at(&["processors", "memory_limiter", "max_in_flight"]).is_none() {
                config.fit_largest_request();
            }
            config.fit_connections(|receiver, protocol| {
                file.tree.at(&["receivers", receiver, "protocols", protocol, "max_connections"]).is_none()
            });
            for problem in config.own_problems() {
                file.complain(problem);
            }
            for path in &file.idle {
                match path.last().map(String::as_str) {
                    Some("memory_limiter") => {
                        config.processors.memory_limiter = Default::default();
                        config.fit_largest_request();
                    }
                    Some("batch") => config.processors.batch = Default::default(),
                    _ => {}
                }
            }
            for problem in config.authorize() {
                file.complain(problem);
            }
            if file.problems.is_empty() {
                for problem in config.references() {
                    file.complain(problem);
                }
            }
            let found = look(config, !file.problems.is_empty());
            file.note_outside(found);
            config.warnings.clone_from(&file.warnings);
        }
        file.finish(config)
    }

    /// Lets the largest request be in flight, where nothing is said about that: while it is read it is held beside what it was packed
    /// in, or beside the JSON that it comes from.
    fn fit_largest_request(&mut self) {
        let of = |(_, r): (&str, &OtlpReceiver)| {
            let listeners = [&r.protocols.grpc, &r.protocols.http].into_iter().flatten();
            listeners.filter_map(|l| l.max_request_bytes).chain([r.max_request_bytes]).max()
        };
        let largest = self.otlp_receivers().filter_map(of).max().unwrap_or_default();
        let limiter = &mut self.processors.memory_limiter;
        limiter.max_in_flight = limiter.max_in_flight.max(ByteSize(largest.0 * 2)).min(limiter.limit);
    }

    /// Bounds the connections by the memory limit, where nothing is said about them.
    fn fit_connections(&mut self, is_free: impl Fn(&str, &str) -> bool) {
        let most = self.most_connections();
        for (name, receiver) in &mut self.receivers.0 {
            let ReceiverConfig::Otlp(otlp) = receiver else { continue };
            let Protocols { grpc, http } = &mut otlp.protocols;
            for (protocol, listener) in [("grpc", grpc), ("http", http)] {
                if let Some(listener) = listener.as_mut().filter(|_| is_free(name, protocol)) {
                    listener.max_connections = listener.max_connections.min(most).max(1);
                }
            }
        }
    }

    /// Connections of a listener whose buffers fit in an eighth of the memory limit.
    const fn most_connections(&self) -> usize {
        (self.processors.memory_limiter.limit.0 / 8 / MIN_WINDOW) as usize
    }

    /// Whether the keys make sense together; the first that does not.
    pub fn validate(&self) -> Result<(), Invalid> {
        self.own_problems().into_iter().chain(self.references()).next().map_or(Ok(()), Err)
    }

    /// The signals that the exporter called `name` gets.
    pub fn signals_of(&self, name: &str) -> SignalSet {
        self.service.pipelines.signals(name, |p| &p.exporters)
    }

    /// The signals that the receiver called `name` takes.
    pub fn signals_from(&self, name: &str) -> SignalSet {
        self.service.pipelines.signals(name, |p| &p.receivers)
    }

    /// The receivers of OTLP.
    pub fn otlp_receivers(&self) -> impl Iterator<Item = (&str, &OtlpReceiver)> {
        self.receivers.iter().filter_map(|(name, receiver)| match receiver {
            ReceiverConfig::Otlp(otlp) => Some((name, &**otlp)),
            ReceiverConfig::HostMetrics(_) => None,
        })
    }

    /// Exporters that a pipeline uses, with their signals.
    pub fn consumers(&self) -> BTreeMap<String, SignalSet> {
        let all = self.exporters.iter().map(|(name, _)| (name.to_owned(), self.signals_of(name)));
        all.filter(|(_, signals)| !signals.is_empty()).collect()
    }

    /// When requests are answered: durable if one receiver wants it.
    pub fn acknowledge(&self) -> Acknowledge {
        let durable = |(_, r): (&str, &OtlpReceiver)| r.acknowledge == Acknowledge::Durable;
        if self.otlp_receivers().any(durable) { Acknowledge::Durable } else { Acknowledge::Received }
    }

    /// Gives exporters the headers that their authenticators say; one that no pipeline uses sends nothing and needs none.
    fn authorize(&mut self) -> Vec<Invalid> {
        let used = self.consumers();
        let (authenticators, mut wrong) = (&self.extensions.authenticators, Vec::new());
        for (name, exporter) in self.exporters.0.iter_mut().filter(|(name, _)| used.contains_key(*name)) {
            if let ExporterConfig::Direct(direct) = exporter {
                wrong.extend(direct.authorize_from(name, authenticators).err());
            }
        }
        wrong
    }

    /// Names in pipelines that nothing has.
    fn references(&self) -> Vec<Invalid> {
        let mut wrong = Vec::new();
        for signal in Signal::ALL {
            let Some(pipeline) = self.service.pipelines.get(signal) else { continue };
            let key = |part: &str| format!("service.pipelines.{signal}.{part}");
            let known = ["memory_limiter", "batch"];
            if let Some(other) = pipeline.processors.iter().find(|p| !known.contains(&p.as_str())) {
                let message = format!("unknown processor `{other}` (known: memory_limiter, batch)");
                wrong.push(Invalid::new(key("processors"), message));
            }
            let unknown = pipeline.receivers.iter().find(|n| self.receivers.get(n).is_none());
            wrong.extend(unknown.map(|name| self.receivers.unknown(key("receivers"), name)));
            let of_host = |n: &&String| matches!(self.receivers.get(n), Some(ReceiverConfig::HostMetrics(_)));
            if signal != Signal::Metrics
                && let Some(name) = pipeline.receivers.iter().find(of_host)
            {
                let message =
                    format!("`{name}` produces only metrics; remove it from the pipeline of {signal}");
                wrong.push(Invalid::new(key("receivers"), message));
            }
            let unknown = pipeline.exporters.iter().find(|n| self.exporters.get(n).is_none());
            wrong.extend(unknown.map(|name| self.exporters.unknown(key("exporters"), name)));
        }
        wrong
    }

    /// Everything else that is wrong.
    fn own_problems(&self) -> Vec<Invalid> {
        let mut wrong = Vec::new();
        for (name, receiver) in self.receivers.iter() {
            let key = format!("receivers.{name}");
            match receiver {
                ReceiverConfig::Otlp(otlp) => self.check_receiver(&key, otlp, &mut wrong),
                ReceiverConfig::HostMetrics(host) => host.problems(&key, &mut wrong),
            }
        }
        self.check_processors(&mut wrong);
        self.check_pipelines(&mut wrong);
        self.check_link(&mut wrong);
        wrong.extend(self.lanes.problems());
        let metrics = self.service.telemetry.metrics_endpoint();
        for (key, http) in [
            ("extensions.health_check", self.extensions.health_check.as_ref()),
            ("service.telemetry.metrics", metrics.as_ref()),
        ] {
            wrong.extend(http.and_then(|http| http.validate(key).err()));
        }
        wrong.extend(check_apart(&self.listeners()));
        wrong.extend(self.service.telemetry.otlp.check("service.telemetry.otlp"));
        for (name, authenticator) in &self.extensions.authenticators {
            wrong.extend(authenticator.validate(&format!("extensions.{name}")).err());
        }
        if self.storage.max_bytes < ByteSize::mib(1) {
            wrong.push(Invalid::new("storage.max_bytes", "must be at least 1MiB"));
        }
        let (most, why) = match self.acknowledge() {
            Acknowledge::Durable => {
                (Span::secs(3), "must not be above 3s: senders wait for it, and some give up after 5s")
            }
            Acknowledge::Received => (Span::secs(60), "must not be above 60s: a power cut loses what waits"),
        };
        if self.storage.commit_interval > most {
            wrong.push(Invalid::new("storage.commit_interval", why));
        }
        wrong
    }

    /// Every listener that is started: its section and its endpoint.
    fn listeners(&self) -> Vec<(String, &str)> {
        let mut out = Vec::new();
        for (name, otlp) in self.otlp_receivers().filter(|(name, _)| !self.signals_from(name).is_empty()) {
            for (protocol, listener) in [("grpc", &otlp.protocols.grpc), ("http", &otlp.protocols.http)] {
                let Some(listener) = listener else { continue };
                out.push((format!("receivers.{name}.protocols.{protocol}"), &*listener.endpoint));
            }
        }
        let health = self.extensions.health_check.as_ref();
        out.extend(health.map(|http| ("extensions.health_check".to_owned(), &*http.endpoint)));
        let metrics = self.service.telemetry.metrics.as_ref();
        out.extend(metrics.map(|metrics| ("service.telemetry.metrics".to_owned(), &*metrics.endpoint)));
        out
    }

    fn check_receiver(&self, key: &str, otlp: &OtlpReceiver, wrong: &mut Vec<Invalid>) {
        let protocols = &otlp.protocols;
        if protocols.grpc.is_none() && protocols.http.is_none() {
            wrong.push(Invalid::new(format!("{key}.protocols"), "has neither grpc nor http; configure one"));
        }
        for (name, listener) in [("grpc", protocols.grpc.as_ref()), ("http", protocols.http.as_ref())] {
            let Some(listener) = listener else { continue };
            let key = format!("{key}.protocols.{name}");
            self.check_listener(&key, listener, wrong);
            let several = |o: &String| o.matches('*').count() > 1;
            if listener.cors.as_ref().is_some_and(|c| c.allowed_origins.iter().any(several)) {
                wrong.push(Invalid::new(
                    format!("{key}.cors.allowed_origins"),
                    "an origin has at most one `*`",
                ));
            }
            if name == "grpc" && listener.cors.is_some() {
                wrong.push(Invalid::new(format!("{key}.cors"), "browsers send over http; write it there"));
            }
            if let Some(max) = listener.max_request_bytes {
                self.check_max_request(&format!("{key}.max_request_bytes"), max, wrong);
            }
        }
        self.check_max_request(&format!("{key}.max_request_bytes"), otlp.max_request_bytes, wrong);
    }

    fn check_max_request(&self, key: &str, max: ByteSize, wrong: &mut Vec<Invalid>) {
        if !(ByteSize::kib(1)..=MOST_REQUEST).contains(&max) {
            wrong.push(Invalid::new(
                key,
                "must be from 1KiB to 32MiB: a request is held in memory until it is stored",
            ));
        } else if max > self.processors.memory_limiter.max_in_flight
            && self.processors.memory_limiter.limit >= LEAST_MEMORY
        {
            wrong.push(Invalid::new(
                key,
                "must not be above processors.memory_limiter.max_in_flight, or the largest request could never be taken",
            ));
        }
    }

    fn check_listener(&self, key: &str, listener: &ListenerConfig, wrong: &mut Vec<Invalid>) {
        let allowed = listener.insecure || listener.tls.is_some();
        wrong.extend(
            validate_endpoint(&format!("{key}.endpoint"), &listener.endpoint, allowed, "configure tls").err(),
        );
        for (name, span) in
            [("header_timeout", listener.header_timeout), ("idle_timeout", listener.idle_timeout)]
        {
            if span < Span::secs(1) {
                wrong.push(Invalid::new(format!("{key}.{name}"), "must be at least 1s"));
            }
        }
        let most = self.most_connections();
        // A limit that is too small is its own mistake.
        if most > 0 && !(1..=most).contains(&listener.max_connections) {
            let message = format!(
                "must be from 1 to {most}, so that their buffers fit in an eighth of the memory limit"
            );
            wrong.push(Invalid::new(format!("{key}.max_connections"), message));
        }
    }

    fn check_processors(&self, wrong: &mut Vec<Invalid>) {
        let limiter = &self.processors.memory_limiter;
        let batch = &self.processors.batch;
        let mut check = |right: bool, key: &str, message: &str| {
            if !right {
                wrong.push(Invalid::new(format!("processors.{key}"), message));
            }
        };
        if limiter.limit < LEAST_MEMORY {
            let mut message = format!("is {} and must be at least 4MiB", limiter.limit);
            // A number without a unit is bytes.
            if limiter.limit < ByteSize::kib(64) {
                message.push_str(&format!("; did you mean {}MiB?", limiter.limit.0));
            }
            check(false, "memory_limiter.limit", &message);
        } else {
            check(limiter.spike_limit < limiter.limit, "memory_limiter.spike_limit", "must be below limit");
            let fits = limiter.max_in_flight <= limiter.limit;
            check(fits, "memory_limiter.max_in_flight", "must not be above limit");
        }
        let often = limiter.check_interval >= Span::millis(10);
        check(often, "memory_limiter.check_interval", "must be at least 10ms");
        let bytes = (ByteSize::kib(16)..=ByteSize::mib(32)).contains(&batch.send_batch_bytes);
        check(bytes, "batch.send_batch_bytes", "must be from 16KiB to 32MiB: a segment is sealed in memory");
        check(batch.send_batch_size > 0, "batch.send_batch_size", "must be above 0");
        check(batch.timeout >= Span::millis(10), "batch.timeout", "must be at least 10ms");
        check(batch.sealing_cpu >= Percent(0.01), "batch.sealing_cpu", "must be at least 1%");
    }

    fn check_pipelines(&self, wrong: &mut Vec<Invalid>) {
        let mut any = false;
        for signal in Signal::ALL {
            let Some(pipeline) = self.service.pipelines.get(signal) else { continue };
            any = true;
            for (part, names) in [("receivers", &pipeline.receivers), ("exporters", &pipeline.exporters)] {
                if names.is_empty() {
                    let message = format!("is empty; name at least one of the {part}");
                    wrong.push(Invalid::new(format!("service.pipelines.{signal}.{part}"), message));
                }
            }
        }
        if !any {
            let message = "has no pipeline; write one for each signal that comes: traces, metrics, logs";
            wrong.push(Invalid::new("service.pipelines", message));
        }
        for (name, exporter) in self.exporters.iter() {
            match exporter {
                ExporterConfig::Link if name != LINK => {
                    wrong
                        .push(Invalid::new(format!("exporters.{name}"), "there is one link; call it `link`"));
                }
                ExporterConfig::Link => {}
                ExporterConfig::Direct(direct) => {
                    let key = format!("exporters.{name}");
                    wrong.extend(direct.problems(&key));
                    wrong.extend(direct.validate_signals(&key, self.signals_of(name)).err());
                }
            }
        }
    }

    fn check_link(&self, wrong: &mut Vec<Invalid>) {
        if self.signals_of(LINK).is_empty() {
            return;
        }
        let Some(link) = &self.link else {
            wrong.push(Invalid::new("link", "is missing; the exporter `link` needs it"));
            return;
        };
        if link.stations.is_empty() {
            wrong.push(Invalid::new("link.stations", "is empty; name at least one station"));
        }
        for (id, station) in &link.stations {
            let key = format!("link.stations.{id}");
            if !is_valid_id(id) {
                wrong.push(Invalid::new(&key, "a station's id is 1 to 63 of a-z, 0-9 and -"));
            }
            if !matches!(Endpoint::parse(&station.address), Ok(Endpoint::Tcp(_))) {
                wrong.push(Invalid::new(format!("{key}.address"), "must be HOST:PORT"));
            }
            if !is_valid_id(station.server_name(id)) {
                let message = "is the id in a station's certificate: 1 to 63 of a-z, 0-9 and -";
                wrong.push(Invalid::new(format!("{key}.server_name"), message));
            }
        }
        wrong.extend(self.contacts.problems(|id| link.stations.contains_key(id)));
    }
}

#[cfg(test)]
#[path = "../../../tests/security.rs"]
mod security;

#[cfg(test)]
mod tests {
    use super::security::{bounds, code};
    use super::*;

    #[test]
    fn the_table_in_security_md_is_what_the_code_has() {
        let code = code([
            ("bytes of a request after decompression", MOST_REQUEST.0),
            ("seconds for a request to arrive", crate::receiver::READ_TIMEOUT.as_secs()),
        ]);
        assert_eq!(bounds("space-agent"), code);
    }
}
