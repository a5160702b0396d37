//! How far something is that takes long: a line in place on a terminal, and nothing elsewhere.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use perigee_shared::units::shown_span;
use ratatui::crossterm::terminal;
use tokio::time::Instant;

use crate::EACH;
use crate::text::cut;

/// The line, while this lives. A thread of its own writes it: what takes long may block the one that it runs on.
#[derive(Debug)]
pub struct Shown(Option<(SyncSender<()>, JoinHandle<()>)>);

impl Shown {
    /// Begins to show on standard error what `how_far` says of the time since then, each second.
    pub fn begin(how_far: impl Fn(Duration) -> String + Send + 'static) -> Self {
        if !io::stderr().is_terminal() {
            return Self(None);
        }
        let (alive, ended) = sync_channel(0);
        let begun = Instant::now();
        let show = move || loop {
            line(&how_far(begun.elapsed()));
            if ended.recv_timeout(EACH) != Err(RecvTimeoutError::Timeout) {
                return line("");
            }
        };
        Self(Some((alive, thread::spawn(show))))
    }

    /// Whether there is a line: on a terminal.
    const fn is_shown(&self) -> bool {
        self.0.is_some()
    }
}

/// A [`Shown`] whose words come as they change; what it adds is how long it has been so far.
#[derive(Debug)]
pub struct Told {
    shown: Shown,
    words: Arc<Mutex<String>>,
}

impl Told {
    /// Begins with these words.
    pub fn begin(first: &str) -> Self {
        let words = Arc::new(Mutex::new(first.to_owned()));
        let latest = Arc::clone(&words);
        let shown = Shown::begin(move |since| {
            let since = shown_span(since.as_nanos() as u64);
            latest.lock().map_or_else(|_| String::new(), |latest| format!("{latest}, {since} so far"))
        });
        Self { shown, words }
    }

    /// Shows other words from the next second on. Whether there is a line.
    pub fn tell(&self, words: String) -> bool {
        if let Ok(mut latest) = self.words.lock() {
            *latest = words;
        }
        self.shown.is_shown()
    }
}

impl Drop for Shown {
    /// Takes the line away.
    fn drop(&mut self) {
        if let Some((alive, thread)) = self.0.take() {
            drop(alive);
            // It has nothing to say about itself.
            drop(thread.join());
        }
    }
}

/// Writes `text` in the place of what the line had; no more than fits, since a line that wraps would stay.
fn line(text: &str) {
    let columns = terminal::size().map_or(80, |(columns, _)| usize::from(columns));
    let mut to = io::stderr().lock();
    // A terminal that is gone shows nothing.
    drop(write!(to, "\r\x1b[K{}", cut(text, columns.saturating_sub(1))).and_then(|()| to.flush()));
}
