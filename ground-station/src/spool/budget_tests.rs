//! What one satellite, and whoever decodes, may take.

use std::sync::Arc;

use perigee_proto::link;
use perigee_shared::env::Env;
use perigee_shared::otlp::protobuf::put_bytes;
use perigee_shared::segment::{Codec, Encoder, Header, Lane, SegmentId, hash};
use perigee_shared::signal::{Counts, Signal, SignalSet, TimeRange};
use perigee_shared::units::ByteSize;
use prost::Message;

use super::file::Spool;
use super::tests::*;
use super::*;
use crate::memory::{Budget, Stir, Turn};

const MIB: u64 = 1 << 20;

fn hello(spool: &mut Spool, satellite: &str, epochs: std::ops::Range<u64>) -> Result<Answer, SpoolError> {
    let epoch = |epoch| link::Epoch { epoch, closed: true, ..link::Epoch::default() };
    let hello = link::Hello { epochs: epochs.map(epoch).collect(), ..link::Hello::default() };
    spool.write(|txn| ledger::hello(txn, satellite, &hello.clone().into()))
}

fn tight(spool: &mut Spool, satellite: &str) -> Option<String> {
    let all = spool.read(views::satellites).unwrap();
    all.into_iter().find(|view| view.satellite == satellite).unwrap().ledger_tight
}

#[test]
fn a_satellite_that_fills_its_ledger_is_refused_alone_and_the_configuration_gives_it_room() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(&dir);
    for n in 0..4 {
        assert_eq!(tight_or_none(&mut spool, n), None);
        hello(&mut spool, "hostile", n * 256..(n + 1) * 256).unwrap();
    }
    assert_eq!(tight(&mut spool, "hostile").unwrap(), "its ledger has 1024 of 1024 epochs");
    let refused = hello(&mut spool, "hostile", 1024..1025).unwrap_err();
    assert!(
        matches!(&refused, SpoolError::Budget(why) if why.contains("1025 epochs; at most 1024")),
        "{refused}"
    );
    // Nothing of what was refused stays, and nobody else notices.
    assert_eq!(spool.read(views::satellites).unwrap()[0].epochs.len(), 1024);
    hello(&mut spool, "honest", 1..2).unwrap();
    assert_eq!(tight(&mut spool, "honest"), None);
    spool.close().unwrap();

    let room = [("hostile".to_owned(), 2)].into();
    let settings = Settings { ledger_room: room, ..settings(&dir, &[("a", SignalSet::ALL)]) };
    let mut spool = Spool::open(&Env::production(), settings).unwrap();
    hello(&mut spool, "hostile", 1024..1025).unwrap();
    assert_eq!(tight(&mut spool, "hostile"), None);
}

fn tight_or_none(spool: &mut Spool, hellos: u64) -> Option<String> {
    if hellos == 0 { None } else { tight(spool, "hostile") }
}

#[test]
fn a_resume_that_would_be_too_large_is_cut_to_what_fits() {
    const RUNS: u64 = 60_000;
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(&dir);
    hello(&mut spool, "sat", 1..2).unwrap();
    spool
        .write(|txn| {
            let satellite = ledger::number(txn, "sat")?;
            let mut committed = txn.tables.open_table(tables::COMMITTED)?;
            for sequence in (0..2 * RUNS).step_by(2) {
                let key = tables::SequenceKey { satellite, epoch: 1, lane: 8, sequence };
                ledger::insert(&mut committed, key, [7; 32])?;
            }
            Ok(())
        })
        .unwrap();
    let lanes = vec![link::Lane { lane: 8, ..Default::default() }];
    let epoch = link::Epoch { epoch: 1, continued: true, lanes, ..Default::default() };
    let hello = link::Hello { epochs: vec![epoch], ..Default::default() };
    let answer = spool.write(|txn| ledger::hello(txn, "sat", &hello.clone().into())).unwrap();
    let told = &answer.epochs[0].lanes[0].committed;
    assert!(told.len() > 10_000 && (told.len() as u64) < RUNS, "{} runs", told.len());
    // The earliest are told; the satellite offers the rest again and hears that they are here.
    let starts = told.iter().map(|run| run.sequences.unwrap().start);
    assert!(starts.eq((0..2 * RUNS).step_by(2).take(told.len())));
    let resume = link::Resume { epochs: answer.epochs, ..Default::default() };
    let body = Some(link::ground_message::Body::Resume(resume));
    let message = link::GroundMessage { body }.encode_to_vec();
    assert!(message.len() <= perigee_shared::link::wire::MAX_MESSAGE, "{} bytes", message.len());
    perigee_shared::link::bounds::check::<link::GroundMessage>(&message).unwrap();
}

/// A segment with one request of so many bytes.
fn of_size(sequence: u64, bytes: usize) -> Incoming {
    let mut encoder = Encoder::new(Codec::ZstdRows, None).unwrap();
    encoder.push(Signal::Logs, &vec![0; bytes]).unwrap();
    let payload = encoder.finish().unwrap().payload;
    let header = Header {
        id: SegmentId { epoch: EPOCH, lane: Lane::BULK, sequence },
        codec: Codec::ZstdRows as u32,
        payload_len: payload.len() as u64,
        raw_len: bytes as u64,
        hash: hash(&payload),
        items: spans(1),
        time: TimeRange::EMPTY,
        requests: 1,
        sealed_unix_nano: 0,
        base_sequence: None,
        is_base: false,
        delivery: None,
        made_of: None,
    };
    let whole = 0..payload.len();
    incoming(&Arc::new(header), &payload, &[whole])
}

#[tokio::test]
async fn a_segment_waits_for_the_memory_that_it_needs() {
    let dir = tempfile::tempdir().unwrap();
    // 18 MiB for what needs much.
    let decoding = Budget::new(ByteSize::mib(64), Stir::default());
    let settings = Settings {
        decoding: decoding.clone(),
        ..settings(&dir, &[("a", SignalSet::ALL), ("b", SignalSet::ALL)])
    };
    let store = Store::open(&Env::production(), settings, 0).unwrap();
    let taken = store.intake().put_payload(of_size(1, 8 << 20)).await.unwrap();
    store.intake().commit(vec![taken]).await.unwrap();
    let next = async |exporter: &str| {
        store.outlet().next(exporter.into(), SignalSet::ALL, 1).await.unwrap().unwrap()
    };

    let other = decoding.try_take(10 * MIB).unwrap();
    let release = async |turn: Turn| {
        turn.wanted().await;
        drop(turn);
    };
    let (first, ()) = tokio::join!(next("a"), release(other));
    assert!(decoding.try_take(8 * MIB).is_none(), "10 MiB are taken");
    let leave = async |work: Work| {
        work.wanted().await;
        drop(work);
    };
    let (second, ()) = tokio::join!(next("b"), leave(first));
    drop(second);
    let alone = decoding.try_take(u64::MAX).unwrap();

    // What needs little never waits for that.
    let taken =
        store.intake().put_payload(Incoming { satellite: "sat-2".into(), ..of_size(1, 1000) }).await.unwrap();
    store.intake().commit(vec![taken]).await.unwrap();
    store
        .outlet()
        .progress("a".into(), Progress { finished: true, ..Progress::at(place(1), 1) })
        .await
        .unwrap();
    assert_eq!(&*next("a").await.satellite, "sat-2");
    drop(alone);
    store.close().await;
}

/// A segment of so many time series, each with a point.
fn of_series(sequence: u64, series: usize) -> Incoming {
    let mut metrics = Vec::new();
    for n in 0..series {
        let mut metric = Vec::new();
        put_bytes(&mut metric, 1, n.to_string().as_bytes());
        // A gauge with a point of nothing.
        put_bytes(&mut metric, 5, &[0x0a, 0]);
        put_bytes(&mut metrics, 2, &metric);
    }
    let (mut resource, mut body) = (Vec::new(), Vec::new());
    put_bytes(&mut resource, 2, &metrics);
    put_bytes(&mut body, 1, &resource);
    let mut encoder = Encoder::new(Codec::Columns, None).unwrap();
    encoder.push(Signal::Metrics, &body).unwrap();
    let payload = encoder.finish().unwrap().payload;
    let (codec, items) = (Codec::Columns as u32, Counts::of(Signal::Metrics, series as u64));
    let (payload_len, raw_len, hash) = (payload.len() as u64, body.len() as u64, hash(&payload));
    let header =
        Header { codec, payload_len, raw_len, hash, items, ..of_size(sequence, 0).header.as_ref().clone() };
    let whole = 0..payload.len();
    incoming(&Arc::new(header), &payload, &[whole])
}

#[tokio::test]
async fn a_segment_that_takes_more_memory_than_there_is_becomes_a_dead_letter_and_is_replayed_with_more() {
    let dir = tempfile::tempdir().unwrap();
    let open = |mib| {
        let decoding = Budget::new(ByteSize::mib(mib), Stir::default());
        assert_eq!(decoding.alone() as u64, if mib == 32 { 8 * MIB } else { 88 * MIB });
        let settings = Settings { decoding, ..settings(&dir, &[("a", SignalSet::ALL)]) };
        Store::open(&Env::production(), settings, 0).unwrap()
    };
    let store = open(32);
    for segment in [of_series(1, 40_000), of_series(2, 10)] {
        let taken = store.intake().put_payload(segment).await.unwrap();
        store.intake().commit(vec![taken]).await.unwrap();
    }
    let next =
        async |store: &Store| store.outlet().next("a".into(), SignalSet::ALL, 1).await.unwrap().unwrap();
    assert_eq!(next(&store).await.header.id.sequence, 2, "the next one is not held up");
    let [letter] = &store.views().letters(0, 10).await.unwrap()[..] else { panic!("one letter") };
    assert_eq!(letter.items, 40_000);
    assert!(letter.reason.contains("memory.limit"), "{}", letter.reason);
    assert_eq!(store.replays().replay(Some(vec![letter.id])).await.unwrap(), 0, "there is no more now");
    store.close().await;

    let store = open(256);
    assert_eq!(store.replays().replay(None).await.unwrap(), 1);
    let mut found = vec![next(&store).await];
    store
        .outlet()
        .progress("a".into(), Progress { finished: true, ..Progress::at(found[0].place, 1) })
        .await
        .unwrap();
    found.push(next(&store).await);
    let mut items: Vec<u64> = found.iter().map(|work| work.header.items.total()).collect();
    items.sort_unstable();
    assert_eq!(items, [10, 40_000]);
    store.close().await;
}
