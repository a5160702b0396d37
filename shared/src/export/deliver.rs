//! Sending one request until there is nothing more to do about it.

use std::time::Duration;

use bytes::Bytes;

use super::{Backoff, Client, Outcome, halve};
use crate::env::Env;
use crate::signal::Signal;

/// Part of a request that a backend has refused for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The smallest request that it refuses.
    pub body: Bytes,
    /// Items in it.
    pub items: u64,
    /// What the backend said, without payload.
    pub reason: String,
}

/// What became of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Items that the backend has.
    pub accepted: u64,
    /// Items that it took in a request and refused for good all the same (`partial_success`).
    pub rejected: u64,
    /// What it refused for good.
    pub refused: Vec<Refused>,
}

/// Told while it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress<'a> {
    /// The backend has taken so many items.
    Sent(u64),
    /// It has not, and the same is sent again after this wait.
    Retry(Duration, &'a str),
}

/// Sends `body` with `items` items. A refusal for now, or for the exporter's own settings, is tried again for ever; a refusal of
/// the data is halved, down to single items. The caller may drop the future: what was not sent is then still to be sent.
pub async fn deliver(
    client: &Client,
    signal: Signal,
    body: Bytes,
    items: u64,
    backoff: &mut Backoff,
    env: &Env,
    mut tell: impl FnMut(Progress<'_>),
) -> Delivered {
    let mut out = Delivered::default();
    let mut todo = vec![(body, items)];
    while let Some((body, items)) = todo.pop() {
        let reason = match client.send(signal, &body).await {
            Outcome::Accepted { rejected, .. } => {
                backoff.reset();
                let rejected = rejected.min(items);
                out.accepted += items - rejected;
                out.rejected += rejected;
                tell(Progress::Sent(items - rejected));
                continue;
            }
            Outcome::Retry { after, reason } => {
                wait(backoff, env, after, &reason, &mut tell).await;
                todo.push((body, items));
                continue;
            }
            Outcome::Refused { reason, misconfigured: true } => {
                wait(backoff, env, None, &reason, &mut tell).await;
                todo.push((body, items));
                continue;
            }
            Outcome::TooLarge => "the request is too large".to_owned(),
            Outcome::Refused { reason, .. } => reason,
        };
        match halve(signal, &body) {
            Some((first, second)) => {
                let in_first = super::split::items(signal, &first).unwrap_or(0);
                todo.push((second, items.saturating_sub(in_first)));
                todo.push((first, in_first));
            }
            None => out.refused.push(Refused { body, items, reason }),
        }
    }
    out
}

async fn wait(
    backoff: &mut Backoff,
    env: &Env,
    asked: Option<Duration>,
    reason: &str,
    tell: &mut impl FnMut(Progress<'_>),
) {
    // Giving up is not ours to do: a series that has run out begins anew.
    let wait = backoff.wait(env, asked).unwrap_or_else(|| {
        backoff.reset();
        backoff.wait(env, asked).unwrap_or_default()
    });
    tell(Progress::Retry(wait, reason));
    tokio::time::sleep(wait).await;
}
