//! HTTP/2 with a client that has closed its direction of the connection: what it had asked is still answered.
//!
//! HTTP/1.1 has an option for this. The HTTP/2 library ends a connection, and all that runs on it, at the end of what the client
//! sends; so it hears of that end once nothing is left to answer.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::Executor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::Io;
use super::connections::Connection;

/// What an HTTP/2 client says first, as far as no other request begins like that.
const PREFACE: &[u8] = b"PRI";

/// How often a connection whose client has closed its direction looks whether all is answered.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Looks in a row that must find nothing to answer: behind the first one the library takes up the last requests and sends the
/// last answers off.
const LOOKS: u32 = 2;

/// Runs the exchanges of an HTTP/2 connection, each a task, and counts them.
#[derive(Clone)]
pub(super) struct Exchanges(pub(super) Arc<Connection>);

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for Exchanges {
    fn execute(&self, exchange: F) {
        let open = self.0.exchange();
        tokio::spawn(async move {
            exchange.await;
            drop(open);
        });
    }
}

/// A connection that keeps the end of what its client sends from HTTP/2 until all is answered.
pub(super) struct HalfClosed {
    stream: Box<dyn Io>,
    connection: Arc<Connection>,
    /// Bytes that have come, up to the length of [`PREFACE`], and whether they are its.
    began: (usize, bool),
    /// How long who has closed its direction may be waited for: its request may not be complete.
    patience: Duration,
    end: Option<End>,
}

/// What is known since the client's direction was closed.
struct End {
    until: Instant,
    next_look: Pin<Box<Sleep>>,
    quiet_looks: u32,
}

impl HalfClosed {
    pub(super) fn new(stream: Box<dyn Io>, connection: Arc<Connection>, patience: Duration) -> Self {
        Self { stream, connection, began: (0, true), patience, end: None }
    }

    /// Looks at the first bytes.
    fn note(&mut self, bytes: &[u8]) {
        let (seen, is_http2) = &mut self.began;
        for (byte, expected) in bytes.iter().zip(&PREFACE[*seen..]) {
            *is_http2 &= byte == expected;
            *seen += 1;
        }
    }
}

impl AsyncRead for HalfClosed {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.end.is_none() {
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
            this.note(&buf.filled()[before..]);
            let is_end = buf.filled().len() == before && buf.remaining() > 0;
            if !is_end || this.began != (PREFACE.len(), true) {
                return Poll::Ready(Ok(()));
            }
        }
        let now = Instant::now();
        let end = this.end.get_or_insert_with(|| End {
            until: now + this.patience,
            next_look: Box::pin(sleep_until(now + LOOK_EVERY)),
            quiet_looks: 0,
        });
        while end.quiet_looks < LOOKS && Instant::now() < end.until {
            ready!(end.next_look.as_mut().poll(cx));
            end.next_look.as_mut().reset(Instant::now() + LOOK_EVERY);
            end.quiet_looks = if this.connection.has_exchanges() { 0 } else { end.quiet_looks + 1 };
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for HalfClosed {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    use super::super::connections::Connections;
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// A connection on which `first` has been said before the client closed its direction.
    async fn closed_after(first: &[u8]) -> (HalfClosed, Arc<Connection>) {
        let (mut client, server) = tokio::io::duplex(64);
        client.write_all(first).await.unwrap();
        client.shutdown().await.unwrap();
        let connection = Arc::clone(&Arc::<Connections>::default().enter().connection);
        let mut stream = HalfClosed::new(Box::new(server), Arc::clone(&connection), PATIENCE);
        // One byte at a time, as a network may bring it.
        for byte in first {
            assert_eq!(stream.read_u8().await.unwrap(), *byte);
        }
        (stream, connection)
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_is_heard_of_when_all_is_answered() {
        let (mut stream, connection) = closed_after(b"PRI * HTTP/2.0").await;
        let open = connection.exchange();
        assert!(timeout(PATIENCE / 2, stream.read_u8()).await.is_err(), "an answer is due");
        drop(open);
        assert!(timeout(PATIENCE / 100, stream.read_u8()).await.unwrap().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_not_complete_is_not_waited_for_without_end() {
        let (mut stream, connection) = closed_after(b"PRI * HTTP/2.0").await;
        let _open = connection.exchange();
        let closed = Instant::now();
        assert!(stream.read_u8().await.is_err());
        assert!(closed.elapsed() >= PATIENCE && closed.elapsed() < PATIENCE + LOOK_EVERY * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn http_1_hears_of_the_end_at_once() {
        for first in ["", "P", "PR", "PUT / HTTP/1.1", "POST / HTTP/1.1"] {
            let (mut stream, connection) = closed_after(first.as_bytes()).await;
            let (_open, closed) = (connection.exchange(), Instant::now());
            assert!(stream.read_u8().await.is_err());
            assert_eq!(closed.elapsed(), Duration::ZERO, "{first}");
        }
    }
}
