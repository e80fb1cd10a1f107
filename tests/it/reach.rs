//! What the server's address answers is named in the same words by the log, the status page and
//! `pitwire doctor`; redirects are followed on the same host only.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use pitwire::dashboard::{Behaviour, Server};
use serde_json::Value;
use tokio::time::sleep;

use crate::agent::{eventually, pitwire, within};
use crate::hostile::{Pit, certificates, laps};
use crate::peers::{Kind, Peer};

/// The answer to a request.
enum Reply {
    /// A response with this status line and these headers.
    Status(&'static str, String),
    /// Forward the connection to this port, without the prefix of the path.
    Forward { port: u16, prefix: &'static str },
}

/// A server that answers requests by their path, and records their heads.
struct Front {
    port: u16,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Front {
    fn start(reply: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let (recorded, reply) = (Arc::clone(&heads), Arc::new(reply));
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (recorded, reply) = (Arc::clone(&recorded), Arc::clone(&reply));
                thread::spawn(move || answer(client, &recorded, &*reply));
            }
        });
        Self { port, heads }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

fn answer(mut client: TcpStream, heads: &Mutex<Vec<String>>, reply: &dyn Fn(&str) -> Reply) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && head.len() < 4096 {
        match client.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => break,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    heads.lock().unwrap().push(head.clone());
    let path = head.split(' ').nth(1).unwrap_or_default();
    match reply(path) {
        Reply::Status(status, headers) => {
            let response = format!("HTTP/1.1 {status}\r\n{headers}content-length: 0\r\n\r\n");
            let _ = client.write_all(response.as_bytes());
        }
        Reply::Forward { port, prefix } => {
            let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { return };
            let head = head.replacen(&format!("GET {prefix}/"), "GET /", 1);
            server.write_all(head.as_bytes()).unwrap();
            let (mut from_client, mut to_client) = (client.try_clone().unwrap(), client);
            let mut to_server = server.try_clone().unwrap();
            thread::spawn(move || std::io::copy(&mut from_client, &mut to_server));
            let _ = std::io::copy(&mut server, &mut to_client);
            let _ = to_client.shutdown(std::net::Shutdown::Both);
        }
    }
}

fn location(target: &str) -> String {
    format!("location: {target}\r\n")
}

/// The faults that the doctor finds in the server.
fn faults(url: &str, settings: &[(&str, &str)]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let mut doctor = pitwire(&["doctor", "--json", "--server", url]);
    doctor.env("XDG_CONFIG_HOME", folder.path()).stdin(Stdio::null());
    let queue = format!("queue.path={}", folder.path().join("queue").display());
    for setting in [&*queue, "metrics.listen=127.0.0.1:0", "source.http.listen=127.0.0.1:0"] {
        doctor.args(["--set", setting]);
    }
    for (key, value) in settings {
        doctor.args(["--set", &format!("{key}={value}")]);
    }
    let output = doctor.output().unwrap();
    let findings: Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = findings["findings"].as_array().unwrap().iter();
    let is_fault = |finding: &&Value| finding["severity"] == "fault";
    let servers = findings.filter(is_fault).filter(|finding| finding["subject"] == "server");
    servers.map(|finding| finding["summary"].as_str().unwrap().to_owned()).collect()
}

/// Checks that log, status page and doctor name the same fault, which begins with `what`, and that
/// the next attempt is at least 30 s away exactly if `is_slow`.
async fn is_named(url: &str, what: &str, driver: &str, is_slow: bool) {
    let pit = Pit::new(url, &[("delivery.open_timeout", "3s")]);
    let error = pit.complaint().await;
    assert!(error.starts_with(what), "{error}");
    let status = pit.status();
    let user_message = status.user_message.unwrap();
    assert!(user_message.contains(driver), "{user_message}");
    let pause = eventually("a pause", async || pit.status().retry_in).await;
    assert_eq!(pause >= Duration::from_secs(30), is_slow, "{error}: {pause:?}");
    let found = tokio::task::spawn_blocking({
        let url = url.to_owned();
        move || faults(&url, &[("delivery.open_timeout", "3s")])
    });
    let found = found.await.unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    // The error is the doctor's finding with its advice.
    assert!(error.starts_with(&format!("{}; ", found[0])), "{found:?}: {error}");
}

#[tokio::test]
async fn log_status_page_and_doctor_name_the_same_fault() {
    let cases = [
        ("401 Unauthorized", "refuses access: 401 Unauthorized", "valid token", true),
        ("403 Forbidden", "refuses access: 403 Forbidden", "valid token", true),
        ("407 Proxy Authentication Required", "demands a password: 407", "proxy", true),
        ("502 Bad Gateway", "is starting or down: its proxy answers 502", "starting", false),
        ("503 Busy", "is starting or down: its proxy answers 503", "starting", false),
        ("504 Gateway Timeout", "does not answer its proxy in time: 504", "overloaded", false),
        ("404 Not Found", "is not a Socket.IO server: it answers 404", "still starting", false),
    ];
    for (status, what, driver, is_slow) in cases {
        let server = Front::start(move |_| Reply::Status(status, String::new()));
        let url = server.url();
        let what = match what {
            what if what.starts_with("demands") => format!("the proxy on the way to {url} {what}"),
            what if status.starts_with("50") => format!("the server at {url} {what}"),
            what => format!("{url} {what}"),
        };
        is_named(&url, &what, driver, is_slow).await;
    }
}

#[tokio::test]
async fn every_request_of_a_diagnosis_names_pitwire() {
    let server = Front::start(|_| Reply::Status("404 Not Found", String::new()));
    Pit::new(&server.url(), &[]).complaint().await;
    let heads = server.heads();
    let probe = heads.iter().find(|head| head.contains("transport=polling")).unwrap();
    let expected = concat!("user-agent: pitwire/", env!("CARGO_PKG_VERSION"), "\r\n");
    assert!(probe.to_lowercase().contains(expected), "{probe}");
}

#[tokio::test]
async fn a_server_that_is_starting_gets_everything_soon_after_its_start() {
    let outage = Duration::from_secs(if crate::long::is_long() { 30 } else { 4 });
    let server = Server::start((Ipv4Addr::LOCALHOST, 0).into(), Behaviour::default()).unwrap();
    let port = server.url().rsplit(':').next().unwrap().parse().unwrap();
    let is_up = Arc::new(AtomicBool::new(false));
    let sees = Arc::clone(&is_up);
    let front = Front::start(move |_| match sees.load(Ordering::Relaxed) {
        true => Reply::Forward { port, prefix: "" },
        false => Reply::Status("502 Bad Gateway", String::new()),
    });
    let pit = Pit::new(&front.url(), &[("delivery.backoff_max", "5s")]);
    pit.store(1..=50, "Ana").await;
    let error = pit.complaint().await;
    assert!(error.contains("starting or down"), "{error}");
    sleep(outage).await;
    let down = front.heads();
    let with = |what| down.iter().filter(|head| head.contains(what)).count();
    // Each attempt uses both transports; a diagnosis polls, too.
    let attempts = with("transport=websocket");
    let probes = with("transport=polling").saturating_sub(attempts);
    let most = 1 + outage.as_secs() as usize / 30;
    assert!((1..=most).contains(&probes), "{probes} probes of {} requests", down.len());
    is_up.store(true, Ordering::Relaxed);
    let began = Instant::now();
    let connected = async || pit.status().connected.then_some(());
    let soon = within(Duration::from_secs(8), connected).await;
    assert!(soon.is_some(), "{:?} after {:?}", pit.status(), began.elapsed());
    pit.drained().await;
    assert_eq!(laps(&server.url()).await, (1..=50).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_redirect_on_the_same_host_is_followed_with_the_token() {
    for status in ["301 Moved Permanently", "302 Found", "307 Temporary", "308 Permanent"] {
        let server = Server::start((Ipv4Addr::LOCALHOST, 0).into(), Behaviour::default()).unwrap();
        let port = server.url().rsplit(':').next().unwrap().parse().unwrap();
        let front = Front::start(move |path| match path.strip_prefix("/team") {
            Some(_) => Reply::Forward { port, prefix: "/team" },
            None => Reply::Status(status, location(&format!("/team{path}"))),
        });
        let pit = Pit::new(&front.url(), &[("server.token", "hunter2")]);
        pit.store(1..=20, "Ana").await;
        pit.drained().await;
        assert_eq!(laps(&server.url()).await, (1..=20).collect::<Vec<_>>());
        let heads = front.heads();
        let at_target = heads.iter().filter(|head| head.starts_with("GET /team/socket.io/"));
        assert!(at_target.clone().count() >= 2, "{heads:?}");
        for head in at_target {
            assert!(head.to_lowercase().contains("authorization: bearer hunter2"), "{head}");
        }
        assert_eq!(pit.status().failures, 0, "a redirect is not a failure");
    }
}

#[tokio::test]
async fn a_redirect_to_https_on_the_same_host_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, certificate, key) = certificates(folder.path());
    let args = ["--certfile", certificate.to_str().unwrap(), "--keyfile", key.to_str().unwrap()];
    let server = Peer::start(Kind::Asgi, &args);
    let target = server.url().replace("http://", "https://");
    let redirects = format!("{target}/socket.io/?EIO=4");
    let front = Front::start(move |_| Reply::Status("308 Permanent", location(&redirects)));
    let pit = Pit::new(&front.url(), &[("server.ca_file", ca.to_str().unwrap())]);
    pit.store(1..=20, "Ana").await;
    pit.drained().await;
    assert_eq!(pit.status().failures, 0, "{:?}", pit.status());
}

#[tokio::test]
async fn a_redirect_to_another_host_is_named_and_nothing_is_sent_there() {
    let other = Front::start(|_| Reply::Status("200 OK", String::new()));
    let targets = [
        (format!("http://localhost:{}/socket.io/", other.port), "another host"),
        (format!("https://localhost:{}/socket.io/", other.port), "another host"),
        (format!("http://127.0.0.1:{}/socket.io/", other.port), "another port"),
    ];
    for (target, why) in targets {
        let sends = format!("{target}?token=hunter2");
        let front = Front::start(move |_| Reply::Status("302 Found", location(&sends)));
        let what = format!("{} redirects (302) to {target}, {why}", front.url());
        is_named(&front.url(), &what, "forwards to another address", false).await;
        let settings = [("server.token", "hunter2"), ("delivery.backoff_min", "10ms")];
        let pit = Pit::new(&front.url(), &settings);
        let error = pit.complaint().await;
        assert!(error.starts_with(&what) && !error.contains("hunter2"), "{error}");
        eventually("a second attempt", async || (pit.status().failures > 1).then_some(())).await;
        assert!(other.heads().is_empty(), "{:?}", other.heads());
    }
}

#[tokio::test]
async fn a_loop_of_redirects_ends() {
    let front = Front::start(|path| Reply::Status("302 Found", location(&format!("/a{path}"))));
    let pit = Pit::new(&front.url(), &[]);
    let error = pit.complaint().await;
    assert!(error.contains("is the target of more than 5 redirects"), "{error}");
    // The connection by each transport, and the request for each redirect.
    assert_eq!(front.heads().len(), 2 + 6);
}

#[tokio::test]
async fn https_and_http_are_told_apart_at_every_kind_of_server() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, certificate, key) = certificates(folder.path());
    let args = ["--certfile", certificate.to_str().unwrap(), "--keyfile", key.to_str().unwrap()];
    let with_tls = Peer::start(Kind::Asgi, &args);
    let url = with_tls.url();
    let what = format!("{url} is a port for TLS, and answers no plain HTTP; write https://");
    let driver = "Write https:// instead";
    for settings in [&[][..], &[("server.ca_file", ca.to_str().unwrap())]] {
        let error = Pit::new(&url, settings).complaint().await;
        assert!(error.starts_with(&what), "{error}");
    }
    is_named(&url, &format!("{url} is a port for TLS"), driver, true).await;

    for (kind, args) in [
        (Kind::Flask, &[][..]),
        (Kind::Flask, &["--async-mode", "threading"]),
        (Kind::Asgi, &[]),
        (Kind::Node, &[]),
        (Kind::Embedded, &[]),
    ] {
        let server = Peer::start(kind, args);
        let url = server.url().replace("http://", "https://");
        let what = format!("TLS failed: {url} answers plain HTTP, without TLS");
        is_named(&url, &what, "Write http:// instead", true).await;
    }
}

#[tokio::test]
async fn a_server_of_socket_io_2_is_named() {
    for mode in ["eventlet", "threading"] {
        let server = Peer::start(Kind::OldFlask, &["--async-mode", mode]);
        let url = server.url();
        let what = format!("{url} speaks a version of Socket.IO that is too old: 1 or 2");
        is_named(&url, &what, "too old for pitwire", true).await;
    }
}
