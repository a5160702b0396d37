//! What other programs write and earlier versions refused.

use super::*;

fn satellite(name: &str) -> Reader {
    Reader { satellite: Some(name.into()), epoch: Some(SEVEN), ..reader() }
}

/// Seconds after [`SEVEN`] of every contact.
fn after_seven(plan: &Plan) -> Vec<(u64, u64)> {
    let from = SEVEN / S;
    times(plan).into_iter().map(|(start, end)| (start - from, end.unwrap() - from)).collect()
}

fn aws(status: &str, station: &str, start: &str, end: &str) -> String {
    format!(
        r#"{{"contactId": "x", "contactStatus": "{status}", "groundStation": "{station}", "startTime": "2026-11-23T{start}Z",
            "endTime": "2026-11-23T{end}Z", "satelliteArn": "arn:aws:groundstation::1:satellite/10"}}"#
    )
}

#[test]
fn a_list_of_cancelled_passes_is_a_plan_without_contacts_and_one_of_others_is_refused() {
    let cancelled = ["CANCELLED", "COMPLETED", "AWS_CANCELLED", "FAILED", "AVAILABLE"];
    let cancelled = cancelled.map(|status| aws(status, "20", "19:00:00", "19:08:00")).join(",");
    let text = format!(r#"{{"contactList": [{cancelled}]}}"#);
    assert!(parse(&satellite("10"), &text).unwrap().is_empty());
    let error = parse(&satellite("11"), &text).unwrap_err();
    assert!(error.contains("none of 5") && error.contains("contacts.satellite"), "{error}");
}

#[test]
fn two_antennas_of_a_station_at_once_are_one_contact() {
    let list =
        [aws("SCHEDULED", "20", "19:00:00", "19:12:00"), aws("SCHEDULED", "20", "19:06:00", "19:18:00")];
    let text = format!(r#"{{"contactList": [{}]}}"#, list.join(","));
    let plan = parse(&satellite("10"), &text).unwrap();
    assert_eq!(after_seven(&plan), [(0, 1080)]);
    assert_eq!(&*plan.upcoming(0)[0].station, "svalbard");
    assert!(plan.warnings()[0].contains("the two are one contact"), "{:?}", plan.warnings());
}

#[test]
fn an_entry_that_cannot_be_used_is_passed_over_with_its_place() {
    let satnogs = r#"[
        {"id": 1, "start": "2026-11-23T19:00:00Z", "end": "2026-11-23T19:08:00Z", "ground_station": null, "norad_cat_id": 10},
        "no observation",
        {"id": 2, "start": "2026-11-23T20:00:00Z", "end": "2026-11-23T20:08:00Z", "ground_station": 20, "norad_cat_id": 10},
        {"id": 3, "start": "2026-11-23T21:00:00Z", "end": "2026-11-23T20:08:00Z", "ground_station": 20, "norad_cat_id": 10},
        {"id": 4, "start": "2026-11-23T22:00:00Z", "end": "2026-11-23T22:08:00Z", "ground_station": 20, "norad_cat_id": 11}
    ]"#;
    let plan = parse(&satellite("10"), satnogs).unwrap();
    assert_eq!(after_seven(&plan), [(3600, 4080)]);
    let warnings = plan.warnings().join("\n");
    for part in [
        "[0].ground_station:",
        "[1].ground_station:",
        "[3].end: must be after",
        "1 of other",
        "the first at [4]",
    ] {
        assert!(warnings.contains(part), "{warnings}");
    }
    let native = native(
        "contacts:\n\
         - {station: mars, start: 2026-11-23T19:00:00Z, end: 2026-11-23T19:08:00Z}\n\
         - {station: 20, start: 2026-11-23T20:00:00Z, end: 2026-11-23T20:08:00Z, byte_budget: 1000}\n\
         - {station: 20, strat: 2026-11-23T21:00:00Z, end: 2026-11-23T20:08:00Z}\n",
    )
    .unwrap();
    assert_eq!(after_seven(&native), [(3600, 4080)]);
    assert_eq!(native.upcoming(0)[0].byte_budget, Some(1000));
    let warnings = native.warnings().join("\n");
    assert!(warnings.contains("contacts[0].station: link.stations has no `mars`"), "{warnings}");
    assert!(warnings.contains("contacts[2]: unknown field `strat`"), "{warnings}");
}

#[test]
fn a_key_that_is_there_twice_costs_its_entry_and_not_the_plan() {
    let good = "{station: 20, start: 2026-11-23T20:00:00Z, end: 2026-11-23T20:08:00Z}";
    let twice =
        "{station: 20, start: 2026-11-23T21:00:00Z, start: 2026-11-23T22:00:00Z, end: 2026-11-23T23:00:00Z}";
    for text in [
        format!("contacts:\n- {twice}\n- {good}\n- none\n- [1]\n"),
        format!("- {twice}\n- {good}\n- 7\n- \n"),
    ] {
        let plan = native(&text).unwrap();
        assert_eq!(after_seven(&plan), [(3600, 4080)], "{text}");
        let warnings = plan.warnings().join("\n");
        for part in
            ["contacts[0]: the key `start` is there twice", "contacts[2]: it is no contact", "contacts[3]:"]
        {
            assert!(warnings.contains(part), "{part}: {warnings}");
        }
    }
    let error = native(&format!("- {twice}\n")).unwrap_err();
    assert!(error.contains("`start` is there twice"), "{error}");
}

#[test]
fn what_is_no_command_of_ion_is_a_warning_with_its_line() {
    let text = "## begin ionadmin\n\
                1 1 ''\n\
                a contact +0 +60 10 20 1000\n\
                a contcat +100 +160 10 20 1000\n\
                m horizon +0\n\
                s\n\
                add contact +200 +260 10 20 1000\n\
                ## end ionadmin\n\
                ## begin bpadmin\n\
                a scheme ipn 'ipnfw' 'ipnadminep'\n\
                ## end bpadmin\n";
    let plan = parse(&satellite("10"), text).unwrap();
    assert_eq!(after_seven(&plan), [(0, 60)]);
    let expected = [
        "line 4: `a contcat` is no command of ionadmin; skipped",
        "line 7: `add contact` is no command of ionadmin; skipped",
    ];
    assert_eq!(plan.warnings(), expected);
}

#[test]
fn a_file_that_is_wrong_throughout_leaves_twenty_warnings_and_a_count() {
    let list = (0..50).map(|_| aws("SCHEDULED", "20", "25:00:00", "19:12:00")).collect::<Vec<_>>();
    let good = aws("SCHEDULED", "20", "19:00:00", "19:12:00");
    let plan =
        parse(&satellite("10"), &format!(r#"{{"contactList": [{},{good}]}}"#, list.join(","))).unwrap();
    assert_eq!((plan.len(), plan.warnings().len()), (1, 21));
    assert_eq!(plan.warnings()[20], "and 30 more like these");
}

#[test]
fn registrations_hypothetical_contacts_and_loopbacks_of_ion_plan_nothing() {
    let text = "a contact -1 -1 10 10 0\n\
                a contact\t0 0 10 20 0\n\
                a contact 0 +3600 10 20 100000\n\
                a contact +0 +3600 10 10 100000\n\
                a contact 2026/11/23-20:00:00 2038/01/18-03:14:07 10 20 100000\n\
                a contact 2026/11/3-9:5:00 2026/11/3-9:6:00 10 20 1000 1.0\n";
    let plan = parse(&satellite("10"), text).unwrap();
    assert_eq!(times(&plan), [(1_793_696_700, Some(1_793_696_760)), (SEVEN / S + 3600, Some(2_147_397_247))]);
    let rates: Vec<_> = plan.upcoming(0).iter().map(|c| c.rate_down).collect();
    assert_eq!(rates, [Some(8_000), Some(800_000)]);
    assert!(plan.warnings().is_empty(), "{:?}", plan.warnings());
    for text in ["a contact -1 -1 10 10 0\n", "a contact 0 0 20 10 0\na contact +0 +60 11 20 8\n"] {
        assert!(parse(&satellite("10"), text).unwrap().is_empty(), "{text}");
    }
    let endless = parse(&satellite("10"), "a contact +0 -1 10 20 100000\n").unwrap();
    assert_eq!(times(&endless), [(SEVEN / S, Some(2_147_483_647))]);
    let error = parse(&satellite("10"), "a contact +0 +60 20 10 100000\n").unwrap_err();
    assert!(error.contains("none of 1"), "no way down: {error}");
}

#[test]
fn contacts_that_ion_deletes_are_gone_and_those_that_it_changes_have_the_other_rate() {
    let text = "a contact +0 +60 10 20 1000\n\
                a contact +0 +60 20 10 100\n\
                a contact +100 +160 10 20 1000\n\
                a contact +200 +260 10 20 1000\n\
                d contact +100 10 20\n\
                c contact +200 10 20 2000 0.9\n\
                c contact +0 20 10 200\n";
    let plan = parse(&satellite("10"), text).unwrap();
    assert_eq!(after_seven(&plan), [(0, 60), (200, 260)]);
    let rates: Vec<_> = plan.upcoming(0).iter().map(|c| (c.rate_down, c.rate_up)).collect();
    assert_eq!(rates, [(Some(8_000), Some(1_600)), (Some(16_000), None)]);
    assert!(parse(&satellite("10"), &format!("{text}d contact * 10 20\n")).unwrap().is_empty());
    assert!(parse(&satellite("10"), "d contact * 10 20\n").unwrap().is_empty(), "found out and empty");
}

#[test]
fn a_range_of_ion_counts_for_its_own_way_first() {
    let text = "a contact +0 +60 10 20 1000\n\
                a range +0 +60 20 10 2\n\
                a range +0 +60 10 20 1\n\
                a contact +100 +160 10 20 1000\n\
                a range +100 +160 20 10 3\n";
    let plan = parse(&satellite("10"), text).unwrap();
    let light: Vec<_> = plan.upcoming(0).iter().map(|c| c.light_time_seconds).collect();
    assert_eq!(light, [Some(1.0), Some(3.0)]);
}

#[test]
fn hdtn_writes_numbers_as_text_rates_without_a_limit_and_a_contact_for_each_destination() {
    let text = r#"{"contacts": [
        {"contact": 0, "source": "10", "dest": "20", "startTime": "60", "endTime": "120", "rateBitsPerSec": "20000000", "owlt": "1"},
        {"contact": 1, "source": 10, "dest": 20, "startTime": 60, "endTime": 120, "rateBitsPerSec": 0, "owlt": 1, "finalDestination": 4},
        {"contact": 2, "source": 20, "dest": 10, "startTime": 60, "endTime": 120, "rateBitsPerSec": 0},
        {"contact": 3, "source": 10, "dest": 20, "startTime": 200, "endTime": 63072000000, "rateBitsPerSec": 0},
        {"contact": 4, "source": 10, "dest": "Beijing 1", "startTime": 300, "endTime": 400, "rateBitsPerSec": 0},
        {"contact": 5, "source": 10, "dest": "Beijing 1", "startTime": 500, "endTime": 600, "rate": 2},
        {"contact": 6, "source": 10, "dest": 20, "startTime": "soon", "endTime": 600},
        {"contact": 7, "source": 20, "dest": 30, "startTime": "soon"}
    ]}"#;
    let plan = parse(&satellite("10"), text).unwrap();
    let contacts = plan.upcoming(0);
    let first = &contacts[0];
    assert_eq!(
        (first.rate_down, first.rate_up, first.light_time_seconds),
        (Some(20_000_000), None, Some(1.0))
    );
    assert_eq!(times(&plan)[0], (SEVEN / S + 60, Some(SEVEN / S + 120)));
    assert_eq!((contacts[1].rate_down, contacts[1].start_unix_nano), (None, SEVEN + 200 * S), "no limit");
    assert_eq!(contacts[2].rate_down, Some(1_000_000), "what the configuration says of the station");
    assert_eq!(contacts[3].rate_down, Some(2_000_000), "rate is in Mbit/s");
    assert_eq!(contacts.len(), 4);
    let warnings = plan.warnings().join("\n");
    assert!(
        warnings.contains("contacts[6].startTime") && warnings.contains("the first at contacts[7]"),
        "{warnings}"
    );
}

#[test]
fn the_satellite_of_a_satnogs_job_is_in_its_elements() {
    let job = |tle1: &str, tle0: &str| {
        format!(
            r#"[{{"id": 1, "start": "2026-11-23T19:00:00Z", "end": "2026-11-23T19:08:00Z", "ground_station": 20, "tle0": "{tle0}", "tle1": "{tle1}"}}]"#
        )
    };
    for (ours, tle1) in [
        ("10", "1 00010U"),
        ("00010", "1 00010U 20001A"),
        ("100001", "1 A0001U"),
        ("A0001", "1 A0001U"),
        ("CUBE 1", "1 99999U"),
    ] {
        let plan = parse(&satellite(ours), &job(tle1, "0 CUBE 1")).unwrap();
        assert_eq!(after_seven(&plan), [(0, 480)], "{ours}");
    }
    assert!(parse(&satellite("11"), &job("1 00010U", "CUBE 1")).unwrap_err().contains("none of 1"));
    assert!(parse(&satellite("11"), &job("1", "é")).unwrap_err().contains("none of 1"));
}

#[test]
fn an_empty_list_is_an_empty_plan_in_every_format_and_a_list_may_stand_alone() {
    for format in [Format::Auto, Format::Native, Format::Hdtn, Format::Ion, Format::Aws, Format::Satnogs] {
        for text in ["[]", " [ ]\r\n", "[\n]\n"] {
            assert!(parse(&Reader { format, ..reader() }, text).unwrap().is_empty(), "{format:?}");
        }
    }
    let one = r#"{"station": "svalbard", "start": "2026-11-23T19:00:00Z", "end": "2026-11-23T19:08:00Z"}"#;
    for text in [
        format!("[{one}]"),
        format!("# passes\n- {one}\n"),
        format!("---\n-\n  {one}\n"),
        format!("contacts:\n- {one}\n"),
    ] {
        assert_eq!(after_seven(&native(&text).unwrap()), [(0, 480)], "{text}");
    }
}

#[test]
fn a_plan_in_a_file_may_begin_with_a_byte_order_mark_and_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("plan.json");
    std::fs::write(&file, "\u{feff}[]").unwrap();
    assert!(reader().read(&file).unwrap().is_empty());
    std::fs::File::create(&file).unwrap().set_len(MAX_FILE + 1).unwrap();
    let error = reader().read(&file).unwrap_err().to_string();
    assert!(error.contains("more than 16.0 MiB"), "{error}");
}
