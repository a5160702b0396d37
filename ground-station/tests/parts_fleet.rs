//! Processes that divide the work of a ground-station and share its ledger.
#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

mod support;

use ground_station::ground::{Ground, Part};
use perigee_shared::env::Env;
use support::{Running, Site, segment};

#[tokio::test]
async fn one_process_takes_segments_and_another_one_exports_them() {
    let site = Site::new();
    if !site.is_shared() {
        return;
    }
    let taking = Running::start_parts(site.config("", &site.file_exporter()), &[Part::Link, Part::Api]).await;
    let mut satellite = site.satellite("sat-1", taking.address).await;
    satellite.hello(1..3).await;
    for sequence in 1..=2 {
        satellite.send(&segment(sequence, 3)).await;
    }
    while taking.account("sat-1").await.segments < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(taking.account("sat-1").await.in_spool.spans, 6, "nobody exports yet");
    assert_eq!(site.exported(), "");

    let mut config = site.config("", &site.file_exporter());
    config.storage.directory = site.path("exporter");
    config.link.station = "exporter".to_owned();
    config.extensions.control = None;
    let exporting = Running::start_parts(config, &[Part::Export]).await;
    assert_eq!((exporting.address.port(), exporting.api.port()), (0, 0), "it takes and answers nothing");
    let account = taking.drained("sat-1").await;
    assert_eq!(account.exported.spans, 6);
    let exported = site.exported();
    assert!(exported.contains("s1-2") && exported.contains("s2-2"), "{exported}");
    assert!(
        exported.contains("\"svalbard\"") && !exported.contains("\"exporter\""),
        "who took it in: {exported}"
    );
    exporting.stop().await;
    taking.stop().await;
}

#[tokio::test]
async fn a_file_serves_one_process_that_does_all_of_the_work() {
    let site = Site::new();
    let mut config = site.config("", &site.file_exporter());
    config.storage.kind = ground_station::config::StorageKind::Redb;
    config.storage.hosts.clear();
    config.storage.database.clear();
    config.storage.user.clear();
    let error =
        Box::pin(Ground::build_parts(config, &Env::production(), &[Part::Export], None)).await.err().unwrap();
    assert!(error.to_string().contains("needs kind: postgres"), "{error}");
}
