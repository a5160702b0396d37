//! A station that was taken over: its certificate is valid, its software is not ours.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use perigee_proto::link::{self, agent_message, ground_message};
use perigee_shared::env::Env;
use perigee_shared::link::tls::{Credentials, load_authorities, server_config};
use perigee_shared::link::wire;
use perigee_shared::segment::Lane;
use rand::Rng;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use crate::Scene;

/// What it does on each connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// It says that it has segments that are not made yet.
    Contradicts,
    /// It says that it has all that is on board.
    HasEverything,
    /// It never answers.
    Silent,
    /// It answers, and goes on without end: with answers, acknowledgements and rejections of what it was never sent.
    Endless,
}

impl Lie {
    /// Every one, with what it is called.
    pub const ALL: [(Self, &str); 4] = [
        (Self::Contradicts, "contradicts the log"),
        (Self::HasEverything, "claims everything"),
        (Self::Silent, "never answers"),
        (Self::Endless, "never ends"),
    ];
}

/// What it has seen.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// How often it was greeted.
    pub greeted: usize,
    /// How many epochs the latest Hello has named.
    pub epochs: usize,
    /// Messages that it has sent.
    pub sent: usize,
}

/// See the module; it ends when this is dropped.
pub struct Station {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it has seen.
    pub seen: watch::Receiver<Seen>,
    task: AbortHandle,
}

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

impl Station {
    /// Starts the station `id`, whose certificate was issued.
    pub fn start(scene: &Scene, id: &str, lie: Lie) -> Self {
        let path = |name: String| PathBuf::from(scene.certificate(&name));
        let (certificate, key) = (path(format!("station-{id}.crt")), path(format!("station-{id}.key")));
        let credentials = Credentials::load(&certificate, &key).unwrap();
        let satellites = load_authorities(&path("satellite-ca.crt".to_owned())).unwrap();
        let config = server_config(credentials, satellites, &[], Env::production().clock).unwrap();
        let endpoint = quinn::Endpoint::server(config, SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = endpoint.local_addr().unwrap();
        let (tell, seen) = watch::channel(Seen::default());
        let tell = Arc::new(tell);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Some(incoming) = endpoint.accept().await {
                // That the agent ends it is what is to happen.
                let tell = Arc::clone(&tell);
                connections.spawn(async move { drop(serve(incoming, lie, &tell).await) });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, seen, task: task.abort_handle() }
    }
}

impl Drop for Station {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(incoming: quinn::Incoming, lie: Lie, tell: &watch::Sender<Seen>) -> Result<()> {
    let connection = incoming.await?;
    let (mut send, mut receive) = connection.accept_bi().await?;
    let heard = wire::read::<link::AgentMessage>(&mut receive).await?;
    let Some(agent_message::Body::Hello(hello)) = heard.and_then(|(message, _)| message.body) else {
        return Err("no Hello".into());
    };
    tell.send_modify(|seen| (seen.greeted, seen.epochs) = (seen.greeted + 1, hello.epochs.len()));
    let own = hello.epochs.last().cloned().unwrap_or_default();
    let mut say = async |body| {
        send.write_all(&wire::frame(&link::GroundMessage { body: Some(body) })).await?;
        tell.send_modify(|seen| seen.sent += 1);
        Ok::<_, quinn::WriteError>(())
    };
    match lie {
        Lie::Silent => {}
        Lie::Contradicts => say(resume(&own, |lane| 1..lane.next_sequence + 1_000)).await?,
        Lie::HasEverything => {
            say(resume(&own, |lane| 1..lane.next_sequence)).await?;
            let committed = own.lanes.iter().flat_map(|lane| {
                let id = |sequence| link::SegmentId { epoch: own.epoch, lane: lane.lane, sequence };
                (1..lane.next_sequence).map(id)
            });
            let ack = link::Ack { committed: committed.collect(), ..link::Ack::default() };
            say(ground_message::Body::Ack(ack)).await?;
        }
        Lie::Endless => loop {
            let random = || rand::rng().random_range(1_000..1 << 60);
            let lane = u32::from(Lane::BULK.0);
            let id = || link::SegmentId { epoch: own.epoch, lane, sequence: random() };
            say(resume(&own, |_| 0..0)).await?;
            for reason in 0..5 {
                say(ground_message::Body::Reject(link::Reject { segment: Some(id()), reason })).await?;
            }
            let held = vec![link::Range { start: 0, end: random() }];
            let partial = link::Partial { sequence: random(), payload_hash: vec![7; 32], held };
            let partials = vec![link::PartialAck { epoch: own.epoch, lane, partial: Some(partial) }];
            let drops = vec![link::DropsAck { epoch: own.epoch, ids: vec![random()], ..Default::default() }];
            let ack = link::Ack { committed: vec![id()], partials, drops };
            say(ground_message::Body::Ack(ack)).await?;
        },
    }
    connection.closed().await;
    Ok(())
}

/// Resume with so much committed of each lane.
fn resume(
    own: &link::Epoch,
    committed: impl Fn(&link::Lane) -> std::ops::Range<u64>,
) -> ground_message::Body {
    let lanes = own.lanes.iter().map(|lane| {
        let range = committed(lane);
        let sequences = Some(link::Range { start: range.start, end: range.end });
        let committed = vec![link::CommittedRange { sequences, ..link::CommittedRange::default() }];
        link::ResumeLane { lane: lane.lane, committed, ..link::ResumeLane::default() }
    });
    let epochs =
        vec![link::ResumeEpoch { epoch: own.epoch, lanes: lanes.collect(), ..link::ResumeEpoch::default() }];
    let start_counter = u64::MAX;
    ground_message::Body::Resume(link::Resume {
        ledger: 666,
        codecs: vec![1],
        start_counter,
        epochs,
        ..link::Resume::default()
    })
}
