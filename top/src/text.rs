//! The parts that lines are made of.

use perigee_shared::units::ByteSize;
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use serde_json::Value;

/// Cells of a bar.
const BAR: u64 = 20;

/// A line that begins with what it is about.
pub fn labelled(label: &str, rest: impl Into<Vec<Span<'static>>>) -> Line<'static> {
    let mut spans = vec![Span::from(format!("{label:<10}")).bold()];
    spans.extend(rest.into());
    Line::from(spans)
}

/// The head of a table.
pub fn head(columns: String) -> Line<'static> {
    Line::from(columns).bold().underlined()
}

/// A part of a whole.
pub fn bar(part: u64, whole: u64) -> Span<'static> {
    let share = if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
    let full = ((share * BAR as f64).round() as u64).min(BAR);
    let (full, rest) = ("█".repeat(full as usize), "░".repeat((BAR - full) as usize));
    let color = if share > 0.9 { Color::Red } else { Color::Reset };
    Span::styled(format!("{full}{rest} {:>3.0} %", share * 100.0), Style::new().fg(color))
}

/// A rate in items a second; `-` while it is not known.
pub fn rate(rate: Option<f64>) -> String {
    rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.0}"))
}

/// A rate in bytes a second.
pub fn byte_rate(rate: Option<f64>) -> String {
    rate.map_or_else(|| "-".to_owned(), |rate| format!("{}/s", ByteSize(rate as u64)))
}

/// Bytes as people write them.
pub fn size(value: &Value) -> String {
    value.as_u64().map_or_else(|| "-".to_owned(), |bytes| ByteSize(bytes).to_string())
}

/// `text`, cut to so many characters.
pub fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// A time in ns as a countdown shows it: to the second below an hour.
pub fn countdown(nano: u64) -> String {
    let seconds = nano / 1_000_000_000;
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, m, s) => format!("{m}:{s:02}"),
        (0, h, m, s) => format!("{h}:{m:02}:{s:02}"),
        (d, h, m, _) => format!("{d} d {h:02}:{m:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_as_wide_as_they_should_be() {
        assert_eq!(bar(1, 2).content, "██████████░░░░░░░░░░  50 %");
        assert_eq!(bar(0, 0).content, "░░░░░░░░░░░░░░░░░░░░   0 %");
        assert_eq!(bar(9, 2).content.chars().count(), 26, "more than all is all");
        assert_eq!(cut("a-long-name", 6), "a-lon…");
    }

    #[test]
    fn a_countdown_counts_seconds() {
        assert_eq!(countdown(62_000_000_000), "1:02");
        assert_eq!(countdown(3_601_000_000_000), "1:00:01");
        assert_eq!(countdown(100_000_000_000_000), "1 d 03:46");
    }
}
