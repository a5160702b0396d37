//! The screen of `space-agent top` and `ground-station top`: what a running program answers, each second.
//!
//! A program brings two things: how to ask, and a [`View`] that turns what was [`Seen`] into lines. Asking, keys, rates and the
//! terminal are here. [`text`] has the parts that lines are made of. [`Shown`] and [`Told`] are the
//! line of a command that takes long.

mod shown;
pub mod text;

use std::io::{self, IsTerminal};
use std::time::Duration;

use perigee_shared::serve::termination;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::style::{Style, Stylize};
use ratatui::text::Line;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

pub use self::shown::{Shown, Told};
pub use ratatui;

/// Between two questions.
const EACH: Duration = Duration::from_secs(1);

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a program makes of its answers.
pub type View = fn(&Seen) -> Vec<Line<'static>>;

/// The latest answer, and the one before it.
#[derive(Debug, Default)]
pub struct Seen {
    latest: Value,
    before: Option<(Value, Duration)>,
    /// Why there is no newer answer.
    trouble: Option<String>,
}

impl Seen {
    /// An answer came, so long after the latest one.
    pub fn answer(&mut self, value: Value, after: Duration) {
        let latest = std::mem::replace(&mut self.latest, value);
        self.before = (!latest.is_null() && !after.is_zero()).then_some((latest, after));
        self.trouble = None;
    }

    /// Nothing answers: what was known stays, and is shown as old.
    pub fn no_answer(&mut self, why: String) {
        self.trouble = Some(why);
    }

    /// The latest answer.
    pub const fn now(&self) -> &Value {
        &self.latest
    }

    /// How fast the sum that `count` takes from an answer grows, a second; `None` before the second answer and when it fell,
    /// as it does when the program has started again.
    pub fn rate(&self, count: impl Fn(&Value) -> u64) -> Option<f64> {
        let (before, after) = self.before.as_ref()?;
        let grown = count(&self.latest).checked_sub(count(before))?;
        Some(grown as f64 / after.as_secs_f64())
    }
}

/// Draws what was seen from the line `first` on; returns the last line from which anything would be left to see.
pub fn draw(frame: &mut Frame<'_>, name: &str, seen: &Seen, view: View, first: u16) -> u16 {
    let (area, buffer) = (frame.area(), frame.buffer_mut());
    let Some(foot) = area.bottom().checked_sub(1) else { return 0 };
    let lines = view(seen);
    let last = (lines.len() as u16).saturating_sub(foot - area.y);
    for (y, line) in (area.y..foot).zip(lines.iter().skip(usize::from(first.min(last)))) {
        buffer.set_line(area.x, y, line, area.width);
    }
    let foot_line = match &seen.trouble {
        Some(why) => {
            buffer.set_style(area, Style::new().dim());
            Line::from(format!("{name} does not answer: {why}")).red().bold()
        }
        None if last > 0 => Line::from("q quits, the arrows scroll").dim(),
        None => Line::from("q quits").dim(),
    };
    buffer.set_line(area.x, foot, &foot_line, area.width);
    last
}

/// Shows `name`, which `ask` asks each second, until `q`, Ctrl-C or SIGTERM. The terminal is as before afterwards, also when
/// this panics. When nothing answers at first, its words are returned without touching the terminal.
///
/// # Errors
///
/// Standard input or output is not a terminal; nothing answers at first; the terminal fails.
pub async fn run<A, F>(name: &str, instead: &str, ask: A, view: View) -> Result<(), String>
where
    A: Fn() -> F + Send + 'static,
    F: Future<Output = Result<Value, String>> + Send + 'static,
{
    if !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
        return Err(format!("top needs a terminal; `{instead}` prints the same once"));
    }
    let mut seen = Seen::default();
    seen.answer(ask().await?, Duration::ZERO);
    let mut terminal = ratatui::try_init().map_err(|e| e.to_string())?;
    let ended = follow(&mut terminal, name, seen, ask, view).await;
    ratatui::restore();
    ended.map_err(|e| format!("the terminal failed: {e}"))
}

async fn follow<A, F>(
    terminal: &mut ratatui::DefaultTerminal,
    name: &str,
    mut seen: Seen,
    ask: A,
    view: View,
) -> io::Result<()>
where
    A: Fn() -> F + Send + 'static,
    F: Future<Output = Result<Value, String>> + Send + 'static,
{
    let (told, mut answers) = mpsc::channel(1);
    tokio::spawn(questions(ask, told));
    let (pressed, mut events) = mpsc::channel(16);
    // It ends with the process: a terminal that says nothing cannot be left.
    std::thread::spawn(
        move || while event::read().is_ok_and(|event| pressed.blocking_send(event).is_ok()) {},
    );
    let termination = termination()?;
    tokio::pin!(termination);
    let (mut first, mut last, mut latest) = (0_u16, 0, Instant::now());
    loop {
        terminal.draw(|frame| last = draw(frame, name, &seen, view, first))?;
        tokio::select! {
            biased;
            () = &mut termination => return Ok(()),
            event = events.recv() => match event {
                None => return Ok(()),
                Some(event) => match scrolled(&event, first, last) {
                    Some(line) => first = line,
                    None => return Ok(()),
                },
            },
            Some(answer) = answers.recv() => match answer {
                Ok(value) => {
                    seen.answer(value, latest.elapsed());
                    latest = Instant::now();
                }
                Err(why) => seen.no_answer(why),
            },
        }
    }
}

/// Asks each second until nobody wants to know.
async fn questions<A, F>(ask: A, told: mpsc::Sender<Result<Value, String>>)
where
    A: Fn() -> F + Send + 'static,
    F: Future<Output = Result<Value, String>> + Send + 'static,
{
    let mut clock = interval(EACH);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    clock.tick().await;
    loop {
        clock.tick().await;
        let answer = timeout(PATIENCE, ask()).await;
        let answer = answer.unwrap_or_else(|_| Err(format!("nothing came for {} s", PATIENCE.as_secs())));
        if told.send(answer).await.is_err() {
            return;
        }
    }
}

/// The first line to show after `event`; `None`: it ends.
fn scrolled(event: &Event, first: u16, last: u16) -> Option<u16> {
    const PAGE: u16 = 10;
    let Some(key) = event.as_key_press_event() else { return Some(first.min(last)) };
    let first = match key.code {
        KeyCode::Char('q') | KeyCode::Esc => return None,
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return None,
        KeyCode::Up | KeyCode::Char('k') => first.saturating_sub(1),
        KeyCode::Down | KeyCode::Char('j') => first.saturating_add(1),
        KeyCode::PageUp => first.saturating_sub(PAGE),
        KeyCode::PageDown => first.saturating_add(PAGE),
        KeyCode::Home => 0,
        KeyCode::End => last,
        _ => first,
    };
    Some(first.min(last))
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::KeyEvent;
    use serde_json::json;

    use super::*;

    fn view(seen: &Seen) -> Vec<Line<'static>> {
        let rate = seen.rate(|v| v["n"].as_u64().unwrap_or(0));
        (0..30).map(|n| Line::from(format!("{n} of 30: {} {rate:?}", seen.now()["n"]))).collect()
    }

    fn drawn(seen: &Seen, first: u16) -> (String, u16) {
        let mut terminal = Terminal::new(TestBackend::new(30, 5)).unwrap();
        let mut last = 0;
        terminal.draw(|frame| last = draw(frame, "space-agent", seen, view, first)).unwrap();
        (terminal.backend().to_string(), last)
    }

    #[test]
    fn a_rate_needs_two_answers_and_a_counter_that_has_not_fallen() {
        let mut seen = Seen::default();
        let n = |v: &Value| v["n"].as_u64().unwrap_or(0);
        seen.answer(json!({"n": 10}), Duration::ZERO);
        assert_eq!(seen.rate(n), None);
        seen.answer(json!({"n": 30}), Duration::from_secs(2));
        assert_eq!(seen.rate(n), Some(10.0));
        seen.answer(json!({"n": 1}), Duration::from_secs(1));
        assert_eq!(seen.rate(n), None, "the program has started again");
    }

    #[test]
    fn what_does_not_fit_is_scrolled_to_and_no_answer_is_said() {
        let mut seen = Seen::default();
        seen.answer(json!({"n": 1}), Duration::ZERO);
        let (shown, last) = drawn(&seen, 0);
        assert!(shown.contains("0 of 30: 1 None") && shown.contains("the arrows scroll"), "{shown}");
        assert_eq!(last, 26);
        assert!(drawn(&seen, 99).0.contains("29 of 30"), "no further than the last line");
        seen.no_answer("connection refused".into());
        let (shown, _) = drawn(&seen, 0);
        assert!(shown.contains("0 of 30: 1") && shown.contains("space-agent does not answer: c"), "{shown}");
    }

    #[test]
    fn keys_scroll_within_the_text_and_end() {
        let press = |code| Event::Key(KeyEvent::new(code, KeyModifiers::NONE));
        assert_eq!(scrolled(&press(KeyCode::Down), 3, 3), Some(3));
        assert_eq!(scrolled(&press(KeyCode::Up), 0, 3), Some(0));
        assert_eq!(scrolled(&press(KeyCode::End), 0, 3), Some(3));
        assert_eq!(scrolled(&Event::Resize(80, 24), 9, 3), Some(3), "a larger screen shows more");
        assert_eq!(scrolled(&press(KeyCode::Char('q')), 0, 3), None);
        assert_eq!(
            scrolled(&Event::Key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), 0, 3),
            None
        );
        assert_eq!(scrolled(&press(KeyCode::Char('c')), 0, 3), Some(0));
    }
}
