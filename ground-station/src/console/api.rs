//! `/api/v1`: JSON for people and tools. Lists come in parts, the latest first, and satellites by their ids: `limit` says how long one is, and a `Link` header with
//! `rel="next"` leads to the next.

use std::collections::BTreeMap;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use perigee_shared::serve::Peer;
use serde::{Deserialize, Serialize};

use super::curves::{self, Curve};
use super::problem::{Asked, Problem, Refusals};
use super::show::encoded;
use super::track::Track;
use super::{BackupAnswer, BackupRequest, Console, ReplayAnswer, ReplayRequest, VerifyAnswer};
use crate::link::LinkView;
use crate::spool::{
    AccountView, CatalogueView, ColumnsView, GapView, LetterView, Part, PassView, SatelliteView, SpoolView,
    Wanted,
};

/// Rows in one answer, at most.
const MAX_ROWS: usize = 10_000;

/// Delays are of segments that were committed in so long.
pub(super) const WEEK: u64 = 7 * 86_400 * 1_000_000_000;

/// Rows in an answer when nothing is said.
const ROWS: usize = 1_000;

/// `?after=PLACE&limit=N`, of one satellite with `&satellite=ID`.
#[derive(Debug, Clone, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(super) struct Page {
    /// Behind this place: follow the Link header of the part before.
    after: Option<String>,
    /// Rows, at most 10,000.
    limit: Option<usize>,
    /// Of this satellite.
    satellite: Option<String>,
}

/// A place in a list, which is `parts` numbers with dashes between them; empty: none.
pub(super) fn place(after: &str, parts: usize) -> Result<Option<String>, ()> {
    if after.is_empty() {
        return Ok(None);
    }
    let numbers = after.split('-').map(|part| part.parse::<u64>().ok()).collect::<Option<Vec<_>>>();
    numbers.filter(|numbers| numbers.len() == parts).map(|_| Some(after.to_owned())).ok_or(())
}

impl Page {
    fn limit(&self) -> usize {
        self.limit.unwrap_or(ROWS).clamp(1, MAX_ROWS)
    }

    /// The place, which must be `parts` numbers with dashes between them.
    fn place(&self, parts: usize) -> Result<Option<String>, Problem> {
        place(self.after.as_deref().unwrap_or(""), parts).map_err(|()| {
            Problem::bad(
                "`after` is not a place in this list: follow the Link header with rel=\"next\" of the part before",
            )
        })
    }

    fn number(&self) -> Result<Option<u64>, Problem> {
        Ok(self.place(1)?.and_then(|place| place.parse().ok()))
    }

    /// Where the next part is.
    fn link(&self, next: &str) -> HeaderMap {
        let mut address = format!("?after={}&limit={}", encoded(next), self.limit());
        if let Some(satellite) = &self.satellite {
            address.push_str(&format!("&satellite={}", encoded(satellite)));
        }
        link(&address)
    }
}

fn link(address: &str) -> HeaderMap {
    let value = HeaderValue::from_str(&format!("<{address}>; rel=\"next\""));
    value.map(|value| HeaderMap::from_iter([(header::LINK, value)])).unwrap_or_default()
}

/// A list, and where it goes on.
type List<T> = Result<(HeaderMap, Json<Vec<T>>), Problem>;

/// One thing.
type Answer<T> = Result<Json<T>, Problem>;

fn listed<T>(page: &Page, part: Part<T>) -> (HeaderMap, Json<Vec<T>>) {
    let headers = part.next.as_deref().map(|next| page.link(next)).unwrap_or_default();
    (headers, Json(part.rows))
}

/// A satellite, with what only the links know.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Linked {
    #[serde(flatten)]
    view: SatelliteView,
    link: Option<LinkView>,
    /// Other stations of a shared ledger that have a link open with it.
    linked_at: Vec<String>,
}

/// Every satellite that may connect or was ever heard, by id
#[utoipa::path(
    get,
    path = "/api/v1/satellites",
    params(Page),
    responses(
        (status = 200, description = "Every satellite that may connect or was ever heard, by id", body = [Linked]),
        Refusals
    )
)]
pub(super) async fn satellites(State(console): State<Console>, Asked(page): Asked<Page>) -> List<Linked> {
    let expected = console.metrics.expected().into_iter().map(|id| id.to_string());
    let all = SatelliteView::with_expected(console.store.views().satellites().await?, expected);
    let (connected, links) = (console.connected.satellites(), console.connected.links());
    let elsewhere = console.store.views().linked_elsewhere().await?;
    let linked = |view: SatelliteView| {
        let linked_at = elsewhere.get(&view.satellite).cloned().unwrap_or_default();
        let mut linked = Linked { link: links.get(&view.satellite).cloned(), linked_at, view };
        linked.view.connected = !linked.linked_at.is_empty();
        if let Some(heard) = connected.get(&linked.view.satellite) {
            linked.view.connected = true;
            linked.view.standing.last_heard_unix_nano = *heard;
        }
        linked
    };
    let behind = |view: &SatelliteView| page.after.as_ref().is_none_or(|after| view.satellite > *after);
    let wanted = |view: &SatelliteView| page.satellite.as_ref().is_none_or(|id| view.satellite == *id);
    let mut rest = all.into_iter().filter(|view| behind(view) && wanted(view));
    let rows: Vec<_> = rest.by_ref().take(page.limit()).map(linked).collect();
    let next = rows.last().map(|row| row.view.satellite.clone()).filter(|_| rest.next().is_some());
    Ok(listed(&page, Part { rows, next }))
}

/// What changes slowly of a satellite, over time
#[utoipa::path(
    get,
    path = "/api/v1/satellites/{id}/curves",
    params(("id" = String, Path, description = "The satellite")),
    responses(
        (status = 200, description = "What changes slowly of a satellite, over time", body = [Curve]),
        (status = 404, description = "It was never heard here", body = Problem, content_type = "application/problem+json"),
        Refusals
    )
)]
pub(super) async fn curves(
    State(console): State<Console>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let (board, key) = (&console.board, format!("curves {id}"));
    let look = board.look().await?;
    let json = match board.rendered(&look, &key) {
        Some(json) => json,
        None => {
            let from = look.shown.at.saturating_sub(WEEK);
            let Some(portrait) = look.glance.portrait(id.clone(), from).await? else {
                return Err(Problem::new(StatusCode::NOT_FOUND, "this satellite was never heard here"));
            };
            // They have no maps with keys that are no texts, and their numbers are finite.
            let row = look.shown.rows.iter().find(|row| row.digest.satellite == id);
            let now = row.map(|row| &row.digest.standing);
            let curves = curves::of(&portrait, &board.history(&id), now);
            let json = Bytes::from(serde_json::to_vec(&curves).unwrap_or_default());
            board.keep(&look, &key, &json);
            json
        }
    };
    Ok(([(header::CONTENT_TYPE, "application/json")], json).into_response())
}

/// The ground track of a satellite's next pass
#[utoipa::path(
    get,
    path = "/api/v1/satellites/{id}/track",
    params(("id" = String, Path, description = "The satellite")),
    responses(
        (status = 200, description = "The ground track of its next pass", body = Track),
        (status = 404, description = "There is none; the detail says why", body = Problem, content_type = "application/problem+json"),
        Refusals
    )
)]
pub(super) async fn track(State(console): State<Console>, Path(id): Path<String>) -> Answer<Track> {
    let look = console.board.look().await?;
    if !look.shown.rows.iter().any(|row| row.digest.satellite == id) {
        return Err(Problem::new(StatusCode::NOT_FOUND, "this satellite was never heard here"));
    }
    match &*console.board.track(&look, &id).await? {
        Ok(track) => Ok(Json(track.clone())),
        Err(why) => Err(Problem::new(StatusCode::NOT_FOUND, format!("there is no track: {why}"))),
    }
}

/// The spool as a whole
#[utoipa::path(
    get,
    path = "/api/v1/spool",
    responses(
        (status = 200, description = "The spool as a whole", body = SpoolView),
        Refusals
    )
)]
pub(super) async fn spool(State(console): State<Console>) -> Answer<SpoolView> {
    Ok(Json(console.store.views().overview().await?))
}

/// Passes, the latest first
#[utoipa::path(
    get,
    path = "/api/v1/passes",
    params(Page),
    responses(
        (status = 200, description = "Passes, the latest first", body = [PassView]),
        Refusals
    )
)]
pub(super) async fn passes(State(console): State<Console>, Asked(page): Asked<Page>) -> List<PassView> {
    let (of, after) = (page.satellite.clone(), page.place(2)?);
    Ok(listed(&page, console.store.views().glance().await?.passes(of, after, page.limit()).await?))
}

/// What will never be exported, the latest first
#[utoipa::path(
    get,
    path = "/api/v1/gaps",
    params(Page),
    responses(
        (status = 200, description = "What will never be exported, the latest first", body = [GapView]),
        Refusals
    )
)]
pub(super) async fn gaps(State(console): State<Console>, Asked(page): Asked<Page>) -> List<GapView> {
    let (of, after) = (page.satellite.clone(), page.place(4)?);
    Ok(listed(&page, console.store.views().glance().await?.gaps(of, after, page.limit()).await?))
}

/// Where the items are, by satellite
#[utoipa::path(
    get,
    path = "/api/v1/accounting",
    responses(
        (status = 200, description = "Where the items are, by satellite", body = BTreeMap<String, AccountView>),
        Refusals
    )
)]
pub(super) async fn accounting(State(console): State<Console>) -> Answer<BTreeMap<String, AccountView>> {
    Ok(Json(console.store.views().accounting().await?))
}

/// Dead letters, the latest first
#[utoipa::path(
    get,
    path = "/api/v1/dead-letters",
    params(Page),
    responses(
        (status = 200, description = "Dead letters, the latest first", body = [LetterView]),
        Refusals
    )
)]
pub(super) async fn letters(State(console): State<Console>, Asked(page): Asked<Page>) -> List<LetterView> {
    let after = page.number()?;
    Ok(listed(&page, console.store.views().glance().await?.letters(after, page.limit()).await?))
}

/// What of the catalogue is asked for. Times are RFC 3339, or ns since the Unix epoch.
#[derive(Debug, Clone, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub struct CatalogueQuery {
    /// Of this satellite.
    pub satellite: Option<String>,
    /// With items from then on.
    pub from: Option<String>,
    /// With items until then.
    pub until: Option<String>,
    /// With items of this service.
    pub service: Option<String>,
    /// Behind this number.
    pub after: Option<String>,
    /// Rows.
    pub limit: Option<usize>,
}

impl CatalogueQuery {
    /// The same, read; what cannot be read is named.
    pub fn wanted(&self) -> Result<Wanted, String> {
        let some = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let time = |name: &str, text: &Option<String>| some(text).map(|text| time(name, &text)).transpose();
        let after = some(&self.after)
            .map(|text| text.parse().map_err(|_| "`after` is not a number of the part before".to_owned()));
        Ok(Wanted {
            satellite: some(&self.satellite),
            from: time("from", &self.from)?,
            until: time("until", &self.until)?,
            service: some(&self.service),
            after: after.transpose()?,
        })
    }

    /// The same as an address, behind a number.
    pub fn address(&self, after: Option<&str>) -> String {
        let limit = self.limit.map(|limit| limit.to_string());
        let pairs = [
            ("satellite", self.satellite.as_deref()),
            ("from", self.from.as_deref()),
            ("until", self.until.as_deref()),
            ("service", self.service.as_deref()),
            ("limit", limit.as_deref()),
            ("after", after),
        ];
        let said = pairs.iter().filter_map(|(name, value)| Some((name, value.filter(|v| !v.is_empty())?)));
        let said: Vec<String> = said.map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        format!("?{}", said.join("&"))
    }
}

/// A time: RFC 3339, without a zone UTC, also without seconds; or ns since the Unix epoch.
pub(super) fn time(name: &str, text: &str) -> Result<u64, String> {
    if let Ok(nano) = text.parse() {
        return Ok(nano);
    }
    let seconds = if text.matches(':').count() == 1 { ":00" } else { "" };
    let parsed = humantime::parse_rfc3339_weak(&format!("{}{seconds}", text.trim_end_matches('Z')));
    let since = parsed.ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    since.and_then(|since| u64::try_from(since.as_nanos()).ok()).ok_or_else(|| {
        format!("`{name}` is not a time: write 2026-11-26T14:00:00Z, or ns since the Unix epoch")
    })
}

/// What was committed, the latest first
#[utoipa::path(
    get,
    path = "/api/v1/catalogue",
    params(CatalogueQuery),
    responses(
        (status = 200, description = "What was committed, the latest first", body = [CatalogueView]),
        Refusals
    )
)]
pub(super) async fn catalogue(
    State(console): State<Console>,
    Asked(query): Asked<CatalogueQuery>,
) -> List<CatalogueView> {
    let wanted = query.wanted().map_err(Problem::bad)?;
    let limit = query.limit.unwrap_or(ROWS).clamp(1, MAX_ROWS);
    let part = console.store.views().glance().await?.catalogue(wanted, limit).await?;
    let headers = part.next.as_deref().map(|next| link(&query.address(Some(next)))).unwrap_or_default();
    Ok((headers, Json(part.rows)))
}

/// What changes, as server-sent events: satellite, exporter, spool, notes, pass, gap, dead-letter, dead-letters-gone, more, links, and look after each look
#[utoipa::path(
    get,
    path = "/api/v1/events",
    responses(
        (status = 200, description = "What changes, as server-sent events: satellite, exporter, spool, notes, pass, gap, dead-letter, dead-letters-gone, more, links, and look after each look", content_type = "text/event-stream"),
        (status = 401, description = "Reading needs a token", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The spool cannot be read", body = Problem, content_type = "application/problem+json")
    )
)]
pub(super) async fn events(State(console): State<Console>, peer: Option<Extension<Peer>>) -> Response {
    console.events.stream(&peer.map(|Extension(peer)| peer).unwrap_or_default())
}

pub(super) async fn replay(
    State(console): State<Console>,
    Json(request): Json<ReplayRequest>,
) -> Answer<ReplayAnswer> {
    Ok(Json(ReplayAnswer { replayed: console.store.replays().replay(request.ids).await? }))
}

pub(super) async fn verify(State(console): State<Console>) -> Answer<VerifyAnswer> {
    Ok(Json(VerifyAnswer { wrong: console.store.upkeep().verify().await? }))
}

pub(super) async fn backup(
    State(console): State<Console>,
    Json(request): Json<BackupRequest>,
) -> Answer<BackupAnswer> {
    Ok(Json(BackupAnswer { bytes: console.store.upkeep().backup(request.path).await? }))
}

/// `?each=true`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Each {
    each: bool,
}

pub(super) async fn columns(
    State(console): State<Console>,
    Asked(Each { each }): Asked<Each>,
) -> Answer<ColumnsView> {
    Ok(Json(console.store.views().columns(each).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates_or_numbers() {
        assert_eq!(time("from", "5"), Ok(5));
        let day = 1_764_165_600_000_000_000;
        for text in ["2025-11-26T14:00:00Z", "2025-11-26T14:00:00", "2025-11-26T14:00", "2025-11-26 14:00"] {
            assert_eq!(time("from", text), Ok(day), "{text}");
        }
        assert!(time("from", "yesterday").unwrap_err().contains("`from` is not a time"));
    }

    #[test]
    fn an_address_says_again_what_was_asked_and_escapes_it() {
        let query = CatalogueQuery {
            satellite: Some("a&b".to_owned()),
            from: Some(String::new()),
            ..Default::default()
        };
        assert_eq!(query.address(Some("7")), "?satellite=a%26b&after=7");
    }
}
