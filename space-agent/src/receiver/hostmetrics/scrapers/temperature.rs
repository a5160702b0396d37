//! Temperatures of the sensors that Linux knows. The Collector has no such scraper; names are the semantic conventions' for hardware.

use super::super::host::{Host, ScrapeError};
use super::super::points::{Description, Points};
use super::{Outcome, Scraper};

pub(super) const METRICS: &[Description] =
    &[Description::gauge("hw.temperature", "Cel", "Temperature in degrees Celsius.")
        .by(&["hw.id", "hw.name"])];

/// The conventions that have `hw.temperature`.
pub(super) const SCHEMA: &str = "https://opentelemetry.io/schemas/1.37.0";

/// The scraper `temperature`.
#[derive(Debug)]
pub(super) struct Temperature;

impl Scraper for Temperature {
    fn scrape(&mut self, host: &Host, points: &mut Points, outcome: &mut Outcome) {
        for (class, sensors) in [("hwmon", chip as fn(&Host, &str) -> _), ("thermal", zone)] {
            let directory = format!("sys/class/{class}");
            let entries = match host.list(&directory) {
                // A machine without sensors.
                Err(error) if error.is_gone() => continue,
                entries => entries,
            };
            for entry in outcome.tried(entries).into_iter().flatten() {
                for Sensor { id, name, file } in sensors(host, &format!("{directory}/{entry}")) {
                    match read(host, &file) {
                        Ok(degrees) => {
                            points.add("hw.temperature", degrees, &[("hw.id", &id), ("hw.name", &name)]);
                        }
                        // A sensor that is switched off has a file and no value.
                        Err(error) => outcome.fail(error),
                    }
                }
            }
        }
    }
}

/// A file with a temperature in thousandths of a degree, and what it is called.
struct Sensor {
    id: String,
    name: String,
    file: String,
}

/// The temperatures of a chip: `temp1_input` and so on, some with a label.
fn chip(host: &Host, directory: &str) -> Vec<Sensor> {
    let name = |file: &str| host.read(format!("{directory}/{file}")).map(|name| name.trim().to_owned());
    let (chip, entry) = (name("name").unwrap_or_default(), directory.rsplit('/').next().unwrap_or_default());
    let inputs = host.list(directory).unwrap_or_default();
    inputs
        .iter()
        .filter_map(|input| input.strip_suffix("_input").filter(|input| input.starts_with("temp")))
        .map(|input| Sensor {
            id: format!("{entry}/{input}"),
            name: format!("{chip} {}", name(&format!("{input}_label")).unwrap_or_default()).trim().to_owned(),
            file: format!("{directory}/{input}_input"),
        })
        .collect()
}

/// The temperature of a thermal zone; beside them the kernel lists what cools.
fn zone(host: &Host, directory: &str) -> Vec<Sensor> {
    let id = directory.rsplit('/').next().unwrap_or_default().to_owned();
    if !id.starts_with("thermal_zone") {
        return Vec::new();
    }
    let name = host.read(format!("{directory}/type")).unwrap_or_default().trim().to_owned();
    vec![Sensor { id, name, file: format!("{directory}/temp") }]
}

fn read(host: &Host, file: &str) -> Result<f64, ScrapeError> {
    let text = host.read(file)?;
    text.trim().parse::<i64>().map(|thousandths| thousandths as f64 / 1000.0).map_err(|_| host.form(file))
}
