//! Configuration loading as an operator sees it: sources, precedence, and the message for each
//! mistake.

use std::fs;
use std::iter;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pitwire::config::{
    Config, Durability, Loaded, LogLevel, Overrides, Problems, ProofChoice, Secret, ServerUrl,
    SessionChoice, WhenFull, load, reference, to_toml, values,
};
use proptest::prelude::*;

/// Settings of an operator; a file comes with the name under which it is stored.
#[derive(Default)]
struct Sources<'a> {
    file: Option<(&'a str, &'a [u8])>,
    variables: &'a [(&'a str, &'a str)],
    flags: &'a [(&'a str, &'a str, &'a str)],
}

fn toml(text: &str) -> Sources<'_> {
    Sources { file: Some(("pitwire.toml", text.as_bytes())), ..Sources::default() }
}

fn json(text: &str) -> Sources<'_> {
    Sources { file: Some(("config.json", text.as_bytes())), ..Sources::default() }
}

fn variables<'a>(variables: &'a [(&'a str, &'a str)]) -> Sources<'a> {
    Sources { variables, ..Sources::default() }
}

fn flags<'a>(flags: &'a [(&'a str, &'a str, &'a str)]) -> Sources<'a> {
    Sources { flags, ..Sources::default() }
}

fn read(given: &Sources<'_>) -> Result<Loaded, Problems> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = given.file.map(|(name, bytes)| {
        let path = directory.path().join(name);
        fs::write(&path, bytes).expect("a file");
        path
    });
    let owned = |text: &&str| (*text).to_owned();
    let environment = given.variables.iter().map(|(name, value)| (owned(name), owned(value)));
    let flags =
        given.flags.iter().map(|(key, value, typed)| (owned(key), owned(value), owned(typed)));
    load(path.as_deref(), environment, &Overrides(flags.collect()))
}

fn config(given: &Sources<'_>) -> Config {
    read(given).unwrap_or_else(|problems| panic!("{problems}")).config
}

/// The messages about an invalid configuration, without the directory of the file.
fn complaints(given: &Sources<'_>) -> Vec<String> {
    let problems = read(given).expect_err("a wrong configuration");
    let name = |line: &str| match given.file {
        Some((name, _)) => match line.find(name) {
            Some(at) => line[at..].to_owned(),
            None => line.to_owned(),
        },
        None => line.to_owned(),
    };
    problems.to_string().lines().map(name).collect()
}

#[test]
fn an_empty_configuration_gives_the_defaults() {
    let loaded = read(&Sources::default()).expect("the default is valid");
    assert_eq!(loaded.config, Config::default());
    assert_eq!(config(&toml("")), Config::default());
    assert_eq!(config(&json("{}")), Config::default());
}

#[test]
fn each_mistake_is_reported_in_one_line_with_advice() {
    let long_id = format!("server.session_id = \"{}\"", "x".repeat(129));
    #[rustfmt::skip]
    let mistakes: &[(Sources<'_>, &str)] = &[
        // Numbers and switches.
        (toml("update_rate_hz = 1001"),
            "pitwire.toml:1: update_rate_hz: 1001 is out of range; write 0, or a number from 0.001 to 1000"),
        (toml("update_rate_hz = nan"),
            "pitwire.toml:1: update_rate_hz: nan is out of range; write 0, or a number from 0.001 to 1000"),
        (toml("update_rate_hz = 1e-300"),
            "pitwire.toml:1: update_rate_hz: 1e-300 is out of range; write 0, or a number from 0.001 to 1000"),
        (toml("\nupdate_rate_hz = \"2.0\""),
            "pitwire.toml:2: update_rate_hz: \"2.0\" is text and not a number; write 0, or a number from 0.001 to 1000"),
        (toml("[queue]\nmax_entries = 0"),
            "pitwire.toml:2: queue.max_entries: 0 is out of range; write a whole number from 1 to 1000000000"),
        (toml("[queue]\nmax_entries = -1"),
            "pitwire.toml:2: queue.max_entries: -1 is out of range; write a whole number from 1 to 1000000000"),
        (toml("[delivery]\nbatch_max_entries = 2.5"),
            "pitwire.toml:2: delivery.batch_max_entries: 2.5 is not a whole number; write a whole number from 1 to 1024"),
        (toml("[delivery]\nmark = \"yes\""),
            "pitwire.toml:2: delivery.mark: \"yes\" is not a switch; write true or false"),
        // Durations and sizes.
        (toml("[queue]\nmax_age = \"soon\""),
            "pitwire.toml:2: queue.max_age: \"soon\" is not a duration; write a number and a unit such as \"7d\" (1min to 365d)"),
        (toml("[queue]\nmax_age = 30"),
            "pitwire.toml:2: queue.max_age: 30 has no unit; write a number and a unit such as \"7d\" (1min to 365d)"),
        (toml("[queue]\nmax_age = \"366d\""),
            "pitwire.toml:2: queue.max_age: \"366d\" is out of range; write a number and a unit such as \"7d\" (1min to 365d)"),
        (toml("[queue]\nmax_bytes = \"2 gigs\""),
            "pitwire.toml:2: queue.max_bytes: \"2 gigs\" is not a size; write bytes, or a number and a unit such as \"2GiB\" (16MiB to 1TiB)"),
        (toml("[queue]\nmax_bytes = 1000"),
            "pitwire.toml:2: queue.max_bytes: 1000 is out of range; write bytes, or a number and a unit such as \"2GiB\" (16MiB to 1TiB)"),
        (toml("[queue]\ndurability = \"1ms\""),
            "pitwire.toml:2: queue.durability: \"1ms\" is out of range; write \"entry\", \"os\", or a number and a unit such as \"200ms\" (10ms to 1min)"),
        // Words, paths, addresses.
        (toml("[queue]\nwhen_full = \"wait\""),
            "pitwire.toml:2: queue.when_full: \"wait\" is not one of the choices; write \"downsample\" or \"drop_oldest\" or \"drop_newest\" or \"block\""),
        (toml("[log]\nlevel = 3"),
            "pitwire.toml:2: log.level: 3 is not text; write \"off\" or \"error\" or \"warn\" or \"info\" or \"debug\" or \"trace\""),
        (toml("[queue]\npath = \"\""),
            "pitwire.toml:2: queue.path: \"\" is empty; write the full path of a directory"),
        (toml("[queue]\npath = \"~/queue\""),
            "pitwire.toml:2: queue.path: \"~/queue\" begins with \"~\", which is not expanded; write the full path of a directory"),
        // Paths of Windows between double quotes.
        (toml("[queue]\npath = \"C:\\Users\\Zoe\\q\""),
            "pitwire.toml:2: is not TOML: too few unicode value digits, expected unicode hexadecimal value; write each \\ twice between double quotes (\"C:\\\\pit\"), or the text between single quotes ('C:\\pit')"),
        (toml("[server]\nca_file = \"D:\\certs\\pit.pem\" # mine"),
            "pitwire.toml:2: is not TOML: missing escaped value, expected `b`, `e`, `f`, `n`, `r`, `\\`, `\"`, `x`, `u`, `U`; write each \\ twice between double quotes (\"C:\\\\pit\"), or the text between single quotes ('C:\\pit')"),
        (toml("[queue]\npath = \"C:\\temp\\new\""),
            "pitwire.toml:2: queue.path: \"C:\\temp\\new\" has a control character; write each \\ twice between double quotes (\"C:\\\\pit\"), or the text between single quotes ('C:\\pit')"),
        (toml("server.token_file = \"C:\\token\""),
            "pitwire.toml:1: server.token_file: \"C:\\token\" has a control character; write each \\ twice between double quotes (\"C:\\\\pit\"), or the text between single quotes ('C:\\pit')"),
        (toml("[metrics]\nlisten = \"localhost:9184\""),
            "pitwire.toml:2: metrics.listen: \"localhost:9184\" is not an IP address and a port; write an IP address and a port such as \"127.0.0.1:9184\""),
        (toml("[server]\nurl = \"localhost:5000\""),
            "pitwire.toml:2: server.url: \"localhost:5000\" does not begin with a scheme such as http://; write \"http://localhost:5000\""),
        (toml("[server]\nurl = \"http://\""),
            "pitwire.toml:2: server.url: \"http://\" is not an address; write an address such as \"http://localhost:5000\" or \"nats://localhost:4222\""),
        (toml("[server]\nurl = \"https://team:secret@example.org\""),
            "pitwire.toml:2: server.url: \"***@example.org\" has a user name or a password in it; write \"https://example.org\", and server.headers = \"Authorization: Basic …\", where … is user:password in base64"),
        (toml("[server]\nurl = \"https://team:p@ss@example.org\""),
            "pitwire.toml:2: server.url: \"***@example.org\" has a user name or a password in it; write the address without them, and server.headers = \"Authorization: Basic …\", where … is user:password in base64"),
        (toml("[server]\nurl = \"nats://team:secret@pit\""),
            "pitwire.toml:2: server.url: \"***@pit\" has a user name or a password in it; write \"nats://pit\", and a token in server.token, or the path of a .creds file in server.credentials_file"),
        (toml("[source.nats]\nurl = \"tls://secret@pit\""),
            "pitwire.toml:2: source.nats.url: \"***@pit\" has a user name or a password in it; write \"tls://pit\", and a token in source.nats.token, or the path of a .creds file in source.nats.credentials_file"),
        (toml("[server]\nurl = \"https://example.org/?token=secret\""),
            "pitwire.toml:2: server.url: \"https://example.org/?***\" has a query or a fragment; write \"https://example.org\""),
        (toml("[server]\nurl = \"http://pit:5000/socket.io/\""),
            "pitwire.toml:2: server.url: \"http://pit:5000/socket.io/\" ends with /socket.io, which pitwire adds; write \"http://pit:5000\""),
        (toml("server.session_id = \"a b\""),
            "pitwire.toml:1: server.session_id: \"a b\" is not a session id; write \"auto\", or an id of 1 to 128 letters, digits, \"_\" and \"-\""),
        (toml(&long_id),
            "pitwire.toml:1: server.session_id: \"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…\" is not a session id; write \"auto\", or an id of 1 to 128 letters, digits, \"_\" and \"-\""),
        (toml("[server]\nurl = \"nats://pit/league\""),
            "pitwire.toml:2: server.url: \"nats://pit/league\" has a path, which NATS does not support; write an address such as \"http://localhost:5000\" or \"nats://localhost:4222\""),
        (toml("[server]\nurl = \"nats://pit-1, tls://pit-2\""),
            "pitwire.toml:2: server.url: \"nats://pit-1, tls://pit-2\" has addresses that are neither all nats nor all tls; write an address such as \"http://localhost:5000\" or \"nats://localhost:4222\""),
        (toml("[server]\nurl = \"http://a,http://b\""),
            "pitwire.toml:2: server.url: \"http://a,http://b\" has addresses that are neither all nats nor all tls; write an address such as \"http://localhost:5000\" or \"nats://localhost:4222\""),
        (toml("[server]\nurl = \"tls://\""),
            "pitwire.toml:2: server.url: \"tls://\" is not an address; write an address such as \"http://localhost:5000\" or \"nats://localhost:4222\""),
        (toml("[agent]\nname = \"pc.7\""),
            "pitwire.toml:2: agent.name: \"pc.7\" is not a name; write 1 to 64 letters, digits, \"_\" and \"-\", or \"\" for the name of this PC"),
        // Keys and tables.
        (toml("update_rate = 2"),
            "pitwire.toml:1: update_rate: is not a key; did you mean update_rate_hz?"),
        (toml("\n\nmax_age = \"7d\""),
            "pitwire.toml:3: max_age: is not a key; did you mean queue.max_age?"),
        (toml("[queu]\nmax_age = \"7d\"\nmax_bytes = 5"),
            "pitwire.toml:1: queu: is not a key; did you mean queue?"),
        (toml("[server]\ncolour = \"red\""),
            "pitwire.toml:2: server.colour: is not a key; remove it"),
        (toml("\"a\\nb\" = 1"),
            "pitwire.toml:1: a b: is not a key; remove it"),
        (toml("queue = 5"),
            "pitwire.toml:1: queue: 5 is not a table; write [queue] above its keys"),
        (toml("[[server]]\nurl = \"http://localhost\""),
            "pitwire.toml:1: server: a list is not a table; write [server] above its keys"),
        (toml("[server.url]\nhost = \"localhost\""),
            "pitwire.toml:1: server.url: a table is not text; write an address such as \"http://localhost:5000\" or \"nats://localhost:4222\""),
        (toml("[log]\nlevel = 2025-11-22"),
            "pitwire.toml:2: log.level: a date is not text; write \"off\" or \"error\" or \"warn\" or \"info\" or \"debug\" or \"trace\""),
        // Values that do not go together.
        (toml("[delivery]\nbackoff_max = \"100ms\""),
            "pitwire.toml:2: delivery.backoff_max: \"100ms\" is below backoff_min; write at least \"500ms\""),
        (toml("[metrics]\nlisten = \"0.0.0.0:9185\""),
            "pitwire.toml:2: metrics.listen: \"0.0.0.0:9185\" is taken by source.http.listen; write another port, or 0 for a free one"),
        (toml("[source.socketio]\nenabled = true\nlisten = \"127.0.0.1:9184\""),
            "pitwire.toml:3: metrics.listen: \"127.0.0.1:9184\" is taken by source.socketio.listen; write another port, or 0 for a free one"),
        (toml("[source.socketio]\nenabled = true\nlisten = \"127.0.0.1:5000\""),
            "pitwire.toml:3: server.url: \"http://localhost:5000\" is the agent's own address, source.socketio.listen; write the address of the dashboard server, and another port for one of them"),
        (toml("[server]\nurl = \"http://127.0.0.1\"\n[source.socketio]\nenabled = true\nlisten = \"0.0.0.0:80\"\ntoken = \"0123456789abcdef\""),
            "pitwire.toml:5: server.url: \"http://127.0.0.1\" is the agent's own address, source.socketio.listen; write the address of the dashboard server, and another port for one of them"),
        (toml("[server]\nurl = \"nats://pit\"\nsession_id = \"race\""),
            "pitwire.toml:3: server.session_id: \"race\" cannot be used on NATS, where the agent names each stint; write \"auto\""),
        (toml("[server]\nurl = \"nats://pit\"\n[delivery]\nproof = \"echo\""),
            "pitwire.toml:4: delivery.proof: \"echo\" is not available on NATS, which acknowledges stored entries; write \"auto\""),
        (toml("[source.nats]\nenabled = true\nurl = \"http://pit\""),
            "pitwire.toml:3: source.nats.url: \"http://pit\" is not a NATS server; write an address such as \"nats://localhost:4222\""),
        (toml("[server]\nurl = \"nats://pit\"\n[source.nats]\nenabled = true"),
            "pitwire.toml:4: server.url: \"nats://pit\" cannot be a hub's destination: the hub would receive its own entries; write the address of the dashboard server, or source.nats.enabled = false"),
        (toml("[source.nats]\nagents = \"pc-1, pc 2\""),
            "pitwire.toml:2: source.nats.agents: \"pc-1, pc 2\" has an invalid name; write agent names separated by commas, or \"\" for all"),
        // Listeners that other machines reach.
        (toml("[metrics]\nlisten = \"0.0.0.0:9184\""),
            "pitwire.toml:2: metrics.listen: \"0.0.0.0\" lets other machines in; write metrics.token, 16 characters or more that they must send, or listen on \"127.0.0.1\""),
        (toml("[source.http]\nlisten = \"[::]:9185\""),
            "pitwire.toml:2: source.http.listen: \"::\" lets other machines in; write source.http.token, 16 characters or more that they must send, or listen on \"127.0.0.1\""),
        (toml("[source.socketio]\nenabled = true\nlisten = \"192.168.1.7:9186\""),
            "pitwire.toml:3: source.socketio.listen: \"192.168.1.7\" lets other machines in; write source.socketio.token, 16 characters or more that they must send, or listen on \"127.0.0.1\""),
        (toml("[metrics]\ntoken = \"hunter2\""),
            "pitwire.toml:2: metrics.token: \"***\" is a token that can be guessed; write 16 characters or more"),
        (toml("[serve]\ntoken = \"a token with spaces\""),
            "pitwire.toml:2: serve.token: \"***\" is a token that no HTTP header can carry; write letters, digits and ASCII punctuation"),
        // The file as a whole.
        (toml("[server]\nurl = \"http://localhost:5000\n"),
            "pitwire.toml:2: is not TOML: invalid basic string, expected `\"`"),
        (toml("[log]\nlevel = \"off\"\nlevel = \"info\""),
            "pitwire.toml:3: is not TOML: duplicate key"),
        (Sources { file: Some(("pitwire.toml", b"update_rate_hz = 2 # \xff")), ..Sources::default() },
            "pitwire.toml: is not text in UTF-8; save it in UTF-8"),
        (Sources { file: Some(("pitwire.toml", &[b'\n'; (1 << 20) + 1])), ..Sources::default() },
            "pitwire.toml: has more than 1048576 bytes; pass the configuration file with --config"),
        // The original client's file.
        (json("{\n  \"server_url\": 5000\n}"),
            "config.json:2: server_url: 5000 is not text; write an address such as \"http://localhost:5000\" or \"nats://localhost:4222\""),
        (json("{\n  \"session_id\": \"update_rate_hz\",\n  \"update_rate_hz\": \"2\"\n}"),
            "config.json:3: update_rate_hz: \"2\" is text and not a number; write 0, or a number from 0.001 to 1000"),
        (json("{\n  \"poll_interval\": -1\n}"),
            "config.json:2: poll_interval: -1 is not a time in seconds; remove it, as it has no effect"),
        (json("{\"target_process\": null}"),
            "config.json:1: target_process: null is not text; remove it, as it has no effect"),
        (json("{\"server_url\": \"http://localhost\",\n\"server_url\": 5000}"),
            "config.json:2: server_url: 5000 is not text; write an address such as \"http://localhost:5000\" or \"nats://localhost:4222\""),
        (json("{\"server_uri\": \"http://localhost\"}"),
            "config.json:1: server_uri: is not a key; did you mean server_url?"),
        (json("{\n  \"server_url\": \"http://localhost\",\n}"),
            "config.json:3: is not a JSON object: trailing comma at line 3 column 1"),
        // Environment and command line.
        (variables(&[("PITWIRE_UPDATE_RATE_HZ", "fast")]),
            "PITWIRE_UPDATE_RATE_HZ: update_rate_hz: \"fast\" is not a number; write 0, or a number from 0.001 to 1000"),
        (variables(&[("pitwire_source__stdin__enabled", "on")]),
            "pitwire_source__stdin__enabled: source.stdin.enabled: \"on\" is not a switch; write true or false"),
        (variables(&[("PITWIRE_SERVER_URL", "http://localhost")]),
            "PITWIRE_SERVER_URL: server_url: is not a key; did you mean PITWIRE_SERVER__URL?"),
        (flags(&[("server.url", "ftp://example.org", "--server")]),
            "--server: server.url: \"ftp://example.org\" is not an http, https, nats or tls address; write an address such as \"http://localhost:5000\" or \"nats://localhost:4222\""),
        (variables(&[("PITWIRE_DESTINATION__CLUB__URLL", "http://localhost")]),
            "PITWIRE_DESTINATION__CLUB__URLL: destination.club.urll: is not a key; did you mean PITWIRE_DESTINATION__CLUB__URL?"),
        (flags(&[("destinatoin.club.tokn", "x", "--set")]),
            "--set: destinatoin.club.tokn: is not a key; did you mean destination.club.token?"),
        (flags(&[("log.levle", "off", "--set log.levle=off")]),
            "--set log.levle=off: log.levle: is not a key; did you mean log.level?"),
    ];
    for (given, message) in mistakes {
        assert_eq!(complaints(given), [*message]);
    }
}

#[test]
fn destinations_accept_the_same_keys_as_the_server() {
    let given = toml(
        "[server]\nurl = \"http://a\"\n[destination.league]\nurl = \"nats://b\"\ntoken = \"hush\"\n\
         [destination.2nd]\nurl = \"https://c/pit\"\nsession_id = \"race\"\n",
    );
    let loaded = read(&given).unwrap();
    let known = &loaded.config;
    assert_eq!(known.server.url.to_string(), "http://a");
    let [(second, c), (league, b)] = known.destinations.iter().collect::<Vec<_>>()[..] else {
        panic!("{:?}", known.destinations)
    };
    assert_eq!((&**second, &*c.url.to_string()), ("2nd", "https://c/pit"));
    assert_eq!(c.session_id, SessionChoice::Fixed("race".into()));
    assert_eq!((&**league, &*b.url.to_string()), ("league", "nats://b"));
    // The printed configuration names the origin of each value and hides secrets; the exported one
    // loads with the same values.
    let shown = loaded.to_toml();
    assert!(!shown.contains("hush") && shown.contains("[destination.league]"), "{shown}");
    assert!(
        shown.contains("session_id = \"race\" # ") && shown.contains("pitwire.toml:7"),
        "{shown}"
    );
    let mut open = known.clone();
    open.destinations.get_mut("league").unwrap().token = Secret::default();
    assert_eq!(config(&toml(&to_toml(&open))), open);
    let variable = variables(&[("PITWIRE_DESTINATION__B__URL", "http://d")]);
    assert_eq!(config(&variable).destinations["b"].url.to_string(), "http://d");
    let flag = flags(&[("destination.b.url", "http://d", "--set")]);
    assert_eq!(config(&flag).destinations["b"].url.to_string(), "http://d");
}

#[test]
fn each_mistake_in_a_destination_is_reported_in_one_line() {
    let nine: String =
        (0..9).map(|n| format!("[destination.d{n}]\nurl = \"http://d{n}\"\n")).collect();
    #[rustfmt::skip]
    let mistakes: &[(Sources<'_>, &str)] = &[
        (toml("[destination.B]\nurl = \"http://b\""),
            "pitwire.toml:2: destination.B.url: \"B\" is not a valid destination name; write 1 to 32 of a-z 0-9 _ -"),
        (toml("[destination.server]\nurl = \"http://b\""),
            "pitwire.toml:2: destination.server.url: \"server\" is the name of [server]; choose another one"),
        (toml("[destination.b]\nurl = \"b\""),
            "pitwire.toml:2: destination.b.url: \"b\" does not begin with a scheme such as http://; write an address such as \"http://localhost:5000\" or \"nats://localhost:4222\""),
        (toml("[destination.b]\ntoken = \"x\""),
            "pitwire.toml:2: destination.b.url: is missing; write the address of that server"),
        (toml("[destination.b]\nurl = \"https://team:secret@b\""),
            "pitwire.toml:2: destination.b.url: \"***@b\" has a user name or a password in it; write \"https://b\", and destination.b.headers = \"Authorization: Basic …\", where … is user:password in base64"),
        (toml("[destinatoin.b]\nurl = \"http://b\""),
            "pitwire.toml:1: destinatoin: is not a key; did you mean destination?"),
        (toml("[destination.b]\nport = 1"),
            "pitwire.toml:2: destination.b.port: is not a key; remove it"),
        (toml("[destination]\nb = \"http://b\""),
            "pitwire.toml:2: destination.b: \"http://b\" is not a table; write [destination.b] above its keys"),
        (toml("[destination.b]\nurl = \"http://localhost:5000\""),
            "pitwire.toml:2: destination.b.url: \"http://localhost:5000\" is also server.url; write the address of another server"),
        (toml("[destination.b]\nurl = \"http://x\"\n[destination.c]\nurl = \"http://x\""),
            "pitwire.toml:4: destination.c.url: \"http://x\" is also destination.b.url; write the address of another server"),
        (toml("[destination.b]\nurl = \"nats://b\"\nsession_id = \"race\""),
            "pitwire.toml:3: destination.b.session_id: \"race\" cannot be used on NATS, where the agent names each stint; write \"auto\""),
        (toml("source.nats.enabled = true\ndestination.b.url = \"nats://b\""),
            "pitwire.toml:2: destination.b.url: \"nats://b\" cannot be a hub's destination: the hub would receive its own entries; write the address of the dashboard server, or source.nats.enabled = false"),
        (toml(&nine),
            "pitwire.toml:18: destination.d8.url: is one destination too many; write 8 at most"),
    ];
    for (given, expected) in mistakes {
        assert_eq!(complaints(given), [*expected]);
    }
}

#[test]
fn a_deeply_nested_file_is_reported_as_one_problem() {
    let dotted = "a.".repeat(500_000);
    let (lists, tables) = ("[".repeat(1_000_000), "{ a = ".repeat(170_000));
    for text in [format!("{dotted}a = 1"), format!("[{dotted}a]"), format!("a = {lists}")] {
        assert_eq!(complaints(&toml(&text)).len(), 1);
    }
    assert_eq!(complaints(&toml(&format!("a = {tables}"))).len(), 1);
    assert_eq!(complaints(&json(&format!("{{\"a\": {lists}"))).len(), 1);
}

#[test]
fn an_unreadable_file_is_reported() {
    let read = |path: &Path| {
        let problems = load(Some(path), iter::empty(), &Overrides::default());
        problems.expect_err("nothing to read").to_string()
    };
    let missing = read(Path::new("no/such/pitwire.toml"));
    let expected = "does not exist; pass the path of a file with --config";
    assert_eq!(missing, format!("no/such/pitwire.toml: {expected}"));
    let directory = tempfile::tempdir().expect("a directory");
    let unreadable = read(directory.path());
    assert!(unreadable.contains(": cannot be read: "), "{unreadable}");
}

#[test]
fn all_mistakes_are_reported_at_once_in_line_order() {
    let text = "update_rate_hz = -1\n[queue]\nmax_age = 5\n[delivery]\nproof = \"all\"\n\
                backoff_min = \"never\"\nbackoff_max = \"20ms\"\n[log]\nlevel = \"loud\"\n[log2]\n";
    let given = Sources {
        variables: &[("PITWIRE_LOG__FORMAT", "xml"), ("PITWIRE_COLOUR", "red")],
        flags: &[("server.session_id", "", "--session-id")],
        ..toml(text)
    };
    let complaints = complaints(&given);
    let places: Vec<&str> =
        complaints.iter().filter_map(|line| Some(line.split_once(": ")?.0)).collect();
    let expected = [
        "pitwire.toml:1",
        "pitwire.toml:3",
        "pitwire.toml:5",
        "pitwire.toml:6",
        "pitwire.toml:9",
        "pitwire.toml:10",
        "PITWIRE_COLOUR",
        "PITWIRE_LOG__FORMAT",
        "--session-id",
    ];
    assert_eq!(places, expected, "{complaints:#?}");
}

#[test]
fn the_command_line_overrides_the_environment_and_the_file() {
    let file = "update_rate_hz = 3\n[log]\nlevel = \"debug\"\n[stint]\nresume_after = \"1h\"\n";
    let given = Sources {
        variables: &[("Pitwire_Update_Rate_Hz", "4"), ("PITWIRE_LOG__LEVEL", "warn")],
        flags: &[("update_rate_hz", "5", "--update-rate-hz")],
        ..toml(file)
    };
    let config = config(&given);
    assert_eq!(config.update_rate_hz, 5.0);
    assert_eq!(config.log.level, LogLevel::Warn);
    assert_eq!(config.stint.resume_after, Duration::from_hours(1));
}

#[test]
fn environment_variables_that_are_not_settings_are_ignored() {
    let others = [("PATH", "/bin"), ("PITWIRE_CONFIG", "a.toml"), ("pitwire_log", "debug")];
    assert_eq!(config(&variables(&others)), Config::default());
}

#[test]
fn every_spelling_of_a_value_is_accepted() {
    let text = "\u{FEFF}update_rate_hz = 10\n[server]\nurl = \"wss://example.org:8443/team/\"\n\
                [queue]\nmax_entries = 0xff\nmax_bytes = 33_554_432\ndurability = \"200 ms\"\n\
                [source]\nfile = { path = 'C:\\laps\\spa.ndjson', speed = 0 }\n";
    let config = config(&toml(text));
    assert_eq!(config.update_rate_hz, 10.0);
    assert_eq!(config.server.url.as_str(), "https://example.org:8443/team");
    assert_eq!(config.queue.max_entries, 255);
    assert_eq!(config.queue.max_bytes, 32 << 20);
    assert_eq!(config.queue.durability, Durability::Within(Duration::from_millis(200)));
    assert_eq!(config.source.file.path, Some(PathBuf::from("C:\\laps\\spa.ndjson")));
    assert_eq!(config.source.file.speed, 0.0);
}

#[test]
fn the_original_clients_file_is_accepted() {
    let text = "{\n  \"server_url\": \"http://pit.example.org:5000\",\n  \"session_id\": \"auto\",\n  \
                \"update_rate_hz\": 2,\n  \"poll_interval\": 0.01,\n  \
                \"target_process\": \"LMU.exe\"\n}\n";
    let loaded = read(&json(text)).expect("the file of the original client");
    assert_eq!(loaded.config.server.url.as_str(), "http://pit.example.org:5000");
    assert_eq!(loaded.config.server.session_id, SessionChoice::Auto);
    assert_eq!(loaded.config.update_rate_hz, 2.0);
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    let ends = [
        "config.json:5: poll_interval: has no effect: the agent and the game start in any order",
        "config.json:6: target_process: has no effect: the agent and the game start in any order",
    ];
    assert_eq!(warnings.len(), ends.len());
    for (warning, end) in warnings.iter().zip(ends) {
        assert!(warning.ends_with(end), "{warning}");
    }
}

#[test]
fn settings_that_are_probably_unintended_give_a_warning() {
    let queue = std::env::temp_dir().join("queue").display().to_string();
    let flags = [
        ("queue.path", &*queue, "--queue"),
        ("source.http.listen", "[::1]:9184", "--listen"),
        ("source.http.enabled", "false", "--no-http"),
        ("source.socketio.enabled", "true", "--stand-in"),
    ];
    let loaded = read(&Sources { flags: &flags, ..Sources::default() }).expect("it works");
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    let expected = [
        format!(
            "--queue: queue.path: \"{queue}\" is in a temporary directory, which a restart empties"
        ),
        "--stand-in: source.lmu.enabled: true: if the publisher reads the same game, each frame \
         arrives twice; write false, or true if it reads another one"
            .to_owned(),
    ];
    assert_eq!(warnings, expected);
}

#[test]
fn a_secret_sent_unencrypted_to_another_pc_gives_a_warning() {
    for (url, secret, is_warned) in [
        ("http://pit.example.org:5000", "server.token", true),
        ("http://192.168.1.7", "server.token_file", true),
        ("http://pit", "server.headers", true),
        ("nats://10.0.0.1:4222", "server.token", true),
        ("nats://127.0.0.1, nats://pit", "server.token", true),
        ("http://pit", "server.ca_file", false),
        ("https://pit.example.org", "server.token", false),
        ("tls://pit.example.org", "server.token", false),
        ("http://localhost:5000", "server.token", false),
        ("http://127.0.0.1", "server.token", false),
        ("http://[::1]:5000", "server.token", false),
        ("nats://127.0.0.1:4222", "server.token", false),
        ("nats://[::1]:4222", "server.token", false),
        ("nats://localhost", "server.token", false),
    ] {
        let value = if secret == "server.headers" { "X-Key: hush" } else { "hush" };
        let set = [("server.url", url, "--server"), (secret, value, "--set")];
        let loaded = read(&flags(&set)).unwrap();
        let warned = loaded.warnings.iter().any(|warning| {
            let text = warning.to_string();
            assert!(!text.contains("hush"), "{text}");
            text.starts_with("--server: server.url: ") && text.contains("unencrypted")
        });
        assert_eq!(warned, is_warned, "{url} {secret}: {:?}", loaded.warnings);
    }
}

#[test]
#[cfg(unix)]
fn a_world_readable_file_with_a_secret_gives_a_warning() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("pitwire.toml");
    for (text, mode, is_warned) in [
        ("[server]\ntoken = \"hush\"", 0o644, true),
        ("[destination.b]\nurl = \"https://b\"\nauth = '{\"a\": 1}'", 0o604, true),
        ("[server]\ntoken = \"hush\"", 0o640, false),
        ("[server]\ntoken = \"\"", 0o644, false),
        ("[server]\ntoken_file = \"/run/token\"", 0o644, false),
    ] {
        fs::write(&path, text).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a mode");
        let loaded = load(Some(&path), iter::empty(), &Overrides::default()).expect("it works");
        let warned = loaded.warnings.iter().any(|warning| warning.message.contains("chmod 600"));
        assert_eq!(warned, is_warned, "{text} {mode:o}: {:?}", loaded.warnings);
    }
}

#[test]
fn the_reference_lists_every_key_once() {
    let reference = reference();
    for (key, _) in values(&Config::default()) {
        assert_eq!(reference.matches(&format!("| `{key}` |")).count(), 1, "{key}");
    }
    assert!(reference.lines().all(|row| row.matches('|').count() == 5), "{reference}");
}

prop_compose! {
    fn any_config()(
        update_rate_hz in prop_oneof![Just(0.0), 0.001..=1000.0],
        url in "https?://[a-z]{1,9}\\.example(:[1-9][0-9]{3})?(/[a-z]{1,5}){0,2}",
        session_id in prop_oneof![Just("auto".to_owned()), "[A-Za-z0-9_-]{1,128}"],
        path in "[^\\p{Cc}\u{FFFD}~][^\\p{Cc}\u{FFFD}]{0,20}",
        max_entries in 1..=1_000_000_000_u64,
        max_bytes in 16_u64 << 20..=1 << 40,
        max_age in 60_000..=31_536_000_000_u64,
        durability in prop_oneof![Just(None), (10..=60_000_u64).prop_map(Some)],
        listen in (any::<[u8; 4]>(), 1..=u16::MAX),
        seed: u64,
        drop_oldest: bool,
        file in proptest::option::of("[^\\p{Cc}\u{FFFD}~][^\\p{Cc}\u{FFFD}]{0,20}"),
    ) -> Config {
        let mut config = Config { update_rate_hz, ..Config::default() };
        config.server.url = url.parse::<ServerUrl>().expect("an address");
        config.server.session_id = match &*session_id {
            "auto" => SessionChoice::Auto,
            id => SessionChoice::Fixed(id.into()),
        };
        config.queue.path = path.into();
        config.queue.max_entries = max_entries;
        config.queue.max_bytes = max_bytes;
        config.queue.max_age = Duration::from_millis(max_age);
        config.queue.when_full =
            if drop_oldest { WhenFull::DropOldest } else { WhenFull::DropNewest };
        config.queue.durability = match durability {
            None => Durability::Entry,
            Some(milliseconds) => Durability::Within(Duration::from_millis(milliseconds)),
        };
        config.delivery.proof = ProofChoice::Written;
        config.metrics.enabled = false;
        config.source.http.listen = SocketAddr::from(listen);
        // Required for a listener that other machines can reach.
        config.source.http.token_file = Some("/run/token".into());
        config.source.simulator.seed = seed;
        config.source.file.path = file.map(PathBuf::from);
        config
    }
}

proptest! {
    #[test]
    fn a_configuration_round_trips_through_file_environment_and_flags(expected in any_config()) {
        prop_assert_eq!(&config(&toml(&to_toml(&expected))), &expected);

        let values = values(&expected);
        let variable = |key: &str| format!("PITWIRE_{}", key.replace('.', "__").to_uppercase());
        let named: Vec<_> = values.iter().map(|(key, value)| (variable(key), value)).collect();
        let set: Vec<_> = named.iter().map(|(name, value)| (&**name, &***value)).collect();
        prop_assert_eq!(&config(&variables(&set)), &expected);

        let typed: Vec<_> = values.iter().map(|(key, value)| (*key, &**value, "--set")).collect();
        prop_assert_eq!(&config(&flags(&typed)), &expected);
    }

    #[test]
    fn an_arbitrary_file_is_loaded_or_refused_without_panic(bytes: Vec<u8>, name in "pitwire\\.(toml|json)") {
        let _ = read(&Sources { file: Some((&name, &bytes)), ..Sources::default() });
    }

    #[test]
    fn an_arbitrary_value_is_loaded_or_refused_in_one_line_each(
        index: prop::sample::Index,
        value in prop_oneof![any::<String>(), "[-+0-9.eE_xa-z\"'\\[\\]{}: ]{0,20}"],
    ) {
        let keys = values(&Config::default());
        let (key, _) = keys[index.index(keys.len())];
        let variable = format!("PITWIRE_{}", key.replace('.', "__"));
        let file = format!("{key} = {value}");
        for given in [variables(&[(&variable, &value)]), toml(&file)] {
            if let Err(problems) = read(&given) {
                prop_assert_eq!(problems.to_string().lines().count(), problems.0.len());
            }
        }
    }

    #[test]
    fn an_arbitrary_variable_is_loaded_or_refused_without_panic(name in "(?i)pitwire_\\PC{0,20}", value: String) {
        let _ = read(&variables(&[(&name, &value)]));
    }
}
