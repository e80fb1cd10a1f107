//! Finds the queue that a tool works on: opens it, or connects to the agent that has it open.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use super::QueueTarget;
use super::verify::Examiner;
use crate::cli::{log, set_all};
use crate::config::{self, Config, ConfigFile, LogConfig, Overrides};
use crate::platform::clock::Clock;
use crate::queue::fsck::Inspection;
use crate::queue::{self, Closed, Destinations, Limits, OpenError, Reader, Writer};
use crate::tools::{
    AdminClient, OperatorHandler, OperatorRequest, OperatorResponse, OperatorStatus, REQUESTS,
};

/// Why a tool cannot do its work, with advice for the user.
#[derive(Debug)]
pub(in crate::cli) struct ToolError(pub(in crate::cli) String);

impl<E: Error> From<E> for ToolError {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// A connection to a queue: to one that this process has open, or to the agent that has it open.
pub(in crate::cli) enum QueueConnection {
    InProcess {
        tools: OperatorHandler,
        /// The queue stays open as long as one of its ends exists.
        readers: Vec<Reader>,
        closed: Closed,
    },
    Agent(AdminClient),
}

impl QueueConnection {
    /// Sends a request, and returns the payload of its response.
    pub(in crate::cli) async fn send<T: TryFrom<OperatorResponse>>(
        &self,
        request: OperatorRequest,
    ) -> Result<T, ToolError> {
        let response = match self {
            Self::InProcess { tools, .. } => tools.handle(request).await?,
            Self::Agent(client) => client.post(REQUESTS, serde_json::to_vec(&request)?).await?,
        };
        T::try_from(response).map_err(|_| {
            ToolError("the agent is of another version; use its own pitwire command".into())
        })
    }

    pub(in crate::cli) async fn status(&self) -> Result<Box<OperatorStatus>, ToolError> {
        self.send(OperatorRequest::Status).await
    }

    /// Closes the queue. Returns when all changes are on the disk and other processes can open it.
    pub(in crate::cli) async fn close(self) {
        if let Self::InProcess { tools, readers, closed } = self {
            drop((tools, readers));
            closed.wait().await;
        }
    }
}

impl QueueTarget {
    /// Opens the queue without enforcing limits, or finds the agent that has it open.
    pub(in crate::cli) async fn open(&self) -> Result<QueueConnection, ToolError> {
        self.open_by(|config| queue::open_existing(&config.queue, &config.stint, Clock::system()))
            .await
    }

    /// Opens the queue to append to it, enforcing its limits; creates a missing one.
    pub(super) async fn open_to_append(&self) -> Result<QueueConnection, ToolError> {
        self.open_by(|config| {
            let limits = Limits::new(&config.queue, &config.stint);
            // The entries of destinations that are not configured here must not be discarded.
            queue::open(&config.queue, limits, Destinations::Stored, Clock::system(), |_| {})
        })
        .await
    }

    async fn open_by(
        &self,
        open: impl Fn(&Config) -> Result<(Writer, Vec<Reader>, Closed), OpenError>,
    ) -> Result<QueueConnection, ToolError> {
        if let Some(admin) = &self.admin {
            return Ok(QueueConnection::Agent(AdminClient::new(admin)?));
        }
        let config = self.configure()?;
        match open(&config) {
            Ok((writer, readers, closed)) => {
                let tools = OperatorHandler::with_configured_limits(config.queue, writer);
                Ok(QueueConnection::InProcess { tools, readers, closed })
            }
            Err(error) => connect(&config, error).await,
        }
    }

    /// Inspects the queue without opening it, or finds the agent that has it open.
    pub(super) async fn examiner(&self) -> Result<Examiner, ToolError> {
        if let Some(admin) = &self.admin {
            return Ok(Examiner::Running(QueueConnection::Agent(AdminClient::new(admin)?)));
        }
        let config = self.configure()?;
        match Inspection::begin(&config.queue) {
            Ok(inspection) => Ok(Examiner::Stopped(Box::new(inspection))),
            Err(error) => Ok(Examiner::Running(connect(&config, error).await?)),
        }
    }

    fn configure(&self) -> Result<Config, ToolError> {
        let mut overrides = Overrides::default();
        if let Some(path) = &self.queue {
            overrides.set("queue.path", path, "--queue");
        }
        set_all(&mut overrides, &self.set).map_err(ToolError)?;
        let environment = config::process_environment();
        let file = ConfigFile::find(self.config.clone());
        let loaded = config::load(file.path(), environment, &overrides)
            .map_err(|problems| ToolError(problems.to_string()))?;
        // The log file belongs to the agent.
        log::start(&LogConfig { file: None, ..loaded.config.log.clone() });
        Ok(loaded.config)
    }
}

/// Connects to the agent that has the queue open, if that is why opening it failed.
pub(in crate::cli) async fn connect(
    config: &Config,
    error: OpenError,
) -> Result<QueueConnection, ToolError> {
    match &error {
        OpenError::InUse { .. } => {}
        OpenError::Missing { .. } => {
            return Err(ToolError(format!(
                "{error}; pitwire run creates it, or name its folder with --queue"
            )));
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
    let agent = AdminClient::new(&on_this_pc(metrics.listen).to_string())?;
    let agent = QueueConnection::Agent(agent);
    let status = agent.status().await.map_err(|ToolError(refused)| {
        ToolError(format!("{error}, but {refused}; or use --admin"))
    })?;
    if !is_same(Path::new(&status.path), &config.queue.path) {
        return Err(ToolError(format!(
            "{error}, but the agent at {} has the queue {}; name the right one with --admin",
            metrics.listen, status.path
        )));
    }
    Ok(agent)
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
