//! The agents of a league and their hub run on computers with clocks of their own.

use std::time::Duration;

use tempfile::tempdir;
use tokio::time::sleep;

use super::source::League;
use crate::agent::Agent;
use crate::fake_clock::FakeClock;
use crate::peers::{Kind, Peer};

/// Where the clocks of the three agents and of the hub start, and what they are set to one after the
/// other, by seconds to years in both directions.
const TIMES: [[&str; 4]; 4] = [
    ["@2020-01-01 00:00:00", "+0", "+10d", "-1000d"],
    ["+0", "-2h", "+10d", "+5s"],
    ["+30s", "-5s", "-1000d", "+3650d"],
    ["-2h", "+2h", "@2020-01-01 00:00:00", "+0"],
];

#[tokio::test]
async fn agents_and_a_hub_with_wrong_clocks_lose_and_reorder_nothing() {
    let mut league = League::of(&[]);
    let dashboard = Peer::start(Kind::Embedded, &[]);
    let clocks = TIMES[0].map(FakeClock::at);
    for (name, clock) in ["pc-1", "pc-2", "pc-3"].iter().zip(&clocks) {
        league.add_with_clock(name, clock);
    }
    let queue = tempdir().unwrap();
    let nats = format!("source.nats.url={}", league.server.url());
    let settings = ["source.nats.enabled=true", &nats, "source.stdin.enabled=false"];
    let environment = clocks[3].environment();
    let url = dashboard.url();
    let start_hub = || Agent::in_environment(&environment, queue.path(), &url, &settings);
    let mut hub = start_hub();
    let mut driven = 0;
    for (round, times) in TIMES.iter().enumerate() {
        league.drive(40);
        sleep(Duration::from_millis(200)).await;
        for (clock, time) in clocks.iter().zip(times) {
            clock.set(time);
        }
        league.drive(40);
        driven += 80;
        league.has_published(driven).await;
        if round == 1 {
            hub.process.kill();
            hub = start_hub();
        }
        league.is_shown_by(&dashboard).await;
    }
    assert_eq!(league.frames().await.len(), 3, "one stint an agent");
    for (_, agent) in &league.agents {
        agent.process.says("the system clock was set").await;
    }
    let expired = r#"pitwire_entries_dropped_total{destination="server",reason="expired"}"#;
    for agent in league.agents.iter().map(|(_, agent)| agent).chain([&hub]) {
        assert_eq!(agent.metric(expired).await, 0.0);
    }
}
