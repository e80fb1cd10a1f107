//! A game in a separate process: this test binary, built for Windows.

use std::io::stdin;
use std::path::Path;
use std::sync::mpsc::{self, TryRecvError};
use std::thread;
use std::time::Duration;

use pitwire::source::lmu::reader::Way;

use super::fake::Fake;

/// Environment variable with the number of the first update.
pub const FIRST: &str = "TEST_GAME_FIRST";

/// Plays a game that is driven or paused by the lines on standard input and exits at their end.
#[test]
#[ignore = "run as the game"]
fn plays() {
    let Ok(first) = std::env::var(FIRST) else { return };
    let mut game = Fake::appear(Way::Native, Path::new("."), first.parse().unwrap());
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        stdin().lines().map_while(Result::ok).for_each(|line| sender.send(line).unwrap());
    });
    let (mut is_driven, mut last) = (false, 0);
    loop {
        match lines.try_recv() {
            Ok(line) => is_driven = line == "drive",
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => break,
        }
        if is_driven {
            last = game.update();
        }
        thread::sleep(Duration::from_millis(10));
    }
    println!("\nlast {last}");
}
