use super::*;
use crate::orbit::{parse, read as read_file};

/// 2026-11-24T20:56:32Z
const EPOCH: u64 = 1_795_553_792_000_000_000;

/// A line of a TLE with its checksum.
fn line(text: &str) -> String {
    let sum: u32 = text.chars().map(|c| c.to_digit(10).unwrap_or(u32::from(c == '-'))).sum();
    format!("{text}{}", sum % 10)
}

/// Two lines, with the number as it is printed, for a day of 2026.
fn lines(number: &str, day: &str) -> [String; 2] {
    [
        line(&format!("1 {number}U 20001A   26{day}  .00016717  00000-0  10270-3 0  999")),
        line(&format!("2 {number}  51.6461 221.2784 0001413  89.1723 280.4612 15.4950789623600")),
    ]
}

fn tle(number: &str) -> String {
    lines(number, "328.87259259").join("\n")
}

/// The number, the name and the epoch in seconds of each set.
fn shown(found: &Found) -> Vec<(u64, &str, u64)> {
    found
        .sets
        .iter()
        .map(|s| (s.number.unwrap_or(0), s.name.as_deref().unwrap_or(""), s.elements.epoch / 1_000_000_000))
        .collect()
}

const SECONDS: u64 = EPOCH / 1_000_000_000;

/// What is read of `text`, which is read whole.
fn whole(text: &str) -> Found {
    let found = read(text).unwrap();
    assert!(found.wrong.is_empty(), "{:?}", found.wrong);
    found
}

#[test]
fn names_are_read_however_they_are_padded_numbered_and_spaced() {
    let (one, two) = (tle("11111"), tle("22222"));
    for text in [
        format!("SAMPLE ONE              \n{one}\nSAMPLE TWO              \n{two}\n").replace('\n', "\r\n"),
        format!("0 SAMPLE ONE\n{one}\n0 SAMPLE TWO\n{two}"),
        format!("\u{feff}# of today\nSAMPLE ONE\n{one}\n\n\nSAMPLE TWO\n\n{two}\n\n"),
    ] {
        let found = whole(&text);
        let expected = [(11_111, "SAMPLE ONE", SECONDS - 1), (22_222, "SAMPLE TWO", SECONDS - 1)];
        assert_eq!(shown(&found), expected, "{text}");
        for wanted in ["SAMPLE TWO", "0 SAMPLE TWO", "SAMPLE TWO  ", "22222"] {
            assert_eq!(parse(&text, Some(wanted), "f").unwrap().name, "SAMPLE TWO (22222)");
        }
    }
    for name in ["1SAMPLE", "1 SAMPLE", "2 SAMPLE", "1", "100 SATS", "1 25544 SAT"] {
        let found = whole(&format!("{name}\n{one}\n"));
        assert_eq!(shown(&found), [(11_111, name, SECONDS - 1)]);
    }
    assert_eq!(
        shown(&whole(&format!("{one}\nLATER\n{two}\n"))),
        [(11_111, "", SECONDS - 1), (22_222, "LATER", SECONDS - 1)]
    );
}

#[test]
fn the_newest_of_several_sets_of_one_object_counts_wherever_it_stands() {
    let [old, new] = ["326.87259259", "328.87259259"].map(|day| lines("11111", day).join("\n"));
    for text in [format!("{old}\n{new}\n"), format!("{new}\n{old}\n")] {
        let orbit = parse(&text, None, "f").unwrap();
        assert_eq!(orbit.elements.epoch.abs_diff(EPOCH) / 1_000_000, 0, "{}", orbit.elements.epoch);
    }
    // The newest one is damaged.
    let text = format!("{old}\n{}\n", new.replace("89.1723", "88.1723"));
    assert_eq!(parse(&text, Some("11111"), "f").unwrap().elements.epoch / DAY, EPOCH / DAY - 2);
}

const DAY: u64 = 86_400_000_000_000;

#[test]
fn numbers_are_found_as_printed_and_as_numbers() {
    let text = format!("{}\n{}\n", tle("A0001"), tle("00005"));
    for (wanted, name) in [("A0001", "100001"), ("100001", "100001"), ("5", "5"), ("00005", "5")] {
        assert_eq!(parse(&text, Some(wanted), "f").unwrap().name, name);
    }
}

#[test]
fn a_checksum_that_is_absent_is_not_missed_and_one_that_is_wrong_is() {
    let [first, second] = lines("11111", "328.87259259");
    let whole_set = whole(&format!("{first}\n{second}\n")).sets;
    let without = whole(&format!("{}\n{}\n", &first[..68], &second[..68])).sets;
    assert_eq!(whole_set, without);
    // Neither number of revolutions nor of the set.
    let short = whole(&format!("{}\n{}\n", &first[..61], &second[..63])).sets;
    assert_eq!(whole_set, short);
    let error = read(&format!("{first}\n{}0\n", &second[..68])).unwrap_err();
    assert!(error.starts_with("line 2: not a TLE") && error.contains("checksum"), "{error}");
}

#[test]
fn a_bad_neighbour_in_tles_costs_itself_alone() {
    let [first, second] = lines("22222", "328.87259259");
    let good = tle("11111");
    for (bad, places) in [
        (format!("BAD\n{first}"), 1),
        (format!("BAD\n{second}"), 1),
        (format!("BAD\n{}x\n{second}", &first[..68]), 1),
        (format!("BAD\n{first}\n{}", second.replace("51.6461", "51.é461")), 1),
        (first.clone(), 1),
    ] {
        for text in [format!("{bad}\nGOOD\n{good}\n"), format!("GOOD\n{good}\n{bad}\n")] {
            let found = read(&text).unwrap();
            assert_eq!(shown(&found), [(11_111, "GOOD", SECONDS - 1)], "{text}");
            assert_eq!(found.wrong.len(), places, "{text}: {:?}", found.wrong);
        }
    }
    let error = parse(&format!("{good}\n{first}\n"), Some("22222"), "f").map(|o| o.name).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("no `22222` among 1 satellites (11111), and 1 entries that cannot be read"),
        "{error}"
    );
}

/// An OMM's fields, each with its value as JSON, and what else `more` says.
fn omm(more: &[(&str, serde_json::Value)]) -> serde_json::Value {
    let mut omm = serde_json::json!({
        "OBJECT_NAME": "SAMPLE", "OBJECT_ID": "2020-001A", "EPOCH": "2026-11-24T20:56:32.000000",
        "MEAN_MOTION": 15.49507896, "ECCENTRICITY": 0.0001413, "INCLINATION": 51.6461, "RA_OF_ASC_NODE": 221.2784,
        "ARG_OF_PERICENTER": 89.1723, "MEAN_ANOMALY": 280.4612, "NORAD_CAT_ID": 11111, "BSTAR": 0.0001027,
    });
    for (key, value) in more {
        omm[*key] = value.clone();
    }
    omm
}

fn expected() -> Set {
    Set {
        number: Some(11_111),
        name: Some("SAMPLE".into()),
        elements: Elements {
            epoch: EPOCH,
            mean_motion: 15.495_078_96,
            eccentricity: 0.000_141_3,
            angles: [51.6461, 221.2784, 89.1723, 280.4612],
            drag: 0.000_102_7,
        },
    }
}

#[test]
fn an_omm_in_json_is_read_with_its_epoch_and_numbers_in_any_form() {
    for epoch in
        ["2026-11-24T20:56:32.000000", "2026-11-24T20:56:32Z", "2026-328T20:56:32Z", "2026-328T20:56:32.000"]
    {
        let one = omm(&[("EPOCH", epoch.into())]);
        for text in [one.to_string(), format!("\u{feff}[{one}]\r\n"), format!(r#"{{"results": [{one}]}}"#)] {
            assert_eq!(whole(&text).sets, [expected()], "{text}");
        }
    }
    let text = omm(&[
        ("BSTAR", "1.027E-4".into()),
        ("NORAD_CAT_ID", "11111".into()),
        ("ECCENTRICITY", ".0001413".into()),
    ]);
    assert_eq!(whole(&text.to_string()).sets, [expected()], "Space-Track writes text");
    let alpha = omm(&[("NORAD_CAT_ID", "A0001".into())]).to_string();
    assert_eq!(parse(&alpha, Some("100001"), "f").unwrap().name, "SAMPLE (100001)");
    let none = omm(&[("NORAD_CAT_ID", serde_json::Value::Null)]).to_string();
    assert_eq!(parse(&none, Some("SAMPLE"), "f").unwrap().name, "SAMPLE");
}

#[test]
fn a_bad_neighbour_in_json_costs_itself_alone() {
    use serde_json::Value::Null;
    let number = ("NORAD_CAT_ID", 22_222.into());
    let bad = [
        omm(&[number.clone(), ("MEAN_ANOMALY", Null)]),
        omm(&[number.clone(), ("ECCENTRICITY", 1.5.into())]),
        omm(&[number.clone(), ("MEAN_MOTION", "fast".into())]),
        omm(&[number.clone(), ("EPOCH", "2026-366T00:00:00".into())]),
        omm(&[number.clone(), ("MEAN_MOTION", "nan".into())]),
        omm(&[number.clone(), ("MEAN_ELEMENT_THEORY", "SGP4-XP".into())]),
        omm(&[number, ("EPHEMERIS_TYPE", 4.into())]),
        "none".into(),
        Null,
    ];
    for bad in bad {
        for list in [serde_json::json!([bad, omm(&[])]), serde_json::json!([omm(&[]), bad])] {
            let found = read(&list.to_string()).unwrap();
            assert_eq!((found.sets.as_slice(), found.wrong.len()), (&[expected()][..], 1), "{list}");
        }
    }
    let torn = format!("[{}, {{\"OBJECT_NAME\": NaN}}]", omm(&[]));
    let found = read(&torn).unwrap();
    assert_eq!((found.sets.as_slice(), found.wrong.len()), (&[expected()][..], 1));
    let error = read(&serde_json::json!([omm(&[("MEAN_ANOMALY", Null)])]).to_string()).unwrap_err();
    assert_eq!(error, "[0]: not an OMM: MEAN_ANOMALY is missing");
}

#[test]
fn fields_that_say_nothing_are_as_if_they_were_not_there() {
    use serde_json::Value::Null;
    let names =
        ["BSTAR", "MEAN_MOTION_DOT", "MEAN_MOTION_DDOT", "REV_AT_EPOCH", "ELEMENT_SET_NO", "EPHEMERIS_TYPE"];
    let found = whole(&omm(&names.map(|name| (name, Null))).to_string());
    let elements = Elements { drag: 0.0, ..expected().elements };
    assert_eq!(found.sets, [Set { elements, ..expected() }]);
    perigee_shared::orbit::Orbit::new(elements, String::new()).unwrap();
}

#[test]
fn lines_may_be_indented_end_in_cr_alone_and_have_tabs_for_blanks() {
    let one = tle("11111");
    let expected = whole(&format!("SAMPLE ONE\n{one}\n")).sets;
    assert_eq!(shown(&whole(&format!("SAMPLE ONE\n{one}\n"))), [(11_111, "SAMPLE ONE", SECONDS - 1)]);
    let indented = format!("SAMPLE ONE\n{one}\n").replace('\n', "\n   ");
    for text in [
        format!("   {indented}"),
        format!("SAMPLE ONE\n{one}\n").replace('\n', "\r"),
        format!("SAMPLE ONE\r\n{}\r", one.replace('\n', "\r")),
        format!("SAMPLE\tONE\n\t{}\t\n", one.replace("1 1", "1\t1").replace("2 1", "2\t1")),
    ] {
        assert_eq!(whole(&text).sets, expected, "{text:?}");
    }
}

#[test]
fn elements_as_the_database_of_satnogs_has_them_are_read() {
    let [first, second] = lines("11111", "328.87259259");
    let one = serde_json::json!({"tle0": "0 SAMPLE", "tle1": first, "tle2": second, "norad_cat_id": 11_111});
    assert_eq!(shown(&whole(&serde_json::json!([one]).to_string())), [(11_111, "SAMPLE", SECONDS - 1)]);
}

const FIELDS: [(&str, &str); 11] = [
    ("OBJECT_NAME", "SAMPLE"),
    ("OBJECT_ID", "2020-001A"),
    ("EPOCH", "2026-11-24T20:56:32.000000"),
    ("MEAN_MOTION", "15.49507896"),
    ("ECCENTRICITY", ".0001413"),
    ("INCLINATION", "51.6461"),
    ("RA_OF_ASC_NODE", "221.2784"),
    ("ARG_OF_PERICENTER", "89.1723"),
    ("MEAN_ANOMALY", "280.4612"),
    ("NORAD_CAT_ID", "11111"),
    ("BSTAR", ".1027E-3"),
];

#[test]
fn omms_are_read_in_csv() {
    let titles = FIELDS.map(|(key, _)| key).join(",");
    let values = FIELDS.map(|(_, value)| value);
    let quoted = values.map(|value| format!("\"{value}\"")).join(",");
    let text = format!("\u{feff}{titles}\r\n{}\r\n{quoted}\r\n", values.join(","));
    assert_eq!(whole(&text).sets, [expected(), expected()]);
    let bad = values.join(",").replace("15.495", "x");
    let found = read(&format!("# today\n{titles}\n{bad}\n\nshort,line\n{}\n", values.join(","))).unwrap();
    assert_eq!(found.sets, [expected()]);
    assert_eq!(found.wrong.len(), 2, "{:?}", found.wrong);
    assert!(
        found.wrong.first().unwrap().contains("line 3: not an OMM: MEAN_MOTION is `x"),
        "{:?}",
        found.wrong
    );
}

#[test]
fn omms_are_read_in_kvn() {
    let message = |fields: &[(&str, &str)]| {
        let lines = fields.iter().map(|(key, value)| format!("{key:<20} = {value}\n"));
        format!(
            "CCSDS_OMM_VERS = 2.0\nCOMMENT of = today\nCREATION_DATE = 2026-11-24T22:00:00\nORIGINATOR = X\n\nTIME_SYSTEM = UTC\nMEAN_ELEMENT_THEORY = SGP/SGP4\n{}",
            lines.collect::<String>()
        )
    };
    let mut fields = FIELDS;
    fields[5].1 = "51.6461 [deg]";
    let good = message(&fields);
    assert_eq!(whole(&good).sets, [expected()]);
    assert_eq!(whole(&format!("{good}\n{good}").replace('\n', "\r\n")).sets, [expected(), expected()]);
    let found = read(&format!("{}{good}", message(&FIELDS[..5]))).unwrap();
    assert_eq!((found.sets, found.wrong.len()), (vec![expected()], 1));
}

#[test]
fn omms_are_read_in_xml() {
    let message = |fields: &[(&str, &str)]| {
        let tags = |fields: &[(&str, &str)]| -> String {
            fields.iter().map(|(key, value)| format!("<{key}>{value}</{key}>")).collect()
        };
        let (about, elements) = fields.split_at(2);
        format!(
            "<omm id=\"CCSDS_OMM_VERS\" version=\"2.0\"><header><CREATION_DATE/><ORIGINATOR/></header><body><segment>\
             <metadata>{}<CENTER_NAME>EARTH</CENTER_NAME></metadata>\n<data><meanElements>{}</meanElements>\
             <tleParameters><EPHEMERIS_TYPE>0</EPHEMERIS_TYPE></tleParameters></data></segment></body></omm>",
            tags(about),
            tags(elements)
        )
    };
    let good = message(&FIELDS);
    let begin = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
    assert_eq!(whole(&format!("{begin}{good}")).sets, [expected()]);
    let mut fields = FIELDS;
    fields[0].1 = "R&amp;D &#50;";
    let two = whole(&format!("{begin}<ndm xmlns:xsi=\"x\">{good}{}</ndm>\n", message(&fields)));
    assert_eq!((&two.sets[0], two.sets[1].name.as_deref()), (&expected(), Some("R&D 2")));
    let found = read(&format!("<ndm>{}{good}</ndm>", message(&FIELDS[..6]))).unwrap();
    assert_eq!((found.sets, found.wrong.len()), (vec![expected()], 1));
    let found = read(&format!("<ndm>{good}<omm></ndm>")).unwrap();
    assert_eq!((found.sets, found.wrong.len()), (vec![expected()], 1), "it breaks off");
}

#[test]
fn a_file_that_is_too_large_is_refused_and_the_active_catalogue_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("all.tle");
    let all: String = (10_000..22_000).map(|n| format!("{}\n", tle(&n.to_string()))).collect();
    std::fs::write(&file, all).unwrap();
    assert_eq!(read_file(&file, Some("21999")).unwrap().name, "21999");
    std::fs::File::create(&file).unwrap().set_len((32 << 20) + 1).unwrap();
    let error = read_file(&file, None).map(|o| o.name).unwrap_err().to_string();
    assert!(error.contains("more than 32.0 MiB"), "{error}");
}
