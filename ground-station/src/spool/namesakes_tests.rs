//! Two ground-stations with one name and a ledger each, over both stores.

use std::sync::Arc;

use perigee_proto::link;

use super::both_tests::{Site, Subject};
use super::tests::{EPOCH, spans};
use super::*;

/// What a ledger has acknowledged: its id, the name of its station, and sequences.
type Said<'a> = (u64, &'a str, &'a [(u64, u64)]);

impl Subject<'_> {
    fn told(&self, epoch: u64, said: &[Said<'_>]) -> Answer {
        let acknowledged = said.iter().map(|(ledger, station, sequences)| link::Acknowledged {
            ledger: *ledger,
            station: (*station).to_owned(),
            sequences: sequences
                .iter()
                .map(|(start, end)| link::Range { start: *start, end: *end })
                .collect(),
            top_hash: Vec::new(),
            items: None,
        });
        let lane = link::Lane {
            lane: 8,
            next_sequence: 100,
            acknowledged: acknowledged.collect(),
            ..link::Lane::default()
        };
        let epoch = link::Epoch { epoch, lanes: vec![lane], ..link::Epoch::default() };
        let hello = link::Hello { epochs: vec![epoch], ..link::Hello::default() };
        self.wait(self.store.intake().ledger("sat-1".into(), Arc::new(hello)))
    }

    /// The segments of each gap that is the station's own.
    fn lost(&self) -> Vec<(u64, u64)> {
        let mut gaps = self.wait(self.store.views().gaps(100));
        gaps.retain(|gap| gap.reason == "station_lost");
        assert!(gaps.iter().all(|gap| gap.unknown && gap.items == Items::default()));
        let mut sequences: Vec<_> = gaps.into_iter().filter_map(|gap| gap.sequences).collect();
        sequences.sort_unstable();
        sequences
    }

    fn counted(&self) -> u64 {
        let gaps = self.wait(self.store.views().gap_counts());
        gaps.get(&("sat-1".to_owned(), "station_lost".to_owned())).copied().unwrap_or(0)
    }

    fn namesakes(&self) -> Vec<String> {
        let standing = self.wait(self.store.views().standings()).remove("sat-1").unwrap();
        standing.namesakes.into_iter().map(|of| of.ledger).collect()
    }

    fn elsewhere(&self) -> Vec<(u64, u64)> {
        self.wait(self.store.views().satellites()).remove(0).epochs[0].lanes[0].elsewhere.clone()
    }
}

const A_NAME: &str = "svalbard";

over_both! {
    fn what_a_lost_ledger_of_this_station_had_is_a_gap_that_stays(site) {
        let spool = site.open();
        spool.commit(3, spans(3));
        let old = spool.told(EPOCH, &[]).ledger ^ 4;
        for _ in 0..3 {
            spool.told(EPOCH, &[(old, A_NAME, &[(1, 6)])]);
            assert_eq!((spool.lost(), spool.counted()), (vec![(1, 2), (4, 5)], 2));
        }
        // A log that begins again does not name them any more.
        spool.told(EPOCH + 1, &[]);
        assert_eq!((spool.lost(), spool.namesakes()), (vec![(1, 2), (4, 5)], Vec::new()));
    }

    fn what_a_station_with_this_name_acknowledges_is_withdrawn_once_it_is_known_to_be_another(site) {
        let spool = site.open();
        spool.commit(1, spans(1));
        let other = spool.told(EPOCH, &[]).ledger ^ 4;
        // It may be the ledger of a spool that was lost here.
        spool.told(EPOCH, &[(other, A_NAME, &[(2, 4)])]);
        assert_eq!((spool.lost(), spool.counted()), (vec![(2, 3)], 1));
        assert!(spool.namesakes().is_empty() && spool.elsewhere() == [(4, 99)]);
        // A lost one acknowledges nothing more.
        spool.told(EPOCH, &[(other, A_NAME, &[(2, 4), (6, 7)])]);
        assert_eq!((spool.lost(), spool.counted()), (Vec::new(), 0));
        assert_eq!(spool.namesakes(), [format!("{other:016x}")]);
        assert_eq!(spool.elsewhere(), [(2, 99)]);
        for (start, end) in [(6, 20), (15, 30)] {
            spool.told(EPOCH, &[(other, A_NAME, &[(start, end)])]);
            assert!(spool.lost().is_empty());
        }
        assert_eq!(spool.account().lost, Items::default());
        assert_eq!(spool.commit(2, spans(2)), Applied::New, "it may come here too");
    }

    fn what_this_ledger_or_an_older_one_lost_stays_a_gap_beside_a_station_with_this_name(site) {
        let spool = site.open();
        let ours = spool.told(EPOCH, &[]).ledger;
        let (old, other) = (ours ^ 4, ours ^ 8);
        let said = |last| -> [Vec<(u64, u64)>; 3] { [vec![(1, 3)], vec![(3, 6)], vec![(5, last)]] };
        for last in [10, 20, 30] {
            let [of_ours, of_old, of_other] = said(last);
            spool.told(EPOCH, &[(ours, A_NAME, &of_ours), (old, A_NAME, &of_old), (other, A_NAME, &of_other)]);
        }
        let lost: Vec<u64> = spool.lost().into_iter().flat_map(|(first, last)| first..=last).collect();
        assert_eq!(lost, [1, 2, 3, 4, 5], "whatever the other station has beside them");
        assert_eq!(spool.namesakes(), [format!("{other:016x}")]);
    }

    fn a_new_life_of_the_log_tells_as_well_that_a_ledger_is_in_use(site) {
        let spool = site.open();
        let other = spool.told(EPOCH, &[]).ledger ^ 4;
        spool.told(EPOCH, &[(other, A_NAME, &[(5, 9)])]);
        assert_eq!(spool.counted(), 1);
        spool.told(EPOCH + 1, &[(other, A_NAME, &[(5, 6)])]);
        assert_eq!(spool.counted(), 0, "that life began after the Hello before");
    }

    fn another_name_is_another_station_whatever_it_acknowledges(site) {
        let spool = site.open();
        let other = spool.told(EPOCH, &[]).ledger ^ 4;
        for last in [10, 20] {
            spool.told(EPOCH, &[(other, "kiruna", &[(5, last)])]);
            assert!(spool.lost().is_empty() && spool.namesakes().is_empty());
        }
    }
}

#[test]
fn a_spool_that_goes_on_from_its_mirror_knows_the_other_station() {
    let site = Site::redb().unwrap();
    let spool = site.open();
    let other = spool.told(EPOCH, &[]).ledger ^ 4;
    for last in [10, 20] {
        spool.told(EPOCH, &[(other, A_NAME, &[(5, last)])]);
    }
    spool.close();
    std::fs::remove_file(site.dir.path().join("spool.redb")).unwrap();
    let spool = site.open();
    for last in [20, 30] {
        spool.told(EPOCH, &[(other, A_NAME, &[(5, last)])]);
        assert_eq!((spool.lost(), spool.namesakes()), (Vec::new(), vec![format!("{other:016x}")]));
    }
}
