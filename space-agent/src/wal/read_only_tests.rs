//! The log on a file system that is read-only, or becomes so under it, as ext4 does after an error. Needs root, to mount an image.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use perigee_shared::signal::Counts;
use perigee_shared::store::Files;

use super::damage_tests::{deliverable, told};
use super::tests::{Bench, assert_adds_up, logs, request};
use super::*;

/// A file system in an image, mounted in a directory; both are gone when this goes.
struct Image(tempfile::TempDir);

impl Image {
    /// `None`, and a line that says so: this user, or this machine, cannot mount one.
    fn mount() -> Option<Self> {
        let image = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(image.path()).unwrap();
        std::fs::File::create(image.file()).unwrap().set_len(32 << 20).unwrap();
        let made = run("mkfs.ext4", &["-q", "-F", "-O", "^has_journal", "-m", "0"], &[&image.file()]);
        let mounted = made && image.mount_again();
        if !mounted {
            eprintln!("skipped: mounting an image needs root, loop devices and mkfs.ext4");
        }
        mounted.then_some(image)
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("image")
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("mounted")
    }

    fn mount_again(&self) -> bool {
        run("mount", &["-o", "loop"], &[&self.file(), &self.path()])
    }

    fn remount(&self, option: &str) {
        assert!(run("mount", &["-o", &format!("remount,{option}")], &[&self.path()]), "{option}");
    }

    /// Fails while a file of it is open.
    fn unmount(&self) -> bool {
        run("umount", &[], &[&self.path()])
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        run("umount", &["-l"], &[&self.path()]);
    }
}

fn run(program: &str, arguments: &[&str], paths: &[&Path]) -> bool {
    Command::new(program).args(arguments).args(paths).output().is_ok_and(|out| out.status.success())
}

/// A log on `image`, and with it the environment of its bench, whose clock goes on by a second at each look.
fn on(image: &Image, volatile: Volatile) -> (Bench, Env, WalConfig) {
    let bench = Bench::new();
    let mut env = bench.disk.env();
    env.store = Arc::new(Files::default());
    let config = WalConfig { directory: image.path().join("agent"), volatile, ..bench.config.clone() };
    (bench, env, config)
}

#[test]
fn a_log_whose_file_system_became_read_only_refuses_and_is_opened_again_when_that_is_repaired() {
    let Some(image) = Image::mount() else { return };
    let (_bench, env, config) = on(&image, Volatile::Refuse);
    let mut wal = Wal::open(config, env).unwrap();
    // Not so small that they go into the front, which stays open.
    for n in 0..2 {
        wal.journal().append(&[request(n, 5, 50_000)]).unwrap();
    }
    image.remount("abort");
    for n in 10..16 {
        wal.journal().append(&[request(n, 1, 50_000)]).unwrap_err();
    }
    assert!(wal.failing().is_some_and(|why| why.contains("Read-only file system")), "{:?}", wal.failing());
    assert_eq!(wal.summary().accepted, logs(10));

    assert!(image.unmount(), "a store that failed has closed its file");
    assert!(image.mount_again());
    wal.journal().append(&[request(20, 1, 50_000)]).unwrap();
    assert_eq!(wal.failing(), None);
    assert_eq!(told(&mut wal), (Counts::ZERO, false), "nothing was lost");
    assert_eq!((wal.summary().accepted, deliverable(&mut wal)), (logs(11), logs(11)));
    assert_adds_up(&wal);
}

#[test]
fn a_start_on_a_read_only_file_system_is_an_error_or_a_log_in_memory_that_returns() {
    let Some(image) = Image::mount() else { return };
    let (_bench, env, config) = on(&image, Volatile::Refuse);
    let mut wal = Wal::open(config.clone(), env.clone()).unwrap();
    wal.journal().append(&[request(1, 5, 50_000)]).unwrap();
    wal.close().unwrap();
    image.remount("ro");
    let why = Wal::open(config.clone(), env.clone()).err().unwrap().to_string();
    assert!(why.contains("Read-only file system"), "{why}");

    let mut wal = Wal::open(WalConfig { volatile: Volatile::Accept, ..config }, env).unwrap();
    assert!(wal.summary().in_memory.now);
    let mut accepted = 5;
    image.remount("rw");
    // It tries the store once a minute, and each look at the clock takes a second.
    for n in 10..200 {
        if !wal.summary().in_memory.now {
            break;
        }
        wal.journal().append(&[request(n, 1, 100)]).unwrap();
        accepted += 1;
    }
    assert!(!wal.summary().in_memory.now && accepted > 6);
    assert_eq!(told(&mut wal), (Counts::ZERO, false), "nothing was lost");
    assert_eq!((wal.summary().accepted, deliverable(&mut wal)), (logs(accepted), logs(accepted)));
    assert_adds_up(&wal);
}
