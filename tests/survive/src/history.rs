//! What happened in one run, event by event: written while it happens, judged afterwards by [`check`](crate::check()).
//!
//! An item is known by its id; its digest says whether it is still what was accepted. Histories are kept as one JSON object a line.

use std::io::{BufRead, Write};

use serde::{Deserialize, Serialize};

/// One of the two programs with its store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// `space-agent` and its write-ahead log.
    Agent,
    /// `ground-station` and its spool.
    Ground,
}

impl Side {
    /// As it is shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Ground => "ground",
        }
    }
}

const fn noted() -> bool {
    true
}

/// Id and digest of an item.
pub type Item = (u64, u64);

/// Spans, metric points and log records.
pub type Three = [u64; 3];

/// What a store or an API says is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Why, as the ground names it.
    pub reason: String,
    /// Items that are missing.
    pub items: Three,
    /// The counts are not known exactly.
    pub unknown: bool,
}

/// Where a side says its items are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Accepted on board, or committed on the ground.
    pub taken: Three,
    /// Delivered on board, or exported on the ground.
    pub delivered: Three,
    /// Kept in dead-letter; none on board.
    pub dead: Three,
    /// On board, or in the spool.
    pub held: Three,
    /// By reason. On the ground these are the satellite's drops, which it never took.
    pub dropped: Vec<(String, Three)>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A run begins.
    Begin {
        /// The fault's name.
        fault: String,
        /// The side whose store meets it.
        side: Side,
        /// The seed that repeats it.
        seed: u64,
    },
    /// The agent answered with success.
    Accepted {
        /// Number of the signal, from 1.
        signal: u8,
        /// The items of the request.
        items: Vec<Item>,
    },
    /// The agent refused the request.
    Refused {
        /// Number of the signal, from 1.
        signal: u8,
        /// Its items.
        items: Vec<Item>,
    },
    /// The request had no answer: it may be there or not.
    Undecided {
        /// Number of the signal, from 1.
        signal: u8,
        /// Its items.
        items: Vec<Item>,
    },
    /// A segment was sealed.
    Sealed {
        /// Epoch, lane and sequence.
        segment: (u64, u8, u64),
    },
    /// A segment was sent.
    Shipped {
        /// Epoch, lane and sequence.
        segment: (u64, u8, u64),
    },
    /// The ground said that a segment is new and durable.
    Committed {
        /// Epoch, lane and sequence.
        segment: (u64, u8, u64),
        /// The ids in it.
        items: Vec<u64>,
    },
    /// A backend has these.
    Exported {
        /// The items, as they arrived.
        items: Vec<Item>,
        /// The store has noted it. Otherwise it cannot know, and if it loses the rest it counts these with it.
        #[serde(default = "noted")]
        noted: bool,
    },
    /// A store still holds these at the end, and would deliver them.
    Held {
        /// Whose store.
        side: Side,
        /// The items.
        items: Vec<Item>,
    },
    /// The ground shows this at the end.
    Gap(Gap),
    /// The harness took these away: a gap may cover them, and no others.
    Destroyed {
        /// The ids.
        items: Vec<u64>,
        /// Nothing that outlived the fault can know of them, so that nobody can report them.
        untold: bool,
    },
    /// The fault.
    Fault {
        /// What it was.
        what: String,
        /// Whether it happened.
        fired: bool,
    },
    /// A side starts.
    Restart {
        /// Which.
        side: Side,
        /// After a power cut, which takes the page cache with it.
        power_cut: bool,
    },
    /// A store works again after a failure or a start.
    Reopened {
        /// Whose.
        side: Side,
    },
    /// A side raised an alarm. It covers destroyed items when it says how many, or that nobody knows.
    Alarm {
        /// Whose.
        side: Side,
        /// Its name.
        name: String,
        /// Items that it says are lost.
        items: Three,
        /// It says that the number is not known.
        unknown: bool,
    },
    /// What a side says of its items at the end.
    Account {
        /// Which side.
        side: Side,
        /// The counts.
        account: Account,
    },
    /// It worked again so long after the fault had ended.
    Recovered {
        /// Which side.
        side: Side,
        /// Milliseconds.
        ms: u64,
    },
    /// It did not go on within the bound after the fault had ended.
    Stuck {
        /// Which side.
        side: Side,
        /// What did not happen.
        why: String,
    },
    /// It ended at each of several starts after the fault had ended.
    CrashLoop {
        /// Which side.
        side: Side,
        /// How it ended the last time.
        why: String,
    },
    /// It panicked.
    Panic {
        /// Which side.
        side: Side,
        /// The message.
        why: String,
        /// The process ended by itself with an exit code, or the panic was caught and the store quarantined.
        handled: bool,
    },
    /// The run came to its end.
    End,
}

/// One run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// In the order in which it happened.
    pub events: Vec<Event>,
}

impl History {
    /// A history that begins.
    pub fn new(fault: &str, side: Side, seed: u64) -> Self {
        Self { events: vec![Event::Begin { fault: fault.to_owned(), side, seed }] }
    }

    /// Notes an event.
    pub fn note(&mut self, event: Event) {
        self.events.push(event);
    }

    /// Writes one JSON object a line.
    pub fn write(&self, mut out: impl Write) -> std::io::Result<()> {
        for event in &self.events {
            serde_json::to_writer(&mut out, event)?;
            out.write_all(b"\n")?;
        }
        Ok(())
    }

    /// Reads what [`History::write`] has written.
    pub fn read(text: impl BufRead) -> anyhow::Result<Self> {
        let events = text.lines().map(|line| Ok(serde_json::from_str(&line?)?));
        Ok(Self { events: events.collect::<anyhow::Result<_>>()? })
    }
}
