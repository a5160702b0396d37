//! Servers as they may be: with TLS and certificates, of an earlier version, with a full volume.

use std::path::{Path, PathBuf};
use std::process::Command;

use ::fleet::Postgres;
use perigee_shared::env::Env;
use perigee_shared::export::config::TlsConfig;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::fleet_tests::{Database, commit, commit_in_the_end, fails, segments};
use super::postgres::EngineError;
use super::tests::settings;
use super::*;

/// An authority, with a directory for what it has signed.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    dir: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "the authority of a test");
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { issuer: Issuer::new(params, key), dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Signs a certificate for `subject` that is good for these names and addresses; it and its key, PEM.
    fn sign(&self, subject: &str, names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, subject);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// The settings of a client that trusts this authority, and shows a certificate of it for `subject`.
    fn client(&self, subject: Option<&str>) -> TlsConfig {
        let mut tls = TlsConfig { ca_file: Some(self.path("ca.crt")), ..TlsConfig::default() };
        if let Some(subject) = subject {
            let (certificate, key) = self.sign(subject, &[]);
            let [cert_file, key_file] =
                ["crt", "key"].map(|ending| self.path(&format!("{subject}.{ending}")));
            std::fs::write(&cert_file, certificate).unwrap();
            std::fs::write(&key_file, key).unwrap();
            (tls.cert_file, tls.key_file) = (Some(cert_file), Some(key_file));
        }
        tls
    }
}

/// Why a look at the ledger fails.
async fn refusal(database: &Database) -> EngineError {
    let settings = settings(&database.dir, &[]);
    match Box::pin(Store::look(&Env::production(), settings, database.fleet.clone())).await.err() {
        Some(SpoolError::Engine(error)) => error,
        other => panic!("it was not refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_tls_takes_a_station_with_the_certificate_of_its_role_and_no_other() {
    let Some(server) = Postgres::start() else { return };
    let (ours, other) = (Authority::new(), Authority::new());
    let (certificate, key) = ours.sign("ledger", &["127.0.0.1", "ledger.example.org"]);
    server.keep_file("server.crt", &certificate);
    server.keep_file("server.key", &key);
    server.keep_file("clients.crt", &std::fs::read_to_string(ours.path("ca.crt")).unwrap());
    let mut database = Database::on(&server);
    let name = database.fleet.database.clone();
    server.sql("postgres", &format!("create role station login; alter database {name} owner to station"));
    database.fleet.user = "station".to_owned();
    database.fleet.tls = Some(ours.client(Some("station")));
    let expect = async |database: &Database, tls: Option<TlsConfig>, words: [&str; 2]| {
        let fleet = super::postgres::FleetSettings { tls, ..database.fleet.clone() };
        let with = Database { fleet, dir: tempfile::tempdir().unwrap() };
        let why = refusal(&with).await;
        assert!(matches!(why, EngineError::Refused { .. }), "{why:?}");
        assert!(words.iter().all(|word| why.to_string().contains(word)), "{words:?}: {why}");
    };
    // A server without TLS, before anything is sent to it.
    expect(&database, database.fleet.tls.clone(), ["does not support TLS", "ssl = on"]).await;

    server.keep_file(
        "pg_hba.conf",
        "local all all trust\nhostssl all station 127.0.0.1/32 cert\nhost all perigee 127.0.0.1/32 trust\n",
    );
    server.configure(
        "ssl = on\nssl_cert_file = 'server.crt'\nssl_key_file = 'server.key'\nssl_ca_file = 'clients.crt'",
    );
    server.reload();
    while server.sql("postgres", "show ssl") != "on" {}
    expect(&database, None, ["pg_hba.conf", "storage.user"]).await;
    expect(&database, Some(ours.client(None)), ["certificate", "pg_hba.conf"]).await;
    expect(&database, Some(ours.client(Some("stranger"))), ["failed for user", "storage.user"]).await;
    expect(&database, Some(other.client(Some("station"))), ["invalid peer certificate", "storage.tls"]).await;
    let misnamed =
        TlsConfig { server_name: Some("db.example.org".to_owned()), ..ours.client(Some("station")) };
    expect(&database, Some(misnamed), ["db.example.org", "storage.tls"]).await;

    let named =
        TlsConfig { server_name: Some("ledger.example.org".to_owned()), ..ours.client(Some("station")) };
    for tls in [ours.client(Some("station")), named] {
        database.fleet.tls = Some(tls);
        let store = database.station("svalbard").await;
        commit_in_the_end(&store, "sat-1", 1).await;
        const CLEAR: &str = "select count(*) from pg_stat_ssl s join pg_stat_activity a using (pid) \
                             where a.usename = 'station' and (not s.ssl or s.client_dn <> '/CN=station')";
        assert_eq!(server.sql(&name, CLEAR), "0", "every connection is under TLS, with the certificate");
        assert_eq!(segments(&store, "sat-1").await, 1);
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_an_earlier_version_is_refused() {
    let Some(server) = ::fleet::shared() else { return };
    let database = Database::on(server);
    let name = &database.fleet.database;
    // This one says of itself that it is earlier: what it is asked is found in this schema first.
    server.sql(
        name,
        "create schema early; create function early.current_setting(text) returns text language sql as \
         $$ select case $1 when 'server_version_num' then '140019' when 'server_version' then '14.19' \
         else pg_catalog.current_setting($1) end $$",
    );
    server.sql(name, &format!("alter database {name} set search_path = early, pg_catalog, public"));
    let why = refusal(&database).await.to_string();
    assert!(why.contains("it is version 14.19") && why.contains("15 or later"), "{why}");
    server.sql(name, &format!("alter database {name} reset search_path"));
    database.station("svalbard").await.close().await;
}

/// A small file system in memory; it is gone when this goes.
struct Small(tempfile::TempDir);

impl Small {
    /// `None`: this user may not mount one.
    fn mount(mib: u32) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let small = Self(dir);
        small.run(&["-t", "tmpfs", "-o", &format!("size={mib}m,mode=0777"), "tmpfs"]).then_some(small)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn grow(&self, mib: u32) {
        assert!(self.run(&["-o", &format!("remount,size={mib}m")]));
    }

    fn run(&self, arguments: &[&str]) -> bool {
        let done = Command::new("mount").args(arguments).arg(self.path()).output();
        done.is_ok_and(|out| out.status.success())
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).output();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_volume_is_full_is_waited_for_and_nothing_is_lost_or_doubled() {
    let Some(small) = Small::mount(24) else {
        eprintln!("skipped: this user may not mount a tmpfs");
        return;
    };
    let Some(server) = Postgres::start() else { return };
    let database = Database::on(&server);
    let name = &database.fleet.database;
    let space = small.path().join("data");
    server.keep_directory(&space);
    server.sql("postgres", &format!("create tablespace small location '{}'", space.display()));
    server.sql("postgres", &format!("alter database {name} set tablespace small"));
    let store = database.station("svalbard").await;
    server.sql(
        name,
        "create table ballast (bytes bytea); alter table ballast alter bytes set storage external",
    );
    let fill = "insert into ballast select decode(repeat('ab', 400000), 'hex')";
    while server.try_sql(name, fill) {}
    let mut status = store.status();
    let other = store.clone();
    let waiting = tokio::spawn(async move {
        for sequence in 1..=200 {
            let applied = commit_in_the_end(&other, "sat-1", sequence).await;
            assert!(matches!(applied, Applied::New | Applied::Duplicate), "{applied:?}");
        }
    });
    let failing =
        |status: &Status| status.failing.as_ref().is_some_and(|why| why.contains("free some space"));
    status.wait_for(failing).await.unwrap();
    assert!(!waiting.is_finished());
    small.grow(256);
    waiting.await.unwrap();
    status.wait_for(|status| status.failing.is_none()).await.unwrap();
    assert_eq!(segments(&store, "sat-1").await, 200);
    assert_eq!(commit(&store, "sat-1", 1).await, Applied::Duplicate);
    assert!(store.upkeep().verify().await.unwrap().is_empty());
    store.close().await;
    drop(server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_with_another_ledger_or_a_later_schema_is_refused_while_a_station_runs() {
    let Some(server) = ::fleet::shared() else { return };
    let (ours, theirs) = (Database::on(server), Database::on(server));
    let (our_name, their_name) = (ours.fleet.database.clone(), theirs.fleet.database.clone());
    let store = ours.station("svalbard").await;
    commit_in_the_end(&store, "sat-1", 1).await;
    theirs.station("kiruna").await.close().await;
    let put = |database: &str, place: &str| {
        for name in [database, place] {
            server.try_sql("postgres", &format!("alter database {name} with allow_connections false"));
            server.disconnect(name);
        }
        server.sql("postgres", &format!("alter database {database} rename to {place}"));
        server.sql("postgres", &format!("alter database {place} with allow_connections true"));
    };
    put(&our_name, "away");
    put(&their_name, &our_name);
    let why = fails(&store, "another ledger").await;
    assert!(why.contains("restart every station"), "{why}");
    put(&our_name, &their_name);
    server.sql("postgres", &format!("create database {our_name} owner perigee"));
    fails(&store, "another ledger").await;
    server.sql("postgres", &format!("drop database {our_name} with (force)"));
    put("away", &our_name);
    let mut status = store.status();
    status.wait_for(|status| status.failing.is_none()).await.unwrap();

    server.sql(&our_name, "insert into perigee_schema values (99, 99, 'x', 'later')");
    server.disconnect(&our_name);
    fails(&store, "update this ground-station").await;
    server.sql(&our_name, "delete from perigee_schema where version = 99");
    status.wait_for(|status| status.failing.is_none()).await.unwrap();
    commit_in_the_end(&store, "sat-1", 2).await;
    assert_eq!(segments(&store, "sat-1").await, 2);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_station_does_not_join_beside_a_spool_of_its_own() {
    let Some(database) = Database::new() else { return };
    let directory = database.dir.path().join("svalbard");
    std::fs::create_dir_all(&directory).unwrap();
    let spool = super::file::Spool::open(
        &Env::production(),
        Settings { directory: directory.clone(), ..settings(&database.dir, &[]) },
    );
    spool.unwrap().close().unwrap();
    let why = database.refusal().await;
    assert!(why.contains("spool.redb") && why.contains("spool migrate"), "{why}");
    std::fs::rename(directory.join("spool.redb"), directory.join("spool.redb.migrated")).unwrap();
    database.station("svalbard").await.close().await;
}
