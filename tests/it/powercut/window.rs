//! The loss window of a power cut when the queue may delay its flushes: only entries reported
//! stored within `queue.durability` may be lost, no older ones.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pitwire::config::{Config, Durability};
use pitwire::entry::Situation;
use pitwire::queue::storage::{Options, SegmentStore};
use pitwire::queue::{Appended, Content, Limit, NewEntry};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::time::sleep;

use super::disk::{Disk, Marks, ROLE, Recorder};
use crate::long;
use crate::single;

const WITHIN: Duration = Duration::from_millis(200);
/// Tolerance for a busy machine, which may delay the process.
const SLACK: Duration = Duration::from_millis(150);

#[test]
fn a_power_cut_loses_at_most_the_durability_window() {
    let recorder = Recorder::new();
    let output = recorder.run("powercut::window::child", &long::size(2_000, 10_000).to_string());
    assert!(!output.status.success(), "the process was not killed");
    let log = recorder.events();
    let mut rng = SmallRng::seed_from_u64(1);
    let count = long::size(300, 1_000);
    let mut cuts: Vec<usize> = (0..count).map(|_| rng.random_range(0..log.len())).collect();
    cuts.sort_unstable();
    let mut disk = Disk::new(&recorder.root());
    let (mut stored, mut now, mut at) = (Vec::<(u64, u64)>::new(), 0, 0);
    let (mut worst, mut most) = (0, 0);
    for cut in cuts {
        for event in &log[at..cut] {
            if event.kind != b'K' {
                disk.apply(event);
                continue;
            }
            let line = String::from_utf8_lossy(&event.x);
            let (seq, micros) = line.trim().split_once(' ').unwrap();
            now = micros.parse().unwrap();
            stored.push((seq.parse().unwrap(), now));
        }
        at = cut;
        let state = recorder.state();
        disk.crash(&state, &mut rng);
        let options = Options { boot: "after the cut".into(), ..Options::new(1 << 20, 1 << 30) };
        let mut store = SegmentStore::open(&state, options).unwrap();
        let there: BTreeSet<u64> = super::all(&mut store).into_keys().collect();
        let lost: Vec<_> = stored.iter().filter(|(seq, _)| !there.contains(seq)).collect();
        let oldest = lost.iter().map(|(_, micros)| now - micros).max().unwrap_or(0);
        (worst, most) = (worst.max(oldest), most.max(lost.len()));
        assert!(Duration::from_micros(oldest) <= WITHIN + SLACK, "{oldest} µs at event {cut}");
    }
    assert!(most > 0, "no cut lost anything: the recorder keeps unsynced data");
    eprintln!(
        "{count} power cuts at durability 200ms: the oldest entry lost was {:.0} ms old, {most} at most",
        worst as f64 / 1000.0
    );
}

/// Stores an entry about every 2 ms, and reports when each was stored.
#[tokio::test]
#[ignore = "run by the test above"]
async fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let root = PathBuf::from(std::env::var("RECORD_ROOT").unwrap());
    let mut marks = Marks::open(&root);
    let mut config = Config::default();
    config.queue.path = root;
    config.queue.durability = Durability::Within(WITHIN);
    let (writer, mut reader, _closed) =
        single::open(&config.queue, &config.stint, single::at(0)).unwrap();
    let started = Instant::now();
    for number in 0..role.parse().unwrap() {
        let appended = writer
            .append(|stamps| {
                let stamp = stamps.stamp_at(single::reading(number));
                let json = format!("{{\"lap\":{number}}}");
                vec![NewEntry::new(stamp, Content::Frame(Situation::default()), json)]
            })
            .await
            .unwrap();
        let [Appended::Stored(seq)] = appended[..] else { panic!("{appended:?}") };
        marks.write(&format!("{seq} {}\n", started.elapsed().as_micros()));
        sleep(Duration::from_millis(1)).await;
    }
    // The reader stays open, as in the agent; it removes no entry.
    let _ = reader.next_batch(Limit::ONE).await;
    std::process::abort();
}
