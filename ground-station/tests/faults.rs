//! A ground-station whose disk is no good.

mod support;

use perigee_shared::serve::HttpConfig;
use support::{Running, Site, get, segment};

#[tokio::test(flavor = "multi_thread")]
async fn a_ground_that_has_lost_its_spool_for_good_says_so_and_ends() {
    let site = Site::new();
    let mut config = site.config("", &site.file_exporter());
    config.extensions.health_check = Some(HttpConfig { endpoint: "127.0.0.1:0".to_owned(), insecure: false });
    let running = Running::start(config).await;
    let health = running.health.unwrap();
    assert!(get(health, "/").await.0.contains("200"));
    let store = running.store.clone().unwrap();
    for sequence in 1..4 {
        // As often as that, a disk destroys what is written to it.
        std::fs::remove_file(site.path("spool/spool.redb")).unwrap();
        let incoming = ground_station::spool::Incoming {
            satellite: "sat-1".into(),
            header: segment(sequence, 1).header.into(),
            pieces: [ground_station::spool::Piece { offset: 0, bytes: segment(sequence, 1).payload }].into(),
            max_partial_bytes: 1 << 20,
            age: None,
        };
        let taken = store.intake().put_payload(incoming).await.unwrap();
        assert_eq!(store.intake().commit(vec![taken]).await.is_ok(), sequence < 3);
    }
    let gone = store.status().borrow().gone.clone().unwrap();
    assert!(gone.contains("given up"), "{gone}");
    drop(store);
    let ended = running.ended().await.unwrap_err().to_string();
    assert!(ended.contains("can no longer be used"), "{ended}");
}
