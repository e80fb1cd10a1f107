//! A queue worker that hangs in a disk call is named, and fails the health check.

use std::time::Duration;

use pitwire::admin::faults;
use pitwire::config::{Config, Durability};
use pitwire::entry::Situation;
use pitwire::queue::{Content, Limits, NewEntry};
use tokio::time::advance;

use crate::disk::Disk;
use crate::single;

#[tokio::test(start_paused = true)]
async fn a_stuck_queue_worker_fails_the_health_check_until_it_recovers() {
    let config = Config::default();
    let limits =
        Limits { durability: Durability::Entry, ..Limits::new(&config.queue, &config.stint) };
    let disk = Disk::default();
    let ((writer, _reader), worker) =
        single::with_store(disk.clone(), limits, single::at(0)).unwrap();
    // In real time, longer than the test takes to check: the test's own clock is paused.
    disk.stall(Duration::from_secs(3));
    let worker = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.unwrap().block_on(worker);
    });
    let content = Content::Frame(Situation::default());
    let entry = |stamp| NewEntry::new(stamp, content, "{}".into());
    let appended =
        writer.append(|stamps| vec![entry(stamps.stamp_at(single::reading(0)))]).await.unwrap();
    assert_eq!(appended.len(), 1);
    // Give the worker time to start flushing.
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(faults(&writer.status(), false), [""; 0]);
    advance(Duration::from_secs(31)).await;
    let found = faults(&writer.status(), false);
    let text = "the queue worker has made no progress for 3";
    assert!(found.len() == 1 && found[0].starts_with(text), "{found:?}");
    assert!(found[0].ends_with("(flushing to the disk)"), "{found:?}");
    disk.stall(Duration::ZERO);
    writer.close().await;
    worker.join().unwrap();
    let status = writer.status();
    assert_eq!(faults(&status, false), [""; 0]);
    assert_eq!((status.entries, status.buffered), (1, 0));
}
