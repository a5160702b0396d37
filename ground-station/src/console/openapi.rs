//! The OpenAPI document, made from the code that answers.

use axum::Json;
use utoipa::OpenApi;
use utoipa::openapi::OpenApi as Document;

use super::{acts, api, replays};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "ground-station",
        description = "What a Perigee ground station knows. Lists come in parts, the latest first: a Link header with rel=\"next\" leads \
                       to the next part. Errors are problem documents (RFC 9457). Where reading needs a token it is sent as \
                       Authorization: Bearer TOKEN.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    paths(
        api::satellites,
        api::curves,
        api::track,
        api::spool,
        api::passes,
        api::gaps,
        api::accounting,
        api::letters,
        api::catalogue,
        api::events,
        acts::by_program,
        replays::list,
        acts::begin_replay,
        acts::cancel_replay,
    )
)]
struct Api;

/// The document; with what changes something only where that can be asked.
pub(super) fn document(acting: bool) -> Document {
    let mut document = Api::openapi();
    if !acting {
        for path in document.paths.paths.values_mut() {
            (path.post, path.delete) = (None, None);
        }
        document.paths.paths.retain(|_, path| path.get.is_some());
    }
    document
}

/// `GET /api/v1/openapi.json`
pub(super) async fn openapi(acting: bool) -> Json<Document> {
    Json(document(acting))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use perigee_proto::link::PassReport;

    #[test]
    fn every_value_of_a_pass_is_described() {
        let document = serde_json::to_value(super::document(false)).unwrap();
        let keys =
            |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
        let shown = perigee_shared::contact::report::shown_pass(&PassReport::default());
        assert_eq!(keys(&document["components"]["schemas"]["PassReportView"]["properties"]), keys(&shown));
    }
}
