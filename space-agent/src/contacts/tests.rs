use super::*;

use std::sync::Arc;

use perigee_shared::clock::ClockBounds;
use perigee_shared::env::Clock;
use perigee_shared::link::Slot;

/// A clock that says the same at each look.
struct Still;

impl Clock for Still {
    fn unix_nano(&self) -> u64 {
        121 * S
    }
}

struct Bench {
    contacts: Contacts,
    now: channel::Receiver<Option<Contact>>,
    /// What is open in the second slot, where there is one.
    second: channel::Receiver<Option<Contact>>,
    want: channel::Receiver<bool>,
    link: channel::Sender<Links>,
}

fn bench(config: &ContactsConfig) -> Bench {
    let (current, now) = channel::channel(None);
    let (beside, second) = channel::channel(None);
    let (wanted, want) = channel::channel(false);
    let (link, status) = channel::channel(Links::new(config.simultaneous));
    let current = [current, beside].into_iter().take(config.simultaneous).collect();
    let told = Told { current, wanted };
    let lead = Duration::from_secs(5);
    let mut env = Env::production();
    (env.clock, env.bounds) = (Arc::new(Still), Arc::new(ClockBounds::new(0)));
    let clocks = Clocks::new(&env, config.time_from_ground, Default::default());
    let stations = ["svalbard", "kiruna", "inuvik"].map(str::to_owned);
    let (contacts, _) =
        Contacts::new(config, &stations[..config.simultaneous * 2 - 1], clocks, lead, false, told, status);
    Bench { contacts, now, second, want, link }
}

/// The link with the one station stands so.
fn set(link: &channel::Sender<Links>, state: LinkState) {
    link.send_modify(|links| {
        let link = links.of_mut(Slot::FIRST);
        (link.state, link.station) = (state, Some("svalbard".to_owned()));
    });
}

const S: u64 = 1_000_000_000;

/// A time that is known, of a machine that was started at the epoch.
fn at(time: u64) -> Now {
    Now { plan: Some(time), unix_nano: time, since_boot: time }
}

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
    let sleeps = contacts.tell(&at(90 * S));
    assert!(now.borrow().is_none() && !*want.borrow());
    assert_eq!(sleeps, Some(Duration::from_secs(5)));
    contacts.tell(&at(95 * S));
    assert!(now.borrow().is_none() && *want.borrow());
    contacts.tell(&at(100 * S));
    assert!(now.borrow().is_some());
    let sleeps = contacts.tell(&at(120 * S));
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
    assert_eq!(source.error, None);
    assert!(source.plan.has_run_out(119 * S), "a plan that is past ends the contacts of the one before");
    assert!(source.warnings(119 * S)[0].contains("every contact of the plan is past"));
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
    contacts.tell(&at(90 * S));
    assert!(now.borrow().is_none(), "there is a plan");
    contacts.tell(&at(121 * S));
    assert_eq!(now.borrow().as_ref().unwrap().end_unix_nano, None);
    let planned = contacts.planned(Asked::default(), Extent::Listed);
    assert!(planned.probing && planned.plan_warnings[0].contains("past"), "{planned:?}");
    set(&link, LinkState::Up);
    contacts.tell(&at(122 * S));
    contacts.tell(&at(1200 * S));
    assert!(now.borrow().is_some(), "the station answers");
    set(&link, LinkState::Connecting);
    contacts.tell(&at(1201 * S));
    contacts.tell(&at(1300 * S));
    assert!(now.borrow().is_none());

    std::fs::write(&file, text.replace("1970", "2100")).unwrap();
    contacts.file.as_mut().unwrap().reload(1301 * S);
    contacts.tell(&at(100_000 * S));
    assert!(now.borrow().is_none(), "a new plan ends the probing");
}

#[test]
fn while_the_time_is_not_known_a_plan_is_not_followed_and_stations_are_tried_if_they_may_be() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("plan.yaml");
    let text = "contacts: [{station: svalbard, start: 1970-01-01T00:01:40Z, end: 1970-01-01T00:02:00Z}]\n";
    std::fs::write(&file, text).unwrap();
    for fallback in [Fallback::Probe, Fallback::None] {
        let source = ContactSource::Plan;
        let config =
            ContactsConfig { source, file: Some(file.clone()), fallback, ..ContactsConfig::default() };
        let Bench { mut contacts, now, .. } = bench(&config);
        let unknown = Now { plan: None, ..at(110 * S) };
        let sleeps = contacts.tell(&unknown);
        let tried = now.borrow().as_ref().map(|contact| contact.end_unix_nano);
        assert_eq!(tried, (fallback == Fallback::Probe).then_some(None), "the plan would have an end");
        assert!(sleeps.is_some_and(|s| s <= LONGEST_SLEEP), "the clock may be set at any time");
        contacts.tell(&at(111 * S));
        assert_eq!(now.borrow().as_ref().unwrap().end_unix_nano, Some(120 * S), "the time is known");
    }
}

#[test]
fn a_station_that_answers_a_probe_is_kept_when_the_time_becomes_known_until_the_plan_has_a_contact() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("plan.yaml");
    let text = "contacts: [{station: svalbard, start: 1970-01-01T00:05:00Z, end: 1970-01-01T00:06:00Z}, \
                {station: svalbard, start: 1970-01-02T00:00:00Z, end: 1970-01-02T00:06:00Z}]\n";
    std::fs::write(&file, text).unwrap();
    let config =
        ContactsConfig { source: ContactSource::Plan, file: Some(file), ..ContactsConfig::default() };
    let Bench { mut contacts, now, link, .. } = bench(&config);
    contacts.tell(&Now { plan: None, ..at(110 * S) });
    set(&link, LinkState::Up);
    contacts.tell(&at(120 * S));
    assert_eq!(now.borrow().as_ref().map(|c| c.end_unix_nano), Some(None));
    contacts.tell(&at(301 * S));
    assert_eq!(now.borrow().as_ref().unwrap().end_unix_nano, Some(360 * S), "the plan's");
    contacts.tell(&at(361 * S));
    assert!(now.borrow().is_none(), "the probe is over");
}

#[test]
fn a_contact_by_hand_lasts_as_long_as_was_asked_whatever_the_clock_is_set_to() {
    let config = ContactsConfig { source: ContactSource::Manual, ..ContactsConfig::default() };
    let Bench { mut contacts, now, .. } = bench(&config);
    let contact = Contact { end_unix_nano: Some(131 * S), ..Contact::open("svalbard", 121 * S) };
    contacts.obey(Command::Open(Box::new(contact)));
    for set_to in [0, 10_000 * S] {
        let sleeps = contacts.tell(&Now { since_boot: 130 * S, ..at(set_to) });
        assert!(now.borrow().is_some());
        assert_eq!(sleeps, Some(Duration::from_secs(1)));
    }
    contacts.tell(&Now { since_boot: 131 * S, ..at(122 * S) });
    assert!(now.borrow().is_none());
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
        assert!(look(&config, &["svalbard".to_owned()], 0).is_err());
        let Bench { mut contacts, now, .. } = bench(&config);
        contacts.tell(&at(100 * S));
        let planned = contacts.planned(Asked::default(), Extent::Listed);
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
    contacts.tell(&at(u64::MAX));
    assert_eq!(now.borrow().as_ref().unwrap().end_unix_nano, None);
    let by_hand = Contact { end_unix_nano: Some(20 * S), ..Contact::open("svalbard", 10 * S) };
    contacts.by_hand.push((by_hand.clone(), Some(20 * S)));
    contacts.tell(&at(15 * S));
    assert_eq!(*now.borrow(), Some(by_hand));
    contacts.tell(&at(20 * S));
    assert_eq!(now.borrow().as_ref().unwrap().end_unix_nano, None);
}

const DAY: u64 = 86_400 * S;
const EPOCH: u64 = 1_795_156_200 * S;

/// Makes the prediction that is due, here and now.
fn predict(source: &mut FileSource, now: u64) {
    let predicted = source.work(now).unwrap().run();
    source.take(predicted);
}

/// A file of elements with a station in Svalbard.
fn orbit(file: &std::path::Path) -> ContactsConfig {
    let svalbard = ContactStation {
        latitude: Some(78.23),
        longitude: Some(15.4),
        altitude: 458.0,
        ..ContactStation::default()
    };
    ContactsConfig {
        source: ContactSource::Orbit,
        file: Some(file.to_owned()),
        stations: [("svalbard".to_owned(), svalbard)].into(),
        rate_down: Some(perigee_shared::contact::Rate(20_000_000)),
        ..ContactsConfig::default()
    }
}

#[test]
fn an_orbit_gives_passes_warns_when_it_is_old_and_goes_on_when_its_file_is_damaged() {
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
    let config = orbit(&file);
    let mut source = FileSource::new(&config, &["svalbard".to_owned()]).unwrap();
    source.read(EPOCH).unwrap();
    let passes = source.plan.upcoming(EPOCH).to_vec();
    assert!((60..100).contains(&passes.len()), "11 a day: {}", passes.len());
    assert!(passes.iter().all(|c| (10_000_000..2_000_000_000).contains(&c.volume(0).unwrap())));
    assert!(source.warnings(EPOCH).is_empty());
    let told = source.told().unwrap();
    assert_eq!((told.name.as_str(), told.mean_motion, told.drag), ("SAT (100001)", 15.0563, 0.0002));
    assert_eq!(
        [told.inclination, told.ascending_node, told.perigee, told.anomaly],
        [97.59, 42.1, 80.0, 280.2]
    );
    let site = &told.sites[0];
    assert_eq!(
        (site.station.as_str(), site.latitude, site.mask.as_slice()),
        ("svalbard", 78.23, &[10.0][..])
    );
    assert!(source.refresh_at().unwrap() <= EPOCH + 4 * DAY);
    source.refresh(EPOCH + 4 * DAY);
    predict(&mut source, EPOCH + 4 * DAY);
    let later = source.plan.upcoming(EPOCH + 4 * DAY);
    assert!(later.len() >= 60 && passes.iter().any(|p| p.start_unix_nano == later[0].start_unix_nano));
    assert!(source.warnings(EPOCH + 20 * DAY)[0].contains("20.0 days"));
    for (content, part) in [("{".to_owned(), "not an OMM"), (omm("2026-11-19T06:30:00"), "older")] {
        std::fs::write(&file, content).unwrap();
        source.reload(EPOCH + DAY);
        predict(&mut source, EPOCH + DAY);
        assert!(source.error.as_ref().is_some_and(|e| e.contains(part)), "{:?}", source.error);
        assert!(source.plan.len() >= 60);
    }
}

/// A satellite over the equator at the longitude `east` of Greenwich, in degrees, at the epoch of 2026-11-24T20:56:32Z.
fn geostationary(east: f64) -> String {
    let node = (376.9 + east).rem_euclid(360.0);
    let line = |text: String| {
        let sum: u32 = text.chars().map(|c| c.to_digit(10).unwrap_or(u32::from(c == '-'))).sum();
        format!("{text}{}\n", sum % 10)
    };
    line("1 11111U 20001A   26328.87259259  .00000000  00000-0  00000-0 0  999".to_owned())
        + &line(format!("2 11111   0.0500 {node:8.4} 0001413   0.0000   0.0000  1.0027000023600"))
}

const SEEN: u64 = 1_795_554_000 * S;

#[test]
fn a_satellite_that_is_always_seen_is_one_contact_without_an_end_and_goes_on_when_it_is_predicted_anew() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sat.tle");
    std::fs::write(&file, geostationary(15.0)).unwrap();
    let mut config = orbit(&file);
    config.stations.get_mut("svalbard").unwrap().latitude = Some(20.0);
    let mut source = FileSource::new(&config, &["svalbard".to_owned()]).unwrap();
    source.reload(SEEN);
    predict(&mut source, SEEN);
    let first = source.plan.current(SEEN).unwrap().clone();
    assert_eq!((source.plan.len(), first.end_unix_nano, &*first.station), (1, None, "svalbard"));
    assert!((0.115..0.13).contains(&first.light_time_seconds.unwrap()), "{first:?}");
    assert!(source.warnings(SEEN)[0].contains("svalbard always sees 11111"), "{:?}", source.warnings(SEEN));
    let later = source.refresh_at().unwrap();
    source.refresh(later);
    let work = source.work(later).unwrap();
    source.refresh(later);
    assert!(source.work(later).is_none() && source.refresh_at().is_none(), "once at a time");
    source.take(work.run());
    assert_eq!(source.plan.current(later), Some(&first), "nothing is interrupted");
    assert!(!source.plan.has_run_out(u64::MAX));

    std::fs::write(&file, geostationary(-165.0)).unwrap();
    source.reload(later);
    predict(&mut source, later);
    assert!(source.plan.is_empty(), "it is below the horizon");
    assert!(source.warnings(later)[0].contains("no station sees 11111"), "{:?}", source.warnings(later));
}

#[tokio::test]
async fn passes_are_predicted_while_the_contacts_run_and_who_asks_before_waits_for_them() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sat.tle");
    std::fs::write(&file, geostationary(15.0)).unwrap();
    let mut config = orbit(&file);
    config.stations.get_mut("svalbard").unwrap().latitude = Some(20.0);
    let (current, mut now) = channel::channel(None);
    let (wanted, _want) = channel::channel(false);
    let (_link, status) = channel::channel(Links::new(1));
    let told = Told { current: vec![current], wanted };
    let (mut contacts, control) = Contacts::new(
        &config,
        &["svalbard".to_owned()],
        Clocks::new(&Env::production(), config.time_from_ground, Default::default()),
        Duration::ZERO,
        false,
        told,
        status,
    );
    contacts.tell(&at(SEEN));
    assert!(now.borrow().is_none(), "nothing is predicted and nothing tried before it runs");
    assert!(contacts.is_planned(&at(SEEN)));
    let stop = CancellationToken::new();
    let runs = tokio::spawn({
        let stop = stop.clone();
        async move { contacts.run(stop).await }
    });
    let planned = control.list(Asked::default()).await.unwrap();
    assert!(planned.current.is_some() && !planned.probing && planned.plan_error.is_none(), "{planned:?}");
    assert_eq!(now.wait_for(Option::is_some).await.unwrap().as_ref().unwrap().end_unix_nano, None);
    stop.cancel();
    runs.await.unwrap();
}

/// What is open in the two slots at each of these times, in seconds.
fn open_at(text: &str, times: &[u64]) -> Vec<[Option<String>; 2]> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("plan.yaml");
    std::fs::write(&file, text).unwrap();
    let config = ContactsConfig {
        source: ContactSource::Plan,
        simultaneous: 2,
        file: Some(file),
        fallback: Fallback::None,
        ..ContactsConfig::default()
    };
    let Bench { mut contacts, now, second, .. } = bench(&config);
    let station =
        |of: &channel::Receiver<Option<Contact>>| of.borrow().as_ref().map(|c| c.station.to_string());
    let open = |time: &u64| {
        contacts.tell(&at(time * S));
        [station(&now), station(&second)]
    };
    times.iter().map(open).collect()
}

#[test]
fn two_contacts_are_open_at_once_each_in_its_slot_and_never_two_with_one_station() {
    let plan = "contacts:
- {station: svalbard, start: 1970-01-01T00:01:40Z, end: 1970-01-01T00:03:20Z}
- {station: kiruna, start: 1970-01-01T00:02:30Z, end: 1970-01-01T00:05:00Z}
- {station: inuvik, start: 1970-01-01T00:03:20Z, end: 1970-01-01T00:05:50Z}
- {station: svalbard, start: 1970-01-01T00:04:10Z, end: 1970-01-01T00:06:40Z}
";
    let slots = |first: Option<&str>, second: Option<&str>| [first, second].map(|s| s.map(str::to_owned));
    let expected = [
        (90, slots(None, None)),
        (120, slots(Some("svalbard"), None)),
        (160, slots(Some("svalbard"), Some("kiruna"))),
        // One ends as another begins.
        (200, slots(Some("inuvik"), Some("kiruna"))),
        // Of three those that began last.
        (250, slots(Some("inuvik"), Some("svalbard"))),
        (310, slots(Some("inuvik"), Some("svalbard"))),
        (360, slots(None, Some("svalbard"))),
        (400, slots(None, None)),
    ];
    let times = expected.each_ref().map(|(time, _)| *time);
    assert_eq!(open_at(plan, &times), expected.map(|(_, slots)| slots));
}

#[test]
fn a_contact_takes_no_slot_that_has_just_been_left() {
    let plan = "contacts:
- {station: svalbard, start: 1970-01-01T00:01:40Z, end: 1970-01-01T00:03:20Z}
- {station: kiruna, start: 1970-01-01T00:03:20Z, end: 1970-01-01T00:05:00Z}
";
    let kiruna = [None, Some("kiruna".to_owned())];
    assert_eq!(open_at(plan, &[120, 200])[1], kiruna, "the acknowledgements of the last one still come");
}

#[test]
fn a_contact_that_is_opened_by_hand_is_one_of_two() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("plan.yaml");
    let text = "contacts: [{station: svalbard, start: 1970-01-01T00:01:40Z, end: 1970-01-01T00:03:20Z}]\n";
    std::fs::write(&file, text).unwrap();
    let config = ContactsConfig {
        source: ContactSource::Plan,
        simultaneous: 2,
        file: Some(file),
        ..ContactsConfig::default()
    };
    let Bench { mut contacts, now, second, .. } = bench(&config);
    contacts.tell(&at(120 * S));
    for (by_hand, beside) in [("svalbard", None), ("kiruna", Some("kiruna"))] {
        contacts.obey(Command::Open(Box::new(Contact::open(by_hand, 120 * S))));
        contacts.tell(&at(121 * S));
        assert_eq!(now.borrow().as_ref().map(|c| c.station.clone()).as_deref(), Some("svalbard"));
        assert_eq!(second.borrow().as_ref().map(|c| c.station.clone()).as_deref(), beside);
    }
    let planned = contacts.planned(Asked::default(), Extent::All);
    let open: Vec<&str> = planned.open.iter().map(|pass| &*pass.contact.station).collect();
    assert_eq!((open, planned.current_by), (vec!["kiruna", "svalbard"], Some("hand")));
    // That of the plan has an end.
    let open = |contacts: &mut Contacts| {
        let open = contacts.planned(Asked::default(), Extent::All).open.into_iter().map(|pass| pass.contact);
        open.map(|c| (c.station.to_string(), c.end_unix_nano.is_none())).collect::<Vec<_>>()
    };
    let [svalbard, kiruna] = ["svalbard", "kiruna"].map(|id| (id.to_owned(), true));
    assert_eq!(open(&mut contacts), [kiruna.clone(), svalbard.clone()], "both were opened by hand");
    contacts.obey(Command::Open(Box::new(Contact::open("svalbard", 121 * S))));
    assert_eq!(open(&mut contacts), [svalbard, kiruna], "opened again");
    let (reply, mut closed) = oneshot::channel();
    contacts.obey(Command::Close(reply));
    assert_eq!(closed.try_recv(), Ok(true));
    assert_eq!(open(&mut contacts), [("svalbard".to_owned(), false)], "the plan's is left");
}

#[test]
fn a_station_that_is_not_in_the_configuration_any_more_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("plan.yaml");
    let text = "contacts: [{station: svalbard, start: 1970-01-01T00:01:40Z, end: 1970-01-01T00:10:00Z}]\n";
    std::fs::write(&file, text).unwrap();
    let config =
        ContactsConfig { source: ContactSource::Plan, file: Some(file), ..ContactsConfig::default() };
    let Bench { mut contacts, now, .. } = bench(&config);
    let open = |now: &channel::Receiver<Option<Contact>>| now.borrow().as_ref().map(|c| c.end_unix_nano);
    let configured = |stations: &[&str]| {
        let stations = stations.iter().map(|id| (*id).to_owned()).collect();
        Command::Configure(Box::new(config.clone()), stations)
    };
    contacts.tell(&at(110 * S));
    assert_eq!(open(&now), Some(Some(600 * S)), "by plan");
    contacts.obey(Command::Open(Box::new(Contact::open("svalbard", 121 * S))));
    contacts.tell(&at(121 * S));
    assert_eq!(open(&now), Some(None), "by hand");
    contacts.obey(configured(&["svalbard", "kiruna"]));
    contacts.tell(&at(122 * S));
    assert_eq!(open(&now), Some(None), "nothing has changed of it");
    // The plan on disk is wrong, so that the last one stays in force.
    std::fs::write(dir.path().join("plan.yaml"), "contacts: [").unwrap();
    contacts.obey(configured(&["kiruna"]));
    contacts.tell(&at(123 * S));
    assert_eq!(open(&now), None);
    contacts.obey(configured(&["svalbard"]));
    contacts.tell(&at(124 * S));
    assert_eq!(open(&now), Some(Some(600 * S)), "by plan again; what was opened by hand is over");
}
