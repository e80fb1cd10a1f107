//! Queue files that were truncated, deleted, replaced, locked or copied: each loss is counted,
//! logged and traceable, no position is assigned twice, and nothing outside the folder is touched.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use pitwire::config::Config;
use pitwire::entry::{Seq, Situation};
use pitwire::queue::disposition::Disposition;
use pitwire::queue::storage::{KeyValue, Options, SegmentStore, SideLogs, Storage};
use pitwire::queue::{self, Closed, Content, NewEntry, OpenError, Reader, Stamps, Writer};

use crate::agent::{Agent, pitwire};
use crate::single;

/// Bytes of framing around each record.
const FRAME: u64 = 20;
const RECORD: &[u8] = b"record";
/// An address that refuses connections.
const CLOSED_ADDRESS: &str = "http://127.0.0.1:9";

fn open(folder: &Path) -> SegmentStore {
    let options = Options { boot: "one".into(), ..Options::new(1_000_000, 64 << 20) };
    SegmentStore::open(folder, options).unwrap()
}

fn journal(folder: &Path) -> PathBuf {
    let mut paths = fs::read_dir(folder).unwrap().map(|item| item.unwrap().path());
    paths.find(|path| path.extension() == Some("log".as_ref())).unwrap()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for item in fs::read_dir(from).unwrap() {
        let path = item.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &target),
            false => drop(fs::copy(&path, &target).unwrap()),
        }
    }
}

/// Writes a hundred flushed records and leaves the folder as after a kill, or as after a clean
/// exit.
fn hundred(folder: &Path, is_killed: bool) {
    let written = folder.with_extension("written");
    let mut store = open(&written);
    for _ in 0..100 {
        store.append(RECORD).unwrap();
    }
    store.flush().unwrap();
    if is_killed {
        copy(&written, folder);
    }
    drop(store);
    if !is_killed {
        copy(&written, folder);
    }
}

#[test]
fn records_cut_off_the_write_ahead_log_are_counted_as_lost() {
    for is_killed in [true, false] {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("queue");
        hundred(&folder, is_killed);
        let file = fs::File::options().write(true).open(journal(&folder)).unwrap();
        let closed = if is_killed { 0 } else { FRAME };
        let len = file.metadata().unwrap().len();
        file.set_len(len - closed - 40 * (FRAME + RECORD.len() as u64)).unwrap();
        let mut store = open(&folder);
        let case = format!("killed: {is_killed}");
        assert_eq!(
            (store.appended(), store.usage().records, store.lost()),
            (100, 60, 40),
            "{case}"
        );
        assert_eq!(store.take_lost(), [(Seq(61), Seq(100))], "{case}");
        assert!(store.append(RECORD).unwrap() > Seq(100), "{case}");
        drop(store);
        let mut store = open(&folder);
        assert_eq!((store.lost(), store.take_lost()), (40, vec![]), "{case}");
    }
}

#[test]
fn all_records_of_a_deleted_write_ahead_log_are_counted_as_lost() {
    for is_killed in [true, false] {
        for is_deleted in [true, false] {
            let place = tempfile::tempdir().unwrap();
            let folder = place.path().join("queue");
            hundred(&folder, is_killed);
            match is_deleted {
                true => fs::remove_file(journal(&folder)).unwrap(),
                false => fs::write(journal(&folder), b"").unwrap(),
            }
            let mut store = open(&folder);
            assert_eq!((store.appended(), store.usage().records, store.lost()), (100, 0, 100));
            assert_eq!(store.take_lost(), [(Seq(1), Seq(100))]);
            assert!(store.append(RECORD).unwrap() > Seq(100));
        }
    }
}

/// Delivered entries do not count as lost when the write-ahead log that held them is deleted.
#[test]
fn a_deleted_write_ahead_log_loses_only_unacknowledged_records() {
    let place = tempfile::tempdir().unwrap();
    let mut store = open(place.path());
    for _ in 0..100 {
        store.append(RECORD).unwrap();
    }
    store.truncate(Seq(71), b"metadata").unwrap();
    store.flush().unwrap();
    drop(store);
    fs::remove_file(journal(place.path())).unwrap();
    let mut store = open(place.path());
    assert_eq!((store.appended(), store.lost()), (100, 30));
    assert_eq!(store.metadata().as_deref(), Some(&b"metadata"[..]));
    assert_eq!(store.take_lost(), [(Seq(71), Seq(100))]);
}

#[test]
fn a_deleted_sealed_segment_is_counted_as_lost_at_the_next_start() {
    let place = tempfile::tempdir().unwrap();
    let mut store = open(place.path());
    for _ in 0..3 {
        for _ in 0..10 {
            store.append(RECORD).unwrap();
        }
        store.seal().unwrap();
    }
    store.flush().unwrap();
    drop(store);
    let second = format!("q-{:016x}-{:016x}", 11, 20);
    fs::remove_dir_all(place.path().join(second)).unwrap();
    let mut store = open(place.path());
    assert_eq!((store.appended(), store.usage().records, store.lost()), (30, 20, 10));
    assert_eq!(store.take_lost(), [(Seq(11), Seq(20))]);
}

fn config(folder: &Path) -> Config {
    let mut config = Config::default();
    config.queue.path = folder.to_owned();
    config
}

fn open_queue(folder: &Path) -> Result<(Writer, Reader, Closed), OpenError> {
    let config = config(folder);
    single::open(&config.queue, &config.stint, single::at(1))
}

async fn append(writer: &Writer, entries: u64) -> Vec<queue::Appended> {
    let make = |stamps: &mut Stamps| {
        let entry = |stamp| NewEntry::new(stamp, Content::Frame(Situation::default()), "{}".into());
        (0..entries).map(|_| entry(stamps.stamp_at(single::reading(1)))).collect::<Vec<_>>()
    };
    writer.append(make).await.unwrap()
}

#[tokio::test]
async fn a_lost_entry_is_traced_as_lost_and_stays_in_the_ledger() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("queue");
    let (writer, reader, closed) = open_queue(&folder).unwrap();
    append(&writer, 50).await;
    drop((writer, reader));
    closed.wait().await;
    fs::remove_file(journal(&folder)).unwrap();
    for start in 0..2 {
        let (writer, reader, closed) = open_queue(&folder).unwrap();
        let status = writer.status();
        assert_eq!(
            (status.server().imbalance, status.server().ledger.corrupt),
            (0, 50),
            "{start}: {status:?}"
        );
        assert_eq!(
            single::disposition(&writer.operator(), Seq(50)).await,
            Disposition::Lost,
            "{start}"
        );
        drop((writer, reader));
        closed.wait().await;
    }
}

/// A cleaner or a sync tool removes the file; the folder itself stays locked.
#[tokio::test]
async fn a_queue_whose_lock_file_was_removed_is_not_opened_by_another_agent() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("queue");
    let (writer, _reader, _closed) = open_queue(&folder).unwrap();
    append(&writer, 3).await;
    fs::remove_file(folder.join("lock")).unwrap();
    assert!(matches!(open_queue(&folder), Err(OpenError::InUse { .. })));
    let link = place.path().join("link");
    std::os::unix::fs::symlink(&folder, &link).unwrap();
    assert!(matches!(open_queue(&link), Err(OpenError::InUse { .. })));
    // The owner notices, locks again and continues.
    append(&writer, 3).await;
    wait_for(|| folder.join("lock").exists()).await;
    wait_for(|| writer.status().entries == 6).await;
    assert_eq!(writer.status().server().ledger.gone(), 0);
}

/// The folder is moved while an agent uses it, and another agent creates a queue at the same path.
#[tokio::test]
async fn an_agent_does_not_write_into_a_queue_that_replaced_its_folder() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("queue");
    let (first, _reader, _closed) = open_queue(&folder).unwrap();
    append(&first, 3).await;
    fs::rename(&folder, place.path().join("moved")).unwrap();
    let (second, _reader, _closed) = open_queue(&folder).unwrap();
    append(&second, 3).await;
    tokio::spawn({
        let first = first.clone();
        async move { append(&first, 3).await }
    });
    wait_for(|| first.status().storage_error.is_some()).await;
    wait_for(|| {
        let error = first.status().storage_error.unwrap_or_default();
        error.contains("another pitwire")
    })
    .await;
    append(&second, 3).await;
    assert_eq!((second.status().entries, second.status().tail), (6, Seq(7)));
}

async fn wait_for(mut is_so: impl FnMut() -> bool) {
    crate::agent::eventually("the condition holds", async || is_so().then_some(())).await;
}

#[test]
fn deleted_facts_are_rewritten_by_the_running_queue() {
    let place = tempfile::tempdir().unwrap();
    let facts = place.path().join("facts");
    let mut store = open(place.path());
    store.put("one", b"1").unwrap();
    fs::remove_dir_all(&facts).unwrap();
    store.put("two", b"2").unwrap();
    fs::remove_dir_all(&facts).unwrap();
    assert_eq!(store.get("one").unwrap().as_deref(), Some(&b"1"[..]));
    drop(store);
    let store = open(place.path());
    for (key, value) in [("one", b"1"), ("two", b"2")] {
        assert_eq!(store.get(key).unwrap().as_deref(), Some(&value[..]), "{key}");
    }
}

#[test]
fn a_folder_in_place_of_a_file_is_quarantined_at_start() {
    for name in ["FORMAT", "mark", "checkpoint", "lock", "owner", "ballast", "facts/one", "log"] {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("queue");
        hundred(&folder, false);
        fs::create_dir_all(folder.join("facts")).unwrap();
        let path = match name {
            "log" => journal(&folder),
            name => folder.join(name),
        };
        let _ = fs::remove_file(&path);
        fs::create_dir(&path).unwrap();
        fs::write(path.join("kept"), "of somebody").unwrap();
        let config = config(&folder);
        let opened = single::open(&config.queue, &config.stint, single::at(1));
        let (writer, ..) = opened.unwrap_or_else(|error| panic!("{name}: {error}"));
        let expected = if name == "log" { 0 } else { 100 };
        assert_eq!(writer.status().entries, expected, "{name}");
        let aside = fs::read_dir(folder.join("quarantine")).unwrap().map(|item| item.unwrap());
        let aside: Vec<_> = aside.map(|item| item.path()).collect();
        assert_eq!(aside.len(), 1, "{name}: {aside:?}");
        assert!(aside[0].join("kept").exists(), "{name}: {aside:?}");
    }
}

#[test]
fn file_creation_follows_no_symlink_and_files_are_private() {
    use std::os::unix::fs::{MetadataExt, symlink};
    let place = tempfile::tempdir().unwrap();
    let (folder, outside) = (place.path().join("queue"), place.path().join("outside"));
    fs::create_dir(&folder).unwrap();
    fs::create_dir(&outside).unwrap();
    let names = [
        "FORMAT",
        "FORMAT.tmp",
        "mark",
        "mark.tmp",
        "checkpoint",
        "lock",
        "owner",
        "owner.tmp",
        "ballast",
        "tail-0000000000000001.tmp",
    ];
    for name in names {
        fs::write(outside.join(name), "mine").unwrap();
        symlink(outside.join(name), folder.join(name)).unwrap();
    }
    // Folders too: an unfinished segment, a segment being deleted, the facts, and the quarantine.
    for name in ["new-0000000000000001-000000000000000a", "trash-1", "facts", "quarantine"] {
        fs::create_dir(outside.join(name)).unwrap();
        fs::write(outside.join(name).join("file"), "mine").unwrap();
        symlink(outside.join(name), folder.join(name)).unwrap();
    }
    let (writer, _reader, _closed) = open_queue(&folder).unwrap();
    drop(writer);
    let other = place.path().join("store");
    let mut store = open(&other);
    for _ in 0..10 {
        store.append(RECORD).unwrap();
    }
    store.seal().unwrap();
    store.put("one", b"1").unwrap();
    store.append_line(queue::storage::SideLog::Dispositions, "{}").unwrap();
    for name in names {
        assert_eq!(fs::read_to_string(outside.join(name)).unwrap(), "mine", "{name}");
    }
    for item in fs::read_dir(&outside).unwrap().map(|item| item.unwrap().path()) {
        if item.is_dir() {
            let left = fs::read_dir(&item).unwrap().count();
            assert_eq!(left, 1, "{}", item.display());
        }
    }
    let mut folders = vec![other, folder];
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(&folder).unwrap().map(|item| item.unwrap()) {
            let metadata = item.metadata().unwrap();
            if metadata.is_dir() {
                folders.push(item.path());
            }
            if !metadata.is_symlink() {
                let mode = metadata.mode() & 0o077;
                assert_eq!(mode, 0, "{} is open to others", item.path().display());
            }
        }
    }
}

/// An agent is killed and its newest write-ahead log is cut: the log, the ledger and each tool
/// report it.
#[tokio::test]
async fn a_cut_write_ahead_log_is_reported_by_log_ledger_and_tools() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("queue");
    let mut agent = Agent::start(&folder, CLOSED_ADDRESS, &[]);
    let samples = super::process::numbered_samples(1, 50).join("\n");
    assert_eq!(agent.post("/v1/telemetry", samples).await.status(), 200);
    agent.process.kill();
    let file = fs::File::options().write(true).open(journal(&folder)).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    let tool = |args: &[&str]| {
        let queue = ["--queue", folder.to_str().unwrap()];
        let mut command = pitwire(&["queue"]);
        let output = command.args(args).args(queue).stdin(Stdio::null()).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, said) = tool(&["verify"]);
    let is_named = said.contains("write-ahead log") && said.contains(" to 50");
    assert!(code == 1 && is_named && said.contains("cannot be read"), "{said}");
    let repaired = place.path().join("repaired");
    copy(&folder, &repaired);
    let mut agent = Agent::start(&folder, CLOSED_ADDRESS, &[]);
    agent.process.says("entries are lost: the queue's newest write-ahead log").await;
    let lost = agent.metric(r#"pitwire_entries_dropped_total{reason="corrupt"}"#).await;
    assert!((1.0..50.0).contains(&lost), "{lost}");
    assert_eq!(agent.metric("pitwire_queue_entries").await + lost, 50.0);
    agent.stop().await;
    let (code, said) = tool(&["trace", "50"]);
    assert!(code == 0 && said.contains("was lost to damage"), "{said}");
    let (code, said) = tool(&["verify"]);
    let expected = format!("; {lost} entries lost to damage before");
    assert!(code == 0 && said.contains(&expected), "{said}");
    // The other copy is repaired by hand.
    let mut command = pitwire(&["queue", "repair", "--apply", "--queue"]);
    let output = command.arg(&repaired).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let expected = format!("{lost} entries lost now and {lost} ever");
    assert!(output.status.success() && said.contains(&expected), "{said}");
}

/// A copy on another PC is recognized by its owner file.
#[tokio::test]
async fn a_copied_queue_is_reported_when_its_agent_starts() {
    let place = tempfile::tempdir().unwrap();
    let (folder, copied) = (place.path().join("queue"), place.path().join("copy"));
    let mut agent = Agent::start(&folder, CLOSED_ADDRESS, &[]);
    agent.page("/healthz").await;
    agent.stop().await;
    copy(&folder, &copied);
    let mut agent = Agent::start(&copied, CLOSED_ADDRESS, &[]);
    agent.process.says("this queue is a copy of the one in").await;
    // Wait until it serves requests: before that it does not handle signals.
    agent.page("/healthz").await;
    agent.stop().await;
    if cfg!(target_os = "linux")
        && fs::read_to_string("/etc/machine-id").is_ok_and(|id| id.len() > 1)
    {
        let owner = format!("1\nanother-machine\nrig-1\n{}\n", copied.display());
        fs::write(copied.join("owner"), owner).unwrap();
        let agent = Agent::start(&copied, CLOSED_ADDRESS, &[]);
        agent.process.says("this queue was last used on the PC \"rig-1\"").await;
    }
}
