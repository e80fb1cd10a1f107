//! An in-memory [`Store`](storage::Store) with fault injection: a power cut discards unflushed changes or all but
//! the first few, and calls fail or hang on request.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;

use pitwire::entry::Seq;
use pitwire::queue::Limit;
use pitwire::queue::storage::{
    self, KeyValue, SegmentContents, SegmentInfo, SideLog, SideLogs, Storage,
};
use tokio::time::{Instant, sleep_until};

/// Records per segment.
const STRETCH: usize = 16;

/// A handle to the disk; clones share it, so that a test can control the disk of an open queue.
#[derive(Clone, Debug, Default)]
pub struct Disk(Arc<Mutex<Platter>>);

#[derive(Debug, Default)]
struct Platter {
    /// The content that survives a power cut.
    durable: Content,
    /// Changes since the last flush, oldest first.
    unflushed: Vec<Change>,
    /// The content as the queue sees it.
    current: Content,
    /// Number of calls that will fail from now on.
    failures: u32,
    /// Set once a call has failed, until the store is reopened.
    is_closed: bool,
    fails_flushes: bool,
    fails_reads: bool,
    /// Appends fail because the disk is full.
    is_full: bool,
    /// Duration of each flush.
    stall: std::time::Duration,
    /// Until this virtual time, no call returns.
    hangs_until: Option<Instant>,
    /// Error added to the counter of appended records.
    miscount: u64,
    most: StoreUsage,
}

/// State of the disk. Released records are kept, so that tests can look at them.
#[derive(Clone, Debug, Default)]
struct Content {
    head: Option<Seq>,
    metadata: Option<Vec<u8>>,
    records: BTreeMap<Seq, Vec<u8>>,
    held: StoreUsage,
    facts: BTreeMap<String, Vec<u8>>,
    /// Lowest position for the next record.
    floor: Option<Seq>,
    /// Number of records ever appended, replaced ones included.
    appended: u64,
    /// First position, last position and level of each sealed segment.
    segments: Vec<(Seq, Seq, u32)>,
    notes: [String; 2],
}

#[derive(Clone, Debug)]
enum Change {
    Append(Vec<u8>),
    Release(Seq, Vec<u8>),
    Seal,
    Replace { first: Seq, last: Seq, level: u32, left: Vec<Seq>, metadata: Vec<u8> },
}

/// Entries and bytes in a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreUsage {
    pub entries: u64,
    pub bytes: u64,
}

impl Disk {
    /// Cuts the power: of the unflushed changes, only the first `survivors` reach the disk. The
    /// user of the disk must have been dropped.
    pub fn cut_power(&self, survivors: usize) {
        let mut platter = self.platter();
        let Platter { durable, unflushed, current, .. } = &mut *platter;
        unflushed.drain(..).take(survivors).for_each(|change| durable.apply(change));
        // Positions of lost records are not reused.
        durable.floor = Some(current.tail());
        *current = durable.clone();
    }

    /// Makes the next `calls` calls fail; 0 repairs the disk.
    pub fn fail(&self, calls: u32) {
        self.platter().failures = calls;
    }

    /// Makes every flush fail; other calls work.
    pub fn fail_flushes(&self, fails: bool) {
        self.platter().fails_flushes = fails;
    }

    /// Makes every read fail; other calls work.
    pub fn fail_reads(&self, fails: bool) {
        self.platter().fails_reads = fails;
    }

    /// Makes every append fail as on a full disk; other calls work.
    pub fn fill(&self, is_full: bool) {
        self.platter().is_full = is_full;
    }

    /// Makes every flush block its thread for this long.
    pub fn stall(&self, stall: std::time::Duration) {
        self.platter().stall = stall;
    }

    /// Makes the disk hang until this virtual time; takes effect through [`Disk::hold_up`].
    pub fn hang_until(&self, until: Instant) {
        self.platter().hangs_until = Some(until);
    }

    /// Runs the user of the disk in virtual time, and suspends it while the disk hangs.
    pub async fn hold_up(self, user: impl Future<Output = ()>) {
        let mut user = std::pin::pin!(user);
        let mut pause = std::pin::pin!(sleep_until(Instant::now()));
        poll_fn(|context| {
            let until = self.platter().hangs_until.filter(|until| *until > Instant::now());
            if let Some(until) = until {
                pause.as_mut().reset(until);
                if pause.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
            }
            user.as_mut().poll(context)
        })
        .await;
    }

    /// Adds an error to the counter of appended records.
    pub fn miscount(&self, records: u64) {
        self.platter().miscount = records;
    }

    pub fn is_failing(&self) -> bool {
        self.platter().failures > 0
    }

    /// The record at a position, released or not.
    pub fn record(&self, seq: Seq) -> Option<Vec<u8>> {
        self.platter().current.records.get(&seq).cloned()
    }

    /// Whether the record at a position would survive a power cut.
    pub fn is_durable(&self, seq: Seq) -> bool {
        self.platter().durable.records.contains_key(&seq)
    }

    pub fn held(&self) -> StoreUsage {
        self.platter().current.held
    }

    /// The largest content so far.
    pub fn most_held(&self) -> StoreUsage {
        self.platter().most
    }

    fn platter(&self) -> MutexGuard<'_, Platter> {
        self.0.lock().unwrap()
    }
}

impl Platter {
    fn change(&mut self, change: Change) -> io::Result<()> {
        self.call()?;
        self.current.apply(change.clone());
        self.unflushed.push(change);
        let held = self.current.held;
        self.most.entries = self.most.entries.max(held.entries);
        self.most.bytes = self.most.bytes.max(held.bytes);
        Ok(())
    }

    fn call(&mut self) -> io::Result<()> {
        match self.failures.checked_sub(1) {
            None => Ok(()),
            Some(left) => {
                self.failures = left;
                self.is_closed = true;
                Err(failure())
            }
        }
    }
}

fn failure() -> io::Error {
    io::Error::other("a failure on demand")
}

impl Content {
    fn apply(&mut self, change: Change) {
        match change {
            Change::Append(record) => {
                self.held.entries += 1;
                self.held.bytes += record.len() as u64;
                self.appended += 1;
                self.records.insert(self.tail(), record);
            }
            Change::Seal => {
                let first = self.unsealed();
                if first < self.tail() {
                    self.segments.push((first, Seq(self.tail().0 - 1), 0));
                }
            }
            Change::Replace { first, last, level, left, metadata } => {
                let (inside, mut others): (Vec<_>, Vec<_>) =
                    self.segments.drain(..).partition(|s| s.1 >= first && s.1 <= last);
                assert!(!inside.is_empty(), "nothing to replace from {first} to {last}");
                others.push((inside[0].0, last, level));
                others.sort_unstable();
                self.segments = others;
                let head = self.head();
                // The newest records may be removed; keep the tail, so that their positions are not
                // reused.
                self.floor = self.floor.max(Some(self.tail()));
                for seq in (first.max(head).0..=last.0).map(Seq).filter(|seq| !left.contains(seq)) {
                    if let Some(record) = self.records.remove(&seq) {
                        self.held.entries -= 1;
                        self.held.bytes -= record.len() as u64;
                    }
                }
                self.metadata = Some(metadata);
            }
            Change::Release(head, metadata) => {
                for (_, record) in self.records.range(self.head()..head.max(self.head())) {
                    self.held.entries -= 1;
                    self.held.bytes -= record.len() as u64;
                }
                self.head = self.head.max(Some(head));
                self.metadata = Some(metadata);
            }
        }
    }

    fn head(&self) -> Seq {
        self.head.unwrap_or(Seq(1))
    }

    fn tail(&self) -> Seq {
        let last = self.records.last_key_value().map(|(last, _)| Seq(last.0 + 1));
        last.max(self.floor).map_or(self.head(), |tail| tail.max(self.head()))
    }

    /// Position of the first record that is not in a sealed segment.
    fn unsealed(&self) -> Seq {
        self.segments.last().map_or(Seq(1), |(_, last, _)| Seq(last.0 + 1)).max(self.head())
    }
}

impl Storage for Disk {
    fn head(&self) -> Seq {
        let platter = self.platter();
        let Content { records, .. } = &platter.current;
        let head = platter.current.head();
        records.range(head..).next().map_or(platter.current.tail(), |(seq, _)| *seq)
    }

    fn tail(&self) -> Seq {
        self.platter().current.tail()
    }

    fn metadata(&self) -> Option<Vec<u8>> {
        self.platter().current.metadata.clone()
    }

    fn append(&mut self, record: &[u8]) -> io::Result<Seq> {
        let seq = Storage::tail(self);
        if self.platter().is_full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.platter().change(Change::Append(record.to_vec()))?;
        Ok(seq)
    }

    fn truncate(&mut self, head: Seq, metadata: &[u8]) -> io::Result<()> {
        self.platter().change(Change::Release(head, metadata.to_vec()))
    }

    fn flush(&mut self) -> io::Result<()> {
        let stall = self.platter().stall;
        std::thread::sleep(stall);
        let mut platter = self.platter();
        if platter.fails_flushes {
            platter.is_closed = true;
            return Err(failure());
        }
        platter.call()?;
        let Platter { durable, unflushed, .. } = &mut *platter;
        unflushed.drain(..).for_each(|change| durable.apply(change));
        Ok(())
    }

    fn read(&mut self, from: Seq, limit: Limit) -> io::Result<Vec<(Seq, Vec<u8>)>> {
        let mut platter = self.platter();
        if platter.fails_reads {
            return Err(failure());
        }
        platter.call()?;
        let (mut records, mut bytes) = (Vec::new(), 0);
        let from = from.max(platter.current.head());
        for (seq, record) in platter.current.records.range(from..).take(limit.entries) {
            bytes += record.len();
            if bytes > limit.bytes && !records.is_empty() {
                break;
            }
            records.push((*seq, record.clone()));
        }
        Ok(records)
    }

    fn usage(&self) -> storage::Usage {
        let StoreUsage { entries, bytes } = Self::held(self);
        storage::Usage { records: entries, bytes }
    }

    fn appended(&self) -> u64 {
        let platter = self.platter();
        platter.current.appended + platter.miscount
    }

    fn lost(&self) -> u64 {
        0
    }

    fn last(&self) -> Option<Seq> {
        let platter = self.platter();
        let Content { records, .. } = &platter.current;
        records.range(platter.current.head()..).next_back().map(|(seq, _)| *seq)
    }

    fn maintain(&mut self) -> io::Result<()> {
        let mut platter = self.platter();
        let content = &platter.current;
        if content.records.range(content.unsealed()..).count() < STRETCH {
            return Ok(());
        }
        platter.change(Change::Seal)
    }

    fn sealed_segments(&self) -> Vec<SegmentInfo> {
        let platter = self.platter();
        let Content { segments, records, .. } = &platter.current;
        let head = platter.current.head();
        let segment = |&(first, last, level): &(Seq, Seq, u32)| {
            let first = first.max(head);
            let held = match first <= last {
                true => records.range(first..=last).count() as u64,
                false => 0,
            };
            SegmentInfo { first, last, usage: storage::Usage { records: held, bytes: 0 }, level }
        };
        segments.iter().map(segment).filter(|segment| segment.usage.records > 0).collect()
    }

    fn seal(&mut self) -> io::Result<()> {
        self.platter().change(Change::Seal)
    }

    fn replace(
        &mut self,
        first: Seq,
        last: Seq,
        level: u32,
        records: Vec<(Seq, Vec<u8>)>,
        metadata: &[u8],
    ) -> io::Result<()> {
        // Flush first: a failed replacement must not change anything.
        self.flush()?;
        let left = records.into_iter().map(|(seq, _)| seq).collect();
        self.platter().change(Change::Replace {
            first,
            last,
            level,
            left,
            metadata: metadata.into(),
        })?;
        self.flush()
    }

    fn disk_bytes_with(&self, record: usize) -> u64 {
        self.disk_bytes() + record as u64
    }

    fn is_durable(&self) -> bool {
        self.platter().unflushed.is_empty()
    }

    fn is_open(&self) -> bool {
        !self.platter().is_closed
    }

    fn reopen(&mut self) -> io::Result<()> {
        let mut platter = self.platter();
        platter.call()?;
        platter.is_closed = false;
        Ok(())
    }

    fn read_segment(&self, from: Seq) -> io::Result<Option<SegmentContents>> {
        let platter = self.platter();
        let (head, tail) = (platter.current.head(), platter.current.tail());
        let (first, last) = (from.max(head), Seq(tail.0 - 1));
        let records = platter.current.records.range(first..);
        let records: Vec<_> = records.map(|(seq, record)| (*seq, record.clone())).collect();
        Ok((!records.is_empty()).then_some(SegmentContents {
            first,
            last,
            records,
            missing: 0,
            trouble: None,
        }))
    }

    fn disk_bytes(&self) -> u64 {
        self.held().bytes
    }
}

impl KeyValue for Disk {
    /// Makes this value durable at once, without flushing anything else.
    fn put(&mut self, key: &str, value: &[u8]) -> io::Result<()> {
        let mut platter = self.platter();
        platter.call()?;
        let Platter { durable, current, .. } = &mut *platter;
        for content in [durable, current] {
            content.facts.insert(key.into(), value.into());
        }
        Ok(())
    }

    fn get(&self, key: &str) -> io::Result<Option<Vec<u8>>> {
        let mut platter = self.platter();
        platter.call()?;
        Ok(platter.current.facts.get(key).cloned())
    }
}

impl SideLogs for Disk {
    fn append_line(&mut self, log: SideLog, line: &str) -> io::Result<()> {
        let mut platter = self.platter();
        platter.call()?;
        let Platter { durable, current, .. } = &mut *platter;
        for content in [durable, current] {
            content.notes[log as usize] += &format!("{line}\n");
        }
        Ok(())
    }

    fn lines(&self, log: SideLog) -> io::Result<String> {
        Ok(self.platter().current.notes[log as usize].clone())
    }

    fn archive_lines(&mut self, log: SideLog) -> io::Result<String> {
        let mut platter = self.platter();
        platter.call()?;
        platter.durable.notes[log as usize].clear();
        Ok(std::mem::take(&mut platter.current.notes[log as usize]))
    }
}
