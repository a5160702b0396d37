//! What operators reach: the control socket, the metrics and the health endpoint.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use perigee_shared::contact::report::{shown_forecast, shown_pass};
use perigee_shared::contact::{Contact, check_rate};
use perigee_shared::env::{Env, Owner};
use perigee_shared::link::reason_name;
use perigee_shared::segment::Lane;
use perigee_shared::signal::{Counts, Signal};
use perigee_shared::supervise::Supervisor;
use perigee_shared::telemetry::{METRICS_CONTENT_TYPE, without_type_suffix};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::clock::Clocks;
use crate::contacts::{Asked, ContactControl, LinkState, LinkStatus, Links, Planned};
use crate::forecast;
use crate::lanes::Lanes;
use crate::limiter::{Limiter, Workspace};
use crate::people::contacts_text;
use crate::recode::{Recode, Report, recode};
use crate::shipper::Stations;

use crate::telemetry::Metrics;
use crate::wal::{LaneSummary, Summary, Wal, Wanted};

/// What the endpoints show and steer.
pub struct Control {
    /// The environment.
    pub env: Env,
    /// What is known of the time.
    pub clocks: Clocks,
    /// The log.
    pub wal: Owner<Wal>,
    /// Contacts; `None` without a link.
    pub contacts: Option<ContactControl>,
    /// Stations that a contact may name.
    pub stations: watch::Receiver<Stations>,
    /// Every task.
    pub tasks: Supervisor,
    /// The link in fact.
    pub link: watch::Receiver<Links>,
    /// Segments sealed since the start.
    pub sealed: watch::Receiver<u64>,
    /// The limiter.
    pub limiter: Arc<Limiter>,
    /// The lanes, for their names.
    pub lanes: Lanes,
    /// What encoding takes its memory from.
    pub memory: Workspace,
    /// All metrics.
    pub metrics: Metrics,
    /// The id in our certificate, if there is a link.
    pub satellite: Option<String>,
}

impl Control {
    /// All metrics as of now, as text.
    pub async fn metrics_text(&self) -> String {
        let summary = self.wal.call(|wal| wal.summary()).await.ok();
        let sealed = *self.sealed.borrow();
        // Its gauges are as of now.
        self.clocks.now();
        self.metrics.text(summary.as_ref(), sealed, &self.limiter, (self.env.memory)().map(|m| m.resident))
    }
}

/// An error as JSON: `{"error": "..."}`.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(json!({"error": self.1}))).into_response()
    }
}

impl<E: std::error::Error> From<E> for Refusal {
    fn from(e: E) -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, e.to_string())
    }
}

type Shared = State<Arc<Control>>;
type Answer = Result<Json<Value>, Refusal>;

/// The control socket.
pub fn control_router(control: Arc<Control>) -> Router {
    Router::new()
        .route("/status", get(status))
        .route("/contact/list", get(contact_list))
        .route("/contact/table", get(contact_table))
        .route("/contact/open", post(contact_open))
        .route("/contact/close", post(contact_close))
        .route("/contact/report", get(contact_report))
        .route("/wal/inspect", get(wal_inspect))
        .route("/wal/verify", post(wal_verify))
        .route("/wal/compact", post(wal_compact))
        .route("/wal/release", post(wal_release))
        .route("/wal/backup", post(wal_backup))
        .route("/wal/salvage", post(wal_salvage))
        .route("/wal/recode", post(wal_recode))
        .with_state(control)
}

/// The Prometheus endpoint.
pub fn metrics_router(control: Arc<Control>) -> Router {
    Router::new().route("/metrics", get(metrics)).with_state(control)
}

/// The same with counters as a Collector's default reader calls them.
pub fn bare_metrics_router(control: Arc<Control>) -> Router {
    let serve = |State(c): Shared| async move { openmetrics(without_type_suffix(&c.metrics_text().await)) };
    Router::new().route("/metrics", get(serve)).with_state(control)
}

/// The health endpoint: 200 while the store can be written, 503 when it cannot.
pub fn health_router(control: Arc<Control>) -> Router {
    // The Collector's `path` may be any.
    Router::new().fallback(get(health)).with_state(control)
}

async fn metrics(State(c): Shared) -> Response {
    openmetrics(c.metrics_text().await)
}

fn openmetrics(text: String) -> Response {
    ([(header::CONTENT_TYPE, METRICS_CONTENT_TYPE)], text).into_response()
}

async fn health(State(c): Shared) -> Response {
    if let Some(why) = c.tasks.trouble() {
        return Refusal(StatusCode::SERVICE_UNAVAILABLE, why).into_response();
    }
    match c.wal.call(|wal| (wal.trouble(), wal.summary().in_memory.now)).await {
        Ok((None, false)) => {
            let (held, panicked) = (c.metrics.ship().undecided.alarming(), c.tasks.lately());
            let mut answer = json!({"status": "ok"});
            if !held.is_empty() {
                answer["warnings"] = json!(held);
            }
            if !panicked.is_empty() {
                answer["panicked"] = panicked.iter().map(|task| &**task).collect();
            }
            Json(answer).into_response()
        }
        Ok((None, true)) => Json(json!({"status": "volatile"})).into_response(),
        Ok((Some(why), _)) => {
            Refusal(StatusCode::SERVICE_UNAVAILABLE, format!("the store cannot be written: {why}"))
                .into_response()
        }
        Err(gone) => Refusal::from(gone).into_response(),
    }
}

/// Items by signal, as JSON.
pub fn counts(counts: Counts) -> Value {
    Signal::ALL
        .into_iter()
        .map(|s| (s.name().to_owned(), counts[s].into()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// A summary of the log as JSON.
pub fn summary(s: &Summary) -> Value {
    let dropped: serde_json::Map<_, _> =
        s.dropped.iter().map(|(r, items)| (reason_name(*r), counts(*items))).collect();
    json!({
        "epoch": format!("{:016x}", s.life.epoch),
        "start_counter": s.life.start_counter,
        "accepted": counts(s.accepted),
        "delivered": counts(s.delivered),
        "dropped": dropped,
        "on_board": counts(s.in_journal + s.in_segments),
        "in_journal": counts(s.in_journal),
        "in_segments": counts(s.in_segments),
        "segments": s.segments,
        "segment_bytes": s.segment_bytes,
        "unsealed_bytes": s.unsealed_bytes,
        "sealed_bytes": s.sealed_bytes,
        "base_bytes": s.base_bytes,
        "stored_bytes": s.stored_bytes,
        "max_bytes": s.max_bytes,
        "file_bytes": s.file_bytes.1,
        "file_length_bytes": s.file_bytes.0,
        "volatile": {
            "now": s.in_memory.now,
            "accepted": counts(s.in_memory.accepted),
            "stored": counts(s.in_memory.stored),
        },
    })
}

/// What a lane has on board as JSON.
fn lane(lane: &LaneSummary, lanes: &Lanes) -> Value {
    json!({
        "lane": lane.lane.0,
        "name": lanes.name(lane.lane),
        "segments": lane.segments,
        "segment_bytes": lane.segment_bytes,
        "in_journal": counts(lane.in_journal),
        "oldest_unsealed_unix_nano": lane.oldest_unsealed_unix_nano,
    })
}

async fn status(State(c): Shared) -> Answer {
    let look = |wal: &mut Wal| {
        let (known, abandoned) = (wal.custody().known(), wal.custody().abandoned());
        let failing = wal.failing().map(str::to_owned);
        let store = (wal.missing(), failing, wal.custody().missed(), wal.journal().is_full());
        (wal.summary(), known, abandoned, wal.passes().oldest(), store)
    };
    let (wal, known, abandoned, oldest, (missing, failing, missed, is_full)) = c.wal.call(look).await?;
    let planned = match &c.contacts {
        Some(contacts) => Some(contacts.next().await?),
        None => None,
    };
    let link = c.link.borrow().clone();
    let memory = (c.env.memory)();
    Ok(Json(json!({
        "satellite": c.satellite,
        "version": env!("CARGO_PKG_VERSION"),
        "wal": summary(&wal),
        "lanes": wal.lanes.iter().map(|l| lane(l, &c.lanes)).collect::<Vec<_>>(),
        "consumers": known,
        "store_missing": missing.as_ref().map(|(path, _)| path),
        "store_moved": missing.is_some_and(|(_, is_moved)| is_moved),
        "store_failing": failing,
        "store_full": is_full,
        "missed": missed.into_iter().map(|(name, items)| (name, counts(items))).collect::<BTreeMap<_, _>>(),
        "abandoned_consumers": abandoned,
        "exporters": c.metrics.exporters(),
        "link": c.contacts.as_ref().map(|_| link.shown()),
        "links": c.contacts.as_ref().map(|_| link.all()),
        "clock": c.clocks.status(),
        "contact": planned.as_ref().and_then(|p| p.current.as_ref()),
        "contacts": planned.as_ref().map(|p| &p.open),
        "contact_by": planned.as_ref().and_then(|p| p.current_by),
        "next_contact": planned.as_ref().and_then(|p| p.upcoming.first()),
        "plan_error": planned.as_ref().and_then(|p| p.plan_error.as_ref()),
        "waits_since_unix_nano": oldest.ok().flatten(),
        "unix_nano": c.clocks.now().unix_nano,
        "memory": {
            "resident_bytes": memory.map(|m| m.resident),
            "used_bytes": memory.map(|m| m.used),
            "in_flight_bytes": c.limiter.in_flight(),
            "pressure": c.limiter.pressure() as u8,
        },
    })))
}

fn contacts(c: &Control) -> Result<&ContactControl, Refusal> {
    c.contacts
        .as_ref()
        .ok_or_else(|| Refusal(StatusCode::CONFLICT, "no pipeline uses the exporter `link`".into()))
}

async fn contact_list(State(c): Shared, Query(asked): Query<Asked>) -> Result<Json<Planned>, Refusal> {
    Ok(Json(contacts(&c)?.list(asked).await?))
}

/// The same as people read it: with thousands of contacts most of the work would be to write and to read the JSON.
async fn contact_table(State(c): Shared, Query(asked): Query<Asked>) -> Answer {
    let planned = contacts(&c)?.list(asked).await?;
    Ok(Json(json!({"table": contacts_text(&planned)})))
}

async fn contact_report(State(c): Shared) -> Answer {
    let planned = contacts(&c)?.ahead().await?;
    let (passes, store) = c
        .wal
        .call(|wal| Ok::<_, crate::wal::WalError>((wal.passes().latest(100)?, forecast::store(wal)?)))
        .await??;
    let ahead = forecast::forecast(planned.now, store, &planned.ahead);
    Ok(Json(json!({
        "passes": passes.iter().map(shown_pass).collect::<Vec<_>>(),
        "forecast": shown_forecast(&ahead),
    })))
}

/// The longest contact that may be asked for with an end, s.
const LONGEST_CONTACT: f64 = 1000.0 * 86_400.0;

/// A contact as it is asked for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenContact {
    /// The station's id.
    pub station: String,
    /// How long, in seconds; until it is closed when absent.
    pub seconds: Option<f64>,
    /// bit/s down.
    pub rate_down: Option<u64>,
    /// bit/s up.
    pub rate_up: Option<u64>,
    /// Segment bytes at most.
    pub byte_budget: Option<u64>,
}

async fn contact_open(State(c): Shared, Json(asked): Json<OpenContact>) -> Answer {
    let stations = Arc::clone(&c.stations.borrow());
    if !stations.contains_key(&asked.station) {
        let known: Vec<&str> = stations.keys().map(String::as_str).collect();
        let message = format!("link.stations has no `{}` (known: {})", asked.station, known.join(", "));
        return Err(Refusal(StatusCode::BAD_REQUEST, message));
    }
    let now = c.clocks.now().unix_nano;
    let end = match asked.seconds {
        Some(s) if !(s > 0.0 && s <= LONGEST_CONTACT) => {
            let message = "the duration must be above 0 and at most 1000d; leave it out for a contact until it is closed";
            return Err(Refusal(StatusCode::BAD_REQUEST, message.into()));
        }
        seconds => seconds.map(|s| now + (s * 1e9) as u64),
    };
    for (key, rate) in [("rate_down", asked.rate_down), ("rate_up", asked.rate_up)] {
        if let Some(rate) = rate
            && let Err(why) = check_rate(rate)
        {
            return Err(Refusal(StatusCode::BAD_REQUEST, format!("{key}: {why}")));
        }
    }
    if asked.byte_budget == Some(0) {
        return Err(Refusal(StatusCode::BAD_REQUEST, "byte_budget: 0 bytes would carry nothing".into()));
    }
    let contact = Contact {
        end_unix_nano: end,
        rate_down: asked.rate_down,
        rate_up: asked.rate_up,
        byte_budget: asked.byte_budget,
        ..Contact::open(asked.station, now)
    };
    contacts(&c)?.open(contact.clone()).await?;
    Ok(Json(json!({"opened": contact})))
}

/// How long a closed contact's link may take to say goodbye, as far as who closed it waits.
const FAREWELL: Duration = Duration::from_secs(5);

async fn contact_close(State(c): Shared) -> Answer {
    let contacts = contacts(&c)?;
    let closed = contacts.close().await?;
    // What is sent after the answer shall not be in the pass any more.
    let open = contacts.next().await?.open;
    let stays = |link: &LinkStatus| open.iter().any(|p| link.station.as_deref() == Some(&*p.contact.station));
    let mut links = c.link.clone();
    let ended = links.wait_for(|links| links.all().iter().all(|l| l.state == LinkState::Down || stays(l)));
    let _ = tokio::time::timeout(FAREWELL, ended).await;
    Ok(Json(json!({"closed": closed})))
}

/// Segments to show.
#[derive(Debug, Deserialize)]
struct Inspect {
    #[serde(default = "inspect_most")]
    most: usize,
}

const fn inspect_most() -> usize {
    100
}

async fn wal_inspect(State(c): Shared, Query(query): Query<Inspect>) -> Answer {
    let most = query.most.min(10_000);
    Ok(Json(c.wal.call(move |wal| inspect(wal, most)).await??))
}

/// The log's segments and consumers as JSON.
pub fn inspect(wal: &mut Wal, most: usize) -> Result<Value, crate::wal::WalError> {
    let segments: Vec<Value> = wal
        .custody()
        .segments(most)?
        .into_iter()
        .map(|(record, waiting)| {
            let h = record.header;
            json!({
                "lane": h.id.lane.0,
                "sequence": h.id.sequence,
                "codec": h.codec,
                "base_sequence": h.base_sequence,
                "items": counts(h.items),
                "requests": h.requests,
                "raw_bytes": h.raw_len,
                "payload_bytes": h.payload_len,
                "first_unix_nano": (!h.time.is_empty()).then_some(h.time.start),
                "last_unix_nano": (!h.time.is_empty()).then_some(h.time.end),
                "sealed_unix_nano": h.sealed_unix_nano,
                "waiting_for": waiting,
                "sent": wal.custody().was_sent(h.id),
            })
        })
        .collect();
    let lanes: Vec<u8> = wal.custody().lanes().into_iter().map(|Lane(n)| n).collect();
    Ok(json!({"summary": summary(&wal.summary()), "lanes": lanes, "segments": segments}))
}

async fn wal_verify(State(c): Shared) -> Answer {
    let (checked, damaged) = c.wal.call(|wal| wal.scrub().all()).await??;
    Ok(Json(json!({"segments": checked, "damaged": damaged})))
}

async fn wal_compact(State(c): Shared) -> Answer {
    let sizes = c.wal.call(|wal| wal.file().compact(true)).await??;
    Ok(Json(json!({"bytes_before": sizes.map(|s| s.0), "bytes_after": sizes.map(|s| s.1)})))
}

async fn wal_recode(State(c): Shared, Json(asked): Json<Recode>) -> Result<Json<Report>, Refusal> {
    let work = async move { recode(&c.env, &c.wal, &c.lanes, asked, Some(&c.memory)).await };
    // Whoever asked may have gone away: what is begun is finished.
    match tokio::spawn(work).await? {
        Ok(report) => Ok(Json(report)),
        Err(error) if error.is_request() => Err(Refusal(StatusCode::BAD_REQUEST, error.to_string())),
        Err(error) => Err(error.into()),
    }
}

/// Where a copy of the log goes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backup {
    /// A file that does not exist.
    pub file: PathBuf,
}

async fn wal_backup(State(c): Shared, Json(asked): Json<Backup>) -> Answer {
    let copy = c.wal.call(|wal| wal.file().backup()).await??;
    let (env, file) = (c.env.clone(), asked.file.clone());
    c.env.cpu(move || copy.write(&env, &file)).await?;
    Ok(Json(json!({"file": asked.file})))
}

/// A file that was put aside.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Salvage {
    /// The file.
    pub file: PathBuf,
    /// Also what may have been delivered.
    pub may_repeat: bool,
    /// Also from another satellite's log.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub other_satellite: bool,
}

async fn wal_salvage(State(c): Shared, Json(asked): Json<Salvage>) -> Answer {
    let wanted = Wanted { may_repeat: asked.may_repeat, other_satellite: asked.other_satellite };
    let offered = c.wal.call(move |wal| wal.journal().salvage(&asked.file, wanted)).await??;
    Ok(Json(json!(offered)))
}

/// A consumer to release.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// Its name in the configuration that it has left.
    pub consumer: String,
}

async fn wal_release(State(c): Shared, Json(asked): Json<Release>) -> Answer {
    let released = c
        .wal
        .call(move |wal| {
            if !wal.custody().abandoned().contains(&asked.consumer) {
                return Ok(None);
            }
            wal.custody().release(&asked.consumer).map(Some)
        })
        .await??;
    match released {
        Some(segments) => Ok(Json(json!({"deleted_segments": segments}))),
        None => Err(Refusal(
            StatusCode::CONFLICT,
            "no data waits for that exporter, or it is still in the configuration: remove it there first"
                .into(),
        )),
    }
}
