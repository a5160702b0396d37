//! How numbers, times and lists look on a page.

use maud::{Markup, html};
use perigee_shared::contact::shown_time;
use perigee_shared::units::ByteSize;
pub(super) use perigee_shared::units::shown_span as span;

use crate::spool::Items;

const MS: u64 = 1_000_000;

/// The same of seconds.
pub(super) fn seconds(seconds: f64) -> String {
    if seconds < 0.1 {
        format!("{:.0} ms", seconds * 1e3)
    } else if seconds < 10.0 {
        format!("{seconds:.1} s")
    } else {
        span((seconds * 1e9) as u64)
    }
}

/// A time as its distance from `now`, which the page keeps up to date; 0: never.
pub(super) fn when(unix_nano: u64, now: u64) -> Markup {
    if unix_nano == 0 {
        return html! { "never" };
    }
    let text = if unix_nano <= now {
        format!("{} ago", span(now - unix_nano))
    } else {
        format!("in {}", span(unix_nano - now))
    };
    html! {
        time datetime=(shown_time(unix_nano)) title=(shown_time(unix_nano)) data-at=(unix_nano / MS) { (text) }
    }
}

/// A time as a date.
pub(super) fn date(unix_nano: u64) -> Markup {
    if unix_nano == 0 {
        return html! { "unknown" };
    }
    let text = shown_time(unix_nano);
    let (day, time) = text.trim_end_matches('Z').split_once('T').unwrap_or((&text, ""));
    html! { time datetime=(text) { span.nowrap { (day) } " " span.nowrap { (time) } } }
}

/// Bytes with a unit.
pub(super) fn bytes(n: u64) -> String {
    ByteSize(n).to_string()
}

/// A number whose digits stand in threes.
pub(super) fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A number of things.
pub(super) fn counted(n: u64, one: &str, more: &str) -> String {
    format!("{} {}", number(n), if n == 1 { one } else { more })
}

/// Items by signal, without those of which there are none.
pub(super) fn items(items: Items) -> String {
    let all = [
        (items.spans, "span", "spans"),
        (items.metric_points, "point", "points"),
        (items.log_records, "log", "logs"),
    ];
    let some: Vec<String> =
        all.iter().filter(|(n, ..)| *n > 0).map(|(n, one, more)| counted(*n, one, more)).collect();
    if some.is_empty() { "none".to_owned() } else { some.join(", ") }
}

/// A part of a whole as a bar with its number.
pub(super) fn bar(part: f64, label: &str) -> Markup {
    let percent = (part * 100.0).clamp(0.0, 100.0);
    html! {
        span.bar {
            meter min="0" max="100" value=(format!("{percent:.0}")) aria-label=(label) {}
            span { (format!("{:.0} %", part * 100.0)) }
        }
    }
}

/// A text for an address.
pub(super) fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// A severity number of OpenTelemetry in a word.
pub(super) const fn severity(number: u32) -> &'static str {
    match number {
        0 => "",
        1..=4 => "trace",
        5..=8 => "debug",
        9..=12 => "info",
        13..=16 => "warn",
        17..=20 => "error",
        _ => "fatal",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_are_short() {
        assert_eq!(number(0), "0");
        assert_eq!(number(1_234_567), "1,234,567");
        assert_eq!(number(123), "123");
        assert_eq!(span(89 * 1_000 * MS), "89 s");
        assert_eq!(span(3 * 3_600 * 1_000 * MS), "3.0 h");
        assert_eq!(items(Items { spans: 1, metric_points: 0, log_records: 2_000 }), "1 span, 2,000 logs");
        assert_eq!(items(Items::default()), "none");
    }

    #[test]
    fn what_is_shown_is_escaped_in_texts_and_addresses() {
        assert_eq!(encoded("a b/<&\"'>"), "a%20b%2F%3C%26%22%27%3E");
        let shown = bar(0.5, "<script>\"'").into_string();
        assert!(!shown.contains("<script>") && shown.contains("&lt;script&gt;"), "{shown}");
    }
}
