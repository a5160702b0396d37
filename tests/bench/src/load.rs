//! Senders: each with a connection of its own and one request outstanding, as fast as it is answered or at a rate.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use perigee_shared::signal::Signal;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::client::{Answer, Connection, Payload, Transport};

/// What a sender waits after a refusal, as a client would (real ones wait longer).
const AFTER_REFUSAL: Duration = Duration::from_millis(10);

/// Requests of the same number of items, framed for their transport.
#[derive(Clone)]
pub(crate) struct Load {
    pub(crate) transport: Transport,
    pub(crate) signal: Signal,
    /// In each request.
    pub(crate) items: usize,
    pub(crate) bodies: Arc<[Bytes]>,
}

impl Load {
    pub(crate) fn new(transport: Transport, signal: Signal, items: usize, requests: &[Bytes]) -> Self {
        Self { transport, signal, items, bodies: requests.iter().map(|r| transport.frame(r)).collect() }
    }
}

/// What has been answered.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    /// Requests answered with success.
    pub(crate) accepted: u64,
    /// Other answers.
    pub(crate) refused: u64,
    /// Connections that broke.
    pub(crate) broken: u64,
    /// Bytes of accepted bodies.
    pub(crate) bytes: u64,
    /// Of each accepted request, in µs.
    pub(crate) latencies: Vec<u32>,
    /// From the first request to the last answer.
    pub(crate) elapsed: Duration,
}

impl Tally {
    /// Accepted requests a second.
    pub(crate) fn rate(&self) -> f64 {
        self.accepted as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// The latency in ms that `share` of the accepted requests do not exceed; `None` when there are none.
    pub(crate) fn percentile_ms(&mut self, share: f64) -> Option<f64> {
        let at = (share * self.latencies.len().checked_sub(1)? as f64).round() as usize;
        let (_, value, _) = self.latencies.select_nth_unstable(at);
        Some(f64::from(*value) / 1000.0)
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.broken += other.broken;
        self.bytes += other.bytes;
        self.latencies.extend(other.latencies);
        self.elapsed = self.elapsed.max(other.elapsed);
    }
}

/// Sends `load` to `to` for `time` with `senders`; with a `rate`, so many requests a second of all together.
pub(crate) async fn drive(
    load: &Load,
    to: SocketAddr,
    senders: usize,
    rate: Option<f64>,
    time: Duration,
) -> anyhow::Result<Tally> {
    let mut connections = Vec::with_capacity(senders);
    for _ in 0..senders {
        let connection = Connection::open(load.transport, load.signal, to).await;
        connections.push(connection.with_context(|| format!("cannot connect to {to}"))?);
    }
    let begin = Instant::now();
    let interval = rate.map(|rate| Duration::from_secs_f64(senders as f64 / rate));
    let mut tasks = JoinSet::new();
    for (n, connection) in connections.into_iter().enumerate() {
        let sender = Sender {
            load: load.clone(),
            to,
            // Senders are spread over the data, and over the interval.
            next_body: n * load.bodies.len() / senders,
            next_at: begin + interval.unwrap_or_default().mul_f64(n as f64 / senders as f64),
            interval,
            end: begin + time,
        };
        tasks.spawn(sender.run(connection));
    }
    let mut tally = Tally::default();
    while let Some(done) = tasks.join_next().await {
        tally.add(done??);
    }
    tally.elapsed = begin.elapsed();
    Ok(tally)
}

struct Sender {
    load: Load,
    to: SocketAddr,
    next_body: usize,
    next_at: Instant,
    interval: Option<Duration>,
    end: Instant,
}

impl Sender {
    async fn run(mut self, mut connection: Connection) -> anyhow::Result<Tally> {
        let mut tally = Tally::default();
        while self.wait().await {
            let body = self.load.bodies[self.next_body].clone();
            self.next_body = (self.next_body + 1) % self.load.bodies.len();
            let (begin, length) = (Instant::now(), body.len() as u64);
            match connection.export(Payload::whole(body)).await {
                Ok(Answer::Accepted) => {
                    tally.accepted += 1;
                    tally.bytes += length;
                    tally.latencies.push(begin.elapsed().as_micros() as u32);
                }
                Ok(Answer::Refused) => {
                    tally.refused += 1;
                    sleep(AFTER_REFUSAL).await;
                }
                Err(_) => {
                    tally.broken += 1;
                    sleep(AFTER_REFUSAL).await;
                    connection = Connection::open(self.load.transport, self.load.signal, self.to).await?;
                }
            }
        }
        Ok(tally)
    }

    /// Waits for the time of the next request; `false` when there is none. A late sender catches up.
    async fn wait(&mut self) -> bool {
        if let Some(interval) = self.interval {
            if self.next_at > Instant::now() {
                sleep_until(self.next_at.min(self.end)).await;
            }
            self.next_at += interval;
        }
        Instant::now() < self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_accepted_requests() {
        let mut tally = Tally { latencies: (1..=1000).rev().map(|n| n * 1000).collect(), ..Tally::default() };
        assert_eq!(tally.percentile_ms(0.5), Some(501.0));
        assert_eq!(tally.percentile_ms(0.99), Some(990.0));
        assert_eq!(Tally::default().percentile_ms(0.5), None);
    }
}
