//! The one table of keys: what each is called, what it may be, where it goes, what it means.
//!
//! File, environment, command line, messages and documentation are all read from [`KEYS`].

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::ops::RangeInclusive;
use std::time::Duration;

use Kind::{Rate, Size, Switch, Text, Time, Whole};

use super::destination::{self, standing_in};
use super::given::Given;
use super::units::{show_duration, show_size};
use super::values::Textual;
use super::{Config, LogConfig, QueueConfig, Wrong};
use crate::reload::Change;

/// Every key, a table's keys next to each other.
#[rustfmt::skip]
static KEYS: &[Key] = &[
    key("update_rate_hz", Rate(0.001..=1000.0, |c| &mut c.update_rate_hz),
        "Samples a second that a source hands on; 0 keeps every sample."),

    key("agent.name", Text(|c| &mut c.agent.name),
        "What this PC is called on NATS, where no other may have the name; none takes the PC's own."),

    key("server.url", Text(|c| &mut c.server.url),
        "The dashboard server, http or https, where a path prefix is kept; or a NATS server with JetStream, nats or tls, with commas between the nodes of a cluster."),
    key("server.session_id", Text(|c| &mut c.server.session_id),
        "The session on the server; \"auto\" asks the server for one."),
    key("server.token", Text(|c| &mut c.server.token),
        "Sent as `Authorization: Bearer …` and, unless auth is set, as the Socket.IO auth `{token}`; to NATS as its token."),
    key("server.token_file", Text(|c| &mut c.server.token_file),
        "A file with the token, read anew for each connection."),
    key("server.headers", Text(|c| &mut c.server.headers),
        "HTTP headers for a proxy in front of the server."),
    key("server.auth", Text(|c| &mut c.server.auth),
        "The Socket.IO auth payload."),
    key("server.ca_file", Text(|c| &mut c.server.ca_file),
        "A certificate authority to trust besides the system's, PEM; for NATS, in their place."),
    key("server.credentials_file", Text(|c| &mut c.server.credentials_file),
        "NATS: a .creds file, read anew for each connection."),
    key("server.stream_replicas", Whole(1..=5, |c| &mut c.server.stream_replicas),
        "NATS: servers that keep a copy of a stream that the agent makes."),
    key("server.stream_max_age", Time(secs(3600)..=days(365), |c| &mut c.server.stream_max_age),
        "NATS: how long a stream that the agent makes keeps an entry."),

    key("queue.path", Text(|c| &mut c.queue.path),
        "The directory of the queue."),
    key("queue.max_entries", Whole(1..=1_000_000_000, |c| &mut c.queue.max_entries),
        "Entries that the queue holds at most."),
    key("queue.max_bytes", Size(16 * MIB..=TIB, |c| &mut c.queue.max_bytes),
        "Bytes that the queue takes on the disk at most, all included."),
    key("queue.max_age", Time(MINUTE..=days(365), |c| &mut c.queue.max_age),
        "An entry older than this is dropped."),
    key("queue.when_full", Text(|c| &mut c.queue.when_full),
        "What gives way when the queue is full: the resolution of the oldest frames, the oldest or the newest entry; or a file waits."),
    key("queue.durability", Text(|c| &mut c.queue.durability),
        "When a stored entry is safe from a power cut: at once, within this time, or when the system writes it."),

    key("stint.resume_after", Time(Duration::ZERO..=days(7), |c| &mut c.stint.resume_after),
        "A restart after a silence up to this continues the stint and its dashboard page."),

    key("delivery.open_timeout", Time(SECOND..=secs(120), |c| &mut c.delivery.open_timeout),
        "From the start of a connection to a bound session, at most."),
    key("delivery.proof_timeout", Time(millis(100)..=secs(120), |c| &mut c.delivery.proof_timeout),
        "From a published batch to its proof, at most."),
    key("delivery.verify_interval", Time(Duration::ZERO..=secs(9), |c| &mut c.delivery.verify_interval),
        "Between two checks that the server still knows the session; 0s never asks."),
    key("delivery.batch_max_entries", Whole(1..=1024, |c| &mut c.delivery.batch_max_entries),
        "Entries in one batch, at most; a slow server gets fewer."),
    key("delivery.batch_max_bytes", Size(KIB..=MIB, |c| &mut c.delivery.batch_max_bytes),
        "Bytes of JSON in one batch, at most; a larger entry goes alone."),
    key("delivery.proof", Text(|c| &mut c.delivery.proof),
        "The proof that an entry must have before it leaves the queue."),
    key("delivery.mark", Switch(|c| &mut c.delivery.mark),
        "Adds the entry's seq to what the server gets, as telemetry.seq."),
    key("delivery.max_rate", Rate(0.001..=100_000.0, |c| &mut c.delivery.max_rate),
        "Entries a second while a backlog is replayed; 0 sets no limit."),
    key("delivery.backoff_min", Time(millis(10)..=secs(10), |c| &mut c.delivery.backoff_min),
        "The first wait before a new connection."),
    key("delivery.backoff_max", Time(millis(10)..=secs(600), |c| &mut c.delivery.backoff_max),
        "The longest wait before a new connection; at least backoff_min."),

    key("source.lmu.enabled", Switch(|c| &mut c.source.lmu.enabled),
        "Reads Le Mans Ultimate and rFactor 2 when they run on this PC."),
    key("source.lmu.units", Text(|c| &mut c.source.lmu.units),
        "\"label\" sends what the dashboard's labels say: PSI, °C, % used; \"upstream\" the original client's kPa, kelvin and 1.0 for a new tyre."),
    key("source.lmu.folder", Text(|c| &mut c.source.lmu.folder),
        "Where the game's shared memory lies as files, on Linux."),
    key("source.lmu.rest", Text(|c| &mut c.source.lmu.rest),
        "The game's REST API, which gives the car's setup."),

    key("source.stdin.enabled", Switch(|c| &mut c.source.stdin.enabled),
        "Reads one JSON sample a line from standard input."),
    key("source.stdin.receipts", Switch(|c| &mut c.source.stdin.receipts),
        "Prints the line number and the seq of each stored line."),
    key("source.http.enabled", Switch(|c| &mut c.source.http.enabled),
        "Takes samples and setups over HTTP."),
    key("source.http.listen", Text(|c| &mut c.source.http.listen),
        "Where the HTTP source listens; port 0 takes a free one."),
    key("source.http.token", Text(|c| &mut c.source.http.token),
        "What each client must send as `Authorization: Bearer …`; required where other machines can connect."),
    key("source.http.token_file", Text(|c| &mut c.source.http.token_file),
        "A file with that token."),
    key("source.socketio.enabled", Switch(|c| &mut c.source.socketio.enabled),
        "Stands in as a dashboard server for a publisher that you have already."),
    key("source.socketio.listen", Text(|c| &mut c.source.socketio.listen),
        "Where it does so: the publisher's server_url; port 0 takes a free one."),
    key("source.socketio.token", Text(|c| &mut c.source.socketio.token),
        "What each publisher must send as `Authorization: Bearer …` or `?token=…`; required where other machines can connect."),
    key("source.socketio.token_file", Text(|c| &mut c.source.socketio.token_file),
        "A file with that token."),
    key("source.nats.enabled", Switch(|c| &mut c.source.nats.enabled),
        "Takes what the agents of a league publish to a NATS server: this one is a hub."),
    key("source.nats.url", Text(|c| &mut c.source.nats.url),
        "That server, nats or tls, with commas between the nodes of a cluster."),
    key("source.nats.token", Text(|c| &mut c.source.nats.token),
        "Its token."),
    key("source.nats.token_file", Text(|c| &mut c.source.nats.token_file),
        "A file with the token, read anew for each connection."),
    key("source.nats.credentials_file", Text(|c| &mut c.source.nats.credentials_file),
        "A .creds file, read anew for each connection."),
    key("source.nats.ca_file", Text(|c| &mut c.source.nats.ca_file),
        "A certificate authority to trust in the place of the system's, PEM."),
    key("source.nats.agents", Text(|c| &mut c.source.nats.agents),
        "The agents to take from; none takes from all."),
    key("source.nats.durable", Text(|c| &mut c.source.nats.durable),
        "The name by which the server remembers what was delivered; hubs of one name share the agents."),
    key("source.file.path", Text(|c| &mut c.source.file.path),
        "A recording to play; none turns the source off."),
    key("source.file.speed", Rate(0.001..=10_000.0, |c| &mut c.source.file.speed),
        "How many times faster than recorded; 0 is as fast as it can be stored."),
    key("source.simulator.enabled", Switch(|c| &mut c.source.simulator.enabled),
        "Drives a simulated car."),
    key("source.simulator.seed", Whole(0..=u64::MAX, |c| &mut c.source.simulator.seed),
        "The same seed drives the same race."),

    key("metrics.enabled", Switch(|c| &mut c.metrics.enabled),
        "Serves the page of the agent, /metrics, /healthz and /readyz, and answers `pitwire queue` and `pitwire reload`."),
    key("metrics.listen", Text(|c| &mut c.metrics.listen),
        "Where they are served; port 0 takes a free one."),
    key("metrics.token", Text(|c| &mut c.metrics.token),
        "What other machines must send as `Authorization: Bearer …` for /metrics, /healthz and /readyz; required where they can connect."),
    key("metrics.token_file", Text(|c| &mut c.metrics.token_file),
        "A file with that token."),

    key("serve.token", Text(|c| &mut c.serve.token),
        "`pitwire serve`: what publishers send as their server.token, and viewers have in their link; required where other machines can connect."),
    key("serve.token_file", Text(|c| &mut c.serve.token_file),
        "A file with that token."),

    key("log.level", Text(|c| &mut c.log.level),
        "The least important line that is still logged."),
    key("log.format", Text(|c| &mut c.log.format),
        "How a log line is written."),
    key("log.file", Text(|c| &mut c.log.file),
        "Writes the log there and not to standard error: this file and an older one, 4 MiB each at most."),
];

/// The key of that dotted name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// Whether keys lie below that dotted name.
pub(super) fn is_table(name: &str) -> bool {
    destination::is_table(name) || tables().any(|table| table == name)
}

/// The key or table that `name` probably was meant to be.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    nearest_of(name, KEYS.iter().map(|key| key.name).chain(tables()))
}

/// The one of `known` that `name` probably was meant to be.
pub(super) fn nearest_of(
    name: &str,
    known: impl Iterator<Item = &'static str>,
) -> Option<&'static str> {
    let name = name.to_lowercase();
    // Without its table, as at the top of a file.
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

/// `source`, `source.stdin`, …: each dotted beginning of a key, some more than once.
fn tables() -> impl Iterator<Item = &'static str> {
    KEYS.iter().flat_map(|key| key.name.match_indices('.').map(|(dot, _)| &key.name[..dot]))
}

/// Bytes to insert, remove or replace to make one of the other.
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

/// One line of the table.
pub(super) struct Key {
    /// Dotted, as in `queue.max_age`.
    pub(super) name: &'static str,
    kind: Kind,
    meaning: &'static str,
}

/// What a key may be, and where in the configuration it goes.
enum Kind {
    Switch(Field<bool>),
    /// Zero, or a number in the range. A rate close to zero is out of it: its period would not
    /// fit a `Duration`.
    Rate(RangeInclusive<f64>, Field<f64>),
    Whole(RangeInclusive<u64>, Field<u64>),
    Size(RangeInclusive<u64>, Field<u64>),
    Time(RangeInclusive<Duration>, Field<Duration>),
    Text(Field<dyn Textual>),
}

type Field<T> = fn(&mut Config) -> &mut T;

impl Key {
    /// Puts the value into `config`, or says in one line why it cannot be and what could.
    pub(super) fn set(&self, config: &mut Config, given: &Given<'_>) -> Result<(), String> {
        let wrong = match self.try_set(config, given) {
            Ok(()) => return Ok(()),
            Err(wrong) => wrong,
        };
        let given = if self.is_secret(config) { "\"***\"".into() } else { given.to_string() };
        Err(format!("{given} {wrong}; write {}", self.allowed(config)))
    }

    fn is_secret(&self, config: &mut Config) -> bool {
        matches!(&self.kind, Text(field) if field(config).is_secret())
    }

    /// The texts in this value that no log may repeat.
    fn secrets(&self, config: &mut Config) -> Vec<String> {
        match &self.kind {
            Text(field) => field(config).secrets(),
            _ => Vec::new(),
        }
    }

    /// Whether it is a secret that is set.
    #[cfg(unix)]
    pub(super) fn holds_secret(&self, config: &mut Config) -> bool {
        self.is_secret(config) && !self.show(config).is_empty()
    }

    fn try_set(&self, config: &mut Config, given: &Given<'_>) -> Result<(), Wrong> {
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

    /// What can be written, in words that follow "write".
    fn allowed(&self, config: &mut Config) -> String {
        // An example that is sure to be allowed.
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

    /// The value in `config` as a variable or a flag takes it.
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

    /// The value in `config` as a TOML file takes it.
    fn show_toml(&self, config: &mut Config) -> String {
        let shown = self.show(config);
        match &self.kind {
            Switch(_) | Rate(..) | Whole(..) => shown,
            Size(..) | Time(..) | Text(_) => toml::Value::String(shown).to_string(),
        }
    }
}

fn within<T: PartialOrd>(range: &RangeInclusive<T>, value: T) -> Result<T, Wrong> {
    if range.contains(&value) { Ok(value) } else { Err(Wrong("is out of range")) }
}

fn span<T>(range: &RangeInclusive<T>, show: impl Fn(&T) -> String) -> String {
    format!("{} to {}", show(range.start()), show(range.end()))
}

/// Whether a key takes effect while the agent runs, or only when it is started again.
fn is_live(key: &str) -> bool {
    let is_of = |table: &str| key.strip_prefix(table).is_some_and(|rest| rest.starts_with('.'));
    let of_queue = is_of("queue") && key != "queue.path";
    of_queue
        || is_of("server")
        || is_of("delivery")
        || ["update_rate_hz", "log.level"].contains(&key)
}

impl Config {
    /// What is another in `new`.
    pub(crate) fn changes(&self, new: &Self) -> Vec<Change> {
        let (mut old, mut new) = (self.clone(), new.clone());
        let change = |key: &Key| {
            let values = (key.show(&mut old), key.show(&mut new));
            if values.0 == values.1 {
                return None;
            }
            let is_secret = key.is_secret(&mut old);
            let shown = |value: String| match value.is_empty() || !is_secret {
                true => value,
                false => "***".into(),
            };
            let (key, needs_restart) = (key.name.to_owned(), !is_live(key.name));
            Some(Change { key, old: shown(values.0), new: shown(values.1), needs_restart })
        };
        let mut changes: Vec<_> = KEYS.iter().filter_map(change).collect();
        changes.extend(self.changed_destinations(&new));
        changes
    }

    fn changed_destinations(&self, new: &Self) -> Vec<Change> {
        let names: BTreeSet<_> = self.destinations.keys().chain(new.destinations.keys()).collect();
        let url = |config: &Self, name: &String| {
            config.destinations.get(name).map(|server| server.url.to_string()).unwrap_or_default()
        };
        let changed = names
            .into_iter()
            .filter(|name| self.destinations.get(*name) != new.destinations.get(*name));
        let change = |name: &String| Change {
            key: destination::named("server.url", Some(name)),
            old: url(self, name),
            new: url(new, name),
            needs_restart: true,
        };
        changed.map(change).collect()
    }

    /// The configuration of a program for which another destination is `[server]`.
    pub(crate) fn towards(&self, destination: &str) -> Self {
        let mut config = self.clone();
        destination::swap(&mut config, destination);
        config
    }

    /// `new`, but for what cannot change while the agent runs.
    pub(crate) fn taking_over(&self, new: Self) -> Self {
        Self {
            update_rate_hz: new.update_rate_hz,
            server: new.server,
            queue: QueueConfig { path: self.queue.path.clone(), ..new.queue },
            delivery: new.delivery,
            log: LogConfig { level: new.log.level, ..self.log.clone() },
            ..self.clone()
        }
    }
}

/// Each key and its value, as a variable or a flag takes it.
pub fn values(config: &Config) -> Vec<(&'static str, String)> {
    // A field is reached by one function, which lends it for change too: hence the copy.
    let mut config = config.clone();
    KEYS.iter().map(|key| (key.name, key.show(&mut config))).collect()
}

/// Every text of a configuration that no log may repeat, whatever a server sends.
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

/// The configuration as a TOML file, with what each key means above it.
pub fn to_toml(config: &Config) -> String {
    toml_file(config, |out, key, dotted, config| {
        let (allowed, value) = (key.allowed(config), key.show_toml(config));
        let _ =
            writeln!(out, "# {}\n# Write {allowed}.\n{} = {value}", key.meaning, last_word(dotted));
    })
}

/// The same with the origin of each key beside it, and without secrets.
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

/// One line or more for each key, below the head of its table.
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

/// A text in which the keys of `[server]` are those of a destination.
pub fn with_keys_of(text: &str, destination: &str) -> String {
    of_server().fold(text.to_owned(), |text, key| {
        text.replace(key.name, &destination::named(key.name, Some(destination)))
    })
}

/// The keys of `[server]`, and so of a destination.
fn of_server() -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(|key| key.name.starts_with("server."))
}

/// The table of all keys, their defaults and what they may be, in Markdown.
pub fn reference() -> String {
    let mut config = Config::default();
    // The same text on every machine.
    config.queue.path = "<data directory>/pitwire/queue".into();
    let mut out =
        String::from("| key | default | what it is | allowed |\n| --- | --- | --- | --- |\n");
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
