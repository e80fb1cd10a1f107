//! The terminal output: one status line at the bottom, and complete log lines above it.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pitwire::entry::CapturedAt;
use pitwire::platform::clock;

use crate::agent::{PATIENCE, eventually, pitwire};
use crate::peers::{self, Kind, Peer};
use crate::process::numbered_samples;
use crate::proxy::{Network, Proxy};
use crate::screen::{Screen, take_environment};

/// An address that refuses connections.
const CLOSED_ADDRESS: &str = "http://127.0.0.1:9";
const WIDE: u16 = 400;
/// A window beside the game.
const NARROW: u16 = 40;
/// Entries in the queue that the tools work on.
const ENTRIES: u64 = 20_000;
/// The longest time from a signal to the exit of the process.
const SHUTDOWN: Duration = Duration::from_secs(5);
const CTRL_C: &str = "\x03";
const CTRL_S: &str = "\x13";
const CTRL_Q: &str = "\x11";
/// The sequence that precedes each text of the status line.
const CLEAR: &str = "\r\x1b[2K";

/// An agent with a car that drives at 10 Hz.
fn run(server: &str, queue: &Path, settings: &[&str]) -> Command {
    let mut command = pitwire(&["run", "--server", server]);
    command.arg("--queue").arg(queue);
    for setting in [
        "source.lmu.enabled=false",
        "source.stdin.enabled=false",
        "source.simulator.enabled=true",
        "source.http.listen=127.0.0.1:0",
        "metrics.listen=127.0.0.1:0",
        "update_rate_hz=10",
        "delivery.proof_timeout=2s",
        "delivery.backoff_min=50ms",
        "delivery.backoff_max=500ms",
    ]
    .iter()
    .chain(settings)
    {
        command.args(["--set", setting]);
    }
    command.env("TERM", "xterm").env_remove("NO_COLOR");
    command
}

/// True if a row is a log line from its start, or a link.
fn is_whole(row: &str) -> bool {
    let is_time =
        |text: &str| text.len() == 9 && text.ends_with('Z') && text.get(2..3) == Some(":");
    let time = row.split_whitespace().next().unwrap_or_default();
    let is_moment = is_time(time) || row.starts_with("20") && row.get(10..11) == Some("T");
    let level = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR"];
    row.starts_with("dashboard: http://")
        || is_moment && row.split_whitespace().nth(1).is_some_and(|word| level.contains(&word))
}

/// True if the output contains colours.
fn has_colors(written: &str) -> bool {
    written.split("\x1b[").skip(1).any(|rest| {
        rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';').starts_with('m')
    })
}

/// The number of saved entries that the status line shows while offline.
fn saved(row: &str) -> Option<u64> {
    row.strip_prefix("Offline, ")?.split(' ').next()?.replace(',', "").parse().ok()
}

/// Checks that the status line is gone and that the next program starts at the start of a row.
fn is_clean(screen: &Screen) {
    let rows = screen.rows();
    assert_eq!(screen.cursor(), (rows.len() as u16, 0), "{rows:#?}");
    assert!(!rows.iter().any(|row| row.contains("| queued")), "{rows:#?}");
}

#[tokio::test]
async fn the_status_line_stays_below_the_log_and_disappears_at_ctrl_c() {
    let server = Peer::start(Kind::Embedded, &[]);
    let proxy = Proxy::start(server.port());
    proxy.set(Network::Down);
    let folder = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let run = run(&proxy.url(), &folder.path().join("queue"), &[]);
    let mut screen = Screen::start(&run, WIDE, |_| {});
    let offline = |row: &str| saved(row) >= Some(10) && row.ends_with("/s | out 0.0/s");
    let row = screen.shows("offline", offline).await;
    let saved = saved(&row).unwrap();
    assert!(row.contains(&format!("{saved} saved | queued {saved} | in ")), "{row}");

    proxy.set(Network::UP);
    let live = |row: &str| row.starts_with("Live | queued ") && !row.ends_with("out 0.0/s");
    screen.shows("live", live).await;
    screen.has("the link", |row| row.starts_with(&format!("dashboard: {}", proxy.url()))).await;

    proxy.set(Network::Down);
    screen.shows("offline again", |row| row.starts_with("Offline, ")).await;
    screen.types(CTRL_C);
    assert_eq!(screen.exit_code(SHUTDOWN).await, Some(0));
    let seconds = started.elapsed().as_secs() as usize;
    is_clean(&screen);
    let rows = screen.rows();
    assert!(rows.len() > 4, "{rows:#?}");
    assert!(rows.iter().all(|row| is_whole(row)), "{rows:#?}");

    let written = screen.written();
    let texts = written.matches(CLEAR).count();
    assert!(texts <= rows.len() + seconds + 3, "{texts} in {seconds} s:\n{written:?}");
    assert!(has_colors(&written), "{written:?}");
    // The terminal echoes it on the status line, so it is removed with the line.
    assert!(written.contains("^C"), "{written:?}");
}

#[tokio::test]
async fn no_color_removes_colors_and_a_dumb_terminal_the_status_line() {
    let folder = tempfile::tempdir().unwrap();
    let agent =
        |name: &str, settings: &[&str]| run(CLOSED_ADDRESS, &folder.path().join(name), settings);
    let out_of_reach = |row: &str| row.contains("Offline: nothing listens at");

    let mut plain = agent("plain", &[]);
    let plain = Screen::start(plain.env("NO_COLOR", "1"), WIDE, |_| {});
    plain.shows("a line", |row| saved(row) >= Some(10)).await;
    plain.has("a log", out_of_reach).await;
    assert!(!has_colors(&plain.written()), "{:?}", plain.written());

    let mut dumb = agent("dumb", &[]);
    let mut dumb = Screen::start(dumb.env("TERM", "dumb"), WIDE, |_| {});
    // With stderr redirected, while the other streams are on the terminal.
    let file = folder.path().join("stderr");
    let away = fs::File::create(&file).unwrap();
    let mut piped = Screen::start(&agent("piped", &[]), WIDE, |command| {
        command.stderr(Stdio::from(away));
    });
    let log = folder.path().join("pitwire.log");
    let log_file = format!("log.file={}", log.display());
    let mut logged = Screen::start(&agent("logged", &[&log_file]), WIDE, |_| {});
    logged.shows("a line", |row| saved(row) >= Some(10)).await;
    dumb.has("a log", out_of_reach).await;
    // Wait as long as the others needed to show a line.
    let said = async || out_of_reach(&fs::read_to_string(&file).unwrap()).then_some(());
    eventually("a log", said).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    for screen in [&mut dumb, &mut piped, &mut logged] {
        peers::signal(screen.id(), "-INT");
        assert_eq!(screen.exit_code(SHUTDOWN).await, Some(0));
    }
    let rows = dumb.rows();
    assert!(rows.len() > 2 && rows.iter().all(|row| is_whole(row)), "{rows:#?}");
    assert!(!dumb.written().contains('\x1b'), "{:?}", dumb.written());
    assert_eq!(piped.written(), "");
    let piped = fs::read_to_string(&file).unwrap();
    assert!(piped.lines().all(is_whole), "{piped}");
    assert!(!piped.contains('\x1b'), "{piped:?}");
    // Only the messages from before the log file was opened are left.
    is_clean(&logged);
    assert!(logged.rows().len() < 2, "{:#?}", logged.rows());
    assert!(out_of_reach(&fs::read_to_string(log).unwrap()));
}

#[tokio::test]
async fn the_status_line_fits_a_narrow_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let run = run(CLOSED_ADDRESS, &folder.path().join("queue"), &[]);
    let mut screen = Screen::start(&run, 24, |_| {});
    let first = screen.shows("a line", |row| saved(row) >= Some(0)).await;
    let bottom = screen.shows("another", |row| saved(row) > saved(&first)).await;
    assert!(bottom.ends_with(" saved"), "{bottom}");
    let lines = screen.rows().iter().filter(|row| row.starts_with("Offline, ")).count();
    assert_eq!(lines, 1, "{:#?}", screen.rows());
    screen.types(CTRL_C);
    assert_eq!(screen.exit_code(SHUTDOWN).await, Some(0));
    let rows = screen.rows();
    assert!(!rows.iter().any(|row| row.starts_with("Offline")), "{rows:#?}");
    assert_eq!(screen.cursor(), (rows.len() as u16, 0), "{rows:#?}");
}

#[tokio::test]
async fn sentences_break_between_words_in_a_narrow_terminal() {
    let mut demo = pitwire(&["demo", "--seconds", "4", "--outage", "1:1"]);
    demo.env("TERM", "xterm").env("NO_COLOR", "1");
    let mut screen = Screen::start(&demo, NARROW, |_| {});
    assert_eq!(screen.exit_code(PATIENCE).await, Some(0));
    let rows = screen.rows();
    let words: Vec<_> = rows.iter().flat_map(|row| row.split_whitespace()).collect();
    let text = words.join(" ");
    for sentence in [
        "Open this link in a browser before the network fails.",
        "After the outage, its plots mark the late frames as \"replayed\".",
        "Ctrl-C ends the demo and prints what happened to the frames.",
        "1 s: the network fails for 1 s; the page stops and the queue grows",
        "seen by a viewer 0 lost, 0 out of order, 0 shown twice",
        "0 dropped, 0 downsampled, 0 dead letters",
        "Every frame reached the page, in order.",
    ] {
        assert!(text.contains(sentence), "{sentence}: {rows:#?}");
    }
}

#[tokio::test]
async fn an_agent_in_the_background_shows_no_status_line() {
    let folder = tempfile::tempdir().unwrap();
    let run = run(CLOSED_ADDRESS, &folder.path().join("queue"), &[]);
    let mut shell = Command::new("bash");
    shell.args(["-mc", r#""$0" "$@" & sleep 6; kill $!; wait $!"#]);
    shell.arg(run.get_program()).args(run.get_args());
    take_environment(&mut shell, &run);
    let mut screen = Screen::start(&shell, WIDE, |_| {});
    assert_eq!(screen.exit_code(PATIENCE).await, Some(0));
    let rows = screen.rows();
    assert!(rows.iter().any(|row| row.contains("Offline: nothing listens at")), "{rows:#?}");
    assert!(!screen.written().contains(CLEAR), "{:?}", screen.written());
}

#[tokio::test]
async fn a_stopped_terminal_blocks_neither_sources_nor_shutdown() {
    let folder = tempfile::tempdir().unwrap();
    // It soon logs more than fits the buffer.
    let loud = [
        "log.level=debug",
        "source.simulator.enabled=false",
        "update_rate_hz=0",
        "delivery.backoff_min=10ms",
        "delivery.backoff_max=10ms",
    ];
    let run = run(CLOSED_ADDRESS, &folder.path().join("queue"), &loud);
    for goes_on in [true, false] {
        let mut screen = Screen::start(&run, WIDE, |_| {});
        let served = |row: &str| row.contains("telemetry on http://");
        let row = screen.has("an address", served).await;
        let address = row.split("http://").nth(1).unwrap().trim();
        screen.shows("a line", |row| row.starts_with("Offline, ")).await;
        screen.types(CTRL_S);
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        let mut stored = 0;
        let stopped = Instant::now();
        while stopped.elapsed() < Duration::from_secs(8) {
            let request = http.post(format!("http://{address}/v1/telemetry")).body(r#"{"lap":1}"#);
            // 202: the disk is busy, and the entry waits in memory.
            assert!(request.send().await.unwrap().status().is_success());
            stored += 1;
        }
        if goes_on {
            screen.types(CTRL_Q);
            screen.has("the number of lost lines", |row| row.contains("log lines dropped")).await;
            screen.shows("the current status", |row| saved(row) == Some(stored)).await;
        }
        peers::signal(screen.id(), "-INT");
        assert_eq!(screen.exit_code(SHUTDOWN).await, Some(0));
        if goes_on {
            is_clean(&screen);
        }
    }
}

/// The numbers before each " %" in the output.
fn percentages(written: &str, what: &str) -> Vec<u64> {
    let shown = written.split(what).skip(1).filter_map(|rest| rest.split(" %").next());
    shown.map(|number| number.parse().unwrap()).collect()
}

/// Checks that progress was shown from 0 to 100 %.
fn progress_is_complete(written: &str, what: &str) {
    let shown = percentages(written, what);
    assert!(shown.is_sorted(), "{written:?}");
    assert_eq!((shown.first(), shown.last()), (Some(&0), Some(&100)), "{written:?}");
}

#[tokio::test]
async fn a_replay_shows_its_progress_and_why_it_waits() {
    let server = Peer::start(Kind::Embedded, &[]);
    let proxy = Proxy::start(server.port());
    proxy.set(Network::Down);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("laps.ndjson");
    // Eight seconds of samples.
    fs::write(&file, numbered_samples(1, 160).join("\n") + "\n\n").unwrap();
    let mut replay = pitwire(&["replay", file.to_str().unwrap(), "--server", &proxy.url()]);
    replay.args(["--speed", "10", "--set", "delivery.backoff_max=500ms"]);
    replay.env("TERM", "xterm").env_remove("NO_COLOR");
    let mut screen = Screen::start(&replay, WIDE, |_| {});
    let waits = |row: &str| saved(row) >= Some(10) && row.ends_with(" | laps.ndjson: 0 %");
    screen.shows("the reason for the wait", waits).await;
    proxy.set(Network::UP);
    let goes_on = |row: &str| row.starts_with("Live | laps.ndjson: ") && row.ends_with(" s left");
    screen.shows("the progress", goes_on).await;
    assert_eq!(screen.exit_code(PATIENCE).await, Some(0));
    progress_is_complete(&screen.written(), "| laps.ndjson: ");
    is_clean(&screen);
    let mut rows = screen.rows();
    assert!(rows.pop().unwrap().starts_with("pitwire: sent 160 frames in "), "{rows:#?}");
    let report = rows.pop().unwrap();
    assert!(
        report.starts_with("pitwire: ") && report.ends_with("160 taken, 0 refused"),
        "{report}"
    );
    assert!(rows.iter().all(|row| is_whole(row) && !row.contains('%')), "{rows:#?}");
}

/// Runs a queue tool without a terminal and returns its output, stderr last.
fn tool(args: &[&str]) -> Vec<String> {
    let output = pitwire(&["queue"]).args(args).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let lines = |bytes: &[u8]| String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect();
    let (mut out, err): (Vec<_>, Vec<_>) = (lines(&output.stdout), lines(&output.stderr));
    out.extend(err);
    out
}

#[tokio::test]
async fn the_queue_tools_show_progress_without_changing_their_output() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let file = path("race.jsonl");
    let start = clock::now().0 - 3_600_000;
    let entry = |number: u64| {
        let at = CapturedAt(start + number as i64);
        format!(r#"{{"captured_at":"{at}","telemetry":{{"lap":{number}}}}}"#)
    };
    fs::write(&file, (1..=ENTRIES).map(entry).collect::<Vec<_>>().join("\n")).unwrap();
    let (plain, shown) = (path("plain"), path("shown"));
    let (once, again) = (path("once.jsonl"), path("again.jsonl"));
    let there: [(&[&str], &[&str], &str); 4] = [
        (&["import", &file], &["import", &file], "checking: "),
        (
            &["import", &file, "--apply", "--queue", &plain],
            &["import", &file, "--apply", "--queue", &shown],
            "importing: ",
        ),
        (&["verify", "--queue", &plain], &["verify", "--queue", &shown], "reading the queue: "),
        (
            &["export", "--queue", &plain, "--output", &once],
            &["export", "--queue", &shown, "--output", &again],
            "exporting: ",
        ),
    ];
    for (piped, in_a_terminal, what) in there {
        let expected = tool(piped);
        let mut command = pitwire(&["queue"]);
        command.args(in_a_terminal).env("TERM", "xterm").env_remove("NO_COLOR");
        let mut screen = Screen::start(&command, WIDE, |_| {});
        assert_eq!(screen.exit_code(PATIENCE).await, Some(0));
        assert_eq!(screen.rows(), expected, "{in_a_terminal:?}");
        progress_is_complete(&screen.written(), what);
        assert_eq!(screen.cursor(), (expected.len() as u16, 0));
    }
    assert_eq!(fs::read(once).unwrap(), fs::read(again).unwrap());
}
