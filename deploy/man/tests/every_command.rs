//! Every command of both programs has a page and is completed.

use std::fs;
use std::path::Path;

use clap::Command;

/// Checks `command`, whose words are joined by `-` in `page`.
fn check(command: &Command, page: &str, man: &Path, bash: &str) {
    let text = fs::read_to_string(man.join(format!("{page}.1"))).unwrap_or_else(|e| panic!("{page}.1: {e}"));
    for option in command.get_arguments().filter_map(|a| a.get_long()) {
        let written = format!("\\-\\-{}", option.replace('-', "\\-"));
        assert!(text.contains(&written), "{page}.1 lacks --{option}");
        assert!(bash.contains(&format!("--{option}")), "the completion of {page} lacks --{option}");
    }
    for inner in command.get_subcommands() {
        check(inner, &format!("{page}-{}", inner.get_name()), man, bash);
    }
}

#[test]
fn every_command_has_a_page_and_is_completed() {
    let out = tempfile::tempdir().unwrap();
    perigee_man::write(out.path()).unwrap();
    let completions = out.path().join("completions");
    for program in perigee_man::programs() {
        let name = program.get_name();
        for file in [format!("_{name}"), format!("{name}.fish")] {
            assert!(completions.join(&file).metadata().unwrap().len() > 0, "{file}");
        }
        let bash = fs::read_to_string(completions.join(format!("{name}.bash"))).unwrap();
        assert!(program.has_subcommands());
        check(&program, name, &out.path().join("man1"), &bash);
    }
    let mut pages = fs::read_dir(out.path().join("man1")).unwrap();
    assert!(!pages.any(|page| page.unwrap().path().to_string_lossy().contains("-help")));
}
