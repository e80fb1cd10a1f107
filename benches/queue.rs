//! Measures the queue on the disk of the build directory. A RAM disk gives meaningless figures: an
//! fsync costs nothing there.
#![allow(clippy::unwrap_used, missing_docs, reason = "a bench")]

mod lap;

use std::cell::RefCell;
use std::time::Duration;

use divan::Bencher;
use divan::counter::ItemsCount;
use pitwire::config::{Config, Durability};
use pitwire::entry::Situation;
use pitwire::fields;
use pitwire::platform::clock::Clock;
use pitwire::queue::{
    self, Closed, Content, Destinations, Limit, Limits, NewEntry, Reader, Writer,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Entries per call: a live car sends one frame at a time; sources and delivery handle at most 256 at
/// once.
const BATCHES: [usize; 2] = [1, 256];
/// Number of distinct frames, which are appended in turn.
const FRAMES: usize = 600;

fn main() {
    divan::main();
}

/// Append until durable: one fsync per call.
#[divan::bench(args = BATCHES, sample_count = 50, sample_size = 1)]
fn append_entry(bencher: Bencher<'_, '_>, batch: usize) {
    append(bencher, Durability::Entry, batch);
}

/// Append with an fsync every 200 ms.
#[divan::bench(args = BATCHES, sample_count = 50, sample_size = 16)]
fn append_200ms(bencher: Bencher<'_, '_>, batch: usize) {
    append(bencher, Durability::Within(Duration::from_millis(200)), batch);
}

fn append(bencher: Bencher<'_, '_>, durability: Durability, batch: usize) {
    let queue = RefCell::new(Queue::open(durability));
    bencher
        .counter(ItemsCount::new(batch))
        .with_inputs(|| queue.borrow_mut().frames(batch))
        .bench_local_values(|frames| queue.borrow_mut().append(frames));
    queue.into_inner().close();
}

/// Read and remove the oldest entries, as after their delivery.
#[divan::bench(args = BATCHES, sample_count = 50, sample_size = 1)]
fn read_and_remove(bencher: Bencher<'_, '_>, batch: usize) {
    let queue = RefCell::new(Queue::open(Durability::Entry));
    bencher
        .counter(ItemsCount::new(batch))
        .with_inputs(|| {
            let mut queue = queue.borrow_mut();
            let frames = queue.frames(batch);
            queue.append(frames);
        })
        .bench_local_values(|()| queue.borrow_mut().read_and_remove(batch));
    queue.into_inner().close();
}

/// A queue in a temporary directory.
struct Queue {
    runtime: Runtime,
    writer: Writer,
    reader: Reader,
    closed: Closed,
    frames: Box<dyn Iterator<Item = String>>,
    folder: TempDir,
}

impl Queue {
    fn open(durability: Durability) -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut config = Config::default();
        config.queue.path = folder.path().join("queue");
        config.queue.durability = durability;
        let limits = Limits::new(&config.queue, &config.stint);
        let opened =
            queue::open(&config.queue, limits, Destinations::Stored, Clock::system(), |_| {});
        let (writer, mut readers, closed) = opened.unwrap();
        let reader = readers.remove(0);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let json = |(at, sample)| fields::map(&sample, at).unwrap();
        let frames: Vec<_> = lap::samples(FRAMES).into_iter().map(json).collect();
        let frames = Box::new(frames.into_iter().cycle());
        Self { runtime, writer, reader, closed, frames, folder }
    }

    fn frames(&mut self, count: usize) -> Vec<String> {
        self.frames.by_ref().take(count).collect()
    }

    fn append(&mut self, frames: Vec<String>) {
        let appended = self.writer.append(|stamps| {
            let entry =
                |json| NewEntry::new(stamps.stamp(), Content::Frame(Situation::default()), json);
            frames.into_iter().map(entry).collect()
        });
        self.runtime.block_on(appended).unwrap();
    }

    fn read_and_remove(&mut self, entries: usize) {
        let Self { runtime, reader, .. } = self;
        runtime.block_on(async {
            let batch = reader.next_batch(Limit { entries, bytes: usize::MAX }).await.unwrap();
            assert_eq!(batch.entries().len(), entries);
            reader.ack(batch).await.unwrap();
        });
    }

    /// Waits until the queue has released its directory, then deletes it.
    fn close(self) {
        let Self { runtime, writer, reader, closed, folder, .. } = self;
        drop((writer, reader));
        runtime.block_on(closed.wait());
        folder.close().unwrap();
    }
}
