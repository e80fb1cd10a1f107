//! The table of configuration keys: name, allowed values, target field and meaning.
//!
//! Parsing of the file, the environment and the command line, error messages and the reference
//! documentation all use [`KEYS`].

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::ops::RangeInclusive;
use std::time::Duration;

use Kind::{Rate, Size, Switch, Text, Time, Whole};

use super::change::Change;
use super::destination::{self, standing_in};
use super::raw_value::RawValue;
use super::units::{show_duration, show_size};
use super::values::Textual;
use super::{Config, LogConfig, ParseError, QueueConfig, SERVER, ServerConfig};

/// All keys. The keys of a TOML table are adjacent.
#[rustfmt::skip]
static KEYS: &[Key] = &[
    key("update_rate_hz", Rate(0.001..=1000.0, |c| &mut c.update_rate_hz),
        "The maximum sample rate of a source; faster samples are rate-limited. 0 keeps every sample."),

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
        "Entries older than this are dropped."),
    key("queue.when_full", Text(|c| &mut c.queue.when_full),
        "What a full queue does: downsample the oldest frames, drop the oldest or the newest entry, or make a recording wait."),
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
        "The recording to replay; empty turns the source off."),
    key("source.file.speed", Rate(0.001..=10_000.0, |c| &mut c.source.file.speed),
        "The replay speed as a multiple of real time; 0 replays as fast as entries can be stored."),
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

/// Finds a key by its dotted name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// Whether `name` is a table that contains keys.
pub(super) fn is_table(name: &str) -> bool {
    destination::is_table(name) || tables().any(|table| table == name)
}

/// The key or table whose name is closest to a misspelled `name`, if one is close enough.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    nearest_of(name, KEYS.iter().map(|key| key.name).chain(tables()))
}

/// The element of `known` that is closest to a misspelled `name`, if one is close enough.
pub(super) fn nearest_of(
    name: &str,
    known: impl Iterator<Item = &'static str>,
) -> Option<&'static str> {
    let name = name.to_lowercase();
    // The key without its table, as written at the top of a file.
    let inside = format!(".{name}");
    let typos = |known: &'static str| {
        let limit = 3.min(known.len() / 3);
        let typos = match known.len().abs_diff(name.len()) {
            _ if known.ends_with(&inside) => 0,
            difference if difference > limit => return None,
            _ => edit_distance(known, &name),
        };
        (typos <= limit).then_some((typos, known))
    };
    known.filter_map(typos).min().map(|(_, known)| known)
}

/// All tables (`source`, `source.stdin`, …), with repetitions.
fn tables() -> impl Iterator<Item = &'static str> {
    KEYS.iter().flat_map(|key| key.name.match_indices('.').map(|(dot, _)| &key.name[..dot]))
}

/// The Levenshtein distance in bytes.
fn edit_distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.bytes().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, b) in other.bytes().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

/// One configuration key.
pub(super) struct Key {
    /// The dotted name, such as `queue.max_age`.
    pub(super) name: &'static str,
    kind: Kind,
    meaning: &'static str,
}

/// The type and range of a key's value, and the field that it sets.
enum Kind {
    Switch(Field<bool>),
    /// Zero, or a number in the range. Rates close to zero are excluded because their period would
    /// not fit a `Duration`.
    Rate(RangeInclusive<f64>, Field<f64>),
    Whole(RangeInclusive<u64>, Field<u64>),
    Size(RangeInclusive<u64>, Field<u64>),
    Time(RangeInclusive<Duration>, Field<Duration>),
    Text(Field<dyn Textual>),
}

type Field<T> = fn(&mut Config) -> &mut T;

impl Key {
    /// Sets the value in `config`. The error is one line: what is wrong, and which values are
    /// allowed.
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
            Text(field) => field(config).correction(given.text().ok()?),
            _ => None,
        }
    }

    fn is_secret(&self, config: &mut Config) -> bool {
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
    fn allowed(&self, config: &mut Config) -> String {
        // The current value is an example that is certainly allowed.
        let now = self.show(config);
        let size = |bytes: &u64| show_size(*bytes);
        let time = |duration: &Duration| show_duration(*duration);
        match &self.kind {
            Switch(_) => "true or false".into(),
            Rate(range, _) => format!("0, or a number from {}", span(range, f64::to_string)),
            Whole(range, _) => format!("a whole number from {}", span(range, u64::to_string)),
            Size(range, _) => {
                format!("bytes, or a number and a unit such as {now:?} ({})", span(range, size))
            }
            Time(range, _) => {
                format!("a number and a unit such as {now:?} ({})", span(range, time))
            }
            Text(field) => field(config).allowed(),
        }
    }

    /// The value in `config`, in the syntax of an environment variable or a flag.
    fn show(&self, config: &mut Config) -> String {
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
    fn show_toml(&self, config: &mut Config) -> String {
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

fn span<T>(range: &RangeInclusive<T>, show: impl Fn(&T) -> String) -> String {
    format!("{} to {}", show(range.start()), show(range.end()))
}

/// Whether a key takes effect while the agent runs; the others need a restart.
fn is_live(key: &str) -> bool {
    let is_of = |table: &str| key.strip_prefix(table).is_some_and(|rest| rest.starts_with('.'));
    let of_queue = is_of("queue") && key != "queue.path";
    of_queue
        || is_of("server")
        || is_of("delivery")
        || ["update_rate_hz", "log.level"].contains(&key)
}

impl Config {
    /// Lists the keys whose values differ in `new`.
    pub(crate) fn changes(&self, new: &Self) -> Vec<Change> {
        let mut changes = changed(KEYS.iter(), self, new);
        let names: BTreeSet<_> = self.destinations.keys().chain(new.destinations.keys()).collect();
        for name in names {
            let key = |key: &str| destination::named(key, Some(name));
            let url = |server: Option<&ServerConfig>| server.map(|server| server.url.to_string());
            let (old, other) = (self.destinations.get(name), new.destinations.get(name));
            if old.is_some() && other.is_some() {
                let changed = changed(of_server(), &self.towards(name), &new.towards(name));
                changes.extend(changed.into_iter().map(|c| Change { key: key(&c.key), ..c }));
            } else {
                let (old, new) = (url(old).unwrap_or_default(), url(other).unwrap_or_default());
                changes.push(Change { key: key("server.url"), old, new, needs_restart: true });
            }
        }
        changes
    }

    /// The names of all destinations. `[server]` is the first, with the name [`SERVER`].
    pub(crate) fn destination_names(&self) -> Vec<String> {
        [SERVER.to_owned()].into_iter().chain(self.destinations.keys().cloned()).collect()
    }

    /// Returns the configuration with `destination` in place of `[server]`.
    pub(crate) fn towards(&self, destination: &str) -> Self {
        let mut config = self.clone();
        if destination != SERVER {
            destination::swap(&mut config, destination);
        }
        config
    }

    /// Merges `new` into this configuration: keys that need a restart keep their old values.
    pub(crate) fn taking_over(&self, new: Self) -> Self {
        let mut destinations = self.destinations.clone();
        for (name, server) in &mut destinations {
            *server = new.destinations.get(name).unwrap_or(server).clone();
        }
        Self {
            update_rate_hz: new.update_rate_hz,
            server: new.server,
            destinations,
            queue: QueueConfig { path: self.queue.path.clone(), ..new.queue },
            delivery: new.delivery,
            log: LogConfig { level: new.log.level, ..self.log.clone() },
            ..self.clone()
        }
    }
}

/// The keys among `keys` whose values differ.
fn changed<'a>(keys: impl Iterator<Item = &'a Key>, old: &Config, new: &Config) -> Vec<Change> {
    // The only accessor of a field borrows it mutably, hence the clones.
    let (mut old, mut new) = (old.clone(), new.clone());
    let mut changes = Vec::new();
    for key in keys {
        let [before, after] = [key.show(&mut old), key.show(&mut new)];
        if before == after {
            continue;
        }
        let is_secret = key.is_secret(&mut old);
        let show =
            |value: String| if is_secret && !value.is_empty() { "***".into() } else { value };
        let (key, needs_restart) = (key.name.to_owned(), !is_live(key.name));
        changes.push(Change { key, old: show(before), new: show(after), needs_restart });
    }
    changes
}

/// Each key and its value, in the syntax of an environment variable or a flag.
pub fn values(config: &Config) -> Vec<(&'static str, String)> {
    // The only accessor of a field borrows it mutably, hence the clone.
    let mut config = config.clone();
    KEYS.iter().map(|key| (key.name, key.show(&mut config))).collect()
}

/// All texts of a configuration that must never be logged, even if a server sends them back.
pub(crate) fn secrets(config: &Config) -> Vec<String> {
    let mut config = config.clone();
    let mut secrets: Vec<_> = KEYS.iter().flat_map(|key| key.secrets(&mut config)).collect();
    for name in config.destinations.clone().into_keys() {
        standing_in(&mut config, &name, |config| {
            secrets.extend(of_server().flat_map(|key| key.secrets(config)));
        });
    }
    secrets
}

/// The configuration as a TOML file, with the meaning of each key in a comment above it.
pub fn to_toml(config: &Config) -> String {
    toml_file(config, |out, key, dotted, config| {
        let (allowed, value) = (key.allowed(config), key.show_toml(config));
        let _ =
            writeln!(out, "# {}\n# Write {allowed}.\n{} = {value}", key.meaning, last_word(dotted));
    })
}

/// The configuration as a TOML file, with the origin of each key in a comment and secrets hidden.
pub(super) fn to_toml_from(config: &Config, origin: impl Fn(&str) -> String) -> String {
    toml_file(config, |out, key, dotted, config| {
        let value = match key.show_toml(config) {
            value if key.is_secret(config) && value != "\"\"" => "\"***\"".into(),
            value => value,
        };
        let _ = writeln!(out, "{} = {value} # {}", last_word(dotted), origin(dotted));
    })
}

fn last_word(dotted: &str) -> &str {
    dotted.rsplit('.').next().unwrap_or(dotted)
}

/// Writes a TOML file: calls `line` for each key, below the header of its table.
fn toml_file(config: &Config, line: impl Fn(&mut String, &Key, &str, &mut Config)) -> String {
    let mut config = config.clone();
    let mut out = String::new();
    let mut table = "";
    for key in KEYS {
        let (above, _) = key.name.rsplit_once('.').unwrap_or(("", key.name));
        if above != table {
            table = above;
            let _ = writeln!(out, "\n[{table}]");
        }
        line(&mut out, key, key.name, &mut config);
    }
    for name in config.destinations.clone().into_keys() {
        let _ = writeln!(out, "\n[destination.{name}]");
        standing_in(&mut config, &name, |config| {
            for key in of_server() {
                line(&mut out, key, &destination::named(key.name, Some(&name)), config);
            }
        });
    }
    out
}

/// The table of a destination, such as `server` or `destination.league`.
pub(crate) fn table_of(destination: &str) -> String {
    if destination == SERVER {
        SERVER.into()
    } else {
        format!("{}.{destination}", destination::TABLE)
    }
}

/// Replaces the key names of `[server]` in a text with those of a destination.
pub fn with_keys_of(text: &str, destination: &str) -> String {
    if destination == SERVER {
        return text.to_owned();
    }
    of_server().fold(text.to_owned(), |text, key| {
        text.replace(key.name, &destination::named(key.name, Some(destination)))
    })
}

/// The keys of `[server]`, which are also the keys of a destination.
fn of_server() -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(|key| key.name.starts_with("server."))
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

const fn key(name: &'static str, kind: Kind, meaning: &'static str) -> Key {
    Key { name, kind, meaning }
}
