//! Replays of ranges of time: listed for who reads, begun and ended by who may act.

use axum::Json;
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};

use super::Console;
use super::api::time;
use super::problem::Problem;
use crate::spool::{ReplayView, ReplayWanted};

/// What is to be sent again. Times are RFC 3339, or ns since the Unix epoch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RangeRequest {
    /// The exporter that it goes to.
    pub exporter: String,
    /// Only of this satellite.
    #[serde(default)]
    pub satellite: Option<String>,
    /// Only segments with items from then on.
    #[serde(default)]
    pub from: Option<String>,
    /// Only segments with items until then.
    #[serde(default)]
    pub until: Option<String>,
}

impl RangeRequest {
    /// The same, read; what cannot be read is named.
    pub fn wanted(&self) -> Result<ReplayWanted, String> {
        let read = |name: &str, text: &Option<String>| text.as_ref().map(|text| time(name, text)).transpose();
        let (from, until) = (read("from", &self.from)?, read("until", &self.until)?);
        if from.zip(until).is_some_and(|(from, until)| from > until) {
            return Err("`from` is later than `until`".to_owned());
        }
        Ok(ReplayWanted { exporter: self.exporter.clone(), satellite: self.satellite.clone(), from, until })
    }

    /// The same in words, for the audit.
    pub(super) fn words(&self) -> String {
        let satellite = self.satellite.as_deref().unwrap_or("every satellite");
        let mut words = format!("{satellite} to {}", self.exporter);
        for (name, text) in [("from", &self.from), ("until", &self.until)] {
            if let Some(text) = text {
                words.push_str(&format!(", {name} {text}"));
            }
        }
        words.chars().take(200).collect()
    }
}

/// Which replay it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RangeAnswer {
    /// Its id.
    pub id: u64,
}

/// Replays of ranges of time, the latest first, with how far each is
#[utoipa::path(
    get,
    path = "/api/v1/replays",
    responses(
        (status = 200, description = "Replays of ranges of time, the latest first", body = [ReplayView]),
        (status = 401, description = "Reading needs a token", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The spool cannot be read", body = Problem, content_type = "application/problem+json")
    )
)]
pub(super) async fn list(State(console): State<Console>) -> Result<Json<Vec<ReplayView>>, Problem> {
    Ok(Json(console.store.replays().ranges().await?))
}

pub(super) async fn begin(
    State(console): State<Console>,
    Json(request): Json<RangeRequest>,
) -> Result<Json<RangeAnswer>, Problem> {
    Ok(Json(RangeAnswer { id: console.begin_replay(&request).await? }))
}

pub(super) async fn cancel(
    State(console): State<Console>,
    Path(id): Path<u64>,
) -> Result<Json<RangeAnswer>, Problem> {
    console.cancel_replay(id).await?;
    Ok(Json(RangeAnswer { id }))
}

impl Console {
    pub(super) async fn begin_replay(&self, request: &RangeRequest) -> Result<u64, Problem> {
        let wanted = request.wanted().map_err(Problem::bad)?;
        Ok(self.store.replays().replay_range(wanted).await?)
    }

    pub(super) async fn cancel_replay(&self, id: u64) -> Result<u64, Problem> {
        match self.store.replays().cancel_range(id).await? {
            true => Ok(id),
            false => Err(Problem::bad(format!("no replay {id} goes on; GET /api/v1/replays lists them"))),
        }
    }
}
