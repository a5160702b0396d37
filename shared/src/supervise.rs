//! Supervised tasks: a panic in one is logged, counted and shown by health, and the task starts again.
//!
//! A stage that panics keeps its value and runs again after [`PAUSE`]: what it must know to go on is in the store, so it repeats
//! at most what was undecided. One that panics more than [`RESTARTS`] times within [`WITHIN`] will not get better by itself; the
//! process is told to end then.

use std::any::Any;
use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::env::Env;

/// From a panic to the restart of its task.
pub const PAUSE: Duration = Duration::from_secs(1);

/// Restarts of one task within [`WITHIN`].
pub const RESTARTS: usize = 5;

/// See [`RESTARTS`].
pub const WITHIN: Duration = Duration::from_secs(600);

/// The exit code of a process whose task panicked too often: `EX_SOFTWARE` of sysexits.h.
pub const EXIT_CODE: u8 = 70;

/// The work of a stage, borrowed from it.
pub type Work<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// For tests: makes a future that ends when the task of that name is to panic.
pub type Plant = Arc<dyn Fn(&str) -> Work<'static> + Send + Sync>;

/// Starts tasks and watches them. Clones watch together.
#[derive(Clone)]
pub struct Supervisor {
    record: Arc<Record>,
    tasks: TaskTracker,
}

struct Record {
    plant: Option<Plant>,
    tasks: Mutex<BTreeMap<Arc<str>, Task>>,
    panics: Family<[(&'static str, String); 1], Counter>,
    given_up: watch::Sender<Option<Arc<str>>>,
}

#[derive(Default)]
struct Task {
    recent: VecDeque<Instant>,
    down: bool,
}

impl Supervisor {
    /// Watches nothing yet.
    pub fn new(env: &Env) -> Self {
        let (plant, tasks, panics) = (env.plant.clone(), Mutex::default(), Family::default());
        let record = Record { plant, tasks, panics, given_up: watch::Sender::default() };
        Self { record: Arc::new(record), tasks: TaskTracker::new() }
    }

    /// Another group of tasks, which is waited for by itself.
    pub fn group(&self) -> Self {
        Self { record: Arc::clone(&self.record), tasks: TaskTracker::new() }
    }

    /// Runs a stage until its work ends by itself.
    pub fn keep<S: Send + 'static>(
        &self,
        name: impl Into<Arc<str>>,
        mut stage: S,
        run: impl for<'a> Fn(&'a mut S) -> Work<'a> + Send + 'static,
    ) {
        let (record, name) = (Arc::clone(&self.record), name.into());
        record.begin(&name);
        self.tasks.spawn(async move {
            while let Err(panic) = caught(record.planted(&name, run(&mut stage))).await {
                if !record.note(&name, &*panic) {
                    break;
                }
                tokio::time::sleep(PAUSE).await;
                record.lock().entry(Arc::clone(&name)).or_default().down = false;
                tracing::info!(task = %name, "started again");
            }
        });
    }

    /// Runs a stage that ends when `stop` is cancelled.
    pub fn keep_until<S: Send + 'static>(
        &self,
        name: impl Into<Arc<str>>,
        stage: S,
        stop: &CancellationToken,
        run: impl for<'a> Fn(&'a mut S, CancellationToken) -> Work<'a> + Send + 'static,
    ) {
        let stop = stop.clone();
        self.keep(name, stage, move |stage| run(stage, stop.clone()));
    }

    /// What serves one peer: a panic in it is logged and counted under `name`, and ends it. It does not start again, since the
    /// peer comes again.
    pub fn watched(
        &self,
        name: &'static str,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
        let record = Arc::clone(&self.record);
        async move {
            if let Err(panic) = caught(record.planted(name, work)).await {
                record.count(&name.into(), &*panic);
            }
        }
    }

    /// Waits until every task of this group has ended; none is to be started any more.
    pub async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Waits until a task panicked too often; its name.
    pub async fn given_up(&self) -> Arc<str> {
        let mut given_up = self.record.given_up.subscribe();
        let found = given_up.wait_for(Option::is_some).await.ok().and_then(|name| name.clone());
        match found {
            Some(name) => name,
            None => std::future::pending().await,
        }
    }

    /// The tasks that have panicked within [`WITHIN`], which health tells too: most run again by the time that somebody looks.
    pub fn lately(&self) -> Vec<Arc<str>> {
        let now = Instant::now();
        let is_recent = |task: &Task| task.recent.back().is_some_and(|at| now.duration_since(*at) < WITHIN);
        self.record
            .lock()
            .iter()
            .filter(|(_, task)| is_recent(task))
            .map(|(name, _)| Arc::clone(name))
            .collect()
    }

    /// What health has to tell: the tasks that have panicked and do not run again yet.
    pub fn trouble(&self) -> Option<String> {
        let down = self.down();
        (!down.is_empty()).then(|| format!("panicked and not running: {}", down.join(", ")))
    }

    fn down(&self) -> Vec<Arc<str>> {
        self.record.lock().iter().filter(|(_, task)| task.down).map(|(name, _)| Arc::clone(name)).collect()
    }

    /// Adds the count of panics to a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "perigee_task_panics",
            "Panics by task; each is a bug in this program",
            self.record.panics.clone(),
        );
    }
}

impl Record {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Task>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, name: &Arc<str>) {
        self.lock().entry(Arc::clone(name)).or_default();
        drop(self.panics.get_or_create(&[("task", name.to_string())]));
    }

    /// Counts a panic; how many there were lately.
    fn count(&self, name: &Arc<str>, panic: &(dyn Any + Send)) -> usize {
        self.panics.get_or_create(&[("task", name.to_string())]).inc();
        tracing::error!(
            event.name = "perigee.task.panic",
            task = %name,
            message = literal(panic),
            "a task has panicked; please report it with the line before this one"
        );
        let (mut tasks, now) = (self.lock(), Instant::now());
        let recent = &mut tasks.entry(Arc::clone(name)).or_default().recent;
        recent.retain(|at| now.duration_since(*at) < WITHIN);
        recent.push_back(now);
        // Peers may have their tasks panic as often as they like.
        if recent.len() > RESTARTS + 1 {
            recent.pop_front();
        }
        recent.len()
    }

    /// Notes that a task has panicked; whether it may start again.
    fn note(&self, name: &Arc<str>, panic: &(dyn Any + Send)) -> bool {
        let again = self.count(name, panic) <= RESTARTS;
        self.lock().entry(Arc::clone(name)).or_default().down = true;
        if !again {
            self.given_up.send_replace(Some(Arc::clone(name)));
        }
        again
    }

    /// `work`, which panics when a test says so.
    async fn planted(&self, name: &str, work: impl Future<Output = ()>) {
        let Some(plant) = &self.plant else { return work.await };
        tokio::select! {
            biased;
            () = plant(name) => panic!("planted"),
            () = work => {}
        }
    }
}

/// Runs `work`; what it panicked with, if it did. It is dropped then.
async fn caught(work: impl Future<Output = ()>) -> Result<(), Box<dyn Any + Send>> {
    let mut work = Some(Box::pin(work));
    std::future::poll_fn(|cx| {
        let Some(polled) = &mut work else { return Poll::Ready(Ok(())) };
        // What a stage holds after a panic is as good as what it holds after an error: see the module.
        match catch_unwind(AssertUnwindSafe(|| polled.as_mut().poll(cx))) {
            Ok(poll) => poll.map(Ok),
            Err(panic) => {
                let dropped = catch_unwind(AssertUnwindSafe(|| drop(work.take())));
                if dropped.is_err() {
                    tracing::error!("a task that has panicked did so again when it was dropped");
                }
                Poll::Ready(Err(panic))
            }
        }
    })
    .await
}

/// The result of a task that a stage has started for itself; its panic is one of the stage.
pub fn joined<R>(result: Result<R, tokio::task::JoinError>) -> Option<R> {
    match result {
        Ok(out) => Some(out),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => None,
    }
}

thread_local! {
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`, whose panics are answers: they are not logged as bugs.
pub fn expecting<R>(work: impl FnOnce() -> R) -> std::thread::Result<R> {
    let before = EXPECTED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    EXPECTED.set(before);
    result
}

/// Has every panic of this process logged with its place.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = literal(panic.payload());
        if EXPECTED.get() {
            tracing::debug!(place, message, "a library panicked on what it was given");
        } else {
            tracing::error!(event.name = "perigee.panic", place, message, "panicked");
        }
    }));
}

/// The words of a panic, unless they may hold what was being worked on.
fn literal(panic: &(dyn Any + Send)) -> &'static str {
    panic.downcast_ref::<&'static str>().copied().unwrap_or("(its message may hold data and is not logged)")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn counted(supervisor: &Supervisor, task: &str) -> u64 {
        supervisor.record.panics.get_or_create(&[("task", task.to_owned())]).get()
    }

    #[tokio::test(start_paused = true)]
    async fn a_stage_that_panics_goes_on_with_what_it_has() {
        let supervisor = Supervisor::new(&Env::production());
        let done = Arc::new(AtomicU64::new(0));
        supervisor.keep("counter", (0, Arc::clone(&done)), |(n, done)| {
            Box::pin(async move {
                *n += 1;
                assert!(*n > 3, "planted");
                done.store(*n, Ordering::Relaxed);
            })
        });
        supervisor.ended().await;
        assert_eq!(done.load(Ordering::Relaxed), 4);
        assert_eq!((counted(&supervisor, "counter"), supervisor.down()), (3, Vec::new()));
        assert_eq!(supervisor.lately(), ["counter".into()]);
        tokio::time::advance(WITHIN).await;
        assert_eq!(supervisor.lately(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stage_that_panics_again_and_again_ends_the_process() {
        let supervisor = Supervisor::new(&Env::production());
        supervisor.keep("hopeless", (), |()| Box::pin(async { panic!("planted") }));
        assert_eq!(&*supervisor.given_up().await, "hopeless");
        assert_eq!(counted(&supervisor, "hopeless"), RESTARTS as u64 + 1);
        assert_eq!(supervisor.down(), ["hopeless".into()]);
    }

    #[tokio::test(start_paused = true)]
    async fn panics_that_are_far_apart_end_nothing() {
        let supervisor = Supervisor::new(&Env::production());
        supervisor.keep("now and then", 0, |n| {
            Box::pin(async move {
                *n += 1;
                tokio::time::sleep(WITHIN / 3).await;
                assert!(*n == 20, "planted");
            })
        });
        supervisor.ended().await;
        assert_eq!(counted(&supervisor, "now and then"), 19);
    }

    #[tokio::test]
    async fn a_peers_task_takes_no_other_with_it() {
        let supervisor = Supervisor::new(&Env::production());
        supervisor.watched("connection", async { panic!("planted") }).await;
        supervisor.watched("connection", async {}).await;
        assert_eq!((counted(&supervisor, "connection"), supervisor.trouble()), (1, None));
        for _ in 0..100 {
            supervisor.watched("connection", async { panic!("planted") }).await;
        }
        assert_eq!(supervisor.lately(), ["connection".into()]);
        assert!(supervisor.record.lock().values().all(|task| task.recent.len() <= RESTARTS + 1));
    }

    #[test]
    fn expected_panics_are_answers() {
        assert!(expecting(|| panic!("planted")).is_err());
        assert_eq!(expecting(|| 1).unwrap(), 1);
    }
}
