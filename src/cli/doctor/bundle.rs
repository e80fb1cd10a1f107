//! The zip for a support request: the findings and what helps to understand them, without secrets
//! and session ids.

use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tokio::time::timeout;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::{DoctorFinding, FindingSeverity, disk, queue, to_json, to_text};
use crate::cli::doctor::{DOCTOR_DISK_TIMEOUT, DOCTOR_LOCAL_TIMEOUT, MAX_DOCTOR_ANSWER_BYTES};
use crate::cli::log::LOG_FILE_BYTES;
use crate::cli::private_file;
use crate::cli::queue::access::{ToolError, on_this_pc};
use crate::cli::queue::{QueueTarget, status};
use crate::cli::settings::Settings;
use crate::config::{Config, Loaded, Problems};
use crate::net::http_client::{Bounds, Bytes, Method, request};
use crate::remote_text::Secrets;

/// The path of a bundle to be written.
#[derive(Debug)]
pub(super) struct Bundle {
    path: PathBuf,
}

impl Bundle {
    /// Checks that nothing exists at `path`, without writing.
    pub(super) fn at(path: &Path) -> Result<Self, String> {
        match std::fs::symlink_metadata(path) {
            Ok(_) => Err(taken(path)),
            Err(_) => Ok(Self { path: path.into() }),
        }
    }

    /// Collects the contents, writes the zip and returns its path.
    pub(super) async fn write(
        self,
        settings: &Settings,
        loaded: &Result<Loaded, Problems>,
        findings: &[DoctorFinding],
        secrets: &Secrets,
    ) -> Result<String, String> {
        let mut files = vec![
            ("findings.txt", to_text(findings)),
            ("findings.json", to_json(findings)),
            ("about.txt", about()),
        ];
        match loaded {
            Ok(loaded) => {
                files.push(("pitwire.toml", loaded.to_toml()));
                files.push(("queue-status.txt", queue_status(settings, findings).await));
                files.extend(of_the_agent(&loaded.config).await);
            }
            Err(problems) => files.push(("pitwire.toml", problems.to_string())),
        }
        let files: Vec<_> =
            files.into_iter().map(|(name, text)| (name, secrets.redact(&text))).collect();
        let shown = self.path.display();
        let zip = zipped(&files).map_err(|error| format!("--bundle {shown}: {error}"))?;
        let created = private_file::options().write(true).create_new(true).open(&self.path);
        let stored = created.and_then(|mut file| {
            file.write_all(&zip)?;
            file.sync_all()
        });
        stored.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => taken(&self.path),
            _ => format!("--bundle {shown}: {error}; choose a file that your user may write"),
        })?;
        Ok(shown.to_string())
    }
}

fn taken(path: &Path) -> String {
    format!("--bundle {}: the file exists already; choose another name", path.display())
}

fn zipped(files: &[(&str, String)]) -> zip::result::ZipResult<Vec<u8>> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, text) in files {
        zip.start_file(*name, SimpleFileOptions::default())?;
        zip.write_all(text.as_bytes())?;
    }
    Ok(zip.finish()?.into_inner())
}

/// The metrics and status of the running agent, and its log.
async fn of_the_agent(config: &Config) -> Vec<(&'static str, String)> {
    let mut files = Vec::new();
    let admin = &config.metrics;
    for (name, path) in [("metrics.txt", "/metrics"), ("status.json", "/status")] {
        let text = if admin.enabled && admin.listen.port() != 0 {
            answer(admin.listen, path).await
        } else {
            "metrics.listen does not name the address of an agent".into()
        };
        files.push((name, text));
    }
    if let Some(path) = config.log.file.clone() {
        let old = path.with_added_extension("old");
        for (name, path) in [("pitwire.log", path), ("pitwire.log.old", old)] {
            let shown = path.display().to_string();
            let text = disk::in_time(move || end_of(&path)).await;
            let text = match text {
                Some(Ok(text)) => text,
                Some(Err(error)) => format!("{shown}: {error}"),
                None => "its disk does not answer".into(),
            };
            files.push((name, text));
        }
    }
    files
}

/// The output of `pitwire queue status`. A queue with a fault is not opened: that would start a
/// repair.
async fn queue_status(settings: &Settings, findings: &[DoctorFinding]) -> String {
    let of_queue = findings.iter().filter(|finding| finding.subject == queue::SUBJECT);
    if of_queue.map(|finding| finding.severity).max() == Some(FindingSeverity::Fault) {
        return "not read: the queue has a fault, see findings.txt\n".into();
    }
    // Log lines must not appear between the findings.
    let set = settings.set.iter().cloned().chain(["log.level=off".to_owned()]).collect();
    let (config, queue) = (settings.config.clone(), settings.queue.clone());
    let which = QueueTarget { config, queue, set, admin: None };
    let asked = async {
        let access = which.open().await?;
        let status = access.status().await;
        access.close().await;
        status
    };
    match timeout(DOCTOR_DISK_TIMEOUT, asked).await {
        Ok(Ok(status)) => {
            let lines = status::lines(&status).into_iter();
            lines.map(|(name, value)| format!("{name:20}{value}\n")).collect()
        }
        Ok(Err(ToolError(why))) => why,
        Err(_) => format!("no answer in {DOCTOR_DISK_TIMEOUT:?}"),
    }
}

async fn answer(listen: SocketAddr, path: &str) -> String {
    let bounds = Bounds { time: DOCTOR_LOCAL_TIMEOUT, answer_bytes: MAX_DOCTOR_ANSWER_BYTES };
    let address = on_this_pc(listen).to_string();
    match request(&address, Method::GET, path, Bytes::new(), bounds).await {
        Ok((_, body)) => String::from_utf8_lossy(&body).into_owned(),
        Err(error) => format!("http://{address}{path} {error}"),
    }
}

/// The newest lines of a log, at most the size limit of a log file.
fn end_of(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let start = file.metadata()?.len().saturating_sub(LOG_FILE_BYTES);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(LOG_FILE_BYTES).read_to_end(&mut bytes)?;
    // Skip the partial first line: it may contain part of a secret that would not be redacted.
    let cut = if start == 0 { 0 } else { bytes.iter().position(|b| *b == b'\n').unwrap_or(0) };
    Ok(String::from_utf8_lossy(&bytes[cut..]).into_owned())
}

/// Describes the program and the system.
fn about() -> String {
    format!("pitwire {}\nsystem {}\n", env!("BUILD_VERSION"), system())
}

#[cfg(windows)]
fn system() -> String {
    let key = r"SOFTWARE\Microsoft\Windows NT\CurrentVersion";
    let Ok(key) = windows_registry::LOCAL_MACHINE.open(key) else { return String::new() };
    let words = ["ProductName", "DisplayVersion", "CurrentBuild"]
        .into_iter()
        .filter_map(|name| key.get_string(name).ok());
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(not(windows))]
fn system() -> String {
    let [release, kernel] = ["/etc/os-release", "/proc/sys/kernel/osrelease"]
        .map(|path| std::fs::read_to_string(path).unwrap_or_default());
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let name = name.unwrap_or("unknown").trim_matches('"');
    format!("{name}, kernel {}", kernel.trim())
}
