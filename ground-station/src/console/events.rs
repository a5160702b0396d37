//! `GET /api/v1/events`: what changes, as server-sent events.
//!
//! Every stream gets the same bytes. One that reads too slowly is closed when it is so far behind that something would be left out,
//! and one that does not read at all soon after the machine's buffers for it are full; the browser then begins again. Nobody holds a
//! place for ever: when all are taken, the oldest of whoever has most of them ends.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body::Frame;
use perigee_shared::serve::Peer;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::board::Board;
use super::problem::Problem;
use crate::telemetry::Metrics;

/// Streams at once.
const STREAMS: usize = 32;

/// One that is not so old does not end for another one.
const SECURE: Duration = Duration::from_secs(30);

/// A stream that reads nothing for this long although events wait is closed.
const PATIENCE: Duration = Duration::from_secs(30);

/// A stream says at least so often that it is there: where nobody listens any more, only writing shows it.
const PING: Duration = Duration::from_secs(1);

/// What a browser waits before it begins again.
const RETRY: &str = "retry: 2000\n\n";

/// Hands out streams.
#[derive(Clone)]
pub(super) struct Events {
    board: Board,
    places: Places,
    /// Streams end with it.
    stop: CancellationToken,
}

impl Events {
    pub(super) fn new(board: Board, stop: CancellationToken) -> Self {
        Self { board, places: Places::default(), stop }
    }

    pub(super) fn stream(&self, peer: &Peer) -> Response {
        let end = self.stop.child_token();
        let Some(place) = self.places.take(peer.address, &end) else {
            let detail = format!(
                "{STREAMS} streams are open, which is the most, and none is older than 30 s; close a page, or try again"
            );
            return Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).into_response();
        };
        let stream = Stream::new(self.board.metrics(), self.board.listen(), place, peer.close.clone(), end);
        let headers = [
            (header::CONTENT_TYPE, "text/event-stream"),
            (header::HeaderName::from_static("x-accel-buffering"), "no"),
        ];
        (headers, Body::new(stream)).into_response()
    }
}

/// Streams that are open.
#[derive(Clone, Default)]
struct Places(Arc<Mutex<AllTaken>>);

#[derive(Default)]
struct AllTaken {
    next: u64,
    /// By number, the oldest first.
    open: BTreeMap<u64, Taken>,
}

struct Taken {
    by: Option<IpAddr>,
    since: Instant,
    end: CancellationToken,
}

/// Given back when it is dropped.
struct Place {
    places: Places,
    number: u64,
}

impl Places {
    /// A place for a stream that ends with `end`.
    fn take(&self, by: Option<IpAddr>, end: &CancellationToken) -> Option<Place> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.open.len() >= STREAMS {
            let mut of = BTreeMap::<_, usize>::new();
            taken.open.values().for_each(|one| *of.entry(one.by).or_default() += 1);
            let most = of.values().copied().max();
            let oldest = taken.open.iter().find(|(_, one)| of.get(&one.by).copied() == most);
            let number = *oldest.filter(|(_, one)| one.since.elapsed() >= SECURE)?.0;
            taken.open.remove(&number)?.end.cancel();
        }
        let number = taken.next;
        taken.next += 1;
        taken.open.insert(number, Taken { by, since: Instant::now(), end: end.clone() });
        Some(Place { places: self.clone(), number })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.open.remove(&self.number);
    }
}

type Waiting = Pin<Box<dyn Future<Output = (Result<Bytes, RecvError>, broadcast::Receiver<Bytes>)> + Send>>;

/// The body of an answer.
struct Stream {
    next: Waiting,
    begun: bool,
    ping: tokio::time::Interval,
    ended: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// What was handed to the connection, counted.
    taken: Arc<AtomicU64>,
    _place: Place,
    /// Ends the watch.
    _watched: tokio_util::sync::DropGuard,
}

impl Stream {
    fn new(
        metrics: &Metrics,
        news: broadcast::Receiver<Bytes>,
        place: Place,
        close: CancellationToken,
        end: CancellationToken,
    ) -> Self {
        let (taken, over) = (Arc::new(AtomicU64::new(0)), CancellationToken::new());
        metrics.spawn("console stream", watch(news.resubscribe(), Arc::clone(&taken), close, over.clone()));
        Self {
            next: Box::pin(receive(news)),
            begun: false,
            ping: tokio::time::interval_at(Instant::now() + PING, PING),
            ended: Box::pin(end.cancelled_owned()),
            taken,
            _place: place,
            _watched: over.drop_guard(),
        }
    }
}

async fn receive(
    mut news: broadcast::Receiver<Bytes>,
) -> (Result<Bytes, RecvError>, broadcast::Receiver<Bytes>) {
    (news.recv().await, news)
}

/// Ends a connection that takes nothing although there is something: nobody asks its stream for more, so it cannot end by itself.
async fn watch(
    mut news: broadcast::Receiver<Bytes>,
    taken: Arc<AtomicU64>,
    close: CancellationToken,
    over: CancellationToken,
) {
    // Since when there is something that was not taken, and what had been taken then.
    let mut waits = None::<(Instant, u64)>;
    loop {
        let now = taken.load(Ordering::Relaxed);
        waits = waits.filter(|(_, then)| *then == now);
        let patience = waits.map(|(since, _)| since + PATIENCE);
        tokio::select! {
            biased;
            () = over.cancelled() => return,
            () = async { tokio::time::sleep_until(patience.unwrap_or_else(Instant::now)).await }, if patience.is_some() => {
                if taken.load(Ordering::Relaxed) == now {
                    tracing::info!("a stream of events was not read; its connection is closed");
                    return close.cancel();
                }
            }
            said = news.recv() => match said {
                Err(RecvError::Closed) => return,
                // It was taken at once, or the next look at the counter shows it.
                _ => waits = waits.or(Some((Instant::now(), now))),
            },
        }
    }
}

impl http_body::Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if !self.begun {
            self.begun = true;
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(RETRY.as_bytes())))));
        }
        if self.ended.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        match self.next.as_mut().poll(cx) {
            Poll::Pending => {
                self.ping.poll_tick(cx).map(|_| Some(Ok(Frame::data(Bytes::from_static(b":\n\n")))))
            }
            Poll::Ready((Ok(bytes), news)) => {
                self.next = Box::pin(receive(news));
                self.taken.fetch_add(1, Ordering::Relaxed);
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            // Too slow, or the program ends.
            Poll::Ready((Err(_), _)) => Poll::Ready(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn when_all_places_are_taken_the_oldest_of_whoever_has_most_ends() {
        let places = Places::default();
        let address = |n: u8| Some(IpAddr::from([198, 51, 100, n]));
        let take = |by| {
            let end = CancellationToken::new();
            places.take(by, &end).map(|place| (place, end))
        };
        let mut alone: Vec<_> = (0..4).filter_map(|n| take(address(n))).collect();
        let many: Vec<_> = (4..STREAMS).filter_map(|_| take(address(99))).collect();
        assert!(take(address(5)).is_none(), "none is old");
        tokio::time::advance(SECURE).await;
        let late = take(address(5)).unwrap();
        assert!(many[0].1.is_cancelled() && !many[1].1.is_cancelled());
        assert!(alone.iter().all(|(_, end)| !end.is_cancelled()));
        // The one that has ended is dropped later, and nobody else's place is given back for it.
        drop(many);
        alone.extend((8..35).filter_map(|n| take(address(n))));
        assert_eq!(alone.len(), 31);
        tokio::time::advance(SECURE).await;
        let last = take(address(7)).unwrap();
        assert!(alone[0].1.is_cancelled() && !late.1.is_cancelled() && !last.1.is_cancelled());
    }

    async fn settle() {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_is_never_read_is_closed_and_one_that_is_read_is_not() {
        let news = broadcast::Sender::new(8);
        let begin = |taken: &Arc<AtomicU64>| {
            let (close, over) = (CancellationToken::new(), CancellationToken::new());
            tokio::spawn(watch(news.subscribe(), Arc::clone(taken), close.clone(), over.clone()));
            (close, over)
        };
        let (silent, reading) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let ((silent_closed, _), (reading_closed, over)) = (begin(&silent), begin(&reading));
        settle().await;
        for _ in 0..12 {
            assert!(!silent_closed.is_cancelled());
            news.send(Bytes::from_static(b"x")).unwrap();
            reading.fetch_add(1, Ordering::Relaxed);
            settle().await;
            if silent_closed.is_cancelled() {
                break;
            }
            tokio::time::advance(Duration::from_secs(5)).await;
            settle().await;
            if silent_closed.is_cancelled() {
                break;
            }
        }
        assert!(silent_closed.is_cancelled());
        assert!(!reading_closed.is_cancelled());
        over.cancel();
        settle().await;
        assert_eq!(news.receiver_count(), 0, "nobody watches any more");
    }
}
