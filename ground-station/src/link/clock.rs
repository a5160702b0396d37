//! This station's clocks, as the link reads them and tells them to satellites. What satellites say of theirs is in the spool.

use std::time::Duration;

use perigee_proto::link::{self, ground_message};
use perigee_shared::env::Env;

use crate::spool::Reading;

#[derive(Clone)]
pub(super) struct Clocks(Env);

impl Clocks {
    pub(super) fn new(env: &Env) -> Self {
        Self(env.clone())
    }

    /// Ns since the Unix epoch.
    pub(super) fn now(&self) -> u64 {
        self.0.unix_nano()
    }

    /// What they are now that a Hello has come.
    pub(super) fn read(&self, round_trip: Duration) -> Reading {
        Reading { wall: self.0.unix_nano(), since_boot: self.0.since_boot(), round_trip }
    }

    /// Writes them into a Resume that leaves now.
    pub(super) fn tell(&self, message: &mut link::GroundMessage) {
        let Some(ground_message::Body::Resume(resume)) = &mut message.body else { return };
        let (wall, since_boot) = (self.0.wall(), self.0.since_boot());
        resume.clock = Some(link::Clock {
            unix_nano: wall.unix_nano,
            boot_id: since_boot.boot,
            since_boot_nano: since_boot.nano,
            untrusted: wall.doubt.map(|doubt| doubt.to_string()).unwrap_or_default(),
        });
    }
}
