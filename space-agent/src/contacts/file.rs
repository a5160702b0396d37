//! Contacts from a file: a plan, or an orbit with stations. One that cannot be used leaves the last good one in force.
//!
//! A plan is read at once. Predicting passes is [`Work`] that is done elsewhere, so that nothing waits for it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use perigee_proto::link;
use perigee_shared::config::ConfigError;
use perigee_shared::contact::{Contact, Plan, Reader, StationHints};
use perigee_shared::files;
use perigee_shared::link::{bounds, short_hash};
use perigee_shared::orbit::{Mask, Orbit, Skyline};
use perigee_shared::supervise::expecting;

use super::{ContactSource, ContactsConfig};
use crate::orbit::{self, MAX_FILE, OrbitError};

/// A pass that is on is found from its beginning.
const BEFORE: Duration = Duration::from_secs(3600);

/// How a file becomes contacts.
enum Reading {
    Plan(Reader),
    Orbit(Arc<Prediction>),
}

/// What passes are predicted from, beside the elements.
struct Prediction {
    file: PathBuf,
    satellite: Option<String>,
    stations: Vec<Mask>,
    horizon: Duration,
    shortest: Duration,
    stale_after: Duration,
}

impl Prediction {
    /// As far as passes are predicted at `now`.
    fn until(&self, now: u64) -> u64 {
        now.saturating_add(self.horizon.as_nanos() as u64)
    }
}

/// A prediction to be made.
pub(super) struct Work {
    prediction: Arc<Prediction>,
    /// These elements; `None`: those that the file has now.
    orbit: Option<Arc<Orbit>>,
    now: u64,
}

/// A prediction that was made.
pub(super) struct Predicted {
    result: Result<(Arc<Orbit>, Plan), OrbitError>,
    /// From the elements that were in force already.
    is_known: bool,
    now: u64,
}

impl Work {
    /// Makes it. Its length is bounded by the number of stations, whatever the elements are.
    pub(super) fn run(self) -> Predicted {
        let Self { prediction, orbit, now } = self;
        let is_known = orbit.is_some();
        let read = || orbit::read(&prediction.file, prediction.satellite.as_deref()).map(Arc::new);
        let predict = || {
            let orbit = orbit.map_or_else(read, Ok)?;
            let from = now.saturating_sub(BEFORE.as_nanos() as u64);
            let span = (from, prediction.until(now));
            orbit
                .predict(&prediction.stations, span, prediction.shortest)
                .map(|plan| (orbit, plan))
                .map_err(Into::into)
        };
        // Whatever stands in a file, the agent goes on.
        let result = expecting(predict).unwrap_or(Err(OrbitError::Panicked));
        Predicted { result, is_known, now }
    }
}

/// What is to be predicted next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Due {
    Nothing,
    /// From the elements in force.
    Passes,
    /// From those in the file.
    Elements,
}

/// See the module.
pub(super) struct FileSource {
    file: PathBuf,
    reading: Reading,
    modified: Option<SystemTime>,
    /// What is in force.
    pub(super) plan: Plan,
    orbit: Option<Arc<Orbit>>,
    due: Due,
    /// [`Work`] is with somebody.
    is_under_way: bool,
    /// Predicted up to here.
    until: u64,
    /// Why what is on disk is not in force.
    pub(super) error: Option<String>,
    /// The first 8 bytes of the BLAKE3 hash of the file that is in force.
    pub(super) hash: Option<u64>,
}

/// What is known of a station beside what a plan says.
pub(super) fn hints(config: &ContactsConfig, id: &str) -> StationHints {
    let station = config.stations.get(id).cloned().unwrap_or_default();
    let seconds = |time: perigee_shared::units::Span| time.0.as_secs_f64();
    StationHints {
        alias: station.alias,
        rate_down: station.rate_down.or(config.rate_down).map(|r| r.0),
        rate_up: station.rate_up.or(config.rate_up).map(|r| r.0),
        light_time_seconds: station.light_time.map(seconds),
        guard_seconds: seconds(station.guard.unwrap_or(config.guard)),
    }
}

fn mask(config: &ContactsConfig, id: &str) -> Option<Mask> {
    let station = config.stations.get(id)?;
    let known = hints(config, id);
    Some(Mask {
        latitude: station.latitude?,
        longitude: station.longitude?,
        altitude: station.altitude,
        mask: station.mask.clone(),
        contact: Contact {
            rate_down: known.rate_down,
            rate_up: known.rate_up,
            light_time_seconds: known.light_time_seconds,
            guard_seconds: known.guard_seconds,
            clock_error_seconds: config.clock_error.0.as_secs_f64(),
            ..Contact::open(id, 0)
        },
    })
}

/// A station in the form that Hello has.
fn site(mask: &Mask) -> link::Site {
    let elevations = match &mask.mask {
        Skyline::Level(elevation) => vec![*elevation as f32],
        Skyline::Points(_) => {
            let apart = 360.0 / bounds::MASK as f64;
            (0..bounds::MASK).map(|n| mask.mask.at(n as f64 * apart) as f32).collect()
        }
    };
    link::Site {
        station: mask.contact.station.to_string(),
        latitude: mask.latitude,
        longitude: mask.longitude,
        altitude: mask.altitude,
        mask: elevations,
    }
}

fn modified(file: &Path) -> Option<SystemTime> {
    std::fs::metadata(file).and_then(|m| m.modified()).ok()
}

fn unusable(file: &Path, error: &dyn std::fmt::Display) -> ConfigError {
    let (path, message) = (file.display().to_string(), error.to_string());
    // Some of them begin with the path.
    let message = message.strip_prefix(&format!("{path}: ")).unwrap_or(&message).to_owned();
    ConfigError::Invalid { path, key: "orbit".into(), message }
}

impl FileSource {
    /// The file that `config` names, not read yet; `None` when contacts come from elsewhere.
    pub(super) fn new(config: &ContactsConfig, stations: &[String]) -> Option<Self> {
        let file = config.file.clone()?;
        let reading = match config.source {
            ContactSource::Plan => Reading::Plan(Reader {
                format: config.format,
                stations: stations.iter().map(|id| (id.as_str().into(), hints(config, id))).collect(),
                satellite: config.satellite.clone(),
                epoch: config.epoch.map(|t| t.0),
                clock_error_seconds: config.clock_error.0.as_secs_f64(),
            }),
            ContactSource::Orbit => Reading::Orbit(Arc::new(Prediction {
                file: file.clone(),
                satellite: config.satellite.clone(),
                stations: stations.iter().filter_map(|id| mask(config, id)).collect(),
                horizon: config.orbit.horizon.0,
                shortest: config.orbit.minimum_pass.0,
                stale_after: config.stale_after.0,
            })),
            ContactSource::Always | ContactSource::Manual | ContactSource::Probe => return None,
        };
        let (plan, orbit, error) = (Plan::default(), None, None);
        Some(Self {
            file,
            reading,
            modified: None,
            plan,
            orbit,
            due: Due::Nothing,
            is_under_way: false,
            until: 0,
            error,
            hash: None,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.file
    }

    /// Reads the file, predicts if need be, and takes what comes of it into force.
    pub(super) fn read(&mut self, now: u64) -> Result<(), ConfigError> {
        match &self.reading {
            Reading::Plan(reader) => {
                self.plan = reader.read(&self.file)?;
                self.report(now);
                Ok(())
            }
            Reading::Orbit(prediction) => {
                let work = Work { prediction: Arc::clone(prediction), orbit: None, now };
                self.take_orbit(work.run())
            }
        }
    }

    fn report(&self, now: u64) {
        for warning in self.warnings(now) {
            tracing::warn!(warning, file = %self.file.display(), "check the contact plan");
        }
        tracing::info!(contacts = self.plan.len(), file = %self.file.display(), "contacts read");
    }

    fn take_orbit(&mut self, predicted: Predicted) -> Result<(), ConfigError> {
        let Predicted { result, is_known, now } = predicted;
        let (orbit, plan) = result.map_err(|e| unusable(&self.file, &e))?;
        if self.orbit.as_ref().is_some_and(|earlier| orbit.elements.epoch < earlier.elements.epoch) {
            let message = "the elements are older than those in force; restart the agent to use them anyway";
            return Err(unusable(&self.file, &message));
        }
        self.plan = plan.continuing(&self.plan, now);
        self.orbit = Some(orbit);
        self.until = self.predicted(now);
        if !is_known {
            self.report(now);
        }
        Ok(())
    }

    /// Reads the file, or makes that due; when it cannot be used, what was in force stays so.
    pub(super) fn reload(&mut self, now: u64) {
        self.modified = modified(&self.file);
        if let Reading::Orbit(_) = self.reading {
            self.due = Due::Elements;
        } else {
            let read = self.read(now);
            self.settle(read);
        }
    }

    fn settle(&mut self, read: Result<(), ConfigError>) {
        if read.is_ok() {
            self.hash = files::read(&self.file, MAX_FILE).ok().map(|content| short_hash(&content));
        }
        if let Err(error) = &read {
            let in_force = self.plan.len();
            match self.hash {
                Some(_) => {
                    tracing::error!(%error, in_force, "the contact plan cannot be used; the previous one stays in force");
                }
                None => {
                    tracing::error!(%error, "the contact plan cannot be used; no plan is in force, and contacts.fallback decides")
                }
            }
        }
        self.error = read.err().map(|error| error.to_string());
    }

    /// Reads the file again if it has another time, and predicts on when half of the time is over.
    pub(super) fn refresh(&mut self, now: u64) {
        if modified(&self.file) != self.modified {
            self.reload(now);
        }
        // The second is a clock that was set back.
        let is_over = |at: u64| at <= now || self.until > self.predicted(self.predicted(now));
        if self.due == Due::Nothing && self.refresh_at().is_some_and(is_over) {
            self.due = Due::Passes;
        }
    }

    /// What is to be predicted now. It is given to [`FileSource::take`] when it is done.
    pub(super) fn work(&mut self, now: u64) -> Option<Work> {
        let Reading::Orbit(prediction) = &self.reading else { return None };
        let orbit = match std::mem::replace(&mut self.due, Due::Nothing) {
            Due::Nothing => return None,
            Due::Passes => self.orbit.clone(),
            Due::Elements => None,
        };
        self.is_under_way = true;
        Some(Work { prediction: Arc::clone(prediction), orbit, now })
    }

    /// Takes what was predicted into force.
    pub(super) fn take(&mut self, predicted: Predicted) {
        self.is_under_way = false;
        let (is_known, now) = (predicted.is_known, predicted.now);
        let read = self.take_orbit(predicted);
        if is_known && let Err(error) = read {
            tracing::error!(%error, "passes cannot be predicted; those that are known stay in force");
            self.error = Some(error.to_string());
            self.until = self.predicted(now);
        } else if !is_known {
            self.settle(read);
        }
    }

    /// The orbit in the form that Hello has: the ground station draws it.
    pub(super) fn told(&self) -> Option<link::Orbit> {
        let Reading::Orbit(prediction) = &self.reading else { return None };
        let orbit = self.orbit.as_ref()?;
        let elements = &orbit.elements;
        let [inclination, ascending_node, perigee, anomaly] = elements.angles;
        Some(link::Orbit {
            name: orbit.name.clone(),
            epoch_unix_nano: elements.epoch,
            mean_motion: elements.mean_motion,
            eccentricity: elements.eccentricity,
            inclination,
            ascending_node,
            perigee,
            anomaly,
            drag: elements.drag,
            sites: prediction.stations.iter().take(bounds::SITES).map(site).collect(),
            minimum_pass_nano: prediction.shortest.as_nanos() as u64,
        })
    }

    /// As far as passes are predicted at `now`.
    fn predicted(&self, now: u64) -> u64 {
        match &self.reading {
            Reading::Orbit(prediction) => prediction.until(now),
            Reading::Plan(_) => now,
        }
    }

    /// Whether the first passes are still to come.
    pub(super) fn is_awaited(&self) -> bool {
        matches!(self.reading, Reading::Orbit(_)) && self.orbit.is_none() && self.error.is_none()
    }

    /// When passes are predicted on; `None` while they are.
    pub(super) fn refresh_at(&self) -> Option<u64> {
        self.orbit
            .as_ref()
            .filter(|_| !self.is_under_way)
            .map(|_| self.until.saturating_sub(self.predicted(0) / 2))
    }

    /// What is odd about what is in force.
    pub(super) fn warnings(&self, now: u64) -> Vec<String> {
        let mut out = self.plan.warnings().to_vec();
        if let (Some(orbit), Reading::Orbit(prediction)) = (&self.orbit, &self.reading) {
            let age = orbit.age(now);
            if age > prediction.stale_after {
                out.push(format!(
                    "the elements of {} are {:.1} days away from now; passes may be off by minutes: get new elements",
                    orbit.name,
                    age.as_secs_f64() / 86_400.0
                ));
            }
        }
        if self.plan.has_run_out(now) && !self.plan.is_empty() {
            out.push("every contact of the plan is past".into());
        }
        out
    }
}
