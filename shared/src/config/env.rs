//! Variables in a configuration, as the Collector takes them.
//!
//! `${env:NAME}`, `${NAME}` and `${env:NAME:-default}` are replaced in values, after YAML is read: a value may have several lines, and
//! none can add a key. A value that is nothing but a variable may become a number, a word, nothing, or a list or map in braces. `$$` is a
//! dollar sign. A variable that is set and empty is empty. One that is not set and has no default is an error, where the Collector
//! goes on with nothing.

use super::tree::{Node, Scalar, Value, parse};

/// Variables in the default of a variable, and so on.
const MOST_NESTED: usize = 8;

/// A value whose variables cannot be replaced; nothing stands in its place.
#[derive(Debug)]
pub(super) struct Wrong {
    /// Where, from the top, with dots.
    pub(super) key: String,
    pub(super) line: u64,
    pub(super) message: String,
    /// A variable that is not set: one mistake, however often it stands there.
    pub(super) is_unset: bool,
}

/// Why a text cannot be replaced.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("the environment variable {0} is not set; set it or write ${{env:{0}:-default}}")]
    Unset(String),
    #[error("{0}")]
    Other(String),
}

/// Replaces variables everywhere in `node`, which stands at `key`.
pub(super) fn expand(
    node: &mut Node,
    key: &str,
    env: &dyn Fn(&str) -> Option<String>,
    wrong: &mut Vec<Wrong>,
) {
    let within = |name: &str| if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") };
    match &mut node.value {
        Value::Map(map) => map.0.iter_mut().for_each(|e| expand(&mut e.node, &within(&e.key), env, wrong)),
        Value::List(list) => {
            list.iter_mut()
                .enumerate()
                .for_each(|(n, node)| expand(node, &within(&n.to_string()), env, wrong));
        }
        Value::Scalar(scalar) if !scalar.text.contains('$') => {}
        Value::Scalar(scalar) => {
            let whole = scalar.plain && scalar.text.starts_with("${");
            match replaced(&scalar.text, env, MOST_NESTED) {
                Err(fault) => {
                    let (message, is_unset) = (fault.to_string(), matches!(fault, Fault::Unset(_)));
                    wrong.push(Wrong { key: key.to_owned(), line: node.line, message, is_unset });
                    *scalar = Scalar { text: String::new(), plain: true };
                }
                Ok(text) => match structure(node.line, &text).filter(|_| whole) {
                    Some(value) => node.value = value,
                    None => scalar.text = text,
                },
            }
        }
    }
}

/// The list or map that `text` is in flow style.
fn structure(line: u64, text: &str) -> Option<Value> {
    if !text.trim_start().starts_with(['[', '{']) {
        return None;
    }
    let mut node = parse(text).ok()?;
    move_to(&mut node, line);
    matches!(node.value, Value::List(_) | Value::Map(_)).then_some(node.value)
}

fn move_to(node: &mut Node, line: u64) {
    node.line = line;
    match &mut node.value {
        Value::Map(map) => map.0.iter_mut().for_each(|e| {
            e.line = line;
            move_to(&mut e.node, line);
        }),
        Value::List(list) => list.iter_mut().for_each(|n| move_to(n, line)),
        Value::Scalar(_) => {}
    }
}

fn replaced(text: &str, env: &dyn Fn(&str) -> Option<String>, depth: usize) -> Result<String, Fault> {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let end = closing(after).ok_or_else(|| Fault::Other("`${` without its `}`".to_owned()))?;
            out.push_str(&variable(&after[..end], env, depth)?);
            rest = &after[end + 1..];
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// The brace that closes what begins before `text`.
fn closing(text: &str) -> Option<usize> {
    let mut open = 1;
    for (at, c) in text.char_indices() {
        match c {
            '{' if text[..at].ends_with('$') => open += 1,
            '}' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return Some(at);
        }
    }
    None
}

fn variable(text: &str, env: &dyn Fn(&str) -> Option<String>, depth: usize) -> Result<String, Fault> {
    let (name, default) = match text.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (text, None),
    };
    let name = match name.split_once(':') {
        None | Some(("env", _)) => name.strip_prefix("env:").unwrap_or(name),
        Some((scheme, _)) => {
            let message =
                format!("`${{{scheme}:...}}` is not implemented; only variables are: ${{env:NAME}}");
            return Err(Fault::Other(message));
        }
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(is_name) {
        return Err(Fault::Other(format!("`{name}` is not a valid name of an environment variable")));
    }
    match (env(name), default) {
        (Some(value), _) => Ok(value),
        (None, Some(_)) if depth == 0 => {
            Err(Fault::Other(format!("the default of {name} nests too many variables")))
        }
        (None, Some(default)) => replaced(default, env, depth - 1),
        (None, None) => Err(Fault::Unset(name.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str) -> Option<String> {
        let value = match name {
            "A" => "1",
            "EMPTY" => "",
            "LIST" => "[otlp, otlp/2]",
            "PEM" => "-----BEGIN-----\nx: y\n-----END-----\n",
            _ => return None,
        };
        Some(value.to_owned())
    }

    fn out(text: &str) -> Result<Node, Vec<Wrong>> {
        let (mut node, mut wrong) = (parse(text).unwrap(), Vec::new());
        expand(&mut node, "", &environment, &mut wrong);
        if wrong.is_empty() { Ok(node) } else { Err(wrong) }
    }

    #[test]
    fn variables_come_from_the_environment_or_their_default() {
        for (text, expected) in [
            ("${env:A} ${env:B:-2} $$x $y", "1 2 $x $y"),
            ("${A}", "1"),
            ("'# ${env:A}'", "# 1"),
            ("host:${env:B:-${env:A}}", "host:1"),
            ("${env:PEM}", "-----BEGIN-----\nx: y\n-----END-----\n"),
            ("$${env:A}", "${env:A}"),
        ] {
            let node = out(&format!("a: {text} # ${{env:B}}\n")).unwrap();
            assert_eq!(node.at(&["a"]).unwrap().as_text(), Some(expected), "{text}");
        }
        assert!(out("a: ${env:EMPTY:-x}").unwrap().at(&["a"]).unwrap().is_null(), "set and empty is empty");
        let list = out("a: ${env:LIST}").unwrap();
        assert_eq!(list.at(&["a", "1"]).unwrap().as_text(), Some("otlp/2"));
    }

    #[test]
    fn what_cannot_be_replaced_is_named_with_its_line_and_all_of_it_at_once() {
        let wrong = out("x: ${env:B}\ny: ${file:/etc/passwd}\nz: ${env:A\n").unwrap_err();
        let places: Vec<(&str, u64)> = wrong.iter().map(|w| (w.key.as_str(), w.line)).collect();
        assert_eq!(places, [("x", 1), ("y", 2), ("z", 3)]);
        assert!(wrong[0].message.contains("B is not set") && wrong[1].message.contains("`${file:...}`"));
    }
}
