//! The house rules that a machine can check.

#![expect(clippy::unwrap_used, reason = "a helper of a test")]

use std::path::{Path, PathBuf};

const MOST_LINES: usize = 800;

fn sources(directory: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !name.starts_with('.') && name != "target" {
                sources(&path, out);
            }
        } else if name.ends_with(".rs")
            || name.ends_with(".proto")
            || name.ends_with(".py")
            || name.ends_with(".sh")
        {
            out.push(path);
        }
    }
}

#[test]
fn no_file_is_longer_than_800_lines_and_nothing_is_left_unfinished() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    sources(root, &mut files);
    assert!(files.len() > 100, "the sources were found");
    let unfinished = ["to", "do!("].concat();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let lines = text.lines().count();
        assert!(lines <= MOST_LINES, "{}: {lines} lines", file.display());
        assert!(!text.contains(&unfinished), "{}", file.display());
    }
}

#[test]
fn every_test_that_the_conformance_page_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    sources(root, &mut files);
    let code: String = files.iter().map(|f| std::fs::read_to_string(f).unwrap()).collect();
    let page = std::fs::read_to_string(root.join("docs/conformance.md")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| ") && line.contains('`'));
    let mut named = 0;
    for row in rows {
        let cell = row.trim_end_matches(['|', ' ']).rsplit('|').next().unwrap().trim();
        let test = cell.strip_prefix('`').and_then(|cell| cell.strip_suffix('`'));
        let test = test.unwrap_or_else(|| panic!("a line without its test: {row}"));
        assert!(code.contains(&format!("fn {test}(")), "{test} is not there");
        named += 1;
    }
    assert!(named > 30, "{named} lines");
}
