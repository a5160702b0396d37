//! The table of bounds in SECURITY.md, for the tests that compare it with the code.

use std::collections::BTreeMap;

/// The rows whose code is in `part`.
pub(crate) fn bounds(part: &str) -> BTreeMap<String, u64> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../SECURITY.md")).unwrap();
    text.lines()
        .skip_while(|line| *line != "| bound | at most | code |")
        .skip(2)
        .map_while(|line| line.strip_prefix("| ")?.strip_suffix(" |"))
        .filter_map(|row| {
            let cells: Vec<&str> = row.split(" | ").collect();
            let [bound, most, code] = cells[..] else { panic!("{row}") };
            (code == part).then(|| (bound.to_owned(), most.replace(',', "").parse().unwrap()))
        })
        .collect()
}

/// What the code says, as [`bounds`] has it.
pub(crate) fn code<const N: usize>(of: [(&str, u64); N]) -> BTreeMap<String, u64> {
    of.into_iter().map(|(bound, most)| (bound.to_owned(), most)).collect()
}
