//! An hour-long race at 60 frames a second without faults: memory, open files and disk use stay
//! flat.
//!
//! Takes some seconds by default, an hour with `LONG=1`, any other time with `SOAK_SECONDS`.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::agent::{Agent, eventually};
use crate::long;
use crate::numbered::Numbered;
use crate::peers::{Kind, Peer};
use crate::viewer::Viewer;
use crate::vitals::{Vitals, slope_per_hour, tenths};

const RATE_HZ: u32 = 60;
/// The largest difference in memory between two tenths of the run, in KiB.
const FLAT_KIB: u64 = 2 << 10;

#[tokio::test]
async fn memory_use_stays_flat_over_a_race_at_60_hz() {
    let seconds = std::env::var("SOAK_SECONDS").map(|text| text.parse().expect("seconds"));
    let seconds = seconds.unwrap_or(long::size(20, 3600) as u64);
    let warm_up = Duration::from_secs(seconds / 4).min(Duration::from_mins(5));
    // The history is not read, so the server may drop it.
    let server = Peer::start(Kind::Flask, &["--keep", "1000"]);
    let queue = tempfile::tempdir().unwrap();
    let rate = format!("update_rate_hz={RATE_HZ}");
    let mut agent = Agent::start(queue.path(), &server.url(), &[&rate]);
    let mut viewer = Viewer::start(&server.url());
    viewer.open(&agent.link(1).await);

    let (mut samples, mut vitals) = (Numbered::from(1), Vitals::start());
    let start = Instant::now();
    for n in 1..=seconds * u64::from(RATE_HZ) {
        agent.feed(&[samples.next()]);
        if n % u64::from(RATE_HZ) == 0 {
            vitals.look(agent.process.id(), queue.path());
        }
        sleep_until(start + Duration::from_secs(1) / RATE_HZ * n as u32).await;
    }
    agent.has_taken(samples.number() - 1).await;
    agent.metric_becomes("pitwire_queue_entries", |entries| entries == 0.0).await;
    let stored = agent.receipts();
    let all = async || (viewer.seen().len() >= stored.len()).then_some(());
    eventually("the viewer has seen them all", all).await;

    let mut seen = viewer.seen();
    // A new viewer gets the newest frame on joining, and may get it again with the broadcast.
    seen.dedup();
    assert_eq!(viewer.pages(), 1);
    let wrong = seen.windows(2).find(|pair| pair[0] >= pair[1]);
    assert_eq!(wrong, None, "a frame is repeated or out of order; first: {:?}", &seen[..10]);
    let laps: BTreeSet<u64> = seen.iter().map(|(_, lap)| *lap).collect();
    // The line number equals the lap.
    let lost = stored.iter().filter(|(line, _)| !laps.contains(&(*line as u64))).count();
    assert_eq!(lost, 0);
    let few = seconds as usize * RATE_HZ as usize / 2;
    assert!(stored.len() > few, "{} of a source of {RATE_HZ} Hz", stored.len());

    let looks = vitals.after(warm_up);
    let memory = tenths(looks, |look| look.rss_kib);
    let (least, most) = (*memory.iter().min().unwrap(), *memory.iter().max().unwrap());
    let slope = slope_per_hour(looks, |look| look.rss_kib);
    let files: Vec<u64> = looks.iter().map(|look| look.files).collect();
    let disk: Vec<u64> = looks.iter().map(|look| look.disk_kib).collect();
    let ends = |values: &[u64]| (*values.iter().min().unwrap(), *values.iter().max().unwrap());
    let (files, disk) = (ends(&files), ends(&disk));
    println!(
        "{} frames in {seconds} s: memory {least} to {most} KiB by tenths {memory:?}, {slope:+.0} \
         KiB an hour; files {files:?}; disk {disk:?} KiB",
        stored.len()
    );
    assert!(most - least <= FLAT_KIB, "{memory:?} KiB");
    assert!(files.1 - files.0 <= 2, "{files:?} open files");
    assert!(disk.1 <= 64 << 10, "{disk:?} KiB of disk");
    agent.stop().await;
}
