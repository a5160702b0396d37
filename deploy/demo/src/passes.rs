//! Contacts of seconds, opened over the agent's control socket as flight software would.

use std::time::Duration;

use anyhow::Context;
use http::Method;
use serde_json::json;

use crate::child::Program;
use crate::radio::RATE_DOWN;
use crate::stage::STATION;

/// Where in a pass the demo is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// No contact is open.
    Gap,
    /// One is.
    Contact,
    /// After the last pass: a contact stays open until everything is down.
    Drain,
}

/// Opens a contact; one that lasts until [`close`] when `length` is absent.
pub(crate) async fn open(agent: &Program, length: Option<Duration>) -> anyhow::Result<()> {
    let body =
        json!({"station": STATION, "seconds": length.map(|l| l.as_secs_f64()), "rate_down": RATE_DOWN});
    agent.ask(Method::POST, "/contact/open", Some(&body)).await.context("cannot open a contact")?;
    Ok(())
}

/// Closes the contact that is open, if one is.
pub(crate) async fn close(agent: &Program) -> anyhow::Result<()> {
    agent.ask(Method::POST, "/contact/close", None).await.context("cannot close the contact")?;
    Ok(())
}
