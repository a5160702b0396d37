//! The link between real sockets.
#![cfg(test)]

use std::time::Duration;

use linkem::{Config, Direction, Link, Path, Schedule};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout};

const PATIENCE: Duration = Duration::from_secs(20);
const MS: Duration = Duration::from_millis(1);

async fn socket() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").await.unwrap()
}

async fn client_of(link: &Link) -> UdpSocket {
    let client = socket().await;
    client.connect(link.local_addr()).await.unwrap();
    client
}

/// The next datagram: its first byte and who sent it.
async fn next(socket: &UdpSocket) -> (u8, std::net::SocketAddr) {
    let mut buffer = [0; 2048];
    let (length, from) = timeout(PATIENCE, socket.recv_from(&mut buffer)).await.unwrap().unwrap();
    assert!(length > 0);
    (buffer[0], from)
}

#[tokio::test]
async fn several_clients_each_get_their_own_answers() {
    let server = socket().await;
    let link = Link::start(Config::perfect(server.local_addr().unwrap())).await.unwrap();
    let clients = [client_of(&link).await, client_of(&link).await, client_of(&link).await];
    for (n, client) in clients.iter().enumerate() {
        client.send(&[n as u8; 100]).await.unwrap();
    }
    let mut sources = Vec::new();
    for _ in &clients {
        let (n, from) = next(&server).await;
        server.send_to(&[n + 10; 100], from).await.unwrap();
        sources.push(from);
    }
    sources.dedup();
    assert_eq!(sources.len(), 3, "each client has a port of its own");
    for (n, client) in clients.iter().enumerate() {
        assert_eq!(next(client).await.0, n as u8 + 10);
    }
    let stats = link.stats();
    assert_eq!((stats.clients, stats.forward.delivered_bytes, stats.back.delivered_packets), (3, 300, 3));
}

#[tokio::test]
async fn a_round_trip_takes_two_delays() {
    let server = socket().await;
    let path = Path { delay: 40 * MS, ..Path::default() };
    let to = server.local_addr().unwrap();
    let link =
        Link::start(Config { forward: path.clone(), back: path, ..Config::perfect(to) }).await.unwrap();
    let client = client_of(&link).await;
    let start = Instant::now();
    client.send(&[1]).await.unwrap();
    let (n, from) = next(&server).await;
    server.send_to(&[n], from).await.unwrap();
    next(&client).await;
    assert!(start.elapsed() >= 80 * MS, "{:?}", start.elapsed());
}

#[tokio::test]
async fn datagrams_arrive_at_the_link_rate() {
    let server = socket().await;
    let path =
        Path { rate: Some(4_000_000), queue: linkem::config::Queue::Bytes(1 << 20), ..Path::default() };
    let to = server.local_addr().unwrap();
    let link = Link::start(Config { forward: path, ..Config::perfect(to) }).await.unwrap();
    let client = client_of(&link).await;
    let start = Instant::now();
    // 100 kB on the wire: 200 ms.
    for n in 0..100 {
        client.send(&[n; 972]).await.unwrap();
    }
    for n in 0..100 {
        assert_eq!(next(&server).await.0, n);
    }
    let took = start.elapsed();
    assert!(took >= 199 * MS, "{took:?}");
    assert!(took < 20 * 200 * MS, "{took:?}");
}

#[tokio::test]
async fn a_cut_link_passes_nothing_until_it_is_restored() {
    let server = socket().await;
    let link = Link::start(Config::perfect(server.local_addr().unwrap())).await.unwrap();
    let client = client_of(&link).await;
    client.send(&[1]).await.unwrap();
    assert_eq!(next(&server).await.0, 1);
    link.cut();
    link.wait_down().await;
    client.send(&[2]).await.unwrap();
    while link.stats().forward.dropped.down == 0 {
        tokio::task::yield_now().await;
    }
    link.restore();
    assert!(link.is_up());
    client.send(&[3]).await.unwrap();
    assert_eq!(next(&server).await.0, 3);
}

#[tokio::test]
async fn a_link_cuts_itself_after_so_many_bytes() {
    let server = socket().await;
    let link = Link::start(Config::perfect(server.local_addr().unwrap())).await.unwrap();
    let client = client_of(&link).await;
    link.cut_after_bytes(Direction::Forward, 2_500);
    for n in 0..3 {
        client.send(&[n; 1000]).await.unwrap();
        assert_eq!(next(&server).await.0, n);
    }
    timeout(PATIENCE, link.wait_down()).await.unwrap();
    assert_eq!(link.stats().forward.delivered_bytes, 3_000);
}

#[tokio::test]
async fn a_link_outside_its_window_is_down() {
    let server = socket().await;
    let schedule = Schedule::windows(&[(Duration::ZERO, 50 * MS)]).unwrap();
    let to = server.local_addr().unwrap();
    let link = Link::start(Config { schedule, ..Config::perfect(to) }).await.unwrap();
    assert!(link.is_up());
    timeout(PATIENCE, link.wait_down()).await.unwrap();
    assert!(link.stats().elapsed_ms >= 50);
}

#[tokio::test]
async fn a_server_that_comes_late_is_found() {
    let to = socket().await.local_addr().unwrap();
    let link = Link::start(Config::perfect(to)).await.unwrap();
    let client = client_of(&link).await;
    client.send(&[1]).await.unwrap();
    while link.stats().forward.delivered_packets == 0 {
        tokio::task::yield_now().await;
    }
    let server = UdpSocket::bind(to).await.unwrap();
    // The refusal of the first may eat the next.
    let answer = async {
        loop {
            client.send(&[2]).await.unwrap();
            if let Ok((2, _)) = timeout(20 * MS, next(&server)).await {
                return;
            }
        }
    };
    timeout(PATIENCE, answer).await.unwrap();
}
