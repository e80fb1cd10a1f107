//! Runs the real `pitwire` binary from a test and kills it when the test ends.
//!
//! ```ignore
//! let mut agent = Agent::start(&queue, &peer.url(), &[]);
//! agent.feed(&lines);
//! agent.receipts(lines.len()).await;
//! agent.process.kill(); // no chance to save anything
//! ```

use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::peers;

/// How long a test waits for an expected event. Only a failing test waits this long, so the limit
/// is generous: two shared cores run many tests at once.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Time between two polls.
const LOOK_INTERVAL: Duration = Duration::from_millis(25);
/// How long to wait for the pipes of a process to close after it has ended.
const PIPES_CLOSE: Duration = Duration::from_secs(5);
/// Timeout of one request to the agent.
const ANSWER: Duration = Duration::from_secs(20);

/// Settings of every agent: no game, free ports, no rate limit, no long pauses.
const SETTINGS: [&str; 8] = [
    "source.lmu.enabled=false",
    "source.http.listen=127.0.0.1:0",
    "metrics.listen=127.0.0.1:0",
    "update_rate_hz=0",
    "source.stdin.receipts=true",
    "delivery.proof_timeout=2s",
    "delivery.backoff_min=50ms",
    "delivery.backoff_max=500ms",
];

/// Environment variable with the path of the Windows binary, set by `tests/windows.sh`; it runs
/// under Wine instead of the native binary.
const WINDOWS_BINARY: &str = "PITWIRE_WINDOWS_BINARY";
/// Environment variable with the path of another native build, set by `tests/budget.sh`.
const BINARY: &str = "PITWIRE_BINARY";

/// The binary with these arguments, guarded against the use of default ports.
pub fn pitwire(args: &[&str]) -> Command {
    let mut command = match std::env::var_os(WINDOWS_BINARY) {
        Some(binary) => {
            let mut wine = Command::new("wine");
            wine.arg(binary);
            wine
        }
        None => {
            let built = || env!("CARGO_BIN_EXE_pitwire").into();
            #[cfg_attr(not(target_os = "linux"), allow(unused_mut, reason = "for the guard"))]
            let mut command = Command::new(std::env::var_os(BINARY).unwrap_or_else(built));
            #[cfg(target_os = "linux")]
            crate::default_ports::guard(&mut command);
            command
        }
    };
    command.args(args);
    // Ignore the developer's own configuration.
    command.env("XDG_CONFIG_HOME", "/nowhere");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PITWIRE_") {
            command.env_remove(name);
        }
    }
    command
}

/// Wraps `command` so that it runs with this hard limit of open files.
pub fn limit_open_files(limit: u64, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -n \"$0\" && exec \"$@\"", &limit.to_string()]);
    run_under(shell, command)
}

/// Appends `command` with its arguments and environment to the command line of `tool`.
fn run_under(mut tool: Command, command: &Command) -> Command {
    tool.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => tool.env(name, value),
            None => tool.env_remove(name),
        };
    }
    tool
}

/// Polls `look` until it returns a value, for at most [`PATIENCE`].
pub async fn eventually<T>(what: &str, look: impl AsyncFnMut() -> Option<T>) -> T {
    within(PATIENCE, look).await.unwrap_or_else(|| panic!("{what}: not within {PATIENCE:?}"))
}

/// Polls `look` until it returns a value or the time is up.
pub async fn within<T>(limit: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        // Poll before checking the clock: a test that was not scheduled in time has not failed.
        if let found @ Some(_) = look().await {
            return found;
        }
        if start.elapsed() > limit {
            return None;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// A child process and the output it has written so far. Dropping it kills the process.
#[derive(Debug)]
pub struct Process {
    child: Child,
    stdout: Lines,
    stderr: Lines,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts the command and collects its output; the caller configures stdin.
    pub fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        let (stdout, stderr) = (Lines::default(), Lines::default());
        let readers = vec![
            stdout.collect(child.stdout.take().unwrap()),
            stderr.collect(child.stderr.take().unwrap()),
        ];
        Self { child, stdout, stderr, readers }
    }

    /// Starts the command with the read ends of its output pipes closed.
    pub fn with_closed_output(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        drop((child.stdout.take(), child.stderr.take()));
        let (stdout, stderr) = (Lines::default(), Lines::default());
        Self { child, stdout, stderr, readers: Vec::new() }
    }

    /// Takes the write end of its stdin pipe; can be called once.
    pub fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().unwrap()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The complete lines on stdout so far.
    pub fn stdout(&self) -> Vec<String> {
        self.stdout.all()
    }

    /// The complete lines on stderr so far.
    pub fn stderr(&self) -> Vec<String> {
        self.stderr.all()
    }

    /// Waits for a line on stderr that contains `text`.
    pub async fn says(&self, text: &str) {
        let said = async || self.stderr().iter().any(|line| line.contains(text)).then_some(());
        eventually(text, said).await;
    }

    /// Kills the process with SIGKILL, so that it cannot save anything.
    pub fn kill(&mut self) {
        self.child.kill().expect("SIGKILL is sent");
        self.child.wait().expect("the process exits");
        self.read_to_the_end();
    }

    /// Sends a signal such as `-TERM`.
    pub fn signal(&self, signal: &str) {
        peers::signal(self.id(), signal);
    }

    /// The exit code, if the process exits within `limit`.
    pub async fn exit_code(&mut self, limit: Duration) -> Option<i32> {
        let status = within(limit, async || self.child.try_wait().unwrap()).await?;
        self.read_to_the_end();
        status.code()
    }

    /// Waits for the process to exit and returns its exit code.
    pub async fn ended(&mut self) -> i32 {
        self.exit_code(PATIENCE).await.expect("the process exits in time")
    }

    /// Reads the output that is still in the pipes. They may stay open: the first program under
    /// Wine starts services that inherit its pipes and outlive it.
    fn read_to_the_end(&mut self) {
        let start = Instant::now();
        for reader in self.readers.drain(..) {
            while !reader.is_finished() && start.elapsed() < PIPES_CLOSE {
                thread::sleep(LOOK_INTERVAL);
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The process may have exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("process {} logged:\n{}", self.id(), self.stderr);
        }
    }
}

/// `pitwire run`, with stdin open for lines.
#[derive(Debug)]
pub struct Agent {
    pub process: Process,
    /// Text for stdin, which stays open until this sender is dropped.
    stdin: mpsc::Sender<String>,
    http: reqwest::Client,
}

impl Agent {
    /// Starts an agent with additional settings; returns while it is still opening its queue.
    pub fn start(queue: &Path, server: &str, settings: &[&str]) -> Self {
        let mut command = pitwire(&["run", "--server", server]);
        command.arg("--queue").arg(queue);
        Self::run(command, &[&SETTINGS, settings].concat())
    }

    /// Starts an agent under a tool such as strace. It exits after [`hang_up`](Agent::hang_up),
    /// once everything is delivered.
    pub fn under(tool: Command, queue: &Path, server: &str) -> Self {
        let mut agent = pitwire(&["run", "--until-drained", "--server", server]);
        agent.arg("--queue").arg(queue);
        Self::run(run_under(tool, &agent), &SETTINGS)
    }

    /// Starts an agent with a limit of open files.
    pub fn with_open_files(limit: u64, queue: &Path, server: &str, settings: &[&str]) -> Self {
        let mut agent = pitwire(&["run", "--server", server]);
        agent.arg("--queue").arg(queue);
        Self::run(limit_open_files(limit, &agent), &[&SETTINGS, settings].concat())
    }

    /// Starts an agent with these environment variables.
    #[cfg(target_os = "linux")]
    pub fn in_environment(
        environment: &[(&'static str, String)],
        queue: &Path,
        server: &str,
        settings: &[&str],
    ) -> Self {
        let mut command = pitwire(&["run", "--server", server]);
        command.arg("--queue").arg(queue).envs(environment.iter().cloned());
        Self::run(command, &[&SETTINGS, settings].concat())
    }

    /// Starts an agent with this configuration file.
    pub fn configured(file: &Path) -> Self {
        let mut command = pitwire(&["run"]);
        command.arg("--config").arg(file);
        let left_to_it: Vec<_> =
            SETTINGS.into_iter().filter(|setting| !setting.starts_with("update_rate_hz")).collect();
        Self::run(command, &left_to_it)
    }

    fn run(mut command: Command, settings: &[&str]) -> Self {
        command.stdin(Stdio::piped());
        for setting in settings {
            command.args(["--set", setting]);
        }
        let mut process = Process::start(&mut command);
        let stdin = feeder(process.stdin());
        let http = reqwest::Client::builder().no_proxy().timeout(ANSWER).build().unwrap();
        Self { process, stdin, http }
    }

    /// Writes lines to stdin in the background, so that a kill may come in the middle.
    pub fn feed(&self, lines: &[String]) {
        // Sending fails only after the agent has exited.
        let _ = self.stdin.send(lines.join("\n") + "\n");
    }

    /// Closes the agent's stdin.
    pub fn hang_up(&mut self) {
        self.stdin = mpsc::channel().0;
    }

    /// Receipts of stored entries: line number from 1, and position in the queue.
    pub fn receipts(&self) -> Vec<(usize, u64)> {
        let receipt = |line: &String| {
            let receipt: Value = serde_json::from_str(line).ok()?;
            Some((receipt["line"].as_u64()? as usize, receipt["seq"].as_u64()?))
        };
        self.process.stdout().iter().filter_map(receipt).collect()
    }

    /// Waits until `lines` lines are reported as stored.
    pub async fn stored(&self, lines: usize) {
        let enough = async || (self.receipts().len() >= lines).then_some(());
        eventually(&format!("{lines} receipts"), enough).await;
    }

    /// Waits for the agent's answer to this line (from 1), and so to all lines before it.
    pub async fn has_taken(&self, line: u64) {
        let receipt = format!("{{\"line\":{line},");
        let taken = async || {
            let lines = self.process.stdout();
            lines.iter().rev().any(|said| said.starts_with(&receipt)).then_some(())
        };
        eventually(&format!("an answer to line {line}"), taken).await;
    }

    /// The dashboard links printed so far.
    pub fn links(&self) -> Vec<String> {
        let lines = self.process.stdout();
        let link = |line: &String| {
            let of_server = line.strip_prefix("dashboard of server: ");
            of_server.or_else(|| line.strip_prefix("dashboard: ")).map(str::to_owned)
        };
        lines.iter().filter_map(link).collect()
    }

    /// The dashboard link number `number`, from 1.
    pub async fn link(&self, number: usize) -> String {
        let printed = async || self.links().get(number - 1).cloned();
        eventually(&format!("link number {number}"), printed).await
    }

    /// Posts to the HTTP source.
    pub async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> reqwest::Response {
        let request = self.http.post(self.telemetry_url(path).await).body(body);
        request.send().await.expect("the HTTP source answers")
    }

    /// A request to the HTTP source that the caller can extend.
    pub async fn request(&self, path: &str) -> reqwest::RequestBuilder {
        self.http.post(self.telemetry_url(path).await)
    }

    /// Gets a page from the admin address; returns its status and text.
    pub async fn page(&self, path: &str) -> (u16, String) {
        let url = self.admin().await + path;
        let response = self.http.get(url).send().await.expect("the admin address answers");
        (response.status().as_u16(), response.text().await.expect("a text body"))
    }

    pub async fn metrics(&self) -> String {
        self.page("/metrics").await.1
    }

    /// The value of one series, named as on `/metrics`.
    pub async fn metric(&self, series: &str) -> f64 {
        let text = self.metrics().await;
        // A series without that label is the one of `[server]`.
        let text = match series.contains("destination=") {
            true => text,
            false => {
                text.replace(r#"destination="server""#, "").replace("{}", "").replace("{,", "{")
            }
        };
        let value = |line: &str| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok();
        text.lines().find_map(value).unwrap_or_else(|| panic!("no {series} in\n{text}"))
    }

    /// Waits until `fits` accepts the value of the series.
    pub async fn metric_becomes(&self, series: &str, fits: impl Fn(f64) -> bool) {
        let look = async || fits(self.metric(series).await).then_some(());
        eventually(series, look).await;
    }

    /// Stops the agent with SIGTERM and waits for exit code 0.
    pub async fn stop(&mut self) {
        self.process.signal("-TERM");
        assert_eq!(self.process.ended().await, 0);
    }

    /// The admin address.
    pub async fn admin(&self) -> String {
        self.address("metrics").await
    }

    async fn telemetry_url(&self, path: &str) -> String {
        self.address("telemetry").await + path
    }

    /// The address of a listener, read from the agent's log.
    pub async fn address(&self, what: &str) -> String {
        let said = async || {
            let lines = self.process.stderr();
            let address = |line: &String| Some(line.split_once(&format!(" {what} on "))?.1.into());
            lines.iter().find_map(address)
        };
        eventually(&format!("{what} is served"), said).await
    }
}

/// Starts a thread that writes texts to a pipe until the reader closes it.
fn feeder(mut pipe: ChildStdin) -> mpsc::Sender<String> {
    let (sender, texts) = mpsc::channel::<String>();
    thread::spawn(move || {
        for text in texts {
            if pipe.write_all(text.as_bytes()).is_err() {
                return;
            }
        }
    });
    sender
}

/// Complete lines that a process has written.
#[derive(Clone, Debug, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    /// Starts a thread that reads the output to its end.
    fn collect(&self, output: impl Read + Send + 'static) -> JoinHandle<()> {
        let lines = self.clone();
        thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut line = Vec::new();
            // A final line without a newline was cut short by a kill; it is dropped.
            while output.read_until(b'\n', &mut line).is_ok() && line.pop() == Some(b'\n') {
                lines.0.lock().unwrap().push(String::from_utf8_lossy(&line).into_owned());
                line.clear();
            }
        })
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl fmt::Display for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.all().iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}
