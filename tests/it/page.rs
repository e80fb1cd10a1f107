//! The pages that people look at, in a real browser: the agent's own and the dashboard.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::agent::{Agent, eventually};
use crate::peers::{self, Kind, Peer};
use crate::proxy::{Network, Proxy};

/// From the plug that is pulled to the words of the page; half of it is for a busy machine.
const NOTICED: Duration = Duration::from_secs(4);

#[tokio::test]
async fn the_agents_page_says_how_it_stands_while_the_plug_is_pulled_and_put_back() {
    let server = Peer::start(Kind::Embedded, &[]);
    let proxy = Proxy::start(server.port());
    let queue = tempfile::tempdir().unwrap();
    let drives = ["source.simulator.enabled=true", "update_rate_hz=10"];
    let agent = Agent::start(queue.path(), &proxy.url(), &drives);
    let link = agent.link(1).await;
    let mut page = Browser::open(&agent.admin().await, 320, true);

    page.shows("pill", |text| text == "Live").await;
    page.shows("page", |text| text == link).await;
    page.shows("out", |text| text.parse().is_ok_and(|rate: f64| rate > 1.0)).await;
    page.shows("proof", |text| text == "seen by a viewer").await;
    assert_eq!(page.ask("document.documentElement.scrollWidth <= 320"), true);
    let code =
        async || (page.ask("document.getElementById('qr').naturalWidth > 0") == true).then_some(());
    eventually("the code for a phone", code).await;
    let delivered = page.text("delivered");
    page.shows("delivered", |text| text != delivered).await;

    proxy.set(Network::Down);
    let pulled = Instant::now();
    page.shows("pill", |text| text.starts_with("Offline, ")).await;
    assert!(pulled.elapsed() < NOTICED, "{:?}", pulled.elapsed());
    eprintln!("the page said so after {:.1} s", pulled.elapsed().as_secs_f64());
    let highest = "Math.min(...document.getElementById('line').getAttribute('points').split(' ')\
                   .map(point => Number(point.split(',')[1])))";
    page.shows("entries", |text| text.parse().is_ok_and(|entries: u64| entries > 30)).await;
    // The newest point of the plot is its highest.
    let newest = "Number(document.getElementById('line').getAttribute('points').split(',').pop())";
    assert_eq!(page.ask(newest), page.ask(highest));
    assert_eq!(page.ask("document.getElementById('trouble').hidden"), false);
    page.shot("status-offline-320-dark.png");

    proxy.set(Network::UP);
    page.shows("pill", |text| text == "Live").await;
    page.shows("entries", |text| text.parse().is_ok_and(|entries: u64| entries < 10)).await;
    assert_eq!(page.ask("document.getElementById('trouble').hidden"), true);
    let mut page = Browser::open(&agent.admin().await, 900, false);
    page.shows("pill", |text| text == "Live").await;
    page.shows("out", |text| text.parse().is_ok_and(|rate: f64| rate > 1.0)).await;
    eventually("the code for a phone", async || {
        (page.ask("document.getElementById('qr').naturalWidth > 0") == true).then_some(())
    })
    .await;
    page.shot("status.png");

    drop(agent);
    page.shows("pill", |text| text == "The agent does not run").await;
}

#[tokio::test]
async fn the_dashboard_shows_names_as_text_and_says_when_nothing_comes() {
    let server = Peer::start(Kind::Embedded, &[]);
    let queue = tempfile::tempdir().unwrap();
    let agent = Agent::start(queue.path(), &server.url(), &["update_rate_hz=0"]);
    let name = "<img src=x onerror=\"document.title='owned'\"><b>Zoë</b>";
    let sends = async |lap: u64| {
        let sample = json!({"player_name": name, "lap": lap, "speed": 200.0}).to_string();
        assert!(agent.post("/v1/telemetry", sample).await.status().is_success());
    };
    sends(3).await;
    let mut page = Browser::open(&agent.link(1).await, 320, true);
    page.shows("player_name", |text| text == name).await;
    assert_eq!(page.ask("document.querySelector('#player_name *')"), Value::Null);
    page.shows("lap", |text| text == "3").await;
    sends(4).await;
    page.shows("lap", |text| text == "4").await;
    assert_eq!(page.ask("document.documentElement.scrollWidth <= 320"), true);
    assert!(page.ask("document.title").as_str().is_some_and(|title| title != "owned"));
    let stale = async || {
        (page.ask("document.getElementById('main').className == 'stale'") == true).then_some(())
    };
    eventually("the warning that it is old", stale).await;
    page.shot("dashboard-320-dark.png");
}

/// Chromium with one page open. What a page does wrong makes the next question fail.
struct Browser {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Browser {
    fn open(url: &str, width: u32, dark: bool) -> Self {
        let mut child = Command::new("node")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/browser.js"))
            .env("NODE_PATH", peers::home().join("node_modules"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut browser = Self { child, stdin, stdout };
        assert_eq!(browser.line(), "ready");
        browser.tell(&json!({"open": url, "width": width, "dark": dark}));
        browser
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

    /// The value of an expression of JavaScript.
    fn ask(&mut self, expression: &str) -> Value {
        self.tell(&json!({"ask": expression}))
    }

    fn text(&mut self, id: &str) -> String {
        let text = self.ask(&format!("document.getElementById('{id}').textContent"));
        text.as_str().unwrap().to_owned()
    }

    /// Waits until the element has a text that fits.
    async fn shows(&mut self, id: &str, fits: impl Fn(&str) -> bool) {
        eventually(id, async || fits(&self.text(id)).then_some(())).await;
    }

    /// Kept for people to look at.
    fn shot(&mut self, name: &str) {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("screenshots");
        std::fs::create_dir_all(&folder).unwrap();
        self.tell(&json!({"shot": folder.join(name)}));
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It ends the browser and takes its files away when its input ends.
        self.stdin = None;
        let started = Instant::now();
        while started.elapsed() < NOTICED && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
