//! One connection: carries out what the session decides.

use std::ops::Range;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use perigee_proto::link::{
    AgentMessage, Goodbye, GoodbyeReason, GroundMessage, Hello, SegmentOpen, agent_message, ground_message,
};
use perigee_shared::contact::Contact;
use perigee_shared::env::SinceBoot;
use perigee_shared::link::ranges::RangeSet;
use perigee_shared::link::transport;
use perigee_shared::link::{Close, MINOR_VERSION, wire};
use perigee_shared::segment::{Codec, Header, Lane, SegmentId};
use perigee_shared::supervise::joined;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Shipper;
use super::connect::{Up, refusal};
use super::gate::{Gate, Turn};
use super::pass::Pass;
use super::queues::FETCH;
use super::session::{Action, Event, Session};
use crate::wal::{Recoder, Reconciled, Sending, Wal, WalError};

/// Messages that may wait for the ground to read them. Drops that find no place are told again in the next Hello.
const QUEUE: usize = 64;

/// Bytes handed to QUIC at once.
const PIECE: u64 = 32 << 10;

/// So much of what a link carries is counted on for segments, and bytes of each packet that are none of theirs.
const PAYLOAD: f64 = 0.9;
const PACKET_HEADERS: u64 = 40;

/// After Goodbye, so long is waited for the last acknowledgements, beyond a round trip.
const LAST_ACKS: Duration = Duration::from_secs(2);

/// The same when only the answer to Goodbye is waited for.
const LAST_WORD: Duration = Duration::from_millis(100);

/// How a connection has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// With the contact.
    ContactOver,
    /// Another connection is wanted at once.
    Again,
}

/// Said of a ground that would have the log begin new epochs without end.
const CONTRADICTS: &str = "the station contradicts a log that has begun a new epoch for that lately: it is \
                           left alone for a while, and what is on board stays for the other stations";

/// Why a connection has broken.
#[derive(Debug, thiserror::Error)]
pub(super) enum DriveError {
    #[error("{0}")]
    Connection(#[from] quinn::ConnectionError),
    #[error("{why}")]
    Closed { why: String, is_refusal: bool, is_superseded: bool },
    #[error("{0}")]
    Wire(#[from] wire::WireError),
    #[error("stream: {0}")]
    Write(#[from] quinn::WriteError),
    #[error("the ground does not read its control stream")]
    ControlStuck,
    #[error("{0}")]
    Wal(#[from] WalError),
    #[error("{0}")]
    Gone(#[from] perigee_shared::env::Gone),
    #[error("{0}")]
    Report(#[from] super::ReportError),
    #[error("the ground has closed its control stream")]
    ControlClosed,
    #[error("{CONTRADICTS}")]
    Contradicts { rest: Duration },
}

impl DriveError {
    /// The connection to `station` has ended for this reason.
    fn closed(station: &str, why: &quinn::ConnectionError) -> Self {
        // RFC 9001, section 4.8.
        const CRYPTO: Range<u64> = 0x100..0x200;
        use quinn::ConnectionError::{ApplicationClosed, ConnectionClosed};
        let is_refusal = match why {
            ApplicationClosed(close) => Close::is_refusal(close.error_code),
            // What TLS says of a certificate may come when this side is already done.
            ConnectionClosed(close) => CRYPTO.contains(&u64::from(close.error_code)),
            _ => false,
        };
        let superseded = quinn::VarInt::from_u32(Close::Superseded as u32);
        let is_superseded = matches!(why, ApplicationClosed(close) if close.error_code == superseded);
        Self::Closed { why: refusal(station, why), is_refusal, is_superseded }
    }

    /// Whether the ground has taken another connection in the place of this one.
    pub(super) const fn is_superseded(&self) -> bool {
        matches!(self, Self::Closed { is_superseded: true, .. })
    }

    /// Whether the ground has refused us: it will do so again.
    pub(super) const fn is_refusal(&self) -> bool {
        matches!(self, Self::Closed { is_refusal: true, .. } | Self::Contradicts { .. })
    }

    /// How long no connection is made.
    pub(super) const fn rest(&self) -> Duration {
        match self {
            Self::Contradicts { rest } => *rest,
            _ => Duration::ZERO,
        }
    }
}

/// What became of writing a segment: which bytes QUIC has taken, and whether that was all of them.
struct Written {
    id: SegmentId,
    taken: RangeSet,
    whole: bool,
    /// Bytes that what is begun later waits for.
    ahead: u64,
}

/// Whether Goodbye is said, and nothing was begun since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    No,
    /// While something was not acknowledged.
    Before,
    Yes,
}

struct Driver<'a> {
    shipper: &'a mut Shipper,
    pass: &'a mut Pass,
    /// Whose ledger it is.
    ground: String,
    /// When the clocks in Hello were read.
    asked: SinceBoot,
    /// The epoch that Hello has named.
    epoch: u64,
    up: &'a Up,
    control: mpsc::Sender<Vec<u8>>,
    /// QUIC has Hello. Segments could take all of the window before it, and the ground reads none of them until it has come.
    greeted: CancellationToken,
    session: Session,
    gate: Gate,
    /// Segments whose sending has begun on this connection.
    begun: i32,
    /// When so many bytes have gone, QUIC comes to what is begun now.
    ahead: u64,
    told: Told,
    writers: JoinSet<Written>,
    reported_drops: u64,
    recoder: Recoder,
    again: bool,
    finished: bool,
}

/// Ships over `connection` until it breaks or `over` ends.
pub(super) async fn drive(
    shipper: &mut Shipper,
    pass: &mut Pass,
    up: &Up,
    mut over: Pin<&mut (impl Future<Output = ()> + Send)>,
) -> Result<Ended, DriveError> {
    let connection = &up.connection;
    let opened = connection.open_bi().await;
    let (control, answers) = opened.map_err(|why| DriveError::closed(&pass.contact.station, &why))?;
    let (messages, mut received) = mpsc::channel(16);
    let reader = tokio::spawn(read_control(answers, messages));
    // A ground that reads nothing holds back its writer, never the driver.
    let (queue, frames) = mpsc::channel(QUEUE);
    let greeted = CancellationToken::new();
    let writer = tokio::spawn(write_control(control, frames, greeted.clone().drop_guard()));
    // What is recorded from here on may be told twice.
    let reported_drops = shipper.wal.call(|wal| wal.epochs().drops_recorded()).await?;
    let (hello, asked) = hello(shipper, pass).await?;
    let mut sealed = shipper.sealed.clone();
    sealed.mark_unchanged();
    let mut driver = Driver {
        ground: shipper.ground(&pass.contact.station),
        asked,
        epoch: hello.epochs.last().map_or(0, |e| e.epoch),
        session: Session::new(hello, pass.standing.budget, std::mem::take(&mut pass.gained), &shipper.lanes)
            .waiting(std::mem::take(&mut pass.waits)),
        up,
        control: queue,
        greeted,
        gate: Gate::new(),
        begun: 0,
        ahead: 0,
        told: Told::No,
        writers: JoinSet::new(),
        reported_drops,
        shipper,
        pass,
        recoder: Recoder::default(),
        again: false,
        finished: false,
    };
    let ended = driver.run(&mut received, &mut sealed, over.as_mut()).await;
    if matches!(ended, Ok(Ended::ContactOver)) {
        driver.last_acks(&mut received).await;
    }
    // Why the station has closed says more than what broke here; our own close would take its place.
    let closed = connection.close_reason();
    connection.close(0u32.into(), b"contact over");
    driver.stop_writers().await;
    for task in [reader, writer] {
        task.abort();
        joined(task.await);
    }
    let Driver { session, pass, shipper, .. } = driver;
    pass.standing = session.standing();
    let ledger = session.ledger();
    let (gained, waits, held) = session.into_gained();
    (pass.gained, pass.waits) = (gained, waits);
    shipper.end_sending(held, ledger).await;
    shipper.wal.call(|wal| wal.mirror().keep(0)).await?;
    let station = &pass.contact.station;
    ended.map_err(|error| closed.map_or(error, |why| DriveError::closed(station, &why)))
}

/// Ends when nothing new may be begun any more.
async fn guard(usable: Option<Duration>) {
    match usable {
        Some(left) => tokio::time::sleep(left).await,
        None => std::future::pending().await,
    }
}

/// `greeted` goes when the first frame, which is Hello, is written, or when nothing can be.
async fn write_control(
    mut stream: quinn::SendStream,
    mut frames: mpsc::Receiver<Vec<u8>>,
    greeted: DropGuard,
) {
    let mut greeted = Some(greeted);
    while let Some(frame) = frames.recv().await {
        if stream.write_all(&frame).await.is_err() {
            return;
        }
        drop(greeted.take());
    }
}

async fn read_control(
    mut stream: quinn::RecvStream,
    messages: mpsc::Sender<Result<GroundMessage, DriveError>>,
) {
    loop {
        let message = match wire::read(&mut stream).await {
            Ok(Some((message, _))) => Ok(message),
            Ok(None) => return,
            Err(error) => Err(error.into()),
        };
        let last = message.is_err();
        if messages.send(message).await.is_err() || last {
            return;
        }
    }
}

/// Hello, and when its clocks were read.
async fn hello(shipper: &Shipper, pass: &Pass) -> Result<(Hello, SinceBoot), DriveError> {
    let (station, slot) = (shipper.ground(&pass.contact.station), shipper.slot);
    // One without an end begins with each connection, or all that an outage kept would be live.
    let opens = pass.contact.end_unix_nano.is_none();
    let greet = move |wal: &mut Wal| {
        if opens {
            wal.recoding().contact_opens();
        }
        wal.bases().greets(slot, &station);
        wal.epochs().hello(&station)
    };
    let epochs = shipper.wal.call(greet).await??;
    let outlook = shipper.outlook().await?;
    let clock = shipper.clocks.told();
    let asked = SinceBoot { boot: clock.boot_id, nano: clock.since_boot_nano };
    let hello = Hello {
        satellite: shipper.config.satellite.clone(),
        software: format!("space-agent {}", env!("CARGO_PKG_VERSION")),
        minor_version: MINOR_VERSION,
        codecs: Codec::ALL.into_iter().map(|c| c as u32).collect(),
        contact: pass.contact.name(),
        contact_start_unix_nano: pass.began,
        contact_end_unix_nano: pass.contact.end_unix_nano.unwrap_or(0),
        slot: slot.to_wire(),
        epochs,
        clock: Some(clock),
        ..outlook
    };
    Ok((hello, asked))
}

impl Driver<'_> {
    async fn run(
        &mut self,
        received: &mut mpsc::Receiver<Result<GroundMessage, DriveError>>,
        sealed: &mut watch::Receiver<u64>,
        mut over: Pin<&mut (impl Future<Output = ()> + Send)>,
    ) -> Result<Ended, DriveError> {
        self.event(Event::Connected).await?;
        let (mut contacts, mut freed) = (self.shipper.contact.clone(), self.shipper.together.freed());
        let mut guard = std::pin::pin!(self::guard(self.usable()));
        let mut guarded = false;
        let mut farewell = std::pin::pin!(self::guard(self.farewell()));
        while !self.again {
            if self.pass.is_ending && !guarded {
                self.tell().await?;
            }
            tokio::select! {
                biased;
                () = &mut over => {
                    // Over it is, whether Goodbye gets through or not: behind a full send window it would wait for ever.
                    drop(tokio::time::timeout(LAST_ACKS, self.end()).await);
                    return Ok(Ended::ContactOver);
                }
                () = &mut guard, if !guarded => {
                    guarded = true;
                    self.end().await?;
                }
                () = &mut farewell, if !self.pass.is_ending => self.pass.is_ending = true,
                changed = contacts.changed() => {
                    // That it is over is told by `over`.
                    let contact = contacts.borrow_and_update().clone();
                    let contact = contact.filter(|now| self.pass.contact.goes_on_as(now));
                    if let (Ok(()), Some(contact)) = (changed, contact) {
                        self.replan(&contact).await?;
                        let usable = self.usable();
                        if guarded && usable.is_none_or(|left| !left.is_zero()) {
                            // Goodbye is said already.
                            return Ok(Ended::Again);
                        }
                        guard.set(self::guard(usable));
                        farewell.set(self::guard(self.farewell()));
                    }
                }
                message = received.recv() => match message {
                    Some(Ok(message)) => {
                        self.hear(&message);
                        self.event(Event::Message(message)).await?;
                    }
                    Some(Err(error)) => return Err(error),
                    None => return Err(DriveError::ControlClosed),
                },
                Some(done) = self.writers.join_next() => self.written(done).await?,
                // The sender is the shipper's.
                _ = freed.changed() => {
                    let held = self.shipper.together.left(self.session.ledger());
                    self.event(Event::Left(held)).await?;
                    self.event(Event::Sealed).await?;
                }
                changed = sealed.changed() => {
                    if changed.is_ok() {
                        self.event(Event::Sealed).await?;
                        self.report_drops().await?;
                    }
                }
            }
        }
        Ok(Ended::Again)
    }

    /// How long something new may still be begun.
    fn usable(&self) -> Option<Duration> {
        self.pass.usable(self.shipper.clocks.now().unix_nano)
    }

    /// How long until the report leaves if nothing is to be sent then.
    fn farewell(&self) -> Option<Duration> {
        self.pass.farewell(self.shipper.clocks.now().unix_nano, self.up.connection.rtt())
    }

    /// Bytes of segments that the rest of the pass carries beyond those that were begun and are not late; `None`: its rate or its end
    /// is not known.
    fn room(&self) -> Option<u64> {
        let rate = self.pass.contact.rate_down? as f64 / 8.0;
        let carries = (rate * self.usable()?.as_secs_f64() * PAYLOAD) as u64;
        Some(carries.saturating_sub(self.ahead.saturating_sub(self.gone())))
    }

    /// Bytes of segments and messages that have gone on this connection, about.
    fn gone(&self) -> u64 {
        let stats = self.up.connection.stats();
        let others = stats.path.lost_bytes + stats.path.sent_packets * PACKET_HEADERS;
        stats.udp_tx.bytes.saturating_sub(others)
    }

    /// So many bytes more go before what is begun later.
    fn goes_ahead(&mut self, bytes: u64) {
        self.ahead = self.ahead.max(self.gone()) + bytes;
    }

    /// The contact that is in force has another end, rate or budget.
    async fn replan(&mut self, contact: &Contact) -> Result<(), DriveError> {
        self.pass.standing = self.session.standing();
        self.pass.replan(contact);
        self.told = Told::No;
        if let Some(known) = &self.up.known {
            transport::reshape(&self.up.connection, known, &self.pass.contact.shape());
        }
        self.event(Event::Budget(self.pass.standing.budget)).await
    }

    /// Resume says that the station takes us, and what its clock is.
    fn hear(&mut self, message: &GroundMessage) {
        let Some(ground_message::Body::Resume(resume)) = &message.body else { return };
        self.shipper.answered(&self.pass.contact.station);
        // What it holds it says itself.
        self.shipper.together.left(resume.ledger);
        if let Some(clock) = &resume.clock {
            self.shipper.clocks.heard(&self.ground, clock, self.asked);
        }
    }

    /// Begins nothing more, and says Goodbye if that is not said.
    async fn end(&mut self) -> Result<(), DriveError> {
        let goodbye = if self.told == Told::Yes { None } else { Some(Box::new(self.goodbye().await?)) };
        self.event(Event::End(goodbye)).await
    }

    /// Says Goodbye before LOS, if nothing is to be sent, and again when that is acknowledged. What comes after that goes all the same.
    async fn tell(&mut self) -> Result<(), DriveError> {
        let may_tell = match () {
            () if self.session.is_quiet() => Told::Yes,
            () if self.session.is_written() => Told::Before,
            () => Told::No,
        };
        if may_tell > self.told {
            let goodbye = agent_message::Body::Goodbye(self.goodbye().await?);
            self.send(&AgentMessage { body: Some(goodbye) })?;
            self.told = may_tell;
        }
        Ok(())
    }

    /// What has become of the contact so far.
    async fn goodbye(&mut self) -> Result<Goodbye, DriveError> {
        self.pass.measure(&self.up.connection.stats().path);
        self.pass.standing = self.session.standing();
        Ok(Goodbye {
            reason: GoodbyeReason::ContactEnd.into(),
            pass: Some(self.shipper.report(self.pass).await?),
            backlog: self.shipper.backlog().await?,
        })
    }

    /// Feeds an event to the session and carries out what follows, which may be further events.
    async fn event(&mut self, event: Event) -> Result<(), DriveError> {
        let room = self.room();
        self.session.set_room(room);
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            for action in self.session.on_event(event) {
                if let Some(next) = Box::pin(self.act(action)).await? {
                    events.push(next);
                }
            }
        }
        Ok(())
    }

    async fn act(&mut self, action: Action) -> Result<Option<Event>, DriveError> {
        let (consumer, slot) = (self.shipper.consumer, self.shipper.slot);
        match action {
            Action::Send(message) => self.send(&message)?,
            Action::Reconcile(view) => {
                self.shipper.together.committed(|id| {
                    view.lanes.iter().any(|l| l.lane == id.lane && l.committed.contains(id.sequence))
                });
                let reconcile = move |wal: &mut Wal| wal.epochs().reconcile(consumer, slot, &view);
                let reconciled = self.shipper.wal.call(reconcile).await??;
                if let Reconciled::Believed { deleted, .. } = reconciled {
                    self.committed(deleted);
                }
                return Ok(Some(Event::Reconciled(reconciled)));
            }
            Action::Fetch { lane, taken, smaller } => {
                let find = move |wal: &mut Wal| match smaller {
                    None => wal.queues().to_ship(consumer, slot, lane, &taken, FETCH),
                    Some(smaller) => {
                        wal.queues().smaller_to_ship(consumer, slot, lane, &taken, &smaller, FETCH)
                    }
                };
                let found = self.shipper.wal.call(find).await??;
                // The log was put in order meanwhile, or is another one: its epoch is the next Hello's, and sequences begin anew.
                self.again |= found.epoch != self.epoch;
                return Ok(Some(Event::Fetched { lane, found }));
            }
            Action::Write { header, ranges, first, late } => {
                return self.write(header, ranges, (first, late)).await;
            }
            Action::Committed { ids, bytes } => {
                self.shipper.status.send_modify(|links| links.of_mut(slot).committed_bytes += bytes);
                self.shipper.together.committed(|id| ids.contains(id));
                let committed = move |wal: &mut Wal| wal.epochs().committed(consumer, slot, &ids);
                let segments = self.shipper.wal.call(committed).await??;
                self.committed(segments);
            }
            Action::DropsKnown { ack, highest } => {
                let station = self.ground.clone();
                let stations = self.shipper.stations();
                let stations: Vec<String> =
                    stations.iter().map(|(id, at)| at.server_name(id).to_owned()).collect();
                let epoch = ack.epoch;
                let acknowledged =
                    move |wal: &mut Wal| wal.epochs().drops_acknowledged(&station, &stations, &ack, highest);
                let drops = self.shipper.wal.call(acknowledged).await??;
                if !drops.is_empty() {
                    return Ok(Some(Event::Dropped { epoch, drops }));
                }
            }
            Action::Verify(id) => {
                let whole = self.shipper.wal.call(move |wal| wal.custody().verify(id)).await??;
                return Ok(Some(Event::Verified { id, whole }));
            }
            Action::Recode { id, codec } => {
                let done = self.recode(id, codec).await?;
                return Ok(Some(Event::Recoded { id, done }));
            }
            Action::GroundReads(codecs) => {
                self.shipper.wal.call(move |wal| wal.bases().ground_reads(&codecs)).await??;
            }
            Action::GiveUp(id) => {
                self.shipper.wal.call(move |wal| wal.recoding().give_up_sending(slot, id)).await?;
                self.shipper.together.free();
            }
            Action::Restart => self.again = true,
            Action::LeaveAlone(rest) => {
                let station = &*self.pass.contact.station;
                if self.shipper.said.may_say(station, CONTRADICTS) {
                    let rest = rest.as_secs();
                    tracing::error!(
                        event.name = "perigee.link.contradiction",
                        station,
                        rest,
                        "{CONTRADICTS}"
                    );
                }
                return Err(DriveError::Contradicts { rest });
            }
            Action::Finished => self.finished = true,
        }
        Ok(None)
    }

    /// Encodes a segment anew; whether that could be done.
    async fn recode(&mut self, id: SegmentId, codec: Codec) -> Result<bool, DriveError> {
        let Some(recoding) = self.shipper.wal.call(move |wal| wal.recoding().prepare(id)).await?? else {
            return Ok(false);
        };
        let memory = &self.shipper.memory;
        let (_turn, most) = (memory.take(recoding.need()).await, memory.alone());
        let mut recoder = std::mem::take(&mut self.recoder);
        let run = move || {
            let result = recoder.run(recoding, codec, most);
            (recoder, result)
        };
        let (recoder, result) = self.shipper.env.cpu(run).await;
        self.recoder = recoder;
        match result {
            Ok(recoded) => {
                tracing::info!(segment = %id, codec = codec.name(), "re-encoded for this ground");
                Ok(self.shipper.wal.call(move |wal| wal.recoding().replace(recoded)).await??)
            }
            Err(error) => {
                tracing::error!(segment = %id, %error, "a segment cannot be decoded");
                Ok(false)
            }
        }
    }

    fn committed(&self, segments: u64) {
        self.shipper.counters.committed_segments.inc_by(segments);
        let slot = self.shipper.slot;
        self.shipper.status.send_modify(|links| links.of_mut(slot).committed_segments += segments);
    }

    fn send(&mut self, message: &AgentMessage) -> Result<(), DriveError> {
        let frame = wire::frame(message);
        self.goes_ahead(frame.len() as u64);
        self.control.try_send(frame).map_err(|_| DriveError::ControlStuck)
    }

    /// Tells the ground of drops that were made since Hello.
    async fn report_drops(&mut self) -> Result<(), DriveError> {
        let (station, from) = (self.ground.clone(), self.reported_drops);
        let new = self.shipper.wal.call(move |wal| wal.epochs().drops_since(&station, from)).await??;
        self.reported_drops = new.recorded;
        if !new.drops.is_empty() {
            self.event(Event::Dropped { epoch: new.epoch, drops: new.drops }).await?;
        }
        Ok(())
    }

    /// Starts writing a segment on a stream of its own, if it still is what the session knows.
    async fn write(
        &mut self,
        mut header: Header,
        ranges: Vec<Range<u64>>,
        (first, late): (bool, bool),
    ) -> Result<Option<Event>, DriveError> {
        let (id, slot) = (header.id, self.shipper.slot);
        let asked = header.clone();
        let begin = move |wal: &mut Wal| wal.recoding().begin_sending(slot, &asked);
        let mut age = Duration::ZERO;
        let payload = match self.shipper.wal.call(begin).await?? {
            Sending::Payload(payload, delivery, old) => {
                header.delivery = Some(delivery);
                age = old;
                Some(payload)
            }
            Sending::Gone => None,
            Sending::Changed => return Ok(Some(Event::Changed(id))),
            Sending::Elsewhere => return Ok(Some(Event::Elsewhere(id))),
            Sending::Unreadable => return Ok(Some(Event::Unreadable(id))),
        };
        tracing::debug!(segment = %id, "sending begins");
        // The ground answers a later Goodbye.
        (self.finished, self.told) = (false, Told::No);
        // More urgent lanes first, and within a lane the segment that was begun first, unless it is late.
        let lane = if first { Lane(0) } else { id.lane };
        self.begun = (self.begun + 1) & 0x007f_ffff;
        let priority = -(i32::from(lane.0) << 24) - (i32::from(late) << 23) - self.begun;
        let ahead = if late { 0 } else { ranges.iter().map(|r| r.end - r.start).sum() };
        self.goes_ahead(ahead);
        let (connection, turn) = (self.up.connection.clone(), self.gate.enter(lane, late));
        let (greeted, begun) = (self.greeted.clone(), Instant::now());
        self.writers.spawn(async move {
            greeted.cancelled().await;
            let mut taken = RangeSet::default();
            let whole = match payload {
                Some(payload) if payload.len() as u64 == header.payload_len => {
                    let open = opening(&header, &ranges, age + begun.elapsed());
                    write_segment(&connection, priority, turn, open, &ranges, &payload, &mut taken)
                        .await
                        .is_ok()
                }
                // Dropped or committed since it was fetched.
                _ => false,
            };
            Written { id, taken, whole, ahead }
        });
        Ok(None)
    }

    async fn written(&mut self, done: Result<Written, tokio::task::JoinError>) -> Result<(), DriveError> {
        let Some(written) = joined(done) else { return Ok(()) };
        self.account(&written);
        let id = written.id;
        tracing::debug!(segment = %id, whole = written.whole, "handed to QUIC");
        self.event(if written.whole { Event::Written(id) } else { Event::Failed(id) }).await
    }

    /// Counts the bytes of a segment that QUIC has taken, and those among them that it had taken before.
    fn account(&mut self, written: &Written) {
        let (bytes, slot) = (written.taken.total(), self.shipper.slot);
        self.ahead -= written.ahead.saturating_sub(bytes).min(self.ahead);
        let again = self.shipper.together.sent(written.id, &written.taken);
        self.shipper.counters.sent_bytes.inc_by(bytes);
        self.shipper.counters.resent_bytes.inc_by(again);
        self.shipper.status.send_modify(|links| links.of_mut(slot).sent_bytes += bytes);
    }

    /// After Goodbye: takes the acknowledgements that still come, for a moment. The ground answers Goodbye, so that it has the report
    /// of the pass is known too.
    async fn last_acks(&mut self, received: &mut mpsc::Receiver<Result<GroundMessage, DriveError>>) {
        let begun = Instant::now();
        while !self.finished {
            // Another station may begin to hear meanwhile what this one has not acknowledged: it says what it has.
            let leaves = self.shipper.is_left_for_another(&self.pass.contact.station);
            // Nobody hears what is sent now, and a segment that is cut goes on in the next pass.
            let is_cut = !self.session.is_written();
            let spare = if leaves || is_cut || self.session.is_idle() { LAST_WORD } else { LAST_ACKS };
            let round_trips = if leaves { Duration::ZERO } else { self.up.connection.rtt() * 2 };
            let event = tokio::select! {
                biased;
                () = tokio::time::sleep_until(begun + round_trips + spare) => return,
                message = received.recv() => match message {
                    Some(Ok(message)) => Event::Message(message),
                    _ => return,
                },
                Some(done) = self.writers.join_next() => {
                    if self.written(done).await.is_err() {
                        return;
                    }
                    continue;
                }
            };
            if let Err(error) = self.event(event).await {
                tracing::debug!(%error, "the last acknowledgements were cut off");
                return;
            }
        }
    }

    /// The connection is closed: writers end by themselves, and what they sent is counted.
    async fn stop_writers(&mut self) {
        while let Some(done) = self.writers.join_next().await {
            if let Some(written) = joined(done) {
                self.account(&written);
            }
        }
    }
}

/// What opens a segment's stream; `age` is that of its oldest item now.
fn opening(header: &Header, ranges: &[Range<u64>], age: Duration) -> SegmentOpen {
    SegmentOpen {
        header: Some(header.into()),
        ranges: ranges.iter().map(|r| perigee_proto::link::Range { start: r.start, end: r.end }).collect(),
        age_milli: Some(age.as_millis() as u64),
    }
}

async fn write_segment(
    connection: &quinn::Connection,
    priority: i32,
    mut turn: Turn,
    open: SegmentOpen,
    ranges: &[Range<u64>],
    payload: &Bytes,
    taken: &mut RangeSet,
) -> Result<(), DriveError> {
    let mut stream = connection.open_uni().await?;
    drop(stream.set_priority(priority));
    stream.write_all(&wire::frame(&open)).await?;
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            turn.wait().await;
            let end = (at + PIECE).min(range.end);
            stream.write_chunk(payload.slice(at as usize..end as usize)).await?;
            taken.insert(at..end);
            at = end;
        }
    }
    // The peer may have stopped the stream because it has everything.
    drop(stream.finish());
    Ok(())
}
