//! A configuration file as a tree whose nodes know their lines.
//!
//! serde stops at the first mistake and forgets where things stood. The tree stays: it is translated, read, mended and read again
//! until every mistake is known.

use std::collections::BTreeMap;

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, Span};

/// Nodes of one file at most: aliases of aliases could otherwise fill the memory.
const MOST_NODES: usize = 100_000;

/// A value and where it begins.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The line, from 1.
    pub line: u64,
    /// What stands there.
    pub value: Value,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Text, a number, a word, or nothing.
    Scalar(Scalar),
    /// A list.
    List(Vec<Node>),
    /// A map.
    Map(Map),
}

/// A scalar as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scalar {
    /// The text without quotes.
    pub text: String,
    /// Whether it stands without quotes, and may be a number, a word or nothing.
    pub plain: bool,
}

/// A map in the order of the file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Map(pub Vec<Entry>);

/// A key and its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The line of the key.
    pub line: u64,
    /// The value.
    pub node: Node,
}

impl Scalar {
    /// Whether nothing is written, or `null`.
    pub fn is_null(&self) -> bool {
        self.plain && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }
}

impl Node {
    /// Text at `line` that is not quoted.
    #[inline(never)]
    pub fn plain(line: u64, text: impl Into<String>) -> Self {
        Self { line, value: Value::Scalar(Scalar { text: text.into(), plain: true }) }
    }

    /// Text at `line` that is text whatever it looks like.
    #[inline(never)]
    pub fn text(line: u64, text: impl Into<String>) -> Self {
        Self { line, value: Value::Scalar(Scalar { text: text.into(), plain: false }) }
    }

    /// An empty map at `line`.
    pub fn map(line: u64) -> Self {
        Self { line, value: Value::Map(Map::default()) }
    }

    /// Nothing at `line`.
    pub fn null(line: u64) -> Self {
        Self::plain(line, "")
    }

    /// Whether nothing stands here.
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(s) if s.is_null())
    }

    /// The text of a scalar that is not null.
    pub fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(s) if !s.is_null() => Some(&s.text),
            _ => None,
        }
    }

    /// Whether this is the word `true`.
    pub fn is_true(&self) -> bool {
        matches!(&self.value, Value::Scalar(s) if s.plain && boolean(&s.text) == Some(true))
    }

    /// The map, if it is one.
    pub fn as_map(&self) -> Option<&Map> {
        match &self.value {
            Value::Map(map) => Some(map),
            _ => None,
        }
    }

    /// The list, if it is one.
    pub fn as_list(&self) -> Option<&[Node]> {
        match &self.value {
            Value::List(list) => Some(list),
            _ => None,
        }
    }

    /// The map, which nothing becomes when it is asked for.
    pub fn map_mut(&mut self) -> Option<&mut Map> {
        if self.is_null() {
            self.value = Value::Map(Map::default());
        }
        match &mut self.value {
            Value::Map(map) => Some(map),
            _ => None,
        }
    }

    /// Every setting: its key with dots from the top, and what stands there; a list is one setting.
    pub fn settings(&self) -> BTreeMap<String, String> {
        let mut out = BTreeMap::new();
        self.collect("", &mut out);
        out
    }

    fn collect(&self, at: &str, out: &mut BTreeMap<String, String>) {
        match &self.value {
            Value::Map(map) if !map.0.is_empty() => {
                for entry in &map.0 {
                    let dot = if at.is_empty() { "" } else { "." };
                    entry.node.collect(&format!("{at}{dot}{}", entry.key), out);
                }
            }
            Value::Map(_) => drop(out.insert(at.to_owned(), String::new())),
            Value::Scalar(scalar) => drop(out.insert(at.to_owned(), scalar.text.clone())),
            Value::List(list) => {
                let mut inside = BTreeMap::new();
                for (n, node) in list.iter().enumerate() {
                    node.collect(&n.to_string(), &mut inside);
                }
                out.insert(at.to_owned(), format!("{inside:?}"));
            }
        }
    }

    /// The node at a path of keys and numbers.
    pub fn at(&self, path: &[&str]) -> Option<&Self> {
        let Some((first, rest)) = path.split_first() else { return Some(self) };
        match &self.value {
            Value::Map(map) => map.get(first)?.at(rest),
            Value::List(list) => list.get(first.parse::<usize>().ok()?)?.at(rest),
            Value::Scalar(_) => None,
        }
    }

    /// Takes out what is at a path. Whether there was anything.
    pub fn remove(&mut self, path: &[String]) -> bool {
        match (&mut self.value, path) {
            (Value::Map(map), [key]) => map.take(key).is_some(),
            (Value::Map(map), [key, rest @ ..]) => map.get_mut(key).is_some_and(|node| node.remove(rest)),
            (Value::List(list), [at]) => match at.parse::<usize>() {
                Ok(at) if at < list.len() => {
                    list.remove(at);
                    true
                }
                _ => false,
            },
            (Value::List(list), [at, rest @ ..]) => {
                at.parse::<usize>().ok().and_then(|at| list.get_mut(at)).is_some_and(|node| node.remove(rest))
            }
            _ => false,
        }
    }

    /// Gives a key of the map at a path another name, unless that is taken. Whether it has it now.
    pub(super) fn rename(&mut self, path: &[String], from: &str, to: &str) -> bool {
        match (&mut self.value, path) {
            (Value::Map(map), []) if map.get(to).is_none() => {
                map.0.iter_mut().find(|e| e.key == from).map(|e| to.clone_into(&mut e.key)).is_some()
            }
            (Value::Map(map), [key, rest @ ..]) => map.get_mut(key).is_some_and(|n| n.rename(rest, from, to)),
            (Value::List(list), [at, rest @ ..]) => {
                let at = at.parse::<usize>().ok();
                at.and_then(|at| list.get_mut(at)).is_some_and(|n| n.rename(rest, from, to))
            }
            _ => false,
        }
    }

    /// The line of a key with dots from the top, or of the nearest part of it that is there. Names may have dots in them.
    pub fn line_of(&self, key: &str) -> u64 {
        let (mut node, mut line, mut rest) = (self, self.line, key);
        while !rest.is_empty() {
            let part = rest.split('.').next().unwrap_or(rest);
            let (length, at, next) = match &node.value {
                Value::Map(map) => {
                    let follows = |e: &&Entry| {
                        rest.strip_prefix(e.key.as_str()).is_some_and(|r| r.is_empty() || r.starts_with('.'))
                    };
                    let entry = map.0.iter().filter(follows).max_by_key(|e| e.key.len());
                    let Some(entry) = entry else { break };
                    (entry.key.len(), entry.line, &entry.node)
                }
                Value::List(list) => {
                    let Some(next) = part.parse().ok().and_then(|at: usize| list.get(at)) else { break };
                    (part.len(), next.line, next)
                }
                Value::Scalar(_) => break,
            };
            (node, line, rest) = (next, at, rest[length..].trim_start_matches('.'));
        }
        line
    }
}

impl Map {
    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.0.iter().find(|e| e.key == key).map(|e| &e.node)
    }

    /// The value of `key`, to change it.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        self.0.iter_mut().find(|e| e.key == key).map(|e| &mut e.node)
    }

    /// Takes out an entry.
    pub fn take(&mut self, key: &str) -> Option<Entry> {
        let at = self.0.iter().position(|e| e.key == key)?;
        Some(self.0.remove(at))
    }

    /// Puts a value behind the rest, or in the place of the one that is there.
    pub fn set(&mut self, key: &str, line: u64, node: Node) {
        match self.0.iter_mut().find(|e| e.key == key) {
            Some(entry) => entry.node = node,
            None => self.0.push(Entry { key: key.to_owned(), line, node }),
        }
    }
}

/// What YAML 1.2 has for true and false. `yes` and `on` are text there, and the Collector refuses them too.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" => Some(true),
        "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

/// A line and what is wrong there.
pub(super) type Wrong = (u64, String);

/// Reads YAML; the error is the first thing that is wrong. Nothing at all is nothing at line 1.
pub(super) fn parse(text: &str) -> Result<Node, Wrong> {
    let (node, twice) = parse_all(text)?;
    twice.into_iter().next().map_or(Ok(node), Err)
}

/// The same; keys that are there twice, whose first value stays, do not end it.
pub(super) fn parse_all(text: &str) -> Result<(Node, Vec<Wrong>), Wrong> {
    let mut builder =
        Builder { events: Parser::new_from_str(text), anchors: BTreeMap::new(), nodes: 0, twice: Vec::new() };
    let mut root = None;
    loop {
        let (event, span) = builder.next()?;
        match event {
            Event::StreamEnd => return Ok((root.unwrap_or_else(|| Node::null(1)), builder.twice)),
            Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
            _ if root.is_some() => {
                return Err((
                    line(&span),
                    "a second YAML document begins here (`---`); write one in a file".to_owned(),
                ));
            }
            event => root = Some(builder.node(event, &span)?),
        }
    }
}

struct Builder<'a> {
    events: Parser<'a, serde_saphyr::granit_parser::StrInput<'a>>,
    /// With the number of nodes in each.
    anchors: BTreeMap<usize, (Node, usize)>,
    nodes: usize,
    /// Keys that are there twice.
    twice: Vec<Wrong>,
}

fn line(span: &Span) -> u64 {
    span.start.line() as u64
}

impl<'a> Builder<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), (u64, String)> {
        match self.events.next() {
            Some(Ok(next)) => Ok(next),
            Some(Err(e)) => {
                let (line, why) = (e.marker().line() as u64, e.info());
                let is_tab = why.contains("tabs disallowed") || why.contains("found a tab");
                Err((line, if is_tab { "a tab stands where YAML wants spaces".to_owned() } else { why }))
            }
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn count(&mut self, line: u64, nodes: usize) -> Result<(), (u64, String)> {
        self.nodes += nodes;
        if self.nodes > MOST_NODES {
            return Err((line, format!("more than {MOST_NODES} values, repeated ones counted")));
        }
        Ok(())
    }

    fn node(&mut self, event: Event<'a>, span: &Span) -> Result<Node, (u64, String)> {
        let (at, before) = (line(span), self.nodes);
        self.count(at, 1)?;
        let (node, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && tag.is_none_or(|t| t.suffix() != "str");
                (Node { line: at, value: Value::Scalar(Scalar { text: text.into_owned(), plain }) }, anchor)
            }
            Event::SequenceStart(_, anchor, _) => {
                let mut list = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break,
                        (event, span) => list.push(self.node(event, &span)?),
                    }
                }
                (Node { line: at, value: Value::List(list) }, anchor)
            }
            Event::MappingStart(_, anchor, _) => {
                (Node { line: at, value: Value::Map(self.entries()?) }, anchor)
            }
            Event::Alias(id) => {
                let known = self.anchors.get(&id).map(|(_, nodes)| *nodes);
                self.count(at, known.unwrap_or_default())?;
                let node = self.anchors.get(&id).map(|(node, _)| node.clone());
                (
                    node.ok_or_else(|| {
                        (at, "an alias of an anchor that is not defined above it".to_owned())
                    })?,
                    0,
                )
            }
            _ => return Err((at, "this is not allowed here".to_owned())),
        };
        if anchor > 0 {
            self.anchors.insert(anchor, (node.clone(), self.nodes - before));
        }
        Ok(node)
    }

    fn entries(&mut self) -> Result<Map, (u64, String)> {
        let (mut map, mut merged) = (Map::default(), Vec::new());
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            let at = line(&span);
            let key = self.node(event, &span)?;
            let Value::Scalar(Scalar { text: key, plain }) = key.value else {
                return Err((at, "a key must be text".to_owned()));
            };
            let (event, span) = self.next()?;
            let node = self.node(event, &span)?;
            if plain && key == "<<" {
                merged.push((at, node));
            } else if map.get(&key).is_some() {
                self.twice.push((at, format!("the key `{key}` is set twice; keep one of them")));
            } else {
                map.0.push(Entry { key, line: at, node });
            }
        }
        for (at, node) in merged {
            let each = match node.value {
                Value::Map(_) => vec![node],
                Value::List(list) => list,
                Value::Scalar(_) => return Err((at, "`<<` takes a map or a list of maps".to_owned())),
            };
            for node in each {
                let Value::Map(other) = node.value else {
                    return Err((at, "`<<` takes a map or a list of maps".to_owned()));
                };
                map.0.extend(other.0.into_iter().filter(|e| map.get(&e.key).is_none()).collect::<Vec<_>>());
            }
        }
        Ok(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_know_their_lines_and_whether_they_are_quoted() {
        let tree = parse("a: 1\nb:\n  - x\n  - 'null'\nc: {d: , e: \"2\"}\n").unwrap();
        assert_eq!(tree.at(&["b", "1"]).unwrap().as_text(), Some("null"));
        assert!(tree.at(&["c", "d"]).unwrap().is_null());
        assert_eq!(tree.line_of("b"), 2);
        assert_eq!(tree.line_of("c.e"), 5);
        assert_eq!(tree.line_of("c.f.g"), 5, "what is missing is missing in its section");
        assert_eq!(parse("").unwrap(), Node::null(1));
    }

    #[test]
    fn aliases_and_merged_maps_are_followed_and_bounded() {
        let tree = parse("x: &x {a: 1, b: 2}\ny:\n  <<: *x\n  b: 3\n").unwrap();
        assert_eq!(tree.at(&["y", "a"]).unwrap().as_text(), Some("1"));
        assert_eq!(tree.at(&["y", "b"]).unwrap().as_text(), Some("3"));
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for n in 1..10 {
            let list = vec![format!("*a{}", n - 1); 10].join(",");
            bomb.push_str(&format!("a{n}: &a{n} [{list}]\n"));
        }
        assert!(parse(&bomb).is_err());
    }

    #[test]
    fn what_is_no_yaml_is_said_with_its_line() {
        let (node, twice) = parse_all("a: 1\na: 2\nb: {c: 1, c: 2}\n").unwrap();
        assert_eq!(node.at(&["a"]).unwrap().as_text(), Some("1"));
        assert_eq!(twice.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 3]);
        for (text, at) in [("a: 1\nb: [\n", 3), ("a: 1\na: 2\n", 2), ("a: *b\n", 1), ("a: 1\n---\nb: 2\n", 3)]
        {
            let (line, message) = parse(text).unwrap_err();
            assert!(line.abs_diff(at) <= 1 && message.len() > 5, "{text}: {line} {message}");
        }
    }
}
