//! The configuration and its defaults.
//!
//! The unit of a setting is in its type (`Duration`) or in its name (`_bytes`, `_hz`).
//!
//! [`load`] fills a `Config` from a file, the environment and the command line. The table in `keys`
//! defines the allowed values and the meaning of each key. Error messages, [`reference()`] and
//! [`to_toml`] are generated from it, so they always agree.

mod access;
mod change;
mod checks;
mod credential_file;
mod destination;
mod file;
mod key_file;
mod keys;
mod lmu;
mod load;
mod paths;
mod problem;
mod proxy;
mod raw_value;
mod server_url;
mod spelling;
mod toml_file;
mod units;
mod url_hint;
mod values;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub(crate) use access::check_token;
pub use access::{Auth, Headers, Secret};
pub use change::ConfigChange;
pub use credential_file::CredentialFile;
pub use destination::SERVER;
pub(crate) use destination::{table_of, with_keys_of};
pub use key_file::FileFault;
pub(crate) use key_file::{listener_token, read_ca};
pub(crate) use keys::secrets;
pub use keys::{reference, values};
pub use lmu::*;
pub(crate) use load::process_environment;
pub use load::{Loaded, Overrides, load};
pub(crate) use paths::pc_name;
pub use paths::{ConfigFile, NoDefaultPath, log_file, settings};
pub use problem::{Origin, Problem, Problems, Warning};
pub use proxy::{InvalidProxyVariable, Proxy, ProxyChoice};
pub(crate) use raw_value::quoted;
pub use server_url::{Protocol, ServerUrl};
pub(crate) use spelling::nearest;
pub use toml_file::to_toml;
pub(crate) use values::is_loopback;
pub use values::{AgentName, AgentNames, ParseError};
/// All settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The rate to which sources are limited, 0.001 to 1000 samples per second; 0 keeps every
    /// sample.
    pub update_rate_hz: f64,
    pub agent: AgentConfig,
    pub server: ServerConfig,
    /// Other servers that receive the same entries, independently of each other, by name: 1 to 32
    /// of `a-z 0-9 _ -`.
    pub destinations: BTreeMap<String, ServerConfig>,
    pub queue: QueueConfig,
    pub stint: StintConfig,
    pub delivery: DeliveryConfig,
    pub source: SourceConfig,
    /// The admin address: status page, metrics, health, readiness. Clients on this PC need no token.
    pub metrics: ListenerConfig,
    pub serve: ServeConfig,
    pub log: LogConfig,
}

/// How this agent is identified among others.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AgentConfig {
    /// `None` uses the name of this PC.
    pub name: Option<AgentName>,
}

impl AgentConfig {
    /// The name of this agent on NATS.
    pub fn name(&self) -> String {
        match &self.name {
            Some(name) => name.to_string(),
            None => paths::pc_name(),
        }
    }
}

/// A server and how to connect to it.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerConfig {
    pub url: ServerUrl,
    pub session_id: SessionChoice,
    pub token: Secret,
    pub token_file: Option<CredentialFile>,
    pub headers: Headers,
    pub auth: Auth,
    pub ca_file: Option<PathBuf>,
    pub proxy: ProxyChoice,
    pub transport: TransportChoice,
    /// NATS: a `.creds` file.
    pub credentials_file: Option<CredentialFile>,
    /// NATS: the number of replicas of the stream, 1 to 5.
    pub stream_replicas: u64,
    /// NATS: how long the stream keeps an entry, 1 hour to 365 days.
    pub stream_max_age: Duration,
}

/// How the session id is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionChoice {
    /// The server assigns an id.
    Auto,
    /// A fixed id: 1 to 128 of `A-Z a-z 0-9 _ -`.
    Fixed(String),
}

/// How Socket.IO packets reach a dashboard server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportChoice {
    /// WebSocket; HTTP long-polling where WebSocket does not get through.
    Auto,
    Websocket,
    Polling,
}

/// The bounded queue on disk.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueConfig {
    /// The queue's directory; a relative path starts at the working directory. Empty if the platform
    /// defines no default directory: such a configuration opens no queue.
    pub path: PathBuf,
    /// 1 to 1,000,000,000.
    pub max_entries: u64,
    /// 16 MiB to 1 TiB of disk space, as `du` counts it.
    pub max_bytes: u64,
    /// 1 minute to 365 days.
    pub max_age: Duration,
    pub when_full: WhenFull,
    pub durability: Durability,
}

/// The policy of a queue that has reached a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// Downsamples the oldest frames to half their resolution, repeatedly.
    Thin,
    /// Drops the oldest entries.
    DropOldest,
    /// Refuses new entries.
    DropNewest,
    /// Makes a file or a replay wait; downsamples for other sources.
    Block,
}

/// When an appended entry survives a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// When the append returns: one flush per append.
    Entry,
    /// At most this long after the append, 10 ms to 60 s: one flush for many entries.
    Within(Duration),
    /// When the operating system writes it: nothing waits for the disk.
    Os,
}

/// How stints are delimited.
#[derive(Clone, Debug, PartialEq)]
pub struct StintConfig {
    /// A restart within this time continues the stint; 0 s to 7 days.
    pub resume_after: Duration,
}

/// How entries are delivered to the server.
#[derive(Clone, Debug, PartialEq)]
pub struct DeliveryConfig {
    /// From the start of a connection to a bound session, 1 s to 120 s.
    pub open_timeout: Duration,
    /// From publishing a batch to its proof, 100 ms to 120 s.
    pub proof_timeout: Duration,
    /// How often to check that the server still knows the session, up to 9 s; 0 never checks.
    pub verify_interval: Duration,
    /// 1 to 1024; a slow server gets fewer.
    pub batch_max_entries: u64,
    /// 1 KiB to 1 MiB of JSON.
    pub batch_max_bytes: u64,
    pub proof: ProofChoice,
    /// Adds the entry's sequence number to each frame, as `telemetry.seq`.
    pub mark: bool,
    /// Entries per second while a backlog is replayed, 0.001 to 100,000; 0 sets no limit.
    pub max_rate: f64,
    /// The first wait before a reconnect, 10 ms to 10 s.
    pub backoff_min: Duration,
    /// The longest wait before a reconnect, `backoff_min` to 10 minutes.
    pub backoff_max: Duration,
}

/// The delivery confirmation that an entry needs before it leaves the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProofChoice {
    /// The strongest proof that the server is found to give.
    Auto,
    /// The server sent the entry back to the session's viewers.
    Echo,
    /// The server acknowledged the event.
    Ack,
    /// The event was written to the connection.
    Written,
}

/// The sources of entries. All enabled sources feed one queue.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceConfig {
    pub lmu: LmuConfig,
    pub stdin: StdinConfig,
    /// Samples and setups that other programs post.
    pub http: ListenerConfig,
    /// The agent acts as the dashboard server of an existing publisher.
    pub socketio: ListenerConfig,
    pub nats: NatsConfig,
    pub file: FileConfig,
    pub simulator: SimulatorConfig,
}

/// The units in which a game's values are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Units {
    /// The units of the dashboard's labels: PSI, °C, % used.
    Label,
    /// The units of the original client: kPa, kelvin for brakes, 1.0 for a new tyre.
    Upstream,
}

/// Samples on standard input, one JSON object per line.
#[derive(Clone, Debug, PartialEq)]
pub struct StdinConfig {
    pub enabled: bool,
    /// Prints `{"line":…,"seq":…}` on standard output for each stored line.
    pub receipts: bool,
}

/// An address that other programs connect to.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerConfig {
    pub enabled: bool,
    pub listen: SocketAddr,
    /// The token that clients must send; without one only this PC may connect.
    pub token: Secret,
    pub token_file: Option<CredentialFile>,
}

impl ListenerConfig {
    fn on_this_pc(enabled: bool, port: u16) -> Self {
        let listen = (Ipv4Addr::LOCALHOST, port).into();
        Self { enabled, listen, token: Secret::default(), token_file: None }
    }
}

/// The NATS source. When enabled, this agent is a hub: it receives what the agents of a league
/// publish to a NATS server.
#[derive(Clone, Debug, PartialEq)]
pub struct NatsConfig {
    pub enabled: bool,
    pub url: ServerUrl,
    pub token: Secret,
    pub token_file: Option<CredentialFile>,
    pub credentials_file: Option<CredentialFile>,
    pub ca_file: Option<PathBuf>,
    /// The agents to receive from; empty means all.
    pub agents: AgentNames,
    /// Hubs with the same name share the agents; the server stores their delivery progress.
    pub durable: AgentName,
}

/// The replay of a recording.
#[derive(Clone, Debug, PartialEq)]
pub struct FileConfig {
    /// `None` turns the source off.
    pub path: Option<PathBuf>,
    /// The speed as a multiple of the recorded one, 0.001 to 10,000; 0 replays as fast as entries
    /// can be stored.
    pub speed: f64,
    /// Lines per second at speed 1 of a recording without timestamps, 0.001 to 1,000; 0 replays
    /// them as fast as they can be stored.
    pub rate_hz: f64,
}

/// The simulated car.
#[derive(Clone, Debug, PartialEq)]
pub struct SimulatorConfig {
    pub enabled: bool,
    /// The same seed drives the same race.
    pub seed: u64,
}

/// The dashboard server of `pitwire serve`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServeConfig {
    /// The token that publishers and viewers must send; without one only this PC may connect.
    pub token: Secret,
    pub token_file: Option<CredentialFile>,
}

/// The log.
#[derive(Clone, Debug, PartialEq)]
pub struct LogConfig {
    pub level: LogLevel,
    pub format: LogFormat,
    /// The file to write to instead of standard error.
    pub file: Option<PathBuf>,
}

/// The least severe level that is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Plain text.
    Text,
    /// One JSON object per line.
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
            proxy: ProxyChoice::Environment,
            transport: TransportChoice::Auto,
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
                path: paths::queue().unwrap_or_default(),
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
                backoff_max: Duration::from_secs(5),
            },
            source: SourceConfig {
                lmu: LmuConfig::default(),
                stdin: StdinConfig { enabled: true, receipts: false },
                http: ListenerConfig::on_this_pc(true, 9185),
                socketio: ListenerConfig::on_this_pc(false, 9186),
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
                file: FileConfig { path: None, speed: 1.0, rate_hz: 2.0 },
                simulator: SimulatorConfig { enabled: false, seed: 1 },
            },
            metrics: ListenerConfig::on_this_pc(true, 9184),
            serve: ServeConfig::default(),
            log: LogConfig { level: LogLevel::Info, format: LogFormat::Text, file: None },
        }
    }
}
