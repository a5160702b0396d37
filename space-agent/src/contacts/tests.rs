use super::*;

struct Bench {
    contacts: Contacts,
    now: channel::Receiver<Option<Contact>>,
    want: channel::Receiver<bool>,
    link: channel::Sender<LinkStatus>,
}

fn bench(config: &ContactsConfig) -> Bench {
    let (current, now) = channel::channel(None);
    let (wanted, want) = channel::channel(false);
    let (link, status) = channel::channel(LinkStatus::default());
    let told = Told { current, wanted };
    let lead = Duration::from_secs(5);
    let (contacts, _) =
        Contacts::new(config, &["svalbard".to_owned()], Env::production(), lead, false, told, status);
    Bench { contacts, now, want, link }
}

const S: u64 = 1_000_000_000;

#[test]
fn a_plan_opens_and_closes_and_wants_segments_a_little_before() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("plan.yaml");
    let text = "contacts: [{station: svalbard, start: 1970-01-01T00:01:40Z, end: 1970-01-01T00:02:00Z}]\n";
    std::fs::write(&file, text).unwrap();
    let config = ContactsConfig {
        source: ContactSource::Plan,
        file: Some(file.clone()),
        fallback: Fallback::None,
        ..ContactsConfig::default()
    };
    let Bench { mut contacts, now, want, .. } = bench(&config);
    let sleeps = contacts.tell(90 * S);
    assert!(now.borrow().is_none() && !*want.borrow());
    assert_eq!(sleeps, Some(Duration::from_secs(5)));
    contacts.tell(95 * S);
    assert!(now.borrow().is_none() && *want.borrow());
    contacts.tell(100 * S);
    assert!(now.borrow().is_some());
    let sleeps = contacts.tell(120 * S);
    assert!(now.borrow().is_none() && !*want.borrow());
    assert_eq!(sleeps, None, "nothing to wake for");

    std::fs::write(file, "contacts: [{station: nowhere}]\n").unwrap();
    let source = contacts.file.as_mut().unwrap();
    source.reload(120 * S);
    assert!(source.error.is_some() && source.plan.len() == 1, "the last good plan stays");
    std::fs::write(source.path(), text).unwrap();
    source.reload(119 * S);
    assert_eq!((source.error.take(), source.plan.len()), (None, 1));
    std::fs::write(source.path(), text.replace("00:01:40", "00:00:40").replace("00:02:00", "00:00:50"))
        .unwrap();
    source.reload(119 * S);
    assert!(source.error.as_ref().is_some_and(|e| e.contains("every contact is past")), "{:?}", source.error);
    assert!(!source.plan.has_run_out(119 * S), "the plan in force is not over");
}

#[test]
fn a_plan_that_has_run_out_falls_back_to_probing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("plan.yaml");
    let text = "contacts: [{station: svalbard, start: 1970-01-01T00:01:40Z, end: 1970-01-01T00:02:00Z}]\n";
    std::fs::write(&file, text).unwrap();
    let config =
        ContactsConfig { source: ContactSource::Plan, file: Some(file.clone()), ..ContactsConfig::default() };
    let Bench { mut contacts, now, link, .. } = bench(&config);
    contacts.tell(90 * S);
    assert!(now.borrow().is_none(), "there is a plan");
    contacts.tell(121 * S);
    assert_eq!(now.borrow().as_ref().unwrap().end_unix_nano, None);
    let planned = contacts.planned();
    assert!(planned.probing && planned.plan_warnings[0].contains("past"), "{planned:?}");
    link.send_modify(|l| l.state = LinkState::Up);
    contacts.tell(122 * S);
    contacts.tell(1200 * S);
    assert!(now.borrow().is_some(), "the station answers");
    link.send_modify(|l| l.state = LinkState::Connecting);
    contacts.tell(1201 * S);
    contacts.tell(1300 * S);
    assert!(now.borrow().is_none());

    std::fs::write(&file, text.replace("1970", "2100")).unwrap();
    contacts.file.as_mut().unwrap().reload(1301 * S);
    contacts.tell(100_000 * S);
    assert!(now.borrow().is_none(), "a new plan ends the probing");
}

#[test]
fn a_plan_that_cannot_be_used_at_the_start_is_reported_and_stations_are_tried() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("plan.yaml");
    let config =
        ContactsConfig { source: ContactSource::Plan, file: Some(file.clone()), ..ContactsConfig::default() };
    for text in [None, Some("contacts: [{station: nowhere}]\n")] {
        if let Some(text) = text {
            std::fs::write(&file, text).unwrap();
        }
        assert!(check(&config, &["svalbard".to_owned()], 0).is_err());
        let Bench { mut contacts, now, .. } = bench(&config);
        contacts.tell(100 * S);
        let planned = contacts.planned();
        assert!(now.borrow().is_some() && planned.probing && planned.plan_error.is_some(), "{planned:?}");
    }
}

#[test]
fn a_contact_by_hand_goes_first_and_ends_by_itself() {
    let config = ContactsConfig {
        source: ContactSource::Always,
        station: Some("svalbard".into()),
        ..ContactsConfig::default()
    };
    let Bench { mut contacts, now, .. } = bench(&config);
    contacts.tell(u64::MAX);
    assert_eq!(now.borrow().as_ref().unwrap().end_unix_nano, None);
    let by_hand = Contact { end_unix_nano: Some(20 * S), ..Contact::open("svalbard", 10 * S) };
    contacts.obey(Command::Open(Box::new(by_hand.clone())));
    contacts.tell(15 * S);
    assert_eq!(*now.borrow(), Some(by_hand));
    contacts.tell(20 * S);
    assert_eq!(now.borrow().as_ref().unwrap().end_unix_nano, None);
}

#[test]
fn an_orbit_gives_passes_warns_when_it_is_old_and_goes_on_when_its_file_is_damaged() {
    const DAY: u64 = 86_400 * S;
    const EPOCH: u64 = 1_795_156_200 * S;
    let omm = |epoch: &str| {
        serde_json::json!({
            "OBJECT_NAME": "SAT", "OBJECT_ID": "2026-001A", "EPOCH": epoch, "EPHEMERIS_TYPE": 0,
            "CLASSIFICATION_TYPE": "U", "NORAD_CAT_ID": 100_001, "ELEMENT_SET_NO": 999, "REV_AT_EPOCH": 1,
            "MEAN_MOTION_DDOT": 0, "MEAN_MOTION": 15.0563, "ECCENTRICITY": 0.0011, "INCLINATION": 97.59,
            "RA_OF_ASC_NODE": 42.1, "ARG_OF_PERICENTER": 80.0, "MEAN_ANOMALY": 280.2, "BSTAR": 0.0002,
            "MEAN_MOTION_DOT": 0.00004,
        })
        .to_string()
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("elements.json");
    std::fs::write(&file, omm("2026-11-20T06:30:00")).unwrap();
    let svalbard = ContactStation {
        latitude: Some(78.23),
        longitude: Some(15.4),
        altitude: 458.0,
        ..ContactStation::default()
    };
    let config = ContactsConfig {
        source: ContactSource::Orbit,
        file: Some(file.clone()),
        stations: [("svalbard".to_owned(), svalbard)].into(),
        rate_down: Some(perigee_shared::contact::Rate(20_000_000)),
        ..ContactsConfig::default()
    };
    let mut source = FileSource::new(&config, &["svalbard".to_owned()]).unwrap();
    source.read(EPOCH).unwrap();
    let passes = source.plan.upcoming(EPOCH).to_vec();
    assert!((60..100).contains(&passes.len()), "11 a day: {}", passes.len());
    assert!(passes.iter().all(|c| (10_000_000..2_000_000_000).contains(&c.volume(0).unwrap())));
    assert!(source.warnings(EPOCH).is_empty());
    assert!(source.refresh_at().unwrap() <= EPOCH + 4 * DAY);
    source.refresh(EPOCH + 4 * DAY);
    let later = source.plan.upcoming(EPOCH + 4 * DAY);
    assert!(later.len() >= 60 && passes.iter().any(|p| p.start_unix_nano == later[0].start_unix_nano));
    assert!(source.warnings(EPOCH + 20 * DAY)[0].contains("20.0 days"));
    for (content, part) in [("{".to_owned(), "not an OMM"), (omm("2026-11-19T06:30:00"), "older")] {
        std::fs::write(&file, content).unwrap();
        source.reload(EPOCH + DAY);
        assert!(source.error.as_ref().is_some_and(|e| e.contains(part)), "{:?}", source.error);
        assert!(source.plan.len() >= 60);
    }
}
