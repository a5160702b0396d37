//! Whether the pages say what the code does: docs/configuration.md every key with its type, its default and the words that it may have,
//! docs/operations.md every alarm, ARCHITECTURE.md files and functions that are there.
//!
//! The code is read as text. A section of a configuration file is a struct with `deny_unknown_fields`; on the page a comment
//! `<!-- keys: FILE STRUCT -->` stands above the table of its keys.

#![expect(clippy::unwrap_used, reason = "a helper of a test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use perigee_shared::units::{ByteSize, parse_duration};

/// Structs that refuse unknown keys and are no section of a file: requests to the control socket and the API, the exporter `link`, which
/// has no key, lists of names (the page shows them with their sections), and the list around a plan's contacts.
const OTHERS: [&str; 12] = [
    "OpenContact",
    "ActRequest",
    "RangeRequest",
    "Asked",
    "Release",
    "Backup",
    "Salvage",
    "Recode",
    "BackupRequest",
    "ReplayRequest",
    "Nothing",
    "File",
];

#[derive(Debug)]
struct Field {
    key: String,
    kind: String,
    /// The expression that makes its default; `None`: the key is required.
    default: Option<String>,
}

/// The sources of the three crates, without their tests.
fn sources(root: &Path) -> BTreeMap<String, String> {
    let mut directories: Vec<PathBuf> =
        ["shared/src", "space-agent/src", "ground-station/src"].iter().map(|d| root.join(d)).collect();
    let mut out = BTreeMap::new();
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                directories.push(path);
            } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let end = text
                    .find("#[cfg(test)]\nmod tests {")
                    .or(text.find("#[cfg(test)]\npub(crate) mod tests"));
                out.insert(name, text[..end.unwrap_or(text.len())].to_owned());
            }
        }
    }
    out
}

/// `name: Type,`, with or without `pub`.
fn field(line: &str) -> Option<(&str, &str)> {
    let line = line.trim();
    let line = match line.strip_prefix("pub") {
        Some(rest) => rest.split_once(' ').filter(|(scope, _)| scope.is_empty() || scope.starts_with('('))?.1,
        None => line,
    };
    let (name, kind) = line.strip_suffix(',')?.split_once(": ")?;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    (!name.is_empty() && name.chars().all(plain)).then_some((name, kind))
}

/// The expression that `function` or the `impl Default` of `structure` has for a field.
fn default_of(text: &str, structure: &str, name: &str) -> Option<String> {
    let body = &text[text.find(&format!("impl Default for {structure} {{"))?..];
    let body = &body[..body.find("\n}")?];
    let at = |key: &str| body.find(key).map(|at| &body[at + key.len()..]);
    let rest = at(&format!(" {name}: ")).or_else(|| at(&format!("\n{name}: ")))?;
    let mut depth = 0;
    let end = rest.find(|c: char| {
        depth += i32::from(matches!(c, '(' | '{' | '[')) - i32::from(matches!(c, ')' | '}' | ']'));
        depth < 0 || (depth == 0 && c == ',')
    });
    Some(rest[..end?].trim().to_owned())
}

fn body_of(text: &str, function: &str) -> Option<String> {
    let rest = &text[text.find(&format!("fn {function}() ->"))?..];
    Some(rest[rest.find('{')? + 1..rest.find('}')?].trim().to_owned())
}

/// The fields of the struct whose body begins `text`; `all_default`: every key may be left out.
fn fields(text: &str, whole: &str, structure: &str, all_default: bool) -> Vec<Field> {
    let (mut out, mut attributes) = (Vec::new(), String::new());
    for line in text.lines().take_while(|line| line.trim() != "}") {
        let trimmed = line.trim();
        if trimmed.starts_with("#[") {
            attributes.push_str(trimmed);
            continue;
        }
        let Some((name, kind)) = field(line) else { continue };
        let attribute = |name: &str| {
            let rest = &attributes[attributes.find(&format!("{name} = \""))? + name.len() + 4..];
            rest.split('"').next().map(str::to_owned)
        };
        if !attributes.contains("serde(skip)") && !name.starts_with('_') {
            let default = if all_default {
                Some(default_of(whole, structure, name).unwrap_or_else(|| "default".into()))
            } else if let Some(function) = attribute("default") {
                Some(body_of(whole, &function).unwrap_or(function))
            } else if attributes.contains("serde(default)") {
                Some("default".to_owned())
            } else {
                kind.starts_with("Option<").then(|| "None".to_owned())
            };
            let key = attribute("rename").unwrap_or_else(|| name.to_owned());
            out.push(Field { key, kind: kind.to_owned(), default });
        }
        attributes.clear();
    }
    out
}

/// Every section that the code reads, by `FILE STRUCT`.
fn sections(sources: &BTreeMap<String, String>) -> BTreeMap<String, Vec<Field>> {
    let mut out = BTreeMap::new();
    for (file, text) in sources {
        for (at, _) in text.match_indices("#[serde(deny_unknown_fields") {
            let all_default = text[at..].lines().next().unwrap().contains("default");
            let Some((name, body)) = text[at..].split_once("struct ").and_then(|(_, t)| t.split_once(" {"))
            else {
                continue;
            };
            let name = name.split('<').next().unwrap();
            if name == "$name" {
                continue;
            }
            if !OTHERS.contains(&name) {
                out.insert(format!("{file} {name}"), fields(body, text, name, all_default));
            }
        }
    }
    // The exporters over OTLP share most of their keys in a macro.
    let (file, start) = ("shared/src/export/config.rs", "pub struct $name {");
    let text = &sources[file];
    let shared = &text[text.find(start).unwrap() + start.len()..];
    for (at, marker) in text.match_indices("otlp_config!(\n") {
        let own = &text[at + marker.len()..];
        let own = &own[..own.find(");").unwrap()];
        let name = own.lines().map(str::trim).find(|l| l.starts_with("Otlp")).unwrap().trim_end_matches(',');
        let mut all = fields(shared, text, name, false);
        all.extend(fields(own, text, name, true));
        out.insert(format!("{file} {name}"), all);
    }
    out
}

/// A choice: the words that may be written, and the one that is the default.
fn words(sources: &BTreeMap<String, String>, name: &str) -> Option<(Vec<String>, Option<String>)> {
    let (head, body) = sources.values().find_map(|text| {
        let at = text.find(&format!("enum {name} {{"))?;
        let head = &text[text[..at].rfind("\n\n").unwrap_or(0)..at];
        head.contains("Deserialize").then_some((head, &text[at..at + text[at..].find("\n}")?]))
    })?;
    let (mut all, mut default, mut renamed, mut is_default) = (Vec::new(), None, None, false);
    for line in body.lines().skip(1).map(str::trim) {
        if line == "#[default]" {
            is_default = true;
        } else if let Some(rest) = line.strip_prefix("#[serde(rename = \"") {
            renamed = rest.split('"').next().map(str::to_owned);
        } else if let Some(variant) = line.strip_suffix(',').filter(|v| v.chars().all(char::is_alphanumeric))
        {
            let snake = head.contains("snake_case");
            let mut word = String::new();
            for (n, c) in variant.chars().enumerate() {
                if snake && n > 0 && c.is_uppercase() {
                    word.push('_');
                }
                word.extend(c.to_lowercase());
            }
            let word = renamed.take().unwrap_or(word);
            if std::mem::take(&mut is_default) {
                default = Some(word.clone());
            }
            all.push(word);
        }
    }
    Some((all, default))
}

/// What the page calls a type.
fn type_word(sources: &BTreeMap<String, String>, kind: &str) -> &'static str {
    let kind = kind.strip_prefix("Option<").map_or(kind, |k| k.trim_end_matches('>'));
    match kind.split('<').next().unwrap() {
        "String" | "Secret" => "text",
        "PathBuf" => "path",
        "bool" => "true or false",
        "ByteSize" => "size",
        "Span" => "duration",
        "Rate" => "rate",
        "Percent" => "share",
        "Time" => "time",
        "u8" | "u32" | "u64" | "usize" | "f64" => "number",
        "Vec" => "list",
        "BTreeMap" | "Headers" | "Metrics" | "Toggles" | "LanesConfig" => "map",
        "Components" | "Extensions" => "components",
        "Skyline" => "number or list",
        name if words(sources, name).is_some() => "choice",
        _ => "section",
    }
}

/// A default that can be compared: bytes, seconds, or a word.
fn value(word: &str) -> String {
    if let Ok(ByteSize(bytes)) = word.parse()
        && word.ends_with('B')
    {
        return format!("{bytes} bytes");
    }
    match parse_duration(word) {
        Ok(duration) if word.ends_with(char::is_alphabetic) => format!("{} s", duration.as_secs_f64()),
        _ => word.to_owned(),
    }
}

/// The value of an expression in the code; `None` where a person has to look.
fn evaluated(sources: &BTreeMap<String, String>, field: &Field, expression: &str) -> Option<String> {
    let number = |text: &str| -> Option<f64> {
        let product = |t: &str| t.split('*').map(|n| n.trim().replace('_', "").parse::<f64>().ok()).product();
        match text.split_once("<<") {
            Some((n, shift)) => Some(product(n)? * 2_f64.powf(product(shift)?)),
            None => product(text),
        }
    };
    let inside = |start: &str| expression.strip_prefix(start).and_then(|e| number(e.trim_end_matches(')')));
    for (start, factor, unit) in [
        ("ByteSize::mib(", 1_048_576.0, " bytes"),
        ("ByteSize::kib(", 1024.0, " bytes"),
        ("ByteSize(", 1.0, " bytes"),
        ("Span::secs(", 1.0, " s"),
        ("Span::millis(", 0.001, " s"),
        ("Span(std::time::Duration::from_secs(", 1.0, " s"),
        ("Percent(", 100.0, "%"),
        ("", 1.0, ""),
    ] {
        if let Some(n) = inside(start) {
            return Some(format!("{}{unit}", n * factor));
        }
    }
    if let Some(text) = expression.strip_prefix('"') {
        return text.split('"').next().map(str::to_owned);
    }
    if let Some(name) = expression.strip_prefix("Span(serve::").and_then(|e| e.strip_suffix(')')) {
        let at = format!("const {name}: Duration = Duration::from_secs(");
        let text = sources["shared/src/serve.rs"].split_once(&at)?.1;
        return Some(format!("{} s", text.split(')').next()?));
    }
    if let Some((name, variant)) = expression.split_once("::").filter(|(_, v)| *v != "default()") {
        let (all, _) = words(sources, name)?;
        return all.into_iter().find(|word| word.replace('_', "") == variant.to_lowercase());
    }
    Some(match (expression, type_word(sources, &field.kind)) {
        ("None", _) => "none".to_owned(),
        ("true" | "false", _) => expression.to_owned(),
        (e, kind) if e == "default" || e.ends_with("::default()") || e.ends_with("::new()") => match kind {
            _ if field.kind.starts_with("Option<") => "none".to_owned(),
            "true or false" => "false".to_owned(),
            "size" => "0 bytes".to_owned(),
            "duration" => "0 s".to_owned(),
            "number" => "0".to_owned(),
            "choice" => words(sources, &field.kind)?.1?,
            _ => return None,
        },
        _ => return None,
    })
}

/// The page's tables: key → (type, default, meaning), by `FILE STRUCT`.
fn page(text: &str) -> BTreeMap<String, BTreeMap<String, [String; 3]>> {
    let mut out = BTreeMap::<String, BTreeMap<String, [String; 3]>>::new();
    let mut section = None;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("<!-- keys: ").and_then(|l| l.strip_suffix(" -->")) {
            assert!(out.insert(name.to_owned(), BTreeMap::new()).is_none(), "{name} is there twice");
            section = Some(name.to_owned());
        } else if line.starts_with('#') {
            section = None;
        } else if let (Some(name), Some(row)) = (&section, line.strip_prefix("| `")) {
            let cells: Vec<&str> = row.trim_end_matches([' ', '|']).splitn(4, " | ").collect();
            let [key, kind, default, meaning] = cells[..] else { panic!("{name}: not four cells: {line}") };
            let cells = [kind, default, meaning].map(str::to_owned);
            out.get_mut(name).unwrap().insert(key.trim_end_matches('`').to_owned(), cells);
        }
    }
    out
}

#[test]
fn the_reference_has_every_key_that_the_code_reads_with_its_type_and_default() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let sources = sources(root);
    let page = page(&std::fs::read_to_string(root.join("docs/configuration.md")).unwrap());
    let sections = sections(&sources);
    let (mut wrong, mut keys, mut compared) = (Vec::new(), 0, 0);
    for name in page.keys().filter(|name| !sections.contains_key(*name)) {
        wrong.push(format!("{name}: the code has no such section"));
    }
    for (name, fields) in &sections {
        let Some(rows) = page.get(name) else {
            wrong.push(format!("{name}: the page has no `<!-- keys: {name} -->` with a table"));
            continue;
        };
        for key in rows.keys().filter(|key| fields.iter().all(|f| f.key != **key)) {
            wrong.push(format!("{name}: the code has no key `{key}`"));
        }
        for field in fields {
            keys += 1;
            let key = &field.key;
            let Some([kind, default, meaning]) = rows.get(key) else {
                wrong.push(format!("{name}: the page lacks `{key}`"));
                continue;
            };
            let expected = type_word(&sources, &field.kind);
            if kind != expected && !(expected == "text" && kind == "address") {
                wrong.push(format!("{name}: `{key}` is a {expected}, not a {kind}"));
            }
            if expected == "choice" {
                let choice = field.kind.trim_start_matches("Option<").trim_end_matches('>');
                for word in words(&sources, choice).unwrap().0 {
                    if !meaning.contains(&format!("`{word}`")) {
                        wrong.push(format!("{name}: `{key}` may be `{word}`"));
                    }
                }
            }
            let Some(expression) = &field.default else {
                if default != "required" && expected != "components" {
                    wrong.push(format!("{name}: `{key}` is required"));
                }
                continue;
            };
            if let Some(expected) = evaluated(&sources, field, expression) {
                compared += 1;
                if value(default) != expected && default != "required" {
                    wrong.push(format!("{name}: the default of `{key}` is {expected}, not {default}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "docs/configuration.md:\n{}", wrong.join("\n"));
    assert!(keys > 200 && compared > 140, "{keys} keys, {compared} defaults");
}

/// What stands between `start` and the next quotation mark or backquote, wherever `start` is in `text`.
fn names<'a>(text: &'a str, start: &str) -> Vec<&'a str> {
    let found = text.match_indices(start).map(|(at, _)| &text[at + start.len()..]);
    found.filter_map(|rest| rest.split(['"', '`']).next()).collect()
}

#[test]
fn every_alarm_is_listed_with_its_remedy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let page = std::fs::read_to_string(root.join("docs/operations.md")).unwrap();
    let sources = sources(root);
    let mut raised: Vec<&str> =
        sources.values().flat_map(|text| names(text, "event.name = \"perigee.")).collect();
    raised.sort_unstable();
    raised.dedup();
    let mut listed = names(&page, "\n| `perigee.");
    listed.sort_unstable();
    assert!(raised.len() > 20, "{raised:?}");
    assert_eq!(listed, raised, "docs/operations.md, \"Alarms\", and the code");
    let runbook = std::fs::read_to_string(root.join("docs/alerts.md")).unwrap();
    raised.retain(|name| !runbook.contains(&format!("`perigee.{name}`")));
    assert!(raised.is_empty(), "docs/alerts.md says nothing of {raised:?}");
}

#[test]
fn every_file_and_function_that_the_architecture_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let page = std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    assert!(page.lines().count() <= 300, "ARCHITECTURE.md has more than 300 lines");
    let (mut directories, mut files, mut code) = (vec![root.to_owned()], Vec::new(), String::new());
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && !name.starts_with('.') && name != "target" {
                directories.push(path);
            } else if name.ends_with(".rs") || name.ends_with(".py") {
                code.push_str(&std::fs::read_to_string(&path).unwrap());
                files.push(path);
            }
        }
    }
    let (mut named, mut wrong) = (0, Vec::new());
    for word in page.split('`').skip(1).step_by(2) {
        let known = if word.ends_with(".rs") || word.ends_with(".py") {
            files.iter().any(|file| file.ends_with(word))
        } else if word.contains("::") || (word.contains('_') && word.len() > 24) {
            let name = word.rsplit("::").next().unwrap().trim_end_matches("()");
            let is_variant = name.starts_with(char::is_uppercase);
            (is_variant && code.contains(word))
                || ["fn ", "def ", "struct "].iter().any(|kind| {
                    [" ", "(", "<"].iter().any(|end| code.contains(&format!("{kind}{name}{end}")))
                })
        } else {
            continue;
        };
        named += 1;
        if !known {
            wrong.push(word);
        }
    }
    assert!(wrong.is_empty(), "ARCHITECTURE.md names files or functions that do not exist: {wrong:?}");
    assert!(named > 150, "{named} names");
}
