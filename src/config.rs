//! What an operator can set, its defaults, and every other number of the program.
//!
//! What an operator may want to change is a field of [`Config`]. What follows from a protocol, or
//! is there only so that nothing grows without bound, is a constant below it. Either way the unit
//! is in the type (`Duration`) or in the name (`_bytes`, `_hz`).
//!
//! [`load`] fills a `Config` from a file, the environment and the command line. The table of keys
//! in `keys` says for each what is allowed and what it means; the messages, [`reference()`] and
//! [`to_toml`] are all made from it, so none of them can disagree with another.

mod access;
mod file;
mod given;
mod keys;
mod lmu;
mod load;
mod places;
mod problem;
mod units;
mod values;

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

pub use access::{Auth, Headers, Secret};
pub use keys::{reference, to_toml, values};
pub use lmu::*;
pub use load::{Loaded, Overrides, load, process_environment};
pub use places::{file, log_file, settings};
pub use problem::{Origin, Problem, Problems, Warning};
pub use units::{parse_duration, parse_size};
pub use values::{AgentName, AgentNames, Protocol, ServerUrl, Wrong};

/// Everything an operator can set.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Samples a second that a thinned source hands on, 0.001 to 1000; 0 keeps every sample.
    pub update_rate_hz: f64,
    pub agent: AgentConfig,
    pub server: ServerConfig,
    pub queue: QueueConfig,
    pub stint: StintConfig,
    pub delivery: DeliveryConfig,
    pub source: SourceConfig,
    pub metrics: MetricsConfig,
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
    pub token_file: Option<PathBuf>,
    pub headers: Headers,
    pub auth: Auth,
    pub ca_file: Option<PathBuf>,
    /// On NATS: a `.creds` file.
    pub credentials_file: Option<PathBuf>,
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
    /// 1 to 256.
    pub batch_max_entries: u64,
    /// 1 KiB to 512 KiB of JSON.
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
}

/// Another program's publisher, which takes the agent for its dashboard server.
#[derive(Clone, Debug, PartialEq)]
pub struct SocketioConfig {
    pub enabled: bool,
    pub listen: SocketAddr,
}

/// What the agents of a league publish to a NATS server: this one is a hub.
#[derive(Clone, Debug, PartialEq)]
pub struct NatsConfig {
    pub enabled: bool,
    pub url: ServerUrl,
    pub token: Secret,
    pub token_file: Option<PathBuf>,
    pub credentials_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
    /// Empty is all of them.
    pub agents: AgentNames,
    /// What the server remembers by this name of what was taken.
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

impl Default for Config {
    fn default() -> Self {
        Self {
            update_rate_hz: 2.0,
            agent: AgentConfig::default(),
            server: ServerConfig {
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
            },
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
                batch_max_entries: 256,
                batch_max_bytes: 256 << 10,
                proof: ProofChoice::Auto,
                mark: false,
                max_rate: 0.0,
                backoff_min: Duration::from_millis(500),
                backoff_max: Duration::from_secs(60),
            },
            source: SourceConfig {
                lmu: LmuConfig::default(),
                stdin: StdinConfig { enabled: true, receipts: false },
                http: HttpConfig { enabled: true, listen: (Ipv4Addr::LOCALHOST, 9185).into() },
                socketio: SocketioConfig {
                    enabled: false,
                    listen: (Ipv4Addr::LOCALHOST, 9186).into(),
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
            metrics: MetricsConfig { enabled: true, listen: (Ipv4Addr::LOCALHOST, 9184).into() },
            log: LogConfig { level: LogLevel::Info, format: LogFormat::Text, file: None },
        }
    }
}

/// A configuration file above this is not read.
pub const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// A sample, or a setup, above this is refused: the server closes the connection above 1,000,000
/// bytes a message, and the envelope around it needs some of them.
pub const MAX_SAMPLE_BYTES: usize = 900_000;

/// Objects and arrays within each other; a sample above this is refused.
pub const MAX_SAMPLE_DEPTH: usize = 32;

/// The body of one HTTP request above this is refused.
pub const MAX_HTTP_BODY_BYTES: usize = 8 << 20;

/// Samples in one HTTP request; one with more is refused.
pub const MAX_HTTP_ENTRIES: usize = 10_000;

/// From an HTTP request to its answer, at most.
pub const HTTP_TIMEOUT: Duration = Duration::from_secs(30);

/// Where this program is the server: a longer message ends its connection, as on the public one.
pub const MAX_MESSAGE_BYTES: usize = 1_000_000;

/// A client that has more than this unhandled, in bytes, is cut off.
pub const MAX_INBOX_BYTES: usize = 64 << 20;

/// A client that leaves more than this unread, in messages, is cut off: a frame that is silently
/// left out on a connection that stands would look like a frame that was lost.
pub const MAX_OUTBOX_MESSAGES: usize = 65_536;

/// Rooms that a client may be in, and how long the name of one may be; a UUID has 36.
pub const MAX_ROOMS: usize = 1_000;
pub const MAX_ROOM_NAME_BYTES: usize = 100;

/// From a client's connection to its first packet, at most.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(45);

/// How often a server looks whether a client is there, and how long that may take to answer: as the
/// public server has it.
pub const PING_INTERVAL: Duration = Duration::from_secs(25);
pub const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a server that is asked to stop waits for its clients to take their leave.
pub const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// Streams that are told apart, pages of stints, and sessions: those that were used last. More than
/// a league has cars.
pub const MAX_STREAMS: usize = 256;
pub const MAX_PAGES: usize = 256;
pub const MAX_SESSIONS: usize = 256;

/// Streams whose newest frame and setup are kept for those who join them: those that sent last.
pub const MAX_LATEST: usize = 8;

/// Bytes of the setups that have left the queue and are kept for pages that begin anew; two of the
/// largest fit.
pub const MAX_SETUPS_LEFT_BYTES: usize = 2_000_000;

/// Between two looks of a browser whether the page of a stream is there yet.
pub const PAGE_REFRESH: Duration = Duration::from_secs(2);

/// From the request to stop to the end of the process, however slow disk and network are.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// A sample that says it was captured further ahead of this machine's clock than this gets the
/// clock's moment. A day, as a wrong time zone is no more.
pub const MAX_CLOCK_LEAD: Duration = Duration::from_hours(24);

/// Commands of the session that wait for the queue's thread; a full channel makes it wait.
pub const QUEUE_CHANNEL_COMMANDS: usize = 256;

/// A removal that no append has flushed with is flushed after this long: until then a power cut
/// makes the entry go out again.
pub const REMOVE_FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// How long to wait for another process, or for the last one's threads, to let go of the store.
pub const STORE_OPEN_TIMEOUT: Duration = Duration::from_secs(1);

/// Between two tries to store what the disk did not take.
pub const STORAGE_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Between two tries to open a queue whose disk is full or read-only.
pub const STORAGE_OPEN_INTERVAL: Duration = Duration::from_secs(2);

/// How long a source waits for the disk before its entries count as buffered.
pub const APPEND_TIMEOUT: Duration = Duration::from_secs(1);

/// Entries, and bytes of JSON, that wait in memory for a disk that is slow, full or gone; one
/// more request of a source fits on top.
pub const BUFFER_ENTRIES: usize = 16_384;
pub const BUFFER_BYTES: usize = 12 << 20;

/// Entries that are younger than this, measured against the newest, are never thinned.
pub const RECENT: Duration = Duration::from_secs(60);

/// Entries, and bytes of their records, that a person's tool looks at together; a larger entry comes
/// alone. The queue does nothing else meanwhile.
pub const PAGE_ENTRIES: usize = 1024;
pub const PAGE_BYTES: usize = 1 << 20;

/// Entries, and bytes of their records, that are dropped together from the head of the queue.
pub const DROP_STEP_ENTRIES: usize = 4096;
pub const DROP_STEP_BYTES: usize = 4 << 20;

/// Things wrong with one stretch of the queue that are told one by one.
pub const MAX_FINDINGS: usize = 100;

/// A line of an export above this is refused: an entry, and what says where it was.
pub const MAX_LINE_BYTES: usize = MAX_SAMPLE_BYTES + 1024;

/// From a tool's request to the agent's answer, at most.
pub const TOOL_TIMEOUT: Duration = Duration::from_secs(60);

/// An answer of the agent to a tool above this is not read; a page with the largest entry fits.
pub const MAX_TOOL_ANSWER_BYTES: usize = 8 << 20;

/// Positions that a person may name are below; no queue gets there.
pub const MAX_SEQ: u64 = 1 << 62;

/// Between two looks whether the ledger balances.
pub const LEDGER_CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// Between two times at which what was measured is filed; some values of 8 bytes a frame wait for it.
pub const METRICS_UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Lines that are appended together.
pub const MAX_BATCH_LINES: usize = 256;

/// Lines that are there are read together up to this: about as many as are appended together.
pub const LINES_BUFFER_BYTES: usize = 256 << 10;

/// Read of standard input at once, and ahead while lines before it are stored.
pub const STDIN_READ_BYTES: usize = 64 << 10;
pub const STDIN_BUFFER_BYTES: usize = 256 << 10;

/// Between two tries to listen on an address that another program has.
pub const LISTEN_RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Samples a second of the simulated car, and of a recording, where `update_rate_hz` is 0.
pub const SIMULATOR_RATE_HZ: f64 = 2.0;

/// Events of the server that wait for the session; more is a flood and ends the connection. A
/// batch that comes back whole fits many times.
pub const CONNECTION_EVENTS: usize = 4096;

/// Between two looks whether the client library still reads: it can end without a word.
pub const READER_CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// How often a NATS server is asked whether it is still there. A connection over which nothing came
/// for three times this long is lost.
pub const NATS_PING_INTERVAL: Duration = Duration::from_secs(5);

/// How long a stream remembers what it has, to recognise what comes again. It is not the only thing
/// that does, so that it need not span an outage.
pub const NATS_DUPLICATE_WINDOW: Duration = Duration::from_mins(2);

/// From a hub's request to the NATS server to its answer, and from the start of a connection.
pub const NATS_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a hub looks for streams of agents that are new, and the first and the longest wait before
/// a connection that ended is made again.
pub const NATS_LOOK_INTERVAL: Duration = Duration::from_secs(5);
pub const NATS_BACKOFF: Range<Duration> = Duration::from_millis(500)..Duration::from_secs(30);

/// Entries of one agent that a hub has and has not acknowledged, at most; each is 1 MB at the worst
/// and 700 bytes as a rule.
pub const NATS_UNACKNOWLEDGED: usize = 128;

/// An entry that a hub does not acknowledge for so long is given out again. As long waits a hub that
/// was killed before it takes what is new: the old comes first.
pub const NATS_ACK_WAIT: Duration = Duration::from_secs(5);

/// A request for entries ends after this long, and the next one is made.
pub const NATS_FETCH_EXPIRES: Duration = Duration::from_secs(20);

/// Entries at the end of the queue that a hub looks through at its start for what it had stored and
/// not acknowledged: what that can be of [`MAX_STREAMS`] agents.
pub const NATS_LOOK_BACK_ENTRIES: u64 = (NATS_UNACKNOWLEDGED * MAX_STREAMS) as u64;

/// From joining a session to the server's answer, at most; and as long for an earlier
/// acknowledgement that must come first.
pub const JOIN_TIMEOUT: Duration = Duration::from_secs(2);

/// What an earlier link sent may still be on its way through the server: it is asked with this pause
/// between, so often at most, until what it holds stands still.
pub const STORED_PAUSE: Duration = Duration::from_millis(250);
pub const STORED_LOOKS: u32 = 20;

/// The longest session id that is taken from a server; a UUID has 36.
pub const MAX_SESSION_ID_CHARS: usize = 128;

/// After the acknowledgement of a batch, how long to wait for what has not come back yet.
pub const ECHO_GRACE: Duration = Duration::from_millis(500);

/// Entries that are sent and wait for a stronger proof, at most; each takes about 100 bytes of
/// memory.
pub const MAX_UNPROVEN_ENTRIES: usize = 16_384;

/// With so many unproven entries and nothing more to send, the server is asked after this pause.
pub const VERIFY_SOON_ENTRIES: usize = 32;
pub const VERIFY_SOON: Duration = Duration::from_millis(20);

/// An entry that the server refuses is tried this often, with this pause between: 5 s in all.
pub const REFUSAL_TRIES: u32 = 3;
pub const REFUSAL_PAUSE: Duration = Duration::from_millis(2500);

/// Links on which a server gave a session and no proof, after which it is taken to give none.
pub const WITHOUT_PROOF_LINKS: u32 = 3;

/// How often in a row a server does not answer when a session is joined, after which it is taken to
/// have no such event, or to acknowledge none.
pub const UNANSWERED_JOINS: u32 = 3;

/// A server that confirms nothing has an entry when the connection outlives two times the ping
/// interval (25 s) and timeout (20 s) after it.
pub const WRITTEN_AFTER: Duration = Duration::from_secs(90);

/// What needs a person, such as a wrong token, is tried again no sooner than this.
pub const AUTH_RETRY_INTERVAL: Duration = Duration::from_secs(30);

/// How long the demo waits for a session, and at its end for the queue to drain.
pub const DEMO_DRAIN_TIMEOUT: Duration = Duration::from_secs(20);

/// The longest wait of the demo's agent before a new connection, and between two looks at how its
/// queue drains.
pub const STAGE_BACKOFF_MAX: Duration = Duration::from_secs(3);
pub const STAGE_LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Samples a second of the car in `pitwire chaos`.
pub const CHAOS_RATE_HZ: f64 = 20.0;

/// How long it is calm there between two faults, and how long a fault lasts: sometimes longer than a
/// batch waits for its proof.
pub const CHAOS_CALM: Range<Duration> = Duration::from_secs(1)..Duration::from_secs(4);
pub const CHAOS_FAULT: Range<Duration> = Duration::from_millis(500)..Duration::from_secs(8);

/// The longest chaos, in minutes.
pub const MAX_CHAOS_MINUTES: f64 = 1440.0;

/// Between two looks at how the queue drains.
pub const DRAIN_INTERVAL: Duration = Duration::from_secs(10);

/// Looks at the queue that the status page shows: an hour of them.
pub const STATUS_LOOKS: usize = 360;

/// What went wrong lately, on the status page: so many lines, the newest.
pub const STATUS_TROUBLES: usize = 5;

/// Between two looks whether the queue's disk fails, for the status page.
pub const TROUBLE_INTERVAL: Duration = Duration::from_secs(5);

/// Between two looks for the line in the terminal, and so between two texts of it, at least.
pub const LINE_INTERVAL: Duration = Duration::from_secs(1);

/// The rates on that line, and the time that is left, are those of this time.
pub const RATE_WINDOW: Duration = Duration::from_secs(10);

/// Texts that wait for a terminal that is stopped; lines of the log beyond that are left out.
pub const TERMINAL_TEXTS: usize = 256;

/// How long the agent waits at its end for such a terminal.
pub const TERMINAL_PATIENCE: Duration = Duration::from_secs(2);

/// How long the status page says that the server forgot the session: somebody has to hand the new
/// link on.
pub const FORGOTTEN_SHOWN: Duration = Duration::from_secs(60);

/// The latency on the status page is that of the entries delivered within this time, of the newest
/// so many; each takes 32 bytes of memory.
pub const LATENCY_WINDOW: Duration = Duration::from_secs(60);
pub const LATENCIES: usize = 1000;

/// Intervals in a row in which the queue must not get less before the server is said to take less
/// than is driven.
pub const DRAIN_INTERVALS: usize = 3;

/// And so much older than its newest must the oldest entry be: what waits for its proof, which
/// takes up to [`WRITTEN_AFTER`] and a verification, is no backlog.
pub const BEHIND_AFTER: Duration = Duration::from_mins(2);

/// An entry younger than this is live; an older one is part of a backlog.
pub const LIVE_WITHIN: Duration = Duration::from_secs(5);

/// How much lower than normal the agent's priority is on Linux, on the scale of `nice`: 0 to 19.
/// On Windows it is "below normal".
pub const NICENESS: i32 = 5;

/// How often the doctor stores something to see how long that takes, and how much: about a frame.
pub const DOCTOR_FSYNCS: usize = 9;
pub const DOCTOR_FSYNC_BYTES: usize = 512;

/// A disk that takes longer than this for it is slow: a source waits four times this long at most
/// ([`APPEND_TIMEOUT`]).
pub const DOCTOR_SLOW_FSYNC: Duration = Duration::from_millis(250);

/// With less than this left on the queue's disk it cannot be told to take less: the smallest
/// `queue.max_bytes`.
pub const DOCTOR_LEAST_FREE_BYTES: u64 = 16 << 20;

/// How long the doctor waits for a disk; and for every entry of the queue to be read.
pub const DOCTOR_DISK_TIMEOUT: Duration = Duration::from_secs(10);
pub const DOCTOR_VERIFY_TIMEOUT: Duration = Duration::from_secs(60);

/// How long it waits for a name to be looked up, for a connection to each address, for TLS, and for
/// an answer to HTTP; the rest has the bounds of `delivery`.
pub const DOCTOR_NETWORK_TIMEOUT: Duration = Duration::from_secs(5);

/// An answer to the doctor above this is not read; `/metrics` and `/status` fit many times.
pub const MAX_DOCTOR_ANSWER_BYTES: usize = 1 << 20;

/// Addresses of one name that the doctor tries, at most.
pub const MAX_DOCTOR_ADDRESSES: usize = 8;

/// A server's clock that is further off than this is said: HTTP tells whole seconds, and the answer
/// is on its way for a while.
pub const DOCTOR_CLOCK_OFFSET: Duration = Duration::from_secs(5);

/// How long the doctor waits for a program that listens where the agent would.
pub const DOCTOR_LOCAL_TIMEOUT: Duration = Duration::from_secs(2);

/// A log file above this is kept as the old one, in the place of the old one before.
pub const LOG_FILE_BYTES: u64 = 4 << 20;

/// Between two log lines of the same kind.
pub const LOG_REPEAT_INTERVAL: Duration = Duration::from_secs(10);
