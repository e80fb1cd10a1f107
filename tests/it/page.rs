//! The pages that people use, in a real browser: the agent's own page and the dashboard. axe-core
//! checks their accessibility.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use pitwire::dashboard::{Behaviour, Server};
use pitwire::entry::CapturedAt;
use serde_json::{Value, json};

use crate::agent::{Agent, eventually};
use crate::contract::Client;
use crate::peers::{self, Kind, Peer};
use crate::proxy::{Network, Proxy};

/// The longest time from the cut until the page shows it.
const NOTICED: Duration = Duration::from_secs(2);

/// The largest distance between two points of a gapless plot: it keeps a point a second.
const NO_GAP_MS: f64 = 2_500.0;

#[tokio::test]
async fn the_latest_session_page_follows_a_replaced_server() {
    let server = Server::start(([127, 0, 0, 1], 0).into(), Behaviour::default()).unwrap();
    let address = server.addr();
    let mut page = Browser::open(&format!("{}/dashboard/latest", server.url()), 900, false);
    page.shows("state", |text| text == "Waiting for the first session").await;

    let queue = tempfile::tempdir().unwrap();
    let drives = ["source.simulator.enabled=true", "update_rate_hz=10"];
    let _agent = Agent::start(queue.path(), &server.url(), &drives);
    page.shows("state", |text| text == "Live").await;
    let first = page.ask("session");

    drop(server);
    let _server = Server::start(address, Behaviour::default()).unwrap();
    page.comes_true(&format!("session !== null && session !== {first}")).await;
    page.shows("state", |text| text == "Live").await;
    // The setup of the other session is not the one before this one.
    page.shows("setup_summary", |text| text.ends_with("the first")).await;
}

#[tokio::test]
async fn the_pages_show_an_outage_and_the_recovery() {
    let server = Peer::start(Kind::Embedded, &[]);
    let proxy = Proxy::start(server.port());
    let queue = tempfile::tempdir().unwrap();
    let drives = ["source.simulator.enabled=true", "update_rate_hz=10"];
    let agent = Agent::start(queue.path(), &proxy.url(), &drives);
    let link = agent.link(1).await;
    // The proxy listens on 127.0.0.1 only.
    let dashboard_link = link.replace(&proxy.url(), &server.url());
    let mut dashboard = Browser::open(&dashboard_link, 900, false);
    let mut page = Browser::open(&agent.admin().await, 320, true);

    page.shows("badge", |text| text == "Live").await;
    page.shows("server-page", |text| text == link).await;
    page.shows("server-out", |text| text.parse().is_ok_and(|rate: f64| rate > 1.0)).await;
    page.shows("server-proof", |text| text == "seen by a viewer").await;
    for latency in ["server-p50", "server-p99"] {
        page.shows(latency, |text| text.ends_with(" ms") || text.ends_with(" s")).await;
    }
    assert_eq!(page.ask("document.documentElement.scrollWidth <= 320"), true);
    page.comes_true("document.getElementById('server-advice').checkVisibility()").await;
    assert!(page.text("server-advice").contains("pitwire serve --lan"));
    assert_eq!(page.ask("document.getElementById('server-qr').checkVisibility()"), false);
    page.shows("sources", |text| text.contains("A simulated car is driving")).await;
    assert_eq!(page.ask("document.title"), "Live · pitwire");
    page.is_accessible("a live status page");
    page.changes("server-delivered").await;
    dashboard.shows("state", |text| text == "Live").await;
    dashboard.changes("lap_time").await;
    dashboard.comes_true("plotted().length > 2").await;
    dashboard.is_accessible("a live dashboard");

    proxy.set(Network::Down);
    let pulled = Instant::now();
    page.shows("badge", |text| text.starts_with("Offline, ")).await;
    let noticed = pulled.elapsed();
    assert!(noticed < NOTICED, "{noticed:?}");
    eprintln!("the page showed the outage after {:.1} s", noticed.as_secs_f64());
    dashboard.shows("state", |text| text == "Stale: no new frame").await;
    dashboard.is_accessible("a stale dashboard");
    page.shows("server-next", |text| text.starts_with("Next try in ")).await;
    page.shows("entries", |text| text.parse().is_ok_and(|entries: u64| entries > 60)).await;
    // The newest point of the plot is its highest.
    let highest = "Math.min(...document.getElementById('line').getAttribute('points').split(' ')\
                   .map(point => Number(point.split(',')[1])))";
    let newest = "Number(document.getElementById('line').getAttribute('points').split(',').pop())";
    assert_eq!(page.ask(newest), page.ask(highest));
    let wrong = page.text("wrong");
    // The connection is refused, or cut in the middle of a handshake.
    assert!(wrong.contains("server"), "{wrong}");
    page.is_accessible("an offline status page");
    page.shot("status-offline-320-dark.png");

    proxy.set(Network::UP);
    page.shows("badge", |text| text == "Live").await;
    page.shows("entries", |text| text.parse().is_ok_and(|entries: u64| entries < 10)).await;
    assert_eq!(page.ask("document.getElementById('trouble').hidden"), true);
    page.shows("troubles", |text| text.contains(&wrong)).await;
    dashboard.shows("state", |text| text == "Live").await;
    let span = dashboard.ask("newest - oldest").as_f64().unwrap();
    assert!(span > pulled.elapsed().as_secs_f64() * 1000.0, "{span} ms, from before the outage");
    assert!(dashboard.longest_gap() < NO_GAP_MS, "{} ms", dashboard.longest_gap());
    dashboard.comes_true(&in_one_line("fuel")).await;
    dashboard.shows("replayed", |text| text.starts_with("Shaded: replayed")).await;
    let label = "document.querySelector('.plot > span').checkVisibility()";
    assert_eq!(dashboard.ask(label), true);
    dashboard.is_accessible("a dashboard with a replayed stretch");
    dashboard.shot("dashboard.png");
    let mut later = Browser::open(&dashboard_link, 900, true);
    later.shows("replayed", |text| text.starts_with("Shaded: replayed")).await;
    later.is_accessible("a dark dashboard with a replayed stretch");
    let mut page = Browser::open(&agent.admin().await, 900, false);
    page.shows("badge", |text| text == "Live").await;
    page.shows("server-out", |text| text.parse().is_ok_and(|rate: f64| rate > 1.0)).await;
    page.is_accessible("a light status page");
    page.shot("status.png");

    server.forget().await;
    page.shows("badge", |text| text == "Server forgot the session").await;
    page.shows("wrong", |text| text.contains("new page")).await;
    page.shows("server-page", |text| text != link).await;

    drop(agent);
    page.shows("badge", |text| text == "Agent stopped").await;
    assert_eq!(page.ask("document.title"), "Agent stopped · pitwire");
    assert_eq!(page.ask("document.getElementById('server-try').checkVisibility()"), false);
    page.is_accessible("the status page of a stopped agent");
}

/// After a refused token, the agent waits for half a minute.
#[tokio::test]
async fn the_try_now_button_reconnects_without_the_rest_of_the_wait() {
    const TOKEN: &str = "0123456789abcdef";
    let server = Peer::start(Kind::Embedded, &["--token", TOKEN]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "wrong-0123456789").unwrap();
    let token = format!("server.token_file={}", file.display());
    let agent = Agent::start(&folder.path().join("queue"), &server.url(), &[&token]);
    let mut page = Browser::open(&agent.admin().await, 900, true);
    page.shows("server-next", |text| text.starts_with("Next try in 2")).await;
    page.is_accessible("a waiting status page");
    // Wait for a whole pause, so that its end cannot come before the button's effect.
    page.shows("server-next", |text| ["29", "28"].iter().any(|left| text.contains(left))).await;
    let started = Instant::now();
    std::fs::write(&file, TOKEN).unwrap();
    page.presses("#server-try");
    page.shows("badge", |text| text == "Live").await;
    let waited = started.elapsed();
    assert!(waited < Duration::from_secs(25), "{waited:?}");
    assert_eq!(page.ask("document.getElementById('server-try').checkVisibility()"), false);
}

#[tokio::test]
async fn the_qr_code_of_a_server_on_this_pc_leads_other_devices_to_it() {
    let server = Server::start(([0, 0, 0, 0], 0).into(), Behaviour::default()).unwrap();
    let port = server.addr().port();
    let queue = tempfile::tempdir().unwrap();
    let agent = Agent::start(queue.path(), &format!("http://localhost:{port}"), &[]);
    let link = agent.link(1).await;
    let id = link.rsplit('/').next().unwrap();
    let mut page = Browser::open(&agent.admin().await, 360, false);
    page.comes_true("document.getElementById('server-qr')?.naturalWidth > 0").await;
    assert_eq!(page.ask("document.getElementById('server-advice').checkVisibility()"), false);
    let shared = page.text("server-page");
    assert_eq!(shared, format!("http://{}:{port}/dashboard/{id}", network_address()));
    let href = page.ask("document.getElementById('server-page').href");
    assert_eq!(href, shared);
}

#[tokio::test]
async fn the_status_page_shows_each_of_several_destinations() {
    let server = Peer::start(Kind::Embedded, &[]);
    let queue = tempfile::tempdir().unwrap();
    let settings = [
        "source.simulator.enabled=true",
        "destination.league.url=http://127.0.0.1:1",
        "delivery.backoff_min=10s",
        "delivery.backoff_max=10s",
    ];
    let agent = Agent::start(queue.path(), &server.url(), &settings);
    let mut page = Browser::open(&agent.admin().await, 900, false);
    page.shows("badge", |text| text.starts_with("league: Offline")).await;
    page.shows("server-badge", |text| text == "Live").await;
    page.shows("league-badge", |text| text.starts_with("Offline")).await;
    page.shows("league-next", |text| text.starts_with("Next try in ")).await;
    let buttons = ["server", "league"]
        .map(|name| page.ask(&format!("document.getElementById('{name}-try').checkVisibility()")));
    assert_eq!(buttons, [false, true]);
    page.shows("league-age", |text| text.ends_with(" s")).await;
    // Each row of tiles is full, at any width.
    for width in [320, 500, 900] {
        page.resize(width);
        let last_tops = "[...document.querySelectorAll('main dl')].map(list => { \
             const tops = [...list.children].map(tile => tile.offsetTop); \
             return tops.filter(top => top === tops.at(-1)).length === \
                 tops.filter(top => top === tops[0]).length; })";
        assert_eq!(page.ask(last_tops), json!([true, true, true]), "{width}");
    }
    page.is_accessible("a status page with two destinations");
}

#[tokio::test]
async fn an_open_status_page_shows_the_destinations_of_a_restarted_agent() {
    let server = Peer::start(Kind::Embedded, &[]);
    let queue = tempfile::tempdir().unwrap();
    let league = "destination.league.url=http://127.0.0.1:1";
    let agent = Agent::start(queue.path(), &server.url(), &[league]);
    let admin = agent.admin().await;
    let mut page = Browser::open(&admin, 900, false);
    page.shows("league-badge", |text| text.starts_with("Offline")).await;

    drop(agent);
    page.shows("badge", |text| text == "Agent stopped").await;
    let listen = format!("metrics.listen={}", admin.strip_prefix("http://").unwrap());
    let club = "destination.club.url=http://127.0.0.1:1";
    let _agent = Agent::start(queue.path(), &server.url(), &[&listen, club]);
    page.shows("badge", |text| text.starts_with("club: Offline")).await;
    page.shows("club-badge", |text| text.starts_with("Offline")).await;
    page.shows("server-badge", |text| text == "Live").await;
}

#[tokio::test]
async fn the_other_pages_are_accessible() {
    let server = Peer::start(Kind::Embedded, &[]);
    let mut page = Browser::open(&server.url(), 360, false);
    page.is_accessible("an empty list of sessions");
    let mut car = Car::new(&server).await;
    car.frame(1.0, json!({"lap": 1})).await;
    for (path, what) in [
        ("/", "a list of sessions"),
        ("/nowhere", "an unknown page"),
        ("/dashboard/x", "an unknown session"),
        ("/dashboard/latest", "the latest session"),
    ] {
        page.open_again(&format!("{}{path}", server.url()));
        page.is_accessible(what);
    }
    let guarded = Peer::start(Kind::Embedded, &["--token", "0123456789abcdef"]);
    for (path, what) in [("/", "a page with a token"), ("/?token=wrong", "a wrong token")] {
        page.open_again(&format!("{}{path}", guarded.url()));
        assert_eq!(page.ask("document.querySelectorAll('input[type=password]').length"), 1);
        page.is_accessible(what);
    }
    let queue = tempfile::tempdir().unwrap();
    let settings = ["source.socketio.enabled=true", "source.socketio.listen=127.0.0.1:0"];
    let agent = Agent::start(queue.path(), &server.url(), &settings);
    page.open_again(&format!("{}/dashboard/x", agent.address("publishers").await));
    page.is_accessible("the page of an unknown publisher");
}

#[tokio::test]
async fn a_plot_draws_the_range_of_a_slot_only_where_it_is_a_peak() {
    let server = Peer::start(Kind::Embedded, &[]);
    let mut page = Browser::open(&format!("{}/dashboard/x", server.url()), 900, false);
    for (what, low, high, expected) in
        [("rising", 81, 82, 0), ("above", 81, 90, 1), ("below", 70, 82, 1), ("both", 70, 90, 2)]
    {
        let peaks = page.ask(&format!(
            "line([{{ at: 0, fl: 80 }}, {{ at: 1000, fl: 82, low: {{ fl: {low} }}, \
             high: {{ fl: {high} }} }}], 'fl', 3000, y => y).split('V').length - 1"
        ));
        assert_eq!(peaks, expected, "{what}");
    }
}

/// The rule for the replayed stretches, in cases that no server produces quickly.
#[tokio::test]
async fn only_frames_that_arrived_late_and_in_a_burst_are_marked_as_replayed() {
    let server = Peer::start(Kind::Embedded, &[]);
    let mut page = Browser::open(&format!("{}/dashboard/x", server.url()), 900, false);
    // The delays, in seconds, of frames captured each second.
    for (what, delays, expected) in [
        ("live", "Array(300).fill(0.1)", json!([])),
        ("jitter", "Array(300).fill(0).map((_, i) => i % 2)", json!([])),
        ("other clocks", "Array(300).fill(-7200)", json!([])),
        ("unknown", "Array(300).fill(NaN)", json!([])),
        (
            "outage",
            "[...Array(9).fill(0), 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0, 0]",
            json!([[9, 16]]),
        ),
        ("two", "[0, 4, 3, 2, 1, 0, 0, 5, 4, 3, 2, 1, 0]", json!([[1, 2], [7, 9]])),
        ("hours", "Array(7200).fill(0).map((_, i) => 7200 - i)", json!([[0, 7196]])),
        ("clock set back", "[...Array(90).fill(0), ...Array(300).fill(3600)]", json!([])),
        ("growing delay", "Array(300).fill(0).map((_, i) => i)", json!([])),
    ] {
        let stretches = page.ask(&format!(
            "replayedStretches(({delays}).map((delay, i) => ({{ at: i * 1000, delay: delay * 1000 }})))\
             .map(({{ from, to }}) => [from / 1000, to / 1000])"
        ));
        assert_eq!(stretches, expected, "{what}");
    }
    // A clock that is set forward leaves a gap in the timestamps.
    let forward = "Array(200).fill(0).map((_, i) => i < 100 ? { at: i * 1000, delay: 3600e3 } \
                   : { at: i * 1000 + 3600e3, delay: 0 })";
    assert_eq!(page.ask(&format!("replayedStretches({forward})")), json!([]));
}

/// This machine's address in its network.
fn network_address() -> std::net::IpAddr {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let routed = socket.connect("198.51.100.1:9").and_then(|()| socket.local_addr());
    routed.expect("this machine has an address besides 127.0.0.1, and a route").ip()
}

#[tokio::test]
async fn the_dashboard_escapes_markup_and_shows_when_it_is_stale() {
    let server = Peer::start(Kind::Embedded, &[]);
    let mut car = Car::new(&server).await;
    car.setup(1, json!({"wing": {"rear": 7}, "note": MARKUP})).await;
    car.frame(3.0, json!({"lap": 3, "speed": 200.0, "tire_temps": {"fl": 80.5}})).await;
    let mut page = Browser::open(&car.page(&server.url()), 320, true);
    page.shows("player_name", |text| text == MARKUP).await;
    assert_eq!(page.ask("document.querySelector('#player_name *')"), Value::Null);
    page.shows("lap", |text| text == "3").await;
    car.frame(4.0, json!({"lap": 4})).await;
    page.shows("lap", |text| text == "4").await;
    assert!(page.ask("document.title").as_str().is_some_and(|title| title != "owned"));

    page.shows("setup_summary", |text| text.ends_with("the first")).await;
    car.setup(2, json!({"wing": {"rear": 8}, "note": MARKUP, "tyres": ["soft"]})).await;
    page.shows("setup_summary", |text| text.ends_with("2 changes since the one before")).await;
    let rows = "document.getElementById('rows').innerText";
    page.ask("document.querySelector('details').open = true");
    page.comes_true(&format!("{rows}.includes({})", json!(MARKUP))).await;
    assert_eq!(page.ask("document.querySelector('#rows img')"), Value::Null);
    assert_eq!(page.ask("document.querySelectorAll('#rows mark').length"), 2);
    page.types("filter", "REAR");
    page.comes_true(&format!("{rows}.trim().split(/\\s+/).join(' ') == 'wing.rear 8 7'")).await;
    page.shows("found", |text| text == "1 of 3").await;
    let labelled = "[...document.querySelectorAll('input')].every(input => input.labels.length)";
    assert_eq!(page.ask(labelled), true);
    assert_eq!(page.ask("document.documentElement.scrollWidth <= 320"), true);

    page.comes_true("document.getElementById('main').className == 'stale'").await;
    page.is_accessible("a dark, stale dashboard with an open setup");
    page.shot("dashboard-320-dark.png");

    server.forget().await;
    page.open_again(&car.page(&server.url()));
    page.shows("state", |text| text == "The server does not know this session").await;
}

#[tokio::test]
async fn the_dashboard_history_places_late_frames_at_their_own_time() {
    let server = Peer::start(Kind::Embedded, &[]);
    let proxy = Proxy::start(server.port());
    let mut car = Car::new(&server).await;
    let mut page = Browser::open(&car.page(&proxy.url()), 900, false);
    // Laps of 50 s; the first begins 10 s before the first frame.
    let mut drive = async |from: u32, to: u32| {
        for second in from..to {
            let running = f64::from((second + 10) % 50);
            let telemetry =
                json!({"lap": (second + 10) / 50, "lap_time": running, "fuel": 90 - second / 4});
            car.frame(f64::from(second), telemetry).await;
        }
    };
    drive(0, 20).await;
    drive(100, 120).await;
    page.comes_true("plotted().length == 40").await;
    assert!(page.longest_gap() > 80_000.0);
    page.comes_true(&format!("!({})", in_one_line("fuel"))).await;
    page.shows("lap_time", |text| text == "0:29.000").await;

    // The missing frames arrive late and leave the current values unchanged.
    drive(20, 100).await;
    page.comes_true("plotted().length == 120").await;
    page.comes_true(&in_one_line("fuel")).await;
    assert!(page.longest_gap() < NO_GAP_MS, "{} ms", page.longest_gap());
    assert_eq!(page.text("lap_time"), "0:29.000");
    page.shows("laps_range", |text| text == "last 0:50.000, best 0:50.000").await;

    // A page that lost its connection gets the frames that it missed.
    proxy.set(Network::Down);
    drive(120, 180).await;
    proxy.set(Network::UP);
    page.comes_true("plotted().length == 180").await;
    page.shows("lap", |text| text == "3").await;

    // A page that is opened late gets all frames too.
    // The page measures the delays of live frames by its own clock.
    let points = "plotted().map(({ delay, ...point }) => point)";
    let held = page.ask(points);
    page.open_again(&car.page(&server.url()));
    page.comes_true("plotted().length == 180").await;
    assert_eq!(page.ask(points), held);
    page.shows("laps_range", |text| text == "last 0:50.000, best 0:50.000").await;
}

#[tokio::test]
async fn a_day_of_frames_stays_within_the_history_limits_of_a_page() {
    let server = Peer::start(Kind::Embedded, &[]);
    let car = Car::new(&server).await;
    let mut page = Browser::open(&car.page(&server.url()), 900, false);
    // 30 hours at 2 Hz, in laps of 100 s; then at the interval to which a late page's history is
    // downsampled.
    for seconds_apart in [0.5, 54.0] {
        page.ask(
            "slots.clear(), laps.clear(), slotMs = 1000, oldest = Infinity, newest = -Infinity",
        );
        page.ask(&format!(
            "(() => {{ for (let s = 0; s < 108000; s += {seconds_apart}) remember({{ \
             timestamp: new Date(1.7e12 + s * 1000).toISOString(), \
             lap: Math.floor(s / 100), lap_time: s % 100, fuel: 50 }}) }})()"
        ));
        page.comes_true(&in_one_line("fuel")).await;
        let points = page.ask("slots.size").as_u64().unwrap();
        assert!((1_000..=2_001).contains(&points), "{points}");
        assert_eq!(page.ask("newest - oldest <= 24 * 3600e3"), true);
        assert_eq!(page.ask("laps.size <= 2000"), true);
        page.shows("laps_range", |text| text == "last 1:40.000, best 1:40.000").await;
    }
}

const MARKUP: &str = "<img src=x onerror=\"document.title='owned'\"><b>Zoë</b>";

/// A JavaScript expression that is true if a plot is one line without a gap.
fn in_one_line(field: &str) -> String {
    format!("document.getElementById('{field}_line').getAttribute('d')?.match(/M/g)?.length === 1")
}

/// A publisher that sets the timestamp of each frame.
struct Car {
    client: Client,
    session: String,
}

impl Car {
    async fn new(server: &Peer) -> Self {
        let mut client = Client::connect(&server.url()).await;
        let session = client.new_session().await;
        Self { client, session }
    }

    fn page(&self, server: &str) -> String {
        format!("{server}/dashboard/{}", self.session)
    }

    /// Publishes a frame with a timestamp this many seconds after noon.
    async fn frame(&mut self, second: f64, mut telemetry: Value) {
        telemetry["timestamp"] = timestamp(second).into();
        telemetry["player_name"] = MARKUP.into();
        let frame = json!({"session_id": self.session, "telemetry": telemetry});
        self.client.ask("telemetry_update", frame).await;
    }

    async fn setup(&mut self, second: u32, setup: Value) {
        let timestamp = timestamp(f64::from(second));
        let setup = json!({"session_id": self.session, "timestamp": timestamp, "setup": setup});
        self.client.ask("setup_data", setup).await;
    }
}

fn timestamp(second: f64) -> String {
    /// 2025-11-22T12:00:00Z, in milliseconds since 1970.
    const NOON: i64 = 1_763_812_800_000;
    CapturedAt(NOON + (second * 1000.0) as i64).to_string()
}

/// Chromium with one page open. An error on the page fails the next call.
pub struct Browser {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Browser {
    pub fn open(url: &str, width: u32, dark: bool) -> Self {
        let mut browser = Self::start(None);
        browser.tell(&json!({"open": url, "width": width, "dark": dark}));
        browser
    }

    /// Opens a page in a browser that resolves `name` to 127.0.0.1.
    pub fn resolving(name: &str, url: &str) -> Self {
        let mut browser = Self::start(Some(name));
        browser.tell(&json!({"open": url, "width": 320, "dark": false}));
        browser
    }

    fn start(resolved: Option<&str>) -> Self {
        let mut command = Command::new("node");
        command
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/browser.js"))
            .args(resolved)
            .env("NODE_PATH", peers::home().join("node_modules"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut browser = Self { child, stdin, stdout };
        assert_eq!(browser.line(), "ready");
        browser
    }

    /// Navigates to another page, or reloads the current one.
    pub fn open_again(&mut self, url: &str) {
        self.tell(&json!({"open": url}));
    }

    fn tell(&mut self, what: &Value) -> Value {
        writeln!(self.stdin.as_ref().unwrap(), "{what}").unwrap();
        let mut said: Value = serde_json::from_str(&self.line()).unwrap();
        assert!(said.get("error").is_none(), "{what}: {said}");
        said["answer"].take()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// The value of a JavaScript expression.
    pub fn ask(&mut self, expression: &str) -> Value {
        self.tell(&json!({"ask": expression}))
    }

    /// The value of an expression in the most recently added frame.
    pub fn ask_frame(&mut self, expression: &str) -> Value {
        self.tell(&json!({"ask_frame": expression}))
    }

    fn text(&mut self, id: &str) -> String {
        let text = self.ask(&format!("document.getElementById('{id}')?.textContent ?? ''"));
        text.as_str().unwrap().to_owned()
    }

    /// Waits until the element's text satisfies `fits`.
    pub async fn shows(&mut self, id: &str, fits: impl Fn(&str) -> bool) {
        eventually(id, async || fits(&self.text(id)).then_some(())).await;
    }

    /// Waits until the element's text changes.
    async fn changes(&mut self, id: &str) {
        let before = self.text(id);
        self.shows(id, |text| text != before).await;
    }

    /// Waits until a JavaScript expression is true.
    pub async fn comes_true(&mut self, expression: &str) {
        let is_true = async || (self.ask(expression) == true).then_some(());
        eventually(expression, is_true).await;
    }

    /// Types a text into a field, as a user does.
    pub fn types(&mut self, id: &str, text: &str) {
        self.tell(&json!({"type": text, "into": format!("#{id}")}));
    }

    /// Clicks on a link to another page, and waits for that page.
    pub fn clicks(&mut self, selector: &str) {
        self.tell(&json!({"click": selector}));
    }

    /// Presses a button.
    pub fn presses(&mut self, selector: &str) {
        self.tell(&json!({"press": selector}));
    }

    /// Changes the width of the window.
    fn resize(&mut self, width: u32) {
        self.tell(&json!({"resize": width}));
    }

    /// Checks that axe-core finds no violation on the page.
    pub fn is_accessible(&mut self, what: &str) {
        let violations = self.tell(&json!({"audit": true}));
        assert_eq!(violations, json!([]), "{what}: {violations:#}");
    }

    /// The manifest of the page, and what keeps Chromium from installing the page as an app.
    pub fn installation(&mut self) -> Value {
        self.tell(&json!({"install": true}))
    }

    /// The longest interval between neighbouring points of the dashboard's plots, in milliseconds.
    fn longest_gap(&mut self) -> f64 {
        let gap = "plotted().reduce(([gap, last], {at}) => [Math.max(gap, at - last), at], \
                   [0, oldest])[0]";
        self.ask(gap).as_f64().unwrap()
    }

    /// Saves a screenshot for people to look at.
    pub fn shot(&mut self, name: &str) {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("screenshots");
        std::fs::create_dir_all(&folder).unwrap();
        self.tell(&json!({"shot": folder.join(name)}));
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // At the end of its input it closes the browser and deletes its files.
        self.stdin = None;
        let started = Instant::now();
        while started.elapsed() < NOTICED && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
