//! One table of inputs, and what each source makes of them: standard input, HTTP, a file, and the
//! stand-in for a dashboard server.
//!
//! All sources agree on every row. They differ in what they are, not in how they parse:
//! - The stand-in takes the object as its publisher sent it: it keeps the extra keys and the names of
//!   the keys, and adds no fields, because the publisher has addressed it to a dashboard server.
//!   [`Row::stand_in_stores`] has the stored frame.
//! - Its input is part of a JSON text: a byte order mark is an error there, and a null counts as a
//!   missing telemetry. [`Row::text_only`] marks the inputs that only the other sources get.
//! - Each line of a text is one sample, and empty lines are skipped; an HTTP body may be an array or
//!   have several lines. The tests in `http` cover that.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use pitwire::fields::{MAX_SAMPLE_BYTES, Reason};
use pitwire::platform::clock;
use pitwire::source::Sample;
use serde_json::{Value, json};

use crate::agent::{Agent, Process, eventually, pitwire};

/// No server listens there.
const NO_SERVER: &str = "http://127.0.0.1:9";

/// The default values of a mapped frame, beside its readings and its timestamp.
const FILLS: &str = r#"{"lap":0,"position":0,"fuel":0.0,"fuel_capacity":90.0,"tire_pressures":{},
    "tire_temps":{},"tire_wear":{},"brake_temps":{},"player_name":"","car_name":"","track_name":"",
    "session_type":""}"#;

/// One input and its outcome.
struct Row {
    input: String,
    outcome: Outcome,
    /// The frame that the stand-in stores, if it differs from the readings.
    as_sent: Option<Value>,
    /// How many values are omitted because they are not finite, and because they are out of range.
    omitted: [u64; 2],
    /// Whether a JSON text can contain the input, as the stand-in's messages do.
    is_json_value: bool,
}

enum Outcome {
    /// A mapped frame with these readings.
    Readings(Value),
    /// A frame that is stored unchanged, with its own timestamp.
    Whole(Value),
    Setup(Value),
    Refused(Reason, &'static str),
}

fn row(input: &str, outcome: Outcome) -> Row {
    Row { input: input.into(), outcome, as_sent: None, omitted: [0, 0], is_json_value: true }
}

/// A frame; the text has the readings that are stored.
fn frame(input: &str, readings: &str) -> Row {
    row(input, Outcome::Readings(serde_json::from_str(readings).unwrap()))
}

fn whole(input: &str, stored: &str) -> Row {
    row(input, Outcome::Whole(serde_json::from_str(stored).unwrap()))
}

fn setup(input: &str, stored: &str) -> Row {
    row(input, Outcome::Setup(serde_json::from_str(stored).unwrap()))
}

fn refused(input: &str, reason: Reason, message: &'static str) -> Row {
    row(input, Outcome::Refused(reason, message))
}

impl Row {
    fn stand_in_stores(self, stored: &str) -> Self {
        Self { as_sent: Some(serde_json::from_str(stored).unwrap()), ..self }
    }

    fn text_only(self) -> Self {
        Self { is_json_value: false, ..self }
    }

    fn is_sent_to(&self, source: &str) -> bool {
        self.is_json_value || source != "socketio"
    }

    fn not_finite(mut self, values: u64) -> Self {
        self.omitted[0] = values;
        self
    }

    fn out_of_range(mut self, values: u64) -> Self {
        self.omitted[1] = values;
        self
    }

    /// The entry that the source stores: a setup, or a frame, without its timestamp if the source
    /// stamps it.
    fn stored_by(&self, source: &str) -> Option<Value> {
        match &self.outcome {
            Outcome::Whole(frame) => Some(json!({"frame": frame})),
            Outcome::Setup(setup) => Some(json!({"setup": setup})),
            Outcome::Refused(..) => None,
            Outcome::Readings(readings) if source == "socketio" => {
                Some(json!({"frame": self.as_sent.as_ref().unwrap_or(readings)}))
            }
            Outcome::Readings(readings) => {
                let mut frame: Value = serde_json::from_str(FILLS).unwrap();
                let readings = readings.as_object().unwrap().clone();
                frame.as_object_mut().unwrap().extend(readings);
                Some(json!({"frame": frame}))
            }
        }
    }
}

/// A complete frame of the dashboard, captured now.
fn complete(extra: &str) -> String {
    let now = clock::now();
    format!(
        r#"{{"timestamp":"{now}","lap":3,"position":4,"fuel":40.5,"fuel_capacity":75,"player_name":"Zoë","car_name":"Car 27","track_name":"Autódromo","session_type":"Race"{extra}}}"#
    )
}

#[rustfmt::skip]
fn rows() -> Vec<Row> {
    use Reason::{NoKnownField, NotJson, NotObject, OutOfRange, TooDeep, TooLarge, WrongType};
    let now = clock::now();
    let deep = format!(r#"{{"lap":1,"a":{}{}}}"#, "[".repeat(32), "]".repeat(32));
    let large = format!(r#"{{"lap":1,"a":"{}"}}"#, "x".repeat(MAX_SAMPLE_BYTES));
    let keys: Vec<_> = (0..=10_000).map(|key| format!(r#""{key}":0"#)).collect();
    let extra = complete(r#","strategy":{"stops":[12,null,3]}"#);
    vec![
        // Readings
        frame(r#"{"lap":1}"#, r#"{"lap":1}"#),
        frame(" {\t\"lap\" : 2 }\r", r#"{"lap":2}"#),
        frame(r#"{"lap":3.0}"#, r#"{"lap":3}"#).stand_in_stores(r#"{"lap":3.0}"#),
        frame(r#"{"lap":"one","lap":4}"#, r#"{"lap":4}"#),
        frame(r#"{"lap":5,"position":null}"#, r#"{"lap":5}"#).stand_in_stores(r#"{"lap":5,"position":null}"#),
        frame(r#"{"lap":6,"throttle":0.5}"#, r#"{"lap":6}"#).stand_in_stores(r#"{"lap":6,"throttle":0.5}"#),
        frame(r#"{"race_position":7}"#, r#"{"position":7}"#).stand_in_stores(r#"{"race_position":7}"#),
        frame(r#"{"fuel_remaining":8.5,"fuel_at_start":80}"#, r#"{"fuel":8.5,"fuel_capacity":80}"#)
            .stand_in_stores(r#"{"fuel_remaining":8.5,"fuel_at_start":80}"#),
        frame(r#"{"tyre_temp":{"fl":80,"rr":null,"spare":1}}"#, r#"{"tire_temps":{"fl":80}}"#)
            .stand_in_stores(r#"{"tyre_temp":{"fl":80,"rr":null,"spare":1}}"#),
        frame(r#"{"tyre_pressure":{}}"#, "{}").stand_in_stores(r#"{"tyre_pressure":{}}"#),
        frame(r#"{"engine_temp":91.5,"rpm":7000,"speed":51.248178375505404}"#,
            r#"{"engine_water_temp":91.5,"rpm":7000,"speed":51.248178375505404}"#)
            .stand_in_stores(r#"{"engine_temp":91.5,"rpm":7000,"speed":51.248178375505404}"#),
        frame(r#"{"ambient_temp":-12.5,"track_temp":0}"#, r#"{"ambient_temp":-12.5,"track_temp":0}"#),
        frame(r#"{"lap_time":61.25,"lap":9}"#, r#"{"lap_time":61.25,"lap":9}"#),
        frame(r#"{"lap_time":-2.76,"lap":10}"#, r#"{"lap":10}"#).stand_in_stores(r#"{"lap_time":-2.76,"lap":10}"#),
        frame(r#"{"player_name":"\u00c1ngel \ud83c\udfce"}"#, r#"{"player_name":"Ángel 🏎"}"#),
        frame(r#"{"gear":-1}"#, r#"{"gear":-1}"#),
        frame(r#"{"gear":"R"}"#, r#"{"gear":-1}"#),
        frame(r#"{"gear":"n"}"#, r#"{"gear":0}"#),
        frame(r#"{"lap":11,"setup":{"wing":1}}"#, r#"{"lap":11}"#).stand_in_stores(r#"{"lap":11,"setup":{"wing":1}}"#),
        // Values that are omitted
        frame(r#"{"lap":12,"fuel":-0.01}"#, r#"{"lap":12}"#).out_of_range(1),
        frame(r#"{"speed":13,"lap":-1,"fuel_capacity":-1e-300}"#, r#"{"speed":13}"#).out_of_range(2),
        frame(r#"{"lap":1e30,"gear":-9007199254740993,"rpm":14}"#, r#"{"rpm":14}"#).out_of_range(2),
        frame(r#"{"lap":15,"speed":NaN}"#, r#"{"lap":15}"#).not_finite(1),
        frame(r#"{"lap":16,"speed":Infinity,"rpm":-Infinity}"#, r#"{"lap":16}"#).not_finite(2),
        frame(r#"{"lap":17,"speed":nan,"rpm":-inf,"fuel":-nan(ind)}"#, r#"{"lap":17}"#).not_finite(3),
        frame(r#"{"lap":18,"speed":1e999}"#, r#"{"lap":18}"#).not_finite(1),
        frame(r#"{"lap":19,"tyre_temp":{"fl":NaN,"fr":2}}"#, r#"{"lap":19,"tire_temps":{"fr":2}}"#)
            .stand_in_stores(r#"{"lap":19,"tyre_temp":{"fr":2}}"#).not_finite(1),
        frame(r#"{"lap":20,"fuel":NaN,"lap_time":-1,"position":-1}"#, r#"{"lap":20}"#)
            .stand_in_stores(r#"{"lap":20,"lap_time":-1}"#).not_finite(1).out_of_range(1),
        // Complete frames
        whole(&extra, &extra),
        whole(&complete(r#","gear":"R""#), &complete(r#","gear":-1"#)),
        whole(&complete(r#","lap":-1"#), &complete(r#","lap":0"#)).out_of_range(1),
        whole(&complete(r#","fuel":-0.01,"speed":NaN"#), &complete(r#","fuel":0.0"#))
            .not_finite(1).out_of_range(1),
        // Events, exports and dead letters
        frame(r#"{"session_id":"abc","telemetry":{"lap":21,"speed":201.5,"fuel":20.1}}"#,
            r#"{"lap":21,"speed":201.5,"fuel":20.1}"#),
        whole(&format!(r#"{{"session_id":"abc","telemetry":{extra}}}"#), &extra),
        frame(r#"{"telemetry":{"lap":22,"speed":NaN,"fuel":-1}}"#, r#"{"lap":22}"#)
            .not_finite(1).out_of_range(1),
        frame(&format!(r#"{{"seq":1,"stint":1,"captured_at":"{now}","kind":"frame","frame":{{"lap":23}}}}"#),
            r#"{"lap":23}"#),
        whole(&format!(r#"{{"seq":1,"stint":1,"captured_at":"{now}","kind":"frame","frame":{{"timestamp":7,"lap":24,"x":[]}}}}"#),
            r#"{"timestamp":7,"lap":24,"x":[]}"#),
        whole(&format!(r#"{{"seq":1,"captured_at":"{now}","cause":"refused","reason":"x","destination":"server","telemetry":{extra}}}"#),
            &extra),
        setup(r#"{"setup":{"wing":1}}"#, r#"{"wing":1}"#),
        setup(r#"{"timestamp":"2025-11-22T14:30:22.5","setup":{"wing":2}}"#, r#"{"wing":2}"#),
        setup(r#"{"session_id":"abc","timestamp":1763821822,"setup":{"wing":3}}"#, r#"{"wing":3}"#),
        setup(r#"{"setup":{"wing":4,"speed":NaN},"game":"LMU"}"#, r#"{"wing":4}"#).not_finite(1),
        setup(&format!(r#"{{"seq":1,"stint":1,"captured_at":"{now}","kind":"setup","timestamp":"{now}","setup":{{"wing":5}}}}"#),
            r#"{"wing":5}"#),
        refused(r#"{"telemetry":7}"#, NotObject, "telemetry: a number is not an object; send one JSON object"),
        refused(r#"{"setup":[1]}"#, NotObject, "setup: an array is not an object; send one JSON object"),
        refused(r#"{"telemetry":{"lap":1},"setup":{"wing":6}}"#, WrongType,
            "telemetry, setup: both given; send an object with one of them"),
        refused(r#"{"session_id":"abc","telemetry":{"Lap":1}}"#, NoKnownField, "Lap: did you mean \"lap\"?;"),
        // Unknown names
        refused("{}", NoKnownField, "an empty object; send at least one of lap, position,"),
        refused(r#"{"spede":231}"#, NoKnownField, "spede: did you mean \"speed\" (km/h)?; no field is known:"),
        // iRacing's names. Its speed is in m/s, so a name that differs only in case is not taken.
        refused(r#"{"Speed":53.2,"LapCompleted":3,"FuelLevel":12.3,"RPM":7000}"#, NoKnownField,
            "Speed: did you mean \"speed\" (km/h)?; RPM: did you mean \"rpm\" (revolutions per minute)?;"),
        refused(r#"{"throttle":1,"brake":0}"#, NoKnownField, "throttle, brake: no field is known; send at least one of"),
        refused(r#"{"lap":null,"speed":null}"#, NoKnownField, "every known field is null; leave the sample out"),
        refused(r#"{"carSetup":{"garageValues":{"wing":7}}}"#, NoKnownField, "carSetup: this is a setup; send it as"),
        // Known fields without a value that can be stored
        refused(r#"{"lap":-1}"#, OutOfRange, "no other field has a value: lap: -1 is below 0 and was omitted; send"),
        refused(r#"{"race_position":-1,"throttle":1}"#, OutOfRange, "no other field has a value: race_position: -1 is"),
        refused(r#"{"speed":NaN}"#, OutOfRange, "no other field has a value: speed: NaN is not a finite number"),
        refused(r#"{"lap":1e30,"rpm":-Infinity,"fuel":null}"#, OutOfRange, "no other field has a value: rpm: -Infinity is"),
        // Types
        refused(r#"{"fuel":"full"}"#, WrongType, "fuel: \"full\" is not a number; send litres"),
        refused(r#"{"race_position":true}"#, WrongType, "race_position: true is not a whole number;"),
        refused(r#"{"lap":2.5}"#, WrongType, "lap: 2.5 is not a whole number;"),
        refused(r#"{"gear":"first"}"#, WrongType, "gear: \"first\" is not a whole number, \"R\" or \"N\";"),
        refused(r#"{"player_name":27}"#, WrongType, "player_name: 27 is not a text;"),
        refused(r#"{"tyre_temp":85}"#, WrongType, "tyre_temp: 85 is not an object;"),
        refused(r#"{"brake_temp":{"fl":"hot"}}"#, WrongType, "brake_temp.fl: \"hot\" is not a number;"),
        refused(&complete(r#","speed":"fast""#), WrongType, "speed: \"fast\" is not a number;"),
        // No object, no JSON, too much
        refused("true", NotObject, "a boolean is not an object;"),
        refused("3", NotObject, "a number is not an object;"),
        refused("\"lap\"", NotObject, "a text is not an object;"),
        frame("\u{feff}{\"lap\":25}", r#"{"lap":25}"#).text_only(),
        frame("\u{feff} {\"lap\":26,\"speed\":NaN} ", r#"{"lap":26}"#).not_finite(1).text_only(),
        refused("{\"lap\":27}\u{feff}", NotJson, "not JSON: trailing characters").text_only(),
        refused("\u{feff}", NotJson, "not JSON: EOF while parsing a value").text_only(),
        refused("lap=3", NotJson, "not JSON: expected value at line 1"),
        refused("{'lap':3}", NotJson, "not JSON: key must be a string"),
        refused(r#"{"lap":3"#, NotJson, "not JSON: EOF while parsing an object"),
        refused(r#"{"lap":3} {"lap":4}"#, NotJson, "not JSON: trailing characters"),
        refused(r#"{"lap":03}"#, NotJson, "not JSON: invalid number"),
        refused(&deep, TooDeep, "nested deeper than 32 levels;"),
        refused(&large, TooLarge, "900016 bytes; at most 900000 are taken"),
        refused(&format!("{{{}}}", keys.join(",")), TooLarge, "an object has more than 10000 keys;"),
    ]
}

#[tokio::test]
async fn every_source_makes_the_same_of_each_input() {
    let rows = rows();
    assert!(rows.len() >= 60, "{}", rows.len());
    for row in &rows {
        let Outcome::Refused(reason, message) = row.outcome else { continue };
        let refused = Sample::parse(row.input.as_bytes()).unwrap_err();
        assert_eq!(refused.reason, reason, "{}", row.input);
        assert!(refused.message.starts_with(message), "{}: {refused}", row.input);
    }
    let mut differing = Vec::new();
    for source in ["stdin", "http", "file", "socketio"] {
        let folder = tempfile::tempdir().unwrap();
        let rows: Vec<_> = rows.iter().filter(|row| row.is_sent_to(source)).collect();
        let mut agent = send(&rows, source, folder.path()).await;
        let samples = format!(r#"pitwire_source_samples_total{{source="{source}"}}"#);
        agent.metric_becomes(&samples, |samples| samples == rows.len() as f64).await;
        let mut refusals = BTreeMap::new();
        for row in &rows {
            let Outcome::Refused(reason, _) = row.outcome else { continue };
            *refusals.entry(reason.as_str()).or_insert(0.0) += 1.0;
        }
        for (reason, expected) in refusals {
            let metric = "pitwire_source_rejected_total";
            let metric = format!(r#"{metric}{{source="{source}",reason="{reason}"}}"#);
            assert_eq!(agent.metric(&metric).await, expected, "{metric}");
        }
        for (index, reason) in ["not_finite", "out_of_range"].into_iter().enumerate() {
            let expected: u64 = rows.iter().map(|row| row.omitted[index]).sum();
            let metric = "pitwire_source_values_omitted_total";
            let metric = format!(r#"{metric}{{source="{source}",reason="{reason}"}}"#);
            assert_eq!(agent.metric(&metric).await, expected as f64, "{metric}");
        }
        agent.process.says("and was omitted; ").await;

        // Buffered entries are stored at the end.
        agent.process.signal("-INT");
        assert_eq!(agent.process.ended().await, 0);
        let stored = stored(folder.path()).await;
        let expected: Vec<_> = rows.iter().filter_map(|row| row.stored_by(source)).collect();
        for (index, expected) in expected.iter().enumerate() {
            let stored = stored.get(index).map(|stored| as_expected(stored.clone(), expected));
            if stored.as_ref() != Some(expected) {
                differing.push(format!("{source}: {stored:?} instead of {expected}"));
            }
        }
        let count = (stored.len(), expected.len());
        assert_eq!(count.0, count.1, "{source}: {differing:#?}");
    }
    assert!(differing.is_empty(), "{differing:#?}");
}

/// The stored entry without the timestamp, unless one is expected.
fn as_expected(mut stored: Value, expected: &Value) -> Value {
    if expected["frame"].get("timestamp").is_none()
        && let Some(Value::Object(frame)) = stored.get_mut("frame")
    {
        frame.remove("timestamp");
    }
    stored
}

/// Starts an agent, and sends it the inputs in order through one of its sources.
async fn send(rows: &[&Row], source: &str, folder: &Path) -> Agent {
    let queue = folder.join("queue");
    let lines: Vec<_> = rows.iter().map(|row| row.input.clone()).collect();
    match source {
        "file" => {
            let file = folder.join("inputs.ndjson");
            fs::write(&file, lines.join("\n")).unwrap();
            let path = format!("source.file.path={}", file.display());
            Agent::start(&queue, NO_SERVER, &[&path, "source.file.speed=0"])
        }
        "stdin" => {
            let agent = Agent::start(&queue, NO_SERVER, &[]);
            agent.feed(&lines);
            agent
        }
        "http" => {
            let agent = Agent::start(&queue, NO_SERVER, &[]);
            for line in lines {
                agent.post("/v1/telemetry", line).await;
            }
            agent
        }
        _ => {
            let settings = ["source.socketio.enabled=true", "source.socketio.listen=127.0.0.1:0"];
            let agent = Agent::start(&queue, NO_SERVER, &settings);
            let mut publisher = Publisher::connect(&agent.address("publishers").await).await;
            for line in lines {
                publisher.send(&line).await;
            }
            agent
        }
    }
}

/// The entries of the queue in order, each as an object with its `frame` or its `setup`.
async fn stored(folder: &Path) -> Vec<Value> {
    let queue = folder.join("queue");
    let mut export = pitwire(&["queue", "export", "--queue"]);
    let mut export = Process::start(export.arg(queue).stdin(std::process::Stdio::null()));
    assert_eq!(export.ended().await, 0, "{:?}", export.stderr());
    let entry = |line: &String| {
        let line: Value = serde_json::from_str(line).unwrap();
        let content = line["kind"].as_str().unwrap();
        json!({ content: line[content] })
    };
    export.stdout().iter().map(entry).collect()
}

/// A publisher that sends text, valid or not, over Engine.IO's polling.
struct Publisher {
    http: reqwest::Client,
    url: String,
    session_id: String,
}

impl Publisher {
    async fn connect(url: &str) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("{url}/socket.io/?EIO=4&transport=polling");
        let open = http.get(&url).send().await.unwrap().text().await.unwrap();
        let open: Value = serde_json::from_str(&open[1..]).unwrap();
        let url = format!("{url}&sid={}", open["sid"].as_str().unwrap());
        let mut publisher = Self { http, url, session_id: String::new() };
        publisher.post("40").await;
        publisher.post(r#"42["request_session_id",{}]"#).await;
        let mut packets = String::new();
        publisher.session_id = eventually("a session id", async || {
            let polled = publisher.http.get(&publisher.url).send().await.unwrap();
            packets += &polled.text().await.unwrap();
            let (_, id) = packets.split_once(r#"{"session_id":""#)?;
            Some(id.split('"').next()?.to_owned())
        })
        .await;
        publisher
    }

    async fn post(&self, packet: &str) {
        let posted = self.http.post(&self.url).body(packet.to_owned()).send().await.unwrap();
        posted.error_for_status().unwrap();
    }

    async fn send(&mut self, telemetry: &str) {
        let session_id = &self.session_id;
        self.post(&format!(
            r#"42["telemetry_update",{{"session_id":"{session_id}","telemetry":{telemetry}}}]"#
        ))
        .await;
    }
}
