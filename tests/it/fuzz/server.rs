//! Fuzzes the packets of a dashboard server.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use super::{cases, corpus, peak_mib};
use crate::agent::{Agent, PATIENCE, within};
use crate::impostor::{Impostor, Script};

/// Number of unsolicited packets that the server sends per frame.
const PACKETS: usize = 4;
/// Upper bound of the agent's memory, in MiB, for any input.
const MOST_MIB: u64 = 200;

#[tokio::test]
async fn arbitrary_server_packets_do_not_stop_delivery() {
    let packets: Vec<_> = cases(250, &corpus("server")).map(|(_, packet)| packet).collect();
    let count = packets.len() as u32;
    let rest = Arc::new(Mutex::new(packets.into_iter()));
    let said = Arc::new(AtomicU64::new(0));
    let (left, counted) = (Arc::clone(&rest), Arc::clone(&said));
    let server = Impostor::start(Script::aside(move |_, _| {
        let packets: Vec<_> = left.lock().unwrap().by_ref().take(PACKETS).collect();
        counted.fetch_add(packets.len() as u64, Ordering::Relaxed);
        let message = |packet| match String::from_utf8(packet) {
            Ok(text) => Message::text(text),
            Err(bytes) => Message::binary(bytes.into_bytes()),
        };
        packets.into_iter().map(|packet| (Duration::ZERO, message(packet))).collect()
    }))
    .await;
    let queue = tempfile::tempdir().unwrap();
    let settings = [
        "queue.durability=os",
        "delivery.proof_timeout=500ms",
        "delivery.backoff_min=10ms",
        "delivery.backoff_max=10ms",
        "delivery.batch_max_entries=1",
    ];
    let mut agent = Agent::start(queue.path(), &server.url(), &settings);
    let line = |lap: u64| json!({"lap": lap}).to_string();
    let mut lap = 0;
    let all_said = async || {
        lap += 1;
        agent.feed(&[line(lap)]);
        (rest.lock().unwrap().len() == 0).then_some(())
    };
    let over = within(PATIENCE * (1 + count / 500), all_said).await;
    assert!(over.is_some(), "only {} packets were sent", said.load(Ordering::Relaxed));

    agent.metric_becomes("pitwire_queue_entries", |entries| entries == 0.0).await;
    let mut laps = server.laps().concat();
    laps.sort_unstable();
    laps.dedup();
    assert!(laps.contains(&1) && laps.len() as u64 >= agent.receipts().len() as u64, "{laps:?}");
    let peak = peak_mib(agent.process.id());
    assert!(peak < MOST_MIB, "{peak} MiB");
    agent.stop().await;
}
