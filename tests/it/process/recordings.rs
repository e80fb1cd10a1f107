//! Real data end to end: each frame arrives, field by field as the contract requires.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pitwire::entry::CapturedAt;
use pitwire::platform::clock;
use serde_json::{Map, Value, json};

use crate::agent::{Agent, Process, eventually, pitwire};
use crate::peers::{self, Kind, Peer};

#[tokio::test]
async fn a_replayed_recording_arrives_intact_despite_an_outage() {
    for recording in Recording::all() {
        let server = Peer::start(Kind::Flask, &["--schema"]);
        let url = server.url();
        let file = recording.file.to_str().unwrap();
        let mut command = pitwire(&["replay", file, "--server", &url, "--speed", "0"]);
        for setting in recording.settings() {
            command.args(["--set", &setting]);
        }
        let start = clock::now();
        let mut replay = Process::start(&mut command);
        recording.pause_the_server(&server).await;
        assert_eq!(replay.ended().await, 0, "{:?}", replay.stderr());
        recording.check(&server, start).await;
    }
}

#[tokio::test]
async fn a_recording_on_stdin_arrives_intact_despite_an_outage() {
    for recording in Recording::all() {
        let server = Peer::start(Kind::Asgi, &["--schema"]);
        let queue = tempfile::tempdir().unwrap();
        let start = clock::now();
        let settings = recording.settings();
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let agent = Agent::start(queue.path(), &server.url(), &settings);
        agent.feed(&recording.lines);
        recording.pause_the_server(&server).await;
        let everything = recording.lines.len() as f64;
        let delivered = r#"pitwire_ledger_entries{state="delivered"}"#;
        agent.metric_becomes(delivered, |entries| entries >= everything).await;
        recording.check(&server, start).await;
    }
}

struct Recording {
    file: PathBuf,
    lines: Vec<String>,
}

impl Recording {
    /// The recordings from the game if this machine has them, else the project's own samples.
    fn all() -> Vec<Self> {
        let own = || vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/samples.ndjson")];
        let files = recorded().unwrap_or_else(own);
        eprintln!("recordings: {files:?}");
        let read = |file: PathBuf| {
            let text = fs::read_to_string(&file).unwrap();
            let lines = text.lines().map(ToOwned::to_owned).collect();
            Self { file, lines }
        };
        files.into_iter().map(read).collect()
    }

    /// Replays at a rate that takes two seconds, so that an outage can hit the middle.
    fn settings(&self) -> [String; 4] {
        [
            format!("delivery.max_rate={}", self.lines.len() as f64 / 2.0),
            "delivery.proof_timeout=1s".into(),
            "delivery.backoff_min=50ms".into(),
            "delivery.backoff_max=500ms".into(),
        ]
    }

    /// Pauses the server once it has a part of the recording, for longer than the agent's timeout.
    async fn pause_the_server(&self, server: &Peer) {
        let has_some = async || (!server.all_frames().await.is_empty()).then_some(());
        eventually("the first frames", has_some).await;
        server.pause();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        server.resume();
        let have = server.all_frames().await.len();
        assert!(have < self.lines.len(), "all {have} frames arrived before the outage");
    }

    /// Checks that the server has every frame exactly once, by its timestamp, and refused none.
    async fn check(&self, server: &Peer, start: CapturedAt) {
        assert_eq!(server.refused().await, [] as [Value; 0]);
        let mut frames = server.all_frames().await;
        // The batch in flight when the server stopped may have been delivered twice, the second
        // time late.
        let mut newest = String::new();
        frames.retain(|frame| {
            let timestamp = frame["timestamp"].as_str().unwrap();
            let is_new = *timestamp > *newest;
            if is_new {
                newest = timestamp.to_owned();
            }
            is_new
        });
        assert_eq!(frames.len(), self.lines.len(), "{}", self.file.display());

        // Each frame is a millisecond later than the previous one, so they may run ahead of the
        // clock.
        let end = CapturedAt(clock::now().0 + frames.len() as i64);
        for (line, mut frame) in self.lines.iter().zip(frames) {
            let timestamp = frame.as_object_mut().unwrap().remove("timestamp").unwrap();
            let text = timestamp.as_str().unwrap();
            let moment = CapturedAt::parse(text).expect("a timestamp");
            assert_eq!(moment.to_string(), text, "RFC 3339 in UTC with milliseconds");
            let sample: Value = serde_json::from_str(line).unwrap();
            let is_ours = sample.get("timestamp").is_none();
            assert!(
                !is_ours || (start..=end).contains(&moment),
                "{text} is not the time of capture"
            );
            assert_eq!(frame, peers::plain(expected(sample.as_object().unwrap())), "{line}");
        }
    }
}

/// The folder named by `PITWIRE_FIXTURES`, or `shared/fixtures/real` beside the project.
fn recorded() -> Option<Vec<PathBuf>> {
    let named = env::var_os("PITWIRE_FIXTURES").map(PathBuf::from);
    let beside = || {
        let project = Path::new(env!("CARGO_MANIFEST_DIR"));
        project.ancestors().map(|above| above.join("shared/fixtures/real")).find(|f| f.is_dir())
    };
    let folder = named.or_else(beside)?;
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "ndjson"));
    files.sort();
    assert!(!files.is_empty(), "no recording in {folder:?}");
    Some(files)
}

/// The dashboard's telemetry of a sample, without its timestamp: a second, independent
/// implementation of the contract's table.
fn expected(sample: &Map<String, Value>) -> Value {
    let given = |key: &&str| sample.get(*key).filter(|value| !value.is_null()).cloned();
    let has_the_dashboards_names = ["timestamp", "position", "fuel_capacity", "session_type"]
        .iter()
        .all(|key| given(key).is_some());
    if has_the_dashboards_names {
        let mut frame = sample.clone();
        frame.remove("timestamp");
        return frame.into();
    }
    let first = |keys: &[&str], absent: Value| keys.iter().find_map(given).unwrap_or(absent);
    let wheels = |key| first(&[key], json!({}));
    let mut frame = json!({
        "lap": first(&["lap"], json!(0)),
        "position": first(&["race_position"], json!(0)),
        "lap_time": first(&["lap_time"], Value::Null),
        "fuel": first(&["fuel", "fuel_remaining"], json!(0.0)),
        "fuel_capacity": first(&["fuel_capacity", "fuel_at_start"], json!(90.0)),
        "tire_pressures": wheels("tyre_pressure"),
        "tire_temps": wheels("tyre_temp"),
        "tire_wear": wheels("tyre_wear"),
        "brake_temps": wheels("brake_temp"),
        "engine_water_temp": first(&["engine_temp", "engine_water_temp"], Value::Null),
        "track_temp": first(&["track_temp"], Value::Null),
        "ambient_temp": first(&["ambient_temp"], Value::Null),
        "speed": first(&["speed"], Value::Null),
        "gear": first(&["gear"], Value::Null),
        "rpm": first(&["rpm"], Value::Null),
        "player_name": first(&["player_name"], json!("")),
        "car_name": first(&["car_name"], json!("")),
        "track_name": first(&["track_name"], json!("")),
        "session_type": first(&["session_type"], json!("")),
    });
    // What a server does not require is absent.
    frame.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    if frame["lap_time"].as_f64().is_some_and(|seconds| seconds < 0.0) {
        frame.as_object_mut().unwrap().remove("lap_time");
    }
    frame
}
