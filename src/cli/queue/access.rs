//! Access to the queue that a tool works on: opened by this process, or through its agent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use super::QueueTarget;
use crate::cli::{log, set_all};
use crate::config::{self, Config, LogConfig, Overrides};
use crate::entry::Seq;
use crate::platform::clock;
use crate::queue::fsck::{Finding, Inspection, Repaired, SegmentReport};
use crate::queue::operator::PurgeStep;
use crate::queue::{
    self, Closed, Destinations, Limits, OpenError, PAGE_ENTRIES, QueueError, Reader, Writer,
};
use crate::tools::{Client, ClientError, Line, Moved, Page, Refusals, Status, Tools, Trace};

/// Why a tool cannot do its work, with advice for the user.
#[derive(Debug)]
pub(in crate::cli) struct ToolError(pub(in crate::cli) String);

impl From<QueueError> for ToolError {
    fn from(error: QueueError) -> Self {
        Self(format!("{error}; check that the disk is connected and has room"))
    }
}

impl From<ClientError> for ToolError {
    fn from(error: ClientError) -> Self {
        Self(error.to_string())
    }
}

/// An open queue.
pub(in crate::cli) enum Access {
    Own(Own),
    Agent(Client),
}

/// A queue that this process has open.
pub(in crate::cli) struct Own {
    tools: Tools,
    /// The queue stays open as long as one of its ends exists.
    _readers: Vec<Reader>,
    closed: Closed,
}

/// A queue whose whole contents are read for verification, without changing it.
pub(in crate::cli) enum Examiner {
    Stopped(Box<Inspection>, Box<Config>),
    Agent(Client),
}

impl QueueTarget {
    /// Opens the queue without enforcing limits, or finds the agent that has it open.
    pub(in crate::cli) async fn open(&self) -> Result<Access, ToolError> {
        let open =
            |config: &Config| queue::open_existing(&config.queue, &config.stint, clock::now());
        self.open_by(open).await
    }

    /// Opens the queue to append to it, enforcing its limits; creates it if there is none.
    pub(super) async fn open_to_append(&self) -> Result<Access, ToolError> {
        let open = |config: &Config| {
            let limits = Limits::new(&config.queue, &config.stint);
            // The entries of destinations that are not configured here must not be discarded.
            queue::open(&config.queue, limits, Destinations::Stored, clock::now(), |_| {})
        };
        self.open_by(open).await
    }

    async fn open_by(
        &self,
        open: impl Fn(&Config) -> Result<(Writer, Vec<Reader>, Closed), OpenError>,
    ) -> Result<Access, ToolError> {
        if let Some(admin) = &self.admin {
            return Ok(Access::Agent(Client::new(admin)?));
        }
        let config = self.configure()?;
        match open(&config) {
            Ok((writer, _readers, closed)) => {
                let tools = Tools::as_it_is(config.queue, writer);
                Ok(Access::Own(Own { tools, _readers, closed }))
            }
            Err(error) => Ok(Access::Agent(agent(&config, error).await?)),
        }
    }

    /// Inspects the queue without opening it, or finds the agent that has it open.
    pub(super) async fn examiner(&self) -> Result<Examiner, ToolError> {
        if let Some(admin) = &self.admin {
            return Ok(Examiner::Agent(Client::new(admin)?));
        }
        let config = self.configure()?;
        match Inspection::begin(&config.queue) {
            Ok(inspection) => Ok(Examiner::Stopped(Box::new(inspection), Box::new(config))),
            Err(error) => Ok(Examiner::Agent(agent(&config, error).await?)),
        }
    }

    fn configure(&self) -> Result<Config, ToolError> {
        let mut overrides = Overrides::default();
        if let Some(path) = &self.queue {
            overrides.set("queue.path", path, "--queue");
        }
        set_all(&mut overrides, &self.set).map_err(ToolError)?;
        let environment = config::process_environment();
        let file = config::file(self.config.clone());
        let loaded = config::load(file.as_deref(), environment, &overrides)
            .map_err(|problems| ToolError(problems.to_string()))?;
        // The log file belongs to the agent.
        log::start(&LogConfig { file: None, ..loaded.config.log.clone() });
        Ok(loaded.config)
    }
}

/// Finds the agent that has the queue open, if that is why opening it failed.
pub(in crate::cli) async fn agent(config: &Config, error: OpenError) -> Result<Client, ToolError> {
    match &error {
        OpenError::InUse { .. } => {}
        OpenError::Missing { .. } => {
            return Err(ToolError(format!("{error}; name its folder with --queue")));
        }
        OpenError::Storage { .. } => {
            return Err(ToolError(format!("{error}; check the folder and its disk")));
        }
    }
    let metrics = &config.metrics;
    if !metrics.enabled || metrics.listen.port() == 0 {
        return Err(ToolError(format!(
            "{error}, and the configuration does not have its admin address (metrics.listen); \
             give it with --admin, or stop that process"
        )));
    }
    let client = Client::new(&on_this_pc(metrics.listen).to_string())?;
    let status: Status = client
        .get("/queue/status")
        .await
        .map_err(|refused| ToolError(format!("{error}, but {refused}; or use --admin")))?;
    if !is_same(Path::new(&status.path), &config.queue.path) {
        return Err(ToolError(format!(
            "{error}, but the agent at {} has the queue {}; name the right one with --admin",
            metrics.listen, status.path
        )));
    }
    Ok(client)
}

/// The address to connect to for a listener at `listen`: loopback if it listens on all addresses.
pub(in crate::cli) fn on_this_pc(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

pub(in crate::cli) fn is_same(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

impl Access {
    pub(in crate::cli) async fn status(&self) -> Result<Status, ToolError> {
        match self {
            Self::Own(own) => Ok(own.tools.status()),
            Self::Agent(agent) => Ok(agent.get("/queue/status").await?),
        }
    }

    async fn page(&self, from: Seq, entries: usize, whole: bool) -> Result<Page, ToolError> {
        match self {
            Self::Own(own) => Ok(own.tools.page(from, entries, whole).await?),
            Self::Agent(agent) => {
                let whole = u8::from(whole);
                let path = format!("/queue/entries?from={from}&entries={entries}&whole={whole}");
                Ok(agent.get(&path).await?)
            }
        }
    }

    pub(super) async fn trace(&self, seq: Seq) -> Result<Trace, ToolError> {
        match self {
            Self::Own(own) => Ok(own.tools.trace(seq).await?),
            Self::Agent(agent) => Ok(agent.get(&format!("/queue/trace?seq={seq}")).await?),
        }
    }

    pub(super) async fn mend(&self, from: Seq) -> Result<Option<Repaired>, ToolError> {
        match self {
            Self::Own(own) => Ok(own.tools.operator().repair(from).await?),
            Self::Agent(agent) => Ok(agent.post(&format!("/queue/mend?from={from}"), "").await?),
        }
    }

    pub(super) async fn drop_between(&self, first: Seq, last: Seq) -> Result<PurgeStep, ToolError> {
        match self {
            Self::Own(own) => Ok(own.tools.operator().purge(first, last).await?),
            Self::Agent(agent) => {
                let path = format!("/queue/drop?first={first}&last={last}");
                Ok(agent.post(&path, "").await?)
            }
        }
    }

    pub(super) async fn refused(&self) -> Result<Refusals, ToolError> {
        match self {
            Self::Own(own) => Ok(own.tools.refused().await?),
            Self::Agent(agent) => Ok(agent.get("/queue/dead-letters").await?),
        }
    }

    pub(super) async fn requeue(&self) -> Result<Moved, ToolError> {
        match self {
            Self::Own(own) => Ok(own.tools.requeue().await?),
            Self::Agent(agent) => Ok(agent.post("/queue/requeue", "").await?),
        }
    }

    /// Appends the entries of lines that the caller has checked.
    pub(super) async fn import(&self, text: &[u8]) -> Result<Moved, ToolError> {
        match self {
            Self::Own(own) => {
                let now = clock::now();
                let lines = text.split(|&byte| byte == b'\n');
                let lines = lines.filter(|line| !line.trim_ascii().is_empty());
                let lines: Result<Vec<_>, _> = lines.map(|line| Line::parse(line, now)).collect();
                let lines = lines.map_err(|refused| ToolError(refused.to_string()))?;
                Ok(own.tools.append(&lines).await?)
            }
            Self::Agent(agent) => Ok(agent.post("/queue/import", text.to_vec()).await?),
        }
    }

    /// Closes the queue. Returns when all changes are on the disk and other processes can open it.
    pub(in crate::cli) async fn close(self) {
        if let Self::Own(Own { tools, _readers, closed }) = self {
            drop((tools, _readers));
            closed.wait().await;
        }
    }
}

impl Examiner {
    /// The oldest sequence number and the one after the newest, as far as they are known without
    /// reading the entries.
    pub(super) async fn ends(&self) -> Result<(Seq, Seq), ToolError> {
        match self {
            Self::Stopped(inspection, _) => Ok(inspection.ends()),
            Self::Agent(agent) => {
                let status: Status = agent.get("/queue/status").await?;
                Ok((status.queue.head, status.queue.tail))
            }
        }
    }

    /// Reads a whole segment: the one that holds `from`, or the next one.
    pub(super) async fn examine(&self, from: Seq) -> Result<Option<SegmentReport>, ToolError> {
        match self {
            Self::Stopped(inspection, _) => inspection.examine(from).map_err(|error| {
                ToolError(format!("cannot read the queue: {error}; check its disk"))
            }),
            Self::Agent(agent) => Ok(agent.get(&format!("/queue/examination?from={from}")).await?),
        }
    }

    /// Entries already lost to damage, which the ledger counts as dropped (corrupt).
    pub(super) async fn lost_before(&self) -> Result<u64, ToolError> {
        match self {
            Self::Stopped(inspection, _) => Ok(inspection.lost_before()),
            Self::Agent(agent) => Ok(agent.get::<Status>("/queue/status").await?.queue.corrupt()),
        }
    }

    /// Findings that are not about single entries.
    pub(super) async fn others(&self) -> Result<Vec<Finding>, ToolError> {
        let mut findings = Vec::new();
        let (imbalances, disk_bytes, max_bytes) = match self {
            Self::Stopped(inspection, config) => {
                findings.extend_from_slice(inspection.findings());
                (inspection.imbalances(), inspection.disk_bytes(), config.queue.max_bytes)
            }
            Self::Agent(agent) => {
                let Status { queue, .. } = agent.get("/queue/status").await?;
                if let Some(error) = &queue.storage_error {
                    let what = format!("the queue's disk fails: {error}");
                    findings.push(Finding::new(&what, "the agent retries every second"));
                }
                let named = queue.imbalanced().map(|one| (one.name.clone(), one.imbalance));
                (named.collect(), queue.disk_bytes, queue.max_bytes)
            }
        };
        for (destination, imbalance) in imbalances {
            let what = format!("the ledger of {destination} is off by {imbalance} entries");
            findings.push(Finding::new(&what, "it cannot be repaired; please report it"));
        }
        if disk_bytes > max_bytes {
            let what = format!(
                "the queue takes {disk_bytes} bytes on the disk, above the limit of {max_bytes} \
                 (queue.max_bytes)"
            );
            findings.push(Finding::new(&what, "the next start frees space"));
        }
        Ok(findings)
    }
}

/// Reads a range of entries page by page.
pub(super) struct Walk<'a> {
    access: &'a Access,
    first: Seq,
    next: Option<Seq>,
    last: Seq,
    left: u64,
    whole: bool,
}

impl<'a> Walk<'a> {
    /// Starts at `first` or the oldest entry, and ends at `last` or the entry that is newest now,
    /// after at most `most` entries. `whole` includes their JSON.
    pub(super) async fn start(
        access: &'a Access,
        first: Option<Seq>,
        last: Option<Seq>,
        most: u64,
        whole: bool,
    ) -> Result<Self, ToolError> {
        let status = access.status().await?;
        let newest = Seq(status.queue.tail.0.saturating_sub(1));
        let last = last.map_or(newest, |last| last.min(newest));
        let first = first.map_or(status.queue.head, |first| first.max(status.queue.head));
        Ok(Self { access, first, next: Some(first), last, left: most, whole })
    }

    /// The number of sequence numbers that are done, and in total.
    pub(super) fn progress(&self) -> (u64, u64) {
        let all = (self.last.0 + 1).saturating_sub(self.first.0);
        (self.rest().map_or(all, |next| next.0.saturating_sub(self.first.0)), all)
    }

    /// Reads the next page; `None` if there are no more entries.
    pub(super) async fn page(&mut self) -> Result<Option<Page>, ToolError> {
        let Some(from) = self.next.filter(|from| *from <= self.last && self.left > 0) else {
            return Ok(None);
        };
        let entries = self.left.min(PAGE_ENTRIES as u64) as usize;
        let mut page = self.access.page(from, entries, self.whole).await?;
        self.next = page.next;
        page.entries.retain(|entry| entry.seq <= self.last);
        page.unreadable.retain(|(seq, _)| *seq <= self.last);
        let count = page.entries.len() + page.unreadable.len();
        self.left = self.left.saturating_sub(count as u64);
        Ok((count > 0).then_some(page))
    }

    /// Where the rest of the range begins; `None` at its end.
    pub(super) fn rest(&self) -> Option<Seq> {
        self.next.filter(|next| *next <= self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_listen_address_is_reached_on_loopback() {
        for (listen, asked) in [
            ("0.0.0.0:9184", "127.0.0.1:9184"),
            ("[::]:9184", "[::1]:9184"),
            ("127.0.0.1:80", "127.0.0.1:80"),
        ] {
            assert_eq!(on_this_pc(listen.parse().unwrap()), asked.parse().unwrap());
        }
    }
}
