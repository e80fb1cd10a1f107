//! Fuzzes the game's shared memory and the answers of its API.

use pitwire::config::{GameApi, Units};
use pitwire::entry::CapturedAt;
use pitwire::fields;
use pitwire::source::lmu::memory::Region;
use pitwire::source::lmu::reader::{GameReading, Way};
use pitwire::source::lmu::rest::Rest;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};

use super::{LIMIT, cases, corpus};
use crate::inputs::schema_mode;
use crate::lmu::fixtures::Buffers;

#[test]
fn mutated_game_memory_gives_a_valid_frame_or_none() {
    let native = Buffers::of(&[(Region::Native, "race_lmu.bin")]);
    let plugin = Buffers::of(&[
        (Region::Telemetry, "race_telemetry.bin"),
        (Region::Scoring, "race_scoring.bin"),
        (Region::Extended, "race_extended.bin"),
    ]);
    let mut samples = 0;
    // Few cases: each read of the native memory waits some milliseconds until it is stable.
    samples += shared(60, &native, Way::Native, &[(Region::Native, 0, 5_200)]);
    samples += shared(60, &native, Way::Native, &[(Region::Native, 128_400, 9_600)]);
    let regions =
        [(Region::Telemetry, 8, 10_000), (Region::Scoring, 8, 3_500), (Region::Extended, 0, 40)];
    samples += shared(2000, &plugin, Way::Plugin, &regions);
    assert!(samples > 200, "only {samples} samples: the mutations are too aggressive");
}

/// Overwrites random bytes in these places; returns how many reads still gave a sample.
fn shared(usual: u64, good: &Buffers, way: Way, places: &[(Region, usize, usize)]) -> u32 {
    let mut samples = 0;
    for (case, _) in cases(usual, &[vec![0]]) {
        let mut chance = SmallRng::seed_from_u64(case);
        let mut buffers = good.clone();
        for _ in 0..chance.random_range(1..30) {
            let (region, from, len) = places[chance.random_range(0..places.len())];
            let at = from + chance.random_range(0..len);
            buffers.patch(region, at, &odd(&mut chance));
        }
        let GameReading::Sample(snapshot) = buffers.read(way) else { continue };
        samples += 1;
        for units in [Units::Label, Units::Upstream] {
            let sample = snapshot.sample(units, CapturedAt(1_763_821_822_123));
            let frame = fields::map(&sample, CapturedAt(1_763_821_822_123)).unwrap();
            assert_eq!(schema_mode(&frame), Ok(()), "case {case}: {frame}");
        }
    }
    samples
}

/// Bytes that are invalid or extreme as a value.
fn odd(chance: &mut SmallRng) -> Vec<u8> {
    match chance.random_range(0..6) {
        0 => f64::NAN.to_le_bytes().to_vec(),
        1 => f64::MAX.to_le_bytes().to_vec(),
        2 => i32::MIN.to_le_bytes().to_vec(),
        3 => vec![0xff; chance.random_range(1..70)],
        4 => vec![0; chance.random_range(1..70)],
        _ => (0..chance.random_range(1..9)).map(|_| chance.random::<u8>()).collect(),
    }
}

#[tokio::test]
async fn mutated_api_answers_give_a_setup_or_none() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (next, answers) = tokio::sync::watch::channel(Vec::new());
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let answer = answers.borrow().clone();
            tokio::spawn(async move {
                let _ = client.read(&mut [0; 4096]).await;
                let _ = client.write_all(&answer).await;
            });
        }
    });
    let mut setups = 0;
    for (case, answer) in cases(400, &corpus("rest")) {
        next.send_replace(answer);
        let start = Instant::now();
        let mut rest = Rest::new(GameApi::At(address));
        let asked = timeout(LIMIT, rest.setup()).await;
        let said = asked.unwrap_or_else(|_| panic!("case {case} hangs"));
        setups += u32::from(said.is_ok());
        assert!(start.elapsed() < LIMIT, "case {case}");
    }
    assert!(setups > 0, "no setup: the mutations are too aggressive");
}
