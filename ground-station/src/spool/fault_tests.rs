//! The spool on a disk that fails.

use std::path::Path;
use std::sync::Arc;

use perigee_shared::segment::{Codec, Encoder, Header, Lane, SegmentId, hash};
use perigee_shared::signal::{Counts, Signal, SignalSet, TimeRange};
use simdisk::Disk;

use super::file::Spool;
use super::*;

fn settings() -> Settings {
    Settings {
        directory: "/virtual".into(),
        max_bytes: 1 << 30,
        satellites: Vec::new(),
        ballast: 1 << 20,
        decoded_bases: 64 << 20,
        station: "svalbard".to_owned(),
        routes: [("a".to_owned(), SignalSet::ALL)].into(),
    }
}

fn incoming(sequence: u64) -> Incoming {
    let mut encoder = Encoder::new(Codec::ZstdRows, None).unwrap();
    let body: Vec<u8> = (0..5000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    encoder.push(Signal::Logs, &body).unwrap();
    let payload = encoder.finish().unwrap().payload;
    let header = Header {
        id: SegmentId { epoch: 1, lane: Lane::BULK, sequence },
        codec: 1,
        payload_len: payload.len() as u64,
        raw_len: body.len() as u64,
        hash: hash(&payload),
        items: Counts::of(Signal::Logs, 1),
        time: TimeRange::EMPTY,
        requests: 1,
        sealed_unix_nano: 0,
        base_sequence: None,
        is_base: false,
    };
    Incoming {
        satellite: "sat-1".into(),
        header: Arc::new(header),
        pieces: [Piece { offset: 0, bytes: payload }].into(),
        max_partial_bytes: 1 << 20,
    }
}

async fn commit(store: &Store, incoming: Incoming) -> Vec<Applied> {
    let taken = store.put_payload(incoming).await.unwrap();
    store.commit(vec![taken]).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_keeps_callers_waiting_and_nothing_is_lost_when_there_is_room_again() {
    let disk = Disk::new();
    let store = Store::open(&disk.env(), settings(), 0).unwrap();
    assert_eq!(commit(&store, incoming(1)).await, [Applied::New]);
    disk.set_full(true);
    let mut status = store.status();
    let other = store.clone();
    let waiting = tokio::spawn(async move { commit(&other, incoming(2)).await });
    status.wait_for(|s| s.failing.is_some()).await.unwrap();
    assert!(!status.borrow().has_room("sat-1"));
    assert!(status.borrow().failing.as_ref().unwrap().contains("free some space"));
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    assert!(!waiting.is_finished());
    assert!(!disk.env().store.exists(Path::new("/virtual/ballast")), "the ballast is given back");

    disk.set_full(false);
    assert_eq!(waiting.await.unwrap(), [Applied::New]);
    status.wait_for(|s| s.failing.is_none()).await.unwrap();
    let account = store.accounting().await.unwrap().remove("sat-1").unwrap();
    assert_eq!(account.committed.log_records, 2);
}

#[test]
fn what_was_reported_survives_a_power_cut_at_every_write() {
    for cut in 0..400 {
        let disk = Disk::new();
        let mut reported = 0;
        let work = |reported: &mut u64| -> Result<(), SpoolError> {
            let mut spool = Spool::open(&disk.env(), settings())?;
            disk.power_off_after(cut);
            for sequence in 1..8 {
                let batch = [incoming(sequence)];
                if spool.write(|txn| intake::apply(txn, &batch))? == [Applied::New] {
                    *reported = sequence;
                }
                if sequence % 3 == 0
                    && let Some(found) = spool.read(|view| outlet::next(view, "a", SignalSet::ALL, 1))?
                {
                    let done = Progress { finished: true, ..Progress::at(found.place, 1) };
                    spool.write(|txn| outlet::progress(txn, "a", &done))?;
                }
            }
            spool.close()
        };
        let finished = work(&mut reported).is_ok();
        disk.restart_torn(cut);
        let mut spool = Spool::open(&disk.env(), settings()).unwrap();
        assert!(spool.quarantined().is_none(), "cut at {cut}");
        let segments = spool.read(views::accounting).unwrap().remove("sat-1").unwrap_or_default();
        assert!(segments.segments >= reported, "cut at {cut}: {} of {reported}", segments.segments);
        assert_eq!(segments.committed.log_records, segments.segments, "cut at {cut}");
        assert!(spool.snapshot().unwrap().verify().unwrap().is_empty());
        if finished {
            assert_eq!(reported, 7);
        }
    }
}
