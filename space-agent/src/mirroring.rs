//! Keeps the counters beside the log (`counters.json`) current: a minute after something was accepted, and at most once a minute. While
//! nothing happens it sleeps.

use std::time::Duration;

use perigee_shared::env::Owner;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::journal::Progress;
use crate::wal::Wal;

/// The file takes a few pages.
const EVERY: Duration = Duration::from_secs(60);

/// Writes them after commits and seals that `progress` tells of, until `shutdown`.
pub async fn run(wal: Owner<Wal>, mut progress: watch::Receiver<Progress>, shutdown: CancellationToken) {
    loop {
        let due = async {
            progress.changed().await?;
            tokio::time::sleep(EVERY).await;
            Ok::<_, watch::error::RecvError>(())
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            due = due => if due.is_err() { return },
        }
        progress.mark_unchanged();
        if wal.call(|wal| wal.mirror().keep(0)).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use perigee_shared::env::Placement;
    use perigee_shared::otlp::walk::Walked;
    use perigee_shared::signal::{Signal, SignalSet, TimeRange};
    use simdisk::Disk;
    use tokio::time::Instant;

    use super::*;
    use crate::wal::Accepted;
    use crate::wal::config;

    fn request() -> Accepted {
        let walked = Walked { items: 1, time: TimeRange { start: 1, end: 1 } };
        Accepted { signal: Signal::Logs, body: vec![7; 100].into(), walked }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_accepted_is_beside_the_log_a_minute_later_and_an_idle_agent_writes_nothing() {
        let disk = Disk::new();
        let config = config("/log".as_ref(), &[("link", SignalSet::ALL)]);
        let wal = Wal::open(config, disk.env()).unwrap();
        let wal = Owner::new(Placement::Inline, "wal", wal).unwrap();
        let told = watch::Sender::new(Progress { unsealed: Vec::new(), at: Instant::now() });
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(wal.clone(), told.subscribe(), stop.clone()));
        let counters = || disk.content("/log/counters.json".as_ref()).unwrap();
        let mut written = counters();
        let (mut writes, mut commits) = (0, 0);
        for second in 0..3_600 {
            // For five minutes a request each second.
            if second < 300 {
                wal.call(|wal| wal.journal().append(&[request()])).await.unwrap().unwrap();
                told.send_modify(|progress| progress.at = Instant::now());
                commits += 1;
            }
            tokio::time::advance(Duration::from_secs(1)).await;
            tokio::task::yield_now().await;
            let now = counters();
            writes += u32::from(now != written);
            written = now;
        }
        assert_eq!(commits, 300);
        assert!((5..=6).contains(&writes), "{writes}");
        assert!(String::from_utf8(written).unwrap().contains(r#""accepted":[0,0,300]"#));
        stop.cancel();
        task.await.unwrap();
    }
}
