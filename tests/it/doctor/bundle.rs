//! `pitwire doctor --bundle`: the contents of the zip file, and the secrets that it must not
//! contain.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::Pc;
use crate::agent::{Process, eventually, pitwire};
use crate::peers::{Kind, Peer};

/// The text files in a zip file, by name.
fn files(zip: &Path) -> BTreeMap<String, String> {
    let mut zip = zip::ZipArchive::new(File::open(zip).unwrap()).unwrap();
    let count = zip.len();
    let read = |index| {
        let mut file = zip.by_index(index).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        (file.name().unwrap().into_owned(), text)
    };
    (0..count).map(read).collect()
}

#[tokio::test]
async fn the_bundle_holds_diagnostics_but_no_secrets() {
    let server = Peer::start(Kind::Asgi, &["--token", "hunter2"]);
    let other = Peer::start(Kind::Embedded, &[]);
    let pc = Pc::new().server(&server.url());
    let log = pc.path("pitwire.log");
    let pc = pc.set([
        "server.token=hunter2".into(),
        "server.headers=X-Key: sesame-open".into(),
        format!("destination.b.url={}", other.url()),
        "destination.b.token=swordfish".into(),
        format!("log.file={}", log.display()),
        "log.level=trace".into(),
        "source.simulator.enabled=true".into(),
    ]);
    let mut run = pitwire(&["run"]);
    for setting in &pc.settings {
        run.args(["--set", setting]);
    }
    let mut agent = Process::start(run.stdin(std::process::Stdio::null()));
    let link = eventually("a link", async || {
        agent.stdout().into_iter().find(|line| line.starts_with("dashboard of server: "))
    })
    .await;
    let session = link.rsplit('/').next().unwrap().to_owned();
    let admin = eventually("the admin address", async || {
        let text = fs::read_to_string(&log).ok()?;
        let line = text.lines().find_map(|line| line.split_once("metrics on http://"))?;
        Some(line.1.to_owned())
    })
    .await;
    eventually("a frame", async || (!server.frames(&session).await.is_empty()).then_some(())).await;
    // Plant secrets in an old log file, as an agent never logs them itself.
    let planted = format!("old Bearer hunter2 swordfish sesame-open {session}\n{link}\n");
    fs::write(log.with_added_extension("old"), &planted).unwrap();

    let pc = pc.set([format!("metrics.listen={admin}")]);
    let zip = pc.path("bundle.zip");
    let output = pc.command(&["--bundle", zip.to_str().unwrap()]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    let rights = fs::metadata(&zip).unwrap().permissions();
    assert_eq!(rights.mode() & 0o777, 0o600, "only its owner may read it");
    let files = files(&zip);
    for (name, text) in &files {
        for secret in ["hunter2", "swordfish", "sesame-open", &session] {
            assert!(!text.contains(secret), "{secret} is in {name}: {text}");
        }
    }
    for (name, holds) in [
        ("findings.txt", "all is well"),
        ("findings.json", r#"{"findings":[{"severity":"ok","subject":"configuration""#),
        ("about.txt", concat!("pitwire ", env!("BUILD_VERSION"), "\nsystem ")),
        ("pitwire.toml", "token = \"***\" # --set"),
        ("queue-status.txt", "\nimbalance           0\n"),
        ("metrics.txt", "\npitwire_connected{destination=\"server\"} 1\n"),
        ("status.json", "/dashboard/[session]\""),
        ("pitwire.log", " INFO "),
        ("pitwire.log.old", "old Bearer [secret] [secret] [secret] [session]\n"),
    ] {
        assert!(files[name].contains(holds), "{name}: {}", files[name]);
    }
    assert_eq!(files.len(), 9, "{:?}", files.keys());
    assert!(files["findings.txt"].starts_with(said.trim_end()), "{said}");
    assert_eq!(
        server
            .frames(&session)
            .await
            .iter()
            .filter(|f| f["player_name"] == "pitwire doctor")
            .count(),
        0
    );
    agent.kill();
}

#[test]
fn the_bundle_reports_configuration_mistakes() {
    let pc = Pc::new().set(["server.token=a\u{7}hunter2", "queue.max_age=never"]);
    let zip = pc.path("bundle.zip");
    let output = pc.command(&["--bundle", zip.to_str().unwrap()]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let files = files(&zip);
    assert!(files["pitwire.toml"].contains("queue.max_age: \"never\""), "{files:?}");
    assert!(files.values().all(|text| !text.contains("hunter2")), "{files:?}");
}
