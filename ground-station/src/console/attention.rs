//! What needs a human, with its remedy: of each satellite, and of this station.

use std::collections::BTreeSet;

use maud::{Markup, html};
use perigee_shared::contact::shown_time;
use perigee_shared::export::Failing;
use serde::Serialize;

use super::show::{bytes, counted, span};
use crate::spool::{AlarmView, Digest, Items, NamesakeView, SatelliteDigest, Status, shown_offset};

const S: u64 = 1_000_000_000;

/// A certificate that ends sooner is named, ns.
const SOON: u64 = 30 * 86_400 * S;

/// One that ends sooner than this is an alarm.
const VERY_SOON: u64 = 7 * 86_400 * S;

/// A clock that is off by more is named, s.
const CLOCK_OFF: f64 = 1.0;

/// So long after AOS by plan a link should be up, ns.
const LATE: u64 = 120 * S;

/// What waits longer for a backend that has not failed is named, ns.
const BEHIND: u64 = 600 * S;

/// An alarm on board needs a human so long after it came here, ns, unless it is over.
const RECENT: u64 = 86_400 * S;

/// The severity number of ERROR.
const ERROR: u32 = 17;

/// How much it matters. The greater, the more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Level {
    /// Nothing has to be done.
    Fine,
    /// Somebody should know.
    Note,
    /// Somebody should do something.
    Warning,
    /// Somebody must do something, or data is lost.
    Alarm,
}

impl Level {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Alarm => "alarm",
        }
    }

    /// The word, coloured.
    pub(super) fn badge(self) -> Markup {
        html! { span class=(format!("badge {}", self.word())) { (self.word()) } }
    }
}

/// One thing that somebody should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Note {
    pub(super) level: Level,
    /// What it is.
    pub(super) text: String,
    /// What to do.
    pub(super) remedy: &'static str,
}

fn note(level: Level, text: impl Into<String>, remedy: &'static str) -> Note {
    Note { level, text: text.into(), remedy }
}

/// The gravest of these.
pub(super) fn gravest(notes: &[Note]) -> Level {
    notes.iter().map(|note| note.level).max().unwrap_or(Level::Fine)
}

/// What needs a human of a satellite, the gravest first.
pub(super) fn of_satellite(sat: &SatelliteDigest, now: u64) -> Vec<Note> {
    let mut out = Vec::new();
    contacts(sat, now, &mut out);
    namesakes(sat, now, &mut out);
    store(sat, now, &mut out);
    alarms(sat, now, &mut out);
    agent(sat, now, &mut out);
    let account = &sat.account;
    if account.lost != Items::default() {
        let text = format!("{} lost or given up here", counted(account.lost.total(), "item", "items"));
        out.push(note(Level::Note, text, "see Gaps for which and why"));
    }
    if !account.dropped_by_reason.is_empty() {
        let reasons = account.dropped_by_reason.keys().map(|name| name.replace('_', " "));
        let reasons = reasons.collect::<Vec<_>>().join(", ");
        let items = match account.dropped.total() {
            0 => "items, nobody knows how many,".to_owned(),
            known => counted(known, "item", "items"),
        };
        out.push(note(
            Level::Note,
            format!("{items} dropped on board: {reasons}"),
            "see Gaps for which and why",
        ));
    }
    if account.dead_lettered != Items::default() {
        let text = format!("{} in dead letters", counted(account.dead_lettered.total(), "item", "items"));
        out.push(note(Level::Warning, text, "see Data for the backend's words, then replay or discard them"));
    }
    out.sort_by_key(|note| std::cmp::Reverse(note.level));
    out
}

fn contacts(sat: &SatelliteDigest, now: u64, out: &mut Vec<Note>) {
    let standing = &sat.standing;
    if let Some(next) = &standing.next_contact
        && !sat.connected
        && next.start_unix_nano + LATE < now
        && standing.last_heard_unix_nano < next.start_unix_nano
    {
        let late = span(now - next.start_unix_nano);
        let text =
            format!("the contact over {} should have begun {late} ago; nothing was heard", next.station);
        out.push(note(Level::Alarm, text, "check antenna, tracking and the station's UDP port"));
    }
    if let Some(error) = standing.plan.as_ref().and_then(|plan| plan.error.as_ref()) {
        let text = format!("the plan that lies on board is not in force: {error}");
        out.push(note(
            Level::Warning,
            text,
            "upload a plan without the mistake; the last good one is in force",
        ));
    }
    let ended = standing.last_pass.as_ref().and_then(|pass| pass.report()["state"].as_str());
    match ended {
        Some("unreachable") => out.push(note(
            Level::Warning,
            "in the last pass the station never answered",
            "see Passes; check the station and its UDP port",
        )),
        Some("refused") => out.push(note(
            Level::Warning,
            "in the last pass one side refused the other",
            "check both certificates and whether the satellite is listed in link.satellites",
        )),
        Some("cut") => out.push(note(
            Level::Note,
            "the last pass was cut before its end by plan",
            "see Passes; what was in flight is sent again",
        )),
        _ => {}
    }
}

fn namesakes(sat: &SatelliteDigest, now: u64, out: &mut Vec<Note>) {
    for other in &sat.standing.namesakes {
        if NamesakeView::is_recent(other.heard_unix_nano, now) {
            let text = format!(
                "another ground-station has this one's name and the ledger {} of its own",
                other.ledger
            );
            out.push(note(Level::Warning, text, "give one of the two another link.station and certificate"));
        }
    }
}

fn store(sat: &SatelliteDigest, now: u64, out: &mut Vec<Note>) {
    let forecast = sat.standing.forecast.as_ref();
    if let Some(full) = forecast.and_then(|f| f["full_unix_nano"].as_u64()) {
        let text = if full <= now {
            "its store is full by its forecast".to_owned()
        } else {
            format!("forecast: its store is full in about {} if its plan holds", span(full - now))
        };
        let level = if full < now + 86_400 * S { Level::Alarm } else { Level::Warning };
        out.push(note(level, text, "plan more contacts, or lower the rate of bulk data on board"));
    }
    let part = |name: &str| forecast.and_then(|f| f[name].as_u64());
    if let (Some(stored), Some(most)) = (part("stored_bytes"), part("max_bytes"))
        && most > 0
        && stored >= most / 10 * 9
    {
        let text = format!("its store holds {} of {}", bytes(stored), bytes(most));
        out.push(note(Level::Warning, text, "plan more contacts before its policy drops data"));
    }
}

fn agent(sat: &SatelliteDigest, now: u64, out: &mut Vec<Note>) {
    let agent = sat.standing.agent.as_ref();
    if let Some(end) = agent.and_then(|agent| agent.certificate_end_unix_nano) {
        out.extend(certificate("its certificate", end, now));
    }
    if let Some(agent) = agent
        && let (Some(resident), Some(most)) = (agent.resident_bytes, agent.memory_limit_bytes)
        && most > 0
        && resident >= most / 10 * 9
    {
        let text = format!("its agent uses {} of {} of memory", bytes(resident), bytes(most));
        out.push(note(
            Level::Warning,
            text,
            "senders are refused at the limit; raise memory_limiter.limit or send less",
        ));
    }
    if let Some(clock) = &sat.standing.clock {
        if !clock.untrusted.is_empty() {
            let text = format!("its clock is not trusted on board: {}", clock.untrusted);
            out.push(note(Level::Warning, text, "set the clock; until then a plan may not be followed"));
        } else if clock.offset_seconds.abs() > clock.error_seconds + CLOCK_OFF {
            let off = shown_offset(clock.offset_seconds, clock.error_seconds);
            let text = format!("its clock is off by {off}");
            out.push(note(Level::Note, text, "set the clock, or contacts.time_from_ground: use"));
        }
    }
}

/// What is to be said of a certificate that ends then.
pub(super) fn certificate(whose: &str, end: u64, now: u64) -> Option<Note> {
    let text = if end <= now {
        format!("{whose} ended at {}", shown_time(end))
    } else if end < now + SOON {
        format!("{whose} ends in {}, at {}", span(end - now), shown_time(end))
    } else {
        return None;
    };
    let level = if end < now + VERY_SOON { Level::Alarm } else { Level::Warning };
    Some(note(
        level,
        text,
        "issue a new one with `ground-station pki issue` and bring it to where it is used",
    ))
}

/// What needs a human of this station, the gravest first.
pub(super) fn of_station(
    digest: &Digest,
    status: &Status,
    troubles: &[(String, Failing)],
    health: Option<String>,
    certificates: &[(&str, u64)],
    now: u64,
) -> Vec<Note> {
    let mut out = Vec::new();
    if let Some(why) = status.gone.clone().or(status.failing.clone()) {
        out.push(note(
            Level::Alarm,
            format!("the spool cannot be written: {why}"),
            "look at the disk; links stop reading and nothing is dropped meanwhile",
        ));
    }
    if let Some(why) = health {
        out.push(note(Level::Alarm, format!("a task does not run: {why}"), "see the log, then start again"));
    }
    if status.full {
        out.push(note(
            Level::Alarm,
            "the spool is full: links stop reading",
            "mend the exporter that is behind, or raise storage.max_bytes",
        ));
    }
    for satellite in &status.full_satellites {
        let text = format!("{satellite} has used up its part of the spool: its link stops reading");
        out.push(note(
            Level::Warning,
            text,
            "mend the exporter that is behind, or raise its max_spool_bytes",
        ));
    }
    for (name, trouble) in troubles {
        let since = span(now.saturating_sub(trouble.since_unix_nano));
        let text = format!("exporter {name} has not got through for {since}: {}", trouble.reason);
        let remedy = if trouble.misconfigured {
            "the backend refuses this exporter: check its endpoint and credentials; the spool keeps everything"
        } else {
            "look at the backend; the spool keeps everything"
        };
        let long = now.saturating_sub(trouble.since_unix_nano) > BEHIND;
        let level = if trouble.misconfigured || long { Level::Alarm } else { Level::Warning };
        out.push(note(level, text, remedy));
    }
    for exporter in &digest.exporters {
        let age = exporter.oldest_unix_nano.map_or(0, |oldest| now.saturating_sub(oldest));
        if age > BEHIND && !troubles.iter().any(|(name, _)| *name == exporter.name) {
            let text = format!("exporter {} is {} behind", exporter.name, span(age));
            out.push(note(Level::Warning, text, "the backend takes less than arrives; see Data"));
        }
    }
    if digest.spool.dead_letters > 0 {
        let text =
            format!("{} to decide on", counted(digest.spool.dead_letters, "dead letter", "dead letters"));
        out.push(note(Level::Warning, text, "see Data for the backend's words, then replay or discard them"));
    }
    if digest.spool.quarantined.is_some() {
        let text = "a damaged spool was put aside since the start";
        out.push(note(Level::Warning, text, "look at the disk; `spool inspect` says where the file is"));
    }
    out.extend(certificates.iter().filter_map(|(whose, end)| certificate(whose, *end, now)));
    out.sort_by_key(|note| std::cmp::Reverse(note.level));
    out
}

/// What to do about each alarm that an agent can raise, by its `event.name`: those of docs/operations.md.
const REMEDIES: &[(&str, &str)] = &[
    ("perigee.clock.untrusted", "set the clock on board; until then a plan may not be followed"),
    ("perigee.clock.trusted", "nothing has to be done"),
    (
        "perigee.exporter.holds_store",
        "mend the backend on board that does not take its requests, or take the signal out of its pipelines",
    ),
    ("perigee.exporter.kept", "look at the backend on board that does not take its requests"),
    (
        "perigee.exporter.misconfigured",
        "check endpoint and credentials of the exporter on board; its store keeps everything",
    ),
    (
        "perigee.link.certificate",
        "bring a certificate, its key and the authority on board that belong together",
    ),
    ("perigee.link.certificate_expiry", "issue a new certificate and bring it on board"),
    (
        "perigee.link.contradiction",
        "find out who answers at that station; a log that was restored is believed after the time in the line",
    ),
    ("perigee.link.revocation_list", "bring a list on board that can be used, or check the clock"),
    (
        "perigee.listener.certificate",
        "bring a certificate, its key and the authority on board that belong together",
    ),
    ("perigee.listener.full", "raise max_connections, or end clients that hold connections they do not use"),
    ("perigee.panic", "report it with the agent's log; what was acknowledged is safe"),
    ("perigee.task.panic", "report it with the agent's log; what was acknowledged is safe"),
    ("perigee.store.ballast", "free space on the volume on board"),
    ("perigee.store.failed", "look at the storage on board; requests are refused meanwhile"),
    (
        "perigee.store.quarantined",
        "see Gaps for what was lost; fetch the file that was put aside if it matters",
    ),
    ("perigee.wal.behind", "nothing after a backup was put back; else look at the storage on board"),
    ("perigee.wal.codec", "report it: a segment could not be coded as configured"),
    ("perigee.wal.corruption", "see Gaps for what was lost; look at the storage on board"),
    ("perigee.wal.front_damaged", "nothing after a power cut; else look at the storage on board"),
    ("perigee.wal.front_failed", "look at the storage on board; commits write more until it is mended"),
    ("perigee.wal.full", "plan more contacts, or allow more bytes on board; senders were refused meanwhile"),
    ("perigee.wal.lost", "find out who deleted the log on board; see Gaps for what was lost"),
    ("perigee.wal.new_epoch", "nothing has to be done, unless it happens again"),
    (
        "perigee.wal.restored",
        "nothing after a backup was put back, and see Gaps for what was lost; else look at the storage on board",
    ),
    ("perigee.wal.returned", "nothing has to be done"),
    ("perigee.wal.salvaged", "look at the storage on board; `space-agent wal salvage` recovers more"),
    ("perigee.wal.scrub", "look at the storage on board"),
    ("perigee.wal.taken_back", "replace the disk on board, or switch off its volatile cache"),
    ("perigee.wal.torn", "nothing after a power cut; else look at the storage on board"),
    ("perigee.wal.volatile", "data is in memory only, and a reboot loses it: restore the storage on board"),
];

/// Alarms that say that others are over.
const ENDS: &[(&str, &str)] =
    &[("perigee.clock.trusted", "perigee.clock.untrusted"), ("perigee.wal.returned", "perigee.wal.volatile")];

/// What to do about an alarm that an agent has raised, by its `event.name`; empty: it is not one of ours.
pub(super) fn remedy(event: &str) -> &'static str {
    REMEDIES.iter().find(|(name, _)| *name == event).map_or("", |(_, remedy)| remedy)
}

/// The latest alarm of each name that came in the last day and is not over.
fn alarms(sat: &SatelliteDigest, now: u64, out: &mut Vec<Note>) {
    let fresh = sat.alarms.iter().filter(|alarm| alarm.committed_unix_nano.saturating_add(RECENT) > now);
    let mut said = BTreeSet::new();
    for alarm in fresh {
        if ENDS.iter().any(|(end, _)| *end == alarm.name) || !said.insert(&alarm.name) {
            continue;
        }
        let is_end = |later: &AlarmView| {
            later.unix_nano > alarm.unix_nano && ENDS.contains(&(later.name.as_str(), alarm.name.as_str()))
        };
        if sat.alarms.iter().any(is_end) {
            continue;
        }
        let ago = span(now.saturating_sub(alarm.committed_unix_nano));
        let text = format!("its agent raised {} (came {ago} ago): {}", alarm.name, alarm.text);
        let level = if alarm.severity >= ERROR { Level::Alarm } else { Level::Warning };
        let remedy = match remedy(&alarm.name) {
            "" => "see Satellite for what it says",
            remedy => remedy,
        };
        out.push(note(level, text, remedy));
    }
}

/// Notes as a list with their remedies.
pub(super) fn list(notes: &[Note]) -> Markup {
    html! {
        ul.notes {
            @for note in notes {
                li {
                    (note.level.badge()) " " (note.text) "."
                    @if !note.remedy.is_empty() { " " span.remedy { "Remedy: " (note.remedy) "." } }
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "attention_tests.rs"]
mod tests;
