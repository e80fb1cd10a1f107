//! Disk use as shown by `du` stays within `max_bytes`. Sends many entries through a small queue in
//! a separate process, whose memory is measured. `LONG=1` sends ten million.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pitwire::config::{Config, Durability};
use pitwire::entry::{CapturedAt, Situation};
use pitwire::fields::Frame;
use pitwire::queue::{Content, Limit, NewEntry, Stamps};
use pitwire::source::simulator::Car;

use crate::long;
use crate::single;

const ROLE: &str = "PITWIRE_TEST_BOUND_CHILD";
const MAX_ENTRIES: u64 = 10_000;
const MAX_BYTES: u64 = 24_000_000;

#[test]
fn disk_use_stays_within_the_limit_and_shrinks_once_drained() {
    let place = tempfile::tempdir().unwrap();
    let entries = long::size(70_000, 10_000_000);
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "bound::child", "--ignored", "--nocapture"])
        .env(ROLE, format!("{entries} {}", place.path().display()))
        .output()
        .unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    let line = out.lines().find(|line| line.contains("entries through")).unwrap();
    eprintln!("{line}");
}

/// Alternately fills and drains the queue.
#[tokio::test]
#[ignore = "run by the test above"]
async fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let (entries, folder) = role.split_once(' ').unwrap();
    let entries: u64 = entries.parse().unwrap();
    let mut config = Config::default();
    config.queue.path = PathBuf::from(folder).join("queue");
    config.queue.max_entries = MAX_ENTRIES;
    config.queue.max_bytes = MAX_BYTES;
    config.queue.durability = Durability::Within(Duration::from_millis(200));
    let (writer, mut reader, closed) =
        single::open(&config.queue, &config.stint, single::at(0)).unwrap();
    pitwire::platform::memory::give_back_what_is_freed();
    let frames = frames();
    let (mut made, mut removed, mut most) = (0, 0, 0);
    while made < entries {
        let make = |stamps: &mut Stamps| {
            let entry = |number: u64| {
                let (situation, json) = &frames[number as usize % frames.len()];
                let stamp = stamps.stamp_at(single::reading(number as i64 * 500));
                NewEntry::new(stamp, Content::Frame(*situation), json.clone())
            };
            (made..made + 250).map(entry).collect()
        };
        writer.append(make).await.unwrap();
        made += 250;
        // The reader is offline for 15,000 entries, then online for as many.
        while made / 15_000 % 2 == 1 && writer.status().entries > 500 {
            let batch = reader.next_batch(Limit { entries: 256, bytes: 256 << 10 }).await.unwrap();
            removed += batch.entries().len();
            reader.ack(batch).await.unwrap();
        }
        if made % 2_500 == 0 {
            let (du, status) = (du(&config.queue.path), writer.status());
            assert!(du <= MAX_BYTES, "{du} bytes on the disk: {status:?}");
            assert!(status.entries <= MAX_ENTRIES && status.server().imbalance == 0, "{status:?}");
            most = most.max(du);
        }
    }
    while writer.status().entries + writer.status().buffered > 0 {
        let batch = reader.next_batch(Limit { entries: 256, bytes: 256 << 10 }).await.unwrap();
        removed += batch.entries().len();
        reader.ack(batch).await.unwrap();
    }
    let status = writer.status();
    assert_eq!(
        (status.server().imbalance, status.server().ledger.dropped_in_all()),
        (0, 0),
        "{status:?}"
    );
    assert_eq!(status.server().ledger.downsampled + removed as u64, made, "{status:?}");
    assert!(status.server().ledger.downsampled > 0);
    drop((writer, reader));
    closed.wait().await;
    let drained = du(&config.queue.path);
    assert!(drained < 2_000_000, "{drained} bytes on the disk after everything is delivered");
    let memory = memory();
    assert!(memory.is_none_or(|bytes| bytes < 20_000_000), "{memory:?} bytes of memory");
    println!(
        "{made} entries through {MAX_BYTES} bytes: at most {most} on the disk, {drained} when drained, \
         {} bytes of memory",
        memory.unwrap_or_default()
    );
}

/// The frames of one stint, which the test repeats.
fn frames() -> Vec<(Situation, String)> {
    let mut car = Car::new(7);
    let frame = |number| {
        car.step(Duration::from_millis(500));
        let sample = car.sample();
        let frame = Frame::of(&sample).unwrap();
        (frame.situation(), frame.json(CapturedAt(number)))
    };
    (0..2_000).map(frame).collect()
}

/// Disk use in bytes as counted by `du`.
#[cfg(unix)]
fn du(path: &Path) -> u64 {
    let output = Command::new("du").args(["-s", "--block-size=1"]).arg(path).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

#[cfg(not(unix))]
fn du(path: &Path) -> u64 {
    let items = std::fs::read_dir(path).into_iter().flatten().flatten();
    let size = |item: std::fs::DirEntry| match item.metadata() {
        Ok(metadata) if metadata.is_dir() => du(&item.path()),
        metadata => metadata.map_or(0, |metadata| metadata.len()),
    };
    items.map(size).sum()
}

/// Anonymous memory of this process in bytes; `None` where the system does not report it. File
/// mappings are excluded: the test binary is much larger than the agent.
fn memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}
