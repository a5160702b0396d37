//! Where the log of a Collector's file lies.

use std::path::{Path, PathBuf};

use super::extensions::Storage;
use super::rules::Notes;
use crate::config::tree::{Map, Node};
use crate::files;

/// Where the log lies when nothing says so: what a system's service manager gives, or the user's own directory.
fn default_directory() -> PathBuf {
    if let Some(given) = std::env::var_os("STATE_DIRECTORY") {
        return PathBuf::from(given).join("agent");
    }
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    let root = nix::unistd::geteuid().is_root();
    let user = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).or_else(home).filter(|_| !root);
    user.map_or_else(|| "/var/lib/perigee/agent".into(), |state| state.join("perigee/agent"))
}

/// The name of the log's file, which says whether a directory has one.
const LOG: &str = "wal.redb";

/// What the machine knows of logs.
pub(super) struct Known {
    default: PathBuf,
    /// Where a log may lie that the file does not name.
    others: Vec<PathBuf>,
}

impl Known {
    /// For the configuration at `path` on this machine.
    #[inline(never)]
    pub(super) fn here(path: &Path) -> Self {
        let default = default_directory();
        // The example of Perigee's own form has its log in the unit's directory itself.
        let given = std::env::var_os("STATE_DIRECTORY").map(PathBuf::from);
        let others = given.into_iter().chain(remembered(&default, path)).collect();
        Self { default, others }
    }
}

/// In the default directory: the configuration that was run last and named no `storage.directory`, and where its log lies.
const RECORD: &str = "last-directory";

/// Notes where the log of the configuration at `path` lies, which names no `storage.directory`: another `file_storage` in that file would
/// leave it behind. Where nothing can be written, nothing is noted.
#[inline(never)]
pub fn remember(path: &Path, directory: &Path) {
    note(&default_directory(), path, directory);
}

fn note(default: &Path, path: &Path, directory: &Path) {
    let (Ok(path), Ok(directory)) = (std::path::absolute(path), std::path::absolute(directory)) else {
        return;
    };
    let record = format!("{}\n{}\n", path.display(), directory.display());
    let _ = std::fs::create_dir_all(default).and_then(|()| std::fs::write(default.join(RECORD), record));
}

/// Where the log of the configuration at `path` was noted to lie.
fn remembered(default: &Path, path: &Path) -> Option<PathBuf> {
    let record = files::read_text(&default.join(RECORD), files::CONFIGURATION).ok()?;
    let (whose, directory) = record.trim_end().split_once('\n')?;
    (std::path::absolute(path).ok()? == Path::new(whose)).then(|| directory.into())
}

/// Settles where the log lies: in `storage`, in the directory of a `file_storage`, or in the default one. One that lies where this file,
/// or its service manager, says otherwise is not left behind.
// Once at a start: inlined, its like are kilobytes.
#[inline(never)]
pub(super) fn settle(map: &mut Map, mut storages: Vec<Storage>, known: Known, notes: &mut Notes) {
    const KEY: &str = "storage.directory";
    let said = map.get("storage").and_then(|s| s.at(&["directory"])).filter(|d| !d.is_null());
    let (is_said, said_at) = (said.is_some(), said.map_or(0, |directory| directory.line));
    let said = said.and_then(Node::as_text).map(PathBuf::from);
    let storage = storages.iter().position(|s| s.is_started && !is_said).map(|at| storages.remove(at));
    let (line, directory, key) = match &storage {
        Some(storage) => (storage.line, PathBuf::from(&storage.directory), storage.key.clone()),
        None => (said_at, said.unwrap_or_else(|| known.default.clone()), KEY.to_owned()),
    };
    let mut others: Vec<PathBuf> = storages.into_iter().map(|s| s.directory.into()).collect();
    if !is_said {
        others.push(known.default);
        others.extend(known.others);
    }
    let shown = directory.display();
    let other = others.iter().find(|other| **other != directory && other.join(LOG).exists());
    // A variable that is not replaced may become anything.
    if let Some(other) = other
        && !directory.join(LOG).exists()
        && !directory.to_string_lossy().contains("${")
    {
        let message = format!(
            "the log would begin anew in {shown}, and one lies in {}: move it there, or name the directory that \
             you want in storage: {{directory: ...}}",
            other.display()
        );
        notes.wrong(line, key.clone(), message);
    }
    if is_said {
        return;
    }
    if let Some(name) = &storage
        && let Some(file) = collectors_file(&directory)
    {
        let message = format!(
            "{shown} holds a Collector's own files ({file}), which Perigee does not read: let that Collector send what they hold, \
             or write storage: {{directory: ...}} with another directory"
        );
        notes.wrong(name.line, key.clone(), message);
    }
    if storage.is_none() {
        let message = format!("is not set: accepted data is kept in {shown} until every exporter has it");
        notes.warn(0, key, message);
    }
    let at = line.max(1);
    let mut section = map.take("storage").map_or_else(|| Node::map(at), |entry| entry.node);
    if let Some(section) = section.map_mut() {
        section.set("directory", at, Node::text(at, directory.display().to_string()));
        if let Some((key, size)) = storage.and_then(|s| s.max_size.map(|size| (s.key, size))) {
            notes.rename("storage", "max_bytes", key.replace(".directory", ".max_size"));
            section.set("max_bytes", at, Node::text(at, size));
        }
    }
    map.set("storage", at, section);
}

/// A file of a Collector's `file_storage` in a directory.
fn collectors_file(directory: &Path) -> Option<String> {
    let names =
        std::fs::read_dir(directory).ok()?.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    let mut theirs: Vec<String> = names
        .filter(|name| {
            ["exporter_", "receiver_", "processor_", "extension_", "connector_"]
                .iter()
                .any(|p| name.starts_with(p))
        })
        .collect();
    theirs.sort();
    theirs.into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of a file without a section `storage` whose `file_storage`, if it has one, is this directory.
    fn problems(storage: Option<&Path>, known: Known) -> Vec<String> {
        let storages = storage.map(|directory| Storage {
            is_started: true,
            line: 7,
            key: "extensions.file_storage.directory".to_owned(),
            directory: directory.display().to_string(),
            max_size: None,
        });
        let mut notes = Notes::default();
        settle(&mut Map::default(), storages.into_iter().collect(), known, &mut notes);
        notes.problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn another_directory_in_the_same_file_is_an_error_while_the_log_lies_in_the_former_one() {
        let dir = tempfile::tempdir().unwrap();
        let [default, former, new] = ["default", "former", "new"].map(|name| dir.path().join(name));
        let (file, other) = (dir.path().join("c.yaml"), dir.path().join("d.yaml"));
        let known = |file: &Path| Known {
            default: default.clone(),
            others: remembered(&default, file).into_iter().collect(),
        };
        assert!(problems(Some(&new), known(&file)).is_empty(), "nothing is noted");
        std::fs::create_dir_all(&former).unwrap();
        std::fs::write(former.join(LOG), "").unwrap();
        note(&default, &file, &former);
        assert!(problems(Some(&former), known(&file)).is_empty());
        let expected = format!("one lies in {}: move it there", former.display());
        let [problem] = &*problems(Some(&new), known(&file)) else { panic!() };
        assert!(
            problem.starts_with("7: extensions.file_storage.directory: ") && problem.contains(&expected),
            "{problem}"
        );
        let [problem] = &*problems(None, known(&file)) else { panic!() };
        assert!(problem.starts_with("storage.directory: ") && problem.contains(&expected), "{problem}");
        assert!(problems(Some(&new), known(&other)).is_empty(), "another agent's log is its own");
        std::fs::remove_file(former.join(LOG)).unwrap();
        assert!(problems(Some(&new), known(&file)).is_empty(), "it was moved");
    }

    #[test]
    fn a_log_in_the_service_managers_directory_itself_is_not_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(LOG), "").unwrap();
        let known = || Known { default: dir.path().join("agent"), others: vec![dir.path().to_owned()] };
        let [problem] = &*problems(None, known()) else { panic!() };
        assert!(
            problem.contains(&format!("one lies in {}: move it there", dir.path().display())),
            "{problem}"
        );
        assert!(problems(Some(dir.path()), known()).is_empty());
    }
}
