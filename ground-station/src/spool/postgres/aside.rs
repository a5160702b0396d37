//! What a station does while the engine does not answer: it holds on its own disk what arrives, and says of nothing that it is
//! committed, so that the satellite keeps it too. When the engine is back, what is held is handed in, and links begin again: their
//! Resume then says what is committed.

use std::sync::Arc;
use std::time::Duration;

use perigee_proto::link;
use perigee_shared::env::Env;

use super::super::contents::Settings;
use super::super::error::SpoolError;
use super::super::file::Spool;
use super::super::intake::{self, Applied, Incoming};
use super::super::ledger::{self, Answer};
use super::super::local::Local;
use super::super::tables::SequenceKey;
use super::{Intake, locked};

/// After this time without an answer the station works without the engine until it answers again.
const PATIENCE: Duration = Duration::from_secs(3);

/// What is held without the engine, at most.
const MOST: u64 = 4 << 30;

/// The file of what is held.
#[derive(Clone)]
pub(super) struct Aside {
    local: Local,
    max_bytes: u64,
}

impl Aside {
    /// Opens the file, in a directory of its own below the store's.
    pub(super) fn open(env: &Env, settings: &Settings) -> Result<Self, SpoolError> {
        let max_bytes = settings.max_bytes.min(MOST);
        let settings = Settings {
            directory: settings.directory.join("aside"),
            max_bytes,
            satellites: Vec::new(),
            ballast: 0,
            routes: Default::default(),
            ..settings.clone()
        };
        Ok(Self { local: Local::open(env, settings, 0)?, max_bytes })
    }

    async fn hold(&self, batch: Arc<[Incoming]>) -> Result<Vec<Applied>, SpoolError> {
        self.local.keeper.insist(move |spool| spool.write(|txn| intake::hold_only(txn, &batch))).await
    }

    fn is_full(&self) -> bool {
        self.local.status().borrow().used >= self.max_bytes
    }

    async fn next(&self, after: Option<SequenceKey>) -> Result<Option<(SequenceKey, Incoming)>, SpoolError> {
        self.local
            .keeper
            .ask(move |spool: &mut Spool| spool.read(|view| intake::next_held(view, after)))
            .await
    }

    async fn forget(&self, key: SequenceKey) -> Result<(), SpoolError> {
        self.local
            .keeper
            .insist(move |spool| spool.write(|txn| intake::delete_partial(txn, key).map(drop)))
            .await
    }

    pub(super) async fn close(self) {
        self.local.close().await;
    }
}

impl Intake<'_> {
    fn aside(self) -> Option<Aside> {
        locked(&self.0.inner.aside).clone()
    }

    /// Waits until the engine is gone for now; for ever without a file to hold things in.
    pub(super) async fn cut_off(self) {
        if self.aside().is_none() {
            return std::future::pending().await;
        }
        let mut status = self.0.status();
        loop {
            if status.wait_for(|status| status.failing.is_some()).await.is_err() {
                return std::future::pending().await;
            }
            if status.borrow().aside {
                return;
            }
            let mut again = self.0.status();
            let back = again.wait_for(|status| status.failing.is_none());
            if tokio::time::timeout(PATIENCE, back).await.is_err() {
                self.0.inner.status.send_if_modified(|status| {
                    let begins = status.failing.is_some() && !status.aside;
                    if begins {
                        status.aside = true;
                        tracing::error!(
                            event.name = "perigee.fleet.cut_off",
                            "this station is cut off from the shared ledger: it holds what arrives on its own disk and \
                             acknowledges no segment until the ledger answers"
                        );
                    }
                    begins
                });
                return;
            }
        }
    }

    /// Holds what arrives; none of it is committed.
    pub(super) async fn hold_aside(self, batch: Arc<[Incoming]>) -> Result<Vec<Applied>, SpoolError> {
        let Some(aside) = self.aside() else { return Err(SpoolError::Gone) };
        let held = aside.hold(batch).await;
        if aside.is_full() {
            self.0.inner.status.send_if_modified(|status| {
                let before = status.full;
                status.full = true;
                !before
            });
        }
        held
    }

    /// Answers a Hello with what is held here.
    pub(super) async fn answer_aside(
        self,
        satellite: Arc<str>,
        hello: Arc<link::Hello>,
    ) -> Result<Answer, SpoolError> {
        let Some(aside) = self.aside() else { return Err(SpoolError::Gone) };
        let ledger = self.0.inner.scratch.ledger();
        aside
            .local
            .keeper
            .insist(move |spool| {
                spool.write(|txn| ledger::hello_without_ledger(txn, &satellite, &hello, ledger))
            })
            .await
    }

    /// Hands in what is held, once the engine answers.
    pub(super) async fn hand_in(self) -> Result<(), SpoolError> {
        let Some(aside) = self.aside() else { return Ok(()) };
        let was_aside = self.0.inner.status.borrow().aside;
        if self.0.inner.status.borrow().failing.is_some() {
            return Ok(());
        }
        if was_aside {
            // From here on what arrives goes to the ledger again.
            self.0.inner.status.send_modify(|status| status.aside = false);
        }
        let (mut after, mut handed_in) = (None, 0u64);
        while let Some((key, incoming)) = aside.next(after).await? {
            let of = incoming.satellite.to_string();
            match self.apply_now(vec![incoming].into()).await {
                Ok(applied) => tracing::debug!(satellite = of, ?applied, "what was held aside is handed in"),
                // Its bytes come again.
                Err(error) if !error.is_retryable() => {
                    tracing::error!(satellite = of, %error, "what was held aside cannot be handed in");
                }
                Err(error) => return Err(error),
            }
            aside.forget(key).await?;
            (after, handed_in) = (Some(key), handed_in + 1);
        }
        if handed_in > 0 || was_aside {
            tracing::info!(
                event.name = "perigee.fleet.handed_in",
                segments = handed_in,
                "what was held without the shared ledger was handed in; links begin again"
            );
            self.0.inner.status.send_modify(|status| status.relieved += 1);
        }
        Ok(())
    }
}
