//! The agent next to a game that starts, is driven, pauses, exits and starts again.

use std::path::Path;
use std::time::{Duration, Instant};

use pitwire::source::lmu::reader::Way;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::api::Api;
use super::fake::Fake;
use crate::agent::{Agent, eventually};
use crate::peers::{Kind, Peer};

/// Longer than the time without a clock tick after which the driver counts as paused, plus one
/// poll.
pub const PAUSE: Duration = Duration::from_millis(3500);

/// 1 while the game is running.
pub const UP: &str = r#"pitwire_source_up{source="lmu"}"#;

#[tokio::test]
async fn the_native_memory_is_read_while_the_game_is_driven() {
    check(Way::Native).await;
}

#[tokio::test]
async fn the_plugin_memory_is_read_while_the_game_is_driven() {
    check(Way::Plugin).await;
}

async fn check(way: Way) {
    let pit = Pit::start(&[]).await;
    sleep(Duration::from_millis(1500)).await;
    assert_eq!(pit.agent.metric(UP).await, 0.0);
    pit.shows("Waiting for Le Mans Ultimate or rFactor 2 (not running)").await;

    let mut game = Fake::appear(way, pit.folder(), 1);
    pit.drives(&mut game, 20).await;
    assert_eq!(pit.agent.metric(UP).await, 1.0);
    pit.shows("Reading Le Mans Ultimate or rFactor 2").await;

    // During the pause no frames arrive, but the game still counts as running.
    sleep(Duration::from_secs(1)).await;
    let before = pit.frames().await.len();
    sleep(PAUSE).await;
    assert_eq!(pit.frames().await.len(), before);
    assert_eq!(pit.agent.metric(UP).await, 1.0);
    pit.shows("Waiting for you to drive: Le Mans Ultimate or rFactor 2 is running").await;
    pit.drives(&mut game, 20).await;

    let next = game.update();
    game.disappear(pit.folder());
    pit.agent.metric_becomes(UP, |up| up == 0.0).await;
    pit.shows("Waiting for Le Mans Ultimate or rFactor 2 (not running); last sample ").await;
    let mut game = Fake::appear(way, pit.folder(), next + 1);
    pit.drives(&mut game, 20).await;

    // Another bridge recreates the files while driving; the old ones get no more writes.
    let next = game.update();
    let mut game = Fake::appear(way, pit.folder(), next + 1);
    pit.drives(&mut game, 20).await;
    pit.all_is_well().await;
}

#[tokio::test]
async fn stale_memory_of_an_ended_game_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut native = Fake::appear(Way::Native, folder.path(), 1);
    let mut plugin = Fake::appear(Way::Plugin, folder.path(), 1);
    native.update();
    plugin.update();
    let pit = Pit::start_in(folder, &[]).await;
    pit.agent.process.says("the player is not driving").await;
    sleep(PAUSE).await;
    assert!(pit.frames().await.is_empty());
    pit.drives(&mut plugin, 20).await;
    pit.all_is_well().await;
}

#[tokio::test]
async fn an_agent_started_during_a_drive_reads_frames() {
    let folder = tempfile::tempdir().unwrap();
    let mut game = Fake::appear(Way::Native, folder.path(), 1);
    let start = drive(&mut game, Duration::MAX);
    let pit = async {
        let pit = Pit::start_in(folder, &[]).await;
        eventually("frames", async || (pit.frames().await.len() >= 20).then_some(())).await;
        pit
    };
    let pit = tokio::select! {
        pit = pit => pit,
        () = start => unreachable!("the game drives forever"),
    };
    pit.all_is_well().await;
}

#[tokio::test]
async fn the_native_memory_is_preferred_while_it_is_updated() {
    const NATIVE: u32 = 1_000_000;
    let pit = Pit::start(&[]).await;
    let mut plugin = Fake::appear(Way::Plugin, pit.folder(), 1);
    let is_native = |frame: &Value| frame["rpm"].as_f64().unwrap() >= f64::from(NATIVE);
    let comes_from = async |native: bool| {
        let before = pit.frames().await.len();
        let look = async || {
            let frames = pit.frames().await;
            let last = frames.get(before..)?.last_chunk::<5>()?;
            last.iter().all(|frame| is_native(frame) == native).then_some(())
        };
        eventually("frames from the other memory", look).await;
    };
    let mut native = None;
    for is_driven in [false, true, false, true] {
        let drives = async {
            let mut ticks = interval(Duration::from_millis(10));
            loop {
                ticks.tick().await;
                plugin.update();
                if is_driven {
                    native
                        .get_or_insert_with(|| Fake::appear(Way::Native, pit.folder(), NATIVE))
                        .update();
                }
            }
        };
        tokio::select! {
            () = comes_from(is_driven) => {}
            () = drives => {}
        }
    }
}

#[tokio::test]
async fn samples_missed_by_a_hanging_game_are_counted_as_game_gaps() {
    let pit = Pit::start(&["update_rate_hz=5"]).await;
    let mut game = Fake::appear(Way::Native, pit.folder(), 1);
    pit.drives(&mut game, 10).await;
    let hangs = r#"pitwire_source_gaps_total{source="lmu",cause="game"}"#;
    let before = pit.agent.metric(hangs).await;
    sleep(Duration::from_secs(1)).await;
    pit.drives(&mut game, 2).await;
    pit.agent.metric_becomes(hangs, |gaps| (3.0..=8.0).contains(&(gaps - before))).await;
    pit.all_is_well().await;
}

#[tokio::test]
async fn the_setup_is_read_from_the_api_once_the_game_runs() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = format!("source.lmu.rest={}", listener.local_addr().unwrap());
    let api = Api::serve(listener);
    api.has_setup();
    let pit = Pit::start(&[&place]).await;
    sleep(Duration::from_millis(1500)).await;
    assert_eq!(api.requests(), 0);
    let mut game = Fake::appear(Way::Native, pit.folder(), 1);
    pit.drives(&mut game, 5).await;
    let setup = async || {
        let session = pit.server.sessions().await.pop()?;
        let setups = pit.server.setups(&session).await;
        (setups.len() == 1).then_some(())
    };
    eventually("the setup", setup).await;
    pit.all_is_well().await;
}

/// A dashboard server, an agent, and the folder in which a game may appear.
pub struct Pit {
    server: Peer,
    pub agent: Agent,
    folder: TempDir,
    queue: TempDir,
    settings: Vec<String>,
}

impl Pit {
    pub async fn start(settings: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), settings).await
    }

    /// Waits until the status page shows this of the source.
    async fn shows(&self, text: &str) {
        eventually(text, async || {
            let status: Value = serde_json::from_str(&self.agent.page("/status").await.1).unwrap();
            let mut sources = status["sources"].as_array().unwrap().iter();
            let game = sources.find(|source| source["source"] == "lmu").unwrap();
            game["text"].as_str().unwrap().starts_with(text).then_some(())
        })
        .await;
    }

    async fn start_in(folder: TempDir, settings: &[&str]) -> Self {
        let queue = tempfile::tempdir().unwrap();
        let server = Peer::start(Kind::Embedded, &["--schema"]);
        let place = format!("source.lmu.folder={}", folder.path().display());
        let game = ["source.lmu.enabled=true", "source.lmu.rest=", &place, "update_rate_hz=20"];
        let settings = [&game, settings].concat();
        let agent = Agent::start(queue.path(), &server.url(), &settings);
        agent.metrics().await;
        let settings = settings.into_iter().map(str::to_owned).collect();
        Self { server, agent, folder, queue, settings }
    }

    /// Starts another agent on the same queue.
    pub async fn start_agent(&mut self) {
        let settings: Vec<_> = self.settings.iter().map(String::as_str).collect();
        self.agent = Agent::start(self.queue.path(), &self.server.url(), &settings);
        self.agent.metrics().await;
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub async fn frames(&self) -> Vec<Value> {
        self.server.all_frames().await
    }

    /// Drives until `frames` more frames have arrived.
    async fn drives(&self, game: &mut Fake, frames: usize) {
        let before = self.frames().await.len();
        let enough = async || (self.frames().await.len() >= before + frames).then_some(());
        tokio::select! {
            () = eventually("frames", enough) => {}
            () = drive(game, Duration::MAX) => {}
        }
    }

    /// Checks that each frame comes from exactly one update, in order and without duplicates.
    pub async fn all_is_well(&self) {
        let delivered = "pitwire_queue_entries";
        self.agent.metric_becomes(delivered, |entries| entries == 0.0).await;
        let frames = self.frames().await;
        let mut before = 0.0;
        for frame in &frames {
            let number = frame["rpm"].as_f64().unwrap();
            assert!(number > before, "{number} after {before}");
            assert_eq!(frame["fuel"].as_f64(), Some(number));
            assert_eq!(frame["player_name"], "Robin Example");
            before = number;
        }
        assert_eq!(self.agent.metric("pitwire_ledger_imbalance_entries").await, 0.0);
        assert_eq!(self.server.refused().await, [] as [Value; 0]);
    }
}

/// Lets the game write 100 times a second.
async fn drive(game: &mut Fake, time: Duration) {
    let start = Instant::now();
    let mut ticks = interval(Duration::from_millis(10));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while start.elapsed() < time {
        ticks.tick().await;
        game.update();
    }
}
