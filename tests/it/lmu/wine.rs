//! End to end on Windows, emulated by Wine: a game in named memory and pitwire.exe next to it.

use std::env;
use std::process::{ChildStdin, Command, Stdio};
use std::time::Duration;

use std::io::Write;

use tokio::time::sleep;

use super::drive::{PAUSE, Pit, UP};
use super::game::FIRST;
use crate::agent::{Process, eventually};

/// Environment variable with the path of this test binary built for Windows, which plays the game.
const GAME: &str = "PITWIRE_WINDOWS_TESTS";

#[tokio::test]
#[ignore = "needs Wine: run by tests/windows.sh"]
async fn frames_resume_after_game_restarts_and_a_killed_agent() {
    let mut pit = Pit::start(&[]).await;
    sleep(Duration::from_millis(1500)).await;
    assert_eq!(pit.agent.metric(UP).await, 0.0);

    let mut game = Game::start(1);
    game.tell("drive");
    pit.has_more(20).await;
    assert_eq!(pit.agent.metric(UP).await, 1.0);

    game.tell("pause");
    sleep(PAUSE).await;
    let before = pit.frames().await.len();
    sleep(PAUSE).await;
    assert_eq!(pit.frames().await.len(), before, "frames arrived during the pause");

    game.tell("drive");
    pit.has_more(20).await;
    let last = game.ends().await;
    pit.agent.metric_becomes(UP, |up| up == 0.0).await;

    let mut game = Game::start(last + 1);
    game.tell("drive");
    pit.has_more(20).await;
    pit.agent.process.kill();
    pit.start_agent().await;
    pit.has_more(20).await;
    pit.all_is_well().await;
}

struct Game {
    process: Process,
    stdin: Option<ChildStdin>,
}

impl Game {
    fn start(first: u32) -> Self {
        let binary = env::var_os(GAME).expect("tests/windows.sh sets it");
        let mut command = Command::new("wine");
        command
            .arg(binary)
            .args(["--exact", "lmu::game::plays", "--ignored", "--nocapture"])
            .env(FIRST, first.to_string())
            .stdin(Stdio::piped());
        let mut process = Process::start(&mut command);
        let stdin = process.stdin();
        Self { process, stdin: Some(stdin) }
    }

    fn tell(&mut self, what: &str) {
        writeln!(self.stdin.as_mut().unwrap(), "{what}").unwrap();
    }

    /// Ends the game and returns the number of its last update.
    async fn ends(mut self) -> u32 {
        self.stdin = None;
        assert_eq!(self.process.ended().await, 0);
        let lines = self.process.stdout();
        let last = lines.iter().find_map(|line| line.strip_prefix("last "));
        last.expect("a number").parse().unwrap()
    }
}

impl Pit {
    /// Waits for `frames` more frames.
    async fn has_more(&self, frames: usize) {
        let before = self.frames().await.len();
        let enough = async || (self.frames().await.len() >= before + frames).then_some(());
        eventually("frames", enough).await;
    }
}
