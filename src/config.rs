//! What an operator can set, its defaults, and every other number of the program.
//!
//! What an operator may want to change is a field of [`Config`]. What follows from a protocol, or
//! is there only so that nothing grows without bound, is a constant in `bounds`. Either way the unit
//! is in the type (`Duration`) or in the name (`_bytes`, `_hz`).
//!
//! [`load`] fills a `Config` from a file, the environment and the command line. The table of keys
//! in `keys` says for each what is allowed and what it means; the messages, [`reference()`] and
//! [`to_toml`] are all made from it, so none of them can disagree with another.

mod access;
mod bounds;
mod checks;
mod credential_file;
mod destination;
mod file;
mod given;
mod keys;
mod lmu;
mod load;
mod places;
mod problem;
mod units;
mod values;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub(crate) use access::check_token;
pub use access::{Auth, Headers, Secret};
pub use bounds::*;
pub use credential_file::CredentialFile;
pub(crate) use keys::secrets;
pub use keys::{reference, to_toml, values, with_keys_of};
pub use lmu::*;
pub use load::{Loaded, Overrides, load, process_environment};
pub(crate) use places::pc_name;
pub use places::{file, log_file, settings};
pub use problem::{Origin, Problem, Problems, Warning};
pub use units::{parse_duration, parse_size};
pub use values::{AgentName, AgentNames, Protocol, ServerUrl, Wrong};

use crate::loopback_guard::Access;

/// Everything an operator can set.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Samples a second that a thinned source hands on, 0.001 to 1000; 0 keeps every sample.
    pub update_rate_hz: f64,
    pub agent: AgentConfig,
    pub server: ServerConfig,
    /// Other servers that get the same entries, each at its own pace, by name: 1 to 32 of
    /// `a-z 0-9 _ -`.
    pub destinations: BTreeMap<String, ServerConfig>,
    pub queue: QueueConfig,
    pub stint: StintConfig,
    pub delivery: DeliveryConfig,
    pub source: SourceConfig,
    pub metrics: MetricsConfig,
    pub serve: ServeConfig,
    pub log: LogConfig,
}

/// This agent among others.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AgentConfig {
    /// `None` is the name of this PC.
    pub name: Option<AgentName>,
}

impl AgentConfig {
    /// What this agent is called on NATS.
    pub fn name(&self) -> String {
        match &self.name {
            Some(name) => name.to_string(),
            None => places::pc_name(),
        }
    }
}

/// The server and the session on it.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerConfig {
    pub url: ServerUrl,
    pub session_id: SessionChoice,
    pub token: Secret,
    pub token_file: Option<CredentialFile>,
    pub headers: Headers,
    pub auth: Auth,
    pub ca_file: Option<PathBuf>,
    /// On NATS: a `.creds` file.
    pub credentials_file: Option<CredentialFile>,
    /// On NATS: servers that keep a copy of the stream, 1 to 5.
    pub stream_replicas: u64,
    /// On NATS: how long the stream keeps an entry, 1 hour to 365 days.
    pub stream_max_age: Duration,
}

/// Who names the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionChoice {
    /// The server assigns an id.
    Auto,
    /// This id is used as given: 1 to 128 of `A-Z a-z 0-9 _ -`.
    Fixed(String),
}

/// The bounded durable log on disk.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueConfig {
    /// The directory it lives in; a relative path starts at the working directory.
    pub path: PathBuf,
    /// 1 to 1,000,000,000.
    pub max_entries: u64,
    /// 16 MiB to 1 TiB, as `du` counts them.
    pub max_bytes: u64,
    /// 1 minute to 365 days.
    pub max_age: Duration,
    pub when_full: WhenFull,
    pub durability: Durability,
}

/// What gives way when the queue has reached a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// The oldest stretch is thinned to half its resolution, again and again.
    Thin,
    /// The oldest entries make room for the new one.
    DropOldest,
    /// The new entry is refused.
    DropNewest,
    /// A file or a replay waits; other sources thin.
    Block,
}

/// When an appended entry is safe from a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Before the append is reported: one flush an entry.
    Entry,
    /// This long after the append at the latest, 10 ms to 60 s: one flush for many entries.
    Within(Duration),
    /// When the operating system sees fit: nothing waits for the disk.
    Os,
}

/// What makes one stint.
#[derive(Clone, Debug, PartialEq)]
pub struct StintConfig {
    /// A restart after a silence up to this continues the stint; 0 s to 7 days.
    pub resume_after: Duration,
}

/// How entries go to the server.
#[derive(Clone, Debug, PartialEq)]
pub struct DeliveryConfig {
    /// From the start of a connection to a bound session, 1 s to 120 s.
    pub open_timeout: Duration,
    /// From a published batch to its proof, 100 ms to 120 s.
    pub proof_timeout: Duration,
    /// Between two checks that the server still knows the session, up to 9 s; 0 never asks.
    pub verify_interval: Duration,
    /// 1 to 1024; a slow server gets fewer.
    pub batch_max_entries: u64,
    /// 1 KiB to 1 MiB of JSON.
    pub batch_max_bytes: u64,
    pub proof: ProofChoice,
    /// Adds the entry's seq to what the server gets, as `telemetry.seq`.
    pub mark: bool,
    /// Entries a second while a backlog is replayed, 0.001 to 100,000; 0 sets no limit.
    pub max_rate: f64,
    /// The first wait before a new connection, 10 ms to 10 s.
    pub backoff_min: Duration,
    /// The longest wait before a new connection, `backoff_min` to 10 minutes.
    pub backoff_max: Duration,
}

/// The proof that an entry must have before it leaves the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProofChoice {
    /// The strongest that the server turns out to give.
    Auto,
    /// The server sent the entry back to the session's viewers.
    Echo,
    /// The server acknowledged the event.
    Ack,
    /// The event was written to the connection.
    Written,
}

/// Where entries come from; all that are on feed one queue.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceConfig {
    pub lmu: LmuConfig,
    pub stdin: StdinConfig,
    pub http: HttpConfig,
    pub socketio: SocketioConfig,
    pub nats: NatsConfig,
    pub file: FileConfig,
    pub simulator: SimulatorConfig,
}

/// In which units the values of a game go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Units {
    /// Those that the dashboard shows beside them: PSI, °C, % used.
    Label,
    /// Those that the original client sends: kPa, kelvin for brakes, 1.0 for a new tyre.
    Upstream,
}

/// One JSON sample a line on standard input.
#[derive(Clone, Debug, PartialEq)]
pub struct StdinConfig {
    pub enabled: bool,
    /// Prints `{"line":…,"seq":…}` on standard output for each stored line.
    pub receipts: bool,
}

/// Samples and setups posted by another program.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpConfig {
    pub enabled: bool,
    pub listen: SocketAddr,
    /// What clients must present; without one only this PC may connect.
    pub token: Secret,
    pub token_file: Option<CredentialFile>,
}

impl HttpConfig {
    /// Who may use the source; reads the token file.
    pub(crate) fn access(&self) -> io::Result<Access> {
        Access::to_listener(&self.token, self.token_file.as_ref())
    }
}

/// Another program's publisher, which takes the agent for its dashboard server.
#[derive(Clone, Debug, PartialEq)]
pub struct SocketioConfig {
    pub enabled: bool,
    pub listen: SocketAddr,
    /// What publishers must present; without one only this PC may connect.
    pub token: Secret,
    pub token_file: Option<CredentialFile>,
}

impl SocketioConfig {
    /// Who may use the source; reads the token file.
    pub(crate) fn access(&self) -> io::Result<Access> {
        Access::to_listener(&self.token, self.token_file.as_ref())
    }
}

/// What the agents of a league publish to a NATS server: this one is a hub.
#[derive(Clone, Debug, PartialEq)]
pub struct NatsConfig {
    pub enabled: bool,
    pub url: ServerUrl,
    pub token: Secret,
    pub token_file: Option<CredentialFile>,
    pub credentials_file: Option<CredentialFile>,
    pub ca_file: Option<PathBuf>,
    /// Empty is all of them.
    pub agents: AgentNames,
    /// Hubs of this name share the agents, and the server remembers what they delivered.
    pub durable: AgentName,
}

/// A recording.
#[derive(Clone, Debug, PartialEq)]
pub struct FileConfig {
    /// `None` turns the source off.
    pub path: Option<PathBuf>,
    /// How many times faster than recorded, 0.001 to 10,000; 0 is as fast as it can be stored.
    pub speed: f64,
}

/// A believable car.
#[derive(Clone, Debug, PartialEq)]
pub struct SimulatorConfig {
    pub enabled: bool,
    /// The same seed drives the same race.
    pub seed: u64,
}

/// The page for operators: metrics, health, readiness.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricsConfig {
    pub enabled: bool,
    pub listen: SocketAddr,
    /// What other machines must present to scrape; without one only this PC may ask.
    pub token: Secret,
    pub token_file: Option<CredentialFile>,
}

impl MetricsConfig {
    /// Who may read the metrics and the health; reads the token file.
    pub(crate) fn access(&self) -> io::Result<Access> {
        Access::to_metrics(&self.token, self.token_file.as_ref())
    }
}

/// The dashboard server of `pitwire serve`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServeConfig {
    /// What publishers and viewers must present; without one only this PC may connect.
    pub token: Secret,
    pub token_file: Option<CredentialFile>,
}

/// What is written to standard error.
#[derive(Clone, Debug, PartialEq)]
pub struct LogConfig {
    pub level: LogLevel,
    pub format: LogFormat,
    /// Where it is written in the place of standard error.
    pub file: Option<PathBuf>,
}

/// The least important line that is still written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// How a log line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line, for programs.
    Json,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            url: ServerUrl::local(),
            session_id: SessionChoice::Auto,
            token: Secret::default(),
            token_file: None,
            headers: Headers::default(),
            auth: Auth::default(),
            ca_file: None,
            credentials_file: None,
            stream_replicas: 1,
            stream_max_age: Duration::from_hours(30 * 24),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            update_rate_hz: 2.0,
            agent: AgentConfig::default(),
            server: ServerConfig::default(),
            destinations: BTreeMap::new(),
            queue: QueueConfig {
                path: places::queue(),
                max_entries: 1_000_000,
                max_bytes: 2 << 30,
                max_age: Duration::from_hours(7 * 24),
                when_full: WhenFull::Thin,
                durability: Durability::Entry,
            },
            stint: StintConfig { resume_after: Duration::from_mins(30) },
            delivery: DeliveryConfig {
                open_timeout: Duration::from_secs(10),
                proof_timeout: Duration::from_secs(5),
                verify_interval: Duration::from_secs(5),
                batch_max_entries: 1024,
                batch_max_bytes: 1 << 20,
                proof: ProofChoice::Auto,
                mark: false,
                max_rate: 0.0,
                backoff_min: Duration::from_millis(500),
                backoff_max: Duration::from_secs(60),
            },
            source: SourceConfig {
                lmu: LmuConfig::default(),
                stdin: StdinConfig { enabled: true, receipts: false },
                http: HttpConfig {
                    enabled: true,
                    listen: (Ipv4Addr::LOCALHOST, 9185).into(),
                    token: Secret::default(),
                    token_file: None,
                },
                socketio: SocketioConfig {
                    enabled: false,
                    listen: (Ipv4Addr::LOCALHOST, 9186).into(),
                    token: Secret::default(),
                    token_file: None,
                },
                nats: NatsConfig {
                    enabled: false,
                    url: ServerUrl::local_nats(),
                    token: Secret::default(),
                    token_file: None,
                    credentials_file: None,
                    ca_file: None,
                    agents: AgentNames::default(),
                    durable: AgentName::pitwire(),
                },
                file: FileConfig { path: None, speed: 1.0 },
                simulator: SimulatorConfig { enabled: false, seed: 1 },
            },
            metrics: MetricsConfig {
                enabled: true,
                listen: (Ipv4Addr::LOCALHOST, 9184).into(),
                token: Secret::default(),
                token_file: None,
            },
            serve: ServeConfig::default(),
            log: LogConfig { level: LogLevel::Info, format: LogFormat::Text, file: None },
        }
    }
}
