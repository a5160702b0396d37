//! Codecs 3 to 8: whatever text there is comes back byte by byte, and whatever is not ours is refused.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::generate::{Generator, request};
use super::tests::decode;
use super::*;

const NOON: u64 = 1_795_674_323_000_000_000;

fn logs(bodies: impl IntoIterator<Item = String>) -> (Signal, Vec<u8>) {
    let record = |(n, body): (usize, String)| LogRecord {
        time_unix_nano: NOON + n as u64 * 1_000_003,
        body: Some(AnyValue { value: Some(Value::StringValue(body)) }),
        ..LogRecord::default()
    };
    let log_records = bodies.into_iter().enumerate().map(record).collect();
    let scope_logs = vec![ScopeLogs { log_records, ..ScopeLogs::default() }];
    let resource_logs = vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }];
    (Signal::Logs, prost::Message::encode_to_vec(&ExportLogsServiceRequest { resource_logs }))
}

const LAYOUTS: [u8; 6] =
    [LAYOUT_TOKENS, LAYOUT_CHAINS, LAYOUT_NEAR, LAYOUT_RECENT, LAYOUT_STEPS, LAYOUT_TEXT];

fn encode(layout: u8, base: Option<&Base>, requests: &[(Signal, Vec<u8>)]) -> (Vec<u8>, Base) {
    let mut encoder = Encoder::of(layout, base);
    for (signal, body) in requests {
        encoder.push(*signal, body).unwrap();
    }
    encoder.finish().unwrap()
}

fn raw_len(requests: &[(Signal, Vec<u8>)]) -> u64 {
    requests.iter().map(|r| r.1.len() as u64).sum()
}

fn items<'a>(requests: impl IntoIterator<Item = (Signal, &'a [u8])>) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (signal, body) in requests {
        crate::otlp::items::visit(signal, body, |i| {
            all.push([i.resource, i.scope, i.metric, i.body].concat())
        })
        .unwrap();
    }
    all.sort();
    all
}

fn assert_same(given: &[(Signal, Vec<u8>)], back: &[Request]) {
    let given = items(given.iter().map(|(s, b)| (*s, &b[..])));
    let back = items(back.iter().map(|r| (r.signal, &r.body[..])));
    assert_eq!(given.len(), back.len(), "so many items");
    for (given, back) in given.iter().zip(&back) {
        assert_eq!(String::from_utf8_lossy(given), String::from_utf8_lossy(back));
        assert_eq!(given, back);
    }
}

/// The payload, once what is in it has been compared with what was put in; and the base that both sides end with.
fn there_and_back(
    layout: u8,
    base: Option<&[Base; 2]>,
    requests: &[(Signal, Vec<u8>)],
) -> (Vec<u8>, [Base; 2]) {
    let (payload, given) = encode(layout, base.map(|b| &b[0]), requests);
    let (back, learnt) = decode(layout, base.map(|b| &b[1]), &payload, raw_len(requests)).unwrap();
    assert_same(requests, &back);
    (payload, [given, learnt])
}

/// A line of a few templates with values of every kind, some of them in no form that a kind has.
fn line(rng: &mut SmallRng) -> String {
    let pick = |rng: &mut SmallRng, of: &[&str]| of[rng.random_range(0..of.len())].to_owned();
    let odd = [
        "007",
        "1e400",
        "-0",
        "0x1F",
        "2026-02-30",
        "",
        "\u{0}",
        "é\r\n\t at x.y(Z.java:12)",
        "FFfe01",
        "1.2.3.256",
    ];
    let value = match rng.random_range(0..15) {
        0 => rng.random_range(0..1_000_000u64).to_string(),
        1 => format!("{:032x}", rng.random::<u128>()),
        2 => format!("{:016x}", rng.random_range(0..40u64)),
        3 => format!("2026-11-26T12:25:2{}.{:03}Z", rng.random_range(0..10), rng.random_range(0..1000)),
        4 => format!("17956743{:02}.{}", rng.random_range(0..100), rng.random_range(0..1_000_000)),
        5 => format!("10.0.{}.{}:80", rng.random_range(0..4), rng.random_range(0..300)),
        6 => format!("{:08x}-0000-4000-8000-{:012X}", rng.random::<u32>(), rng.random_range(0..99u64)),
        7 => format!("{}ms", f64::from(rng.random_range(0..99_999)) / 1000.0),
        8 => format!(
            "/v1/{}/{}?page={}",
            pick(rng, &["cart", "user"]),
            rng.random_range(0..50),
            rng.random_range(0..9)
        ),
        9 => format!("Nov {:2} 06:25:{:02}", rng.random_range(0..40), rng.random_range(0..70)),
        10 => rng.random::<u64>().to_string(),
        11 => (140_000_000_000_000 + rng.random_range(0..4u64) * 8_388_608).to_string(),
        12 => (0xffff_0000 - 2 + rng.random_range(0..4u64) * 0x7fff).to_string(),
        13 => (0..rng.random_range(0..90)).map(|_| rng.random_range(' '..'\u{7f}')).collect(),
        _ => pick(rng, &odd),
    };
    match rng.random_range(0..4) {
        0 => format!("{{\"level\":\"info\",\"msg\":\"took {value}\",\"in\":{{\"n\":[1,{value}]}}}}"),
        1 => format!("level=warn msg=\"{value}\" n={value}"),
        2 => format!("{value} of {value}"),
        _ => value,
    }
}

fn lines(seed: u64, count: usize) -> (Signal, Vec<u8>) {
    let mut rng = SmallRng::seed_from_u64(seed);
    logs((0..count).map(|_| line(&mut rng)))
}

proptest! {
    #[test]
    fn prop_text_comes_back_in_segments_that_lean_on_one_another(seed in any::<u64>()) {
        let mut generator = Generator::new(seed);
        let mut base = None;
        for (n, layout) in [LAYOUT_TEXT, LAYOUT_TEXT, LAYOUT_TOKENS, LAYOUT_NEAR, LAYOUT_CHAINS, LAYOUT_TEXT, LAYOUT_RECENT, LAYOUT_STEPS, LAYOUT_RECENT, LAYOUT_TEXT].into_iter().enumerate() {
            let requests = [lines(seed ^ n as u64, 60), request(&mut generator), lines(seed, 20)];
            base = Some(there_and_back(layout, base.as_ref(), &requests).1);
        }
    }

    #[test]
    fn prop_any_text_comes_back(bodies in prop::collection::vec("\\PC{0,40}|[0-9a-f:. -]{0,60}|(?s).{0,20}", 0..30)) {
        for layout in LAYOUTS {
            there_and_back(layout, None, &[logs(bodies.clone())]);
        }
    }

    #[test]
    fn prop_changed_text_never_panics_and_never_yields_more_than_declared(
        seed in any::<u64>(), at in any::<prop::sample::Index>(), bit in 0u8..8, which in 0..LAYOUTS.len(),
    ) {
        let (layout, requests) = (LAYOUTS[which], [lines(seed, 40), lines(seed, 40)]);
        let (mut payload, _) = encode(layout, None, &requests);
        let at = at.index(payload.len());
        payload[at] ^= 1 << bit;
        if let Ok((back, _)) = decode(layout, None, &payload, raw_len(&requests)) {
            prop_assert!(back.iter().map(|r| r.body.len() as u64).sum::<u64>() <= raw_len(&requests));
        }
    }
}

#[test]
fn every_truncation_of_text_is_an_error() {
    let requests = [lines(5, 120)];
    for layout in LAYOUTS {
        let (payload, _) = encode(layout, None, &requests);
        for cut in 0..payload.len() {
            let back = decode(layout, None, &payload[..cut], raw_len(&requests));
            assert!(back.is_err(), "layout {layout}, cut at {cut}");
        }
    }
}

#[test]
fn a_codec_does_not_read_the_layout_of_another() {
    let requests = [lines(6, 10)];
    for (layout, other) in [
        (LAYOUT_TEXT, LAYOUT),
        (LAYOUT_TEXT, LAYOUT_CHAINS),
        (LAYOUT_TEXT, LAYOUT_NEAR),
        (LAYOUT_TEXT, LAYOUT_RECENT),
        (LAYOUT_TEXT, LAYOUT_STEPS),
        (LAYOUT_STEPS, LAYOUT_TEXT),
        (LAYOUT_RECENT, LAYOUT_TEXT),
        (LAYOUT_NEAR, LAYOUT_TEXT),
        (LAYOUT_CHAINS, LAYOUT_TEXT),
        (LAYOUT_TOKENS, LAYOUT_TEXT),
    ] {
        let (payload, _) = encode(layout, None, &requests);
        assert!(decode(other, None, &payload, raw_len(&requests)).is_err());
    }
}

#[test]
fn codecs_2_to_8_lean_on_one_another() {
    let all = [lines(1, 50), lines(2, 50)];
    let mut base: Option<[Base; 2]> = None;
    for layout in [
        LAYOUT,
        LAYOUT_CHAINS,
        LAYOUT_TEXT,
        LAYOUT_NEAR,
        LAYOUT_RECENT,
        LAYOUT_STEPS,
        LAYOUT_TOKENS,
        LAYOUT_RECENT,
        LAYOUT_TEXT,
        LAYOUT_STEPS,
        LAYOUT_TEXT,
        LAYOUT_CHAINS,
        LAYOUT,
        LAYOUT_TOKENS,
    ] {
        let mut encoder = Encoder::of(layout, base.as_ref().map(|b| &b[0]));
        all.iter().for_each(|(signal, body)| encoder.push(*signal, body).unwrap());
        let (payload, given) = encoder.finish().unwrap();
        let (back, learnt) = decode(layout, base.as_ref().map(|b| &b[1]), &payload, raw_len(&all)).unwrap();
        assert_same(&all, &back);
        base = Some([given, learnt]);
    }
}

/// A text with a NUL where a known pattern has a number came back from codec 2 with a 0 there.
#[test]
fn a_nul_is_not_taken_for_a_number() {
    let all = [logs((0..40).map(|n| format!("n={n}")).chain(["n=\u{0}".to_owned()]))];
    for layout in [LAYOUT].into_iter().chain(LAYOUTS) {
        let mut encoder = Encoder::of(layout, None);
        all.iter().for_each(|(signal, body)| encoder.push(*signal, body).unwrap());
        let payload = encoder.finish().unwrap().0;
        assert_same(&all, &decode(layout, None, &payload, raw_len(&all)).unwrap().0);
    }
}

#[test]
fn an_id_in_text_costs_little_beside_its_span() {
    let mut rng = SmallRng::seed_from_u64(9);
    let ids: Vec<(u128, u64)> = (0..300).map(|_| (rng.random(), rng.random())).collect();
    let span = |(n, (trace, id)): (usize, &(u128, u64))| Span {
        trace_id: trace.to_be_bytes().to_vec(),
        span_id: id.to_be_bytes().to_vec(),
        name: "work".to_owned(),
        start_time_unix_nano: NOON + n as u64 * 1_000_000,
        ..Span::default()
    };
    let scope_spans =
        vec![ScopeSpans { spans: ids.iter().enumerate().map(span).collect(), ..ScopeSpans::default() }];
    let resource_spans = vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }];
    let spans =
        (Signal::Traces, prost::Message::encode_to_vec(&ExportTraceServiceRequest { resource_spans }));
    let text = logs(ids.iter().map(|(trace, id)| format!("done trace_id={trace:032x} span_id={id:016x}")));
    let alone = there_and_back(LAYOUT_TEXT, None, std::slice::from_ref(&spans)).0.len();
    let both = there_and_back(LAYOUT_TEXT, None, &[text.clone(), spans]).0.len();
    let text = there_and_back(LAYOUT_TEXT, None, &[text]).0.len();
    assert!(text > 300 * 24, "{text}: ids are random");
    assert!(both - alone < 300 * 4, "{alone} alone, {both} with text");
}

#[test]
fn hostile_text_is_bounded() {
    let mut rng = SmallRng::seed_from_u64(4);
    let mut noise = |length: usize| (0..length).map(|_| rng.random_range('!'..'~')).collect::<String>();
    // A template of its own for each line; one line of a megabyte; brackets without end.
    let templates = (0..20_000).map(|_| noise(60)).collect::<Vec<_>>();
    let all = [logs(templates), logs([noise(1 << 20)]), logs(["[{\"a\":".repeat(10_000)])];
    let (payload, [base, _]) = there_and_back(LAYOUT_TEXT, None, &all);
    let plain = {
        let mut encoder = Encoder::new(None);
        all.iter().for_each(|(signal, body)| encoder.push(*signal, body).unwrap());
        encoder.finish().unwrap().0
    };
    assert!(
        payload.len() as f64 <= plain.len() as f64 * 1.01,
        "{} bytes, {} in codec 2",
        payload.len(),
        plain.len()
    );
    assert!(base.size() < 16 << 20, "{} bytes", base.size());
}

/// More templates than chains are kept: what was learnt is forgotten on both sides alike.
#[test]
fn long_text_that_does_not_fit_costs_what_it_costs_in_codec_2() {
    let mut rng = SmallRng::seed_from_u64(9);
    let mut of = |piece: &[&str], length: usize| {
        let pieces = std::iter::repeat_with(|| piece[rng.random_range(0..piece.len())]);
        let mut line: String = pieces.take(length).collect();
        line.truncate(length);
        line
    };
    for (pieces, length) in
        [(&["a1 ", "b2 ", "1 ", "2 "][..], 4_000), (&["\\", "\"", "1", " "], 60_000), (&["A"], 60_000)]
    {
        let request = logs((0..40).map(|_| of(pieces, length)));
        let sizes =
            [LAYOUT, LAYOUT_TEXT].map(|layout| encode(layout, None, std::slice::from_ref(&request)).0.len());
        assert!(sizes[1] * 100 <= sizes[0] * 106, "{pieces:?}: {sizes:?}");
        assert!(length < 10_000 || sizes[1] * 100 <= sizes[0] * 101, "{pieces:?}: {sizes:?}");
    }
}

/// As the ids of threads, where lines of several are mixed.
#[test]
fn a_large_number_that_recurs_costs_little() {
    let mut rng = SmallRng::seed_from_u64(14);
    let mut thread = || 140_088_109_414_080 + rng.random_range(0..6u64) * 8_388_608;
    let request = logs((0..3_000).map(|n| match n % 2 {
        0 => format!("INFO server 4704 {} request {}", thread(), n),
        _ => format!("DEBUG utils 4704 {} took {} ms", thread(), n * 37 % 1_000),
    }));
    let [before, now] = [LAYOUT_STEPS, LAYOUT_TEXT]
        .map(|layout| there_and_back(layout, None, std::slice::from_ref(&request)).0.len());
    assert!(now * 10 < before * 7, "{now} bytes, {before} in codec 7");
}

#[test]
fn templates_without_end_come_back() {
    let mut rng = SmallRng::seed_from_u64(11);
    let words: Vec<String> = (0..60).map(|n| format!("word{}", "abcdefghij".repeat(n % 3 + 1))).collect();
    let mut line = |n: usize| {
        let template = (0..6).map(|_| words[rng.random_range(0..words.len())].as_str());
        format!("{} {n} {}", template.collect::<Vec<_>>().join(" "), words[n % 60])
    };
    let all = [logs((0..20_000).map(&mut line))];
    let (_, base) = there_and_back(LAYOUT_TEXT, None, &all);
    there_and_back(LAYOUT_TEXT, Some(&base), &[logs((0..200).map(line))]);
}

/// Lines that say again what an earlier one said of the same thing cost a decision, not their values.
#[test]
fn a_line_that_ends_as_another_did_costs_little() {
    let mut rng = SmallRng::seed_from_u64(12);
    let states = ["half-installed", "unpacked", "half-configured", "installed"];
    let mut package = |n: usize| {
        let version =
            format!("{}.{}.{}", rng.random_range(0..99), rng.random_range(0..99), rng.random::<u16>());
        states.map(|state| format!("status {state} lib{}{n}:amd64 {version}", (b'a' + n as u8 % 26) as char))
    };
    let all = [logs((0..400).flat_map(&mut package))];
    let [tokens, .., text] = LAYOUTS.map(|layout| there_and_back(layout, None, &all).0.len());
    assert!(text < tokens * 9 / 10, "{text} bytes, {tokens} without");
}

/// Behind a path every shape of which was a template, what is fixed was paid for again.
#[test]
fn what_stands_behind_a_path_of_any_shape_is_one_place() {
    let mut rng = SmallRng::seed_from_u64(13);
    let words = ["static", "api", "v2", "users", "img", "a-b", "list.html", "x_y", "search", "docs"];
    let mut request = |_| {
        let path: Vec<&str> =
            (0..rng.random_range(1..6)).map(|_| words[rng.random_range(0..words.len())]).collect();
        let agent = rng.random_range(100..120);
        format!(
            "\"GET /{} HTTP/1.1\" 200 {} \"Mozilla/5.0 (X11; rv:{agent}.0) Gecko/20100101 Firefox/{agent}.0\"",
            path.join("/"),
            path.len() * 321,
        )
    };
    let all = [logs((0..2000).map(&mut request))];
    let [_, chains, _, recent, _, text] = LAYOUTS.map(|layout| there_and_back(layout, None, &all).0.len());
    let plain = encode(LAYOUT, None, &all).0.len();
    for text in [recent, text] {
        assert!(
            text < plain * 9 / 10 && text < chains * 4 / 5,
            "{text} bytes, {chains} by chains, {plain} plain"
        );
    }
}

/// Lines with a client's agent, which its address foretells, and bodies that are known, in an order that comes again.
#[test]
fn what_came_in_this_order_before_costs_little() {
    let mut rng = SmallRng::seed_from_u64(21);
    let agents: Vec<String> =
        (0..60).map(|n| format!("Browser/{n}.{} (Linux; rv:{})", n * 7 % 11, n * 13 % 50)).collect();
    let visits = (0..1500).map(|_| {
        let who = rng.random_range(0..60u8);
        let page = rng.random_range(0..500);
        format!("10.0.3.{who} GET /page/{page} 200 \"{}\"", agents[usize::from(who) * 7 % 60])
    });
    let visits: Vec<String> = visits.collect();
    let known = (0..3000).map(|n| format!("step {} of the plan", n % 150 * n % 150)).collect();
    for bodies in [visits, known] {
        let all = [logs(bodies)];
        let [.., near, recent, _, text] = LAYOUTS.map(|layout| there_and_back(layout, None, &all).0.len());
        for guessed in [recent, text] {
            assert!(guessed * 5 < near * 4, "{guessed} bytes, {near} without");
        }
    }
}

/// Packages through their states, counters in hexadecimal with what stays beside them, and paths of many shapes that foretell a size.
#[test]
fn what_a_line_is_about_is_expected_in_the_next_and_far_behind() {
    let mut rng = SmallRng::seed_from_u64(22);
    let packages = (0..400).flat_map(|n| {
        let name = format!("lib{}-{}", rng.random_range(0..300), ["dev", "bin", "data"][n % 3]);
        let version = ["1:2.3-4+deb12u1", "0.9~rc2", "2024b-0+deb12u1", "7.88.1", "3.0043+nmu1"][n / 3 % 5];
        let configured = [format!("configure {name}:amd64 {version} <none>")].into_iter();
        let states = ["unpacked", "half-configured", "installed"];
        configured.chain(states.map(|state| format!("status {state} {name}:amd64 {version}")))
    });
    let packages: Vec<String> = packages.collect();
    let counters =
        (0..1500).map(|n| format!("request AB92_{:04X}:2BEA took {} ms", n + 0x1F3E, n * 37 % 11)).collect();
    let word =
        |n: usize| ["cloud", "python3", "git", "lib", "perl", "base", "core", "data", "io", "common"][n % 10];
    let file =
        |n: usize| ["README.gz", "copyright", "NEWS.Debian.gz", "changelog.gz", "examples/a.1.sh", ""][n % 6];
    let package =
        |n: usize| (0..n % 4 + 1).map(|k| word(n / 3usize.pow(k as u32))).collect::<Vec<_>>().join("-");
    let paths = (0..6000).map(|_| {
        let n = rng.random_range(0..1500);
        format!("GET /{}/{} HTTP/1.1 200 {}", package(n), file(n / 4), n * 7919 % 50_000)
    });
    for (bodies, percent) in [(packages, 96), (counters, 60), (paths.collect(), 97)] {
        let all = [logs(bodies)];
        let [.., recent, _, text] = LAYOUTS.map(|layout| there_and_back(layout, None, &all).0.len());
        assert!(text * 100 < recent * percent, "{text} bytes, {recent} in codec 6");
    }
}

/// `spool inspect --columns` says what text consists of, and its parts add up to the payload.
#[test]
fn the_account_of_text_names_kinds_and_templates() {
    let mut rng = SmallRng::seed_from_u64(8);
    let line = |_| {
        format!("level=info msg=\"took {}ms\" id={:016x}", rng.random_range(0..5000), rng.random::<u64>())
    };
    let (signal, body) = logs((0..400).map(line));
    let (payload, _) = encode(LAYOUT_TEXT, None, &[(signal, body.clone())]);
    let header = crate::segment::Header {
        id: crate::segment::SegmentId { epoch: 1, lane: crate::segment::Lane::BULK, sequence: 1 },
        codec: crate::segment::Codec::ColumnsText as u32,
        payload_len: payload.len() as u64,
        raw_len: body.len() as u64,
        hash: crate::segment::hash(&payload),
        items: crate::signal::Counts::ZERO,
        time: crate::signal::TimeRange::EMPTY,
        requests: 1,
        sealed_unix_nano: 0,
        base_sequence: None,
        is_base: false,
        delivery: None,
        made_of: None,
    };
    let costs = inspect(&header, &payload, None).unwrap();
    let bytes = |column: &str| costs.iter().find(|c| c.column == column).map_or(0.0, |c| c.bytes);
    let template = r#"log.body: "level=info msg=\"took <number>ms\" id=<hex>""#;
    assert!(bytes(template) > 0.0, "{costs:#?}");
    assert!(bytes("log.body: <hex>") > 390.0 * 8.0, "{costs:#?}");
    assert!((300.0..900.0).contains(&bytes("log.body: <number>")), "{costs:#?}");
    assert!(costs.iter().all(|c| c.bytes > -0.01), "{costs:#?}");
    assert!((costs.iter().map(|c| c.bytes).sum::<f64>() - payload.len() as f64).abs() < 0.5);
}

/// Captured by `tests/text-logs.sh`.
#[test]
fn logs_of_real_programs_come_back_and_take_less_than_in_codec_2() {
    let samples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/text-logs/samples");
    let mut files: Vec<_> = std::fs::read_dir(samples).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 10, "{files:?}");
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        // So small a sample is mostly words that are new: what is learnt of it shows in the segment that leans on it.
        let all = [logs(text.lines().map(str::to_owned))];
        let (first, base) = there_and_back(LAYOUT_TEXT, None, &all);
        let plain = {
            let mut encoder = Encoder::new(None);
            all.iter().for_each(|(signal, body)| encoder.push(*signal, body).unwrap());
            encoder.finish().unwrap().0
        };
        assert!(first.len() <= plain.len(), "{}: {} and {}", file.display(), first.len(), plain.len());
        let later = [logs(text.lines().map(|line| format!("{line} again")))];
        assert!(
            there_and_back(LAYOUT_TEXT, Some(&base), &later).0.len() < first.len() / 2,
            "{}",
            file.display()
        );
    }
}
