//! `ground-station replay`: what was committed goes to one exporter again. Asked of the running process, or of the store when nothing
//! runs; it is sent while a ground-station runs.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use perigee_shared::contact::shown_time;
use perigee_shared::control;
use perigee_top::Told;
use serde_json::Value;

use super::spool::{Query, fetch};
use super::{say, say_json};
use crate::config::{Config, KeepConfig};
use crate::console::{RangeAnswer, RangeRequest};

/// Between two looks at how far a replay is.
const EACH: Duration = Duration::from_secs(1);

/// What is to be done.
#[derive(Debug, Args)]
pub(super) struct What {
    /// The exporter that it goes to.
    #[arg(long, value_name = "NAME", required_unless_present_any = ["list", "cancel"])]
    exporter: Option<String>,
    /// Only of this satellite.
    #[arg(long, value_name = "ID")]
    satellite: Option<String>,
    /// Only segments with items from then on, as in 2026-11-26T14:00:00Z.
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Only segments with items until then.
    #[arg(long, value_name = "TIME", visible_alias = "to")]
    until: Option<String>,
    /// Wait until all of it is sent, and show how far it is.
    #[arg(long, requires = "exporter")]
    wait: bool,
    /// Show the replays and how far each is.
    #[arg(long, conflicts_with_all = ["exporter", "satellite", "from", "until"])]
    list: bool,
    /// End the replay with this number.
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["list", "exporter", "satellite", "from", "until"])]
    cancel: Option<u64>,
}

pub(super) async fn run(query: Query, what: What) -> anyhow::Result<ExitCode> {
    let config = Config::load(&query.file.config)?;
    if let Some(id) = what.cancel {
        cancel(&config, id).await?;
        say(&format!("replay {id} was cancelled\n"));
        return Ok(ExitCode::SUCCESS);
    }
    let list =
        async || fetch(&config, "/api/v1/replays", None, async |store| store.replays().ranges().await).await;
    if what.list {
        let replays = list().await?;
        if query.json {
            say_json(&replays)?
        } else {
            say(&text(&replays))
        }
        return Ok(ExitCode::SUCCESS);
    }
    let What { exporter, satellite, from, until, wait, .. } = what;
    let request = RangeRequest { exporter: exporter.unwrap_or_default(), satellite, from, until };
    let wanted = request.wanted().map_err(|why| anyhow!("{why}"))?;
    let body = serde_json::to_value(&request)?;
    let answer = fetch(&config, "/api/v1/replays", Some(body), async |store| {
        Ok(RangeAnswer { id: store.replays().replay_range(wanted).await? })
    })
    .await?;
    if wait {
        done(&config, &answer["id"]).await?;
    }
    let mut replays = list().await?;
    if let Value::Array(replays) = &mut replays {
        replays.retain(|replay| replay["id"] == answer["id"]);
    }
    if query.json {
        say_json(&replays[0])?
    } else {
        say(&text(&replays))
    }
    nothing_kept(&replays[0], config.storage.keep)?;
    Ok(ExitCode::SUCCESS)
}

/// A replay that found nothing because nothing stays after its export: whoever has lost a backend must not take it for done.
fn nothing_kept(replay: &Value, keep: KeepConfig) -> anyhow::Result<()> {
    if keep.age.0.is_zero() && replay["total_segments"] == 0 {
        anyhow::bail!(
            "nothing can be sent again: storage.keep is 0, so segments are deleted once every exporter has them; \
             set storage.keep.age and storage.keep.bytes to keep what comes from now on"
        );
    }
    Ok(())
}

async fn cancel(config: &Config, id: u64) -> anyhow::Result<()> {
    let path = format!("/api/v1/replays/{id}");
    control::request(socket(config)?, http::Method::DELETE, &path, None).await?;
    Ok(())
}

fn socket(config: &Config) -> anyhow::Result<&Path> {
    let control = config.extensions.control.as_ref();
    let control = control
        .ok_or_else(|| anyhow!("needs extensions.control, by which a running ground-station is asked"))?;
    Ok(&control.socket)
}

/// Waits until the replay with this number is over. Only a running ground-station sends it.
async fn done(config: &Config, id: &Value) -> anyhow::Result<()> {
    let told = Told::begin("beginning");
    loop {
        let replays = control::request(socket(config)?, http::Method::GET, "/api/v1/replays", None).await;
        let replays =
            replays.with_context(|| format!("replay {id} is not over; --list shows how far it is"))?;
        let replay = replays.as_array().into_iter().flatten().find(|replay| replay["id"] == *id);
        match replay.filter(|replay| replay["state"] == "running") {
            None => return Ok(()),
            Some(replay) => {
                let (segments, all) = (&replay["segments"], &replay["total_segments"]);
                told.tell(format!("replay {id}: {segments} of {all} segments"));
            }
        }
        tokio::time::sleep(EACH).await;
    }
}

/// The same for people.
fn text(replays: &Value) -> String {
    let head = ["number", "asked", "exporter", "satellite", "segments", "items", "refused", "gone", "state"];
    let mut out = line(head.map(str::to_owned));
    for replay in replays.as_array().into_iter().flatten() {
        let number = |key: &str| replay[key].as_u64().unwrap_or(0);
        let items = |key: &str| -> u64 {
            replay[key].as_object().into_iter().flatten().filter_map(|(_, n)| n.as_u64()).sum()
        };
        let name = |key: &str| replay[key].as_str().unwrap_or("all").to_owned();
        out.push_str(&line([
            number("id").to_string(),
            shown_time(number("asked_unix_nano")),
            name("exporter"),
            name("satellite"),
            format!("{}/{}", number("segments"), number("total_segments")),
            format!("{}/{}", items("items"), items("total_items")),
            items("refused").to_string(),
            (number("missing_segments") + number("unusable_segments")).to_string(),
            name("state"),
        ]));
    }
    out
}

fn line([a, b, c, d, e, f, g, h, i]: [String; 9]) -> String {
    format!("{a:>6} {b:<20} {c:<18} {d:<14} {e:>11} {f:>17} {g:>7} {h:>4} {i}\n")
}

#[cfg(test)]
mod tests {
    use perigee_shared::units::{ByteSize, Span};
    use serde_json::json;

    use super::*;

    #[test]
    fn a_replay_without_a_segment_fails_where_nothing_is_kept() {
        let kept = KeepConfig { age: Span::secs(60), bytes: ByteSize::mib(1) };
        let (none, one) = (json!({"total_segments": 0}), json!({"total_segments": 1}));
        let error = nothing_kept(&none, KeepConfig::default()).unwrap_err().to_string();
        assert!(error.contains("storage.keep is 0") && error.contains("storage.keep.age"), "{error}");
        nothing_kept(&one, KeepConfig::default()).unwrap();
        nothing_kept(&none, kept).unwrap();
    }

    #[test]
    fn a_replay_is_a_line() {
        let replays = json!([{
            "id": 3, "asked_unix_nano": 1_764_165_600_000_000_000_u64, "exporter": "otlp/new", "satellite": null,
            "segments": 4, "total_segments": 12, "items": {"spans": 7, "log_records": 1},
            "total_items": {"spans": 20, "log_records": 4}, "refused": {"spans": 1}, "missing_segments": 2,
            "unusable_segments": 0, "state": "running",
        }]);
        assert_eq!(
            text(&replays).lines().nth(1).unwrap(),
            "     3 2025-11-26T14:00:00Z otlp/new           all                   4/12              8/24       1    2 running"
        );
    }
}
