//! The disk does to a database what disks do.

use perigee_shared::env::StoreDriver;
use redb::{ReadableDatabase, StorageBackend, TableDefinition};

use super::*;

const TABLE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("t");

fn path() -> PathBuf {
    PathBuf::from("/virtual/a")
}

fn open(driver: &Arc<dyn StoreDriver>) -> redb::Database {
    driver.open(&path(), 1 << 20).unwrap()
}

fn put(db: &redb::Database, n: u64) -> Result<(), redb::Error> {
    let txn = db.begin_write()?;
    txn.open_table(TABLE)?.insert(n, &[n as u8; 3_000][..])?;
    Ok(txn.commit()?)
}

fn has(db: &redb::Database, n: u64) -> bool {
    let txn = db.begin_read().unwrap();
    let table = txn.open_table(TABLE).unwrap();
    table.get(n).unwrap().is_some_and(|v| v.value() == [n as u8; 3_000])
}

fn sync_fails(disk: &Disk, trouble: Trouble, seed: u64) {
    disk.arm(Fault { operation: Operation::Sync, trouble, after: 0, times: 1, seed });
}

#[test]
fn a_sync_that_fails_with_its_pages_still_dirty_costs_nothing() {
    let disk = Disk::new();
    let driver = disk.driver();
    let db = open(&driver);
    put(&db, 1).unwrap();
    sync_fails(&disk, Trouble::InputOutput, 0);
    put(&db, 2).unwrap_err();
    drop(db);
    let db = open(&driver);
    put(&db, 3).unwrap();
    disk.kill();
    drop(db);
    disk.restart();
    let db = open(&driver);
    assert!(has(&db, 1) && has(&db, 3));
}

/// The fault that ends acknowledged data: what was built on pages that never arrived reads well until the power cut.
#[test]
fn after_a_failed_write_back_everything_reads_well_until_the_power_cut_and_the_medium_tells() {
    let mut differed = 0;
    for seed in 0..20 {
        let disk = Disk::new();
        let driver = disk.driver();
        let db = open(&driver);
        put(&db, 1).unwrap();
        sync_fails(&disk, Trouble::WriteBack, seed);
        put(&db, 2).unwrap_err();
        assert_eq!(disk.heal(), 1);
        drop(db);
        let db = open(&driver);
        put(&db, 3).unwrap();
        assert!(has(&db, 1) && has(&db, 3), "the cache shows everything");
        disk.kill();
        drop(db);
        let image = Arc::clone(&lock(&disk.files)[&path()]);
        let (cache, medium) = {
            let image = lock(&image);
            let (mut cache, mut medium) = (vec![0; image.len()], vec![0; image.len()]);
            image.read(0, &mut cache, false).unwrap();
            image.read(0, &mut medium, true).unwrap();
            (cache, medium)
        };
        disk.restart();
        assert_eq!(
            disk.content(&path()).unwrap(),
            medium,
            "what a read past the cache shows is what a power cut leaves"
        );
        differed += u32::from(cache != medium);
    }
    assert!(differed > 5, "pages were lost in {differed} of 20");
}

#[test]
fn a_lying_sync_leaves_nothing_for_a_power_cut() {
    let disk = Disk::new();
    let driver = disk.driver();
    let db = open(&driver);
    put(&db, 1).unwrap();
    disk.arm(Fault { operation: Operation::Sync, trouble: Trouble::Lie, after: 0, times: 100, seed: 0 });
    put(&db, 2).unwrap();
    disk.kill();
    drop(db);
    assert_eq!(disk.heal() > 0, disk.fired() == 0);
    disk.restart();
    let db = open(&driver);
    assert!(has(&db, 1) && !has(&db, 2));
}

#[test]
fn a_file_of_a_killed_process_is_dead_and_its_writes_stay_in_the_cache() {
    let disk = Disk::new();
    let file = |medium: bool| {
        let (disk, life) = (Arc::clone(&disk), disk.life());
        let image = Arc::clone(lock(&disk.files).entry(path()).or_default());
        File::new(disk, image, life, medium)
    };
    let one = file(false);
    one.set_len(8).unwrap();
    one.write(0, b"unsynced").unwrap();
    disk.kill();
    assert!(one.write(0, b"too late").is_err() && one.sync_data().is_err());
    let mut read = [0; 8];
    file(false).read(0, &mut read).unwrap();
    assert_eq!(&read, b"unsynced");
    disk.restart();
    assert!(file(true).read(0, &mut read).is_err(), "the file never grew on the medium");
}

#[test]
fn each_operation_fails_in_its_way_and_so_often() {
    let disk = Disk::new();
    let image = Arc::clone(lock(&disk.files).entry(path()).or_default());
    let file = File::new(Arc::clone(&disk), image, 0, false);
    file.set_len(8).unwrap();
    let arm = |operation, trouble, after| disk.arm(Fault { operation, trouble, after, times: 1, seed: 0 });
    arm(Operation::Write, Trouble::Short, 1);
    file.write(0, b"aaaaaaaa").unwrap();
    assert_eq!(file.write(0, b"bbbbbbbb").unwrap_err().raw_os_error(), Some(5));
    let mut read = [0; 8];
    file.read(0, &mut read).unwrap();
    assert_eq!(&read, b"bbbbaaaa");
    arm(Operation::Read, Trouble::InputOutput, 0);
    assert!(file.read(0, &mut read).is_err() && file.read(0, &mut read).is_ok());
    arm(Operation::Grow, Trouble::NoSpace, 0);
    assert_eq!(file.set_len(16).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert!(file.set_len(4).is_ok() && file.set_len(16).is_ok());
    assert_eq!(disk.heal(), 1);
}
