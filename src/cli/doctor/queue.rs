//! Checks the queue: its directory, its disk, its entries, and which process has it open.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::{DoctorReport, disk};
use crate::cli::doctor::DOCTOR_DISK_TIMEOUT;
use crate::cli::queue::access::{ToolError, connect};
use crate::cli::queue::count;
use crate::cli::queue::verify::{Examiner, examine};
use crate::config::{Config, Durability, QueueConfig};
use crate::queue::fsck::Inspection;
use crate::queue::storage::free_space::free_bytes;
use crate::queue::{DestinationStatus, OpenError, QueueStatus};

/// The doctor calls a disk slow if a write takes longer than this. A source waits at most four
/// times as long ([`APPEND_TIMEOUT`]).
const DOCTOR_SLOW_FSYNC: Duration = Duration::from_millis(250);

/// The doctor reports a disk with less free space than this, the smallest `queue.max_bytes`: the
/// queue cannot be configured to use less.
const DOCTOR_LEAST_FREE_BYTES: u64 = 16 << 20;
const DOCTOR_VERIFY_TIMEOUT: Duration = Duration::from_secs(60);

pub(super) const SUBJECT: &str = "queue";

pub(super) async fn look(config: &Config) -> DoctorReport {
    let mut report = DoctorReport::new(SUBJECT);
    let queue = config.queue.clone();
    let stored = match disk::in_time(move || DiskProperties::look(&queue)).await {
        Some(Ok(stored)) => stored,
        failed => {
            match failed {
                Some(Err(error)) => say_unusable(&mut report, &config.queue.path, &error),
                _ => say_silent(&mut report, &config.queue.path),
            }
            report.not_checked("how fast the disk is, its free space, the entries");
            return report;
        }
    };
    say_speed(&mut report, &stored, config);
    let taken = look_inside(&mut report, config).await;
    say_room(&mut report, &stored, taken, &config.queue);
    let aside = config.queue.path.join("quarantine");
    if let Some(counted) = disk::in_time(move || Aside::look(aside)).await {
        counted.say(&mut report);
    }
    report
}

/// Properties of the queue's disk.
struct DiskProperties {
    /// The queue's directory, or its closest existing parent.
    place: PathBuf,
    /// How long it takes to make a frame durable.
    fsync: std::time::Duration,
    free_bytes: Option<u64>,
}

impl DiskProperties {
    fn look(queue: &QueueConfig) -> io::Result<Self> {
        let place = disk::existing(&queue.path)?;
        Ok(Self { fsync: disk::fsync(&place)?, free_bytes: free_bytes(&place), place })
    }
}

fn say_unusable(report: &mut DoctorReport, path: &Path, error: &io::Error) {
    let problem = format!("nothing can be stored in {}: {error}", path.display());
    report.fault(
        problem,
        match error.kind() {
            io::ErrorKind::StorageFull => "make room on that disk",
            io::ErrorKind::NotADirectory => "name another folder in queue.path, or move that file",
            _ => "let your user write there, or name another folder in queue.path",
        },
    );
}

fn say_silent(report: &mut DoctorReport, path: &Path) {
    report.fault(
        format!("the disk of {} does not answer within {DOCTOR_DISK_TIMEOUT:?}", path.display()),
        "check that the disk is connected, or set queue.path to a folder on another one",
    );
}

fn say_speed(report: &mut DoctorReport, stored: &DiskProperties, config: &Config) {
    let DiskProperties { place, fsync, .. } = stored;
    let (place, ms) = (place.display(), fsync.as_secs_f64() * 1000.0);
    let speed = format!("{place} takes {ms:.1} ms to make a frame durable");
    if *fsync <= DOCTOR_SLOW_FSYNC {
        report.ok(speed);
    } else if config.queue.durability == Durability::Entry {
        report.warning(
            format!("{speed}, which is slow"),
            "set queue.durability = \"200ms\", or queue.path to a folder on a faster disk",
        );
    } else {
        report.note(
            format!("{speed}, which is slow"),
            "nothing: queue.durability makes no frame wait for it",
        );
    }
}

/// Checks the entries, or asks the agent that has the queue open. Returns the disk use of the queue
/// in bytes.
async fn look_inside(report: &mut DoctorReport, config: &Config) -> u64 {
    let queue = config.queue.clone();
    match disk::in_time(move || Inspection::begin(&queue)).await {
        Some(Ok(inspection)) => return verify(report, inspection).await,
        Some(Err(error @ OpenError::InUse { .. })) => return ask(report, config, error).await,
        Some(Err(OpenError::Missing { path })) => {
            report.ok(format!("no queue in {path} yet; the agent creates it"));
        }
        Some(Err(error @ OpenError::Storage { .. })) => report.fault(
            error.to_string(),
            "check that your user may read and write everything in that folder",
        ),
        None => say_silent(report, &config.queue.path),
    }
    0
}

async fn verify(report: &mut DoctorReport, inspection: Inspection) -> u64 {
    let taken = inspection.status().disk_bytes;
    let examiner = Examiner::Stopped(Box::new(inspection));
    let runtime = Handle::current();
    // It only reads the disk, so it would block the runtime.
    let examined = spawn_blocking(move || {
        runtime.block_on(async move {
            let mut first = None;
            let verdict = examine(
                &examiner,
                |finding| {
                    first.get_or_insert_with(|| finding.clone());
                },
                |_| {},
            )
            .await?;
            Ok::<_, ToolError>((verdict, first))
        })
    });
    match timeout(DOCTOR_VERIFY_TIMEOUT, examined).await {
        Ok(Ok(Ok((verdict, None)))) => report.ok(verdict.sentence()),
        Ok(Ok(Ok((verdict, Some(first))))) => report.fault(
            format!("it is damaged: {}; {}", verdict.sentence(), first.problem),
            "pitwire queue verify lists all damage, pitwire queue repair what can be repaired",
        ),
        Ok(Ok(Err(ToolError(why)))) => report.fault(why, "check the disk and its cable"),
        Ok(Err(_)) | Err(_) => report.note(
            format!("not all entries could be read within {DOCTOR_VERIFY_TIMEOUT:?}"),
            "pitwire queue verify reads them all",
        ),
    }
    taken
}

async fn ask(report: &mut DoctorReport, config: &Config, error: OpenError) -> u64 {
    let owner = match &error {
        OpenError::InUse { owner, .. } => owner.clone(),
        OpenError::Missing { .. } | OpenError::Storage { .. } => String::new(),
    };
    let status = async { connect(config, error).await?.status().await };
    if let Ok(Ok(status)) = timeout(DOCTOR_DISK_TIMEOUT, status).await {
        say_status(report, &status.queue, &owner);
        return status.queue.disk_bytes;
    }
    let admin = &config.metrics;
    let where_to = if admin.enabled && admin.listen.port() != 0 {
        format!("its agent is not the one at {}", admin.listen)
    } else {
        "metrics.listen does not name its address".into()
    };
    report.warning(
        format!("process {owner} has it open; {where_to}"),
        "run the doctor with the configuration of that process, or stop it",
    );
    0
}

fn say_status(report: &mut DoctorReport, status: &QueueStatus, owner: &str) {
    let entries = count(status.entries, "entry");
    let has = format!("the agent (process {owner}) has it open");
    if let Some(error) = &status.storage_error {
        let in_memory = count(status.buffered, "entry");
        report.fault(
            format!("{has}, and its disk fails: {error}; {in_memory} in memory"),
            "make room, or check that the disk is connected; the agent retries every second",
        );
    } else if let Some(DestinationStatus { name, imbalance, .. }) = status.imbalanced().next() {
        report.fault(
            format!("{has}; the ledger of {name} is off by {imbalance} entries"),
            "report it with a bundle (--bundle)",
        );
    } else {
        report.ok(format!("{has}; {entries} queued, its ledger balances"));
    }
}

fn say_room(report: &mut DoctorReport, stored: &DiskProperties, taken: u64, queue: &QueueConfig) {
    let Some(free) = stored.free_bytes else {
        return report
            .note("the system does not report the free space of its disk", "check it yourself");
    };
    let (place, most) = (stored.place.display(), queue.max_bytes);
    let (said, wanted) = (disk::size(free), disk::size(most.saturating_sub(taken)));
    if free < DOCTOR_LEAST_FREE_BYTES {
        report.fault(format!("the disk of {place} has {said} left"), "make room on it");
    } else if free.saturating_add(taken) < most {
        report.warning(
            format!("the disk of {place} has {said} left, but the queue may grow by {wanted}"),
            format!("make room, or set queue.max_bytes = \"{}MiB\"", (free + taken) >> 20),
        );
    } else {
        report.ok(format!("the disk of {place} has {said} left; the queue may grow by {wanted}"));
    }
}

/// The contents of `quarantine/`: dead letters and damaged segments.
struct Aside {
    folder: PathBuf,
    refused: u64,
    damaged: u64,
}

impl Aside {
    fn look(folder: PathBuf) -> Self {
        let refused = File::open(folder.join("dead-letters.ndjson"))
            .map_or(0, |file| BufReader::new(file).split(b'\n').map_while(Result::ok).count());
        let damaged = fs::read_dir(&folder)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|item| item.file_name().to_string_lossy().starts_with("bad-"))
            .count();
        Self { folder, refused: refused as u64, damaged: damaged as u64 }
    }

    fn say(&self, report: &mut DoctorReport) {
        let Self { folder, refused, damaged } = self;
        let folder = folder.display();
        if *refused > 0 {
            report.warning(
                format!("{} that the server refused: {folder}", count(*refused, "entry")),
                "once the server accepts them, run pitwire queue requeue --apply; otherwise move \
                 dead-letters.ndjson away",
            );
        }
        if *damaged > 0 {
            report.warning(
                format!("{} that could not be read: {folder}", count(*damaged, "segment")),
                "the readable entries are queued; check the disk, then delete the folders bad-…",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::finding::{DoctorFinding, FindingSeverity};
    use super::*;

    fn found(say: impl FnOnce(&mut DoctorReport)) -> (FindingSeverity, String) {
        let mut report = DoctorReport::new(SUBJECT);
        say(&mut report);
        let DoctorFinding { severity, summary, .. } = report.findings.remove(0);
        (severity, summary)
    }

    #[test]
    fn a_slow_disk_is_a_warning_only_with_durability_entry() {
        for (ms, durability, severity) in [
            (250, Durability::Entry, FindingSeverity::Ok),
            (251, Durability::Entry, FindingSeverity::Warning),
            (251, Durability::Os, FindingSeverity::Note),
            (2000, Durability::Within(Duration::from_millis(200)), FindingSeverity::Note),
        ] {
            let stored = DiskProperties {
                place: "/queue".into(),
                fsync: Duration::from_millis(ms),
                free_bytes: None,
            };
            let mut config = Config::default();
            config.queue.durability = durability;
            let (found, summary) = found(|report| say_speed(report, &stored, &config));
            assert_eq!(found, severity, "{summary}");
        }
    }

    #[test]
    fn a_disk_error_or_an_unbalanced_ledger_is_a_fault() {
        let status = QueueStatus { entries: 7, buffered: 3, ..QueueStatus::default() };
        let fails = QueueStatus { storage_error: Some("no room".into()), ..status.clone() };
        let off = DestinationStatus { name: "b".into(), imbalance: -2, ..Default::default() };
        let is_off = QueueStatus { destinations: vec![off], ..status.clone() };
        for (status, severity, said) in [
            (status, FindingSeverity::Ok, "; 7 entries queued, its ledger balances"),
            (fails, FindingSeverity::Fault, ", and its disk fails: no room; 3 entries in memory"),
            (is_off, FindingSeverity::Fault, "; the ledger of b is off by -2 entries"),
        ] {
            let said = format!("the agent (process 5) has it open{said}");
            assert_eq!(found(|report| say_status(report, &status, "5")), (severity, said));
        }
    }
}
