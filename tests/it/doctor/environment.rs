//! `pitwire doctor`: configuration, game, addresses, start at log-on.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;

use pitwire::source::lmu::memory::Region;

use super::{Pc, answering, closed_port, has, http};
use crate::agent::Agent;
use crate::lmu::fixtures::own_buffer;
use crate::peers::{Kind, Peer};

/// A PC with a working server.
fn pc() -> (Pc, Peer) {
    let server = Peer::start(Kind::Embedded, &[]);
    (Pc::new().server(&server.url()), server)
}

#[test]
fn mistakes_in_the_configuration_are_found() {
    let (pc, _server) = pc();
    let folder = pc.path("settings").join("pitwire");
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("pitwire.toml");
    fs::write(&file, "[server]\nurll = \"http://a\"\ntoken = 7\n").unwrap();
    let shown = file.display();
    let advice = "correct it; pitwire check tests it again";
    let findings = pc.finds(&[
        (
            "fault",
            "configuration",
            &format!("{shown}:2: server.urll: is not a key; did you mean server.url?"),
            advice,
        ),
        ("fault", "configuration", &format!("{shown}:3: server.token: …"), advice),
    ]);
    let is_unchecked = |finding: &&serde_json::Value| {
        finding["summary"] == "not checked: the configuration is invalid"
    };
    assert_eq!(findings.iter().filter(is_unchecked).count(), 5, "{findings:#?}");

    fs::write(&file, "[server]\ntoken = \"a-long-token-for-tests\"\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    pc.finds(&[(
        "warning",
        "configuration",
        &format!("{shown}:2: server.token: every user of this PC can read it in {shown}; …"),
        "change this setting if that is unintended",
    )]);
}

#[test]
fn the_state_of_the_games_shared_memory_is_reported() {
    let (pc, _server) = pc();
    let region = |region: Region, bytes: &[u8]| {
        fs::write(pc.path("shm").join(region.name()), bytes).unwrap();
    };
    let extended = |version: &[u8; 12], is_64_bit: u8| {
        let mut bytes = own_buffer("race_extended.bin", Region::Extended);
        bytes[8..20].copy_from_slice(version);
        bytes[20] = is_64_bit;
        bytes
    };
    region(Region::Telemetry, &own_buffer("race_telemetry.bin", Region::Telemetry));
    region(Region::Scoring, &own_buffer("race_scoring.bin", Region::Scoring));
    region(Region::Extended, &extended(b"3.7.15.1\0\0\0\0", 1));
    assert!(has(&pc.finds(&[]), "ok", "the rF2 plugin 3.7.15.1 shares its memory"));
    region(Region::Extended, &extended(b"3.5.0.9\0\0\0\0\0", 1));
    pc.finds(&[(
        "warning",
        "game",
        "the rF2 plugin is version 3.5.0.9, which is too old",
        "install the rF2 shared memory plugin 3.6 or newer",
    )]);
    region(Region::Extended, &extended(b"3.7.15.1\0\0\0\0", 0));
    pc.finds(&[(
        "warning",
        "game",
        "the rF2 plugin 3.7.15.1 is the 32-bit version",
        "install the 64-bit plugin",
    )]);
    region(Region::Extended, &extended(&[0; 12], 0));
    assert!(has(&pc.finds(&[]), "note", "it does not run, or does not share its memory"));

    region(Region::Native, &own_buffer("race_lmu.bin", Region::Native));
    assert!(has(&pc.finds(&[]), "ok", "it shares its own memory (LMU_Data)"));
    let version = |number: i32| {
        let mut bytes = own_buffer("race_lmu.bin", Region::Native);
        bytes[64..68].copy_from_slice(&number.to_le_bytes());
        bytes
    };
    region(Region::Native, &version(13_310));
    assert!(has(&pc.finds(&[]), "ok", "its version is 1.3.3"));
    region(Region::Native, &version(15_000));
    let newer = "its version is 1.5.0; pitwire was checked with 1.2 to 1.4.2";
    assert!(has(&pc.finds(&[]), "note", newer));
    region(Region::Native, &vec![0; Region::Native.size()]);
    assert!(has(&pc.finds(&[]), "note", "its memory exists, but no game writes to it"));
    region(Region::Native, b"short");
    let file = pc.path("shm").join("LMU_Data");
    pc.finds(&[(
        "warning",
        "game",
        &format!("{} is not the game's memory: …", file.display()),
        "remove it, and restart the bridge or the game",
    )]);
}

#[test]
fn the_state_of_the_games_api_is_reported() {
    let (pc, _server) = pc();
    let at = |url: &str| [format!("source.lmu.rest={}", url.replace("http://", ""))];
    let fails = answering(|_| Some(http("500 Internal Server Error", "", "")), None);
    let place = fails.replace("http://", "");
    let pc = pc.set(at(&fails));
    pc.finds(&[(
        "warning",
        "game",
        &format!("the server at {place} is not its REST API: it answers 500 Internal Server Error"),
        "find the program that has that port, or set source.lmu.rest to the right one",
    )]);
    let well = answering(
        |line| {
            Some(http(if line.contains("/rest/sessions ") { "200 OK" } else { "404 No" }, "", "{}"))
        },
        None,
    );
    let pc = pc.set(at(&well));
    assert!(has(&pc.finds(&[]), "ok", "its REST API answers at "));

    let nobody = format!("http://127.0.0.1:{}", closed_port());
    let pc = pc.set(at(&nobody));
    assert!(has(&pc.finds(&[]), "note", "its REST API does not answer at "));
    // With a running game, the closed API port is a warning.
    let native = own_buffer("race_lmu.bin", Region::Native);
    fs::write(pc.path("shm").join("LMU_Data"), native).unwrap();
    let place = nobody.replace("http://", "");
    pc.finds(&[(
        "warning",
        "game",
        &format!("it runs, but its REST API at {place} cannot be reached: …"),
        "set source.lmu.rest to the right port; without it pitwire gets no setups",
    )]);
}

#[test]
fn an_address_taken_by_another_program_is_a_fault() {
    let (pc, _server) = pc();
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [admin, samples, publishers] = listeners.each_ref().map(|l| l.local_addr().unwrap());
    let keys = ["metrics.listen", "source.http.listen", "source.socketio.listen"];
    let addresses = [admin, samples, publishers];
    let pc = pc
        .set(keys.iter().zip(addresses).map(|(key, address)| format!("{key}={address}")))
        .set(["source.socketio.enabled=true"]);
    let taken = |index: usize| {
        let (address, key) = (addresses[index], keys[index]);
        (
            format!("{address} ({key}) is taken by another program"),
            format!("stop that program, or set {key} to another port"),
        )
    };
    let taken = [taken(0), taken(1), taken(2)];
    let expected: Vec<_> = taken
        .iter()
        .map(|(what, advice)| ("fault", "addresses", what.as_str(), advice.as_str()))
        .collect();
    pc.finds(&expected);

    let pc = pc.set(["source.socketio.enabled=false", "source.http.enabled=false"]);
    let port = admin.port();
    let elsewhere = format!("metrics.listen=192.0.2.1:{port}");
    let pc = pc.set([elsewhere.as_str(), "metrics.token=a-long-token-for-tests"]);
    pc.finds(&[(
        "fault",
        "addresses",
        &format!("192.0.2.1:{port} (metrics.listen) is not an address of this PC"),
        &format!("set metrics.listen to one of its addresses, such as 127.0.0.1:{port}"),
    )]);
}

#[tokio::test]
async fn an_address_of_a_running_agent_is_recognized() {
    let (pc, _server) = pc();
    let queue = pc.path("queue");
    let settings = ["source.socketio.enabled=true", "source.socketio.listen=127.0.0.1:0"];
    let agent = Agent::start(&queue, "http://127.0.0.1:9", &settings);
    let mut addresses = Vec::new();
    for (what, key) in [
        ("metrics", "metrics.listen"),
        ("telemetry", "source.http.listen"),
        ("publishers", "source.socketio.listen"),
    ] {
        let address = agent.address(what).await.replace("http://", "");
        addresses.push((key, address));
    }
    let pc = pc
        .set(addresses.iter().map(|(key, address)| format!("{key}={address}")))
        .set(["source.socketio.enabled=true"]);
    let findings = pc.finds(&[]);
    for (key, address) in &addresses {
        let what = format!("{address} ({key}) is used by ");
        assert!(has(&findings, "ok", &what), "{what}: {findings:#?}");
    }
    // The agent at these addresses has another queue than this configuration.
    let other = pc.path("other queue");
    let (shown, address) = (queue.display(), &addresses[0].1);
    pc.set([format!("queue.path={}", other.display())]).finds(&[(
        "warning",
        "addresses",
        &format!("{address} (metrics.listen) is used by another agent, with the queue {shown}"),
        "stop that agent, or give each agent its own addresses",
    )]);
}

#[test]
fn a_broken_log_on_entry_is_a_warning() {
    let (pc, _server) = pc();
    let advice = "run pitwire autostart enable with the program that should start";
    let entry = pc.path("settings").join("autostart").join("pitwire.desktop");
    fs::create_dir_all(entry.parent().unwrap()).unwrap();
    let exec = |program: &str| {
        fs::write(&entry, format!("[Desktop Entry]\nExec=\"{program}\" \"run\"\n")).unwrap();
    };
    exec(env!("CARGO_BIN_EXE_pitwire"));
    assert!(has(&pc.finds(&[]), "ok", "the agent starts at log-on: "));
    exec("/opt/J. Ö/pitwire");
    pc.finds(&[(
        "warning",
        "autostart",
        "the log-on entry starts /opt/J. Ö/pitwire, which does not exist",
        advice,
    )]);
    let link = pc.path("settings").join("systemd/user/default.target.wants/pitwire.service");
    fs::create_dir_all(link.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/nowhere/pitwire.service", &link).unwrap();
    let what = format!(
        "the log-on entry is unusable: {}, a broken link or without a command",
        link.display()
    );
    pc.finds(&[("warning", "autostart", &what, advice)]);
}
