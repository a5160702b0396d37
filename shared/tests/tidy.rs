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
