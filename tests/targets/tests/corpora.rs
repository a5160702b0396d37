//! Every input of every corpus, in the order of their names.

#![expect(clippy::unwrap_used, reason = "a helper of a test")]

use std::path::{Path, PathBuf};

use fuzz_targets::TARGETS;

fn inputs(target: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let files = std::fs::read_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    let mut files: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn every_input_is_taken_or_refused_and_some_are_taken() {
    for (name, target) in TARGETS {
        let files = inputs(name);
        let mut good = 0;
        for file in &files {
            let input = std::fs::read(file).unwrap();
            match std::panic::catch_unwind(|| target(&input)) {
                Ok(of_it) => good += usize::from(of_it),
                Err(_) => panic!("{} breaks a promise", file.display()),
            }
        }
        assert!(good >= 2 && good < files.len(), "{name}: {good} of {} inputs are good", files.len());
    }
}

#[test]
fn any_cut_and_any_changed_byte_of_an_input_is_taken_or_refused() {
    for (name, target) in TARGETS {
        for file in inputs(name) {
            let input = std::fs::read(&file).unwrap();
            let step = (input.len() / 16).max(1);
            for at in (0..input.len()).step_by(step) {
                target(&input[..at]);
                for with in [0x20, 0xff, input[at] ^ 1] {
                    let mut changed = input.clone();
                    changed[at] = with;
                    target(&changed);
                }
            }
        }
    }
}

#[test]
fn corpora_are_small() {
    let bytes: u64 =
        TARGETS.iter().flat_map(|(name, _)| inputs(name)).map(|f| f.metadata().unwrap().len()).sum();
    assert!(bytes <= 5 << 20, "{bytes} bytes");
}
