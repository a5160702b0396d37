//! What consumers have of segments that are still on board.

use std::sync::Arc;

use perigee_proto::link::DropReason;
use perigee_shared::segment::{Header, Lane};
use perigee_shared::signal::{Counts, Signal, SignalSet};

use super::clock_tests::{Hands, S};
use super::tests::{Bench, assert_adds_up, config, logs, request, seal};
use super::*;

fn metrics(n: u64) -> Counts {
    Counts::of(Signal::Metrics, n)
}

fn only(signal: Signal) -> SignalSet {
    SignalSet::default().with(signal)
}

/// A log with these consumers.
fn bench(consumers: &[(&str, SignalSet)]) -> Bench {
    let mut bench = Bench::new();
    bench.config = config(bench.directory.path(), consumers);
    bench
}

/// A segment of 5 log records and 3 metric points, and a number for its name.
fn mixed(wal: &mut Wal, n: u64) -> Header {
    let points = Accepted { signal: Signal::Metrics, ..request(1000 + n, 3, 4000) };
    wal.journal().append(&[request(n, 5, 100), points]).unwrap();
    seal(wal).unwrap().unwrap()
}

fn id(wal: &Wal, name: &str) -> ConsumerId {
    let mut known = wal.state().consumers.iter();
    known.find(|(known, _)| *known == name).map(|(_, id)| ConsumerId(*id)).unwrap()
}

fn dropped(wal: &Wal) -> Counts {
    wal.summary().dropped.iter().map(|(_, items)| *items).sum()
}

#[test]
fn what_one_consumer_has_is_not_dropped_with_its_segment() {
    let bench = bench(&[("link", SignalSet::ALL), ("a", SignalSet::ALL), ("b", only(Signal::Metrics))]);
    let mut wal = bench.open();
    let headers: Vec<Header> = (0..3).map(|n| mixed(&mut wal, n)).collect();
    let [a, b] = ["a", "b"].map(|name| id(&wal, name));
    // The first: a has the log records but for two that its backend has refused. The second: b has passed it. The third: nobody has it.
    wal.custody().advance(a, headers[0].id, None, 1, (logs(3), logs(2))).unwrap();
    wal.custody().advance(a, headers[0].id, None, 1, (logs(3), logs(2))).unwrap();
    wal.custody().pass(b, &[Delivery { id: headers[1].id, refused: metrics(1) }]).unwrap();
    assert_eq!(wal.summary().delivered, Counts::ZERO, "each waits for the link");
    drop(wal);
    let mut wal = bench.open();
    wal.custody().drop_segments(headers, DropReason::QuotaOldest).unwrap();
    assert_eq!(wal.summary().delivered, logs(3) + metrics(2));
    assert_eq!(dropped(&wal), logs(2 + 5 + 5) + metrics(3 + 1 + 3));
    assert_adds_up(&wal);
    let told = wal.epochs().hello("svalbard").unwrap();
    let told: Counts = told[0].drops.iter().map(|d| Counts::from(d.items.unwrap())).sum();
    assert_eq!(told, dropped(&wal));
    drop(wal);
    let mut wal = bench.open();
    let missed = wal.custody().missed();
    assert_eq!(missed["link"], logs(15) + metrics(9));
    assert_eq!(missed["a"], logs(12) + metrics(9));
    assert_eq!(missed["b"], metrics(6), "it has passed one");
    assert_adds_up(&wal);
}

#[test]
fn a_consumer_that_came_later_has_nothing_of_what_was_there_before() {
    let mut bench = bench(&[("a", SignalSet::ALL)]);
    let mut wal = bench.open();
    let headers: Vec<Header> = (0..2).map(|n| mixed(&mut wal, n)).collect();
    drop(wal);
    bench.config.consumers.insert("b".to_owned(), SignalSet::ALL);
    let mut wal = bench.open();
    let a = id(&wal, "a");
    wal.custody().drop_segments(vec![headers[0].clone()], DropReason::QuotaOldest).unwrap();
    assert_eq!((dropped(&wal), wal.summary().delivered), (logs(5) + metrics(3), Counts::ZERO));
    // Its only backend refuses the other one.
    wal.custody().pass(a, &[Delivery { id: headers[1].id, refused: logs(5) + metrics(3) }]).unwrap();
    assert_eq!((dropped(&wal), wal.summary().delivered), (logs(10) + metrics(6), Counts::ZERO));
    assert_adds_up(&wal);
}

#[test]
fn what_every_consumer_has_is_delivered_before_its_segment_goes() {
    let bench = bench(&[("a", SignalSet::ALL), ("link", only(Signal::Logs))]);
    let mut wal = bench.open();
    let headers: Vec<Header> = (0..2).map(|n| mixed(&mut wal, n)).collect();
    let [a, link] = ["a", "link"].map(|name| id(&wal, name));
    let others = only(Signal::Logs).with(Signal::Traces);
    for header in &headers {
        wal.custody().advance(a, header.id, Some(Signal::Logs), 1, (logs(4), logs(1))).unwrap();
        wal.custody().pass_ahead(a, header.id, others).unwrap();
    }
    assert_eq!(wal.summary().delivered, Counts::ZERO, "the link has nothing");
    wal.custody().pass(link, &[Delivery::whole(headers[0].id)]).unwrap();
    let delivered = |wal: &Wal| (wal.summary().delivered, wal.summary().in_segments);
    // The link has the one that a refused.
    let now = (logs(5), logs(5) + metrics(6));
    assert_eq!(delivered(&wal), now);
    assert_adds_up(&wal);
    drop(wal);
    let mut wal = bench.open();
    assert_eq!(delivered(&wal), now, "also after a restart");
    // What a keeps on board alone is the first segment, for its metrics.
    let held = wal.custody().held(a).unwrap();
    assert_eq!((held.bytes, held.items), (headers[0].payload_len, metrics(3)));
    assert_eq!(held.by_signal, [0, headers[0].payload_len, 0]);
    wal.custody().pass(a, &[Delivery { id: headers[0].id, refused: metrics(3) }]).unwrap();
    assert_eq!(delivered(&wal), (logs(5), logs(5) + metrics(3)));
    assert_eq!(dropped(&wal), metrics(3), "nobody has them");
    assert_eq!(wal.custody().lanes(), [Lane::BULK]);
    assert_adds_up(&wal);
}

#[test]
fn what_consumers_have_and_missed_is_known_after_damage() {
    let bench = bench(&[("link", SignalSet::ALL), ("a", SignalSet::ALL)]);
    let mut wal = bench.open();
    let headers: Vec<Header> = (0..2).map(|n| mixed(&mut wal, n)).collect();
    let a = id(&wal, "a");
    wal.custody().advance(a, headers[1].id, None, 1, (logs(3), logs(2))).unwrap();
    wal.custody().drop_segments(vec![headers[0].clone()], DropReason::QuotaOldest).unwrap();
    let odd = request(77, 5, 6_000);
    wal.journal().append(std::slice::from_ref(&odd)).unwrap();
    wal.close().unwrap();
    bench.disk.damage(&bench.file(), |content| {
        let body = &odd.body[1_000..1_032];
        let at = content.windows(body.len()).position(|bytes| bytes == body).unwrap();
        content[at] ^= 1;
    });
    let mut wal = bench.try_open().unwrap();
    assert!(wal.take_quarantine().is_some());
    let there: Vec<Header> =
        wal.custody().segments(usize::MAX).unwrap().into_iter().map(|(record, _)| record.header).collect();
    assert_eq!(there.len(), 1);
    wal.custody().drop_segments(there, DropReason::QuotaOldest).unwrap();
    assert_eq!(wal.summary().delivered, logs(3), "a has them");
    assert_eq!(wal.custody().missed()["a"], logs(5 + 2) + metrics(6));
    assert_adds_up(&wal);
}

/// What the drops that a station hears of now have together.
fn told(wal: &mut Wal) -> Counts {
    let epochs = wal.epochs().hello("svalbard").unwrap();
    epochs.iter().flat_map(|epoch| &epoch.drops).map(|drop| Counts::from(drop.items.unwrap())).sum()
}

#[test]
fn what_a_consumer_gets_of_a_segment_while_that_is_dropped_is_taken_back_from_the_drop() {
    let bench = bench(&[("link", SignalSet::ALL), ("a", SignalSet::ALL), ("b", SignalSet::ALL)]);
    let mut wal = bench.open();
    let headers: Vec<Header> = (0..3).map(|n| mixed(&mut wal, n)).collect();
    let [a, b] = ["a", "b"].map(|name| id(&wal, name));
    let first = headers[0].id;
    wal.custody().begin(a, first);
    wal.custody().begin(b, first);
    wal.custody().advance(a, first, None, 1, (logs(3), Counts::ZERO)).unwrap();
    // All three are one record.
    wal.custody().drop_segments(headers.clone(), DropReason::QuotaOldest).unwrap();
    let counts = |wal: &Wal| (wal.summary().delivered, dropped(wal));
    assert_eq!(counts(&wal), (logs(3), logs(2 + 10) + metrics(9)));
    // Three of them a has.
    assert!(wal.custody().advance(b, first, None, 1, (logs(4), logs(1))).unwrap());
    assert_eq!(counts(&wal), (logs(4), logs(1 + 10) + metrics(9)));
    assert!(wal.custody().advance(a, first, None, 2, (metrics(2), metrics(1))).unwrap());
    // That was not all: the last request and the end of the segment are one.
    wal.custody().pass(a, &[Delivery { id: first, refused: logs(1) }]).unwrap();
    wal.custody().pass(a, &[Delivery::whole(first)]).unwrap();
    assert_eq!(counts(&wal), (logs(4) + metrics(2), logs(1 + 10) + metrics(1 + 6)));
    assert_adds_up(&wal);
    // No station hears of it before both are done.
    wal.custody().leave(a);
    assert_eq!(told(&mut wal), Counts::ZERO);
    wal.custody().leave(b);
    assert_eq!(told(&mut wal), dropped(&wal));
    assert!(!wal.custody().advance(b, first, None, 2, (metrics(3), Counts::ZERO)).unwrap());
    assert_eq!(counts(&wal), (logs(4) + metrics(2), logs(1 + 10) + metrics(1 + 6)));
    // Nobody was in the middle of the second.
    assert!(!wal.custody().advance(a, headers[1].id, None, 1, (logs(5), Counts::ZERO)).unwrap());
    drop(wal);
    let mut wal = bench.open();
    assert_eq!(counts(&wal), (logs(4) + metrics(2), logs(1 + 10) + metrics(1 + 6)));
    assert_eq!(told(&mut wal), dropped(&wal));
    let missed = wal.custody().missed();
    assert_eq!(missed["link"], logs(15) + metrics(9));
    assert_eq!(missed["a"], logs(1 + 10) + metrics(1 + 6));
    assert_eq!(missed["b"], logs(1 + 10) + metrics(9));
    assert_adds_up(&wal);
}

#[test]
fn a_segment_that_a_consumer_gets_whole_after_its_drop_is_no_drop() {
    let bench = bench(&[("link", SignalSet::ALL), ("a", SignalSet::ALL)]);
    let mut wal = bench.open();
    let headers: Vec<Header> = (0..2).map(|n| mixed(&mut wal, n)).collect();
    let a = id(&wal, "a");
    wal.custody().begin(a, headers[0].id);
    wal.custody().drop_segments(vec![headers[0].clone()], DropReason::QuotaOldest).unwrap();
    // The one that is next is in no way gone.
    wal.custody().pass(a, &[Delivery::whole(headers[0].id)]).unwrap();
    wal.custody().leave(a);
    wal.custody().begin(a, headers[1].id);
    assert!(wal.custody().advance(a, headers[1].id, None, 1, (logs(5), Counts::ZERO)).unwrap());
    assert_eq!((wal.summary().delivered, dropped(&wal)), (logs(5) + metrics(3), Counts::ZERO));
    assert_eq!(told(&mut wal), Counts::ZERO);
    assert_eq!(wal.custody().missed()["a"], Counts::ZERO);
    assert_adds_up(&wal);
    // It is told after the next start at the latest.
    drop(wal);
    let mut wal = bench.open();
    wal.custody().begin(a, headers[1].id);
    wal.custody().drop_segments(vec![headers[1].clone()], DropReason::QuotaOldest).unwrap();
    assert_eq!(told(&mut wal), Counts::ZERO);
    drop(wal);
    let mut wal = bench.open();
    assert_eq!(told(&mut wal), metrics(3));
    assert_eq!((wal.summary().delivered, dropped(&wal)), (logs(10) + metrics(3), metrics(3)));
    assert_adds_up(&wal);
}

#[test]
fn a_drop_is_told_after_a_while_and_then_the_consumer_does_not_go_on() {
    let bench = bench(&[("link", SignalSet::ALL), ("a", SignalSet::ALL)]);
    let hands = Arc::new(Hands::default());
    let mut wal = super::epoch_tests::open(&bench, &hands);
    let header = mixed(&mut wal, 0);
    let a = id(&wal, "a");
    wal.custody().begin(a, header.id);
    wal.custody().drop_segments(vec![header.clone()], DropReason::QuotaOldest).unwrap();
    hands.pass(20 * S);
    assert_eq!(told(&mut wal), Counts::ZERO);
    assert!(wal.custody().advance(a, header.id, None, 1, (logs(5), Counts::ZERO)).unwrap());
    hands.pass(11 * S);
    assert_eq!(told(&mut wal), metrics(3), "a backend may take long");
    assert!(!wal.custody().advance(a, header.id, None, 2, (metrics(3), Counts::ZERO)).unwrap());
    assert_eq!((wal.summary().delivered, dropped(&wal)), (logs(5), metrics(3)));
    assert_adds_up(&wal);
}
