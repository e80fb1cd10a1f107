//! The queue: its folder, its disk, what is in it, and who has it open.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::{Report, disk};
use crate::cli::queue::access::{Access, Cannot, Examiner, agent};
use crate::cli::queue::{count, verify};
use crate::config::{
    Config, DOCTOR_DISK_TIMEOUT, DOCTOR_LEAST_FREE_BYTES, DOCTOR_SLOW_FSYNC, DOCTOR_VERIFY_TIMEOUT,
    Durability, QueueConfig,
};
use crate::queue::OpenError;
use crate::queue::inspect::Inspection;
use crate::tools::Status;

pub(super) const SUBJECT: &str = "queue";

pub(super) async fn look(config: &Config) -> Report {
    let mut report = Report::new(SUBJECT);
    let queue = config.queue.clone();
    let stored = timeout(DOCTOR_DISK_TIMEOUT, spawn_blocking(move || Stored::look(&queue))).await;
    let stored = match stored {
        Ok(Ok(Ok(stored))) => stored,
        Ok(Ok(Err(error))) => {
            say_unusable(&mut report, &config.queue.path, &error);
            report.not_looked_at("how fast the disk is, how much room it has, what is queued");
            return report;
        }
        Ok(Err(_)) | Err(_) => {
            let path = config.queue.path.display();
            let limit = DOCTOR_DISK_TIMEOUT;
            report.fault(
                format!("the disk of {path} does not answer in {limit:?}"),
                "see that the disk is there, or name a folder on another one in queue.path",
            );
            report.not_looked_at("how fast the disk is, how much room it has, what is queued");
            return report;
        }
    };
    say_speed(&mut report, &stored, config);
    let taken = look_inside(&mut report, config).await;
    say_room(&mut report, &stored, taken, &config.queue);
    say_aside(&mut report, &config.queue.path);
    report
}

/// What the disk says.
struct Stored {
    /// The queue's folder, or the one in which it would be made.
    place: PathBuf,
    /// To make a frame durable.
    fsync: std::time::Duration,
    free_bytes: Option<u64>,
}

impl Stored {
    fn look(queue: &QueueConfig) -> io::Result<Self> {
        let place = disk::existing(&queue.path)?;
        Ok(Self { fsync: disk::fsync(&place)?, free_bytes: disk::free_bytes(&place), place })
    }
}

fn say_unusable(report: &mut Report, path: &Path, error: &io::Error) {
    let what = format!("nothing can be stored in {}: {error}", path.display());
    report.fault(
        what,
        match error.kind() {
            io::ErrorKind::StorageFull => "make room on that disk",
            io::ErrorKind::NotADirectory => "name another folder in queue.path, or move that file",
            _ => "let your user write there, or name another folder in queue.path",
        },
    );
}

fn say_speed(report: &mut Report, stored: &Stored, config: &Config) {
    let Stored { place, fsync, .. } = stored;
    let (place, ms) = (place.display(), fsync.as_secs_f64() * 1000.0);
    let what = format!("{place} takes {ms:.1} ms to store a frame for good");
    if *fsync <= DOCTOR_SLOW_FSYNC {
        report.ok(what);
    } else if config.queue.durability == Durability::Entry {
        report.warning(
            format!("{what}, which is slow"),
            "set queue.durability = \"200ms\", or name a folder on a faster disk in queue.path",
        );
    } else {
        report.note(format!("{what}, which is slow"), "nothing, as queue.durability says so");
    }
}

/// Checks the entries, or asks the agent that has them. Returns the bytes that the queue takes.
async fn look_inside(report: &mut Report, config: &Config) -> u64 {
    let (queue, path) = (config.queue.clone(), config.queue.path.display());
    let begun = timeout(DOCTOR_DISK_TIMEOUT, spawn_blocking(move || Inspection::begin(&queue)));
    match begun.await {
        Ok(Ok(Ok(inspection))) => verify(report, inspection, config).await,
        Ok(Ok(Err(OpenError::Missing { .. }))) => {
            report.ok(format!("there is none in {path} yet; the agent makes it"));
            0
        }
        Ok(Ok(Err(error @ OpenError::InUse { .. }))) => ask(report, config, error).await,
        Ok(Ok(Err(error))) => {
            report.fault(
                error.to_string(),
                "see that your user may read and write all that is in that folder",
            );
            0
        }
        Ok(Err(_)) | Err(_) => {
            report.fault(
                format!("{path} cannot be read in {DOCTOR_DISK_TIMEOUT:?}"),
                "see that its disk is well",
            );
            0
        }
    }
}

async fn verify(report: &mut Report, inspection: Inspection, config: &Config) -> u64 {
    let taken = inspection.disk_bytes();
    let examiner = Examiner::Stopped(Box::new(inspection), Box::new(config.clone()));
    let runtime = Handle::current();
    // It reads the disk all the time, and waits for nothing else.
    let examined = spawn_blocking(move || {
        runtime.block_on(async move {
            let mut first = None;
            let tell = |finding: &crate::queue::inspect::Finding| {
                first.get_or_insert_with(|| finding.clone());
            };
            let verdict = verify::examine(&examiner, tell).await?;
            Ok::<_, Cannot>((verdict, first))
        })
    });
    match timeout(DOCTOR_VERIFY_TIMEOUT, examined).await {
        Ok(Ok(Ok((verdict, None)))) => report.ok(verdict.sentence()),
        Ok(Ok(Ok((verdict, Some(first))))) => report.fault(
            format!("it is damaged: {}; {}", verdict.sentence(), first.what),
            "pitwire queue verify tells all of it, pitwire queue repair what can be done",
        ),
        Ok(Ok(Err(Cannot(why)))) => report.fault(why, "look at the disk, and at its cable"),
        Ok(Err(_)) | Err(_) => report.note(
            format!("not all of its entries were read in {DOCTOR_VERIFY_TIMEOUT:?}"),
            "pitwire queue verify reads them all",
        ),
    }
    taken
}

async fn ask(report: &mut Report, config: &Config, error: OpenError) -> u64 {
    let owner = match &error {
        OpenError::InUse { owner, .. } => owner.clone(),
        OpenError::Missing { .. } | OpenError::Storage { .. } => String::new(),
    };
    let status = async { Access::Agent(agent(config, error).await?).status().await };
    if let Ok(Ok(status)) = timeout(DOCTOR_DISK_TIMEOUT, status).await {
        say_status(report, &status, &owner);
        return status.disk_bytes;
    }
    let admin = &config.metrics;
    let where_to = match admin.enabled && admin.listen.port() != 0 {
        true => format!("its agent is not the one at {}", admin.listen),
        false => "metrics.listen does not say where to ask it".into(),
    };
    report.warning(
        format!("process {owner} has it open; {where_to}"),
        "ask again with the configuration that this process has, or stop it",
    );
    0
}

fn say_status(report: &mut Report, status: &Status, owner: &str) {
    let entries = count(status.entries, "entry");
    let has = format!("the agent (process {owner}) has it open");
    if let Some(error) = &status.storage_error {
        let in_memory = count(status.buffered, "entry");
        report.fault(
            format!("{has}, and its disk fails: {error}; {in_memory} in memory"),
            "make room, or see that the disk is there; the agent tries it every second",
        );
    } else if status.imbalance != 0 {
        report.fault(
            format!("{has}; its ledger is out by {} entries", status.imbalance),
            "report it, with a bundle (--bundle)",
        );
    } else {
        report.ok(format!("{has}; {entries} wait, its ledger balances"));
    }
}

fn say_room(report: &mut Report, stored: &Stored, taken: u64, queue: &QueueConfig) {
    let Some(free) = stored.free_bytes else {
        return report.note("the system does not say how much room its disk has", "look yourself");
    };
    let (place, most) = (stored.place.display(), queue.max_bytes);
    let (said, wanted) = (disk::size(free), disk::size(most.saturating_sub(taken)));
    if free < DOCTOR_LEAST_FREE_BYTES {
        report.fault(format!("the disk of {place} has {said} left"), "make room on it");
    } else if free.saturating_add(taken) < most {
        report.warning(
            format!("the disk of {place} has {said} left, and the queue may take {wanted} more"),
            format!("make room, or set queue.max_bytes = \"{}MiB\"", (free + taken) >> 20),
        );
    } else {
        report.ok(format!("the disk of {place} has {said} left; the queue may take {wanted} more"));
    }
}

fn say_aside(report: &mut Report, queue: &Path) {
    let aside = queue.join("quarantine");
    let refused = File::open(aside.join("refused.ndjson"))
        .map_or(0, |file| BufReader::new(file).split(b'\n').map_while(Result::ok).count() as u64);
    if refused > 0 {
        report.warning(
            format!("{} that the server refused: {}", count(refused, "entry"), aside.display()),
            "when the server takes them, pitwire queue requeue --apply; else move refused.ndjson away",
        );
    }
    let names = fs::read_dir(&aside).into_iter().flatten().flatten().map(|item| item.file_name());
    let damaged = names.filter(|name| name.to_string_lossy().starts_with("bad-")).count() as u64;
    if damaged > 0 {
        report.warning(
            format!("{} that could not be read: {}", count(damaged, "stretch"), aside.display()),
            "what could be read of it is queued; look at the disk, and delete the folders bad-…",
        );
    }
}
