//! The catalogue: what stays in it, for how long, and what it says of exporters and passes.

use perigee_shared::segment::{Header, Request};
use perigee_shared::signal::{Signal, SignalSet, TimeRange};
use redb::ReadableTable;

use super::both_tests::Site;
use super::catalogue::{Services, list};
use super::tests::{
    apply, commit, done, incoming, next, open, open_with, place, progress, segment, settings, spans,
};
use super::*;

fn rows(spool: &mut super::file::Spool, wanted: &Wanted) -> Vec<CatalogueView> {
    spool.read(|view| list(view, wanted, 1_000)).unwrap().rows
}

fn sequences(spool: &mut super::file::Spool) -> Vec<u64> {
    rows(spool, &Wanted::default()).iter().map(|row| row.sequence).collect()
}

#[test]
fn a_segment_stays_when_it_has_left_and_says_who_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open_with(&dir, &[("a", SignalSet::ALL), ("b", SignalSet::ALL)]);
    assert_eq!(commit(&mut spool, 1, spans(5)), Applied::New);
    let names = |spool: &mut super::file::Spool| {
        let row = rows(spool, &Wanted::default()).remove(0);
        (row.backends.join(" "), row.waits_for.join(" "))
    };
    assert_eq!(names(&mut spool), (String::new(), "a b".to_owned()));
    next(&mut spool, "a", SignalSet::ALL, 1).unwrap();
    progress(&mut spool, "a", &done(place(1)));
    assert_eq!(names(&mut spool), ("a".to_owned(), "b".to_owned()));
    progress(&mut spool, "b", &done(place(1)));
    outlet::sweep(&mut spool).unwrap();
    assert_eq!(names(&mut spool), ("a b".to_owned(), String::new()));
    assert_eq!(commit(&mut spool, 1, spans(5)), Applied::Duplicate);
    assert_eq!(sequences(&mut spool), [1], "what comes again is there once");
    spool.close().unwrap();
    // A backend that is new in the configuration never had it, and does not get it.
    let mut spool = open_with(&dir, &[("a", SignalSet::ALL), ("c", SignalSet::ALL)]);
    assert_eq!(names(&mut spool), ("a".to_owned(), String::new()));
}

#[test]
fn the_oldest_go_when_there_are_too_many_and_when_their_time_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let with = |keep: Keep| Settings { catalogue: keep, ..settings(&dir, &[("a", SignalSet::ALL)]) };
    let env = perigee_shared::env::Env::production();
    let ten = Keep { bytes: 10 * 192, ..Keep::default() };
    let mut spool = super::file::Spool::open(&env, with(ten)).unwrap();
    for sequence in 1..=40 {
        commit(&mut spool, sequence, spans(1));
    }
    assert_eq!(sequences(&mut spool), (31..=40).rev().collect::<Vec<_>>());
    spool.close().unwrap();
    // A smaller bound is reached while commits go on.
    let mut spool = super::file::Spool::open(&env, with(Keep { bytes: 3 * 192, ..ten })).unwrap();
    for sequence in 41..=50 {
        commit(&mut spool, sequence, spans(1));
    }
    assert_eq!(sequences(&mut spool), [50, 49, 48]);
    spool.close().unwrap();
    let mut spool = super::file::Spool::open(&env, with(Keep { nano: 1, ..ten })).unwrap();
    commit(&mut spool, 51, spans(1));
    assert_eq!(sequences(&mut spool), [51]);
    spool.close().unwrap();
    let mut spool = super::file::Spool::open(&env, with(Keep { nano: 0, ..ten })).unwrap();
    commit(&mut spool, 52, spans(1));
    assert_eq!(sequences(&mut spool), [51], "nothing more is kept");
}

#[test]
fn a_spool_of_earlier_software_begins_with_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(&dir);
    for sequence in [1, 2] {
        commit(&mut spool, sequence, spans(sequence));
    }
    // Earlier software has no such table.
    let table = tables::CATALOGUE;
    assert!(spool.write(|txn| Ok(txn.tables.delete_table(table)?)).unwrap());
    assert!(sequences(&mut spool).is_empty(), "a file without it is read all the same");
    spool.close().unwrap();
    let mut spool = open(&dir);
    let all = rows(&mut spool, &Wanted::default());
    assert_eq!(all.iter().map(|row| row.sequence).collect::<Vec<_>>(), [2, 1]);
    assert!(all.iter().all(|row| row.committed_unix_nano > 0 && row.waits_for == ["a"]), "{all:?}");
    commit(&mut spool, 3, spans(3));
    assert_eq!(sequences(&mut spool), [3, 2, 1]);
}

#[test]
fn parts_follow_each_other_and_what_is_not_wanted_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(&dir);
    for sequence in 1..=7 {
        commit(&mut spool, sequence, spans(1));
    }
    let mut wanted = Wanted::default();
    let mut seen = Vec::new();
    loop {
        let part = spool.read(|view| list(view, &wanted, 3)).unwrap();
        seen.extend(part.rows.iter().map(|row| row.sequence));
        let Some(next) = part.next else { break };
        wanted.after = next.parse().ok();
    }
    assert_eq!(seen, (1..=7).rev().collect::<Vec<_>>());
    let other = Wanted { satellite: Some("sat-2".to_owned()), ..Wanted::default() };
    assert_eq!(rows(&mut spool, &other), []);
    let timed = Wanted { from: Some(1), ..Wanted::default() };
    assert_eq!(rows(&mut spool, &timed), [], "their times are not known");
}

/// A segment with these times.
fn timed(sequence: u64, start: u64, end: u64) -> Incoming {
    let (header, payload) = segment(sequence, spans(1), 0);
    let header = std::sync::Arc::new(Header { time: TimeRange { start, end }, ..(*header).clone() });
    let whole = 0..payload.len();
    incoming(&header, &payload, &[whole])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_behind_more_rows_than_one_step_looks_at_is_found_by_one_question() {
    const BEFORE_IT: u64 = 60_000;
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(&dir);
    apply(&mut spool, &[timed(1, 1_000, 2_000)]);
    apply(&mut spool, &[Incoming { satellite: "sat-2".into(), ..timed(1, 5_000, 6_000) }]);
    let many = spool.write(|txn| {
        let mut table = txn.tables.open_table(tables::CATALOGUE)?;
        let (number, record) =
            table.last()?.map(|(key, value)| (key.value(), value.value().to_vec())).unwrap();
        for n in 1..=BEFORE_IT {
            table.insert(number + n, record.as_slice())?;
        }
        Ok(())
    });
    many.unwrap();
    spool.close().unwrap();
    let env = perigee_shared::env::Env::production();
    let store = Store::open(&env, settings(&dir, &[("a", SignalSet::ALL)]), 0).unwrap();
    the_range_is_found(&store, BEFORE_IT as usize).await;
    store.close().await;
}

/// One segment of sat-1 has items from 1,000 to 2,000; the latest `many` and one are of sat-2 and later.
async fn the_range_is_found(store: &Store, many: usize) {
    let asked = async |satellite: Option<&str>, times: (u64, u64), limit| {
        let satellite = satellite.map(str::to_owned);
        let (from, until) = (Some(times.0), Some(times.1));
        let wanted = Wanted { satellite, from, until, ..Wanted::default() };
        let part = store.views().glance().await.unwrap().catalogue(wanted, limit).await.unwrap();
        (part.rows.into_iter().map(|row| row.satellite).collect::<Vec<_>>(), part.next.is_some())
    };
    let one = (vec!["sat-1".to_owned()], false);
    assert_eq!(asked(Some("sat-1"), (1_500, 1_600), 100).await, one);
    assert_eq!(asked(None, (1_500, 1_600), 100).await, one);
    assert_eq!(asked(Some("sat-1"), (2_001, 4_999), 100).await, (Vec::new(), false));
    assert_eq!(asked(Some("sat-3"), (0, u64::MAX), 100).await, (Vec::new(), false));
    let (rows, more) = asked(None, (5_500, 5_500), 100).await;
    assert!(rows.len() == 100 && more, "{}", rows.len());
    // Parts of a step go on in the next one, and each row is there once.
    let all = asked(None, (0, u64::MAX), many + 10).await;
    assert_eq!((all.0.len(), all.1), (many + 2, false));
    let before_last = asked(None, (0, u64::MAX), many + 1).await;
    assert_eq!((before_last.0.len(), before_last.1), (many + 1, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_behind_many_rows_of_the_shared_ledger_is_found_by_one_question() {
    const BEFORE_IT: u64 = 60_000;
    let Some(server) = ::fleet::shared() else { return };
    let database = super::fleet_tests::Database::on(server);
    let store = database.station("svalbard").await;
    for one in [timed(1, 1_000, 2_000), Incoming { satellite: "sat-2".into(), ..timed(1, 5_000, 6_000) }] {
        let taken = store.intake().put_payload(one).await.unwrap();
        assert_eq!(store.intake().commit(vec![taken]).await.unwrap(), [Applied::New]);
    }
    let more = format!(
        "insert into catalogue select sat, payload + n, committed + n, record from catalogue, \
         generate_series(1, {BEFORE_IT}) n where payload = (select payload from catalogue order by committed desc limit 1)"
    );
    server.sql(&database.fleet.database, &more);
    the_range_is_found(&store, BEFORE_IT as usize).await;
    let plan = "set enable_seqscan = off; explain select sat from catalogue where sat = 1 \
                and (committed, payload) < (5, 5) order by committed desc, payload desc limit 5";
    let plan = server.sql(&database.fleet.database, plan);
    assert!(plan.contains("catalogue_of"), "{plan}");
    store.close().await;
}

#[test]
fn services_are_read_within_bounds_whatever_a_request_says() {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
    use opentelemetry_proto::tonic::resource::v1::Resource;
    use opentelemetry_proto::tonic::trace::v1::ResourceSpans;
    use prost::Message;
    let resource = |name: String| ResourceSpans {
        resource: Some(Resource {
            attributes: vec![KeyValue {
                key: "service.name".to_owned(),
                value: Some(AnyValue { value: Some(Value::StringValue(name)) }),
                ..KeyValue::default()
            }],
            ..Resource::default()
        }),
        ..ResourceSpans::default()
    };
    let mut names = vec!["camera".to_owned(), format!("evil\u{1b}{}", "x".repeat(500))];
    names.extend((0..40).map(|n| format!("s{n}")));
    let request = ExportTraceServiceRequest { resource_spans: names.into_iter().map(resource).collect() };
    let mut services = Services::default();
    let body = request.encode_to_vec();
    services.look(&Request { signal: Signal::Traces, body: body.clone().into() });
    assert_eq!(services.0.len(), 16);
    assert!(services.0.contains("camera"));
    assert!(services.0.iter().all(|name| name.len() <= 63 && !name.contains(char::is_control)));
    for cut in 0..body.len().min(300) {
        Services::default().look(&Request { signal: Signal::Traces, body: body[..cut].to_vec().into() });
    }
}

over_both! {
    fn what_a_backend_refused_is_not_said_to_be_there(site) {
        let spool = site.open_with(&[("a", SignalSet::ALL), ("b", SignalSet::ALL)]);
        let letter = |items| Letter {
            signal: Signal::Traces,
            body: bytes::Bytes::from_static(b"refused"),
            items: spans(items),
            reason: "no".to_owned(),
        };
        // A worker has a lane once it has asked for what is in it.
        let pass = |exporter: &str, letters: Vec<Letter>| {
            let place = spool.next(exporter, SignalSet::ALL, 1).unwrap().place;
            spool.progress(exporter, &Progress { letters, ..done(place) });
        };
        for (sequence, refused) in [(1, vec![letter(2), letter(3)]), (2, vec![letter(2)])] {
            spool.commit(sequence, spans(5));
            pass("a", refused);
            pass("b", Vec::new());
        }
        spool.wait(spool.store.outlet().sweep());
        let said = || {
            let rows = async { spool.store.views().glance().await?.catalogue(Wanted::default(), 10).await };
            let said = |row: CatalogueView| (row.sequence, row.backends.join(" "), row.refused);
            spool.wait(rows).rows.into_iter().map(said).collect::<Vec<_>>()
        };
        let by_a = |items| [("a".to_owned(), items)].into();
        assert_eq!(said(), [(2, "a b".to_owned(), by_a(2)), (1, "b".to_owned(), by_a(5))]);
        // Once it was taken after all, it is there.
        let letters = spool.wait(spool.store.views().letters(0, 10));
        spool.wait(spool.store.replays().replayed(letters.iter().map(|letter| letter.id).collect(), None));
        assert_eq!(said(), [(2, "a b".to_owned(), [].into()), (1, "a b".to_owned(), [].into())]);
        // What does not decode is in no backend.
        spool.commit(3, spans(5));
        let place = spool.next("a", SignalSet::ALL, 1).unwrap().place;
        spool.wait(spool.store.outlet().condemn(place, "damaged".to_owned()));
        spool.commit(4, spans(5));
        pass("a", Vec::new());
        pass("b", Vec::new());
        assert_eq!(said()[1], (3, String::new(), [(UNDECODABLE.to_owned(), 5)].into()));
    }
}
