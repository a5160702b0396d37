//! How soon what changes is told, in virtual time.

use perigee_proto::link::Hello;
use simdisk::Disk;
use tokio::sync::broadcast::error::RecvError;

use super::*;
use crate::console::tests::store;

/// Which change an event shows, and when it came.
async fn shown(news: &mut broadcast::Receiver<Bytes>) -> (u64, Instant) {
    loop {
        let text = match news.recv().await {
            Ok(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
            Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => panic!("the board has ended"),
        };
        if let Some((_, rest)) = text.split_once("\"software\":\"change ") {
            return (rest.split('"').next().unwrap().parse().unwrap(), Instant::now());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_changes_is_told_within_a_second_of_its_commit_whenever_that_is() {
    let env = Disk::new().env();
    let store = store(&env);
    let metrics = Metrics::new("svalbard", &env, store.tasks().clone());
    let board = Board::new(store.clone(), metrics, Connected::nobody(&env), env.clone());
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let (board, stop) = (board.clone(), stop.clone());
        async move { board.run(stop).await }
    });
    let mut news = board.listen();
    let (told, mut looks) = tokio::sync::mpsc::channel(1_000);
    tokio::spawn(async move {
        loop {
            told.send(shown(&mut news).await).await.unwrap();
        }
    });
    // Alone, many at once, at every place in the second, and after the heartbeat.
    let pauses = [0, 4_000, 10, 10, 990, 1_000, 1_010, 6_500].into_iter();
    let pauses = pauses.chain([130; 40]).chain((0..40).map(|n| 700 + n * 27));
    let mut committed = Vec::new();
    for (number, pause) in (1..).zip(pauses) {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let hello = Hello { software: format!("change {number}"), ..Hello::default() };
        store.intake().ledger("sat-1".into(), Arc::new(hello)).await.unwrap();
        committed.push((number, Instant::now()));
    }
    let mut seen = (0, Instant::now());
    for (number, at) in committed {
        while seen.0 < number {
            seen = looks.recv().await.unwrap();
        }
        let took = seen.1.saturating_duration_since(at);
        assert!(took <= LOOK_EVERY, "change {number} was told after {took:?}");
    }
    stop.cancel();
    running.await.unwrap();
}
