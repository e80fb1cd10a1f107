//! Fuzzes the lines that a source submits and checks each outcome, in one process.

use std::sync::Mutex;

use pitwire::DashboardPublisher;
use pitwire::config::{Config, Durability};
use pitwire::source::Taken;
use pitwire::source::lines::{self, Pace};

use super::fuzz;
use crate::inputs::check_frame;

const SAMPLES: &str = include_str!("../../data/samples.ndjson");

#[test]
fn a_mutated_line_does_not_affect_the_next_one() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.queue.path = folder.path().into();
    config.queue.durability = Durability::Os;
    let publisher = DashboardPublisher::open(config).unwrap();
    let intake = publisher.intake("stdin", 0.0);
    let mut corpus: Vec<Vec<u8>> = SAMPLES.lines().map(|line| line.as_bytes().to_vec()).collect();
    corpus.push(SAMPLES.as_bytes().to_vec());
    corpus.push(br#"{"setup": {"wing": 7}}"#.to_vec());
    let stored = Mutex::new(0_u64);
    fuzz(1500, &corpus, |input| {
        // A valid line must be accepted after any input.
        let input = [input, b"\n{\"lap\": 7}\n"].concat();
        let mut last = None;
        runtime.block_on(async {
            lines::run(&input[..], &intake, Pace::AsTheyCome, |_, taken| {
                *stored.lock().unwrap() += u64::from(matches!(taken, Taken::Stored(_)));
                if let Taken::Refused(why) = taken {
                    assert!(why.message.len() < 1000, "{}", why.message);
                }
                last = Some(matches!(taken, Taken::Stored(_)));
            })
            .await
            .unwrap();
        });
        assert_eq!(last, Some(true), "the valid line at the end");
    });
    let stored = *stored.lock().unwrap();
    assert!(stored > 1500, "only {stored} stored: the mutations are too aggressive");
    assert_eq!(publisher.queue_status().server().imbalance, 0);
    runtime.block_on(publisher.close());
}

#[test]
fn frames_from_mutated_samples_satisfy_the_schema() {
    let corpus: Vec<Vec<u8>> = SAMPLES.lines().map(|line| line.as_bytes().to_vec()).collect();
    let good = std::cell::Cell::new(0);
    fuzz(20_000, &corpus, |input| {
        if let Ok(frame) = crate::inputs::frame_of(input) {
            good.set(good.get() + 1);
            assert_eq!(check_frame(input, &frame), Ok(()));
        }
    });
    assert!(good.get() > 500, "{}", good.get());
}
