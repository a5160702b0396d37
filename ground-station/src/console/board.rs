//! What pages and streams of events share: one look at the spool a second, whatever is asked and by however many.
//!
//! A look is kept for a second, and longer where it takes more than 25 ms, which is so with thousands of satellites. A look that was
//! not needed is spared, one at most: what changes after a quiet second is looked at at once. What changed between two looks goes to
//! every stream in the same bytes. A page is rendered once a look.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use perigee_proto::link;
use perigee_shared::env::Env;
use perigee_shared::export::Failing;
use perigee_shared::serve::CertificateEnd;
use perigee_shared::supervise::expecting;
use serde::Serialize;
use tokio::sync::{Notify, broadcast};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::attention::{self, Level, Note};
use super::track::{self, Track};
use crate::link::{Connected, LinkView, Point};
use crate::spool::{
    ExporterDigest, Glance, ItemView, KnownLists, News, Records, SatelliteDigest, SpoolError, SpoolView,
    Store,
};
use crate::telemetry::Metrics;

/// From the beginning of a look to the end of the next, at least.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The longest time between two looks.
const LOOK_AT_LEAST: Duration = Duration::from_secs(5);

/// What a look takes beyond [`FREE`] is made up for by keeping it for so many times as long.
const SHARE: u32 = 50;

/// What a look may take that is kept no longer than others: by so much, at most, the next begins earlier, so that it ends in time.
const FREE: Duration = Duration::from_millis(25);

/// What it takes to tell of a look, and what a timer may be late.
const TELLING: Duration = Duration::from_millis(10);

/// The shortest time between two looks at the links alone, which ask the store nothing.
const LINKS_EVERY: Duration = Duration::from_millis(500);

/// A stream hears at least so often that all is as it was.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// See [`HEARTBEAT`], while a link is open: rates change although the store does not.
const LINKED_HEARTBEAT: Duration = Duration::from_secs(2);

/// Pieces of news that wait for a slow stream: three a second while a link is open.
const NEWS: usize = 24;

/// Satellites in one piece of news, at most.
const MOST_CHANGED: usize = 200;

/// Rendered pages that are kept for a look, and their bytes.
const PAGES: usize = 32;
/// See [`PAGES`].
const PAGE_BYTES: usize = 4 << 20;

/// The latest items that are kept.
const ITEMS: usize = 1_000;
/// Of one segment, at most.
const ITEMS_OF_ONE: usize = 200;
/// OTLP bytes that are decoded for a look at items, at most.
const DECODED: u64 = 4 << 20;

/// A satellite as pages show it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Row {
    #[serde(flatten)]
    pub(super) digest: SatelliteDigest,
    pub(super) link: Option<LinkView>,
    /// Other stations of a shared ledger that have a link open with it.
    pub(super) linked_at: Vec<String>,
    /// Payload bytes over the link a second, as of late.
    pub(super) bytes_per_second: f64,
    /// Payload bytes over the link since this program began.
    pub(super) received_bytes: u64,
    pub(super) level: Level,
    pub(super) notes: Vec<Note>,
}

/// An exporter as pages show it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Backend {
    #[serde(flatten)]
    pub(super) digest: ExporterDigest,
    /// Items that it took since this program began.
    pub(super) sent_items: u64,
    /// Items a second, as of late.
    pub(super) items_per_second: f64,
    pub(super) trouble: Option<Failing>,
}

/// What was seen in a look.
#[derive(Debug)]
pub(super) struct Shown {
    /// When, ns since the Unix epoch.
    pub(super) at: u64,
    taken: Instant,
    /// What needs a human first.
    pub(super) rows: Vec<Row>,
    pub(super) spool: SpoolView,
    pub(super) backends: Vec<Backend>,
    /// What needs a human of this station.
    pub(super) notes: Vec<Note>,
    /// This station's certificates: whose, and when each ends.
    pub(super) certificates: Vec<(&'static str, u64)>,
}

/// A look.
#[derive(Clone)]
pub(super) struct Look {
    pub(super) number: u64,
    pub(super) glance: Glance,
    pub(super) shown: Arc<Shown>,
    /// How long it is kept.
    keep: Duration,
}

/// Open links at one moment.
#[derive(Debug)]
pub(super) struct Links {
    pub(super) number: u64,
    taken: Instant,
    /// By satellite.
    pub(super) of: BTreeMap<String, LinkView>,
}

/// How long a look is kept, by what the last two took. One that took long since the machine was busy makes no update late; a large store
/// takes long each time.
fn kept(took: [Duration; 2]) -> Duration {
    let (least, most) = (took[0].min(took[1]), took[0].max(took[1]));
    (least.saturating_sub(FREE) * SHARE).clamp(LOOK_EVERY - (most + TELLING).min(FREE), LOOK_AT_LEAST)
}

/// The look before.
struct Before {
    number: u64,
    /// For rates.
    shown: Arc<Shown>,
    took: Duration,
    /// When what changes may be looked at again: at once if a look was spared.
    due: Instant,
}

#[derive(Default)]
struct Pages {
    of: u64,
    rendered: BTreeMap<String, Bytes>,
    bytes: usize,
}

#[derive(Default)]
struct Items {
    newest: u64,
    /// The latest first.
    latest: Arc<Vec<ItemView>>,
}

/// Tracks that are kept, one for each satellite that was looked at last.
const TRACKS: usize = 64;

/// A satellite without a pass to draw is looked at again after so long, ns.
const TRACK_AGAIN: u64 = 600 * 1_000_000_000;

/// The track of a satellite's next pass, or why there is none.
pub(super) type Drawn = Arc<Result<Track, String>>;

struct KeptTrack {
    /// From these elements.
    orbit: link::Orbit,
    /// It is that of the next pass until then, ns since the Unix epoch.
    until: u64,
    drawn: Drawn,
}

struct Inner {
    store: Store,
    metrics: Metrics,
    connected: Connected,
    env: Env,
    look: tokio::sync::Mutex<Option<Look>>,
    links: Mutex<Option<Arc<Links>>>,
    before: Mutex<Option<Before>>,
    /// What the look before has read; nothing, while one is being taken.
    records: Mutex<Records>,
    pages: Mutex<Pages>,
    items: tokio::sync::Mutex<Items>,
    tracks: tokio::sync::Mutex<BTreeMap<String, KeptTrack>>,
    /// Listeners' certificates: whose, and when each ends.
    certificates: Mutex<Vec<(&'static str, CertificateEnd)>>,
    news: broadcast::Sender<Bytes>,
    /// Somebody has begun to listen.
    listens: Notify,
}

/// What pages and streams share.
#[derive(Clone)]
pub(super) struct Board(Arc<Inner>);

impl Board {
    pub(super) fn new(store: Store, metrics: Metrics, connected: Connected, env: Env) -> Self {
        Self(Arc::new(Inner {
            store,
            metrics,
            connected,
            env,
            look: Default::default(),
            links: Default::default(),
            before: Default::default(),
            records: Default::default(),
            pages: Default::default(),
            items: Default::default(),
            tracks: Default::default(),
            certificates: Default::default(),
            news: broadcast::Sender::new(NEWS),
            listens: Notify::new(),
        }))
    }

    pub(super) fn has_certificate(&self, whose: &'static str, end: CertificateEnd) {
        lock(&self.0.certificates).push((whose, end));
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    pub(super) fn store(&self) -> &Store {
        &self.0.store
    }

    pub(super) fn now(&self) -> u64 {
        self.0.env.unix_nano()
    }

    /// The latest look; a new one when that is old enough.
    pub(super) async fn look(&self) -> Result<Look, SpoolError> {
        let mut latest = self.0.look.lock().await;
        if let Some(look) = latest.as_ref().filter(|look| look.shown.taken.elapsed() < look.keep) {
            return Ok(look.clone());
        }
        // What it holds of the file is let go before another one is taken.
        *latest = None;
        let began = Instant::now();
        let glance = self.0.store.views().glance().await?;
        let elsewhere = self.0.store.views().linked_elsewhere().await?;
        let records = std::mem::take(&mut *lock(&self.0.records));
        let (records, digest) = glance.digest(records).await?;
        *lock(&self.0.records) = records;
        let took = began.elapsed();
        let (number, shown, keep) = {
            let mut before = lock(&self.0.before);
            let number = before.as_ref().map_or(0, |before| before.number) + 1;
            let keep = kept([took, before.as_ref().map_or(Duration::ZERO, |before| before.took)]);
            let shown = Arc::new(self.shown(
                (digest, elsewhere),
                began,
                before.as_ref().map(|before| &*before.shown),
            ));
            let due = before.as_ref().map_or(began, |before| (before.due + keep).max(began));
            *before = Some(Before { number, shown: Arc::clone(&shown), took, due });
            (number, shown, keep)
        };
        let look = Look { number, glance, shown, keep };
        *latest = Some(look.clone());
        drop(latest);
        // Nobody may ask again, and what it holds of the file is not given back meanwhile.
        self.0.metrics.spawn("console look", let_go(Arc::downgrade(&self.0), number));
        Ok(look)
    }

    /// Open links as of half a second ago or later.
    pub(super) fn links(&self) -> Arc<Links> {
        let mut latest = lock(&self.0.links);
        let before = latest.as_ref();
        if let Some(links) = before.filter(|links| links.taken.elapsed() < LINKS_EVERY) {
            return Arc::clone(links);
        }
        let number = before.map_or(1, |before| before.number + 1);
        let links = Links { number, taken: Instant::now(), of: self.0.connected.links() };
        Arc::clone(latest.insert(Arc::new(links)))
    }

    /// What a satellite said over time.
    pub(super) fn history(&self, satellite: &str) -> Vec<Point> {
        self.0.connected.history().of(satellite)
    }

    /// Something was done: what was seen before is old.
    pub(super) async fn forget(&self) {
        *self.0.look.lock().await = None;
    }

    /// When what changes may be looked at.
    fn due(&self) -> Instant {
        lock(&self.0.before).as_ref().map_or_else(Instant::now, |before| before.due)
    }

    fn shown(
        &self,
        (digest, mut elsewhere): (crate::spool::Digest, BTreeMap<String, Vec<String>>),
        taken: Instant,
        before: Option<&Shown>,
    ) -> Shown {
        let inner = &self.0;
        let at = inner.env.unix_nano();
        let seconds = before.map_or(0.0, |before| taken.duration_since(before.taken).as_secs_f64());
        let rate = |now: u64, then: Option<u64>| match then {
            Some(then) if seconds > 0.1 => now.saturating_sub(then) as f64 / seconds,
            _ => 0.0,
        };
        let (connected, links) = (inner.connected.satellites(), inner.connected.links());
        let known: BTreeMap<&str, u64> = before
            .iter()
            .flat_map(|before| &before.rows)
            .map(|row| (row.digest.satellite.as_str(), row.received_bytes))
            .collect();
        let sent: BTreeMap<&str, u64> = before
            .iter()
            .flat_map(|before| &before.backends)
            .map(|backend| (backend.digest.name.as_str(), backend.sent_items))
            .collect();
        let troubles: Vec<(String, Failing)> = digest
            .exporters
            .iter()
            .filter_map(|e| Some((e.name.clone(), inner.metrics.failing(&e.name)?)))
            .collect();
        let status = inner.store.status().borrow().clone();
        let health = inner.metrics.trouble();
        let own = inner.metrics.certificate_end().map(|end| ("this station's certificate", end));
        let listeners = lock(&inner.certificates);
        let listeners = listeners.iter().filter_map(|(whose, end)| Some((*whose, end.unix_nano()?)));
        let certificates: Vec<_> = own.into_iter().chain(listeners).collect();
        let notes = attention::of_station(&digest, &status, &troubles, health, &certificates, at);
        let backends = digest.exporters.into_iter().map(|digest| {
            let sent_items = inner.metrics.sent_by(&digest.name);
            let items_per_second = rate(sent_items, sent.get(digest.name.as_str()).copied());
            let trouble = troubles.iter().find(|(name, _)| *name == digest.name).map(|(_, t)| t.clone());
            Backend { digest, sent_items, items_per_second, trouble }
        });
        let rows = digest.satellites.into_iter().map(|mut digest| {
            let name = digest.satellite.clone();
            let linked_at = elsewhere.remove(&name).unwrap_or_default();
            digest.connected = !linked_at.is_empty();
            if let Some(heard) = connected.get(&name) {
                digest.connected = true;
                digest.standing.last_heard_unix_nano = *heard;
            }
            let notes = attention::of_satellite(&digest, at);
            let received_bytes = inner.metrics.received_from(&name);
            Row {
                bytes_per_second: rate(received_bytes, known.get(name.as_str()).copied()),
                link: links.get(&name).cloned(),
                linked_at,
                level: attention::gravest(&notes),
                received_bytes,
                notes,
                digest,
            }
        });
        let mut rows: Vec<Row> = rows.collect();
        rows.sort_by_key(|row| std::cmp::Reverse((row.level, row.digest.connected)));
        Shown { at, taken, backends: backends.collect(), spool: digest.spool, rows, notes, certificates }
    }

    /// A page that was rendered from this look before.
    pub(super) fn rendered(&self, look: &Look, address: &str) -> Option<Bytes> {
        let pages = lock(&self.0.pages);
        pages.rendered.get(address).filter(|_| pages.of == look.number).cloned()
    }

    /// Keeps a page for those who ask for the same.
    pub(super) fn keep(&self, look: &Look, address: &str, page: &Bytes) {
        let mut pages = lock(&self.0.pages);
        if pages.of != look.number {
            *pages = Pages { of: look.number, ..Pages::default() };
        }
        if pages.rendered.len() < PAGES && pages.bytes + page.len() <= PAGE_BYTES {
            pages.bytes += page.len();
            pages.rendered.insert(address.to_owned(), page.clone());
        }
    }

    /// The latest items, decoded away from the spool's thread, by one at a time.
    pub(super) async fn items(&self, look: &Look) -> Result<Arc<Vec<ItemView>>, SpoolError> {
        let mut items = self.0.items.lock().await;
        let tail = look.glance.tail(items.newest, DECODED, ITEMS_OF_ONE).await?;
        if !tail.items.is_empty() {
            let mut latest = tail.items;
            latest.extend(items.latest.iter().take(ITEMS.saturating_sub(latest.len())).cloned());
            latest.truncate(ITEMS);
            items.latest = Arc::new(latest);
        }
        items.newest = items.newest.max(tail.newest);
        Ok(Arc::clone(&items.latest))
    }

    /// The track of a satellite's next pass, computed away from the spool's thread, one at a time, and kept until the pass is over or the
    /// satellite says another orbit.
    pub(super) async fn track(&self, look: &Look, satellite: &str) -> Result<Drawn, SpoolError> {
        let Some(orbit) = look.glance.orbit(satellite.to_owned()).await? else {
            let row = look.shown.rows.iter().find(|row| row.digest.satellite == satellite);
            return Ok(Arc::new(Err(track::untold(row.and_then(|row| row.digest.standing.plan.as_ref())))));
        };
        let now = look.shown.at;
        let mut tracks = self.0.tracks.lock().await;
        let kept = tracks.get(satellite).filter(|kept| now < kept.until && kept.orbit == orbit);
        if let Some(kept) = kept {
            return Ok(Arc::clone(&kept.drawn));
        }
        let work = {
            let orbit = orbit.clone();
            // Whatever a satellite says, the page is there.
            move || expecting(|| track::of(&orbit, now)).unwrap_or_else(|_| Err(track::panicked()))
        };
        let drawn: Drawn = Arc::new(self.0.env.cpu(work).await);
        let until = drawn.as_ref().as_ref().map_or(now.saturating_add(TRACK_AGAIN), Track::until);
        if tracks.len() >= TRACKS && !tracks.contains_key(satellite) {
            tracks.pop_first();
        }
        tracks.insert(satellite.to_owned(), KeptTrack { orbit, until, drawn: Arc::clone(&drawn) });
        Ok(drawn)
    }

    /// Listens to what changes.
    pub(super) fn listen(&self) -> broadcast::Receiver<Bytes> {
        let news = self.0.news.subscribe();
        self.0.listens.notify_one();
        news
    }

    /// Looks whenever something has changed and somebody listens, until `stop`.
    pub(super) async fn run(&self, stop: CancellationToken) {
        let (mut status, mut lists) = (self.0.store.status(), self.0.store.lists());
        // What streams were told last; nothing while nobody listens.
        let mut told = None::<Told>;
        // When they hear that all is as it was.
        let mut beat = Instant::now();
        let mut is_up = false;
        loop {
            if self.0.news.receiver_count() == 0 {
                (told, is_up) = (None, false);
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    () = self.0.listens.notified() => {}
                }
            }
            let due = self.due();
            let begun = told.is_some();
            let again = async {
                if begun {
                    tokio::time::sleep_until(due).await;
                    tokio::select! {
                        biased;
                        _ = status.changed() => {}
                        _ = lists.changed() => {}
                        () = self.0.listens.notified() => {}
                        () = tokio::time::sleep_until(beat) => {}
                    }
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = again => {}
                () = tokio::time::sleep(LINKS_EVERY), if begun => {
                    let links = self.links();
                    let was_up = std::mem::replace(&mut is_up, !links.of.is_empty());
                    if is_up || was_up {
                        drop(self.0.news.send(of_links(&links)));
                    }
                    if is_up != was_up {
                        beat = Instant::now();
                    }
                    continue;
                }
            }
            status.borrow_and_update();
            lists.borrow_and_update();
            if begun {
                self.forget().await;
            }
            match self.look().await {
                Ok(look) => {
                    let frames = self.frames(told.get_or_insert_default(), &look).await;
                    beat = Instant::now() + if is_up { LINKED_HEARTBEAT } else { HEARTBEAT };
                    // Nobody may listen any more.
                    drop(self.0.news.send(frames));
                }
                Err(SpoolError::Gone) => return,
                Err(error) => {
                    tracing::warn!(%error, "the console cannot look at the spool");
                    tokio::time::sleep(HEARTBEAT).await;
                }
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets a look go when its time is over. What waits here keeps neither the board nor the spool.
async fn let_go(board: Weak<Inner>, number: u64) {
    while let Some(inner) = board.upgrade() {
        let mut latest = inner.look.lock().await;
        let Some(look) = latest.as_ref().filter(|look| look.number == number) else { return };
        let due = look.shown.taken + look.keep;
        if due <= Instant::now() {
            *latest = None;
            *lock(&inner.pages) = Pages::default();
            return;
        }
        drop(latest);
        drop(inner);
        tokio::time::sleep_until(due).await;
    }
}

/// One server-sent event.
fn frame(out: &mut String, event: &str, data: &impl Serialize) {
    // What is shown has no maps with keys that are no texts.
    let json = serde_json::to_string(data).unwrap_or_else(|_| "null".to_owned());
    out.push_str(&format!("event: {event}\ndata: {json}\n\n"));
}

/// Open links, as a server-sent event.
fn of_links(links: &Links) -> Bytes {
    let mut out = String::new();
    let of: BTreeMap<_, _> = links.of.iter().take(MOST_CHANGED).collect();
    frame(&mut out, "links", &serde_json::json!({ "number": links.number, "links": of }));
    out.into()
}

/// What streams were told last.
#[derive(Default)]
struct Told {
    shown: Option<Arc<Shown>>,
    /// Of passes, gaps and dead letters.
    known: KnownLists,
}

impl Board {
    /// What is different from what was told, as server-sent events; the last one says which look this is.
    async fn frames(&self, told: &mut Told, look: &Look) -> Bytes {
        let before = told.shown.replace(Arc::clone(&look.shown));
        let (mut out, changed) = of_look(before.as_deref(), &look.shown);
        match look.glance.news(std::mem::take(&mut told.known), changed).await {
            Ok((known, news)) => {
                told.known = known;
                of_lists(&mut out, &news);
            }
            Err(error) => tracing::warn!(%error, "the console cannot tell what is new in its lists"),
        }
        let changed = !out.is_empty();
        let look =
            serde_json::json!({ "number": look.number, "unix_nano": look.shown.at, "changed": changed });
        frame(&mut out, "look", &look);
        out.into()
    }
}

/// What is new in the lists.
fn of_lists(out: &mut String, news: &News) {
    fn each<T: Serialize>(out: &mut String, (event, list): (&str, &str), rows: &[T]) {
        for row in rows.iter().take(MOST_CHANGED) {
            frame(out, event, row);
        }
        if rows.len() > MOST_CHANGED {
            frame(out, "more", &BTreeMap::from([(list, rows.len())]));
        }
    }
    each(out, ("pass", "passes"), &news.passes);
    each(out, ("gap", "gaps"), &news.gaps);
    each(out, ("dead-letter", "dead_letters"), &news.letters);
    if !news.letters_gone.is_empty() {
        frame(out, "dead-letters-gone", &serde_json::json!({ "ids": news.letters_gone }));
    }
}

/// What is different in a look, as server-sent events, and of which satellites.
fn of_look(before: Option<&Shown>, now: &Shown) -> (String, BTreeSet<String>) {
    let (mut out, mut changed) = (String::new(), BTreeSet::new());
    let rows = before.iter().flat_map(|before| &before.rows);
    let rows: BTreeMap<&str, &Row> = rows.map(|row| (row.digest.satellite.as_str(), row)).collect();
    for row in &now.rows {
        let id = row.digest.satellite.as_str();
        if rows.get(id) != Some(&row) {
            changed.insert(id.to_owned());
            if changed.len() <= MOST_CHANGED {
                frame(&mut out, "satellite", row);
            }
        }
    }
    if changed.len() > MOST_CHANGED {
        frame(&mut out, "more", &serde_json::json!({ "satellites": changed.len() }));
    }
    for backend in &now.backends {
        if before.is_none_or(|before| !before.backends.contains(backend)) {
            frame(&mut out, "exporter", backend);
        }
    }
    if before.is_none_or(|before| before.spool != now.spool) {
        frame(&mut out, "spool", &now.spool);
    }
    if before.is_none_or(|before| before.notes != now.notes) {
        frame(&mut out, "notes", &now.notes);
    }
    (out, changed)
}

#[cfg(test)]
#[path = "board_tests.rs"]
mod tests;
