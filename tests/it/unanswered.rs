//! Servers that leave joins, frames or both unanswered. The agent uses whatever confirmation they
//! give.

use std::time::Duration;

use pitwire::sink::Proof;
use tokio::time::sleep;

use crate::agent::{eventually, within};
use crate::hostile::{Pit, laps};
use crate::long::is_long;
use crate::peers::{Kind, Peer};

fn up_to(last: u64) -> Vec<u64> {
    (1..=last).collect()
}

#[tokio::test]
async fn delivery_resumes_after_a_restart_of_a_server_without_joins() {
    let mut server = Peer::start(Kind::Flask, &["--no-join"]);
    let pit = Pit::new(&server.url(), &[]);
    eventually("a page", async || pit.status().page).await;
    server.restart();
    pit.store(1..=100, "Ana").await;
    pit.drained().await;
    assert_eq!(pit.status().proof, Some(Proof::Ack));
    assert_eq!(laps(&server.url()).await, up_to(100));
}

#[tokio::test]
async fn a_server_without_acks_and_echoes_is_verified_by_joins() {
    let server = Peer::start(Kind::Flask, &["--never-ack", "--no-echo"]);
    let settings = [("delivery.proof_timeout", "500ms"), ("delivery.verify_interval", "1s")];
    let pit = Pit::new(&server.url(), &settings);
    pit.store(1..=100, "Ana").await;
    pit.drained().await;
    assert_eq!(pit.status().proof, Some(Proof::Ack));
    assert_eq!(laps(&server.url()).await, up_to(100));
    assert_eq!(server.sessions().await.len(), 1);
}

#[tokio::test]
async fn without_acks_echoes_and_joins_only_time_confirms_an_entry() {
    let server = Peer::start(Kind::Flask, &["--never-ack", "--no-echo", "--no-join"]);
    let pit = Pit::new(&server.url(), &[("delivery.proof_timeout", "500ms")]);
    pit.store(1..=100, "Ana").await;
    let written = async || (pit.status().proof == Some(Proof::Written)).then_some(());
    eventually("proof \"written\"", written).await;
    sleep(Duration::from_secs(2)).await;
    assert_eq!(pit.publisher.queue_status().entries, 100, "written proves nothing before its time");
    if is_long() {
        let empty = async || (pit.publisher.queue_status().entries == 0).then_some(());
        within(Duration::from_secs(110), empty).await.expect("time has proven it");
        let mut laps = laps(&server.url()).await;
        laps.sort_unstable();
        laps.dedup();
        assert_eq!(laps, up_to(100));
    }
}
