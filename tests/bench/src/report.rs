//! Results: a table for people or JSON for programs.

use std::io::Write;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::Value;

/// A row of results; columns keep their order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Row(Vec<(&'static str, Value)>);

impl Row {
    /// This row with another column.
    #[must_use]
    pub(crate) fn with(mut self, column: &'static str, value: impl Into<Value>) -> Self {
        self.0.push((column, value.into()));
        self
    }

    /// This row with another column, rounded to `digits` behind the point.
    #[must_use]
    pub(crate) fn with_rounded(self, column: &'static str, value: f64, digits: u32) -> Self {
        let factor = 10f64.powi(digits.cast_signed());
        self.with(column, (value * factor).round() / factor)
    }
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (column, value) in &self.0 {
            map.serialize_entry(column, value)?;
        }
        map.end()
    }
}

#[derive(Serialize)]
struct Report<'a> {
    bench: &'a str,
    rows: &'a [Row],
}

/// Prints one line.
pub(crate) fn line(text: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout().lock(), "{text}")?)
}

/// Prints `rows` of the bench `name`.
pub(crate) fn print(name: &str, rows: &[Row], json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, &Report { bench: name, rows })?;
        writeln!(out)?;
    } else {
        out.write_all(table(rows).as_bytes())?;
    }
    Ok(out.flush()?)
}

fn table(rows: &[Row]) -> String {
    let Some(first) = rows.first() else { return String::new() };
    let mut lines = vec![first.0.iter().map(|(column, _)| (*column).to_owned()).collect::<Vec<_>>()];
    lines.extend(rows.iter().map(|row| row.0.iter().map(|(_, value)| cell(value)).collect()));
    let widths: Vec<_> = (0..first.0.len())
        .map(|column| lines.iter().filter_map(|line| line.get(column)).map(String::len).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    for line in lines {
        let cells: Vec<_> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}")).collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_its_columns_in_order_and_aligned() {
        let rows = [
            Row::default().with("z", "grpc").with_rounded("a", 1.239, 2),
            Row::default().with("z", Value::Null).with("a", 1000),
        ];
        assert_eq!(table(&rows), "   z     a\ngrpc  1.24\n   -  1000\n");
        let json = serde_json::to_string(&rows).unwrap();
        assert_eq!(json, r#"[{"z":"grpc","a":1.24},{"z":null,"a":1000}]"#);
    }
}
