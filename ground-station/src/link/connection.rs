//! One connection: moves bytes between quinn, the protocol machine and the spool, and decides nothing.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use perigee_proto::link;
use perigee_shared::clock::sleep_until;
use perigee_shared::link::revocation::Revocations;
use perigee_shared::link::{Slot, tls, transport, wire};
use quinn::{Connection, RecvStream, SendStream, VarInt};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::bounds;
use super::clock::Clocks;
use super::history::History;
use super::machine::{Action, Close, Event, Haul, Machine, Settings, StreamId};
use super::passing::Passing;
use super::registry::{Registry, Underway};
use crate::memory::Stir;
use crate::spool::{Applied, Ending, Greeting, Heard, Incoming, Offset, SpoolError, Store};
use crate::telemetry::Metrics;

/// Bytes that are read from a stream at once.
const READ: usize = 64 << 10;
/// Reads that wait for the machine.
const QUEUE: usize = 8;
/// Bytes that a connection may hold while memory is short, until the spool has taken them.
const HELD_WHEN_SHORT: usize = 256 << 10;
/// How long the peer may take to let a message through.
const SEND_TIMEOUT: Duration = Duration::from_secs(20);
/// How often the spool's record of a contact is brought up to date while it lasts.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// How long a contact may last without Hello.
pub(super) const HELLO_TIMEOUT: Duration = Duration::from_secs(20);

/// What a connection needs from around it.
#[derive(Clone)]
pub(super) struct Surroundings {
    pub(super) store: Store,
    pub(super) metrics: Metrics,
    pub(super) clocks: Clocks,
    pub(super) history: History,
    pub(super) registry: Registry,
    /// Whether memory is short.
    pub(super) short: watch::Receiver<bool>,
    /// Told when something comes.
    pub(super) stir: Stir,
    /// The lists in force.
    pub(super) revocations: Arc<watch::Sender<Revocations>>,
    pub(super) shutdown: CancellationToken,
}

/// What is asked of the spool at the moment; at most one thing of a kind.
type Pending = Pin<Box<dyn Future<Output = Result<Event, SpoolError>> + Send>>;

struct Shell {
    connection: Connection,
    control: SendStream,
    machine: Machine,
    around: Surroundings,
    satellite: Arc<str>,
    asked: Vec<Pending>,
    stops: std::collections::BTreeMap<StreamId, CancellationToken>,
    /// Once Hello has come.
    greeted: Option<Greeted>,
    passing: Passing,
    /// When the last of it came.
    last: Instant,
    /// By how much the satellite's clock is ahead, as its Hello said.
    offset: Option<Offset>,
}

/// The contact that a connection is of.
struct Greeted {
    at: Instant,
    /// When the satellite opened it, by its clock.
    opened: u64,
    /// What the spool's record of the contact has of this link: what had come, and until when; `None`: nothing yet.
    told: Option<(Haul, Instant)>,
    /// When it is told again.
    due: Instant,
    /// The record is being written.
    telling: Option<JoinHandle<()>>,
}

impl Greeted {
    fn new(opened: u64) -> Self {
        let now = Instant::now();
        Self { at: now, opened, told: None, due: now + TELL_EVERY, telling: None }
    }

    /// What has come since it was told last, the last of it at `until`.
    fn news(&mut self, haul: Haul, until: Instant, ended: Option<Ending>) -> Heard {
        let is_first = self.told.is_none();
        let (before, since) = self.told.take().unwrap_or_else(|| (Haul::default(), self.at));
        let heard = Heard {
            opened: self.opened,
            connections: u32::from(is_first),
            began: since.elapsed(),
            lost: until.elapsed(),
            received: haul.received - before.received,
            held: haul.held - before.held,
            segments: haul.segments - before.segments,
            items: haul.items.saturating_sub(before.items),
            handover_twice: haul.handover_twice - before.handover_twice,
            ended,
            goodbye: haul.goodbye.clone(),
        };
        self.told = Some((haul, until));
        heard
    }
}

/// In the place of a satellite whose segment is in conflict: other lines about it do not stand for that.
fn conflicts(satellite: &str) -> Arc<str> {
    format!("conflicts of {satellite}").into()
}

/// Serves a connection until it ends; what arrived is in the spool then.
pub(super) async fn serve(connection: Connection, settings: Settings, around: Surroundings) {
    let satellite = Arc::clone(&settings.satellite);
    let opened = tokio::select! {
        biased;
        () = around.shutdown.cancelled() => return connection.close(code(Close::Shutdown), b"the ground-station ends"),
        opened = tokio::time::timeout(HELLO_TIMEOUT, connection.accept_bi()) => opened,
    };
    let Ok(Ok((control, receive))) = opened else {
        connection.close(code(Close::Protocol), b"no control stream");
        return;
    };
    let mut tasks = JoinSet::new();
    let (control_events, mut controls) = mpsc::channel(QUEUE);
    tasks.spawn(read_control(receive, control_events, connection.clone()));
    let (stream_events, mut streams) = mpsc::channel(QUEUE);
    let mut shell = Shell {
        connection: connection.clone(),
        control,
        machine: Machine::new(settings),
        around,
        satellite,
        asked: Vec::new(),
        stops: Default::default(),
        greeted: None,
        passing: Passing::default(),
        last: Instant::now(),
        offset: None,
    };
    tasks.spawn(accept_streams(connection.clone(), stream_events));
    shell.run(&mut controls, &mut streams).await;
    shell.tell_of_contact().await;
    tasks.shutdown().await;
}

impl Shell {
    async fn run(&mut self, controls: &mut mpsc::Receiver<Event>, streams: &mut mpsc::Receiver<FromStream>) {
        let mut status = self.around.store.status();
        let (shutdown, mut short) = (self.around.shutdown.clone(), self.around.short.clone());
        let (mut controls_open, mut leaving) = (true, false);
        let begun = Instant::now();
        let relieved = status.borrow().relieved;
        loop {
            let room = status.borrow_and_update().has_room(&self.satellite);
            if status.borrow().relieved != relieved {
                self.connection.close(code(Close::Again), b"partial segments were discarded; connect again");
                break;
            }
            let little = !*short.borrow_and_update() || self.machine.held() < HELD_WHEN_SHORT;
            let reading = self.machine.wants_data() && room && little;
            let deadline = self.machine.deadline();
            // Without a name nobody can find the record again.
            let due = self.greeted.as_ref().filter(|greeted| greeted.opened != 0).map(|greeted| greeted.due);
            let event = tokio::select! {
                biased;
                () = shutdown.cancelled(), if !leaving => {
                    leaving = true;
                    Event::Shutdown
                }
                event = next_answer(&mut self.asked), if !self.asked.is_empty() => match event {
                    Ok(event) => event,
                    Err(SpoolError::Budget(reason)) => {
                        if let Some(left_out) = self.around.registry.may_say(&self.satellite) {
                            tracing::error!(
                                event.name = "perigee.link.budget",
                                satellite = %self.satellite,
                                reason,
                                left_out,
                                "link closed: this satellite has reached one of its bounds"
                            );
                        }
                        self.connection.close(code(Close::Protocol), reason.as_bytes());
                        return;
                    }
                    Err(error) => {
                        tracing::error!(satellite = %self.satellite, %error, "the spool does not answer");
                        self.connection.close(code(Close::Shutdown), b"the ground-station's spool is gone");
                        return;
                    }
                },
                event = controls.recv(), if controls_open => match event {
                    Some(event) => {
                        self.last = Instant::now();
                        event
                    }
                    None => {
                        controls_open = false;
                        continue;
                    }
                },
                () = sleep_until(deadline), if deadline.is_some() => Event::Tick,
                () = sleep_until(due), if due.is_some() => {
                    self.tell_so_far();
                    continue;
                }
                event = streams.recv(), if reading => match event {
                    Some(FromStream::Opened(stream, mut open, stop)) => {
                        self.stops.insert(stream, stop);
                        open.age_milli = self.age(&open);
                        Event::Opened(stream, *open)
                    }
                    Some(FromStream::Data(stream, offset, bytes)) => {
                        self.last = Instant::now();
                        self.around.stir.stir();
                        self.around.metrics.received(&self.satellite, bytes.len() as u64);
                        self.passing.data(stream, bytes.len() as u64);
                        Event::Data(stream, offset, bytes)
                    }
                    Some(FromStream::Ended(stream)) => {
                        self.stops.remove(&stream);
                        self.passing.ended(stream);
                        Event::Ended(stream)
                    }
                    // The connection is gone and everything that had arrived was taken.
                    None => break,
                },
                // While nothing is read, nobody else would notice that the connection is gone.
                _ = self.connection.closed(), if !reading && self.asked.is_empty() => break,
                () = tokio::time::sleep_until(begun + HELLO_TIMEOUT), if !self.machine.has_begun() => {
                    self.connection.close(code(Close::Protocol), b"no Hello");
                    break;
                }
                () = changed(&mut status) => continue,
                () = changed(&mut short) => continue,
            };
            self.take(event).await;
            if leaving && self.machine.is_idle() && self.asked.is_empty() {
                self.connection.close(code(Close::Shutdown), b"the ground-station ends");
                break;
            }
        }
        self.finish().await;
    }

    /// Hands over what is left and waits until it is durable.
    async fn finish(&mut self) {
        self.handle(Event::Lost).await;
        while !self.asked.is_empty() {
            match next_answer(&mut self.asked).await {
                Ok(event) => self.handle(event).await,
                Err(_) => return,
            }
            if self.asked.is_empty() && !self.machine.is_idle() {
                self.handle(Event::Lost).await;
            }
        }
    }

    /// The link has ended: what came in it goes into the log and the spool.
    async fn tell_of_contact(&mut self) {
        let Some(mut greeted) = self.greeted.take() else { return };
        let haul = self.machine.haul().clone();
        let ended = self.ending(haul.goodbye.is_some());
        // After Goodbye the signal may be lost before the link is closed.
        let lost = match self.connection.close_reason() {
            // Something had come until so long ago, if not data.
            Some(quinn::ConnectionError::TimedOut) => {
                let silence = transport::idle_timeout(self.connection.rtt());
                Instant::now().checked_sub(silence).map_or(self.last, |heard| heard.max(self.last))
            }
            _ if ended == Ending::Lost => self.last,
            _ => Instant::now(),
        };
        tracing::info!(
            satellite = %self.satellite,
            ended = ended.name(),
            seconds = lost.duration_since(greeted.at).as_secs_f64(),
            received_bytes = haul.received,
            held_bytes = haul.held,
            segments = haul.segments,
            items = haul.items.total(),
            handover_twice = haul.handover_twice,
            "contact has ended"
        );
        if let Some(goodbye) = &haul.goodbye {
            let Surroundings { clocks, history, .. } = &self.around;
            history.goodbye(&self.satellite, &goodbye.backlog, clocks.now());
        }
        if let Some(telling) = greeted.telling.take() {
            let _ = telling.await;
        }
        let heard = greeted.news(haul, lost, Some(ended));
        if let Err(error) = self.around.store.intake().heard(Arc::clone(&self.satellite), heard).await {
            tracing::error!(satellite = %self.satellite, %error, "the record of a contact could not be kept");
        }
    }

    /// Keeps what has come so far, so that it is known of a contact in which this program is killed.
    fn tell_so_far(&mut self) {
        let Some(greeted) = &mut self.greeted else { return };
        greeted.due = Instant::now() + TELL_EVERY;
        if greeted.telling.as_ref().is_some_and(|telling| !telling.is_finished()) {
            return;
        }
        let heard = greeted.news(self.machine.haul().clone(), self.last, None);
        let (store, satellite) = (self.around.store.clone(), Arc::clone(&self.satellite));
        greeted.telling = Some(tokio::spawn(async move {
            if let Err(error) = store.intake().heard(Arc::clone(&satellite), heard).await {
                tracing::error!(%satellite, %error, "the record of a contact could not be kept");
            }
        }));
    }

    fn ending(&self, goodbye: bool) -> Ending {
        let by_us = matches!(self.connection.close_reason(), Some(quinn::ConnectionError::LocallyClosed));
        if goodbye {
            Ending::Goodbye
        } else if self.around.shutdown.is_cancelled() {
            Ending::Shutdown
        } else if by_us && !self.around.registry.is_superseded(self.connection.stable_id()) {
            Ending::Closed
        } else {
            Ending::Lost
        }
    }

    /// Takes an event in, and shows what has come.
    async fn take(&mut self, event: Event) {
        let opened = if let Event::Opened(stream, _) = &event { Some(*stream) } else { None };
        let is_answer = matches!(event, Event::Applied(_));
        self.handle(event).await;
        if let Some((stream, (id, payload, missing))) =
            opened.and_then(|s| Some((s, self.machine.arriving(s)?)))
        {
            self.passing.opened(stream, id, payload, missing);
        }
        if is_answer {
            self.passing.hauled(self.machine.haul());
        }
    }

    async fn handle(&mut self, event: Event) {
        for action in self.machine.on_event(Instant::now(), event) {
            match action {
                Action::Ledger(hello) => self.greet(hello),
                Action::Send(mut message) => {
                    self.around.clocks.tell(&mut message);
                    self.send(&message).await;
                }
                Action::Stop(stream) => {
                    if let Some(stop) = self.stops.remove(&stream) {
                        stop.cancel();
                    }
                }
                Action::Commit(batch) => {
                    let (store, metrics) = (self.around.store.clone(), self.around.metrics.clone());
                    let turn = self.turn(batch.iter().map(|incoming| incoming.pieces.len()).sum());
                    self.asked.push(Box::pin(async move {
                        turn.await;
                        hand_over(store, metrics, batch).await
                    }));
                }
                Action::Drops(drops) => {
                    let (store, satellite) = (self.around.store.clone(), Arc::clone(&self.satellite));
                    let told = drops.drops.len();
                    let turn = self.turn(told);
                    self.asked.push(Box::pin(async move {
                        turn.await;
                        let ack = store.intake().drops(satellite, drops).await?;
                        Ok(Event::DropsRecorded(ack, told))
                    }));
                }
                Action::Conflict(id) => {
                    self.conflict(
                        &id,
                        "another segment was committed under this name; it is neither taken nor acknowledged",
                    );
                }
                Action::Contradicted(epoch) => {
                    self.conflict(
                        &format_args!("{epoch:016x}"),
                        "the satellite's log has other segments than were committed under these names: it was put back to an older \
                         state, or two machines use one identity; it goes on in a new epoch",
                    );
                }
                Action::Close(why, reason) => {
                    if let Some(left_out) = self.around.registry.may_say(&self.satellite) {
                        tracing::warn!(satellite = %self.satellite, reason, left_out, "link closed");
                    }
                    self.connection.close(code(why), reason.as_bytes());
                }
            }
        }
    }

    /// Two have one name.
    fn conflict(&self, name: &dyn std::fmt::Display, what: &'static str) {
        self.around.metrics.conflict(&self.satellite);
        let Some(left_out) = self.around.registry.may_say(&conflicts(&self.satellite)) else { return };
        tracing::error!(
            event.name = "perigee.link.conflict",
            satellite = %self.satellite,
            name = %name,
            left_out,
            "{what}"
        );
    }

    /// Ends older connections of this satellite in the same slot, so that what they hold is in the ledger, and asks it.
    fn greet(&mut self, mut hello: Arc<link::Hello>) {
        let read = self.around.clocks.read(self.connection.rtt());
        self.offset = hello.clock.as_ref().map(|clock| read.offset(clock));
        let offset = self.offset.map(Offset::seconds);
        self.around.history.hello(&self.satellite, &hello, read.wall, offset);
        // What the certificate itself says goes before what is said of it.
        if let Some(end) = tls::peer_end(&self.connection) {
            Arc::make_mut(&mut hello).agent.get_or_insert_default().certificate_end_unix_nano = end;
        }
        tracing::info!(
            satellite = %self.satellite,
            remote = %self.connection.remote_address(),
            epochs = hello.epochs.len(),
            "contact"
        );
        let (store, satellite) = (self.around.store.clone(), Arc::clone(&self.satellite));
        let (registry, id) = (self.around.registry.clone(), self.connection.stable_id());
        let (slot, ends) = (Slot::from_wire(hello.slot), hello.contact_end_unix_nano);
        let underway = Underway { at: Instant::now(), slot, ends, passing: self.passing.clone() };
        self.around.registry.has_begun(id, underway);
        self.greeted = Some(Greeted::new(hello.contact_start_unix_nano));
        let turn = self.turn(bounds::rows(&hello));
        self.asked.push(Box::pin(async move {
            turn.await;
            registry.supersede(&satellite, slot, id).await;
            let greeting = Greeting { hello, read: Some(read) };
            store.intake().ledger(satellite, greeting).await.map(Event::Ledger)
        }));
    }

    /// How old the oldest item of a segment is, ms: as the satellite said half a round trip ago, else since it was sealed by its clock.
    fn age(&self, open: &link::SegmentOpen) -> Option<u64> {
        let on_its_way = self.connection.rtt() / 2;
        let said = open.age_milli.map(|age| Duration::from_millis(age).saturating_add(on_its_way));
        let since_sealed = || {
            let sealed = open.header.as_ref()?.sealed_unix_nano;
            self.offset?.age(sealed, self.around.clocks.now())
        };
        said.or_else(since_sealed).map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
    }

    /// Waits until this satellite may have work on `rows` done: the more it has had done, the longer.
    fn turn(&self, rows: usize) -> impl Future<Output = ()> + Send + use<> {
        let turn = self.around.registry.turn(&self.satellite, bounds::pause(rows));
        let shutdown = self.around.shutdown.clone();
        async move {
            // What is to be durable before the end does not wait.
            let _ = shutdown.run_until_cancelled(tokio::time::sleep_until(turn)).await;
        }
    }

    async fn send(&mut self, message: &link::GroundMessage) {
        let frame = wire::frame(message);
        match tokio::time::timeout(SEND_TIMEOUT, self.control.write_all(&frame)).await {
            Ok(Ok(())) => {}
            // The connection is gone; what was acknowledged in vain is acknowledged in the next Resume.
            Ok(Err(error)) => tracing::debug!(satellite = %self.satellite, %error, "not sent"),
            Err(_) => self.connection.close(code(Close::Protocol), b"the control stream is not read"),
        }
    }
}

/// Has the store take the bytes, then commit what they belong to.
async fn hand_over(store: Store, metrics: Metrics, batch: Vec<Incoming>) -> Result<Event, SpoolError> {
    let of = batch.iter().map(|i| (Arc::clone(&i.satellite), Arc::clone(&i.header), i.age));
    let of = of.collect::<Vec<_>>();
    let mut taken = Vec::with_capacity(batch.len());
    for incoming in batch {
        taken.push(store.intake().put_payload(incoming).await?);
    }
    let applied = store.intake().commit(taken).await?;
    for ((satellite, header, age), _) in of.iter().zip(&applied).filter(|(_, a)| **a == Applied::New) {
        if let Some(age) = age {
            metrics.delivered(satellite, header, age.now());
        }
    }
    Ok(Event::Applied(applied))
}

pub(super) fn code(close: Close) -> VarInt {
    VarInt::from_u32(close as u32)
}

/// The first answer of those that are awaited.
async fn next_answer(asked: &mut Vec<Pending>) -> Result<Event, SpoolError> {
    std::future::poll_fn(|cx| {
        for i in 0..asked.len() {
            if let std::task::Poll::Ready(out) = asked[i].as_mut().poll(cx) {
                drop(asked.remove(i));
                return std::task::Poll::Ready(out);
            }
        }
        std::task::Poll::Pending
    })
    .await
}

async fn changed<T>(watched: &mut watch::Receiver<T>) {
    if watched.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// What comes from the streams of segments.
enum FromStream {
    Opened(StreamId, Box<link::SegmentOpen>, CancellationToken),
    Data(StreamId, u64, bytes::Bytes),
    Ended(StreamId),
}

async fn read_control(mut stream: RecvStream, events: mpsc::Sender<Event>, connection: Connection) {
    loop {
        match wire::read::<link::AgentMessage>(&mut stream).await {
            Ok(Some((message, _))) => {
                if events.send(Event::Control(message)).await.is_err() {
                    return;
                }
            }
            Ok(None) => return,
            Err(error) => {
                if !matches!(error, wire::WireError::Stream(_)) {
                    tracing::debug!(remote = %connection.remote_address(), %error, "link closed");
                    connection.close(code(Close::Protocol), error.to_string().as_bytes());
                }
                return;
            }
        }
    }
}

async fn accept_streams(connection: Connection, events: mpsc::Sender<FromStream>) {
    let mut readers = JoinSet::new();
    let mut next = 0;
    loop {
        tokio::select! {
            biased;
            Some(_) = readers.join_next(), if !readers.is_empty() => {}
            stream = connection.accept_uni() => match stream {
                Ok(stream) => {
                    readers.spawn(read_segment(next, stream, events.clone(), connection.clone()));
                    next += 1;
                }
                Err(_) => break,
            },
        }
    }
    drop(events);
    while readers.join_next().await.is_some() {}
}

async fn read_segment(
    id: StreamId,
    mut stream: RecvStream,
    events: mpsc::Sender<FromStream>,
    connection: Connection,
) {
    let (open, header) = match wire::read::<link::SegmentOpen>(&mut stream).await {
        Ok(Some(read)) => read,
        Ok(None) | Err(wire::WireError::Stream(_)) => return,
        Err(error) => {
            connection.close(code(Close::Protocol), error.to_string().as_bytes());
            return;
        }
    };
    let stop = CancellationToken::new();
    if events.send(FromStream::Opened(id, Box::new(open), stop.clone())).await.is_err() {
        return;
    }
    loop {
        // Unordered: what arrived above a hole is kept when the link is lost.
        let chunk = tokio::select! {
            biased;
            () = stop.cancelled() => {
                let _ = stream.stop(VarInt::from_u32(0));
                break;
            }
            chunk = stream.read_chunk(READ, false) => chunk,
        };
        let Ok(Some(chunk)) = chunk else { break };
        let offset = chunk.offset.saturating_sub(header);
        if events.send(FromStream::Data(id, offset, chunk.bytes)).await.is_err() {
            return;
        }
    }
    let _ = events.send(FromStream::Ended(id)).await;
}
