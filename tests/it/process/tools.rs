//! `pitwire queue`: each tool gives the same result for a running agent and for the folder that it
//! leaves behind.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pitwire::entry::CapturedAt;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{numbered_samples, numbers};
use crate::agent::{Agent, eventually, pitwire};
use crate::peers::{self, Kind, Peer};

/// An address that refuses connections.
const CLOSED_ADDRESS: &str = "http://127.0.0.1:9";

/// The output and exit code of a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    code: i32,
    out: Vec<String>,
    err: Vec<String>,
}

fn tool(args: &[&str]) -> Said {
    let output = pitwire(&["queue"]).args(args).stdin(Stdio::null()).output().unwrap();
    let lines = |bytes: Vec<u8>| {
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let (out, err) = (lines(output.stdout), lines(output.stderr));
    Said { code: output.status.code().unwrap(), out, err }
}

/// The value of this name in `pitwire queue status`.
fn status(place: &[&str], name: &str) -> u64 {
    let said = tool(&[&["status"], place].concat());
    let value = |line: &String| line.split_once(char::is_whitespace)?.1.trim().parse().ok();
    let line = said.out.iter().find(|line| line.split_whitespace().next() == Some(name));
    line.and_then(value).unwrap_or_else(|| panic!("no {name} in {said:?}"))
}

/// A queue with frames and setups that are never delivered.
struct Pit {
    folder: TempDir,
    agent: Agent,
}

impl Pit {
    async fn start(settings: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let agent = Agent::start(&folder.path().join("queue"), CLOSED_ADDRESS, settings);
        agent.page("/healthz").await;
        Self { folder, agent }
    }

    fn queue(&self) -> String {
        self.folder.path().join("queue").to_str().unwrap().to_owned()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Posts frames numbered from `first`; each is stored when this returns.
    async fn drive(&self, first: u64, count: usize) {
        for samples in numbered_samples(first, count).chunks(400) {
            let answer = self.agent.post("/v1/telemetry", samples.join("\n")).await;
            // 202: the disk is busy, and some entries wait in memory.
            assert!(answer.status().is_success(), "{answer:?}");
        }
        self.agent.metric_becomes("pitwire_queue_buffered_entries", |entries| entries == 0.0).await;
    }

    async fn setup(&self, wing: u64) {
        let setup = json!({"wing": wing}).to_string();
        assert_eq!(self.agent.post("/v1/setup", setup).await.status(), 200);
    }
}

#[tokio::test]
async fn each_tool_gives_the_same_result_online_and_offline() {
    let mut pit = Pit::start(&[]).await;
    pit.drive(1, 20).await;
    pit.setup(7).await;
    pit.drive(21, 30).await;
    let queue = pit.queue();
    let admin = pit.agent.admin().await;
    let tools: [(&[&str], i32); 16] = [
        (&["status"], 0),
        (&["ls"], 0),
        (&["ls", "--from", "20", "--to", "22"], 0),
        (&["ls", "--limit", "3"], 0),
        (&["cat", "21"], 0),
        (&["cat", "52"], 1),
        (&["export"], 0),
        (&["export", "--format", "csv", "--from", "5"], 0),
        (&["trace", "21"], 0),
        (&["trace", "0"], 1),
        (&["verify"], 0),
        (&["repair"], 0),
        (&["drop", "--to", "30"], 0),
        (&["drop", "--all"], 0),
        (&["drop", "--from", "90"], 0),
        (&["requeue"], 0),
    ];
    let ask = |place: &[&str]| {
        let said = tools.map(|(args, code)| {
            let said = tool(&[args, place].concat());
            assert_eq!(said.code, code, "{args:?}: {said:?}");
            said
        });
        said.map(|mut said| {
            // The write-ahead log grows by a checkpoint at each start.
            said.out.retain(|line| !line.starts_with("disk_bytes"));
            said
        })
    };
    let of_the_agent = ask(&["--admin", &admin]);
    assert_eq!(
        pit.agent.metric("pitwire_queue_entries").await,
        51.0,
        "a plan must not change the queue"
    );
    pit.agent.stop().await;
    let of_the_folder = ask(&["--queue", &queue]);
    for ((args, _), (agent, folder)) in tools.iter().zip(of_the_agent.iter().zip(&of_the_folder)) {
        assert_eq!(agent, folder, "{args:?}");
    }
    let [status, all, some, few, setup, nothing, export, ..] = &of_the_folder;
    assert!(status.out.contains(&format!("{:20}51", "entries")), "{status:?}");
    assert_eq!((all.out.len(), some.out.len(), few.out.len()), (52, 4, 4));
    assert_eq!(few.err, ["more follow: --from 4"]);
    let row: Vec<&str> = some.out[2].split('\t').collect();
    assert_eq!((row[0], row[2], row[3]), ("21", "1", "setup"), "{row:?}");
    let setup: Value = serde_json::from_str(&setup.out[0]).unwrap();
    assert_eq!(setup["setup"], json!({"wing": 7}));
    assert!(setup["timestamp"].is_string(), "{setup}");
    assert_eq!(nothing.err, ["server: entry 52 does not exist yet: the next one becomes entry 52"]);
    assert_eq!(
        (export.out.len(), &export.err[..]),
        (51, &["exported 50 frames and 1 setup".into()][..])
    );
}

#[tokio::test]
async fn the_tools_find_the_running_agent_through_the_configuration() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let listen = format!("metrics.listen=127.0.0.1:{port}");
    let pit = Pit::start(&[&listen]).await;
    pit.drive(1, 3).await;
    let queue = pit.queue();
    assert_eq!(status(&["--queue", &queue, "--set", &listen], "entries"), 3);

    let other = Pit::start(&[]).await;
    let foreign = format!("metrics.listen={}", &other.agent.admin().await["http://".len()..]);
    let nobody = "metrics.listen=127.0.0.1:9";
    for (setting, expected) in [
        (foreign.as_str(), "has the queue"),
        (nobody, "no agent answers at http://127.0.0.1:9"),
        ("metrics.enabled=false", "give it with --admin, or stop that process"),
    ] {
        let said = tool(&["status", "--queue", &queue, "--set", setting]);
        assert_eq!((said.code, said.out.len()), (2, 0), "{said:?}");
        let why = said.err.join("\n");
        assert!(why.contains("is in use by another pitwire") && why.contains(expected), "{why}");
        assert!(why.contains("--admin"), "{why}");
    }
}

#[tokio::test]
async fn an_export_round_trips_through_import() {
    let mut pit = Pit::start(&[]).await;
    pit.setup(1).await;
    pit.drive(1, 300).await;
    pit.setup(2).await;
    pit.drive(301, 300).await;
    pit.agent.stop().await;
    let export = pit.file("export.jsonl");
    let export = export.to_str().unwrap();
    let said = tool(&["export", "--queue", &pit.queue(), "--output", export]);
    assert_eq!((said.code, &said.err[..]), (0, &["exported 600 frames and 2 setups".into()][..]));
    let exported = entries(&fs::read_to_string(export).unwrap());
    assert_eq!(exported.len(), 602);

    let copy = pit.file("copy");
    let copy = copy.to_str().unwrap();
    let plan = tool(&["import", export, "--queue", copy]);
    assert_eq!(plan.code, 0, "{plan:?}");
    assert!(plan.out[0].starts_with("would queue 600 frames and 2 setups, captured "), "{plan:?}");
    assert!(!Path::new(copy).exists(), "a plan creates no queue");
    let said = tool(&["import", export, "--queue", copy, "--apply"]);
    assert_eq!((said.code, said.out), (0, vec!["queued 602 entries, as entries 1 to 602".into()]));
    let again = tool(&["export", "--queue", copy]);
    assert_eq!(entries(&again.out.join("\n")), exported);

    // A running agent already has later entries: imported ones get new capture times, in their
    // order.
    let running = Pit::start(&[]).await;
    running.drive(1, 1).await;
    let admin = running.agent.admin().await;
    let said = tool(&["import", export, "--admin", &admin, "--apply"]);
    assert_eq!((said.code, said.out), (0, vec!["queued 602 entries, as entries 2 to 603".into()]));
    let again = entries(&tool(&["export", "--from", "2", "--admin", &admin]).out.join("\n"));
    let laps = |entries: &[Value]| {
        entries.iter().map(|entry| entry["frame"]["lap"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(laps(&again), laps(&exported));
    assert_eq!(tool(&["verify", "--admin", &admin]).code, 0);
    assert_eq!(running.agent.metric("pitwire_ledger_imbalance_entries").await, 0.0);
}

/// The entries of an export.
fn entries(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_file_with_an_invalid_line_is_not_imported() {
    let pit = Pit::start(&[]).await;
    let file = pit.file("lines");
    let good = r#"{"captured_at":"2025-11-22T14:30:22.123Z","frame":{"lap":1}}"#;
    let bad = r#"{"captured_at":"2025-11-22T14:30:22.123Z","frame":{"lap":"one"}}"#;
    let long = format!(r#"{{"captured_at":"{}"}}"#, "x".repeat(2_000_000));
    fs::write(&file, format!("{good}\n\n{bad}\n{long}\nnonsense\n{good}")).unwrap();
    let admin = pit.agent.admin().await;
    for apply in [&[][..], &["--apply"]] {
        let args = [&["import", file.to_str().unwrap(), "--admin", &admin][..], apply].concat();
        let said = tool(&args);
        assert_eq!(said.code, 1, "{said:?}");
        let file = file.display();
        for (line, expected) in [
            (0, format!("{file}:3: lap: \"one\" is not a whole number")),
            (1, format!("{file}:4: ")),
            (2, format!("{file}:5: not JSON")),
            (3, "2 frames, but 3 lines that are not entries".into()),
        ] {
            assert!(said.out[line].starts_with(&expected), "{expected}: {said:?}");
        }
    }
    assert_eq!(pit.agent.metric("pitwire_queue_entries").await, 0.0);
}

const COLUMNS: &str = "seq stint captured_at lap position lap_time fuel fuel_capacity \
    tire_pressures_fl tire_pressures_fr tire_pressures_rl tire_pressures_rr \
    tire_temps_fl tire_temps_fr tire_temps_rl tire_temps_rr \
    tire_wear_fl tire_wear_fr tire_wear_rl tire_wear_rr \
    brake_temps_fl brake_temps_fr brake_temps_rl brake_temps_rr \
    engine_water_temp track_temp ambient_temp speed gear rpm \
    player_name car_name track_name session_type";

/// Reads a CSV with Python's standard reader and prints its rows as JSON.
const READ_CSV: &str = "
import csv, json, sys
with open(sys.argv[1], encoding='utf-8', newline='') as file:
    rows = list(csv.reader(file, strict=True))
assert all(len(row) == len(rows[0]) for row in rows)
json.dump(rows, sys.stdout)
";

#[tokio::test]
async fn an_hour_exported_as_csv_is_readable_in_python() {
    let mut pit = Pit::start(&[]).await;
    pit.setup(1).await;
    pit.drive(1, 7_199).await;
    let name = "Ángel \"Nieto\", 2nd\nof his name";
    let odd = json!({
        "timestamp": "2999-01-01T00:00:00Z", "lap": 7200, "position": 1, "fuel": 1, "fuel_capacity": 90,
        "player_name": name, "car_name": "=HYPERLINK(\"http://a;b\")", "track_name": "",
        "session_type": "Race", "tire_wear": {"fl": 1.5}, "strategy": [1],
    });
    assert_eq!(pit.agent.post("/v1/telemetry", odd.to_string()).await.status(), 200);
    pit.agent.stop().await;
    let csv = pit.file("hour.csv");
    let csv = csv.to_str().unwrap();
    let export = ["export", "--format", "csv", "--queue", &pit.queue(), "--output", csv];
    let started = std::time::Instant::now();
    let said = tool(&export);
    eprintln!("7,200 frames exported as CSV in {:?}", started.elapsed());
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(
        said.err,
        [
            "not in the CSV, which has only the dashboard's fields: strategy",
            "exported 7200 frames",
            "left 1 setup out of the CSV; --format jsonl has them",
        ]
    );
    let python = Command::new(peers::home().join("venv/bin/python"))
        .args(["-c", READ_CSV, csv])
        .output()
        .unwrap();
    assert!(python.status.success(), "{}", String::from_utf8_lossy(&python.stderr));
    let rows: Vec<Vec<String>> = serde_json::from_slice(&python.stdout).unwrap();
    assert_eq!(rows[0].join(" "), COLUMNS);
    assert_eq!(rows.len(), 7_201);
    let column = |name| rows[0].iter().position(|column| column == name).unwrap();
    let laps: Vec<u64> = rows[1..].iter().map(|row| row[column("lap")].parse().unwrap()).collect();
    assert!(laps.into_iter().eq(1..=7_200));
    let last = rows.last().unwrap();
    assert_eq!(last[column("player_name")], "Ángel \"Nieto\", 2nd\\nof his name");
    assert_eq!(last[column("car_name")], "'=HYPERLINK(\"http://a;b\")");
    assert_eq!((&*last[column("tire_wear_fl")], &*last[column("tire_wear_rr")]), ("1.5", ""));
    let first: Value =
        serde_json::from_str(&tool(&["cat", "2", "--queue", &pit.queue()]).out[0]).unwrap();
    let speed: f64 = rows[1][column("speed")].parse().unwrap();
    assert_eq!(first["speed"].as_f64(), Some(speed));

    let again = tool(&export);
    assert_eq!(again.code, 2, "{again:?}");
    assert!(again.err[0].contains("exists already; choose another name"), "{again:?}");
}

#[tokio::test]
async fn a_csv_export_round_trips_through_import() {
    let mut pit = Pit::start(&[]).await;
    pit.drive(1, 300).await;
    for (lap, text) in (301..).zip(["=1+1", "'=1", "a\\nb\nc", " \"x\"; y,", "42", "\u{202e}"]) {
        let odd = json!({"lap": lap, "lap_time": -1.5, "gear": -1, "tyre_wear": {"rr": 0.25},
            "player_name": text, "car_name": text});
        let answer = pit.agent.post("/v1/telemetry", odd.to_string()).await;
        assert_eq!(answer.status(), 200);
    }
    pit.setup(1).await;
    pit.agent.stop().await;
    let [csv, again, copy] =
        ["race.csv", "again.csv", "copy"].map(|name| pit.file(name).to_str().unwrap().to_owned());
    let export = |queue: &str, file: &str| {
        tool(&["export", "--format", "csv", "--queue", queue, "--output", file])
    };
    assert_eq!(export(&pit.queue(), &csv).code, 0);
    let plan = tool(&["import", &csv, "--queue", &copy]);
    assert!(plan.out[0].starts_with("would queue 306 frames, captured "), "{plan:?}");
    let said = tool(&["import", &csv, "--queue", &copy, "--apply"]);
    assert_eq!((said.code, said.out), (0, vec!["queued 306 entries, as entries 1 to 306".into()]));
    assert_eq!(export(&copy, &again).code, 0);
    assert_eq!(fs::read_to_string(&again).unwrap(), fs::read_to_string(&csv).unwrap());
    let frames = |queue: &str| {
        let said = tool(&["export", "--to", "306", "--queue", queue]);
        let frames = entries(&said.out.join("\n")).into_iter();
        frames
            .map(|entry| (entry["captured_at"].clone(), entry["frame"].clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(frames(&copy), frames(&pit.queue()));
}

#[tokio::test]
async fn an_edited_csv_with_an_invalid_row_is_not_imported() {
    let folder = tempfile::tempdir().unwrap();
    let [file, queue] = ["race.csv", "queue"].map(|name| folder.path().join(name));
    let (file, queue) = (file.to_str().unwrap(), queue.to_str().unwrap());
    let at = "2025-11-22T14:30:22.123Z";
    let rows = format!("{at},3,201.5\r\n{at},3\r\n{at},3,\"201,5\"\r\nnoon,3,1\r\n");
    fs::write(file, format!("captured_at,lap,speed\r\n{rows}")).unwrap();
    let said = tool(&["import", file, "--queue", queue, "--apply"]);
    assert_eq!(said.code, 1, "{said:?}");
    for (line, expected) in [
        (0, format!("{file}:3: 2 cells; the first line has 3")),
        (1, format!("{file}:4: speed: \"201,5\" is not a number")),
        (2, format!("{file}:5: captured_at: \"noon\" is not a timestamp")),
        (3, "1 frame, but 3 lines that are not entries".into()),
    ] {
        assert!(said.out[line].starts_with(&expected), "{expected}: {said:?}");
    }
    fs::write(file, format!("captured_at,throttle\r\n{at},3\r\n")).unwrap();
    let said = tool(&["import", file, "--queue", queue]);
    let expected =
        format!("{file}:1: \"throttle\" is not a column of an export; remove the column");
    assert_eq!((said.code, &said.out[0]), (1, &expected), "{said:?}");
}

#[tokio::test]
async fn a_range_is_exported_by_sequence_number_or_time() {
    let mut pit = Pit::start(&[]).await;
    pit.drive(1, 100).await;
    pit.agent.stop().await;
    let queue = pit.queue();
    let seqs = |args: &[&str]| {
        let said = tool(&[&["export", "--queue", &queue], args].concat());
        assert_eq!(said.code, 0, "{said:?}");
        let entries = entries(&said.out.join("\n"));
        entries.iter().map(|entry| entry["seq"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    let at = |seq: usize| {
        let said = tool(&["ls", "--queue", &queue]);
        said.out[seq].split('\t').nth(1).unwrap().to_owned()
    };
    assert_eq!(seqs(&["--from", "10", "--to", "12"]), [10, 11, 12]);
    assert_eq!(seqs(&["--from", "99"]), [99, 100]);
    assert_eq!(seqs(&["--since", &at(98)]), [98, 99, 100]);
    assert_eq!(seqs(&["--until", &at(3)]), [1, 2, 3]);
    assert_eq!(seqs(&["--since", &at(5), "--until", &at(7)]), [5, 6, 7]);
    assert!(seqs(&["--from", "500"]).is_empty());
}

/// Every file of a queue with its content, except the lock file.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(folder).unwrap() {
            let path = item.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.ends_with("owner") || path.ends_with("lock") => {}
                false => files.push((path.clone(), fs::read(path).unwrap())),
            }
        }
    }
    files.sort();
    files
}

/// Flips a bit in the middle of a segment.
fn damage(queue: &Path) {
    let segments = fs::read_dir(queue).unwrap().map(|item| item.unwrap().path());
    let mut segments: Vec<_> = segments
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("q-"))
        .collect();
    segments.sort();
    assert!(segments.len() >= 2, "{segments:?}");
    let file = segments[1].join("db");
    let mut bytes = fs::read(&file).unwrap();
    let used = bytes.iter().rposition(|&byte| byte != 0).unwrap();
    bytes[used / 2] ^= 1;
    fs::write(file, bytes).unwrap();
}

/// Segments of 64 entries.
const SMALL: [&str; 1] = ["queue.max_entries=1024"];

#[tokio::test]
async fn a_damaged_segment_is_found_and_repaired() {
    let mut pit = Pit::start(&SMALL).await;
    for first in 0..10 {
        pit.drive(1 + first * 40, 40).await;
    }
    pit.agent.stop().await;
    let queue = pit.queue();
    let place = ["--queue", &queue, "--set", SMALL[0]];
    assert_eq!(tool(&[&["verify"][..], &place].concat()).code, 0);
    damage(Path::new(&queue));
    let before = contents(Path::new(&queue));
    let said = tool(&[&["verify"][..], &place].concat());
    assert_eq!((said.code, said.out.len()), (1, 2), "{said:?}");
    assert!(said.out[0].contains("damaged") && said.out[0].starts_with("entries "), "{said:?}");
    assert!(said.out[1].starts_with("read ") && said.out[1].ends_with("; 1 finding"), "{said:?}");
    let plan = tool(&[&["repair"][..], &place].concat());
    assert_eq!(plan.code, 1, "{plan:?}");
    assert!(
        plan.out[0].starts_with(&said.out[0]) && plan.out[0].contains("quarantine/"),
        "{plan:?}"
    );
    assert_eq!(plan.out.last().unwrap(), "nothing changed; use --apply to do it");
    assert!(contents(Path::new(&queue)) == before, "a plan changed files");

    let said = tool(&[&["repair", "--apply"][..], &place].concat());
    assert_eq!(said.code, 0, "{said:?}");
    let line = said.out.iter().find(|line| line.starts_with("repaired: ")).unwrap();
    let entries = status(&place, "entries");
    let corrupt = status(&place, "dropped_corrupt");
    assert!(entries < 400 && entries + corrupt == 400, "{entries} {corrupt} {said:?}");
    assert!(line.starts_with(&format!("repaired: {entries} entries queued")), "{line}");
    assert_eq!(tool(&[&["verify"][..], &place].concat()).code, 0);
    let aside = fs::read_dir(Path::new(&queue).join("quarantine")).unwrap().count();
    assert_eq!(aside, 1);
}

#[tokio::test]
async fn a_segment_damaged_under_a_running_agent_is_found_and_repaired() {
    let pit = Pit::start(&SMALL).await;
    for first in 0..10 {
        pit.drive(1 + first * 40, 40).await;
    }
    damage(Path::new(&pit.queue()));
    let admin = pit.agent.admin().await;
    let said = tool(&["verify", "--admin", &admin]);
    assert_eq!((said.code, said.out.len()), (1, 2), "{said:?}");
    assert_eq!(
        pit.agent.metric("pitwire_queue_entries").await,
        400.0,
        "a plan must not change the queue"
    );
    assert_eq!(tool(&["repair", "--admin", &admin]).code, 1);
    assert_eq!(
        pit.agent.metric("pitwire_queue_entries").await,
        400.0,
        "a plan must not change the queue"
    );
    let said = tool(&["repair", "--apply", "--admin", &admin]);
    assert_eq!(said.code, 0, "{said:?}");
    let left = pit.agent.metric("pitwire_queue_entries").await;
    let corrupt = r#"pitwire_entries_dropped_total{reason="corrupt"}"#;
    assert_eq!(left + pit.agent.metric(corrupt).await, 400.0);
    assert_eq!(tool(&["verify", "--admin", &admin]).code, 0);
    pit.drive(500, 1).await;
}

#[tokio::test]
async fn other_damage_in_a_queue_folder_is_found_and_repaired() {
    let mut pit = Pit::start(&SMALL).await;
    for first in 0..5 {
        pit.drive(1 + first * 40, 40).await;
    }
    pit.setup(1).await;
    pit.agent.stop().await;
    let queue = pit.file("queue");
    let journal = |queue: &Path| {
        let names = fs::read_dir(queue).unwrap().map(|item| item.unwrap().path());
        let mut names = names.filter(|path| path.extension() == Some("log".as_ref()));
        names.next().unwrap()
    };
    let seal = |queue: &Path| {
        let names = fs::read_dir(queue).unwrap().map(|item| item.unwrap().path());
        let mut names = names.filter(|path| path.join("seal").exists());
        names.next().unwrap().join("seal")
    };
    type Harm<'a> = &'a dyn Fn(&Path);
    let harms: [(&str, Harm<'_>, i32); 7] = [
        ("FORMAT: it is missing", &|queue| fs::remove_file(queue.join("FORMAT")).unwrap(), 1),
        (
            "the write-ahead log is damaged",
            &|queue| {
                let mut bytes = fs::read(journal(queue)).unwrap();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                fs::write(journal(queue), bytes).unwrap();
            },
            1,
        ),
        (
            "the write-ahead log of the newest segment is missing",
            &|queue| {
                fs::remove_file(journal(queue)).unwrap();
            },
            1,
        ),
        ("its seal is damaged; all can be read", &|queue| fs::write(seal(queue), b"x").unwrap(), 1),
        (
            "facts/latest_setup: it is damaged",
            &|queue| {
                fs::write(queue.join("facts/latest_setup"), b"x").unwrap();
            },
            1,
        ),
        (
            "trash-1: left over from a crash",
            &|queue| fs::create_dir(queue.join("trash-1")).unwrap(),
            0,
        ),
        ("is not there", &|queue| fs::remove_dir_all(queue).unwrap(), 2),
    ];
    for (expected, harm, code) in harms {
        let copy = tempfile::tempdir().unwrap();
        let copy = copy.path().join("queue");
        let copied = Command::new("cp").arg("-r").arg(&queue).arg(&copy).status().unwrap();
        assert!(copied.success());
        harm(&copy);
        let place = copy.to_str().unwrap().to_owned();
        let said = tool(&["repair", "--queue", &place, "--set", SMALL[0]]);
        assert_eq!(said.code, code, "{expected}: {said:?}");
        if code == 2 {
            assert!(said.err[0].contains("there is no queue in"), "{said:?}");
            continue;
        }
        assert!(said.out.iter().any(|line| line.contains(expected)), "{expected}: {said:?}");
        let said = tool(&["repair", "--apply", "--queue", &place, "--set", SMALL[0]]);
        assert_eq!(said.code, 0, "{expected}: {said:?}");
        assert_eq!(tool(&["verify", "--queue", &place, "--set", SMALL[0]]).code, 0, "{expected}");
    }
}

#[tokio::test]
async fn trace_reports_the_disposition_of_each_entry() {
    // Five poisoned frames are refused, the next 100 delivered.
    let server = Peer::start(Kind::Asgi, &["--refuse", "poison"]);
    let settings = ["queue.max_entries=400", "queue.durability=200ms"];
    let folder = tempfile::tempdir().unwrap();
    let queue = folder.path().join("queue");
    let mut agent = Agent::start(&queue, &server.url(), &settings);
    let poison = r#"{"lap": 1, "player_name": "poison"}"#;
    agent.post("/v1/telemetry", numbered_samples(1, 5).join("\n")).await;
    agent.post("/v1/telemetry", poison).await;
    agent.post("/v1/telemetry", numbered_samples(7, 50).join("\n")).await;
    let aside = r#"pitwire_ledger_entries{state="dead_letters"}"#;
    agent.metric_becomes(aside, |entries| entries == 1.0).await;
    agent.metric_becomes("pitwire_queue_entries", |entries| entries == 0.0).await;
    agent.stop().await;
    // Then nothing is delivered; the full queue is downsampled, and a part dropped by an operator.
    let mut agent = Agent::start(&queue, CLOSED_ADDRESS, &settings);
    let now = pitwire::platform::clock::now().0;
    for first in 0..12 {
        // Ten minutes in total; the newest minute is never downsampled.
        let samples: Vec<String> = (1..=50)
            .map(|n| {
                let at = CapturedAt(now + (first * 50 + n) * 1000).to_string();
                json!({
                    "timestamp": at, "lap": 1, "position": 1, "fuel": 1, "fuel_capacity": 9,
                    "player_name": "a", "car_name": "b", "track_name": "c", "session_type": "d",
                })
                .to_string()
            })
            .collect();
        assert_eq!(agent.post("/v1/telemetry", samples.join("\n")).await.status(), 200);
    }
    let downsampled = agent.metric(r#"pitwire_ledger_entries{state="downsampled"}"#).await;
    assert!(downsampled > 0.0, "{downsampled}");
    let admin = agent.admin().await;
    assert_eq!(
        tool(&["drop", "--from", "640", "--to", "645", "--apply", "--admin", &admin]).code,
        0
    );
    let queued: Vec<u64> = {
        let said = tool(&["ls", "--limit", "1000", "--admin", &admin]);
        said.out[1..].iter().map(|line| line.split('\t').next().unwrap().parse().unwrap()).collect()
    };
    let gone = (58..640).find(|seq| !queued.contains(seq)).unwrap().to_string();
    let held = queued[0].to_string();
    let next = status(&["--admin", &admin], "next_seq").to_string();
    let expected = [
        ("3", 0, "was delivered: the server has it"),
        ("6", 0, "was refused by the server and is a dead letter"),
        ("50", 0, "was delivered: the server has it"),
        (gone.as_str(), 0, "was downsampled"),
        ("642", 0, "was dropped: an operator ran pitwire queue drop"),
        (held.as_str(), 0, "is in the queue: a frame of stint "),
        (next.as_str(), 1, "does not exist yet: the next one becomes entry "),
        ("0", 1, "is unknown: "),
    ];
    let queue = queue.to_str().unwrap();
    let ask = |place: &[&str]| {
        for (seq, code, expected) in expected {
            let said = tool(&[&["trace", seq], place].concat());
            assert_eq!((said.code, said.out.len()), (code, 1), "{said:?}");
            let expected = format!("server: entry {seq} {expected}");
            assert!(said.out[0].starts_with(&expected), "{expected}: {said:?}");
        }
    };
    ask(&["--admin", &admin]);
    agent.stop().await;
    ask(&["--queue", queue]);
}

#[tokio::test]
async fn dropped_entries_are_counted_and_never_sent() {
    let mut pit = Pit::start(&[]).await;
    pit.drive(1, 20).await;
    pit.setup(7).await;
    pit.drive(21, 30).await;
    let admin = pit.agent.admin().await;
    let dropped = r#"pitwire_entries_dropped_total{reason="operator"}"#;
    let plan = tool(&["drop", "--from", "11", "--to", "30", "--admin", &admin]);
    assert!(
        plan.out[0].starts_with("would drop 19 frames and 1 setup: entries 11 to 30"),
        "{plan:?}"
    );
    assert_eq!(pit.agent.metric(dropped).await, 0.0);

    let said = tool(&["drop", "--from", "11", "--to", "30", "--apply", "--admin", &admin]);
    assert_eq!(
        (said.code, &said.out[..]),
        (
            0,
            &[
                "dropped 19 entries".into(),
                "kept entry 21: a setup that later frames were driven with".into(),
            ][..]
        ),
    );
    assert_eq!(pit.agent.metric(dropped).await, 19.0);
    assert_eq!(pit.agent.metric("pitwire_ledger_imbalance_entries").await, 0.0);
    let queue = pit.queue();
    pit.agent.stop().await;
    let said = tool(&["drop", "--to", "4", "--apply", "--queue", &queue]);
    assert_eq!((said.code, said.out), (0, vec!["dropped 4 entries".into()]));
    for (name, value) in [("dropped_operator", 23), ("queued", 28), ("imbalance", 0)] {
        assert_eq!(status(&["--queue", &queue], name), value, "{name}");
    }

    let server = Peer::start(Kind::Embedded, &[]);
    let agent = Agent::start(Path::new(&queue), &server.url(), &[]);
    agent.metric_becomes("pitwire_queue_entries", |entries| entries == 0.0).await;
    let expected: Vec<u64> = (5..=10).chain(30..=50).collect();
    assert_eq!(numbers(&server.all_frames().await), expected);
    let session = server.sessions().await.remove(0);
    assert_eq!(server.setups(&session).await[0]["setup"], json!({"wing": 7}));
}

#[tokio::test]
async fn after_drop_all_new_entries_are_sent_with_their_setup() {
    let pit = Pit::start(&[]).await;
    pit.drive(1, 20).await;
    pit.setup(7).await;
    pit.drive(21, 30).await;
    let admin = pit.agent.admin().await;
    let said = tool(&["drop", "--all", "--apply", "--admin", &admin]);
    assert_eq!((said.code, said.out), (0, vec!["dropped 51 entries".into()]));
    pit.drive(60, 5).await;
    let queue = pit.queue();
    let Pit { folder: _folder, mut agent } = pit;
    agent.stop().await;
    let server = Peer::start(Kind::Embedded, &[]);
    let agent = Agent::start(Path::new(&queue), &server.url(), &[]);
    agent.metric_becomes("pitwire_queue_entries", |entries| entries == 0.0).await;
    assert!(numbers(&server.all_frames().await).into_iter().eq(60..=64));
    let session = server.sessions().await.remove(0);
    assert_eq!(server.setups(&session).await[0]["setup"], json!({"wing": 7}));
}

#[tokio::test]
async fn dead_letters_are_requeued_once() {
    let strict = Peer::start(Kind::Asgi, &["--refuse", "poison"]);
    let folder = tempfile::tempdir().unwrap();
    let queue = folder.path().join("queue");
    let mut agent = Agent::start(&queue, &strict.url(), &[]);
    let samples = (1..=10).map(|lap| {
        let name = if lap % 3 == 0 { "poison" } else { "Ana" };
        json!({"lap": lap, "player_name": name}).to_string()
    });
    let samples = Vec::from_iter(samples).join("\n");
    assert_eq!(agent.post("/v1/telemetry", samples).await.status(), 200);
    let aside = r#"pitwire_ledger_entries{state="dead_letters"}"#;
    agent.metric_becomes(aside, |entries| entries == 3.0).await;
    let admin = agent.admin().await;
    let plan = tool(&["requeue", "--admin", &admin]);
    assert_eq!(plan.code, 0, "{plan:?}");
    assert_eq!(plan.out[0], "would requeue 3 frames, formerly entries 3 to 9");
    agent.stop().await;
    let place = queue.to_str().unwrap();
    assert_eq!(tool(&["requeue", "--queue", place]), plan);

    let server = Peer::start(Kind::Asgi, &[]);
    let agent = Agent::start(&queue, &server.url(), &[]);
    let admin = agent.admin().await;
    let said = tool(&["requeue", "--apply", "--admin", &admin]);
    assert_eq!((said.code, said.out), (0, vec!["queued 3 entries, as entries 11 to 13".into()]));
    let came = async || {
        let frames = server.all_frames().await;
        (numbers(&frames) == [3, 6, 9]).then_some(())
    };
    eventually("the refused frames", came).await;
    let said = tool(&["requeue", "--apply", "--admin", &admin]);
    assert_eq!(said.out, ["no dead letters"]);
    assert_eq!(agent.metric("pitwire_ledger_imbalance_entries").await, 0.0);
    assert!(queue.join("quarantine/dead-letters-archived.ndjson").exists());
}

#[tokio::test]
async fn the_tools_do_not_disturb_a_running_session() {
    let server = Peer::start(Kind::Embedded, &[]);
    let folder = tempfile::tempdir().unwrap();
    let agent = Agent::start(&folder.path().join("queue"), &server.url(), &SMALL);
    let admin = agent.admin().await;
    let samples = numbered_samples(1, 1000);
    for samples in samples.chunks(100) {
        agent.feed(samples);
        for args in [&["export"][..], &["verify"], &["repair", "--apply"], &["trace", "1"]] {
            assert_eq!(tool(&[args, &["--admin", &admin]].concat()).code, 0, "{args:?}");
        }
    }
    agent.metric_becomes(r#"pitwire_ledger_entries{state="delivered"}"#, |n| n == 1000.0).await;
    assert!(numbers(&server.all_frames().await).into_iter().eq(1..=1000));
    assert_eq!(agent.metric("pitwire_storage_errors_total{op=\"read\"}").await, 0.0);
}

#[tokio::test]
async fn the_queue_tools_refuse_foreign_origins_and_hosts() {
    let pit = Pit::start(&[]).await;
    pit.drive(1, 3).await;
    let admin = pit.agent.admin().await;
    let requests = format!("{admin}/queue/requests");
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    for (header, value, status) in [
        ("Origin", "https://evil.example", 403),
        ("Origin", "null", 403),
        ("Host", "evil.example:9184", 403),
        ("Origin", "http://localhost:3000", 200),
        ("Host", "localhost:9184", 200),
    ] {
        for request in [json!("status"), json!({"purge": {"first": 9, "last": 9}})] {
            let asked = http.post(&requests).header(header, value).json(&request).send().await;
            assert_eq!(asked.unwrap().status(), status, "{header}: {value}: {request}");
        }
    }
    assert_eq!(http.get(&requests).send().await.unwrap().status(), 405);
    assert_eq!(pit.agent.metric("pitwire_queue_entries").await, 3.0);
}

#[tokio::test]
async fn an_invalid_request_is_refused_with_the_field_and_what_is_allowed() {
    let pit = Pit::start(&[]).await;
    let requests = format!("{}/queue/requests", pit.agent.admin().await);
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    for (request, error) in [
        ("7", "expected"),
        (r#""burn""#, "unknown variant `burn`, expected one of `status`, `peek`, "),
        (r#"{"trace":{}}"#, "trace: missing field `seq`"),
        (r#"{"trace":{"seq":"one"}}"#, "trace.seq: invalid type: string \"one\", expected u64"),
        (r#"{"trace":{"seq":1,"all":true}}"#, "trace.all: unknown field `all`, expected `seq`"),
        (
            r#"{"purge":{"first":0,"last":18446744073709551615}}"#,
            "purge.last: 18446744073709551615 is too large; send a whole number from 0 to ",
        ),
        (r#"{"import":{"lines":"\n7"}}"#, "line 2: not an object"),
    ] {
        let answer = http.post(&requests).body(request).send().await.unwrap();
        assert_eq!(answer.status(), 400, "{request}");
        let answer: Value = answer.json().await.unwrap();
        assert!(answer["error"].as_str().unwrap().contains(error), "{request}: {answer}");
    }
    // A page is bounded, whatever the request says.
    let peek = r#"{"peek":{"from":0,"entries":1000000,"with_json":true}}"#;
    let answer = http.post(&requests).body(peek).send().await.unwrap();
    assert_eq!(answer.json::<Value>().await.unwrap(), json!({"entries": []}));
}

#[tokio::test]
async fn a_tool_that_cannot_run_exits_with_2_and_advice() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().to_str().unwrap();
    for (args, expected) in [
        (&["status", "--queue", empty][..], "there is no queue in"),
        (&["verify", "--queue", empty], "name its folder with --queue"),
        (&["status", "--admin", "http://127.0.0.1:9"], "no agent answers at http://127.0.0.1:9"),
        (&["status", "--admin", "nowhere"], "--admin: \"nowhere\" is not an admin address; use"),
        (&["status", "--queue", empty, "--set", "queue.max_entries"], "write it as KEY=VALUE"),
        (&["status", "--queue", empty, "--set", "log.level=loud"], "--set: log.level: "),
        (&["trace", "one", "--queue", empty], "write a sequence number, such as 1"),
        (&["ls", "--from", "99999999999999999999"], "write a sequence number, such as 1"),
        (&["export", "--since", "noon"], "write a timestamp such as 2025-11-22T14:30:00Z"),
        (&["export", "--since", "2025-11-22T14:30:00Z", "--from", "1"], "cannot be used with"),
        (&["drop", "--from", "5", "--to", "1", "--queue", empty], "--to: 1 is below --from 5"),
        (&["drop", "--queue", empty], "--from <SEQ>|--to <SEQ>|--all"),
        (&["import", "missing.jsonl"], "missing.jsonl: "),
        (&[], "Usage: pitwire queue"),
    ] {
        let said = tool(args);
        assert_eq!((said.code, said.out.len()), (2, 0), "{args:?}: {said:?}");
        assert!(said.err.join("\n").contains(expected), "{args:?}: {said:?}");
    }
    let files = fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(files, 0, "nothing is created in a folder that is not a queue");

    // Another program answers at the address.
    let server = Peer::start(Kind::Embedded, &[]);
    let said = tool(&["status", "--admin", &server.url()]);
    assert_eq!(said.code, 2);
    assert!(said.err[0].contains("does not know the queue tools"), "{said:?}");
}

/// Inspecting a queue with smaller limits than it was created with must not evict entries.
#[tokio::test]
async fn inspecting_a_queue_evicts_nothing() {
    let mut pit = Pit::start(&[]).await;
    pit.drive(1, 200).await;
    pit.agent.stop().await;
    let queue = pit.queue();
    for args in [&["status"][..], &["ls"], &["export"], &["trace", "1"], &["requeue"], &["verify"]]
    {
        let small = ["--queue", &queue, "--set", "queue.max_entries=10"];
        assert_eq!(tool(&[args, &small].concat()).code, 0, "{args:?}");
    }
    assert_eq!(status(&["--queue", &queue], "entries"), 200);
}
