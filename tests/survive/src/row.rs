//! A fault on a store, over all its runs: the row of the table, and what it takes to be good.

use serde::Serialize;

use crate::check::Verdict;
use crate::history::Side;

/// See the module. The columns are in the order in which they are shown.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The fault's name.
    pub fault: String,
    /// The side whose store met it.
    pub store: &'static str,
    /// Runs in which the fault happened and something was acknowledged.
    pub runs: u64,
    /// Runs in which it happened.
    pub fired: u64,
    /// Runs that show nothing: the fault did not happen, or nothing was acknowledged.
    pub void: u64,
    /// Items answered with success.
    pub acknowledged: u64,
    /// See [`Verdict`].
    pub lost: u64,
    /// See [`Verdict`].
    pub altered: u64,
    /// See [`Verdict`].
    pub twice: u64,
    /// See [`Verdict`].
    pub uncounted: u64,
    /// See [`Verdict`].
    pub refused_delivered: u64,
    /// See [`Verdict`].
    pub stuck: u64,
    /// See [`Verdict`].
    pub crash_loops: u64,
    /// See [`Verdict`].
    pub panics: u64,
    /// The longest recovery; by the run's own clock where the disk is in memory.
    pub recovery_ms_max: u64,
    /// Beside the table: destroyed and reported.
    pub given_up: u64,
    /// Beside the table: refused, and delivered since the power failed before the reopening.
    pub refused_then_cut: u64,
    /// Files moved aside though nothing was destroyed.
    pub false_alarms: u64,
    /// Seeds with a broken promise, the first few.
    pub bad_seeds: Vec<u64>,
    /// Why the row was not run.
    pub skipped: Option<String>,
}

/// So many bad seeds are shown.
const SHOWN: usize = 8;

impl Row {
    /// No runs yet.
    pub fn new(fault: &str, side: Side) -> Self {
        Self {
            fault: fault.to_owned(),
            store: side.name(),
            runs: 0,
            fired: 0,
            void: 0,
            acknowledged: 0,
            lost: 0,
            altered: 0,
            twice: 0,
            uncounted: 0,
            refused_delivered: 0,
            stuck: 0,
            crash_loops: 0,
            panics: 0,
            recovery_ms_max: 0,
            given_up: 0,
            refused_then_cut: 0,
            false_alarms: 0,
            bad_seeds: Vec::new(),
            skipped: None,
        }
    }

    /// Takes in a run.
    pub fn add(&mut self, seed: u64, verdict: &Verdict) {
        self.fired += u64::from(verdict.fired);
        if verdict.counts() {
            self.runs += 1;
        } else {
            self.void += 1;
        }
        self.acknowledged += verdict.acknowledged;
        self.lost += verdict.lost;
        self.altered += verdict.altered;
        self.twice += verdict.twice;
        self.uncounted += verdict.uncounted;
        self.refused_delivered += verdict.refused_delivered;
        self.stuck += verdict.stuck;
        self.crash_loops += verdict.crash_loops;
        self.panics += verdict.panics;
        self.recovery_ms_max = self.recovery_ms_max.max(verdict.recovery_ms);
        self.given_up += verdict.given_up;
        self.refused_then_cut += verdict.refused_then_cut;
        self.false_alarms += verdict.false_alarms;
        // What a void run breaks is broken all the same.
        if !verdict.is_good() && self.bad_seeds.len() < SHOWN {
            self.bad_seeds.push(seed);
        }
    }

    /// Takes in a run that did not come to its end, which is no history: the harness could not do what it had to.
    pub fn failed(&mut self, seed: u64, why: &str) {
        self.void += 1;
        self.skipped = None;
        self.stuck += 1;
        self.bad_seeds.push(seed);
        eprintln!("{} on the {}, seed {seed}: {why}", self.fault, self.store);
    }

    /// Whether every promise was kept, in one run at least; what was skipped is neither good nor bad.
    pub fn is_good(&self) -> bool {
        self.skipped.is_some() || (self.runs > 0 && self.bad_seeds.is_empty())
    }

    /// The command that repeats a run.
    pub fn repeat(&self, seed: u64) -> String {
        let Self { fault, store, .. } = self;
        format!("cargo run --release -p bench -- survive --only {fault}/{store} --seed {seed}")
    }
}
