use super::*;
use crate::contact::Plan;

const S: u64 = 1_000_000_000;

/// 2026-11-23T19:00:00Z
const SEVEN: u64 = 1_795_460_400 * S;

fn reader() -> Reader {
    let svalbard = StationHints { alias: Some("20".into()), guard_seconds: 2.0, ..StationHints::default() };
    let beijing = StationHints {
        alias: Some("Beijing 1".into()),
        rate_down: Some(1_000_000),
        ..StationHints::default()
    };
    Reader {
        stations: [("svalbard".into(), svalbard), ("beijing".into(), beijing)].into(),
        ..Reader::default()
    }
}

fn parse(reader: &Reader, text: &str) -> Result<Plan, String> {
    reader.parse(text, "plan").map_err(|e| e.to_string())
}

/// Start and end of every contact, in seconds.
fn times(plan: &Plan) -> Vec<(u64, Option<u64>)> {
    let seconds = |c: &crate::contact::Contact| (c.start_unix_nano / S, c.end_unix_nano.map(|end| end / S));
    plan.upcoming(0).iter().map(seconds).collect()
}

fn native(text: &str) -> Result<Plan, String> {
    parse(&reader(), text)
}

#[test]
fn a_plan_of_a_hundred_thousand_contacts_with_all_their_keys_is_read() {
    let entry = |n: u64| {
        format!(
            "- {{station: svalbard, start: {}, end: {}, rate_down: 20Mbit/s, rate_up: 64kbit/s, light_time: 4ms, guard: 2s}}\n",
            crate::contact::shown_time((1_800_000_000 + n * 600) * 1_000_000_000),
            crate::contact::shown_time((1_800_000_400 + n * 600) * 1_000_000_000),
        )
    };
    let text: String = std::iter::once("contacts:\n".to_owned()).chain((0..100_000).map(entry)).collect();
    let reader =
        Reader { stations: [("svalbard".into(), StationHints::default())].into(), ..Reader::default() };
    let plan = reader.parse(&text, "plan.yaml").unwrap();
    assert_eq!((plan.len(), plan.warnings().len()), (100_000, 0));
}

#[test]
fn a_plan_says_what_is_open_and_what_comes_next() {
    let plan = native(
        "contacts:\n\
         - {station: beijing, start: 1970-01-01T00:10:00Z, end: 1970-01-01T00:20:00Z, rate_down: 20Mbit/s, guard: 2s}\n\
         - {station: svalbard, start: 1970-01-01T00:01:00Z, end: 1970-01-01T00:02:00Z, light_time: 5ms}\n",
    )
    .unwrap();
    assert_eq!(plan.current(0), None);
    assert_eq!(plan.next_change(0), Some(60 * S));
    let contact = plan.current(60 * S).unwrap();
    assert_eq!(&*contact.station, "svalbard");
    assert_eq!(contact.left(61 * S).unwrap().as_secs(), 59);
    assert_eq!(plan.next_change(60 * S), Some(120 * S));
    assert_eq!(plan.upcoming(60 * S)[0].rate_down, Some(20_000_000));
    assert_eq!(plan.upcoming(60 * S)[0].usable(1199 * S).unwrap().as_secs(), 0);
    assert_eq!(plan.next_change(1200 * S), None);
    assert!(!plan.has_run_out(1199 * S) && plan.has_run_out(1200 * S));
}

#[test]
fn a_wrong_plan_is_named() {
    for (text, part) in [
        ("contacts:\n- {station: mars, start: 1970-01-01T00:00:00Z, end: 1970-01-01T00:00:01Z}\n", "mars"),
        ("contacts:\n- {station: beijing, start: 1970-01-01T00:00:01Z, end: 1970-01-01T00:00:01Z}\n", "end"),
        ("contacts:\n- {station: beijing, start: yesterday, end: 1970-01-01T00:00:01Z}\n", "yesterday"),
        ("contacts:\n- {station: beijing, strat: 1970-01-01T00:00:01Z}\n", "`start`"),
        ("a contact\n", "line"),
        ("[1, 2", "plan:1"),
        ("", "plan"),
        ("contacts:\n", "contacts"),
    ] {
        let error = native(text).unwrap_err();
        assert!(error.contains(part) || part == "line", "{error}");
    }
}

#[test]
fn contacts_that_overlap_are_one_with_one_station_and_stay_two_with_two() {
    let one = |station: &str, start: u32, end: u32| {
        format!(
            "- {{station: {station}, start: 1970-01-01T00:{start:02}:00Z, end: 1970-01-01T00:{end:02}:00Z}}\n"
        )
    };
    let plan = |a: String, b: String| native(&format!("contacts:\n{a}{b}"));
    let joined = plan(one("beijing", 10, 20), one("beijing", 19, 30)).unwrap();
    let [warning] = joined.warnings() else { panic!("{:?}", joined.warnings()) };
    assert!(warning.starts_with("contacts[1]") && warning.contains("contacts[0] lasts"), "{warning}");
    assert_eq!(times(&joined), [(600, Some(1800))]);
    let handover = plan(one("beijing", 10, 20), one("svalbard", 19, 30)).unwrap();
    assert!(handover.warnings()[0].contains("contacts[1]"), "{:?}", handover.warnings());
    assert_eq!(&*handover.current(1150 * S).unwrap().station, "svalbard");
    let touching = plan(one("beijing", 10, 20), one("beijing", 20, 30)).unwrap();
    assert!(touching.warnings().is_empty());
    assert_eq!(touching.len(), 2);
}

#[test]
fn hdtns_plan_is_read_with_its_ways_down_and_up() {
    let text = r#"{"contacts": [
        {"contact": 0, "source": 10, "dest": 20, "startTime": 60, "endTime": 540, "rateBitsPerSec": 20000000, "owlt": 1},
        {"contact": 1, "source": 20, "dest": 10, "startTime": 60, "endTime": 540, "rateBitsPerSec": 64000, "owlt": 1},
        {"contact": 2, "source": 11, "dest": 20, "startTime": 0, "endTime": 2000, "rateBitsPerSec": 5, "owlt": 1},
        {"contact": 3, "source": 10, "dest": 99, "startTime": 0, "endTime": 2000, "rateBitsPerSec": 5, "owlt": 1}
    ]}"#;
    let reader = Reader { satellite: Some("10".into()), epoch: Some(SEVEN), ..reader() };
    let plan = parse(&reader, text).unwrap();
    assert_eq!(plan.len(), 1);
    let contact = plan.current(SEVEN + 61 * S).unwrap();
    assert_eq!((contact.rate_down, contact.rate_up), (Some(20_000_000), Some(64_000)));
    assert_eq!((contact.light_time_seconds, contact.guard_seconds), (Some(1.0), 2.0));
    let error = parse(&Reader { epoch: None, ..reader.clone() }, text).unwrap_err();
    assert!(error.contains("contacts[0].startTime") && error.contains("contacts.epoch"), "{error}");
    let error = parse(&Reader { satellite: Some("7".into()), ..reader }, text).unwrap_err();
    assert!(error.contains("none of 4"), "{error}");
}

#[test]
fn ions_commands_are_read_with_ranges_and_relative_times() {
    let text = "## begin ionadmin\n\
                1 10 ''\n\
                @ 2026/11/23-19:00:00\n\
                a contact +60 +540 10 20 2500000   # down\n\
                a contact +60 +540 20 10 8000\n\
                a range +0 +600 10 20 1\n\
                a contact 2026/11/23-20:00:00 2026/11/23-20:08:00 10 20 125000 1.0\n\
                a contact +0 +600 11 20 5\n";
    let reader = Reader { satellite: Some("10".into()), ..reader() };
    let plan = parse(&reader, text).unwrap();
    assert_eq!(plan.len(), 2);
    let first = plan.current(SEVEN + 60 * S).unwrap();
    assert_eq!((first.rate_down, first.rate_up), (Some(20_000_000), Some(64_000)), "bytes become bits");
    assert_eq!(first.light_time_seconds, Some(1.0));
    let second = plan.current(SEVEN + 3600 * S).unwrap();
    assert_eq!((second.rate_up, second.light_time_seconds), (None, None));
    for (line, part) in [
        ("a contact +0 +60 10 20 1", "plan: line 1: `+0` is a relative time"),
        ("\na contact now +60 10 20 1", "plan: line 2: `now` is not a time"),
        ("a contact 2026/11/23-20:00:00 2026/11/23-20:08:00 10 20", "plan: line 1: `a contact` needs"),
        ("a range 2026/11/23-20:00:00 2026/11/23-20:08:00 10 20 far", "`far` is not a number"),
    ] {
        let error = parse(&reader, line).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn contacts_that_aws_has_booked_are_read() {
    let contact = |status: &str, station: &str, start: &str| {
        format!(
            r#"{{"contactId": "x", "contactStatus": "{status}", "groundStation": "{station}", "startTime": {start},
                "endTime": "2026-11-23T19:08:00+00:00", "maximumElevation": {{"unit": "DEGREE_ANGLE", "value": 40.0}},
                "satelliteArn": "arn:aws:groundstation::1:satellite/abc"}}"#
        )
    };
    let text = format!(
        r#"{{"contactList": [{}, {}, {}]}}"#,
        contact("SCHEDULED", "Beijing 1", r#""2026-11-23T19:00:00+00:00""#),
        contact("CANCELLED", "Beijing 1", "1795460400.0"),
        contact("SCHEDULED", "Ohio 1", "1795460400.0")
    );
    let plan = native(&text).unwrap();
    assert_eq!(plan.len(), 1);
    let contact = plan.current(SEVEN).unwrap();
    assert_eq!((&*contact.station, contact.rate_down), ("beijing", Some(1_000_000)));
    let ours = Reader { satellite: Some("abc".into()), ..reader() };
    assert_eq!(parse(&ours, &text).unwrap().len(), 1);
    let other = Reader { satellite: Some("abd".into()), ..reader() };
    assert!(parse(&other, &text).is_err());
    let wrong = native(&text.replace("19:00:00", "25:00:00")).unwrap();
    assert!(wrong.is_empty() && wrong.warnings()[0].contains("contactList[0].startTime"), "{wrong:?}");
}

#[test]
fn observations_of_satnogs_are_read() {
    let text = r#"{"count": 2, "results": [
        {"id": 1, "start": "2026-11-23T19:00:00Z", "end": "2026-11-23T19:08:00Z", "ground_station": 20, "norad_cat_id": 58400},
        {"id": 2, "start": "2026-11-23T20:00:00Z", "end": "2026-11-23T20:08:00Z", "ground_station": 20, "norad_cat_id": 1}
    ]}"#;
    let ours = Reader { satellite: Some("58400".into()), ..reader() };
    assert_eq!(parse(&ours, text).unwrap().len(), 1);
    assert_eq!(native(text).unwrap().len(), 2, "without a satellite every contact is taken");
    let list = text.replace(r#"{"count": 2, "results": "#, "");
    let list = list.trim().strip_suffix('}').unwrap();
    assert_eq!(&*parse(&ours, list).unwrap().current(SEVEN).unwrap().station, "svalbard");
    let error = parse(&ours, &list.replace("2026-11-23T19:00:00Z", "soon")).unwrap_err();
    assert!(error.contains("[0].start"), "{error}");
    assert!(
        parse(&ours, r#"{"count": 0, "next": null, "previous": null, "results": []}"#).unwrap().is_empty()
    );
}

#[test]
fn a_format_that_is_named_is_not_guessed() {
    let reader = Reader { format: Format::Hdtn, ..reader() };
    assert!(parse(&reader, "contacts: []").unwrap_err().contains("not JSON"));
    assert!(parse(&reader, r#"{"contactList": []}"#).unwrap_err().contains("contacts: is missing"));
    assert!(parse(&reader, r#"{"contacts": []}"#).unwrap().is_empty());
}

mod others;
