//! Whatever the walk accepts comes back, and whatever is not ours is refused.

use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::generate::{Generator, request};
use super::shape::{Element, Shapes};
use super::*;
use crate::memory::to_decode;
use crate::otlp::items::visit;
use crate::otlp::protobuf::put_bytes;
use crate::otlp::walk::walk;
use crate::segment::{Codec, Header};
use crate::signal::Counts;

type Requests = Vec<(Signal, Vec<u8>)>;

/// The requests of a payload that leans on `base`, or on nothing, and what others may lean on.
pub(super) fn decode(
    layout: u8,
    base: Option<&Base>,
    payload: &[u8],
    raw_len: u64,
) -> Result<(Vec<Request>, Base), CodecError> {
    let unpacked = Unpacked::new(layout, base, payload, raw_len, true, usize::MAX)?;
    let mut at = Cursor::default();
    let requests = std::iter::from_fn(|| unpacked.next(&mut at, usize::MAX)).collect::<Result<_, _>>()?;
    Ok((requests, Base::clone(unpacked.base())))
}

fn raw_len(requests: &Requests) -> u64 {
    requests.iter().map(|r| r.1.len() as u64).sum()
}

fn encode(base: Option<&Base>, requests: &Requests) -> (Vec<u8>, Base) {
    let mut encoder = Encoder::new(base);
    for (signal, body) in requests {
        walk(*signal, body).expect("the generator makes what the walk accepts");
        encoder.push(*signal, body).unwrap();
    }
    encoder.finish().unwrap()
}

/// Every item with what encloses it, sorted.
fn items<'a>(requests: impl IntoIterator<Item = (Signal, &'a [u8])>) -> Vec<(u8, u32, [Vec<u8>; 4])> {
    let mut all = Vec::new();
    for (signal, body) in requests {
        visit(signal, body, |i| {
            all.push((signal as u8, i.data, [i.resource, i.scope, i.metric, i.body].map(<[u8]>::to_vec)));
        })
        .unwrap();
    }
    all.sort();
    all
}

fn assert_same(requests: &Requests, back: &[Request]) {
    let given = items(requests.iter().map(|(s, b)| (*s, &b[..])));
    let found = items(back.iter().map(|r| (r.signal, &r.body[..])));
    assert_eq!(given.len(), found.len(), "so many items");
    for (given, found) in given.iter().zip(&found) {
        assert_eq!(given, found);
    }
    assert!(back.iter().map(|r| r.body.len() as u64).sum::<u64>() <= raw_len(requests));
}

fn requests(seed: u64) -> Requests {
    let mut generator = Generator::new(seed);
    let count = generator.rng.random_range(0..8);
    (0..count).map(|_| request(&mut generator)).collect()
}

proptest! {
    #[test]
    fn prop_every_item_comes_back_with_what_encloses_it(seed in any::<u64>()) {
        let requests = requests(seed);
        let (payload, _) = encode(None, &requests);
        let (back, _) = decode(LAYOUT, None, &payload, raw_len(&requests)).unwrap();
        assert_same(&requests, &back);
    }

    #[test]
    fn prop_pieces_hold_the_same_items_in_the_same_order(seed in any::<u64>(), piece in 1usize..3000) {
        let requests = requests(seed);
        let (payload, _) = encode(None, &requests);
        let raw_len = raw_len(&requests);
        let unpacked = Unpacked::new(LAYOUT, None, &payload[..], raw_len, false, usize::MAX).unwrap();
        let all = |piece| {
            let mut at = Cursor::default();
            std::iter::from_fn(|| unpacked.next(&mut at, piece)).collect::<Result<Vec<_>, _>>().unwrap()
        };
        let (whole, pieces) = (all(usize::MAX), all(piece));
        assert_same(&requests, &whole);
        let bodies = |of: &[Request]| {
            let mut out = Vec::new();
            for request in of {
                visit(request.signal, &request.body, |i| out.push((request.signal as u8, i.body.to_vec()))).unwrap();
            }
            out
        };
        prop_assert_eq!(bodies(&whole), bodies(&pieces));
        prop_assert_eq!(&all(piece), &pieces, "they are the same each time");
        // Each has one item more than fits at most, with what encloses it.
        for request in &pieces[..pieces.len() - unpacked.whole.len()] {
            let mut items = Vec::new();
            visit(request.signal, &request.body, |i| items.push(i.body.len())).unwrap();
            let before_last = items[..items.len() - 1].iter().sum::<usize>();
            prop_assert!(items.len() == 1 || before_last < piece, "{items:?} for {piece}");
        }
    }

    #[test]
    fn prop_segments_that_lean_on_one_another_come_back(seed in any::<u64>()) {
        let (mut base, mut known): (Option<Base>, Option<Base>) = (None, None);
        for n in 0..4 {
            // What came before comes again in part.
            let mut all = requests(seed);
            all.extend(requests(seed ^ n));
            let (payload, next) = encode(base.as_ref(), &all);
            let (back, learnt) = decode(LAYOUT, known.as_ref(), &payload, raw_len(&all)).unwrap();
            assert_same(&all, &back);
            // What a decoder has learnt is the same whether anything is built or not.
            let learnt = if n % 2 == 0 { learnt } else { learn(LAYOUT, known, &payload[..], raw_len(&all), usize::MAX).unwrap() };
            (base, known) = (Some(next), Some(learnt));
        }
    }

    #[test]
    fn prop_a_changed_payload_never_panics_and_never_yields_more_than_declared(
        seed in any::<u64>(), at in any::<prop::sample::Index>(), bit in 0u8..8,
    ) {
        let requests = requests(seed);
        let (mut payload, _) = encode(None, &requests);
        let at = at.index(payload.len());
        payload[at] ^= 1 << bit;
        if let Ok((back, _)) = decode(LAYOUT, None, &payload, raw_len(&requests)) {
            prop_assert!(back.iter().map(|r| r.body.len() as u64).sum::<u64>() <= raw_len(&requests));
        }
    }

    #[test]
    fn prop_noise_is_refused_or_small(noise in prop::collection::vec(any::<u8>(), 0..400), raw in 0u64..5000) {
        let mut payload = vec![LAYOUT];
        payload.extend(&noise);
        for payload in [&noise, &payload] {
            if let Ok((back, _)) = decode(LAYOUT, None, payload, raw) {
                prop_assert!(back.iter().map(|r| r.body.len() as u64).sum::<u64>() <= raw);
            }
        }
    }
}

#[test]
fn every_truncation_is_an_error() {
    let requests: Requests = (0..20).flat_map(requests).collect();
    let (payload, _) = encode(None, &requests);
    for cut in 0..payload.len() {
        assert!(
            decode(LAYOUT, None, &payload[..cut], raw_len(&requests)).is_err(),
            "cut at {cut} of {}",
            payload.len()
        );
    }
}

#[test]
fn a_segment_does_not_decode_without_what_it_leans_on() {
    let first: Requests = (0..10).flat_map(requests).collect();
    let (_, base) = encode(None, &first);
    let (payload, _) = encode(Some(&base), &first);
    let alone = decode(LAYOUT, None, &payload, raw_len(&first));
    let same = alone.is_ok_and(|(back, _)| {
        items(back.iter().map(|r| (r.signal, &r.body[..]))) == items(first.iter().map(|(s, b)| (*s, &b[..])))
    });
    assert!(!same);
}

#[test]
fn the_same_requests_give_the_same_bytes() {
    let requests: Requests = (0..20).flat_map(requests).collect();
    assert_eq!(encode(None, &requests).0, encode(None, &requests).0);
}

#[test]
fn nothing_at_all_is_a_segment_too() {
    let (payload, _) = encode(None, &Vec::new());
    assert!(decode(LAYOUT, None, &payload, 0).unwrap().0.is_empty());
    let empty = vec![(Signal::Logs, Vec::new())];
    let (payload, _) = encode(None, &empty);
    let (back, _) = decode(LAYOUT, None, &payload, 0).unwrap();
    assert_eq!(back, [Request { signal: Signal::Logs, body: Bytes::new() }]);
}

/// A request of spans, each given as trace, id and parent.
fn spans(of: &[(u8, u8, Option<u8>)]) -> Vec<u8> {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
    let span = |(trace, id, parent): &(u8, u8, Option<u8>)| Span {
        trace_id: vec![*trace; 16],
        span_id: vec![*id; 8],
        parent_span_id: parent.map_or(Vec::new(), |p| vec![p; 8]),
        name: "work".to_owned(),
        start_time_unix_nano: 1_700_000_000_000_000_000 + u64::from(*id),
        ..Span::default()
    };
    let scope_spans = vec![ScopeSpans { spans: of.iter().map(span).collect(), ..ScopeSpans::default() }];
    let resource_spans = vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }];
    prost::Message::encode_to_vec(&ExportTraceServiceRequest { resource_spans })
}

#[test]
fn spans_come_back_from_whatever_their_parents_are() {
    for of in [
        // Its own parent; two that are each other's; a ring of three with a tail.
        &[(1, 1, Some(1))][..],
        &[(1, 1, Some(2)), (1, 2, Some(1))],
        &[(1, 1, Some(3)), (1, 2, Some(1)), (1, 3, Some(2)), (1, 4, Some(3)), (1, 5, Some(4))],
        // Twice the same id; a parent of another trace; one that is not there, twice; the child first.
        &[(1, 1, None), (1, 1, None), (1, 2, Some(1))],
        &[(1, 1, None), (2, 2, Some(1))],
        &[(1, 2, Some(9)), (1, 3, Some(9)), (1, 9, None)],
        &[(1, 2, Some(9)), (1, 3, Some(9))],
    ] {
        let requests = vec![(Signal::Traces, spans(of))];
        let (payload, _) = encode(None, &requests);
        let (back, _) = decode(LAYOUT, None, &payload, raw_len(&requests)).unwrap();
        assert_same(&requests, &back);
    }
    let deep: Vec<_> = (0..=255).map(|n: u8| (1, n, n.checked_sub(1))).collect();
    let requests = vec![(Signal::Traces, spans(&deep))];
    let (payload, _) = encode(None, &requests);
    assert_same(&requests, &decode(LAYOUT, None, &payload, raw_len(&requests)).unwrap().0);
}

/// A request of log records, each with an attribute of a key of its own.
fn logs_with_keys(keys: std::ops::Range<u32>) -> Vec<u8> {
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
    use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
    let record = |n: u32| {
        let value = Some(AnyValue { value: Some(Value::IntValue(i64::from(n))) });
        LogRecord {
            attributes: vec![KeyValue { key: format!("key{n}"), value, ..KeyValue::default() }],
            ..LogRecord::default()
        }
    };
    let scope_logs = vec![ScopeLogs { log_records: keys.map(record).collect(), ..ScopeLogs::default() }];
    let resource_logs = vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }];
    prost::Message::encode_to_vec(&ExportLogsServiceRequest { resource_logs })
}

#[test]
fn more_keys_and_shapes_than_are_kept_come_back_too() {
    let requests: Requests =
        (0..4).map(|n| (Signal::Logs, logs_with_keys(n * 5000..(n + 1) * 5000))).collect();
    let (payload, base) = encode(None, &requests);
    let (back, known) = decode(LAYOUT, None, &payload, raw_len(&requests)).unwrap();
    assert_same(&requests, &back);
    assert!(base.size() < 32 << 20, "{} bytes", base.size());
    let (payload, _) = encode(Some(&base), &requests);
    assert_same(&requests, &decode(LAYOUT, Some(&known), &payload, raw_len(&requests)).unwrap().0);
}

#[test]
fn more_places_than_there_are_slots_come_back_too() {
    // Subsets of forty keys, each a shape of its own, with values that are new all the time: slots are shared by places that
    // have nothing to do with one another.
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
    use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
    let mut rng = SmallRng::seed_from_u64(3);
    let mut record = |n: u64| {
        let mut attributes = Vec::new();
        for key in 0..40u64 {
            if rng.random_range(0..4) == 0 {
                // Some keys have few values, some have many.
                let value = if key % 2 == 0 { key + n % 3 } else { rng.random_range(0..1 << key) };
                let value = Some(AnyValue { value: Some(Value::IntValue(value as i64)) });
                attributes.push(KeyValue { key: format!("key{key}"), value, ..KeyValue::default() });
            }
        }
        LogRecord { attributes, ..LogRecord::default() }
    };
    let log_records: Vec<_> = (0..6000).map(&mut record).collect();
    let scope_logs = vec![ScopeLogs { log_records, ..ScopeLogs::default() }];
    let logs = ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }],
    };
    let requests = vec![(Signal::Logs, prost::Message::encode_to_vec(&logs))];
    let (payload, _) = encode(None, &requests);
    assert_same(&requests, &decode(LAYOUT, None, &payload, raw_len(&requests)).unwrap().0);
}

#[test]
fn declared_sizes_take_no_memory() {
    // Text of 2^60 bytes, and more columns than there are bytes.
    for declared in [&[LAYOUT, 0, 0, 1][..], &[LAYOUT, 0, 0]] {
        let mut payload = declared.to_vec();
        put_varint(&mut payload, 1 << 60);
        assert!(decode(LAYOUT, None, &payload, 1 << 20).is_err());
    }
    // A zstd frame that unpacks to more than its column.
    let mut payload = vec![LAYOUT, 0, 0, 1, 10];
    payload.extend(zstd::bulk::compress(&vec![0; 1 << 24], 3).unwrap());
    assert!(matches!(decode(LAYOUT, None, &payload, 1 << 20), Err(CodecError::TooLarge(_))));
}

fn field(number: u32, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, number, body);
    out
}

/// Whatever a request is full of, an encoder that is bounded refuses it before it takes much more.
#[test]
fn an_encoder_holds_no_more_than_it_may() {
    let in_scope = |items: Vec<u8>| field(1, &field(2, &items));
    let empty = in_scope(field(2, b"").repeat(100_000));
    let text = |n: u32| field(5, &field(1, format!("line {n}").as_bytes()));
    let lines = in_scope((0..5_000).flat_map(|n| field(2, &text(n))).collect());
    let attribute =
        |n: u32| field(9, &[field(1, format!("k{n}").as_bytes()), field(2, &field(1, b"v"))].concat());
    let attributes = in_scope(field(2, &(0..5_000).flat_map(attribute).collect::<Vec<_>>()));
    let scope = |n: u32| field(2, &[field(1, &field(1, format!("s{n}").as_bytes())), field(2, b"")].concat());
    let scopes = field(1, &(0..5_000).flat_map(scope).collect::<Vec<_>>());
    let whole = field(1, &vec![8; 1_000_000]);
    let each = [
        (Signal::Traces, empty),
        (Signal::Logs, lines),
        (Signal::Traces, attributes),
        (Signal::Traces, scopes),
        (Signal::Traces, whole),
    ];
    for (signal, body) in each {
        let mut free = Encoder::new(None);
        free.push(signal, &body).unwrap();
        assert!(free.finish().is_ok());
        let mut bounded = Encoder::new(None);
        bounded.bound(1_000_000);
        assert!(matches!(bounded.push(signal, &body), Err(CodecError::TooLarge(_))), "{signal}");
        let rows: usize = bounded.shredder.rows.iter().map(Vec::len).sum();
        assert!(rows < 100_000 && bounded.shredder.tape.len() < 5_000, "it went on");
    }
}

/// What is in a payload takes many times its length once it is decoded. A decoder stops before it holds more than it may, and is given
/// enough by whoever goes by the header.
#[test]
fn a_decoder_holds_no_more_than_it_may() {
    let many = |count, one: &dyn Fn(u32) -> Vec<u8>| (0..count).flat_map(one).collect::<Vec<u8>>();
    let in_scope = |items: Vec<u8>| field(1, &field(2, &items));
    let name = |kind: &str, n: u32| field(1, format!("{kind}{n}").as_bytes());
    let gauge = field(5, &field(1, &[]));
    let attribute = |n| field(9, &[name("k", n), field(2, &field(1, b"v"))].concat());
    let resource = |n| field(1, &[field(1, &field(1, &name("r", n))), field(2, &field(2, b""))].concat());
    let scope = |n| field(2, &[field(1, &name("s", n)), field(2, b"")].concat());
    let each = [
        (
            Signal::Metrics,
            60_000,
            in_scope(many(60_000, &|n| field(2, &[name("m", n), gauge.clone()].concat()))),
        ),
        (Signal::Logs, 400_000, in_scope(field(2, b"").repeat(400_000))),
        (Signal::Traces, 1, in_scope(field(2, &field(11, &field(2, b"e")).repeat(400_000)))),
        (Signal::Traces, 1, in_scope(field(2, &many(30_000, &attribute)))),
        (Signal::Traces, 20_000, many(20_000, &resource)),
        (Signal::Traces, 20_000, field(1, &many(20_000, &scope))),
    ];
    for (signal, count, body) in each {
        let mut encoder = Encoder::new(None);
        encoder.push(signal, &body).unwrap();
        let (payload, _) = encoder.finish().unwrap();
        let within = |memory| Unpacked::new(LAYOUT, None, &payload[..], body.len() as u64, true, memory);
        let header = Header::of_test(
            Codec::Columns,
            payload.len() as u64,
            body.len() as u64,
            Counts::of(signal, count),
        );
        let told = to_decode(&header) as usize;
        assert!(within(3 * told).is_ok(), "{signal}: it needs more than three times {told}");
        assert!(matches!(within(1 << 20), Err(CodecError::TakesMemory)), "{signal}: it takes a mebibyte");
    }
}

#[test]
fn messages_inside_one_another_without_end_are_refused() {
    // Shapes that each hold the one before: a decoder that followed them would run out of its stack.
    let mut writer = {
        let state = State::new();
        Writer::new(LAYOUT, Vocabulary::new(&state.dictionaries, Places::of(&state).entries))
    };
    let mut state = State::new();
    state.begin(u64::MAX, usize::MAX, LAYOUT);
    let mut shapes = Shapes::default();
    let mut inner = shapes.number(Message::Event, &[], |_| dictionary::Purpose::Other);
    for _ in 0..5000 {
        inner = shapes.number(Message::Event, &[Element::One(11, inner)], |_| dictionary::Purpose::Other);
    }
    let kinds: Vec<_> = state.dictionaries.iter().map(|d| d.kind.clone()).collect();
    assert!(
        state.definitions(&mut writer, &kinds, &shapes, &[]).is_err(),
        "the encoder does not make them either"
    );
    let payload = writer.finish().unwrap();
    assert!(decode(LAYOUT, None, &payload, 1 << 20).is_err());
}

#[test]
fn shared_ids_cost_a_log_little() {
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
    use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
    let mut rng = SmallRng::seed_from_u64(7);
    let (mut of, mut log_records) = (Vec::new(), Vec::new());
    for n in 0..200u8 {
        of.push((n, n, None));
        log_records.push(LogRecord {
            trace_id: vec![n; 16],
            span_id: vec![n; 8],
            time_unix_nano: 1_700_000_000_000_000_000 + rng.random_range(0..1000),
            ..LogRecord::default()
        });
    }
    let scope_logs = vec![ScopeLogs { log_records, ..ScopeLogs::default() }];
    let logs = ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }],
    };
    let logs = (Signal::Logs, prost::Message::encode_to_vec(&logs));
    let spans = (Signal::Traces, spans(&of));
    let (alone, together) = (encode(None, &vec![spans.clone()]).0, encode(None, &vec![logs, spans]).0);
    assert!(together.len() - alone.len() < 200 * 4, "{} and {}", alone.len(), together.len());
}

/// What belongs to spans of the segment stands behind them inside; of one time it may change places.
#[test]
fn logs_come_by_their_times_and_those_of_one_time_without_spans_in_their_order() {
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
    use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
    use prost::Message as _;
    let mut rng = SmallRng::seed_from_u64(8);
    for of_spans in [false, true] {
        let spans = spans(&(0..60u8).map(|n| (n, n, None)).collect::<Vec<_>>());
        let time = |n: u64| if of_spans { n } else { n % 100 };
        let mut record = |n: u64| {
            let span = if of_spans { vec![rng.random_range(0..120u8)] } else { Vec::new() };
            LogRecord {
                trace_id: span.repeat(16),
                span_id: span.repeat(8),
                time_unix_nano: time(n) + 1,
                severity_text: n.to_string(),
                ..LogRecord::default()
            }
        };
        let mut numbers: Vec<u64> = (0..400).map(|n| n * 7919 % 1000).collect();
        let log_records = numbers.iter().map(|n| record(*n)).collect();
        let scope_logs = vec![ScopeLogs { log_records, ..ScopeLogs::default() }];
        let resource_logs = vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }];
        let logs = ExportLogsServiceRequest { resource_logs }.encode_to_vec();
        let requests = vec![(Signal::Logs, logs), (Signal::Traces, spans)];
        let payload = encode(None, &requests).0;
        let back = decode(LAYOUT, None, &payload, raw_len(&requests)).unwrap().0;
        let logs = back.into_iter().filter(|r| r.signal == Signal::Logs);
        let resources = logs.flat_map(|r| ExportLogsServiceRequest::decode(r.body).unwrap().resource_logs);
        let records = resources.flat_map(|r| r.scope_logs).flat_map(|s| s.log_records);
        let found: Vec<u64> = records.map(|r| r.severity_text.parse().unwrap()).collect();
        numbers.sort_by_key(|n| time(*n));
        assert_eq!(found, numbers);
    }
}

/// Inputs of the fuzz target `columns`: the declared raw length, u32 LE, and a payload.
fn fuzz_corpus() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus/columns")
}

/// What an input comes to, as a line of `tests/fuzz/corpus/columns.expected` has it.
fn outcome(input: &[u8]) -> String {
    let Some((length, payload)) = input.split_first_chunk() else { return "too short".to_owned() };
    match decode(LAYOUT, None, payload, u64::from(u32::from_le_bytes(*length))) {
        Ok((back, _)) => {
            let mut hasher = blake3::Hasher::new();
            for request in &back {
                hasher.update(&[request.signal as u8]).update(&(request.body.len() as u64).to_le_bytes());
                hasher.update(&request.body);
            }
            let items: u64 =
                back.iter().map(|r| walk(r.signal, &r.body).map_or(0, |walked| walked.items)).sum();
            format!("{} requests, {items} items, {}", back.len(), hasher.finalize().to_hex())
        }
        Err(CodecError::Damaged(_)) => "damaged".to_owned(),
        Err(CodecError::Zstd(_)) => "zstd".to_owned(),
        Err(CodecError::TooLarge(_)) => "too large".to_owned(),
        Err(other) => panic!("not an answer to a payload: {other}"),
    }
}

#[test]
fn text_of_several_mebibytes_comes_back_without_being_held_at_once() {
    let mut generator = SmallRng::seed_from_u64(7);
    let mut attribute = |key: &str| {
        let text: Vec<u8> = (0..40_000).map(|_| generator.random_range(b'a'..=b'z')).collect();
        let (mut any, mut out) = (Vec::new(), Vec::new());
        put_bytes(&mut any, 1, &text);
        put_bytes(&mut out, 1, key.as_bytes());
        put_bytes(&mut out, 2, &any);
        out
    };
    // Two large columns, with small ones around them.
    let (mut scope, mut resource, mut request) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..120u8 {
        let mut span = Vec::new();
        put_bytes(&mut span, 1, &[n + 1; 16]);
        put_bytes(&mut span, 2, &[n + 1; 8]);
        put_bytes(&mut span, 5, format!("name-{n}").as_bytes());
        for key in ["a", "b"] {
            put_bytes(&mut span, 9, &attribute(key));
        }
        put_bytes(&mut scope, 2, &span);
    }
    put_bytes(&mut resource, 2, &scope);
    put_bytes(&mut request, 1, &resource);
    let requests = vec![(Signal::Traces, request)];
    let (payload, _) = encode(None, &requests);
    assert_same(&requests, &decode(LAYOUT, None, &payload, raw_len(&requests)).unwrap().0);
    for cut in (0..payload.len()).step_by(payload.len() / 40) {
        assert!(decode(LAYOUT, None, &payload[..cut], raw_len(&requests)).is_err(), "cut at {cut}");
    }
}

/// The file is never written by a test: a line that differs is a payload that is read otherwise than before.
#[test]
fn every_input_of_the_fuzz_corpus_comes_to_what_it_always_did() {
    let expected = std::fs::read_to_string(fuzz_corpus().with_extension("expected")).unwrap();
    let mut found = Vec::new();
    for entry in std::fs::read_dir(fuzz_corpus()).unwrap() {
        let entry = entry.unwrap();
        let outcome = outcome(&std::fs::read(entry.path()).unwrap());
        found.push(format!("{}: {outcome}", entry.file_name().display()));
    }
    found.sort();
    let found = found.join("\n");
    assert_eq!(found, expected.trim_end(), "what was found:\n{found}");
}

#[test]
fn every_input_of_the_fuzz_corpus_is_decoded_or_refused() {
    let mut decoded = 0;
    let mut files: Vec<_> = std::fs::read_dir(fuzz_corpus()).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    for file in &files {
        let input = std::fs::read(file).unwrap();
        let Some((length, payload)) = input.split_first_chunk() else { continue };
        let raw_len = u64::from(u32::from_le_bytes(*length));
        if let Ok((back, _)) = decode(LAYOUT, None, payload, raw_len) {
            decoded += 1;
            let total = back.iter().map(|r| r.body.len() as u64).sum::<u64>();
            assert!(total <= raw_len, "{}", file.display());
            // Not all of it is OTLP; what it is comes back all the same.
            let mut encoder = Encoder::new(None);
            back.iter().for_each(|r| encoder.push(r.signal, &r.body).unwrap());
            let again = encoder.finish().unwrap().0;
            let back =
                decode(LAYOUT, None, &again, total).unwrap_or_else(|e| panic!("{}: {e}", file.display())).0;
            assert!(back.iter().map(|r| r.body.len() as u64).sum::<u64>() <= total, "{}", file.display());
        }
    }
    assert!(decoded >= 16 && files.len() > decoded, "{decoded} of {} inputs are payloads", files.len());
}

#[test]
#[ignore = "adds seeds to tests/fuzz/corpus/columns, for another layout"]
fn write_seeds_for_the_fuzz_corpus() {
    for seed in 0..24u64 {
        let requests: Requests = (0..4).flat_map(|n| requests(seed * 4 + n)).collect();
        let (mut payload, _) = encode(None, &requests);
        if seed >= 20 {
            // A few that are damaged.
            let at = payload.len() / 2;
            payload[at] ^= 0x55;
            payload.truncate(payload.len() - seed as usize % 4);
        }
        let mut input = (raw_len(&requests) as u32).to_le_bytes().to_vec();
        input.extend(payload);
        // Seeds of earlier layouts stay: they have to be read, or refused, as ever.
        let path = fuzz_corpus().join(format!("layout-{LAYOUT}-seed-{seed:02}"));
        let mut file = std::fs::File::create_new(path).unwrap();
        std::io::Write::write_all(&mut file, &input).unwrap();
    }
}
