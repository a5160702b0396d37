//! Users: two of three ask for a picture, the third asks where the camera points.

use std::net::SocketAddr;
use std::time::Duration;

use http::HeaderMap;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::web::Client;

/// Requests at once, at most: users do not pile up on a service that is slow.
const AT_ONCE: usize = 64;

/// Asks `requests` times a second until `stop`, then lets the last requests end.
pub(crate) async fn run(pictures: SocketAddr, pointing: SocketAddr, requests: u32, stop: CancellationToken) {
    let client = Client::new();
    let mut clock = interval(Duration::from_secs(1) / requests);
    clock.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut asked = JoinSet::new();
    for id in 0u64.. {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            _ = clock.tick() => {}
        }
        while asked.try_join_next().is_some() {}
        if asked.len() >= AT_ONCE {
            continue;
        }
        let url = match id % 3 {
            2 => format!("http://{pointing}/pointing/{id}"),
            _ => format!("http://{pictures}/picture/{id}"),
        };
        let client = client.clone();
        // A failure is in the services' telemetry.
        asked.spawn(async move { client.get(&url, HeaderMap::new()).await.is_ok() });
    }
    while asked.join_next().await.is_some() {}
}
