//! A station that is cut off from the shared ledger.
#![allow(clippy::single_range_in_vec_init, reason = "a list of ranges may have one")]

use std::sync::Arc;
use std::time::Duration;

use ::fleet::Postgres;
use perigee_proto::link;
use perigee_shared::segment::Header;

use super::fleet_tests::{Database, commit, hand_in, next, of_satellite, segments};
use super::tests::{EPOCH, incoming, segment, spans};
use super::*;

fn hello(on_board: std::ops::Range<u64>) -> Arc<link::Hello> {
    let lane = link::Lane {
        lane: 8,
        on_board: vec![link::Range { start: on_board.start, end: on_board.end }],
        next_sequence: on_board.end,
        ..link::Lane::default()
    };
    let epoch = link::Epoch { epoch: EPOCH, lanes: vec![lane], ..link::Epoch::default() };
    Arc::new(link::Hello { epochs: vec![epoch], ..link::Hello::default() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_holds_what_arrives_says_that_nothing_is_committed_and_hands_in_later() {
    let Some(mut server) = Postgres::start() else { return };
    let database = Database::on(&server);
    let store = database.station("svalbard").await;
    let ledger = store.intake().ledger("sat-1".into(), hello(1..6)).await.unwrap().ledger;
    assert_eq!(commit(&store, "sat-1", 1).await, Applied::New);
    let seen = store.views().accounting().await.unwrap();
    assert_eq!(store.views().overview().await.unwrap().segments, 1);
    server.stop();

    // A whole segment is held, and so is a part of another one.
    let (header, payload) = segment(2, spans(1), 0);
    let length = payload.len() as u64;
    let whole = Applied::Held([0..length].into_iter().collect());
    assert_eq!(hand_in(&store, vec![of_satellite("sat-1", 2)]).await.unwrap(), [whole]);
    let part = |header: &Arc<Header>, payload: &[u8], range| incoming(header, payload, &[range]);
    let (third, bytes) = segment(3, spans(1), 0);
    let held = hand_in(&store, vec![part(&third, &bytes, 0..500)]).await.unwrap();
    assert_eq!(held, [Applied::Held([0..500].into_iter().collect())]);
    let status = store.status();
    assert!(status.borrow().aside && status.borrow().has_room("sat-1"), "links go on");
    assert!(status.borrow().failing.is_some(), "and it is said");
    assert_eq!(store.views().accounting().await.unwrap(), seen, "metrics show what was known");
    assert!(store.views().satellites().await.is_err(), "what cannot be asked is an error at once");
    let resume = store.intake().ledger("sat-1".into(), hello(1..6)).await.unwrap();
    let lane = &resume.epochs[0].lanes[0];
    assert_eq!((resume.ledger, lane.committed.len()), (ledger, 0));
    let sequences: Vec<u64> = lane.partials.iter().map(|partial| partial.sequence).collect();
    assert_eq!(sequences, [2, 3]);
    assert_eq!(lane.partials[0].payload_hash, header.hash);

    let mut status = store.status();
    let before = status.borrow().relieved;
    server.begin();
    status.wait_for(|status| status.relieved > before).await.unwrap();
    assert!(!status.borrow().aside && status.borrow().failing.is_none());
    assert_eq!(segments(&store, "sat-1").await, 2, "what was whole is committed");
    let rest = part(&third, &bytes, 500..bytes.len());
    assert_eq!(hand_in(&store, vec![rest]).await.unwrap(), [Applied::New]);
    assert_eq!(commit(&store, "sat-1", 2).await, Applied::Duplicate);
    let resume = store.intake().ledger("sat-1".into(), hello(1..6)).await.unwrap();
    assert_eq!(resume.epochs[0].lanes[0].committed.len(), 1, "one run: 1 to 3");
    assert_eq!(next(&store).await.unwrap().header.id.sequence, 1);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_it_held_is_handed_in_after_a_restart_too() {
    let Some(mut server) = Postgres::start() else { return };
    let database = Database::on(&server);
    let store = database.station("svalbard").await;
    server.stop();
    assert!(matches!(hand_in(&store, vec![of_satellite("sat-1", 1)]).await.unwrap()[0], Applied::Held(_)));
    store.close().await;
    server.begin();
    let store = database.station("svalbard").await;
    let mut status = store.status();
    tokio::time::timeout(Duration::from_secs(20), status.wait_for(|status| status.relieved > 0))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(segments(&store, "sat-1").await, 1);
    store.close().await;
}
