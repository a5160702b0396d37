//! A tree as YAML again, with what is to be said of it in comments.

use std::fmt::Write as _;

use super::Problem;
use super::tree::{Map, Node, Scalar, Value, boolean};

/// The tree as YAML; each of `notes` stands as a comment before the key at its line, or at the head.
pub(super) fn yaml(tree: &Node, notes: &[Problem]) -> String {
    let mut writer = Writer { out: String::new(), notes: notes.to_vec() };
    let Value::Map(map) = &tree.value else { return String::new() };
    let head: Vec<Problem> = writer.notes.extract_if(.., |n| n.line == 0).collect();
    for note in head {
        writer.comment(0, &note);
    }
    writer.map(0, map);
    // What was taken out with its whole section.
    for note in std::mem::take(&mut writer.notes) {
        writer.comment(0, &note);
    }
    writer.out
}

struct Writer {
    out: String,
    notes: Vec<Problem>,
}

impl Writer {
    fn comment(&mut self, depth: usize, note: &Problem) {
        let [key, text] = [&note.key, &note.message]
            .map(|text| text.replace(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}'], " "));
        let _ = writeln!(self.out, "{:depth$}# {key}: {text}", "", depth = depth * 2);
    }

    fn map(&mut self, depth: usize, map: &Map) {
        for entry in &map.0 {
            // Keys that are gone stood above.
            let until = entry.line;
            let above: Vec<Problem> = self.notes.extract_if(.., |n| n.line <= until).collect();
            for note in above {
                self.comment(depth, &note);
            }
            let _ = write!(self.out, "{:depth$}{}:", "", quoted(&entry.key, true), depth = depth * 2);
            self.value(depth, &entry.node);
        }
    }

    fn value(&mut self, depth: usize, node: &Node) {
        match &node.value {
            Value::Map(map) if map.0.is_empty() => self.out.push_str(" {}\n"),
            Value::Map(map) => {
                self.out.push('\n');
                self.map(depth + 1, map);
            }
            Value::List(list) if list.iter().all(|n| matches!(n.value, Value::Scalar(_))) => {
                let items: Vec<String> = list.iter().map(scalar).collect();
                let _ = writeln!(self.out, " [{}]", items.join(", "));
            }
            Value::List(list) => {
                self.out.push('\n');
                for node in list {
                    let _ = write!(self.out, "{:depth$}-", "", depth = depth * 2 + 2);
                    self.value(depth + 1, node);
                }
            }
            Value::Scalar(s) if s.is_null() => self.out.push('\n'),
            Value::Scalar(_) => {
                let _ = writeln!(self.out, " {}", scalar(node));
            }
        }
    }
}

fn scalar(node: &Node) -> String {
    match &node.value {
        Value::Scalar(Scalar { text, plain }) => quoted(text, *plain),
        _ => String::new(),
    }
}

/// Text that YAML reads as the same text.
fn quoted(text: &str, plain: bool) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || "_-./:+%${}@".contains(c);
    let word = boolean(text).is_some() || text.parse::<f64>().is_ok() || matches!(text, "null" | "~" | "");
    let simple = text.chars().all(safe)
        && !text.starts_with(['-', ':', '%', '@', '{', '}'])
        && !text.ends_with(':')
        && !text.contains(": ");
    if simple && (plain || !word) {
        return text.to_owned();
    }
    serde_json::to_string(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConfigFile;

    #[test]
    fn what_is_written_is_read_as_the_same() {
        let text = "a: {b: [x, 'true', \"1\"], c: \"two\\nlines\", d: , 'e f': - }\nf: [{g: 1}, {h: ['#']}]\ni: ${env:X:-a b}\n";
        let text = text.replace(", 'e f': - ", ", 'e f': '-'");
        let before = ConfigFile::plain(&text, "a.yaml").unwrap();
        let written = yaml(&before.tree, &[Problem::new(1, "a", "said")]);
        let after = ConfigFile::plain(&written, "b.yaml").unwrap();
        let same = |f: &ConfigFile| yaml(&f.tree, &[]);
        assert_eq!(same(&before), same(&after), "{written}");
        assert!(written.starts_with("# a: said\n"), "{written}");
        assert_eq!(
            after.tree.at(&["a", "b", "1"]),
            Some(&Node::text(after.tree.at(&["a", "b", "1"]).unwrap().line, "true"))
        );
    }
}
