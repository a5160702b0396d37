//! How old things on board are, at least, across starts of the machine.
//!
//! A satellite's wall clock may be wrong, so age is worked out from what is certain. Within a boot it is the difference of two times
//! since then. Across boots these count: the time that earlier boots lasted, as far as the log has noted it, and differences of wall
//! time between two boots whose clock was trusted. What is not known counts as nothing, so nothing is ever called older than it is.
//!
//! The table `boots` has a row for each of the latest boots. It is written when the log is opened in a new boot, and then with what is
//! sealed: when the clock is trusted first, and once a minute. Groups in the journal say how long a boot has lasted since.

use std::collections::VecDeque;
use std::time::Duration;

use perigee_shared::clock::Wall;
use perigee_shared::env::{Env, SinceBoot};
use perigee_shared::store::StoreError;
use perigee_shared::stored_as_tuple;
use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata, WriteTransaction};

use super::tables::{BOOTS, if_made};

/// Boots that are kept. What was sealed before the first of them is as old as that one, at least.
const KEPT: usize = 64;

/// A row is at most so far behind what was sealed, in ns.
pub(super) const MINUTE: u64 = 60 * 1_000_000_000;

/// A row is written for a new boot, and when its clock is trusted first, but not for being behind.
pub(super) const AT_ONCE: u64 = u64::MAX;

stored_as_tuple! {
    /// A start of the machine. Times but the last two are ns since then; those are when it began by the wall clock, as the trusted
    /// clock that said the earliest and the one that said the latest have it, ns since the Unix epoch: 0 in both, it never was.
    pub(super) struct Boot {
        pub(super) id: u64,
        pub(super) first_seen: u64,
        pub(super) last_seen: u64,
        pub(super) began_earliest: u64,
        pub(super) began_latest: u64,
    }
}

impl Boot {
    const fn new(now: SinceBoot) -> Self {
        Self { id: now.boot, first_seen: now.nano, last_seen: now.nano, began_earliest: 0, began_latest: 0 }
    }

    const fn is_anchored(&self) -> bool {
        self.began_latest > 0
    }

    /// Takes in what both clocks say now.
    fn see(&mut self, now: SinceBoot, wall: &Wall) {
        self.last_seen = self.last_seen.max(now.nano);
        if let Some(began) = wall.trusted().and_then(|wall| wall.checked_sub(now.nano)).filter(|at| *at > 0) {
            let known = self.is_anchored();
            self.began_earliest = if known { self.began_earliest.min(began) } else { began };
            self.began_latest = self.began_latest.max(began);
        }
    }
}

/// The latest boots, oldest first, by the numbers that they have in the table.
#[derive(Debug, Clone, Default)]
pub(super) struct Boots(VecDeque<(u64, Boot)>);

impl Boots {
    pub(super) fn load(txn: &ReadTransaction) -> Result<Self, StoreError> {
        let mut boots = VecDeque::new();
        if let Some(table) = if_made(txn, BOOTS)? {
            for row in table.iter()? {
                let (number, boot) = row?;
                boots.push_back((number.value(), boot.value()));
            }
        }
        Ok(Self(boots))
    }

    /// The present boot with what both clocks say now.
    fn present(&self, now: SinceBoot, wall: &Wall) -> (u64, Boot) {
        let latest = self.0.back();
        let known = latest.filter(|(_, boot)| boot.id == now.boot).copied();
        let (number, mut boot) = known.unwrap_or((latest.map_or(1, |(n, _)| n + 1), Boot::new(now)));
        boot.see(now, wall);
        (number, boot)
    }

    /// A group was formed then: if that boot is known, it has lasted so long.
    pub(super) fn lasted(&mut self, at: SinceBoot) {
        if let Some((_, boot)) = self.0.iter_mut().find(|(_, boot)| boot.id == at.boot) {
            boot.last_seen = boot.last_seen.max(at.nano);
        }
    }

    /// The row to be written now, if one is due: at the latest when it is `behind` ns old.
    pub(super) fn due(&self, env: &Env, behind: u64) -> Option<(u64, Boot)> {
        let (number, boot) = self.present(env.since_boot(), &env.wall());
        let is_due = match self.0.back() {
            Some((known, noted)) if *known == number => {
                boot.last_seen - noted.last_seen >= behind || boot.is_anchored() != noted.is_anchored()
            }
            _ => true,
        };
        is_due.then_some((number, boot))
    }

    /// Writes a row, and what the journal has told of the boot before, and gives up the oldest above [`KEPT`].
    pub(super) fn store(
        &self,
        txn: &WriteTransaction,
        (number, boot): (u64, Boot),
    ) -> Result<(), StoreError> {
        let mut table = txn.open_table(BOOTS)?;
        if let Some((number, boot)) = self.0.back() {
            table.insert(number, boot)?;
        }
        table.insert(number, boot)?;
        while table.len()? > KEPT as u64 {
            table.pop_first()?;
        }
        Ok(())
    }

    /// A row was written.
    pub(super) fn note(&mut self, (number, boot): (u64, Boot)) {
        self.0.pop_back_if(|(known, _)| *known == number);
        self.0.push_back((number, boot));
        if self.0.len() > KEPT {
            self.0.pop_front();
        }
    }

    /// The ages of things at this moment.
    pub(super) fn ages(&self, env: &Env) -> Ages {
        let mut boots = self.clone();
        let now = env.since_boot();
        boots.note(boots.present(now, &env.wall()));
        Ages::new(boots.0.into_iter().map(|(_, boot)| boot).collect(), now)
    }
}

/// The ages of things at one moment.
pub(super) struct Ages {
    now: SinceBoot,
    /// Oldest first, each with the ns that have passed since it began, at least.
    boots: Vec<(Boot, u64)>,
    /// The highest sum of the ns since an anchored boot and of the wall time at which it began: trusted wall time, as of now.
    wall: Option<u64>,
}

impl Ages {
    /// The last boot is the present one.
    fn new(boots: Vec<Boot>, now: SinceBoot) -> Self {
        let mut out = Self { now, boots: Vec::with_capacity(boots.len()), wall: None };
        let mut next = None;
        for boot in boots.into_iter().rev() {
            let by_lasting = next.map_or(now.nano, |since_next| boot.last_seen.saturating_add(since_next));
            let by_wall =
                out.wall.filter(|_| boot.is_anchored()).map(|wall| wall.saturating_sub(boot.began_latest));
            let since = by_lasting.max(by_wall.unwrap_or(0));
            if boot.is_anchored() {
                out.wall = out.wall.max(Some(boot.began_earliest.saturating_add(since)));
            }
            out.boots.push((boot, since));
            next = Some(since);
        }
        out.boots.reverse();
        out
    }

    /// How old is what happened at this time since a boot, at least. Where that is not known, or the boot is not any more, it was before
    /// the first boot that is; then `trusted_wall`, when it was by a clock that was trusted, may tell more.
    pub(super) fn of(&self, at: Option<SinceBoot>, trusted_wall: Option<u64>) -> Duration {
        let known = at.and_then(|at| Some((at, self.boots.iter().position(|(boot, _)| boot.id == at.boot)?)));
        let nano = match known {
            Some((at, index)) => {
                let since_next = self.boots.get(index + 1).map_or(0, |(_, since)| *since);
                self.boots[index].1.saturating_sub(at.nano).max(since_next)
            }
            None => {
                let since_first =
                    self.boots.first().map_or(0, |(boot, since)| since.saturating_sub(boot.first_seen));
                let by_wall = self.wall.zip(trusted_wall).map(|(now, then)| now.saturating_sub(then));
                since_first.max(by_wall.unwrap_or(0))
            }
        };
        Duration::from_nanos(nano)
    }

    /// The same as a time since the present boot, in ns; before it when negative.
    pub(super) fn on_present_clock(&self, age: Duration) -> i64 {
        i64::try_from(i128::from(self.now.nano) - age.as_nanos() as i128).unwrap_or(i64::MIN)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use perigee_shared::clock::ClockBounds;
    use perigee_shared::env::Clock;
    use proptest::prelude::*;

    use super::*;

    const S: u64 = 1_000_000_000;
    const DAY: u64 = 86_400 * S;
    /// The true time at which everything begins, and what clocks are held against.
    const START: u64 = 1_000 * DAY;
    const END: u64 = 3_000 * DAY;

    /// A machine: the true time, when it was started, and what its clock shows instead of the true time.
    #[derive(Default)]
    struct Machine {
        now: AtomicU64,
        boot: AtomicU64,
        booted: AtomicU64,
        /// Added to the true time, wrapping.
        error: AtomicU64,
    }

    impl Clock for Machine {
        fn unix_nano(&self) -> u64 {
            self.now.load(Ordering::Relaxed).wrapping_add(self.error.load(Ordering::Relaxed))
        }

        fn since_boot(&self) -> SinceBoot {
            let nano = self.now.load(Ordering::Relaxed) - self.booted.load(Ordering::Relaxed);
            SinceBoot { boot: self.boot.load(Ordering::Relaxed), nano }
        }
    }

    struct Bench {
        machine: Arc<Machine>,
        env: Env,
        boots: Boots,
    }

    impl Bench {
        fn new() -> Self {
            let machine = Arc::new(Machine::default());
            machine.now.store(START, Ordering::Relaxed);
            machine.booted.store(START, Ordering::Relaxed);
            let mut env = Env::production();
            env.bounds = Arc::new(ClockBounds::new(START));
            env.bounds.set_end(END);
            env.clock = Arc::clone(&machine) as Arc<dyn Clock>;
            let mut bench = Self { machine, env, boots: Boots::default() };
            bench.note();
            bench
        }

        fn note(&mut self) {
            if let Some(row) = self.boots.due(&self.env, MINUTE) {
                self.boots.note(row);
            }
        }

        fn pass(&self, time: u64) {
            self.machine.now.fetch_add(time, Ordering::Relaxed);
        }

        /// The machine is off for `time`, and its clock shows `clock` when it starts.
        fn reboot(&mut self, time: u64, clock: u64) {
            self.pass(time);
            self.machine.boot.fetch_add(1, Ordering::Relaxed);
            self.machine.booted.store(self.machine.now.load(Ordering::Relaxed), Ordering::Relaxed);
            self.set(clock);
            self.note();
        }

        fn set(&self, clock: u64) {
            let error = clock.wrapping_sub(self.machine.now.load(Ordering::Relaxed));
            self.machine.error.store(error, Ordering::Relaxed);
        }

        fn set_right(&self) {
            self.machine.error.store(0, Ordering::Relaxed);
        }

        fn at(&self) -> SinceBoot {
            self.env.since_boot()
        }

        fn age(&self, at: SinceBoot) -> u64 {
            self.boots.ages(&self.env).of(Some(at), None).as_nanos() as u64
        }
    }

    #[test]
    fn within_a_boot_age_is_what_has_passed_whatever_the_clock_shows() {
        let bench = Bench::new();
        bench.set(0);
        let sealed = bench.at();
        bench.pass(600 * S);
        bench.set_right();
        assert_eq!(
            bench.age(sealed),
            600 * S,
            "ten minutes old, though it was sealed in 1970 and it is years later now"
        );
        bench.set(END - DAY);
        assert_eq!(bench.age(sealed), 600 * S);
    }

    #[test]
    fn time_off_counts_between_two_trusted_clocks_alone() {
        let mut bench = Bench::new();
        let sealed = bench.at();
        bench.pass(DAY);
        bench.note();
        bench.reboot(10 * DAY, 0);
        bench.pass(5 * S);
        assert_eq!(bench.age(sealed), DAY + 5 * S, "at 1970 only what is known to have passed");
        let in_1970 = bench.at();
        bench.set_right();
        assert_eq!(bench.age(sealed), 11 * DAY + 5 * S);
        assert_eq!(bench.age(in_1970), 0);
        bench.reboot(DAY, 0);
        assert_eq!(bench.age(sealed), DAY, "neither that it was set right nor its last seconds were noted");
    }

    #[test]
    fn a_clock_that_was_right_once_in_a_boot_says_when_that_began() {
        let mut bench = Bench::new();
        bench.reboot(DAY, 0);
        let sealed = bench.at();
        bench.pass(100 * S);
        bench.set_right();
        bench.note();
        bench.reboot(20 * DAY, 0);
        bench.set_right();
        assert_eq!(bench.age(sealed), 20 * DAY + 100 * S);
    }

    #[test]
    fn what_was_sealed_by_earlier_software_is_as_old_as_its_trusted_clock_says_or_as_the_record() {
        let mut bench = Bench::new();
        bench.pass(DAY);
        bench.note();
        let ages = bench.boots.ages(&bench.env);
        assert_eq!(ages.of(None, None), Duration::from_nanos(DAY));
        assert_eq!(ages.of(None, Some(START - DAY)), Duration::from_nanos(2 * DAY));
        let forgotten = SinceBoot { boot: 77, nano: 0 };
        assert_eq!(ages.of(Some(forgotten), None), Duration::from_nanos(DAY));
        assert_eq!(ages.on_present_clock(Duration::from_nanos(2 * DAY)), -(DAY as i64));
    }

    #[test]
    fn of_many_boots_the_latest_are_kept_and_nothing_becomes_older_by_it() {
        let mut bench = Bench::new();
        let sealed = bench.at();
        for _ in 0..1_000 {
            bench.pass(S);
            bench.reboot(S, 0);
        }
        assert_eq!(bench.boots.0.len(), KEPT);
        bench.pass(DAY);
        assert!((DAY..DAY + 2_000 * S).contains(&bench.age(sealed)), "{}", bench.age(sealed));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Pass(u64),
        Seal,
        Note,
        SetRight,
        /// To a time that no clock can have: early or late, and by how much.
        SetWrong(bool, u64),
        Reboot {
            off: u64,
            wrong: Option<u64>,
        },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..3 * DAY).prop_map(Step::Pass),
            3 => Just(Step::Seal),
            2 => Just(Step::Note),
            1 => Just(Step::SetRight),
            2 => (any::<bool>(), 0..20 * 365 * DAY).prop_map(|(late, by)| Step::SetWrong(late, by)),
            2 => (0..9 * DAY, proptest::option::of(0..START)).prop_map(|(off, wrong)| Step::Reboot { off, wrong }),
        ];
        proptest::collection::vec(step, 1..120)
    }

    proptest! {
        /// Whatever the order of boots and settings: nothing is called older than it is, and with a clock that is right since the boot
        /// in which it was sealed, nothing younger.
        #[test]
        fn prop_nothing_is_called_older_than_it_is_and_with_trusted_clocks_not_younger(steps in steps()) {
            let mut bench = Bench::new();
            let mut sealed: Vec<(SinceBoot, u64, bool)> = Vec::new();
            // Whether the clock was right when the present boot was noted first.
            let mut right = true;
            for step in steps {
                match step {
                    Step::Pass(time) => bench.pass(time),
                    Step::Seal => {
                        // As in the log: the row is in the transaction of the segment.
                        bench.note();
                        right |= bench.env.wall().trusted().is_some();
                        sealed.push((bench.at(), bench.machine.now.load(Ordering::Relaxed), right));
                    }
                    Step::Note => {
                        bench.note();
                        right |= bench.env.wall().trusted().is_some();
                    }
                    Step::SetRight => bench.set_right(),
                    // So early that it is not plausible before the end.
                    Step::SetWrong(false, by) => bench.set(START.saturating_sub(400 * DAY + by)),
                    Step::SetWrong(true, by) => bench.set(END + 1 + by),
                    Step::Reboot { off, wrong } => {
                        bench.reboot(off, 0);
                        match wrong {
                            Some(clock) => bench.set(clock.min(START - 400 * DAY)),
                            None => bench.set_right(),
                        }
                        bench.note();
                        right = wrong.is_none();
                    }
                }
                let now = bench.machine.now.load(Ordering::Relaxed);
                prop_assume!(now < END);
                for (at, then, was_right) in &sealed {
                    let (age, truth) = (bench.age(*at), now - then);
                    prop_assert!(age <= truth, "{age} ns, and it is {truth}");
                    if *was_right && bench.env.wall().trusted().is_some() {
                        prop_assert_eq!(age, truth);
                    }
                }
            }
        }
    }
}
