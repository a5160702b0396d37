//! OMMs in the forms that catalogues serve: JSON, CSV, XML and KVN. In each a set becomes its fields by keyword.

use quick_xml::events::Event;
use serde::Deserializer as _;
use serde::de::{SeqAccess, Visitor};
use serde_json::Value;

use super::elements::{Fields, Found, Set, Wrong};
use super::tle;

/// A list of OMMs, one alone, or a page of a list (`results`). SatNOGS writes TLEs as `tle1` and `tle2`.
pub(super) fn json(text: &str, found: &mut Found) -> Result<(), Wrong> {
    let mut input = serde_json::Deserializer::from_str(text);
    let read = if text.starts_with('[') {
        // One by one, since the catalogue is large.
        input.deserialize_seq(Each { found: &mut *found }).and_then(|()| input.end())
    } else {
        serde_json::from_str::<Value>(text).map(|value| match value["results"].as_array() {
            Some(list) => list.iter().enumerate().for_each(|(n, value)| object(value, n, found)),
            None => object(&value, 0, found),
        })
    };
    let wrong = |e: serde_json::Error| format!("not an OMM in JSON: {e}");
    match read.map_err(wrong) {
        Err(wrong) if found.sets.is_empty() => Err(wrong),
        Err(wrong) => {
            found.wrong.push(wrong);
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

struct Each<'a> {
    found: &'a mut Found,
}

impl<'de> Visitor<'de> for Each<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list of OMMs")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let mut n = 0;
        while let Some(value) = list.next_element::<Value>()? {
            object(&value, n, self.found);
            n += 1;
        }
        Ok(())
    }
}

fn object(value: &Value, n: usize, found: &mut Found) {
    let place = format!("[{n}]");
    let Some(object) = value.as_object() else {
        return found.add(&place, Err("not an OMM: not an object".into()));
    };
    let line = |key: &str| value[key].as_str();
    if let (Some(first), Some(second)) = (line("tle1"), line("tle2")) {
        let lines = format!("{}\n{first}\n{second}\n", line("tle0").unwrap_or_default());
        return tle::read(&lines, found);
    }
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let fields = object.iter().map(|(key, value)| (key.to_ascii_uppercase(), text(value))).collect();
    set(&fields, &place, found);
}

fn set(fields: &Fields, place: &str, found: &mut Found) {
    found.add(place, Set::from_omm(fields).map_err(|wrong| format!("not an OMM: {wrong}")));
}

/// A line of keywords, then a line for each set.
pub(super) fn csv(text: &str, found: &mut Found) {
    let mut input = csv::ReaderBuilder::new()
        .flexible(true)
        .trim(csv::Trim::All)
        .comment(Some(b'#'))
        .from_reader(text.as_bytes());
    let titles = match input.headers() {
        Ok(titles) => titles.iter().map(str::to_ascii_uppercase).collect::<Vec<_>>(),
        Err(error) => return found.wrong.push(format!("not OMMs in CSV: {error}")),
    };
    for record in input.records() {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                found.wrong.push(format!("not an OMM in CSV: {error}"));
                continue;
            }
        };
        let place = format!("line {}", record.position().map_or(0, csv::Position::line));
        let fields = titles.iter().cloned().zip(record.iter().map(str::to_owned)).collect();
        set(&fields, &place, found);
    }
}

/// `KEYWORD = value` lines; each message begins with its version.
pub(super) fn kvn(text: &str, found: &mut Found) {
    const BEGINS: &str = "CCSDS_OMM_VERS";
    let mut fields = Fields::new();
    let mut place = String::new();
    for (n, line) in text.lines().enumerate() {
        let Some((key, value)) = line.split_once('=') else { continue };
        if key.trim() == BEGINS {
            if !fields.is_empty() {
                set(&fields, &place, found);
            }
            (fields, place) = (Fields::new(), format!("line {}", n + 1));
        }
        if !key.trim_start().starts_with("COMMENT") {
            fields.insert(key.trim().to_ascii_uppercase(), value.trim().to_owned());
        }
    }
    if !fields.is_empty() {
        set(&fields, &place, found);
    }
}

/// Elements `omm`, one or in an `ndm`; keywords are the names of the elements without children.
pub(super) fn xml(text: &str, found: &mut Found) {
    let mut input = quick_xml::Reader::from_str(text);
    let (mut fields, mut value, mut n) = (Fields::new(), String::new(), 0);
    loop {
        match input.read_event() {
            Ok(Event::Start(tag)) => {
                value.clear();
                if tag.local_name().as_ref().eq_ignore_ascii_case("omm") {
                    fields.clear();
                }
            }
            Ok(Event::Text(text)) => value.push_str(&text),
            Ok(Event::CData(text)) => value.push_str(&text),
            Ok(Event::GeneralRef(name)) => value.push_str(&reference(&name)),
            Ok(Event::End(tag)) => {
                let key = tag.local_name().as_ref().to_ascii_uppercase();
                if key == "OMM" {
                    set(&std::mem::take(&mut fields), &format!("omm {}", n + 1), found);
                    n += 1;
                } else if !value.trim().is_empty() {
                    fields.insert(key, value.trim().to_owned());
                }
                value.clear();
            }
            Ok(Event::Eof) => return,
            Ok(_) => {}
            Err(error) => {
                let at = input.error_position();
                return found
                    .wrong
                    .push(format!("not OMMs in XML: {error} (byte {at}); what follows is not read"));
            }
        }
    }
}

/// What `&name;` stands for; nothing for what is not XML's own.
fn reference(name: &quick_xml::events::BytesRef<'_>) -> String {
    if let Ok(Some(character)) = name.resolve_char_ref() {
        return character.to_string();
    }
    quick_xml::escape::resolve_predefined_entity(name).unwrap_or_default().to_owned()
}
