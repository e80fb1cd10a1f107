//! The pages of `pitwire serve` for the pit wall, in a real browser: the list of cars, the laps,
//! stints and fuel of each, a proxy in front of them, and sessions that outlive the server.

use std::fmt::Write as _;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pitwire::entry::CapturedAt;
use pitwire::fields;
use pitwire::source::simulator::Car;
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::agent::{Agent, PATIENCE, Process, eventually, pitwire, within};
use crate::contract::Client;
use crate::page::Browser;
use crate::peers::{self, Kind, Peer};

/// 2025-11-22T12:00:00Z, in milliseconds since 1970.
const NOON: i64 = 1_763_812_800_000;

const MARKUP: &str = "<img src=x onerror=\"document.title='owned'\">";

/// The id of the `n`th session of a store that a test writes.
fn id(n: u32) -> String {
    format!("00000000-0000-4000-8000-{n:012}")
}

/// The simulated car drives in a race of this length.
const RACE_S: f64 = 86_400.0;

/// Writes the files of a session in which a simulated car drove for this many seconds, with two
/// frames a second that were received at once. `keep` says by number which frames arrived.
fn store_drive(folder: &Path, n: u32, seconds: i64, keep: impl Fn(i64) -> bool) {
    let mut car = Car::new(u64::from(n));
    let header = format!("{{\"session\":{{\"assigned_at\":{}}}}}\n", NOON + i64::from(n));
    let mut lines = header.clone();
    for number in 1..=2 * seconds {
        car.step(Duration::from_millis(500));
        if !keep(number) {
            continue;
        }
        let at = NOON + 500 * number;
        let frame = fields::map(&car.sample(), CapturedAt(at)).unwrap();
        let left = RACE_S - number as f64 / 2.0;
        let frame = frame.replacen('{', &format!("{{\"session_time_left\":{left},"), 1);
        writeln!(lines, "{{\"frame\":{{\"received_at\":{at},\"telemetry\":{frame}}}}}").unwrap();
    }
    fs::write(folder.join(format!("{}.frames.00000000.ndjson", id(n))), lines).unwrap();
    let setup = format!("{header}{{\"setup\":{{\"setup\":{}}}}}\n", car.setup());
    fs::write(folder.join(format!("{}.setups.00000000.ndjson", id(n))), setup).unwrap();
}

fn with_store(folder: &Path) -> Peer {
    Peer::start(Kind::Embedded, &["--store", folder.to_str().unwrap()])
}

async fn get(url: &str) -> reqwest::Response {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    client.get(url).send().await.unwrap().error_for_status().unwrap()
}

fn text_of(selector: &str) -> String {
    format!("document.querySelector('{selector}').innerText.trim().split(/\\s+/).join(' ')")
}

/// The widths of the window in px, with light and with dark colours.
const VIEWS: [(u32, bool); 4] = [(1280, false), (1280, true), (360, false), (360, true)];

fn view(width: u32, dark: bool) -> String {
    format!("{width}-{}", if dark { "dark" } else { "light" })
}

/// A width without horizontal scrolling.
fn fits(page: &mut Browser) -> bool {
    page.ask("document.documentElement.scrollWidth <= document.documentElement.clientWidth") == true
}

#[tokio::test]
async fn the_list_shows_each_car_live_and_can_be_filtered() {
    let folder = tempdir().unwrap();
    store_drive(folder.path(), 1, 400, |_| true);
    let server = with_store(folder.path());
    for (width, dark) in VIEWS {
        let mut client = Client::connect(&server.url()).await;
        let session = client.new_session().await;
        let telemetry = json!({"timestamp": CapturedAt(NOON).to_string(), "lap": 7, "position": 3,
            "player_name": MARKUP, "car_name": "Kestrel #51", "track_name": "Spa", "fuel": 41.5});
        let frame = json!({"session_id": session, "telemetry": telemetry});
        client.ask("telemetry_update", frame).await;
        let mut page = Browser::open(&server.url(), width, dark);
        page.comes_true("document.querySelectorAll('tr.live').length === 1").await;
        let row = page.ask(&text_of("tr.live"));
        let row = row.as_str().unwrap();
        for part in [MARKUP, "Kestrel #51", "Spa", "7", "41.5", "live"] {
            assert!(row.contains(part), "{part}: {row}");
        }
        assert_eq!(page.ask("document.querySelector('tbody img')"), Value::Null);
        let ended = page.ask(&text_of("tr.ended"));
        assert!(ended.as_str().unwrap().contains("Autódromo da Serra Verde · Race"), "{ended}");
        page.shows("summary", |text| text.starts_with("1 live of ")).await;
        assert!(fits(&mut page), "{width}");
        page.is_accessible("a list of cars");
        page.shot(&format!("wall-list-{}.png", view(width, dark)));

        let best = "document.querySelector('tr.ended td:nth-child(7)').innerText";
        assert!(page.ask(best).as_str().unwrap().starts_with("2:"), "{}", page.ask(best));
        page.types("filter", "serra");
        page.comes_true("document.querySelectorAll('tbody tr').length === 1").await;
        page.ask("document.getElementById('live_only').click()");
        page.shows("note", |text| text == "No session matches.").await;
        // The row is updated in place: it becomes stale without a new page.
        page.ask("document.getElementById('filter').value = ''");
        page.ask("document.getElementById('live_only').click()");
        page.comes_true("document.querySelectorAll('tr.stale').length >= 1").await;
        page.clicks("tr.stale a");
        page.shows("state", |text| text == "Stale: no new frame").await;
        page.clicks("#all");
        page.comes_true("document.querySelectorAll('tbody tr').length >= 2").await;
    }
}

#[tokio::test]
async fn the_page_of_a_car_shows_its_laps_stints_and_fuel() {
    let folder = tempdir().unwrap();
    // An hour and a half, with a stop, and five minutes without frames.
    store_drive(folder.path(), 3, 5_400, |number| !(2_000..2_600).contains(&number));
    let server = with_store(folder.path());
    let tables = format!("{}/api/sessions/{}/timing", server.url(), id(3));
    let tables: Value = get(&tables).await.json().await.unwrap();
    let laps = tables["laps"].as_array().unwrap();
    let estimated = laps.iter().filter(|lap| lap["is_estimated"] == true).count();
    let stints = tables["stints"].as_array().unwrap().len();
    assert!((2..5).contains(&estimated) && laps.len() > 40 && stints > 1, "{tables:#}");
    for (width, dark) in VIEWS {
        let url = format!("{}/dashboard/{}", server.url(), id(3));
        let mut page = Browser::open(&url, width, dark);
        let rows = "document.querySelectorAll('#laps_rows tr').length";
        page.comes_true(&format!("{rows} === {}", laps.len())).await;
        let about = "[...document.querySelectorAll('#laps_rows td:nth-child(2)')]\
                     .filter(cell => cell.innerText.startsWith('≈')).length";
        assert_eq!(page.ask(about), estimated);
        assert_eq!(page.ask("document.querySelectorAll('#laps_rows tr.best').length"), 1);
        assert_eq!(page.ask("document.querySelectorAll('#stint_rows tr').length"), stints);
        let stops = "[...document.querySelectorAll('#laps_rows td.pit')]\
                     .filter(cell => cell.innerText === 'pit').length";
        assert_eq!(page.ask(stops), stints - 1);
        for (shown, value, digits) in [
            ("fuel_average", &tables["fuel"]["average_lap"], 2),
            ("fuel_laps", &tables["fuel"]["laps_left"], 1),
        ] {
            let expected = format!("{:.digits$}", value.as_f64().unwrap());
            page.shows(shown, |text| text == expected).await;
        }
        page.shows("fuel_time", |text| text.ends_with(" min")).await;
        let needed = format!("{:.1} L needed, ", tables["fuel"]["needed"].as_f64().unwrap());
        page.shows("fuel_end", |text| text.starts_with(&needed) && text.ends_with(" L short"))
            .await;
        assert!(fits(&mut page), "{width}");
        page.is_accessible("the page of a car");
        page.shot(&format!("wall-car-{}.png", view(width, dark)));

        // A lap with a stop does not squash the plot: the others use most of its height.
        page.comes_true("document.getElementById('laps_slow').getAttribute('d') !== ''").await;
        let spread = "(([low, high]) => high - low)((ys => [Math.min(...ys), Math.max(...ys)])(\
             document.getElementById('laps_line').getAttribute('d').match(/[\\d.]+ [\\d.]+/g)\
             .map(point => Number(point.split(' ')[1])).filter(y => y > 5.1)))";
        assert!(page.ask(spread).as_f64().unwrap() > 50.0, "{}", page.ask(spread));
        // The value under the pointer, and the times of the axis on a clock of 24 hours.
        page.ask("document.querySelector('.plot').scrollIntoView()");
        page.ask(
            "(box => box.dispatchEvent(new PointerEvent('pointermove', \
             { clientX: box.getBoundingClientRect().left + 40 })))(document.querySelector('.plot'))",
        );
        let reading = page.ask("document.querySelector('.plot output').innerText");
        let reading = reading.as_str().unwrap();
        let (time, litres) = reading.split_once(" · ").expect(reading);
        assert!(time.len() == 8 && litres.parse::<f64>().is_ok(), "{reading}");
        let ticks =
            page.ask("[...document.querySelectorAll('.ticks span')].map(tick => tick.innerText)");
        let ticks = ticks.as_array().unwrap();
        assert!(ticks.len() >= 6, "{ticks:?}");
        assert!(ticks.iter().all(|tick| tick.as_str().unwrap().len() == 5), "{ticks:?}");
        page.comes_true("document.title.startsWith('Stale · ')").await;

        // The setup has groups and the game's own units.
        page.ask("document.querySelector('details').open = true");
        let groups = "[...document.querySelectorAll('#rows .group')].map(row => row.innerText)";
        let groups = page.ask(groups);
        assert_eq!(groups.as_array().unwrap().first().unwrap(), "Wheels and suspension");
        page.types("filter", "camber fl");
        page.shows("found", |text| text.starts_with("1 of ")).await;
        let row = page.ask(&text_of("#rows tr:nth-child(2)"));
        assert!(row.as_str().unwrap().starts_with("Camber FL -"), "{row}");
        assert!(row.as_str().unwrap().ends_with(" deg"), "{row}");
        page.ask("document.getElementById('filter').value = ''; paintSetup()");
        page.shot(&format!("wall-setup-{}.png", view(width, dark)));
    }
}

/// A day at 2 Hz: 172,800 frames. The bounds hold on a loaded machine with a debug build; a page
/// that fetched every frame would take several times as long.
#[tokio::test]
async fn the_page_of_a_day_opens_quickly_and_stays_small() {
    const READ: Duration = Duration::from_secs(240);
    const OPENS: f64 = 10_000.0;
    const PAINTS: f64 = 1_000.0;
    let folder = tempdir().unwrap();
    store_drive(folder.path(), 4, 86_400, |_| true);
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let store = folder.path().to_str().unwrap();
    let _server = Process::start(&mut pitwire(&["serve", "--listen", &listen, "--store", store]));
    let began = Instant::now();
    assert!(waits_for(port, PATIENCE).await, "reading the store delays the listener");
    let listening = began.elapsed();
    let client = reqwest::Client::builder().no_proxy().timeout(READ).build().unwrap();
    client.get(format!("http://{listen}/healthz")).send().await.unwrap();
    let read = began.elapsed();
    eprintln!("listening after {listening:?}, history read after {read:?}");
    assert!(listening < read / 4, "{listening:?} of {read:?}");
    let mut page = Browser::open(&format!("http://{listen}/dashboard/{}", id(4)), 1280, false);
    page.comes_true(
        "document.querySelectorAll('#laps_rows tr').length > 600 \
                     && document.getElementById('fuel_line').getAttribute('d') !== null",
    )
    .await;
    let opened = page.ask("performance.now()").as_f64().unwrap();
    let painted = page.ask(
        "(began => (isPainted = false, paintPlots(), performance.now() - began))(performance.now())",
    );
    let painted = painted.as_f64().unwrap();
    let memory = page.ask("performance.memory.usedJSHeapSize / 1048576").as_f64().unwrap();
    eprintln!("opened after {opened:.0} ms, painted in {painted:.0} ms, {memory:.0} MiB");
    assert!(opened < OPENS, "{opened} ms");
    assert!(painted < PAINTS, "{painted} ms");
    assert!(memory < 150.0, "{memory} MiB");
}

#[tokio::test]
async fn a_killed_server_with_a_store_continues_under_the_same_links() {
    let folder = tempdir().unwrap();
    let store = folder.path().join("sessions");
    let mut server = with_store(&store);
    let drives = ["source.simulator.enabled=true", "update_rate_hz=10"];
    let agent = Agent::start(&folder.path().join("queue"), &server.url(), &drives);
    let link = agent.link(1).await;
    let session = link.rsplit('/').next().unwrap().to_owned();
    let mut page = Browser::open(&link, 900, false);
    page.shows("state", |text| text == "Live").await;
    eventually("some frames", async || (server.frames(&session).await.len() > 20).then_some(()))
        .await;
    let before = server.frames(&session).await;

    server.restart();
    let after = server.frames(&session).await;
    assert_eq!(after[..before.len()], before);
    assert_eq!(server.setups(&session).await.len(), 1);
    page.shows("state", |text| text == "Live").await;
    let live = || async { server.frames(&session).await.len() };
    eventually("new frames", async || (live().await > after.len() + 20).then_some(())).await;
    assert_eq!(
        server.sessions().await,
        std::slice::from_ref(&session),
        "the agent did not need a new page"
    );
    assert_eq!(agent.link(1).await, link);
}

/// Unlike after a kill, the server takes its leave: it tells the agents that it ends.
#[tokio::test]
async fn a_stopped_server_with_a_store_continues_under_the_same_links() {
    let folder = tempdir().unwrap();
    let store = folder.path().join("sessions");
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let url = format!("http://{listen}");
    let start = || {
        let store = store.to_str().unwrap();
        Process::start(&mut pitwire(&["serve", "--listen", &listen, "--store", store]))
    };
    let mut server = start();
    assert!(waits_for(port, PATIENCE).await, "the server does not listen");
    let drives = ["source.simulator.enabled=true", "update_rate_hz=10"];
    let agents = ["one", "two"]
        .map(|name| Agent::start(&folder.path().join(name).join("queue"), &url, &drives));
    let links = [agents[0].link(1).await, agents[1].link(1).await];
    let ids = links.each_ref().map(|link| link.rsplit('/').next().unwrap().to_owned());
    let mut page = Browser::open(&links[0], 900, false);
    page.shows("state", |text| text == "Live").await;
    for id in &ids {
        let many = async || (peers::frames(&url, id).await.len() > 20).then_some(());
        eventually("some frames", many).await;
    }

    server.signal("-TERM");
    assert_eq!(server.ended().await, 0);
    let mut stored = Vec::new();
    for id in &ids {
        let text = fs::read_to_string(store.join(format!("{id}.frames.00000000.ndjson"))).unwrap();
        assert!(text.ends_with('\n'), "a stopped server finishes its lines");
        stored.push(text.lines().count() - 1);
    }
    let _server = start();
    page.shows("state", |text| text == "Live").await;
    for (id, stored) in ids.iter().zip(stored) {
        let more = async || (peers::frames(&url, id).await.len() > stored + 20).then_some(());
        eventually("new frames", more).await;
        let frames = peers::frames(&url, id).await;
        let mut times: Vec<_> = frames.iter().map(|frame| frame["timestamp"].as_str()).collect();
        let received = times.len();
        times.dedup();
        assert_eq!(times.len(), received, "a frame is shown twice");
        assert!(times.is_sorted(), "the frames of the stop arrive before newer ones");
        assert_eq!(peers::setups(&url, id).await.len(), 1);
    }
    let mut sessions = peers::sessions(&url).await;
    let mut expected = ids.to_vec();
    sessions.sort();
    expected.sort();
    assert_eq!(sessions, expected, "no agent needed a new page");
    for (agent, link) in agents.iter().zip(&links) {
        assert_eq!(agent.links(), std::slice::from_ref(link));
    }
}

#[tokio::test]
async fn any_two_setups_of_a_session_can_be_compared() {
    let server = Peer::start(Kind::Embedded, &[]);
    let mut client = Client::connect(&server.url()).await;
    let session = client.new_session().await;
    for (hour, wing, bar) in [(12, 5, "soft"), (13, 6, "soft"), (14, 7, "hard"), (15, 8, "hard")] {
        let setting = |text: &str| json!({"stringValue": text, "minValue": 0, "maxValue": 9});
        let values = json!({"VM_REAR_WING": setting(&format!("{wing} deg")),
            "VM_FRONT_ANTISWAY": setting(bar)});
        let setup = json!({"session_id": session, "timestamp": format!("2025-11-22T{hour}:00:00.000Z"),
            "setup": {"carSetup": {"garageValues": values}, "sessionTime": hour}});
        client.ask("setup_data", setup).await;
    }
    for (width, dark) in VIEWS {
        let url = format!("{}/dashboard/{session}", server.url());
        let mut page = Browser::open(&url, width, dark);
        page.shows("setup_summary", |text| text.ends_with("1 change since the one before")).await;
        page.presses("#setup > summary");
        page.comes_true("document.querySelectorAll('#setup_now option').length === 5").await;
        page.ask("document.getElementById('changed').click()");
        let marks = "[...document.querySelectorAll('#rows tr:has(mark) > *:not(th)')]\
                     .map(cell => cell.innerText).join()";
        for (now, before, expected, summary) in [
            ("", "", "8 deg,7 deg,15,14", "1 change since the one before"),
            ("", "0", "hard,soft,8 deg,5 deg,15,12", "2 changes since the one of Sat 12:00:00"),
            ("1", "0", "6 deg,5 deg,13,12", "1 change since the one of Sat 12:00:00"),
            ("1", "3", "soft,hard,6 deg,8 deg,13,15", "2 changes since the one of Sat 15:00:00"),
            ("0", "", "", "the first"),
        ] {
            page.ask(&format!(
                "(choose => {{ choose('setup_now', '{now}'); choose('setup_before', '{before}') }})(\
                 (id, value) => {{ $(id).value = value; \
                 $(id).dispatchEvent(new Event('change', {{ bubbles: true }})) }})"
            ));
            assert_eq!(page.ask(marks), expected, "{now} {before}");
            page.shows("setup_summary", |text| text.ends_with(summary)).await;
        }
        assert!(fits(&mut page), "{width}");
        page.is_accessible("a comparison of two setups");
        page.shot(&format!("wall-setups-{}.png", view(width, dark)));
    }
}

#[tokio::test]
async fn chromium_can_install_the_pages_as_an_app() {
    let server = Peer::start(Kind::Embedded, &[]);
    let mut page = Browser::open(&server.url(), 1280, false);
    for path in ["/", "/dashboard/latest"] {
        page.open_again(&format!("{}{path}", server.url()));
        let installation = page.installation();
        let manifest = format!("{}/manifest.webmanifest", server.url());
        assert_eq!(installation["url"], manifest, "{installation:#}");
        assert_eq!(installation["errors"], json!([]), "{installation:#}");
        assert_eq!(installation["installabilityErrors"], json!([]), "{installation:#}");
    }
}

#[tokio::test]
async fn a_session_can_be_downloaded_as_csv_and_json_lines() {
    let folder = tempdir().unwrap();
    store_drive(folder.path(), 5, 100, |_| true);
    let server = with_store(folder.path());
    let export = format!("{}/api/sessions/{}/export", server.url(), id(5));
    let lines = get(&format!("{export}.ndjson")).await;
    assert!(lines.headers()["content-disposition"].to_str().unwrap().starts_with("attachment"));
    let lines = lines.text().await.unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 201);
    assert!(lines[0]["setup"]["carSetup"].is_object());
    let frames = server.frames(&id(5)).await;
    let captured = |frame: &Value| frame["timestamp"].as_str().unwrap().to_owned();
    assert!(
        lines[1..].iter().map(|line| captured(&line["telemetry"])).eq(frames.iter().map(captured))
    );

    let csv = get(&format!("{export}.csv")).await.text().await.unwrap();
    let rows: Vec<_> = csv.lines().collect();
    assert_eq!(rows.len(), 201);
    assert!(
        rows[0].starts_with("captured_at,received_at,lap,position,lap_time,fuel,"),
        "{}",
        rows[0]
    );
    assert!(
        rows[1].starts_with("2025-11-22T12:00:00.500Z,2025-11-22T12:00:00.500Z,1,"),
        "{}",
        rows[1]
    );
}

#[tokio::test]
async fn a_downloaded_session_can_be_imported_and_replayed() {
    let folder = tempdir().unwrap();
    let store = folder.path().join("store");
    fs::create_dir(&store).unwrap();
    store_drive(&store, 6, 100, |_| true);
    let server = with_store(&store);
    let frames = server.frames(&id(6)).await;
    for (extension, setups) in [("ndjson", 1), ("csv", 0)] {
        let url = format!("{}/api/sessions/{}/export.{extension}", server.url(), id(6));
        let file = folder.path().join(format!("race.{extension}"));
        fs::write(&file, get(&url).await.bytes().await.unwrap()).unwrap();
        let (file, queue) = (file.to_str().unwrap(), folder.path().join(extension));
        let queue = queue.to_str().unwrap();
        let run = |args: &[&str]| {
            let output = pitwire(args).output().unwrap();
            assert!(output.status.success(), "{args:?}: {output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        run(&["queue", "import", file, "--queue", queue, "--apply"]);
        let queued = run(&["queue", "export", "--queue", queue]);
        let entries = queued.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let (queued, others): (Vec<_>, Vec<_>) =
            entries.partition(|entry| entry["frame"].is_object());
        assert_eq!((queued.len(), others.len()), (frames.len(), setups));
        for (entry, frame) in queued.iter().zip(&frames) {
            for field in ["timestamp", "lap", "lap_time", "fuel", "tire_temps", "player_name"] {
                let [queued, sent] = [&entry["frame"][field], &frame[field]];
                assert_eq!(peers::plain(queued.clone()), *sent, "{extension}: {field}");
            }
        }
    }
    let target = Peer::start(Kind::Embedded, &[]);
    let file = folder.path().join("race.ndjson");
    let file = file.to_str().unwrap();
    let replay = ["replay", file, "--server", &target.url(), "--speed", "0"];
    let mut replay = Process::start(&mut pitwire(&replay));
    assert_eq!(replay.ended().await, 0);
    let session = target.sessions().await.pop().unwrap();
    assert_eq!(target.frames(&session).await, frames);
    assert_eq!(target.setups(&session).await.len(), 1);
}

#[tokio::test]
async fn the_pages_work_below_a_path_of_nginx_with_and_without_websocket() {
    let server = Peer::start(Kind::Embedded, &["--token", "0123456789abcdef"]);
    let folder = tempdir().unwrap();
    let settings =
        ["source.simulator.enabled=true", "update_rate_hz=10", "server.token=0123456789abcdef"];
    let agent = Agent::start(folder.path(), &server.url(), &settings);
    agent.link(1).await;
    for (passes_websocket, is_polling) in [(true, "false"), (false, "true")] {
        let nginx = Nginx::start(server.port(), passes_websocket).await;
        let mut page = Browser::open(&format!("{}?token=0123456789abcdef", nginx.url), 900, false);
        assert_eq!(page.ask("location.href"), nginx.url);
        page.comes_true("document.querySelectorAll('tr.live').length === 1").await;
        page.clicks("tr.live a");
        page.shows("state", |text| text == "Live").await;
        page.comes_true("plotted().length > 1").await;
        page.comes_true("tables.text !== ''").await;
        let lap_time = page.ask("frame.timestamp");
        page.comes_true(&format!("frame.timestamp !== {lap_time}")).await;
        assert_eq!(page.ask("webSocketFailures > 0").to_string(), is_polling);
        page.open_again(&format!("{}dashboard/latest", nginx.url));
        page.shows("state", |text| text == "Live").await;
    }
}

/// A port outside the ephemeral range, so that the system does not assign it to another process.
fn free_port() -> u16 {
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    std::iter::repeat_with(|| rand::random_range(10_000..32_000)).take(1_000).find(is_free).unwrap()
}

/// Waits until a program listens on the port.
async fn waits_for(port: u16, limit: Duration) -> bool {
    within(limit, async || TcpStream::connect(("127.0.0.1", port)).ok()).await.is_some()
}

/// An nginx that serves the dashboard below `/pit/`.
struct Nginx {
    child: Child,
    url: String,
    _folder: tempfile::TempDir,
}

impl Nginx {
    async fn start(server: u16, passes_websocket: bool) -> Self {
        let folder = tempdir().unwrap();
        let port = free_port();
        let upgrade = if passes_websocket {
            "proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection \"upgrade\";"
        } else {
            ""
        };
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {}/{name};\n", folder.path().display()))
            .concat();
        let text = format!(
            "daemon off; master_process off; pid {path}/pid; error_log stderr error;\n\
             events {{}}\n\
             http {{ access_log off; {temporary}\n\
             server {{ listen 127.0.0.1:{port}; location /pit/ {{\n\
             proxy_pass http://127.0.0.1:{server}/; proxy_http_version 1.1; proxy_buffering off;\n\
             proxy_set_header Host $http_host; proxy_set_header X-Forwarded-For $remote_addr;\n\
             {upgrade} }} }} }}\n",
            path = folder.path().display(),
        );
        let file = folder.path().join("nginx.conf");
        fs::write(&file, text).unwrap();
        let child = Command::new(program())
            .args(["-e", "stderr", "-c"])
            .arg(&file)
            .stdin(Stdio::null())
            .spawn()
            .expect("nginx is installed: tests/setup.sh");
        assert!(waits_for(port, PATIENCE).await, "nginx does not listen");
        Self { child, url: format!("http://127.0.0.1:{port}/pit/"), _folder: folder }
    }
}

/// Debian has it where only administrators search for programs.
fn program() -> PathBuf {
    let path = PathBuf::from("/usr/sbin/nginx");
    if path.exists() { path } else { "nginx".into() }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
