//! Standard output that fails: a full disk, and a reader that wants no more.

use std::fs::{self, File, OpenOptions};
use std::process::{Command, Stdio};

use super::numbered_samples;
use crate::agent::{Agent, Process, pitwire};
use crate::peers::{Kind, Peer};

/// An address that refuses connections.
const CLOSED_ADDRESS: &str = "http://127.0.0.1:9";
const LOST: &str = "pitwire: cannot write standard output: No space left on device";

fn full_disk() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
}

/// What commands need: a stopped queue with frames, an agent and a server.
struct Scene {
    folder: tempfile::TempDir,
    agent: Agent,
    server: Peer,
}

impl Scene {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut stopped = Agent::start(&folder.path().join("queue"), CLOSED_ADDRESS, &[]);
        stopped.feed(&numbered_samples(1, 5));
        stopped.stored(5).await;
        stopped.stop().await;
        let agent = Agent::start(&folder.path().join("running"), CLOSED_ADDRESS, &[]);
        let recording = numbered_samples(1, 3).join("\n");
        fs::write(folder.path().join("laps.ndjson"), recording).unwrap();
        let queue = folder.path().join("queue");
        let mut export = pitwire(&["queue", "export", "--queue", queue.to_str().unwrap()]);
        fs::write(folder.path().join("export.jsonl"), export.output().unwrap().stdout).unwrap();
        Self { folder, agent, server: Peer::start(Kind::Embedded, &[]) }
    }

    /// The arguments of each subcommand that prints on standard output and ends.
    async fn commands(&self) -> Vec<String> {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let (queue, fresh) = (path("queue"), path("fresh"));
        let (laps, export) = (path("laps.ndjson"), path("export.jsonl"));
        let (admin, url) = (self.agent.admin().await, self.server.url());
        let quiet = "--set source.http.enabled=false --set metrics.enabled=false \
                     --set source.lmu.enabled=false";
        let mut commands: Vec<String> = [
            "--help",
            "--version",
            "queue export --help",
            "demo --seconds 1",
            "simulate --frames 3 --speed 0",
            "autostart enable",
            "autostart status",
            "autostart disable",
            "check",
            "config",
            "config --example",
            "completions bash",
        ]
        .map(str::to_owned)
        .into();
        commands.extend([
            format!(
                "run --until-drained --server {url} --queue {fresh} --set source.file.path={laps} \
                 {quiet}"
            ),
            format!("replay {laps} --server {url} --speed 0"),
            format!("reload --admin {admin}"),
            format!("setup --server {url} --config {}", path("setup.toml")),
            format!("queue import {export} --queue {queue}"),
        ]);
        let tools = [
            "status",
            "ls",
            "cat 1",
            "export",
            "export --format csv",
            "verify",
            "repair",
            "trace 1",
            "drop --all",
            "requeue",
        ];
        commands.extend(tools.map(|tool| format!("queue {tool} --queue {queue}")));
        commands
    }

    fn command(&self, args: &str) -> Command {
        let args: Vec<&str> = args.split_whitespace().collect();
        let mut command = pitwire(&args);
        command.env("XDG_CONFIG_HOME", self.folder.path().join("settings")).stdin(Stdio::null());
        command
    }
}

#[tokio::test]
async fn a_command_whose_output_is_lost_fails() {
    let scene = Scene::start().await;
    for args in scene.commands().await {
        let output = scene.command(&args).stdout(full_disk()).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args}: {errors}");
        assert_eq!(errors.matches(LOST).count(), 1, "{args}: {errors}");
    }
}

/// A doctor that has nothing worse to report than a note would exit with 0.
#[tokio::test]
async fn a_doctor_whose_output_is_lost_fails() {
    let scene = Scene::start().await;
    let doctor = format!(
        "doctor --json --server {} --queue {} --set source.http.enabled=false --set \
         metrics.enabled=false --set source.lmu.enabled=false",
        scene.server.url(),
        scene.folder.path().join("fresh").display()
    );
    let output = scene.command(&doctor).stdout(full_disk()).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert_eq!(errors.matches(LOST).count(), 1, "{errors}");
}

#[tokio::test]
async fn an_agent_whose_receipts_are_lost_stores_every_sample_and_fails() {
    let (folder, server) = (tempfile::tempdir().unwrap(), Peer::start(Kind::Embedded, &[]));
    let samples = folder.path().join("samples");
    fs::write(&samples, numbered_samples(1, 5).join("\n") + "\n").unwrap();
    let url = server.url();
    let mut run = pitwire(&["run", "--until-drained", "--server", &url]);
    run.arg("--queue").arg(folder.path().join("queue"));
    for setting in [
        "source.stdin.receipts=true",
        "source.http.enabled=false",
        "metrics.enabled=false",
        "source.lmu.enabled=false",
        "update_rate_hz=0",
    ] {
        run.args(["--set", setting]);
    }
    run.stdin(File::open(&samples).unwrap()).stdout(full_disk());
    let output = run.output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert_eq!(errors.matches(LOST).count(), 1, "{errors}");
    assert_eq!(server.all_frames().await.len(), 5);
}

#[tokio::test]
async fn a_server_whose_output_is_lost_serves_until_it_is_stopped_and_fails() {
    let serve = pitwire(&["serve", "--listen", "127.0.0.1:0"]);
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec \"$0\" \"$@\" >/dev/full"]).arg(serve.get_program());
    shell.args(serve.get_args()).stdin(Stdio::null());
    serve.get_envs().filter(|(_, value)| value.is_none()).for_each(|(name, _)| {
        shell.env_remove(name);
    });
    let mut process = Process::start(&mut shell);
    process.says(LOST).await;
    process.signal("-TERM");
    assert_eq!(process.ended().await, 1);
}

#[tokio::test]
async fn a_command_whose_reader_wants_no_more_ends_quietly() {
    let scene = Scene::start().await;
    for args in scene.commands().await {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = scene.command(&args).stdout(writer).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{args}: {errors}");
        assert!(!errors.contains("standard output"), "{args}: {errors}");
    }
}
