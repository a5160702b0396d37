//! Contacts from a file: a plan, or an orbit with stations. One that cannot be used leaves the last good one in force.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use perigee_shared::config::ConfigError;
use perigee_shared::contact::{Contact, Plan, Reader, StationHints};

use super::{ContactSource, ContactsConfig};
use crate::orbit::{Mask, Orbit, OrbitError};

/// Passes are predicted for so long, and again when half of it is over.
const HORIZON: Duration = Duration::from_secs(7 * 24 * 3600);

/// A pass that is on is found from its beginning.
const BEFORE: Duration = Duration::from_secs(3600);

/// How a file becomes contacts.
enum Reading {
    Plan(Reader),
    Orbit { satellite: Option<String>, stations: Vec<Mask>, stale_after: Duration },
}

/// See the module.
pub(super) struct FileSource {
    file: PathBuf,
    reading: Reading,
    modified: Option<SystemTime>,
    /// What is in force.
    pub(super) plan: Plan,
    orbit: Option<Orbit>,
    /// Predicted up to here.
    until: u64,
    /// Why what is on disk is not in force.
    pub(super) error: Option<String>,
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
        mask: station.mask,
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

fn modified(file: &Path) -> Option<SystemTime> {
    std::fs::metadata(file).and_then(|m| m.modified()).ok()
}

fn unusable(file: &Path, error: &OrbitError) -> ConfigError {
    ConfigError::Invalid { path: file.display().to_string(), key: "orbit".into(), message: error.to_string() }
}

impl FileSource {
    /// The file that `config` names, not read yet; `None` when contacts come from elsewhere.
    pub(super) fn new(config: &ContactsConfig, stations: &[String]) -> Option<Self> {
        let file = config.file.clone()?;
        let reading = match config.source {
            ContactSource::Plan => Reading::Plan(Reader {
                format: config.format,
                stations: stations.iter().map(|id| (id.clone(), hints(config, id))).collect(),
                satellite: config.satellite.clone(),
                epoch: config.epoch.map(|t| t.0),
                clock_error_seconds: config.clock_error.0.as_secs_f64(),
            }),
            ContactSource::Orbit => Reading::Orbit {
                satellite: config.satellite.clone(),
                stations: stations.iter().filter_map(|id| mask(config, id)).collect(),
                stale_after: config.stale_after.0,
            },
            ContactSource::Always | ContactSource::Manual | ContactSource::Probe => return None,
        };
        let (plan, orbit, error) = (Plan::default(), None, None);
        Some(Self { file, reading, modified: None, plan, orbit, until: 0, error })
    }

    pub(super) fn path(&self) -> &Path {
        &self.file
    }

    /// Reads the file and takes what is in it into force.
    pub(super) fn read(&mut self, now: u64) -> Result<(), ConfigError> {
        match &self.reading {
            Reading::Plan(reader) => {
                let plan = reader.read(&self.file)?;
                if !plan.is_empty() && plan.has_run_out(now) && !self.plan.has_run_out(now) {
                    return Err(ConfigError::Invalid {
                        path: self.file.display().to_string(),
                        key: "contacts".into(),
                        message: "every contact is past, and those in force are not; write [] to end them"
                            .into(),
                    });
                }
                if !plan.is_empty() && plan.has_run_out(now) {
                    tracing::warn!(file = %self.file.display(), "every contact of the plan is past");
                }
                for warning in plan.warnings() {
                    tracing::warn!(warning, "the contact plan is odd");
                }
                self.plan = plan;
            }
            Reading::Orbit { satellite, .. } => {
                let orbit = Orbit::read(&self.file, satellite.as_deref());
                let orbit = orbit.map_err(|e| unusable(&self.file, &e))?;
                if let Some(earlier) = &self.orbit
                    && orbit.epoch < earlier.epoch
                {
                    return Err(ConfigError::Invalid {
                        path: self.file.display().to_string(),
                        key: "orbit".into(),
                        message:
                            "the elements are older than those in force; restart to use them all the same"
                                .into(),
                    });
                }
                let plan = self.predict(&orbit, now).map_err(|e| unusable(&self.file, &e))?;
                self.until = now + HORIZON.as_nanos() as u64;
                (self.plan, self.orbit) = (plan, Some(orbit));
                for warning in self.warnings(now) {
                    tracing::warn!(warning, "the orbit is old");
                }
            }
        }
        tracing::info!(contacts = self.plan.len(), file = %self.file.display(), "contacts read");
        Ok(())
    }

    fn predict(&self, orbit: &Orbit, now: u64) -> Result<Plan, OrbitError> {
        let Reading::Orbit { stations, .. } = &self.reading else { return Ok(Plan::default()) };
        orbit.predict(stations, now.saturating_sub(BEFORE.as_nanos() as u64), now + HORIZON.as_nanos() as u64)
    }

    /// Reads the file; when it cannot be used, what was in force stays so.
    pub(super) fn reload(&mut self, now: u64) {
        self.modified = modified(&self.file);
        match self.read(now) {
            Ok(()) => self.error = None,
            Err(error) => {
                let in_force = self.plan.len();
                tracing::error!(%error, in_force, "the contact plan cannot be used; what was in force stays so");
                self.error = Some(error.to_string());
            }
        }
    }

    /// Reads the file again if it has another time, and predicts on when half of the time is over.
    pub(super) fn refresh(&mut self, now: u64) {
        if modified(&self.file) != self.modified {
            self.reload(now);
        }
        if self.refresh_at().is_some_and(|at| at <= now || self.until > now + 2 * HORIZON.as_nanos() as u64)
            && let Some(orbit) = &self.orbit
        {
            match self.predict(orbit, now) {
                Ok(plan) => self.plan = plan,
                Err(error) => {
                    tracing::error!(%error, "passes cannot be predicted; those that are known stay in force");
                    self.error = Some(error.to_string());
                }
            }
            self.until = now + HORIZON.as_nanos() as u64;
        }
    }

    /// When passes are predicted on.
    pub(super) fn refresh_at(&self) -> Option<u64> {
        self.orbit.as_ref().map(|_| self.until.saturating_sub(HORIZON.as_nanos() as u64 / 2))
    }

    /// What is odd about what is in force.
    pub(super) fn warnings(&self, now: u64) -> Vec<String> {
        let mut out = self.plan.warnings().to_vec();
        if let (Some(orbit), Reading::Orbit { stale_after, .. }) = (&self.orbit, &self.reading) {
            let age = orbit.age(now);
            if age > *stale_after {
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
