//! The checker: judges a history. A pure function that asks neither program anything.
//!
//! A loss is what was accepted and is nowhere. It is covered by a policy's drop (quota, lifetime), by count; or, if the harness
//! destroyed it, by a gap or an alarm that says how much is lost or that nobody knows. A gap about anything else covers nothing.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::history::{Account, Event, Gap, History, Side, Three};

/// Reasons of drops that a rule of the configuration makes.
const POLICIES: [&str; 6] =
    ["quota_oldest", "quota_newest", "lifetime", "filter", "backend_refused", "operator"];

/// The reason of what the ground had committed and lost before it was exported.
const STATION_LOST: &str = "station_lost";

/// What became of one run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The fault happened.
    pub fired: bool,
    /// Items that were answered with success.
    pub acknowledged: u64,
    /// Acknowledged and nowhere, covered by nothing.
    pub lost: u64,
    /// Destroyed by the harness and reported as missing.
    pub given_up: u64,
    /// Delivered, and not what was accepted; or never sent at all.
    pub altered: u64,
    /// Committed twice in one ledger, or exported again without a restart that explains it.
    pub twice: u64,
    /// Items by which accounts do not add up, or disagree.
    pub uncounted: u64,
    /// Refused and delivered all the same.
    pub refused_delivered: u64,
    /// The same, where the power failed between the refusal and the reopening.
    pub refused_then_cut: u64,
    /// A side did not go on.
    pub stuck: u64,
    /// A side ended at every start.
    pub crash_loops: u64,
    /// Files moved aside though nothing was destroyed.
    pub false_alarms: u64,
    /// Panics that ended a task or a process without quarantine and exit code.
    pub panics: u64,
    /// The longest recovery.
    pub recovery_ms: u64,
}

impl Verdict {
    /// Whether this is a run at all: a fault that did not happen shows nothing, nor does one that met no data.
    pub const fn counts(&self) -> bool {
        self.fired && self.acknowledged > 0
    }

    /// Whether every promise was kept.
    pub const fn is_good(&self) -> bool {
        self.lost == 0
            && self.altered == 0
            && self.twice == 0
            && self.uncounted == 0
            && self.refused_delivered == 0
            && self.stuck == 0
            && self.crash_loops == 0
            && self.false_alarms == 0
            && self.panics == 0
    }
}

/// What was sent, and what was said of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Accepted,
    Refused { then_cut: bool },
    Undecided,
}

struct Sent {
    signal: u8,
    digest: u64,
    answer: Answer,
}

impl Sent {
    /// The place of its signal in counts.
    fn at(&self) -> usize {
        usize::from(self.signal.clamp(1, 3)) - 1
    }
}

/// Everything a history says, sorted.
#[derive(Default)]
struct Facts {
    sent: BTreeMap<u64, Sent>,
    delivered: BTreeSet<u64>,
    destroyed: BTreeSet<u64>,
    untold: BTreeSet<u64>,
    /// A backend has them, and the ground could not note it.
    not_noted: BTreeSet<u64>,
    gaps: Vec<Gap>,
    accounts: BTreeMap<Side, Account>,
    /// Commits were noted one by one.
    commits_noted: bool,
    verdict: Verdict,
}

/// Judges `history`.
pub fn check(history: &History) -> Verdict {
    let mut facts = Facts::default();
    facts.read_answers(history);
    facts.read_deliveries(history);
    facts.read_rest(history);
    facts.judge_losses();
    facts.judge_accounts();
    facts.verdict
}

impl Facts {
    fn read_answers(&mut self, history: &History) {
        // Refusals whose store has not been opened again yet.
        let mut open: Vec<u64> = Vec::new();
        for event in &history.events {
            match event {
                Event::Accepted { signal, items } => self.send(*signal, items, Answer::Accepted),
                Event::Undecided { signal, items } => self.send(*signal, items, Answer::Undecided),
                Event::Refused { signal, items } => {
                    self.send(*signal, items, Answer::Refused { then_cut: false });
                    open.extend(items.iter().map(|(id, _)| *id));
                }
                Event::Reopened { side: Side::Agent } => open.clear(),
                Event::Restart { side: Side::Agent, power_cut: true } => {
                    for id in open.drain(..) {
                        if let Some(sent) = self.sent.get_mut(&id) {
                            sent.answer = Answer::Refused { then_cut: true };
                        }
                    }
                }
                _ => {}
            }
        }
        self.verdict.acknowledged =
            self.sent.values().filter(|sent| sent.answer == Answer::Accepted).count() as u64;
    }

    fn send(&mut self, signal: u8, items: &[(u64, u64)], answer: Answer) {
        for (id, digest) in items {
            self.sent.insert(*id, Sent { signal, digest: *digest, answer });
        }
    }

    fn read_deliveries(&mut self, history: &History) {
        let mut committed = BTreeSet::new();
        let mut segments = BTreeSet::new();
        // Exported since the ground started last.
        let mut exported = BTreeSet::new();
        let mut held: BTreeMap<Side, BTreeSet<u64>> = BTreeMap::new();
        for event in &history.events {
            match event {
                Event::Committed { segment, items } => {
                    self.commits_noted = true;
                    // A name that comes twice is one commit too many, whatever is in it.
                    let again = items.iter().filter(|id| !committed.insert(**id)).count() as u64;
                    let name_again = u64::from(!segments.insert(*segment));
                    self.verdict.twice += again.max(name_again);
                }
                Event::Restart { side: Side::Ground, .. } => exported.clear(),
                Event::Exported { items, noted } => {
                    if !noted {
                        self.not_noted.extend(items.iter().map(|(id, _)| *id));
                    }
                    for (id, digest) in items {
                        self.verdict.twice += u64::from(!exported.insert(*id));
                        self.deliver(*id, *digest);
                    }
                }
                Event::Held { side, items } => {
                    for (id, digest) in items {
                        self.verdict.twice += u64::from(!held.entry(*side).or_default().insert(*id));
                        self.deliver(*id, *digest);
                    }
                }
                _ => {}
            }
        }
    }

    fn deliver(&mut self, id: u64, digest: u64) {
        let first = self.delivered.insert(id);
        match self.sent.get(&id) {
            None => self.verdict.altered += 1,
            Some(sent) if sent.digest != digest => self.verdict.altered += 1,
            Some(Sent { answer: Answer::Refused { then_cut }, .. }) if first => {
                if *then_cut {
                    self.verdict.refused_then_cut += 1;
                } else {
                    self.verdict.refused_delivered += 1;
                }
            }
            Some(_) => {}
        }
    }

    fn read_rest(&mut self, history: &History) {
        let (mut ended, mut destroyed, mut quarantines) = (false, false, 0);
        for event in &history.events {
            match event {
                Event::Gap(gap) => self.gaps.push(gap.clone()),
                Event::Destroyed { items, untold } => {
                    destroyed = true;
                    let set = if *untold { &mut self.untold } else { &mut self.destroyed };
                    set.extend(items);
                }
                Event::Fault { fired, .. } => self.verdict.fired |= fired,
                Event::Alarm { name, items, unknown, .. } => {
                    quarantines += u64::from(name.starts_with("quarantined"));
                    if *unknown || items.iter().any(|n| *n > 0) {
                        self.gaps.push(Gap { reason: name.clone(), items: *items, unknown: *unknown });
                    }
                }
                Event::Account { side, account } => drop(self.accounts.insert(*side, account.clone())),
                Event::Recovered { ms, .. } => self.verdict.recovery_ms = self.verdict.recovery_ms.max(*ms),
                Event::Stuck { .. } => self.verdict.stuck += 1,
                Event::CrashLoop { .. } => self.verdict.crash_loops += 1,
                Event::Panic { handled, .. } => self.verdict.panics += u64::from(!handled),
                Event::End => ended = true,
                _ => {}
            }
        }
        if !destroyed {
            self.verdict.false_alarms = quarantines;
        }
        // A harness that did not come to its end has seen nothing go on.
        self.verdict.stuck += u64::from(!ended);
    }

    fn judge_losses(&mut self) {
        let (mut destroyed, mut others, mut maybe) = ([0; 3], [0; 3], [0; 3]);
        for (id, sent) in &self.sent {
            let at = sent.at();
            if self.delivered.contains(id) {
                maybe[at] += u64::from(self.not_noted.contains(id) && self.destroyed.contains(id));
                continue;
            }
            match sent.answer {
                Answer::Accepted if self.untold.contains(id) => self.verdict.given_up += 1,
                Answer::Accepted if self.destroyed.contains(id) => destroyed[at] += 1,
                Answer::Accepted => others[at] += 1,
                Answer::Refused { then_cut: false } => {}
                // What nobody was told may have been there and be missing.
                Answer::Undecided | Answer::Refused { then_cut: true } => maybe[at] += 1,
            }
        }
        let unknown = self.gaps.iter().any(|gap| gap.unknown && !is_policy(gap));
        let sum = |of: fn(&Gap) -> bool| {
            let mut sum = [0u64; 3];
            for gap in self.gaps.iter().filter(|gap| of(gap)) {
                (0..3).for_each(|at| sum[at] += gap.items[at]);
            }
            sum
        };
        let (policy, known) = (sum(is_policy), sum(|gap| !is_policy(gap)));
        // Counted, kept, and shown: as good as a gap.
        let dead = self.accounts.get(&Side::Ground).map_or([0; 3], |ground| ground.dead);
        for at in 0..3 {
            let by_rule = policy[at].min(others[at]);
            self.verdict.lost += others[at] - by_rule;
            let left = policy[at] - by_rule;
            let covered =
                if unknown { destroyed[at] } else { destroyed[at].min(known[at] + dead[at] + left) };
            self.verdict.lost += destroyed[at] - covered;
            self.verdict.given_up += covered;
            if !unknown {
                // A gap that says more than is missing covers what was never destroyed.
                let most = destroyed[at] + others[at] + maybe[at];
                self.verdict.uncounted += (policy[at] + known[at]).saturating_sub(most);
            }
        }
    }

    fn judge_accounts(&mut self) {
        let unknown = self.gaps.iter().any(|gap| gap.unknown);
        if let Some(agent) = self.accounts.get(&Side::Agent) {
            let gone = dropped(agent);
            let there = |at: usize| agent.delivered[at] + agent.held[at] + gone[at];
            self.verdict.uncounted += (0..3).map(|at| agent.taken[at].abs_diff(there(at))).sum::<u64>();
            if !unknown {
                let (least, most) = self.bounds();
                for at in 0..3 {
                    self.verdict.uncounted += least[at].saturating_sub(agent.taken[at]);
                    self.verdict.uncounted += agent.taken[at].saturating_sub(most[at]);
                }
            }
        }
        if let Some(ground) = self.accounts.get(&Side::Ground) {
            let there = |at: usize| ground.delivered[at] + ground.dead[at] + ground.held[at];
            // What the station lost itself is a drop of something that it had taken.
            let own = ground.dropped.iter().find(|(r, _)| r == STATION_LOST).map_or([0; 3], |(_, n)| *n);
            let off = |at: usize| {
                let (taken, there) = (ground.taken[at], there(at));
                taken.abs_diff(there).min(taken.abs_diff(there + own[at]))
            };
            self.verdict.uncounted += (0..3).map(off).sum::<u64>();
            if !self.commits_noted {
                // More than there ever was can only have been committed twice.
                let (_, most) = self.bounds();
                self.verdict.twice += (0..3).map(|at| ground.taken[at].saturating_sub(most[at])).sum::<u64>();
            }
        }
        if let (Some(agent), Some(ground)) =
            (self.accounts.get(&Side::Agent), self.accounts.get(&Side::Ground))
        {
            // A reason that only the ground knows is about what it lost itself, or closed for a satellite that forgot.
            for (reason, items) in &agent.dropped {
                let there = ground.dropped.iter().find(|(r, _)| r == reason).map_or([0; 3], |(_, n)| *n);
                // A log that was lost whole has forgotten what it had dropped; the ground has not.
                let off = |at: usize| match unknown {
                    true => items[at].saturating_sub(there[at]),
                    false => items[at].abs_diff(there[at]),
                };
                self.verdict.uncounted += (0..3).map(off).sum::<u64>();
            }
        }
    }

    /// The least and the most that the agent can have accepted, given what it answered.
    fn bounds(&self) -> (Three, Three) {
        let (mut least, mut most) = ([0; 3], [0; 3]);
        for (id, sent) in &self.sent {
            let at = sent.at();
            let told = sent.answer == Answer::Accepted && !self.untold.contains(id);
            least[at] += u64::from(told);
            let refused = matches!(sent.answer, Answer::Refused { .. }) && !self.delivered.contains(id);
            most[at] += u64::from(!refused);
        }
        (least, most)
    }
}

fn is_policy(gap: &Gap) -> bool {
    POLICIES.contains(&gap.reason.as_str())
}

fn dropped(account: &Account) -> Three {
    let mut sum = [0; 3];
    for (_, items) in &account.dropped {
        (0..3).for_each(|at| sum[at] += items[at]);
    }
    sum
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
