//! `pitwire doctor`: unusable folders and disks, damage, agents that own the queue.

use std::fs;
use std::path::Path;

use super::{Pc, closed_port, has};
use crate::agent::Agent;
use crate::peers::{Kind, Peer};

/// An address without a listener.
const CLOSED_ADDRESS: &str = "http://127.0.0.1:9";

/// A PC with a working server.
fn pc() -> (Pc, Peer) {
    let server = Peer::start(Kind::Embedded, &[]);
    (Pc::new().server(&server.url()), server)
}

/// Runs an agent that stores ten frames and stops.
async fn drive(queue: &Path) {
    let mut agent = Agent::start(queue, CLOSED_ADDRESS, &[]);
    store(&agent).await;
    agent.stop().await;
}

async fn store(agent: &Agent) {
    let samples = (1..=10).map(|lap| format!("{{\"lap\":{lap}}}")).collect::<Vec<_>>();
    assert_eq!(agent.post("/v1/telemetry", samples.join("\n")).await.status(), 200);
}

#[tokio::test]
async fn a_healthy_queue_is_read_completely() {
    let (pc, _server) = pc();
    drive(&pc.path("queue")).await;
    let findings = pc.finds(&[]);
    assert!(has(&findings, "ok", "read 10 entries in 1 segment; 0 findings"), "{findings:#?}");
}

#[test]
fn a_queue_path_that_is_a_file_is_a_fault() {
    let (pc, _server) = pc();
    let file = pc.path("queue");
    fs::write(&file, "").unwrap();
    let file = file.display();
    let advice = "name another folder in queue.path, or move that file";
    let what = format!("nothing can be stored in {file}: {file} is a file, not a folder");
    let findings = pc.finds(&[("fault", "queue", &what, advice)]);
    assert!(has(&findings, "note", "not checked: how fast the disk is"));
    let pc = pc.set([format!("queue.path={file}/below")]);
    let what = format!("nothing can be stored in {file}/below: {file} is a file, not a folder");
    pc.finds(&[("fault", "queue", &what, advice)]);
}

/// Puts the queue's folder on a tmpfs that is mounted with these options.
fn on_a_disk(pc: Pc, options: &str) -> Pc {
    let folder = pc.path("queue");
    fs::create_dir(&folder).unwrap();
    let mount = format!("mount -t tmpfs -o {options} none \"$0\" && exec \"$@\"");
    let wrapper = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", &mount];
    let mut wrapper: Vec<String> = wrapper.map(str::to_owned).into();
    wrapper.push(folder.to_str().unwrap().to_owned());
    Pc { wrapper, ..pc }
}

#[test]
fn a_read_only_queue_folder_is_a_fault() {
    let (pc, _server) = pc();
    let folder = pc.path("queue").display().to_string();
    let pc = on_a_disk(pc, "ro");
    let what = format!("nothing can be stored in {folder}: Read-only file system …");
    let advice = "let your user write there, or name another folder in queue.path";
    pc.finds(&[("fault", "queue", &what, advice)]);
}

#[test]
fn low_disk_space_is_reported() {
    let (pc, _server) = pc();
    let folder = pc.path("queue").display().to_string();
    let pc = on_a_disk(pc, "size=30m").set(["queue.max_bytes=64MiB"]);
    let what = format!("the disk of {folder} has 30 MiB left, but the queue may grow by 64 MiB");
    let advice = "make room, or set queue.max_bytes = \"30MiB\"";
    pc.finds(&[("warning", "queue", &what, advice)]);
    // Following the advice solves the problem.
    pc.set(["queue.max_bytes=30MiB"]).finds(&[]);

    let (pc, _server) = self::pc();
    let folder = pc.path("queue").display().to_string();
    let what = format!("the disk of {folder} has 8.0 MiB left");
    on_a_disk(pc, "size=8m").finds(&[("fault", "queue", &what, "make room on it")]);

    let (pc, _server) = self::pc();
    let folder = pc.path("queue").display().to_string();
    let what = format!("nothing can be stored in {folder}: No space left on device …");
    let pc = on_a_disk(pc, "size=4k");
    pc.finds(&[("fault", "queue", &what, "make room on that disk")]);
}

#[tokio::test]
async fn a_damaged_queue_is_a_fault() {
    let (pc, _server) = pc();
    let queue = pc.path("queue");
    drive(&queue).await;
    let mut files = fs::read_dir(&queue).unwrap().map(|item| item.unwrap().path());
    let journal = files.find(|path| path.extension() == Some("log".as_ref())).unwrap();
    let mut bytes = fs::read(&journal).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&journal, &bytes).unwrap();
    let findings = pc.finds(&[(
        "fault",
        "queue",
        "it is damaged: read …",
        "pitwire queue verify lists all damage, pitwire queue repair what can be repaired",
    )]);
    let says_what =
        findings.iter().any(|finding| finding.to_string().contains("write-ahead log is damaged"));
    assert!(says_what, "{findings:#?}");
    assert_eq!(fs::read(&journal).unwrap(), bytes, "the doctor must not repair files");
}

#[test]
fn dead_letters_and_quarantined_segments_are_warnings() {
    let (pc, _server) = pc();
    let aside = pc.path("queue").join("quarantine");
    fs::create_dir_all(aside.join("bad-1-2")).unwrap();
    fs::write(aside.join("dead-letters.ndjson"), "{}\n{}\n").unwrap();
    let shown = aside.display();
    pc.finds(&[
        (
            "warning",
            "queue",
            &format!("2 entries that the server refused: {shown}"),
            "once the server accepts them, run pitwire queue requeue --apply; otherwise move \
             dead-letters.ndjson away",
        ),
        (
            "warning",
            "queue",
            &format!("1 segment that could not be read: {shown}"),
            "the readable entries are queued; check the disk, then delete the folders bad-…",
        ),
    ]);
}

#[tokio::test]
async fn a_queue_opened_by_an_agent_is_recognized() {
    let (pc, _server) = pc();
    let queue = pc.path("queue");
    let agent = Agent::start(&queue, CLOSED_ADDRESS, &[]);
    store(&agent).await;
    let admin = agent.admin().await.replace("http://", "");
    let owner = agent.process.id();
    let pc = pc.set([format!("metrics.listen={admin}")]);
    let findings = pc.finds(&[]);
    for what in [
        format!("the agent (process {owner}) has it open; 10 entries queued, its ledger balances"),
        format!("{admin} (metrics.listen) is used by the running agent; it is healthy"),
    ] {
        assert!(has(&findings, "ok", &what), "{what}: {findings:#?}");
    }

    // The doctor runs with another configuration than the agent's.
    let advice = "run the doctor with the configuration of that process, or stop it";
    let unused = format!("127.0.0.1:{}", closed_port());
    for (listen, why) in [
        ("127.0.0.1:0", "metrics.listen does not name its address".to_owned()),
        (&*unused, format!("its agent is not the one at {unused}")),
    ] {
        let other = Pc { settings: pc.settings.clone(), ..Pc::new() };
        let what = format!("process {owner} has it open; {why}");
        let other = other.set([format!("metrics.listen={listen}")]);
        other.finds(&[("warning", "queue", &what, advice)]);
    }
}
