//! A store under test, and what keeps it running as a service manager would: started again when it has ended, called under
//! `catch_unwind`, with everything noted.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Once;

use perigee_shared::env::Env;

use crate::history::{Account, Event, Item, Side};
use crate::world::World;

/// So many starts that fail one after the other, on a disk that works, are a crash loop.
const CRASH_LOOP: u32 = 5;

/// What an alarm at the start says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// Why the file was moved aside.
    pub why: String,
}

/// Why a store did not do something. `broken`: it will not, however often it is asked.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What it said.
    pub why: String,
    /// Only a new start may help.
    pub broken: bool,
}

/// One of the two stores. The two files that implement it are all that knows the stores' interfaces.
pub trait Subject: Sized {
    /// Whose store it is.
    const SIDE: Side;
    /// A panic in a call ends the process with an exit code, and a service manager starts it again.
    const PANIC_ENDS_PROCESS: bool;
    /// The name of its file in its directory.
    const FILE: &'static str;

    /// Opens it as a start of the program does.
    fn open(env: &Env, directory: &Path) -> Result<(Self, Option<Quarantined>), Failure>;
    /// Ends it in order.
    fn close(self) -> Result<(), Failure>;
    /// Does what the program does after a call that failed, before it calls again.
    fn after_failure(&mut self);
    /// Where it says its items are.
    fn account(&mut self) -> Result<Account, Failure>;
    /// Everything that it would deliver, decoded.
    fn held(&mut self) -> Result<Vec<Item>, Failure>;
}

/// Keeps a store running.
pub struct Keeper<S> {
    store: Option<S>,
    /// Its last call failed.
    failing: bool,
    failed_starts: u32,
    loops: bool,
    /// The next start follows a power cut.
    power_cut: bool,
    /// A panic that is judged by what the next start makes of it.
    panicked: Option<String>,
}

impl<S: Subject> Keeper<S> {
    /// Not started yet.
    pub const fn new() -> Self {
        Self { store: None, failing: false, failed_starts: 0, loops: false, power_cut: false, panicked: None }
    }

    /// Whether it ended at each of several starts.
    pub const fn loops(&self) -> bool {
        self.loops
    }

    /// Whether it runs.
    pub const fn runs(&self) -> bool {
        self.store.is_some()
    }

    /// Starts the store if it does not run. `judged`: a start that fails now is the store's fault.
    pub fn start(&mut self, world: &mut World, judged: bool) -> bool {
        if self.store.is_some() {
            return true;
        }
        if self.loops {
            return false;
        }
        world.note(Event::Restart { side: S::SIDE, power_cut: std::mem::take(&mut self.power_cut) });
        let (env, directory) = (world.env(S::SIDE), world.directory(S::SIDE));
        let opened = quietly(|| S::open(&env, &directory));
        let (opened, panicked) = match opened {
            Ok(opened) => (opened, false),
            Err(why) => (Err(Failure { why, broken: true }), true),
        };
        match opened {
            Ok((store, quarantined)) => {
                self.settle_panic(world, quarantined.is_some());
                if let Some(Quarantined { why }) = quarantined {
                    let name = format!("quarantined: {why}");
                    world.note(Event::Alarm { side: S::SIDE, name, items: [0; 3], unknown: false });
                }
                world.note(Event::Reopened { side: S::SIDE });
                (self.store, self.failing, self.failed_starts) = (Some(store), false, 0);
                true
            }
            Err(failure) => {
                world.disk(S::SIDE).kill();
                world.time.advance(1_100);
                if judged && !world.disk(S::SIDE).is_off() {
                    self.failed_starts += 1;
                    if panicked && self.failed_starts == 1 {
                        world.note(Event::Panic { side: S::SIDE, why: failure.why.clone(), handled: false });
                    }
                    if self.failed_starts >= CRASH_LOOP {
                        self.loops = true;
                        self.settle_panic(world, false);
                        world.note(Event::CrashLoop { side: S::SIDE, why: failure.why });
                    }
                }
                false
            }
        }
    }

    fn settle_panic(&mut self, world: &mut World, quarantined: bool) {
        if let Some(why) = self.panicked.take() {
            let handled = quarantined || S::PANIC_ENDS_PROCESS;
            world.note(Event::Panic { side: S::SIDE, why, handled });
        }
    }

    /// Calls the store, started first if need be. `None`: it does not run, failed or panicked, or the power is gone.
    pub fn call<R>(
        &mut self,
        world: &mut World,
        judged: bool,
        work: impl FnOnce(&mut S) -> Result<R, Failure>,
    ) -> Option<R> {
        if !self.start(world, judged) {
            return None;
        }
        let store = self.store.as_mut()?;
        match quietly(|| work(store)) {
            Ok(Ok(out)) => {
                if std::mem::take(&mut self.failing) {
                    world.note(Event::Reopened { side: S::SIDE });
                }
                Some(out)
            }
            Ok(Err(failure)) => {
                self.failing = true;
                if world.disk(S::SIDE).is_off() {
                    return None;
                }
                if failure.broken {
                    self.kill(world);
                } else if quietly(|| store.after_failure()).is_err() {
                    self.panicked.get_or_insert_with(|| "a panic after a failure".to_owned());
                    self.kill(world);
                }
                None
            }
            Err(why) => {
                self.panicked.get_or_insert(why);
                self.kill(world);
                None
            }
        }
    }

    /// kill -9.
    pub fn kill(&mut self, world: &World) {
        world.disk(S::SIDE).kill();
        if let Some(store) = self.store.take() {
            // What it does when it is let go it does to a file that is dead.
            let _ = quietly(|| drop(store));
        }
    }

    /// The power goes: what was not synced is lost, but for what `torn` leaves of it.
    pub fn cut_power(&mut self, world: &World, torn: Option<u64>) {
        self.kill(world);
        self.power_cut = true;
        match torn {
            Some(seed) => world.disk(S::SIDE).restart_torn(seed),
            None => world.disk(S::SIDE).restart(),
        }
    }

    /// Ends it in order; it is started again with the next call.
    pub fn stop(&mut self, world: &mut World) {
        if let Some(store) = self.store.take() {
            if let Err(why) = quietly(|| drop(store.close())) {
                self.panicked.get_or_insert(why);
            }
            world.disk(S::SIDE).kill();
        }
    }
}

impl<S: Subject> Default for Keeper<S> {
    fn default() -> Self {
        Self::new()
    }
}

thread_local! {
    /// The message of a panic on this thread while it is quiet.
    static CAUGHT: RefCell<Option<Option<String>>> = const { RefCell::new(None) };
}

/// Runs `work`; a panic in it is handed back and not shown.
pub(crate) fn quietly<R>(work: impl FnOnce() -> R) -> Result<R, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let shown = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let quiet = CAUGHT.with_borrow_mut(|caught| match caught {
                Some(message) => {
                    message.get_or_insert_with(|| info.to_string().replace('\n', " "));
                    true
                }
                None => false,
            });
            if !quiet {
                shown(info);
            }
        }));
    });
    CAUGHT.set(Some(None));
    let result = catch_unwind(AssertUnwindSafe(work));
    let message = CAUGHT.take().flatten();
    result.map_err(|_| message.unwrap_or_else(|| "a panic without a message".to_owned()))
}
