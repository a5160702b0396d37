//! Waiting for a condition, and seeds.

use std::time::Duration;

use tokio::time::Instant;

/// Until a condition that should hold counts as a failure.
pub const DEADLINE: Duration = Duration::from_secs(40);

const POLL: Duration = Duration::from_millis(20);

/// Polls `check` until it is `Ok`; its last error is the panic's message.
pub async fn eventually<T>(what: &str, check: impl AsyncFnMut() -> Result<T, String>) -> T {
    eventually_within(DEADLINE, what, check).await
}

/// Like [`eventually`], with a deadline of its own.
pub async fn eventually_within<T>(
    deadline: Duration,
    what: &str,
    check: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    within(deadline, check).await.unwrap_or_else(|why| panic!("{what}: not within {deadline:?}: {why}"))
}

/// Polls `check` until it is `Ok`, or until the deadline, which hands back its last error.
pub async fn within<T>(
    deadline: Duration,
    mut check: impl AsyncFnMut() -> Result<T, String>,
) -> Result<T, String> {
    let end = Instant::now() + deadline;
    loop {
        match check().await {
            Err(_) if Instant::now() <= end => tokio::time::sleep(POLL).await,
            result => return result,
        }
    }
}

/// The seed of a test: `PERIGEE_SEED`, else random; printed, so that a failure can be had again.
pub fn seed(test: &str) -> u64 {
    let seed = std::env::var("PERIGEE_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    eprintln!("{test}: PERIGEE_SEED={seed}");
    seed
}
