//! `debug`: shows what passes.

use std::fmt::Write as _;

use bytes::Bytes;
use opentelemetry_proto::tonic::common::v1::AnyValue;
use prost::Message;

use super::config::{DebugConfig, Verbosity};
use super::outcome::Outcome;
use super::show;
use super::split::items;
use crate::env::Sink;
use crate::otlp::protobuf::{Field, Fields, Malformed, Value};
use crate::otlp::tree::{POINT, branches, data, leaves};
use crate::signal::Signal;

/// A `debug` exporter.
pub struct Debug {
    verbosity: Verbosity,
    sink: Sink,
}

impl Debug {
    pub(super) fn new(config: &DebugConfig, sink: Sink) -> Self {
        Self { verbosity: config.verbosity, sink }
    }

    pub(super) fn send(&self, signal: Signal, body: &Bytes) -> Outcome {
        let Ok(items) = items(signal, body) else {
            return Outcome::unreadable();
        };
        let mut text = format!("{signal}: {items} {}, {} bytes\n", signal.items_name(), body.len());
        let described = match self.verbosity {
            Verbosity::Basic => true,
            Verbosity::Normal => normal(signal, body, &mut text).is_ok(),
            Verbosity::Detailed => show::everything(signal, body, &mut text).is_ok(),
        };
        if !described {
            return Outcome::unreadable();
        }
        (self.sink)(&text);
        Outcome::ACCEPTED
    }
}

/// One line per item. Only what it shows is read.
fn normal(signal: Signal, body: &[u8], out: &mut String) -> Result<(), Malformed> {
    let mut line = |text: std::fmt::Arguments<'_>| {
        // Writing to a String does not fail.
        let _ = writeln!(out, "  {text}");
    };
    leaves(body, |leaf| {
        match signal {
            Signal::Traces => {
                let [trace, span, name] = texts(leaf, [1, 2, 5])?;
                line(format_args!(
                    "{} {} {}",
                    String::from_utf8_lossy(name),
                    show::hex(trace),
                    show::hex(span)
                ));
            }
            Signal::Logs => {
                let [severity, body] = texts(leaf, [3, 5])?;
                let body = AnyValue::decode(body).map_err(|_| Malformed("a log record's body"))?;
                let severity = String::from_utf8_lossy(severity);
                line(format_args!("{} {severity} {}", show::date(time(leaf, 1)?), show::value(Some(&body))));
            }
            Signal::Metrics => {
                let [name] = texts(leaf, [1])?;
                let name = String::from_utf8_lossy(name);
                for data in data(leaf) {
                    for point in branches(data?, POINT) {
                        line(format_args!("{name} at {}", show::date(time(point?, 3)?)));
                    }
                }
            }
        }
        Ok(())
    })
}

/// The contents of strings, bytes or messages in a message, by their fields; empty when they are not there.
fn texts<const N: usize>(message: &[u8], fields: [u32; N]) -> Result<[&[u8]; N], Malformed> {
    let mut out = [&[][..]; N];
    for field in Fields::new(message) {
        let field = field?;
        if let (Value::Bytes(bytes), Some(n)) = (field.value, fields.iter().position(|f| *f == field.number))
        {
            out[n] = bytes;
        }
    }
    Ok(out)
}

/// The time in field `number`.
fn time(message: &[u8], number: u32) -> Result<u64, Malformed> {
    Fields::new(message).try_fold(0, |time, field| match field? {
        Field { number: n, value: Value::Fixed64(value), .. } if n == number => Ok(value),
        _ => Ok(time),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::export::cut::tests::request;

    fn written(verbosity: Verbosity, signal: Signal, body: &Bytes) -> String {
        let text = Arc::new(Mutex::new(String::new()));
        let other = Arc::clone(&text);
        let sink: Sink = Arc::new(move |line| other.lock().unwrap().push_str(line));
        assert_eq!(
            Debug::new(&DebugConfig { verbosity, ..DebugConfig::default() }, sink).send(signal, body),
            Outcome::ACCEPTED
        );
        Arc::into_inner(text).unwrap().into_inner().unwrap()
    }

    #[test]
    fn each_verbosity_says_more() {
        for signal in Signal::ALL {
            let body = request(signal, &[2, 1]);
            let basic = written(Verbosity::Basic, signal, &body);
            assert!(basic.contains(&format!("3 {}", signal.items_name())) && basic.lines().count() == 1);
            assert_eq!(written(Verbosity::Normal, signal, &body).lines().count(), 4);
            assert!(written(Verbosity::Detailed, signal, &body).contains("service-1"));
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let config = DebugConfig { verbosity: Verbosity::Detailed, ..DebugConfig::default() };
        let out = Debug::new(&config, Arc::new(|_| ())).send(Signal::Logs, &Bytes::from_static(b"\x0a\xff"));
        assert!(matches!(out, Outcome::Refused { .. }));
    }
}
