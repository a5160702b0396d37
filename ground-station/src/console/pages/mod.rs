//! The pages. Each has an address of its own; all of them work without scripts, which only keep them up to date.

mod audit;
mod catalogue;
mod data;
mod fleet;
mod gaps;
mod live;
mod passes;
mod replays;
mod satellite;
mod timeline;
mod track;

use std::fmt::Display;

use axum::extract::{Form, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use bytes::Bytes;
use maud::{DOCTYPE, Markup, html};
use perigee_shared::serve::Peer;
use serde::Deserialize;

use super::Console;
use super::assets::at;
use super::attention::Level;
use super::board::{Look, Shown};
use super::problem::Problem;
use super::roles::{self, Access, Shared};
use super::show::{counted, encoded};
use crate::spool::SpoolError;

/// Sent with every page and asset: nothing from elsewhere, no script or style within a page, no frame around it.
const POLICY: &str =
    "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'";

/// Rows of a list on one page.
const ROWS: usize = 100;

/// The longest address of a page that is kept rendered.
const KEPT_ADDRESS: usize = 512;

/// Pages with their names, in the order in which they are shown.
const TABS: [(&str, &str); 7] = [
    ("/", "Fleet"),
    ("/passes", "Passes"),
    ("/gaps", "Gaps"),
    ("/data", "Data"),
    ("/live", "Live"),
    ("/catalogue", "Catalogue"),
    ("/audit", "Audit"),
];

/// What pages are made from.
#[derive(Clone)]
struct Pages {
    console: Console,
    access: Access,
}

pub(super) fn router(console: &Console, roles: &Shared) -> Router {
    let pages = Pages { console: console.clone(), access: roles.access() };
    Router::new()
        .route("/", get(fleet::page))
        .route("/satellites/{id}", get(satellite::page))
        .route("/passes", get(passes::page))
        .route("/gaps", get(gaps::page))
        .route("/data", get(data::page))
        .route("/live", get(live::page))
        .route("/catalogue", get(catalogue::page))
        .route("/audit", get(audit::page))
        .with_state(pages)
}

/// A page before it is in its frame.
struct Page {
    title: String,
    body: Markup,
    status: StatusCode,
    /// It has curves.
    curves: bool,
    /// It has a ground track.
    track: bool,
}

impl Page {
    fn new(title: impl Into<String>, body: Markup) -> Self {
        Self { title: title.into(), body, status: StatusCode::OK, curves: false, track: false }
    }
}

impl Pages {
    /// The page at this address, of the latest look.
    async fn answer<F>(&self, uri: &Uri, make: impl FnOnce(Look) -> F) -> Response
    where
        F: Future<Output = Result<Page, SpoolError>>,
    {
        let board = &self.console.board;
        let look = match board.look().await {
            Ok(look) => look,
            Err(error) => return failed(&error),
        };
        let address = uri.path_and_query().map_or("/", |at| at.as_str());
        // What is not of the look is as it is now.
        let keeps = address.len() <= KEPT_ADDRESS && uri.path() != "/audit";
        let links = if uri.path() == "/live" { board.links().number } else { 0 };
        let address = &*format!("{address} {links}");
        if let Some(page) = board.rendered(&look, address).filter(|_| keeps) {
            return as_html(StatusCode::OK, page);
        }
        match make(look.clone()).await {
            Ok(page) => {
                let text = self.frame(uri.path(), &look.shown, &page).into_string();
                let bytes = Bytes::from(text);
                if page.status == StatusCode::OK && keeps {
                    board.keep(&look, address, &bytes);
                }
                as_html(page.status, bytes)
            }
            Err(error) => failed(&error),
        }
    }

    fn frame(&self, path: &str, shown: &Shown, page: &Page) -> Markup {
        let head = html! {
            div.top {
                strong { "Perigee" }
                span { "station " (self.console.station) }
                span #state { (state(shown)) }
                @if self.access.sessions {
                    form method="post" action="/logout" { button { "Sign out" } }
                }
            }
            nav aria-label="Pages" {
                ul {
                    @for (address, name) in TABS {
                        @let here = path == address || (address == "/" && path.starts_with("/satellites/"));
                        li { a href=(address) aria-current=[here.then_some("page")] { (name) } }
                    }
                }
            }
        };
        let body = html! {
            h1 { (page.title) }
            (page.body)
            footer {
                p #now data-now=(shown.at / 1_000_000) { "As of " (super::show::date(shown.at)) " UTC. " a href="/api/v1/openapi.json" { "API" } }
            }
        };
        let kept = Kept { at: shown.at, of_links: path == "/live", curves: page.curves, track: page.track };
        document(&page.title, Some(kept), head, body)
    }
}

/// Whether all is well, in a few words.
fn state(shown: &Shown) -> Markup {
    let need = |level: Level| shown.rows.iter().filter(|row| row.level == level).count();
    let (alarms, warnings) = (need(Level::Alarm), need(Level::Warning));
    let station = shown.notes.iter().map(|note| note.level).max().unwrap_or(Level::Fine);
    html! {
        @if alarms + warnings == 0 && station < Level::Warning {
            (Level::Fine.badge()) " everything is healthy"
        } @else {
            @if alarms > 0 { (Level::Alarm.badge()) " " (counted(alarms as u64, "satellite", "satellites")) " " }
            @if warnings > 0 { (Level::Warning.badge()) " " (counted(warnings as u64, "satellite", "satellites")) " " }
            @if station >= Level::Warning { (station.badge()) " this station" }
        }
    }
}

/// Settings of htmx: no script or style that the policy forbids, no history of its own, and an answer that does not come is given up.
const HTMX: &str = r#"{"includeIndicatorStyles":false,"allowEval":false,"allowScriptTags":false,"historyEnabled":false,"timeout":20000}"#;

/// What makes a page ask for itself again: each look, what arrives, the stream that is there again, and somebody who comes back to it.
const AGAIN: &str = "sse:look, htmx:sseOpen from:body, visibilitychange from:document";
/// The same of a page that shows what arrives.
const AGAIN_WITH_LINKS: &str = "sse:look, sse:links, htmx:sseOpen from:body, visibilitychange from:document";

/// How a page is kept up to date.
struct Kept {
    /// When it was as it says, ns since the Unix epoch.
    at: u64,
    /// It shows what arrives.
    of_links: bool,
    curves: bool,
    track: bool,
}

/// A whole document.
fn document(title: &str, kept: Option<Kept>, head: Markup, body: Markup) -> Markup {
    let again = kept.as_ref().map(|kept| if kept.of_links { AGAIN_WITH_LINKS } else { AGAIN });
    let live = kept.is_some();
    let now = kept.as_ref().map_or(0, |kept| kept.at / 1_000_000);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) " - Perigee" }
                @if live { meta name="htmx-config" content=(HTMX); }
                link rel="stylesheet" href=(at!("console.css"));
                link rel="icon" href=(at!("icon.svg")) type="image/svg+xml";
                @if live {
                    script src=(at!("htmx.js")) defer {}
                    script src=(at!("htmx-sse.js")) defer {}
                    script src=(at!("idiomorph.js")) defer {}
                    script src=(at!("console.js")) defer {}
                }
                @if kept.as_ref().is_some_and(|kept| kept.curves) {
                    link rel="stylesheet" href=(at!("uplot.css"));
                    script src=(at!("uplot.js")) defer {}
                    script src=(at!("curves.js")) defer {}
                }
                @if kept.is_some_and(|kept| kept.track) {
                    script src=(at!("d3-array.js")) defer {}
                    script src=(at!("d3-geo.js")) defer {}
                    script src=(at!("topojson.js")) defer {}
                    script src=(at!("track.js")) defer {}
                }
            }
            body data-now=(now) hx-ext=[live.then_some("sse,morph")] sse-connect=[live.then_some("/api/v1/events")] {
                a.skip href="#main" { "Skip to content" }
                header { (head) }
                p #stale .stale role="status" hidden {}
                main #main tabindex="-1" hx-get=[live.then_some("")] hx-trigger=[again] hx-select=[live.then_some("main")]
                    hx-select-oob=[live.then_some("#state")] hx-swap=[live.then_some("morph:outerHTML")]
                    hx-sync=[live.then_some("this:queue last")] { (body) }
            }
        }
    }
}

fn as_html(status: StatusCode, body: Bytes) -> Response {
    (status, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], body).into_response()
}

/// A page that says one thing.
pub(super) fn message(status: StatusCode, text: &str) -> Response {
    let title = status.canonical_reason().unwrap_or("Error");
    let body = html! { h1 { (title) } p { (text) } p { a href="/" { "To the fleet" } } };
    let page = document(title, None, html! { div.top { strong { "Perigee" } } }, body);
    as_html(status, page.into_string().into())
}

/// The address of a part of a list that is not one.
fn no_place() -> Response {
    message(StatusCode::BAD_REQUEST, "`after` is not a place in this list.")
}

fn failed(error: &SpoolError) -> Response {
    message(
        StatusCode::SERVICE_UNAVAILABLE,
        &format!("The spool cannot be read: {error}. See the log and the disk."),
    )
}

/// There is no such page.
pub(super) async fn nothing_here(uri: Uri) -> Response {
    if uri.path().starts_with("/api/") {
        return super::problem::nothing_here().await.into_response();
    }
    message(StatusCode::NOT_FOUND, "There is no such page.")
}

/// A table that can be scrolled by keyboard where it is wider than the screen.
fn table(label: &str, cards: bool, inside: Markup) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label=(label) {
            table.cards[cards] { (inside) }
        }
    }
}

/// An id by which a row stays itself when its page changes. What is in it may be a satellite's choice, so a hash of that stands there.
fn row_id(kind: &str, key: impl Display) -> String {
    let hash = blake3::hash(key.to_string().as_bytes()).to_hex();
    format!("{kind}-{}", &hash[..16])
}

/// A link to what comes next in a list.
fn next(address: Option<String>) -> Markup {
    html! { @if let Some(address) = address { p.next { a href=(address) rel="next" { "Older" } } } }
}

fn satellite_link(id: &str) -> Markup {
    html! { a href=(format!("/satellites/{}", encoded(id))) { (id) } }
}

/// Lets through who may read.
pub(super) async fn guard(State(roles): State<Shared>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().cloned().unwrap_or_default();
    if roles.reads(request.headers(), &peer) {
        return next.run(request).await;
    }
    if request.uri().path().starts_with("/api/") || *request.method() != Method::GET {
        let detail = "reading needs a token: send Authorization: Bearer TOKEN";
        return Problem::new(StatusCode::UNAUTHORIZED, detail).into_response();
    }
    let to = request.uri().path_and_query().map_or("/", |at| at.as_str());
    Redirect::to(&format!("/login?to={}", encoded(to))).into_response()
}

/// Adds what every answer of the console has.
pub(super) async fn dress(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let policy = HeaderValue::from_static(POLICY);
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    // Without one, a browser does not say from where a form is sent.
    let referrer = HeaderValue::from_static("same-origin");
    response.headers_mut().insert(header::REFERRER_POLICY, referrer);
    response
}

/// What is there for those who may not read yet.
pub(super) fn entrance(roles: &Shared) -> Router {
    Router::new()
        .route("/login", get(ask_for_token).post(take_token))
        .route("/logout", post(leave))
        .with_state(roles.clone())
}

#[derive(Deserialize)]
struct To {
    #[serde(default)]
    to: String,
}

fn login(to: &str, wrong: bool) -> Markup {
    let body = html! {
        h1 { "Sign in" }
        @if wrong { p role="alert" { (Level::Warning.badge()) " This is not a token that may read." } }
        p { "Reading needs a token of extensions.console.read_tokens_file or act_tokens_file." }
        form.act method="post" action="/login" {
            input type="hidden" name="to" value=(to);
            label { "Token " input type="password" name="token" required autocomplete="current-password"; }
            button { "Sign in" }
        }
    };
    document("Sign in", None, html! { div.top { strong { "Perigee" } } }, body)
}

async fn ask_for_token(Query(To { to }): Query<To>) -> Response {
    as_html(StatusCode::OK, login(&to, false).into_string().into())
}

#[derive(Deserialize)]
struct Shows {
    #[serde(default)]
    to: String,
    token: String,
}

async fn take_token(
    State(roles): State<Shared>,
    headers: HeaderMap,
    peer: Option<Extension<Peer>>,
    Form(Shows { to, token }): Form<Shows>,
) -> Response {
    if !roles::is_own(&headers) {
        return message(StatusCode::FORBIDDEN, "A page of another site asks for this.");
    }
    let peer = peer.map(|Extension(peer)| peer).unwrap_or_default();
    let Some(cookie) = roles.begin(&token, &headers, &peer) else {
        tracing::warn!(from = ?peer.address, "a wrong token was shown to the console");
        return as_html(StatusCode::UNAUTHORIZED, login(&to, true).into_string().into());
    };
    // Only to a page of this console: `//other` is another machine, and so is `/\other` to some browsers.
    let own = to.starts_with('/') && !to[1..].starts_with(['/', '\\']) && !to.contains(char::is_control);
    let to = if own { to.as_str() } else { "/" };
    ([(header::SET_COOKIE, cookie)], Redirect::to(to)).into_response()
}

async fn leave(State(roles): State<Shared>, headers: HeaderMap) -> Response {
    if !roles::is_own(&headers) {
        return message(StatusCode::FORBIDDEN, "A page of another site asks for this.");
    }
    let cookie = roles.end(&headers);
    let mut response = Redirect::to("/login").into_response();
    response.headers_mut().extend(cookie.map(|cookie| (header::SET_COOKIE, cookie)));
    response
}
