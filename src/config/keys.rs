//! The table of configuration keys: name, allowed values, target field and meaning.
//!
//! Parsing of the file, the environment and the command line, error messages and the reference
//! documentation all use [`KEYS`].

use std::fmt::Write as _;
use std::ops::RangeInclusive;
use std::time::Duration;

use ValueKind::{Rate, Size, Switch, Text, Time, Whole};

use super::raw_value::RawValue;
use super::units::{show_duration, show_size};
use super::values::Textual;
use super::{Config, ParseError, SERVER, destination};

/// All keys. The keys of a TOML table are adjacent.
#[rustfmt::skip]
pub(super) static KEYS: &[Key] = &[
    key("update_rate_hz", Rate(0.001..=1000.0, |c| &mut c.update_rate_hz),
        "The maximum samples per second of a source, averaged over a minute; the rest is left out. 0 keeps every sample."),

    key("agent.name", Text(|c| &mut c.agent.name),
        "The name of this agent on NATS, unique in the league; empty uses the host name."),

    key("server.url", Text(|c| &mut c.server.url),
        "The dashboard server (http or https, with an optional path prefix), or a NATS server with JetStream (nats or tls, cluster nodes separated by commas)."),
    key("server.session_id", Text(|c| &mut c.server.session_id),
        "The session id on the server; \"auto\" requests one from the server."),
    key("server.token", Text(|c| &mut c.server.token),
        "The token: sent as `Authorization: Bearer …` and, unless auth is set, as the Socket.IO auth `{token}`; on NATS, as the connection token."),
    key("server.token_file", Text(|c| &mut c.server.token_file),
        "A file with the token, read again for each connection."),
    key("server.headers", Text(|c| &mut c.server.headers),
        "HTTP headers for a proxy in front of the server."),
    key("server.auth", Text(|c| &mut c.server.auth),
        "The Socket.IO auth payload."),
    key("server.ca_file", Text(|c| &mut c.server.ca_file),
        "A CA certificate (PEM) to trust in addition to the system's; on NATS, instead of them."),
    key("server.proxy", Text(|c| &mut c.server.proxy),
        "The HTTP proxy to a dashboard server; empty uses HTTP_PROXY, HTTPS_PROXY and NO_PROXY of the environment, \"none\" uses no proxy."),
    key("server.transport", Text(|c| &mut c.server.transport),
        "How a dashboard server is reached: WebSocket, HTTP long-polling, or \"auto\" for long-polling only where WebSocket does not get through."),
    key("server.credentials_file", Text(|c| &mut c.server.credentials_file),
        "NATS: a .creds file, read again for each connection."),
    key("server.stream_replicas", Whole(1..=5, |c| &mut c.server.stream_replicas),
        "NATS: the number of replicas of a stream that the agent creates."),
    key("server.stream_max_age", Time(secs(3600)..=days(365), |c| &mut c.server.stream_max_age),
        "NATS: how long a stream that the agent creates keeps an entry."),

    key("queue.path", Text(|c| &mut c.queue.path),
        "The directory of the queue."),
    key("queue.max_entries", Whole(1..=1_000_000_000, |c| &mut c.queue.max_entries),
        "The maximum number of entries in the queue."),
    key("queue.max_bytes", Size(16 * MIB..=TIB, |c| &mut c.queue.max_bytes),
        "The maximum disk use of the queue, everything included."),
    key("queue.max_age", Time(MINUTE..=days(365), |c| &mut c.queue.max_age),
        "Entries older than this are dropped; time during which the PC is off does not count."),
    key("queue.when_full", Text(|c| &mut c.queue.when_full),
        "How a full queue makes room: downsample the oldest frames, drop the oldest or the newest entry, or make a recording wait."),
    key("queue.durability", Text(|c| &mut c.queue.durability),
        "When a stored entry survives a power cut: at once, within this time, or once the operating system has written it."),

    key("stint.resume_after", Time(Duration::ZERO..=days(7), |c| &mut c.stint.resume_after),
        "A restart within this time continues the stint on the same dashboard page."),

    key("delivery.open_timeout", Time(SECOND..=secs(120), |c| &mut c.delivery.open_timeout),
        "The maximum time from the start of a connection to a bound session."),
    key("delivery.proof_timeout", Time(millis(100)..=secs(120), |c| &mut c.delivery.proof_timeout),
        "The maximum time from publishing a batch to its proof."),
    key("delivery.verify_interval", Time(Duration::ZERO..=secs(9), |c| &mut c.delivery.verify_interval),
        "How often to check that the server still knows the session; 0s never checks."),
    key("delivery.batch_max_entries", Whole(1..=1024, |c| &mut c.delivery.batch_max_entries),
        "The maximum entries in a batch; a slow server gets fewer."),
    key("delivery.batch_max_bytes", Size(KIB..=MIB, |c| &mut c.delivery.batch_max_bytes),
        "The maximum JSON bytes in a batch; a larger entry is sent alone."),
    key("delivery.proof", Text(|c| &mut c.delivery.proof),
        "The delivery confirmation that an entry needs before it leaves the queue."),
    key("delivery.mark", Switch(|c| &mut c.delivery.mark),
        "Adds the entry's sequence number to each frame, as telemetry.seq."),
    key("delivery.max_rate", Rate(0.001..=100_000.0, |c| &mut c.delivery.max_rate),
        "The maximum entries per second while a backlog is replayed; 0 sets no limit."),
    key("delivery.backoff_min", Time(millis(10)..=secs(10), |c| &mut c.delivery.backoff_min),
        "The first wait before a reconnect."),
    key("delivery.backoff_max", Time(millis(10)..=secs(600), |c| &mut c.delivery.backoff_max),
        "The longest wait before a reconnect; at least backoff_min."),

    key("source.lmu.enabled", Switch(|c| &mut c.source.lmu.enabled),
        "Reads Le Mans Ultimate and rFactor 2 when they run on this PC."),
    key("source.lmu.units", Text(|c| &mut c.source.lmu.units),
        "\"label\" sends the units of the dashboard's labels: PSI, °C, % used. \"upstream\" sends those of the original client: kPa, kelvin, 1.0 for a new tyre."),
    key("source.lmu.folder", Text(|c| &mut c.source.lmu.folder),
        "The directory of the game's shared memory files, on Linux."),
    key("source.lmu.rest", Text(|c| &mut c.source.lmu.rest),
        "The address of the game's REST API, the source of the car's setup."),

    key("source.stdin.enabled", Switch(|c| &mut c.source.stdin.enabled),
        "Reads samples from standard input, one JSON object per line."),
    key("source.stdin.receipts", Switch(|c| &mut c.source.stdin.receipts),
        "Prints the line number and sequence number of each stored line."),
    key("source.http.enabled", Switch(|c| &mut c.source.http.enabled),
        "Accepts samples and setups over HTTP."),
    key("source.http.listen", Text(|c| &mut c.source.http.listen),
        "The address of the HTTP source; port 0 picks a free port."),
    key("source.http.token", Text(|c| &mut c.source.http.token),
        "The token that clients must send as `Authorization: Bearer …`; required if other machines can connect."),
    key("source.http.token_file", Text(|c| &mut c.source.http.token_file),
        "A file that contains the token."),
    key("source.socketio.enabled", Switch(|c| &mut c.source.socketio.enabled),
        "Acts as a dashboard server for an existing publisher."),
    key("source.socketio.listen", Text(|c| &mut c.source.socketio.listen),
        "The address of the Socket.IO source, for the publisher's server_url; port 0 picks a free port."),
    key("source.socketio.token", Text(|c| &mut c.source.socketio.token),
        "The token that publishers must send as `Authorization: Bearer …` or `?token=…`; required if other machines can connect."),
    key("source.socketio.token_file", Text(|c| &mut c.source.socketio.token_file),
        "A file that contains the token."),
    key("source.nats.enabled", Switch(|c| &mut c.source.nats.enabled),
        "Makes this agent a hub, which receives the entries that other agents publish to a NATS server."),
    key("source.nats.url", Text(|c| &mut c.source.nats.url),
        "The NATS server of the hub, nats or tls, cluster nodes separated by commas."),
    key("source.nats.token", Text(|c| &mut c.source.nats.token),
        "The token of the hub's NATS server."),
    key("source.nats.token_file", Text(|c| &mut c.source.nats.token_file),
        "A file with the token, read again for each connection."),
    key("source.nats.credentials_file", Text(|c| &mut c.source.nats.credentials_file),
        "A .creds file, read again for each connection."),
    key("source.nats.ca_file", Text(|c| &mut c.source.nats.ca_file),
        "A CA certificate (PEM) to trust instead of the system's."),
    key("source.nats.agents", Text(|c| &mut c.source.nats.agents),
        "The agents to receive from; empty receives from all."),
    key("source.nats.durable", Text(|c| &mut c.source.nats.durable),
        "The name under which the server stores the delivery progress; hubs with the same name share the agents."),
    key("source.file.path", Text(|c| &mut c.source.file.path),
        "The recording to replay, plain or compressed with gzip; empty turns the source off."),
    key("source.file.speed", Rate(0.001..=10_000.0, |c| &mut c.source.file.speed),
        "The replay speed as a multiple of the recorded one, by the timestamps in the lines; pauses of more than 5 minutes are skipped. 0 replays as fast as entries can be stored."),
    key("source.file.rate_hz", Rate(0.001..=1000.0, |c| &mut c.source.file.rate_hz),
        "Lines per second, times speed, of a recording without timestamps; 0 replays as fast as entries can be stored."),
    key("source.simulator.enabled", Switch(|c| &mut c.source.simulator.enabled),
        "Drives a simulated car."),
    key("source.simulator.seed", Whole(0..=u64::MAX, |c| &mut c.source.simulator.seed),
        "The random seed; the same seed drives the same race."),

    key("metrics.enabled", Switch(|c| &mut c.metrics.enabled),
        "Serves the status page, /metrics, /healthz and /readyz, and the requests of `pitwire queue` and `pitwire reload`."),
    key("metrics.listen", Text(|c| &mut c.metrics.listen),
        "The admin address; port 0 picks a free port."),
    key("metrics.token", Text(|c| &mut c.metrics.token),
        "The token that other machines must send as `Authorization: Bearer …` for /metrics, /healthz and /readyz; required if they can connect."),
    key("metrics.token_file", Text(|c| &mut c.metrics.token_file),
        "A file that contains the token."),

    key("serve.token", Text(|c| &mut c.serve.token),
        "`pitwire serve`: the token that publishers send as their server.token and viewers have in their link; required if other machines can connect."),
    key("serve.token_file", Text(|c| &mut c.serve.token_file),
        "A file that contains the token."),

    key("log.level", Text(|c| &mut c.log.level),
        "The least severe level that is logged."),
    key("log.format", Text(|c| &mut c.log.format),
        "The format of a log line."),
    key("log.file", Text(|c| &mut c.log.file),
        "Writes the log to this file instead of standard error; one older file is kept, at most 4 MiB each."),
];

/// The keys of one TOML table.
pub(super) struct KeyTable {
    /// The dotted name; empty for the keys above the first table.
    pub(super) name: String,
    pub(super) keys: &'static [Key],
    /// The configuration with the table's destination in place of `[server]`.
    pub(super) config: Config,
}

/// All tables of a configuration; those of the destinations are last.
pub(super) fn tables(config: &Config) -> impl Iterator<Item = KeyTable> {
    let fixed = KEYS.chunk_by(|one, next| one.table() == next.table()).map(|keys| KeyTable {
        name: keys[0].table().to_owned(),
        keys,
        config: config.clone(),
    });
    let destinations = config.destinations.keys().map(|name| KeyTable {
        name: destination::table_of(name),
        keys: of_server(),
        config: config.towards(name),
    });
    fixed.chain(destinations)
}

/// The keys of `[server]`, which are also the keys of a destination.
pub(super) fn of_server() -> &'static [Key] {
    KEYS.chunk_by(|one, next| one.table() == next.table())
        .find(|keys| keys[0].table() == SERVER)
        .unwrap_or_default()
}

/// Finds a key by its dotted name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// Whether `name` is a table that contains keys or tables.
pub(super) fn is_table(name: &str) -> bool {
    destination::is_table(name) || table_names().any(|table| table == name)
}

/// The names of all tables (`source`, `source.stdin`, …), with repetitions.
pub(super) fn table_names() -> impl Iterator<Item = &'static str> {
    KEYS.iter().flat_map(|key| key.name.match_indices('.').map(|(dot, _)| &key.name[..dot]))
}

/// One configuration key.
pub(super) struct Key {
    /// The dotted name, such as `queue.max_age`.
    pub(super) name: &'static str,
    kind: ValueKind,
    pub(super) meaning: &'static str,
}

/// The type and range of a key's value, and the field that it sets.
enum ValueKind {
    Switch(Accessor<bool>),
    /// Zero, or a number in the range. Rates close to zero are excluded because their period would
    /// not fit a `Duration`.
    Rate(RangeInclusive<f64>, Accessor<f64>),
    Whole(RangeInclusive<u64>, Accessor<u64>),
    Size(RangeInclusive<u64>, Accessor<u64>),
    Time(RangeInclusive<Duration>, Accessor<Duration>),
    Text(Accessor<dyn Textual>),
}

type Accessor<T> = fn(&mut Config) -> &mut T;

impl Key {
    /// The name of the TOML table that contains the key; empty above the first table.
    fn table(&self) -> &'static str {
        self.name.rsplit_once('.').map_or("", |(table, _)| table)
    }

    /// The name of the key within its table.
    pub(super) fn last_name(&self) -> &'static str {
        self.name.rsplit_once('.').map_or(self.name, |(_, name)| name)
    }

    /// Sets the value in `config`. The error is one line with the problem and the allowed
    /// values.
    pub(super) fn set(&self, config: &mut Config, given: &RawValue<'_>) -> Result<(), String> {
        let wrong = match self.try_set(config, given) {
            Ok(()) => return Ok(()),
            Err(wrong) => wrong,
        };
        let write = self.correction(config, given).unwrap_or_else(|| self.allowed(config));
        let given = if self.is_secret(config) { "\"***\"".into() } else { given.to_string() };
        Err(format!("{given} {wrong}; write {write}"))
    }

    fn correction(&self, config: &mut Config, given: &RawValue<'_>) -> Option<String> {
        match &self.kind {
            Text(field) => field(config).correction(given.text().ok()?, self.table()),
            _ => None,
        }
    }

    pub(super) fn is_secret(&self, config: &mut Config) -> bool {
        matches!(&self.kind, Text(field) if field(config).is_secret())
    }

    /// The texts in this value that must never be logged.
    fn secrets(&self, config: &mut Config) -> Vec<String> {
        match &self.kind {
            Text(field) => field(config).secrets(),
            _ => Vec::new(),
        }
    }

    /// Whether the key is a secret and has a value.
    #[cfg(unix)]
    pub(super) fn holds_secret(&self, config: &mut Config) -> bool {
        self.is_secret(config) && !self.secrets(config).is_empty()
    }

    fn try_set(&self, config: &mut Config, given: &RawValue<'_>) -> Result<(), ParseError> {
        match &self.kind {
            Switch(field) => *field(config) = given.switch()?,
            Rate(range, field) => {
                let rate = given.number()?;
                *field(config) = if rate == 0.0 { rate } else { within(range, rate)? };
            }
            Whole(range, field) => *field(config) = within(range, given.whole()?)?,
            Size(range, field) => *field(config) = within(range, given.size()?)?,
            Time(range, field) => *field(config) = within(range, given.time()?)?,
            Text(field) => field(config).read(given.text()?)?,
        }
        Ok(())
    }

    /// The allowed values, as a phrase that follows "write".
    pub(super) fn allowed(&self, config: &mut Config) -> String {
        // The current value is an example that is certainly allowed.
        let now = self.show(config);
        match &self.kind {
            Switch(_) => "true or false".into(),
            Rate(range, _) => format!("0, or a number from {} to {}", range.start(), range.end()),
            Whole(range, _) => format!("a whole number from {} to {}", range.start(), range.end()),
            Size(range, _) => {
                let [min, max] = [range.start(), range.end()].map(|end| show_size(*end));
                format!("bytes, or a number and a unit such as {now:?} ({min} to {max})")
            }
            Time(range, _) => {
                let [min, max] = [range.start(), range.end()].map(|end| show_duration(*end));
                format!("a number and a unit such as {now:?} ({min} to {max})")
            }
            Text(field) => field(config).allowed(),
        }
    }

    /// The value in `config`, in the syntax of an environment variable or a flag.
    pub(super) fn show(&self, config: &mut Config) -> String {
        match &self.kind {
            Switch(field) => field(config).to_string(),
            Rate(_, field) => format!("{:?}", field(config)),
            Whole(_, field) => field(config).to_string(),
            Size(_, field) => show_size(*field(config)),
            Time(_, field) => show_duration(*field(config)),
            Text(field) => field(config).show(),
        }
    }

    /// The value in `config`, in TOML syntax.
    pub(super) fn show_toml(&self, config: &mut Config) -> String {
        let shown = self.show(config);
        match &self.kind {
            Switch(_) | Rate(..) | Whole(..) => shown,
            Size(..) | Time(..) | Text(_) => toml::Value::String(shown).to_string(),
        }
    }
}

fn within<T: PartialOrd>(range: &RangeInclusive<T>, value: T) -> Result<T, ParseError> {
    if range.contains(&value) { Ok(value) } else { Err(ParseError("is out of range")) }
}

/// Each key and its value, in the syntax of an environment variable or a flag.
pub fn values(config: &Config) -> Vec<(&'static str, String)> {
    // The only accessor of a field borrows it mutably, hence the clone.
    let mut config = config.clone();
    KEYS.iter().map(|key| (key.name, key.show(&mut config))).collect()
}

/// All texts of a configuration that must never be logged, even if a server sends them back.
pub(crate) fn secrets(config: &Config) -> Vec<String> {
    tables(config)
        .flat_map(|KeyTable { keys, mut config, .. }| {
            keys.iter().flat_map(move |key| key.secrets(&mut config))
        })
        .collect()
}

/// The reference of all keys as a Markdown table: default, meaning and allowed values.
pub fn reference() -> String {
    let mut config = Config::default();
    // The reference must not depend on the machine.
    config.queue.path = "<data directory>/pitwire/queue".into();
    let mut out =
        String::from("| key | default | meaning | allowed |\n| --- | --- | --- | --- |\n");
    for key in KEYS {
        let (value, allowed) = (key.show_toml(&mut config), key.allowed(&mut config));
        let _ = writeln!(out, "| `{}` | `{value}` | {} | {allowed} |", key.name, key.meaning);
    }
    out
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;
const SECOND: Duration = secs(1);
const MINUTE: Duration = secs(60);

const fn millis(number: u64) -> Duration {
    Duration::from_millis(number)
}

const fn secs(number: u64) -> Duration {
    Duration::from_secs(number)
}

const fn days(number: u64) -> Duration {
    Duration::from_hours(24 * number)
}

const fn key(name: &'static str, kind: ValueKind, meaning: &'static str) -> Key {
    Key { name, kind, meaning }
}
