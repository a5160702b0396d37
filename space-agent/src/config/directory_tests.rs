//! Where the log of a Collector's file lies.

use super::tests::{LARGER, read};

#[test]
fn the_log_is_never_put_where_a_collectors_own_files_are() {
    let dir = tempfile::tempdir().unwrap();
    let text = LARGER.replace("${env:STORAGE:-/var/lib/otelcol/file_storage}", dir.path().to_str().unwrap());
    assert_eq!(read(&text).unwrap().storage.directory, dir.path());
    std::fs::write(dir.path().join("exporter_otlp__traces"), "").unwrap();
    let error = read(&text).unwrap_err();
    assert!(error.contains("holds a Collector's own files (exporter_otlp__traces)"), "{error}");
    let elsewhere = read(&format!("{text}storage: {{directory: /x}}\n")).unwrap();
    assert_eq!(elsewhere.storage.directory, std::path::Path::new("/x"));
}

#[test]
fn a_log_that_lies_where_the_file_says_otherwise_is_not_left_behind() {
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(old.path().join("wal.redb"), "").unwrap();
    let shown = [old.path(), new.path()].map(|dir| dir.to_str().unwrap());
    let text = LARGER.replace("${env:STORAGE:-/var/lib/otelcol/file_storage}", shown[0]);
    let storage = format!("storage: {{directory: {}}}\n", shown[1]);
    let expected =
        format!("the log would begin anew in {}, and one lies in {}: move it there", shown[1], shown[0]);
    // In this order: both are set; another one is the first; the one that has it is not started.
    let another = format!("  file_storage/new: {{directory: {}}}\n  file_storage:\n", shown[1]);
    for (text, key) in [
        (format!("{text}{storage}"), "storage.directory: "),
        (
            text.replace("  file_storage:\n", &another)
                .replace("[health_check, file", "[health_check, file_storage/new, file")
                .replace("storage: file_storage", "storage: file_storage/new"),
            "extensions.file_storage/new.directory: ",
        ),
        (
            text.replace("  file_storage:\n", &another)
                .replace("[health_check, file_storage", "[health_check, file_storage/new")
                .replace("storage: file_storage", "storage: file_storage/new"),
            "extensions.file_storage/new.directory: ",
        ),
    ] {
        let error = read(&text).unwrap_err();
        assert!(error.contains(&expected) && error.contains(key) && error.lines().count() == 1, "{error}");
    }
    assert_eq!(read(&text).unwrap().storage.directory, old.path());
    std::fs::write(new.path().join("wal.redb"), "").unwrap();
    assert_eq!(read(&format!("{text}{storage}")).unwrap().storage.directory, new.path(), "both have one");
}
