//! Access control of each listener: checks every cell of the table in `deploy/docs/access.md` with
//! real requests, and the cross-origin rules with a browser.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use pitwire::dashboard::{Behaviour, Server};
use serde_json::json;
use tempfile::tempdir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{MAX_AGENT_RSS_KIB, beside_live_source};
use crate::agent::{Agent, PATIENCE, Process, eventually, pitwire};
use crate::page::Browser;
use crate::peers::{Kind, Peer};
use crate::{contract, readme};

const TOKEN: &str = "0123456789abcdef-for-tests";
/// Host name of a foreign web page.
const EVIL: &str = "evil.example";
/// Longest time from a request to the first line of its answer, on a loaded machine.
const ANSWER: Duration = Duration::from_secs(20);

/// Sender of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    Program,
    Page,
    ForeignPage,
    RebindingName,
    OtherMachine,
}

impl Caller {
    const ALL: [Self; 5] =
        [Self::Program, Self::Page, Self::ForeignPage, Self::RebindingName, Self::OtherMachine];

    fn name(self) -> &'static str {
        match self {
            Self::Program => "a program of this PC",
            Self::Page => "a page of this PC",
            Self::ForeignPage => "a foreign page",
            Self::RebindingName => "a rebinding name",
            Self::OtherMachine => "another machine",
        }
    }

    /// The headers of each form of request that this caller can send.
    fn requests(self, server: SocketAddr) -> Vec<String> {
        let port = server.port();
        let local = format!("Host: 127.0.0.1:{port}\r\n");
        let rebound = format!("Host: {EVIL}:{port}\r\n");
        match self {
            Self::Program => vec![
                local,
                format!("Host: localhost:{port}\r\n"),
                format!("Host: [::1]:{port}\r\n"),
            ],
            Self::Page => vec![
                format!("{local}Origin: http://localhost:3000\r\nSec-Fetch-Site: same-site\r\n"),
                format!("{local}Origin: http://127.0.0.1:{port}\r\n"),
            ],
            Self::ForeignPage => vec![
                format!("{local}Origin: https://{EVIL}\r\nSec-Fetch-Site: cross-site\r\n"),
                format!("{local}Origin: null\r\n"),
                format!("{local}Origin: http://192.168.1.7\r\n"),
                format!("{local}Sec-Fetch-Site: cross-site\r\nSec-Fetch-Dest: image\r\n"),
                format!("{local}Sec-Fetch-Site: cross-site\r\nSec-Fetch-Dest: iframe\r\n"),
            ],
            Self::RebindingName => {
                vec![format!("{rebound}Origin: http://{EVIL}:{port}\r\n"), rebound]
            }
            Self::OtherMachine => {
                let host = format!("Host: {server}\r\n");
                vec![format!("{host}Origin: http://{server}\r\n"), host]
            }
        }
    }
}

/// Expected outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Yes,
    /// Accepted with the token; otherwise 401.
    Token,
    /// Refused with and without the token.
    No,
    Unreachable,
}

impl Answer {
    fn name(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::Token => "token",
            Self::No => "no",
            Self::Unreachable => "–",
        }
    }
}

use Answer::{No, Token, Unreachable, Yes};

/// One row of the table: paths of a listener with the same access rules.
struct Row {
    listener: &'static str,
    paths: &'static str,
    requests: &'static [&'static str],
    setting: Setting,
    /// One expected outcome for each of [`Caller::ALL`], in that order.
    answers: [Answer; 5],
}

/// Configuration of the listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setting {
    Default,
    TokenOnNetwork,
    InsecurePublic,
}

impl Setting {
    fn name(self) -> &'static str {
        match self {
            Self::Default => "loopback, no token",
            Self::TokenOnNetwork => "network, token",
            Self::InsecurePublic => "network, `--insecure-public`",
        }
    }
}

const METRICS: &str = "`metrics.listen`";
const HTTP: &str = "`source.http.listen`";
const SOCKETIO: &str = "`source.socketio.listen`";
const SERVE: &str = "`pitwire serve`";
const SCRAPES: &[&str] = &["GET /metrics", "GET /healthz", "GET /readyz"];
const AGENT_PAGES: &[&str] = &[
    "GET /",
    "GET /status",
    "GET /share",
    "GET /qr.svg",
    "POST /retry",
    "POST /queue/requests",
    "POST /reload",
];
const SAMPLES: &[&str] = &["POST /v1/telemetry", "POST /v1/setup"];
const SOCKETS: &[&str] = &[
    "GET /socket.io/?EIO=4&transport=polling",
    "UPGRADE /socket.io/?EIO=4&transport=websocket",
    "GET /dashboard/x",
];
const DASHBOARD: &[&str] = &[
    "GET /socket.io/?EIO=4&transport=polling",
    "UPGRADE /socket.io/?EIO=4&transport=websocket",
    "GET /",
    "GET /dashboard/x",
    "GET /api/sessions",
    "GET /api/sessions/x/frames",
    "GET /api/sessions/x/setups",
    "GET /api/sessions/x/timing",
    "GET /api/sessions/x/series?points=9",
    "GET /api/sessions/x/export.csv",
    "GET /api/sessions/x/export.ndjson",
    "GET /api/overview",
    "GET /manifest.webmanifest",
];
const DELETE: &[&str] = &["DELETE /api/sessions"];
const HEALTH: &[&str] = &["GET /healthz"];

#[rustfmt::skip]
const TABLE: &[Row] = &[
    row(METRICS, "`/metrics`, `/healthz`, `/readyz`", SCRAPES, Setting::Default,
        [Yes, Yes, No, No, Unreachable]),
    row(METRICS, "`/metrics`, `/healthz`, `/readyz`", SCRAPES, Setting::TokenOnNetwork,
        [Yes, Yes, No, Token, Token]),
    row(METRICS, "status page, queue tools, reload", AGENT_PAGES, Setting::Default,
        [Yes, Yes, No, No, Unreachable]),
    row(METRICS, "status page, queue tools, reload", AGENT_PAGES, Setting::TokenOnNetwork,
        [Yes, Yes, No, No, No]),
    row(HTTP, "all", SAMPLES, Setting::Default, [Yes, Yes, No, No, Unreachable]),
    row(HTTP, "all", SAMPLES, Setting::TokenOnNetwork, [Token, Token, No, Token, Token]),
    row(SOCKETIO, "all", SOCKETS, Setting::Default, [Yes, Yes, No, No, Unreachable]),
    row(SOCKETIO, "all", SOCKETS, Setting::TokenOnNetwork, [Token, Token, No, Token, Token]),
    row(SERVE, "events, pages, history", DASHBOARD, Setting::Default,
        [Yes, Yes, No, No, Unreachable]),
    row(SERVE, "events, pages, history", DASHBOARD, Setting::TokenOnNetwork,
        [Token, Token, No, Token, Token]),
    row(SERVE, "events, pages, history", DASHBOARD, Setting::InsecurePublic,
        [Yes, Yes, No, No, Yes]),
    row(SERVE, "`DELETE /api/sessions`", DELETE, Setting::Default,
        [Yes, Yes, No, No, Unreachable]),
    row(SERVE, "`DELETE /api/sessions`", DELETE, Setting::TokenOnNetwork,
        [Token, Token, No, Token, Token]),
    row(SERVE, "`DELETE /api/sessions`", DELETE, Setting::InsecurePublic, [No, No, No, No, No]),
    row(SERVE, "`/healthz`", HEALTH, Setting::Default, [Yes, Yes, No, No, Unreachable]),
    row(SERVE, "`/healthz`", HEALTH, Setting::TokenOnNetwork, [Yes, Yes, No, No, Yes]),
    row(SERVE, "`/healthz`", HEALTH, Setting::InsecurePublic, [Yes, Yes, No, No, Yes]),
];

const fn row(
    listener: &'static str,
    paths: &'static str,
    requests: &'static [&'static str],
    setting: Setting,
    answers: [Answer; 5],
) -> Row {
    Row { listener, paths, requests, setting, answers }
}

#[test]
fn the_access_page_matches_the_access_table() {
    let mut table = String::from("| listener | paths | set up with |");
    Caller::ALL.iter().for_each(|caller| write!(table, " {} |", caller.name()).unwrap());
    table.push_str("\n| --- | --- | --- |");
    Caller::ALL.iter().for_each(|_| table.push_str(" --- |"));
    table.push('\n');
    for Row { listener, paths, setting, answers, .. } in TABLE {
        write!(table, "| {listener} | {paths} | {} |", setting.name()).unwrap();
        answers.iter().for_each(|answer| write!(table, " {} |", answer.name()).unwrap());
        table.push('\n');
    }
    readme::check("deploy/docs/access.md", "access", &table);
}

#[tokio::test]
async fn each_listener_admits_exactly_the_callers_in_the_access_table() {
    let queues = [tempdir().unwrap(), tempdir().unwrap()];
    let server = Peer::start(Kind::Embedded, &[]);
    let stand_in = "source.socketio.enabled=true";
    let on_loopback = Agent::start(
        queues[0].path(),
        &server.url(),
        &[stand_in, "source.socketio.listen=127.0.0.1:0"],
    );
    let tokens = ["metrics", "source.http", "source.socketio"]
        .map(|table| [format!("{table}.listen=0.0.0.0:0"), format!("{table}.token={TOKEN}")]);
    let mut settings: Vec<&str> = tokens.iter().flatten().map(String::as_str).collect();
    settings.push(stand_in);
    let on_network = Agent::start(queues[1].path(), &server.url(), &settings);
    let dashboards = [
        Dashboard::start(&["--listen", "127.0.0.1:0"]).await,
        Dashboard::start(&["--listen", "0.0.0.0:0", "--token", TOKEN]).await,
        Dashboard::start(&["--listen", "0.0.0.0:0", "--insecure-public"]).await,
    ];
    let mut wrong = Vec::new();
    for row in TABLE {
        let agent = match row.setting {
            Setting::Default => &on_loopback,
            Setting::TokenOnNetwork | Setting::InsecurePublic => &on_network,
        };
        let port = match row.listener {
            METRICS => port(&agent.admin().await),
            HTTP => port(&agent.address("telemetry").await),
            SOCKETIO => port(&agent.address("publishers").await),
            _ => port(&dashboards[row.setting as usize].url),
        };
        for (caller, answer) in Caller::ALL.into_iter().zip(row.answers) {
            for request in row.requests {
                if let Err(found) = answers(port, caller, request, answer).await {
                    let (listener, setting) = (row.listener, row.setting);
                    wrong.push(format!("{listener} {setting:?} {caller:?} {answer:?}: {found}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Checks that each form of the caller's request gets the expected outcome.
async fn answers(port: u16, caller: Caller, what: &str, expected: Answer) -> Result<(), String> {
    let ip = match caller {
        Caller::OtherMachine => network_address(),
        _ => IpAddr::from([127, 0, 0, 1]),
    };
    let server = SocketAddr::new(ip, port);
    if expected == Unreachable {
        return match TcpStream::connect(server).await {
            Ok(_) => Err("connects".into()),
            Err(_) => Ok(()),
        };
    }
    for headers in caller.requests(server) {
        let without = status(server, what, &headers).await;
        let right = status(server, what, &with_bearer(&headers, TOKEN)).await;
        let wrong = status(server, what, &with_bearer(&headers, "0123456789abcdef-guess")).await;
        let is_admitted = |status: u16| ![401, 403].contains(&status);
        let is_expected = match expected {
            Yes => [without, right, wrong].into_iter().all(is_admitted),
            Token => without == 401 && wrong == 401 && is_admitted(right),
            No => [without, right, wrong].into_iter().all(|status| status == 403),
            Unreachable => unreachable!(),
        };
        if !is_expected {
            return Err(format!("{what} {headers:?}: {without}, {right} with the token, {wrong}"));
        }
    }
    Ok(())
}

fn with_bearer(headers: &str, token: &str) -> String {
    format!("{headers}Authorization: Bearer {token}\r\n")
}

/// Sends `what` (`GET /path`, `POST /path`, `DELETE /path`, or `UPGRADE /path` for a WebSocket) and
/// returns the HTTP status.
async fn status(server: SocketAddr, what: &str, headers: &str) -> u16 {
    let (method, path) = what.split_once(' ').unwrap();
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let (method, connection, body) = match method {
        "UPGRADE" => ("GET", upgrade, ""),
        "POST" => ("POST", "Connection: close\r\n", "{\"lap\": 1}"),
        method => (method, "Connection: close\r\n", ""),
    };
    let length = format!("Content-Length: {}\r\n", body.len());
    let request = format!("{method} {path} HTTP/1.1\r\n{headers}{connection}{length}\r\n{body}");
    let exchange = async {
        let mut stream = TcpStream::connect(server).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = vec![0; 12];
        stream.read_exact(&mut head).await.unwrap();
        let head = String::from_utf8(head).unwrap();
        if connection != upgrade {
            // Wait until the server closes the connection, so that it does not count against later
            // requests.
            stream.read_to_end(&mut Vec::new()).await.unwrap();
        }
        head
    };
    let head = timeout(ANSWER, exchange).await.unwrap_or_else(|_| panic!("{what}: no answer"));
    head.strip_prefix("HTTP/1.1 ").and_then(|status| status.parse().ok()).expect("a status")
}

/// This machine's address on its network; connections to it also originate from it.
fn network_address() -> IpAddr {
    // `connect` on a UDP socket only selects a route; it sends nothing.
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let routed = socket.connect("198.51.100.1:9").and_then(|()| socket.local_addr());
    routed.expect("this machine has an address besides 127.0.0.1, and a route").ip()
}

fn port(url: &str) -> u16 {
    url.trim_end_matches('/').rsplit(':').next().unwrap().parse().unwrap()
}

/// A `pitwire serve` process.
struct Dashboard {
    process: Process,
    url: String,
}

impl Dashboard {
    async fn start(args: &[&str]) -> Self {
        let mut command = pitwire(&["serve"]);
        let process = Process::start(command.args(args).stdin(Stdio::null()));
        let url = eventually("the server listens", async || {
            let lines = process.stdout();
            Some(lines.first()?.strip_prefix("dashboard server on ")?.to_owned())
        })
        .await;
        Self { process, url: url.replace("0.0.0.0", "127.0.0.1") }
    }

    /// The link that the server prints for viewers.
    async fn viewer_link(&self) -> String {
        eventually("the link is printed", async || {
            let lines = self.process.stdout();
            Some(lines.get(1)?.strip_prefix("viewers open ")?.to_owned())
        })
        .await
    }

    /// Number of frames in all sessions.
    async fn frames(&self, token: &str) -> usize {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let get = client.get(format!("{}/api/sessions", self.url)).bearer_auth(token);
        let sessions: serde_json::Value = get.send().await.unwrap().json().await.unwrap();
        let sessions = sessions.as_array().unwrap();
        sessions.iter().map(|session| session["frames"].as_u64().unwrap() as usize).sum()
    }
}

#[tokio::test]
async fn a_server_on_the_network_does_not_start_without_a_token() {
    let folder = tempdir().unwrap();
    let [short, good] = [("short", "hunter2\n"), ("good", TOKEN)].map(|(name, text)| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        file.display().to_string()
    });
    let public = ["serve", "--listen", "0.0.0.0:0"];
    let mut process = Process::start(&mut pitwire(&["serve", "--lan"]));
    assert_eq!(process.ended().await, 2);
    let told = process.stderr().join("\n");
    assert!(told.contains("--lan: 0.0.0.0:5000 lets other machines in; add --token "), "{told}");
    for (args, said) in [
        (&[][..], "0.0.0.0:0 lets other machines in; add --token "),
        (&["--token", "hunter2"], "serve.token: \"***\" is a token that can be guessed"),
        (&["--token-file", "/nonexistent"], "serve.token_file: no such file: /nonexistent;"),
        (&["--token-file", &short], "a token that can be guessed"),
    ] {
        let mut process = Process::start(&mut pitwire(&[&public[..], args].concat()));
        assert_eq!(process.ended().await, 2, "{args:?}");
        let told = process.stderr().join("\n");
        assert!(told.contains(said) && !told.contains("hunter2"), "{args:?}: {told}");
    }
    let server = Dashboard::start(&["--listen", "0.0.0.0:0", "--token-file", &good]).await;
    let link = server.viewer_link().await;
    let expected = format!("http://{}:{}/?token={TOKEN}", network_address(), port(&server.url));
    assert_eq!(link, expected);
    let server = Dashboard::start(&["--lan=0", "--token-file", &good]).await;
    let link = server.viewer_link().await;
    let expected = format!("http://{}:{}/?token={TOKEN}", network_address(), port(&server.url));
    assert_eq!(link, expected);
    let answer = reqwest::Client::builder().no_proxy().build().unwrap().get(link).send().await;
    assert!(answer.unwrap().status().is_success());
}

#[tokio::test]
async fn an_agent_with_the_token_delivers_and_one_without_keeps_its_frames() {
    let server = Dashboard::start(&["--listen", "127.0.0.1:0", "--token", TOKEN]).await;
    let queue = tempdir().unwrap();
    let mut stranger = Agent::start(queue.path(), &server.url, &[]);
    stranger.feed(&[json!({"lap": 1}).to_string()]);
    stranger.stored(1).await;
    stranger.process.says("401").await;
    stranger.stop().await;
    assert_eq!(server.frames(TOKEN).await, 0);

    let token = format!("server.token={TOKEN}");
    let agent = Agent::start(queue.path(), &server.url, &[&token]);
    eventually("the frame arrives", async || (server.frames(TOKEN).await == 1).then_some(())).await;
    for shown in ["/status", "/readyz", "/metrics"] {
        assert!(!agent.page(shown).await.1.contains(TOKEN), "{shown}");
    }
    let logged = [agent.process.stderr(), stranger.process.stderr(), server.process.stderr()];
    assert!(!logged.concat().join("\n").contains(TOKEN));
}

#[tokio::test]
async fn an_unreadable_token_file_keeps_a_listener_closed() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("token");
    let queue = tempdir().unwrap();
    let settings =
        ["metrics.listen=0.0.0.0:0".to_owned(), format!("metrics.token_file={}", file.display())];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let agent = Agent::start(queue.path(), "http://127.0.0.1:9", &settings);
    agent.process.says("cannot listen for status page and metrics; retrying").await;
    std::fs::write(&file, TOKEN).unwrap();
    // The failed attempt logged its address too, so take the newest logged address and wait until
    // it accepts connections.
    let is_served = async || {
        let lines = agent.process.stderr();
        let address =
            lines.iter().rev().find_map(|line| Some(line.split_once(" metrics on ")?.1))?;
        let server = SocketAddr::new(network_address(), port(address));
        TcpStream::connect(server).await.ok()?;
        let host = format!("Host: {server}\r\n");
        let (without, with) = (
            status(server, "GET /metrics", &host).await,
            status(server, "GET /metrics", &with_bearer(&host, TOKEN)).await,
        );
        ((without, with) == (401, 200)).then_some(())
    };
    eventually("the metrics require the token", is_served).await;
}

/// Serves a minimal page in the background until the test process ends; returns the port.
fn serve_page() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || answer_with_page(stream));
        }
    });
    port
}

fn answer_with_page(mut stream: std::net::TcpStream) {
    // Browsers also open connections that they never use.
    if stream.read(&mut [0; 4096]).is_ok_and(|bytes| bytes > 0) {
        let page = "<!doctype html><title>page</title><p>page";
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n";
        let answer = format!("{head}Content-Length: {}\r\n\r\n{page}", page.len());
        let _ = stream.write_all(answer.as_bytes());
    }
}

#[tokio::test]
async fn a_foreign_page_in_a_browser_cannot_post_embed_read_or_connect() {
    // There is a QR code only for a server that other devices can reach.
    let server = Server::start(([0, 0, 0, 0], 0).into(), Behaviour::default()).unwrap();
    let server_url = format!("http://127.0.0.1:{}", server.addr().port());
    let queue = tempdir().unwrap();
    let settings = ["source.socketio.enabled=true", "source.socketio.listen=127.0.0.1:0"];
    let agent = Agent::start(queue.path(), &server_url, &settings);
    agent.feed(&[json!({"lap": 1}).to_string()]);
    agent.link(1).await;
    let (admin, source, events) = (
        agent.admin().await,
        agent.address("telemetry").await,
        agent.address("publishers").await.replace("http", "ws"),
    );
    let pages = serve_page();
    let post = format!(
        "fetch('{source}/v1/telemetry', {{method: 'POST', mode: 'no-cors', body: '{{\"lap\":9}}'}})\
         .then(() => 'sent', () => 'failed')"
    );
    let image = format!(
        "new Promise(done => {{ const image = new Image(); image.onload = () => done('shown'); \
         image.onerror = () => done('failed'); image.src = '{admin}/qr.svg?' + Math.random(); }})"
    );
    let connect = format!(
        "new Promise(done => {{ \
         const socket = new WebSocket('{events}/socket.io/?EIO=4&transport=websocket'); \
         socket.onopen = () => done('open'); socket.onerror = () => done('failed'); }})"
    );
    let frame = |url: &str| {
        format!(
            "new Promise(done => {{ const frame = document.createElement('iframe'); \
             frame.onload = () => done('loaded'); frame.src = '{url}'; \
             document.body.append(frame); }})"
        )
    };

    // A page on this PC may send these requests, but no page may frame another.
    let mut local = Browser::open(&format!("http://127.0.0.1:{pages}/"), 320, false);
    assert_eq!(local.ask(&post), "sent");
    agent.metric_becomes("pitwire_entries_appended_total", |entries| entries == 2.0).await;
    assert_eq!(local.ask(&image), "shown");
    assert_eq!(local.ask(&connect), "open");
    local.ask(&frame(&format!("{admin}/")));
    assert_eq!(local.ask_frame("document.getElementById('badge') === null"), true);

    // The CSP of pitwire's pages allows connections to their own server only.
    local.open_again(&format!("{admin}/"));
    let blocked = "new Promise(done => { \
                   document.addEventListener('securitypolicyviolation', \
                   event => done(event.effectiveDirective)); \
                   try { new WebSocket('ws://127.0.0.1:9/'); } catch {} })";
    assert_eq!(local.ask(blocked), "connect-src");

    let mut foreign = Browser::resolving(EVIL, &format!("http://{EVIL}:{pages}/"));
    foreign.ask(&post);
    assert_eq!(foreign.ask(&image), "failed");
    assert_eq!(foreign.ask(&connect), "failed");
    for url in [format!("{admin}/"), format!("{server_url}/")] {
        foreign.ask(&frame(&url));
        let text = foreign.ask_frame("document.body.innerText");
        let text = text.as_str().unwrap();
        assert!(!text.contains("Sessions") && !text.contains("Delivered"), "{text}");
    }
    // DNS rebinding: to the browser, the page and the agent have one origin.
    foreign.open_again(&format!("http://{EVIL}:{}/", port(&admin)));
    let look = "fetch('/status').then(answer => answer.status)";
    assert_eq!(foreign.ask(look), 403);
    assert_eq!(foreign.ask(&connect.replace("127.0.0.1", EVIL)), "failed");
    assert_eq!(agent.metric("pitwire_entries_appended_total").await, 2.0);
}

#[tokio::test]
async fn a_viewer_gets_in_by_the_printed_link_or_by_entering_the_token() {
    let server = Dashboard::start(&["--listen", "127.0.0.1:0", "--token", TOKEN]).await;
    let queue = tempdir().unwrap();
    let token = format!("server.token={TOKEN}");
    let drives = [&*token, "source.simulator.enabled=true", "update_rate_hz=5"];
    let agent = Agent::start(queue.path(), &server.url, &drives);
    let page = agent.link(1).await;
    assert!(!page.contains(TOKEN), "{page}");

    let link = server.viewer_link().await;
    let mut browser = Browser::open(&link, 600, false);
    assert_eq!(browser.ask("location.href"), format!("{}/", server.url));
    browser.comes_true("document.querySelectorAll('tbody a').length === 1").await;
    browser.open_again(&page);
    browser.shows("state", |text| text == "Live").await;
    browser.comes_true("plotted().length > 1").await;

    // A phone that opened the QR code of the status page has no token yet.
    let mut phone = Browser::open(&page, 320, true);
    phone.comes_true("document.querySelector('input[name=token]') !== null").await;
    phone.types("token", TOKEN);
    phone.clicks("button");
    phone.shows("state", |text| text == "Live").await;
    assert_eq!(phone.ask("location.href"), page);
}

#[tokio::test]
async fn a_server_with_a_token_gives_no_session_without_it() {
    let server = Dashboard::start(&["--listen", "0.0.0.0:0", "--token", TOKEN]).await;
    let polling = "GET /socket.io/?EIO=4&transport=polling";
    let address = SocketAddr::new(network_address(), port(&server.url));
    let host = format!("Host: {address}\r\n");
    for _ in 0..50 {
        assert_eq!(status(address, polling, &host).await, 401);
    }
    assert_eq!(server.frames(TOKEN).await, 0);
    // Publishers that cannot set headers may pass the token in the URL.
    let path = format!("UPGRADE /socket.io/?EIO=4&transport=websocket&token={TOKEN}");
    assert_eq!(status(address, &path, &host).await, 101);
}

/// Without a token, only programs on this PC have access, and even they cannot evict a session that
/// has data.
#[tokio::test]
async fn requesting_many_ids_evicts_no_session_with_data() {
    let server = Peer::start(Kind::Embedded, &[]);
    let mut client = contract::Client::connect(&server.url()).await;
    let session = client.new_session().await;
    client.ask("telemetry_update", contract::frame(&session)).await;
    let asked = async {
        for _ in 0..1_100 {
            client.tell("request_session_id", json!({})).await;
        }
        client.ask("request_session_id", json!({})).await
    };
    timeout(PATIENCE, asked).await.expect("an answer to each request");
    assert!(server.sessions().await.contains(&session));
}

#[tokio::test]
async fn refused_requests_do_not_slow_a_live_source() {
    let queue = tempdir().unwrap();
    let tokens = ["metrics", "source.http"]
        .map(|table| [format!("{table}.listen=0.0.0.0:0"), format!("{table}.token={TOKEN}")]);
    let settings: Vec<&str> = tokens.iter().flatten().map(String::as_str).collect();
    let agent = Agent::start(queue.path(), "http://127.0.0.1:9", &settings);
    let ports = [port(&agent.admin().await), port(&agent.address("telemetry").await)];
    let attack = async {
        for guess in 0..200 {
            for port in ports {
                let server = SocketAddr::new(network_address(), port);
                let host = format!("Host: {server}\r\n");
                let headers = with_bearer(&host, &format!("0123456789abcdef-{guess}"));
                assert_eq!(status(server, "GET /metrics", &headers).await, 401);
            }
        }
    };
    let ((), observed) = beside_live_source(&agent, attack).await;
    assert!(observed.peak_rss_kib < MAX_AGENT_RSS_KIB, "{observed:?}");
    assert!(observed.peak_open_files < 100, "{observed:?}");
    assert!(observed.longest_wait < ANSWER, "{observed:?}");
}
