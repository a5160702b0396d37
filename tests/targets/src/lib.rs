//! What is fuzzed: everything that reads bytes which somebody else has written. Each function takes any input; it panics when a
//! promise is broken, and otherwise says whether the input was good for something.

mod listeners;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use perigee_proto::link::{AgentMessage, GroundMessage, SegmentOpen};
use perigee_shared::compress::{DecompressError, Encoding, decompress};
use perigee_shared::config::{ConfigFile, collector};
use perigee_shared::contact::import::{Format, Reader};
use perigee_shared::export::{Cut, Cuts, Plan, halve, without_empty};
use perigee_shared::link::bounds::{self, Bounded};
use perigee_shared::otlp::json;
use perigee_shared::otlp::protobuf::Fields;
use perigee_shared::otlp::tree::{POINT, POINTS, branches, leaves, message};
use perigee_shared::otlp::walk::walk;
use perigee_shared::segment::{
    Base, Codec, CodecError, Decoder, Encoder, Header, Lane, Request, SegmentId, hash, learn,
};
use perigee_shared::signal::{Counts, Signal, SignalSet, TimeRange};
use prost::Message;

/// An input was good for something, or was refused.
pub type Good = bool;

/// What takes any input.
pub type Target = fn(&[u8]) -> Good;

/// Every target by its name, which is that of its corpus too.
pub const TARGETS: [(&str, Target); 12] = [
    ("walk", walked),
    ("json", transcoded),
    ("decompress", decompressed),
    ("rows", rows),
    ("columns", columns),
    ("bases", bases),
    ("text", text),
    ("link", link),
    ("plans", plan),
    ("elements", elements),
    ("configuration", configuration),
    ("listeners", listeners),
];

/// More would be tested for memory alone.
const MOST: usize = 1 << 20;

/// The signal that the first byte says, and the rest.
fn signal(input: &[u8]) -> Option<(Signal, &[u8])> {
    let (first, rest) = input.split_first()?;
    Some((Signal::ALL[*first as usize % 3], rest))
}

/// The items that a reader of protobuf sees, of a request that was walked: of a metric's data of several kinds, which are members of a
/// `oneof`, the last. JSON has only that.
fn seen(signal: Signal, body: &[u8]) -> u64 {
    const WALKED: &str = "a request that was walked";
    if signal != Signal::Metrics {
        return walk(signal, body).expect(WALKED).items;
    }
    let mut items = 0;
    leaves(body, |metric| {
        let (mut kind, mut points) = (0, 0);
        for field in Fields::new(metric) {
            let field = field?;
            if POINTS.contains(&field.number) {
                if kind != field.number {
                    (kind, points) = (field.number, 0);
                }
                points += branches(message(&field)?, POINT).count() as u64;
            }
        }
        items += points;
        Ok(())
    })
    .expect(WALKED);
    items
}

/// A request in protobuf: what the walk counts is what cutting and halving hand on.
pub fn walked(input: &[u8]) -> Good {
    let Some((signal, body)) = signal(input) else { return false };
    let Ok(walked) = walk(signal, body) else { return false };
    let body = Bytes::copy_from_slice(body);
    let request = Request { signal, body: body.clone() };
    let plan = Plan { signals: SignalSet::ALL, ..Plan::default() };
    let mut items = 0;
    for cut in Cuts::new(std::iter::once(Ok::<_, std::convert::Infallible>(request)), plan) {
        match cut.expect("a request that was walked") {
            Cut::Request { items: of_it, .. } => items += of_it,
            Cut::Undecodable { .. } => panic!("a request that was walked can be cut"),
        }
    }
    assert_eq!(items, walked.items, "cut");
    let count = |body: &[u8]| walk(signal, body).expect("a part of it").items;
    if let Some((one, other)) = halve(signal, &body) {
        assert_eq!(count(&one) + count(&other), walked.items, "halved");
    }
    if let Some(rest) = without_empty(signal, &body) {
        assert_eq!(count(&rest), walked.items, "without what is empty");
    }
    let text = json::write(signal, &body).expect("a request that was walked");
    let back = json::transcode(signal, &text, 4 * MOST).expect("our own JSON");
    assert_eq!(count(&back), seen(signal, &body), "as JSON");
    true
}

/// A request in JSON: what comes of it can be walked, and written and read again.
pub fn transcoded(input: &[u8]) -> Good {
    let Some((signal, text)) = signal(input) else { return false };
    let Ok(body) = json::transcode(signal, text, MOST) else { return false };
    assert!(body.len() <= MOST);
    // Of what can be transcoded only this is refused.
    if let Err(error) = walk(signal, &body) {
        assert!(error.to_string().contains("an id has the wrong length"), "what was transcoded: {error}");
        return false;
    }
    let again = json::write(signal, &body).expect("what was transcoded");
    let back = json::transcode(signal, &again, 4 * MOST).expect("our own JSON");
    assert_eq!(walk(signal, &back).expect("our own JSON").items, seen(signal, &body));
    true
}

/// A compressed body, behind a byte that says how: memory never exceeds what was asked for.
pub fn decompressed(input: &[u8]) -> Good {
    let Some((first, source)) = input.split_first() else { return false };
    let mut asked = 0;
    let grow = |bytes: usize| {
        asked = bytes;
        Ok::<_, DecompressError>(())
    };
    let out = decompress(Encoding::ALL[*first as usize % Encoding::ALL.len()], source, MOST, grow);
    assert!(asked <= MOST + 1, "{asked} bytes were asked for");
    out.is_ok_and(|out| {
        assert!(out.len() <= MOST.min(asked));
        true
    })
}

fn header(codec: Codec, payload: &[u8], raw_len: u64) -> Header {
    Header {
        id: SegmentId { epoch: 1, lane: Lane::BULK, sequence: 1 },
        codec: codec as u32,
        payload_len: payload.len() as u64,
        raw_len,
        hash: hash(payload),
        items: Counts::ZERO,
        time: TimeRange::EMPTY,
        requests: 0,
        sealed_unix_nano: 0,
        base_sequence: None,
        is_base: false,
        delivery: None,
        made_of: None,
    }
}

/// A payload of codec 1, behind the raw length that is declared (u32, little-endian): it never yields more than that, and what it
/// yields comes back as it is when it is encoded again.
pub fn rows(input: &[u8]) -> Good {
    let Some((length, payload)) = input.split_first_chunk() else { return false };
    let raw_len = u64::from(u32::from_le_bytes(*length)) % MOST as u64;
    let Some(requests) = decoded(Codec::ZstdRows, payload, raw_len, None) else { return false };
    let total: u64 = requests.iter().map(|r| r.body.len() as u64).sum();
    assert!(total <= raw_len);
    let again = encoded(Codec::ZstdRows, &requests, None);
    assert_eq!(decoded(Codec::ZstdRows, &again, raw_len, None), Some(requests), "as they were");
    true
}

/// A payload, behind the raw length that is declared (u32, little-endian): it never yields more than that, and what it yields is
/// encoded again and comes back.
pub fn columns(input: &[u8]) -> Good {
    let Some((length, payload)) = input.split_first_chunk() else { return false };
    let raw_len = u64::from(u32::from_le_bytes(*length)) % MOST as u64;
    let codec = codec_of(payload);
    let Some(requests) = decoded(codec, payload, raw_len, None) else { return false };
    let total: u64 = requests.iter().map(|r| r.body.len() as u64).sum();
    assert!(total <= raw_len);
    for codec in Codec::ALL.into_iter().filter(|codec| codec.has_bases()) {
        let again = encoded(codec, &requests, None);
        let back = decoded(codec, &again, total, None).expect("our own payload");
        assert!(back.iter().map(|r| r.body.len() as u64).sum::<u64>() <= total);
    }
    true
}

/// A payload's first byte is its layout.
fn codec_of(payload: &[u8]) -> Codec {
    match payload.first() {
        Some(2) => Codec::ColumnsTokens,
        Some(3) => Codec::ColumnsChains,
        Some(4) => Codec::ColumnsNear,
        Some(5) => Codec::ColumnsRecent,
        Some(6) => Codec::ColumnsSteps,
        Some(7) => Codec::ColumnsText,
        _ => Codec::Columns,
    }
}

fn decoded(codec: Codec, payload: &[u8], raw_len: u64, base: Option<&Base>) -> Option<Vec<Request>> {
    let header = Header { base_sequence: base.map(|_| 0), ..header(codec, payload, raw_len) };
    let requests = Decoder::new(&header, payload, base).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    if let Err(CodecError::Damaged(why)) = &requests {
        assert!(!why.contains("panicked"));
    }
    requests.ok()
}

fn encoded(codec: Codec, requests: &[Request], base: Option<&Base>) -> Vec<u8> {
    let mut encoder = Encoder::new(codec, base).expect("an encoder");
    for request in requests {
        encoder.push(request.signal, &request.body).expect("a request");
    }
    encoder.finish().expect("a payload").payload
}

/// A base and a payload that leans on it, each behind its length and its declared raw length (u32, little-endian).
pub fn bases(input: &[u8]) -> Good {
    let number = |at: usize| Some(u32::from_le_bytes(*input.get(at..)?.first_chunk()?) as usize);
    let (Some(length), Some(raw), Some(raw_behind)) = (number(0), number(4), number(8)) else { return false };
    let Some((base, payload)) = input[12..].split_at_checked(length) else { return false };
    let codec = codec_of(base);
    let Ok(Some(base)) = learn(&header(codec, base, (raw % MOST) as u64), base, None) else { return false };
    let raw_len = (raw_behind % MOST) as u64;
    let Some(requests) = decoded(codec, payload, raw_len, Some(&base)) else { return false };
    let total: u64 = requests.iter().map(|r| r.body.len() as u64).sum();
    assert!(total <= raw_len);
    let again = encoded(codec, &requests, Some(&base));
    decoded(codec, &again, total, Some(&base)).expect("our own payload");
    true
}

/// Lines, as bodies of log records, behind a byte that says whether the first half of them is a base: they come back as they are.
pub fn text(input: &[u8]) -> Good {
    let Some((how, input)) = input.split_first() else { return false };
    let lines: Vec<&[u8]> = input.split(|byte| *byte == b'\n').collect();
    let (base, lines) = lines.split_at(if how & 1 == 1 { lines.len() / 2 } else { 0 });
    let base = (!base.is_empty()).then(|| {
        let (payload, raw_len) = lines_of_text(base, None);
        learn(&header(Codec::ColumnsText, &payload, raw_len), &payload, None)
            .expect("our own")
            .expect("a base")
    });
    lines_of_text(lines, base.as_ref());
    true
}

/// A payload with these lines, and its raw length; they were read again.
fn lines_of_text(lines: &[&[u8]], base: Option<&Base>) -> (Vec<u8>, u64) {
    let record = |(n, line): (usize, &&[u8])| {
        // What is no text is a body of bytes.
        let text = std::str::from_utf8(line).map(|text| Value::StringValue(text.to_owned()));
        let value = Some(text.unwrap_or_else(|_| Value::BytesValue(line.to_vec())));
        let time_unix_nano = 1_764_460_000_000_000_000 + n as u64 * 1_000_000;
        LogRecord { time_unix_nano, body: Some(AnyValue { value }), ..LogRecord::default() }
    };
    let log_records = lines.iter().enumerate().map(record).collect();
    let scope_logs = vec![ScopeLogs { log_records, ..ScopeLogs::default() }];
    let resource_logs = vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }];
    let body = Bytes::from(ExportLogsServiceRequest { resource_logs }.encode_to_vec());
    let request = Request { signal: Signal::Logs, body };
    let payload = encoded(Codec::ColumnsText, std::slice::from_ref(&request), base);
    let raw_len = request.body.len() as u64;
    let back = decoded(Codec::ColumnsText, &payload, raw_len, base).expect("our own payload");
    assert_eq!(back, [request], "as they were");
    (payload, raw_len)
}

/// A message of the link behind a byte that says which: what passes the bounds decodes within them, and headers come back.
pub fn link(input: &[u8]) -> Good {
    fn read<M: Message + Bounded + Default + PartialEq>(bytes: &[u8]) -> Option<M> {
        bounds::check::<M>(bytes).ok()?;
        let message = M::decode(bytes).ok()?;
        let again = M::decode(&*message.encode_to_vec()).expect("our own message");
        assert!(
            message == again
                || format!("{:?}", message.encode_to_vec()) == format!("{:?}", again.encode_to_vec())
        );
        Some(message)
    }
    let Some((first, bytes)) = input.split_first() else { return false };
    match first % 4 {
        0 => read::<AgentMessage>(bytes).is_some(),
        1 => read::<GroundMessage>(bytes).is_some(),
        2 => {
            let open = read::<SegmentOpen>(bytes);
            let header = open.and_then(|open| open.header).and_then(|header| Header::try_from(header).ok());
            header.is_some_and(|header| Header::from_bytes(&header.to_bytes()) == Ok(header))
        }
        _ => Header::from_bytes(bytes).is_ok(),
    }
}

fn utf8(input: &[u8]) -> Option<&str> {
    std::str::from_utf8(input).ok()
}

/// A plan, behind a byte that says how it is written: contacts are in order and have a length.
pub fn plan(input: &[u8]) -> Good {
    const ALL: [Format; 6] =
        [Format::Auto, Format::Native, Format::Hdtn, Format::Ion, Format::Aws, Format::Satnogs];
    let Some((first, rest)) = input.split_first() else { return false };
    let Some(text) = utf8(rest) else { return false };
    let reader = Reader {
        format: ALL[*first as usize % ALL.len()],
        satellite: Some("sat".to_owned()),
        stations: ["a", "b"].map(|id| (id.into(), perigee_shared::contact::StationHints::default())).into(),
        ..Reader::default()
    };
    let Ok(plan) = reader.parse(text, "plan") else { return false };
    let contacts = plan.upcoming(0);
    assert!(contacts.windows(2).all(|pair| pair[0].start_unix_nano <= pair[1].start_unix_nano));
    assert!(contacts.iter().all(|c| c.end_unix_nano.is_none_or(|end| c.start_unix_nano < end)));
    for contact in contacts {
        let _ = (contact.volume(0), contact.usable(contact.start_unix_nano), contact.name());
    }
    !plan.is_empty()
}

/// Elements as OMM or TLE.
pub fn elements(input: &[u8]) -> Good {
    utf8(input).is_some_and(|text| space_agent::orbit::parse(text, None, "elements").is_ok())
}

/// A configuration, for the agent or, by its first byte, for the ground; Perigee's or a Collector's. What is wrong is said with the
/// file's name.
pub fn configuration(input: &[u8]) -> Good {
    let Some((first, rest)) = input.split_first() else { return false };
    let Some(text) = utf8(rest) else { return false };
    let env = |name: &str| (name == "HOME").then(|| "/home".to_owned());
    let result = match ConfigFile::parse(text, "file.yaml", &env) {
        Err(error) => Err(error),
        Ok(file) if first % 2 == 0 => space_agent::config::Config::read(file).map(drop),
        Ok(mut file) => {
            collector::translate(&mut file, collector::Program::Ground);
            let config: Option<ground_station::config::Config> =
                file.read(|section| collector::keys(collector::Program::Ground, section));
            file.finish(config).map(drop)
        }
    };
    match result {
        Ok(()) => true,
        Err(error) => {
            assert!(error.to_string().contains("file.yaml"), "{error}");
            false
        }
    }
}

/// Bytes over a connection to one of the listeners of both programs, which run in this process: OTLP over gRPC and HTTP, control
/// sockets, the API, the console, metrics and health.
pub fn listeners(input: &[u8]) -> Good {
    listeners::talked(input)
}
