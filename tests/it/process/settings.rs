//! `pitwire check` and `pitwire config`, and where the configuration and the queue are.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use pitwire::config::{Config, Overrides, load, to_toml, values};

use crate::agent::{Agent, Process, eventually, pitwire};

/// An address that refuses connections.
const CLOSED_ADDRESS: &str = "http://127.0.0.1:9";
/// The user without rights, to whom a folder of root is closed.
const NOBODY: u32 = 65534;

/// Exit code, standard output, standard error.
fn said(args: &[&str]) -> (i32, String, String) {
    let output = pitwire(args).env("PITWIRE_QUEUE__MAX_AGE", "2d").output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn config_prints_each_value_with_its_origin() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("race.toml");
    fs::write(&file, "[server]\nurl = \"http://pit.example\"\ntoken = \"wh1sper\"\n").unwrap();
    let path = file.to_str().unwrap();
    let (code, text, errors) = said(&["config", "--config", path, "--set", "log.level=debug"]);
    assert_eq!((code, errors.as_str()), (0, ""));
    for line in [
        format!("url = \"http://pit.example\" # {path}:2"),
        format!("token = \"***\" # {path}:3"),
        "auth = \"\" # default".into(),
        "max_age = \"2d\" # PITWIRE_QUEUE__MAX_AGE".into(),
        "level = \"debug\" # --set".into(),
    ] {
        assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
    }
    assert!(!text.contains("wh1sper"));

    // Loading the printed configuration gives the same configuration.
    fs::write(&file, text.replace("token = \"***\"", "token = \"wh1sper\"")).unwrap();
    let again = load(Some(&file), std::iter::empty(), &Overrides::default()).unwrap().config;
    let mut expected = Config::default();
    expected.queue.path = again.queue.path.clone();
    let differ: Vec<_> = values(&again)
        .into_iter()
        .zip(values(&expected))
        .filter_map(|(is, default)| (is != default).then_some(is.0))
        .collect();
    assert_eq!(differ, ["server.url", "server.token", "queue.max_age", "log.level"]);
}

#[test]
fn the_printed_example_holds_the_defaults() {
    let (code, text, _) = said(&["config", "--example"]);
    assert_eq!(code, 0);
    let same = |text: &str| {
        let lines = text.trim().lines().filter(|line| !line.starts_with("path = \"/"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(same(&text), same(&to_toml(&Config::default())));
}

#[test]
fn check_reports_every_mistake_and_starts_nothing() {
    let place = tempfile::tempdir().unwrap();
    let queue = place.path().join("queue");
    let set = format!("queue.path={}", queue.display());
    let (code, out, warnings) =
        said(&["check", "--set", &set, "--server", "http://pit", "--set", "server.token=hush"]);
    let expected = "configuration file: none; /nowhere/pitwire/pitwire.toml does not exist\n\
                    The configuration is good. pitwire doctor tests the server, the disk and the game.\n";
    assert_eq!((code, out.as_str()), (0, expected));
    assert!(warnings.contains("server.url") && warnings.contains("unencrypted"), "{warnings}");
    let (code, out, errors) =
        said(&["check", "--server", "ftp://x", "--set", "queue.max_entries=0", "--set", &set]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(errors.contains("server.url") && errors.contains("queue.max_entries"), "{errors}");
    let (code, _, errors) = said(&["config", "--server", "ftp://x"]);
    assert!(code == 2 && errors.contains("server.url"), "{errors}");
    assert!(!queue.exists());
}

/// Exit code, standard output and standard error of a command without stdin.
fn outcome(command: &mut Command) -> (i32, String, String) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn without_a_home_the_queue_must_be_named() {
    let folder = tempfile::tempdir().unwrap();
    let homeless = |args: &[&str], variables: &[(&str, &str)]| {
        let mut command = pitwire(args);
        command.current_dir(folder.path()).env_remove("HOME").env_remove("XDG_DATA_HOME");
        command.env_remove("XDG_CONFIG_HOME").envs(variables.iter().copied());
        command
    };
    let relative: &[_] = &[("HOME", "ana"), ("XDG_DATA_HOME", "data"), ("XDG_CONFIG_HOME", "")];
    for variables in [&[][..], &[("HOME", "")], relative] {
        for args in [&["check"][..], &["config"], &["run"], &["queue", "status"]] {
            let (code, out, errors) = outcome(&mut homeless(args, variables));
            assert_eq!((code, &*out), (2, ""), "{args:?} {variables:?}: {errors}");
            let expected = "HOME: is not set to a full path, so the queue has no default \
                            directory; set it, or name the directory with --queue DIR or queue.path";
            assert!(errors.contains(expected), "{args:?} {variables:?}: {errors}");
        }
        let (code, out, _) = outcome(&mut homeless(&["check", "--queue", "/q"], variables));
        assert_eq!(code, 0);
        let none = "configuration file: none; HOME is not set to a full path\n";
        assert!(out.starts_with(none), "{out}");
    }
    let (_, _, errors) = outcome(&mut homeless(&["check", "--queue", "/q"], relative));
    let ignored = "warning: XDG_DATA_HOME: \"data\" is ignored, because it is not a full path";
    assert!(errors.contains(ignored), "{errors}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is created");

    let mut serve = homeless(&["serve", "--listen", "127.0.0.1:0"], &[]);
    let serve = Process::start(serve.stdin(Stdio::null()));
    eventually("a server needs no queue", async || serve.stdout().first().cloned()).await;
}

#[test]
fn an_unreadable_configuration_is_an_error_and_not_ignored() {
    /// Creates the folder and the file in it.
    type Prepare<'a> = &'a dyn Fn(&Path, &Path);
    let is_root = fs::metadata(tempfile::tempdir().unwrap().path()).unwrap().uid() == 0;
    let cases: [(&str, Prepare<'_>); 5] = [
        ("the file is a link to itself", &|folder, file| {
            fs::create_dir(folder).unwrap();
            symlink(file, file).unwrap();
        }),
        ("the folder is a link to itself", &|folder, _| symlink(folder, folder).unwrap()),
        ("the folder is a file", &|folder, _| fs::write(folder, "").unwrap()),
        ("the file is a folder", &|_, file| fs::create_dir_all(file).unwrap()),
        ("the folder is closed to this user", &|folder, file| {
            fs::create_dir(folder).unwrap();
            fs::write(file, "").unwrap();
            let mode = if is_root { 0o700 } else { 0 };
            fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
        }),
    ];
    for (name, prepare) in cases {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("pitwire");
        let file = folder.join("pitwire.toml");
        prepare(&folder, &file);
        for args in [&["check"][..], &["config"], &["run"], &["queue", "status"]] {
            let mut command = pitwire(args);
            command.env("XDG_CONFIG_HOME", home.path()).stdin(Stdio::null());
            if is_root && name.ends_with("to this user") {
                command.uid(NOBODY).gid(NOBODY);
            }
            let Ok(output) = command.output() else {
                eprintln!("skipped: another user may not run {:?}", command.get_program());
                continue;
            };
            let errors = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{name} {args:?}: {errors}");
            let expected = format!("{}: cannot be read: ", file.display());
            assert!(errors.contains(&expected), "{name} {args:?}: {errors}");
        }
        let _ = fs::set_permissions(&folder, fs::Permissions::from_mode(0o700));
    }
}

#[tokio::test]
async fn check_config_and_run_name_the_file_that_they_read() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("pitwire");
    fs::create_dir(&folder).unwrap();
    let (default, mine) = (folder.join("pitwire.toml"), home.path().join("mine.toml"));
    let text = format!(
        "queue.path = {:?}\nserver.url = {CLOSED_ADDRESS:?}\nsource.lmu.enabled = false\n\
         source.http.enabled = false\nmetrics.enabled = false\n",
        home.path().join("queue")
    );
    fs::write(&mine, &text).unwrap();
    let named = ["--config".to_owned(), mine.display().to_string()];
    let none = format!("none; {} does not exist", default.display());
    for (exists, args, expected) in [
        (false, &[][..], none),
        (false, &named, mine.display().to_string()),
        (true, &[], default.display().to_string()),
        (true, &named, mine.display().to_string()),
    ] {
        if exists {
            fs::write(&default, &text).unwrap();
        }
        let command = |name: &str| {
            let mut command = pitwire(&[name]);
            command.args(args).env("XDG_CONFIG_HOME", home.path()).stdin(Stdio::null());
            command
        };
        let line = format!("configuration file: {expected}");
        let (_, out, _) = outcome(&mut command("check"));
        assert_eq!(out.lines().next(), Some(&*line));
        let (_, out, _) = outcome(&mut command("config"));
        assert_eq!(out.lines().next(), Some(&*format!("# {line}")));
        let mut run = command("run");
        if expected.starts_with("none") {
            run.args(["--server", CLOSED_ADDRESS, "--queue"]).arg(home.path().join("queue"));
            for setting in
                ["source.lmu.enabled=false", "source.http.enabled=false", "metrics.enabled=false"]
            {
                run.args(["--set", setting]);
            }
        }
        let mut run = Process::start(&mut run);
        run.says(&line).await;
        run.kill();
    }
}

#[test]
fn check_names_every_key_whose_file_cannot_be_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (note, short) = (path("note.pem", "a note"), path("token", "short\n"));
    let directory = folder.path().display().to_string();
    let missing = "no such file: /no/such; write the path of a file that exists";
    let not_pem = format!("{note} is not a certificate in PEM format: ");
    let weak = format!("{short} holds a token that can be guessed; write 16 characters or more");
    let is_folder = format!("{directory} is not a file; write the path of a file");
    let club = "destination.club.url=http://club";
    let league = "destination.club.url=nats://league";
    for (key, file, setting, expected) in [
        ("server.ca_file", "/no/such", None, missing),
        ("server.ca_file", &*note, None, &*not_pem),
        ("server.ca_file", &*directory, None, &*is_folder),
        ("server.token_file", "/no/such", None, missing),
        ("server.credentials_file", "/no/such", Some("server.url=nats://pit"), missing),
        ("destination.club.ca_file", "/no/such", Some(club), missing),
        ("destination.club.token_file", "/no/such", Some(club), missing),
        ("destination.club.credentials_file", "/no/such", Some(league), missing),
        ("source.nats.token_file", "/no/such", Some("source.nats.enabled=true"), missing),
        ("source.nats.ca_file", "/no/such", Some("source.nats.enabled=true"), missing),
        ("source.nats.credentials_file", "/no/such", Some("source.nats.enabled=true"), missing),
        ("source.http.token_file", "/no/such", None, missing),
        ("source.http.token_file", &*short, None, &*weak),
        ("source.socketio.token_file", "/no/such", Some("source.socketio.enabled=true"), missing),
        ("metrics.token_file", "/no/such", None, missing),
        ("source.file.path", "/no/such", None, missing),
        ("source.file.path", &*directory, None, &*is_folder),
    ] {
        let set = format!("{key}={file}");
        let mut args = vec!["check", "--set", &set];
        args.extend(setting.iter().flat_map(|setting| ["--set", setting]));
        let (code, out, errors) = said(&args);
        assert_eq!((code, &*out), (2, ""), "{set}: {errors}");
        let expected = format!("--set: {key}: {expected}");
        assert!(errors.lines().any(|line| line.starts_with(&expected)), "{expected}: {errors}");
    }
    // The listener is off, or only the unit of systemd has the file.
    let off = ["--set", "metrics.enabled=false", "--set", "metrics.token_file=/no/such"];
    assert_eq!(said(&[&["check"][..], &off].concat()).0, 0);
    let unit = ["check", "--set", "server.token_file=$CREDENTIALS_DIRECTORY/token"];
    let (code, _, warnings) = said(&unit);
    let expected = "warning: --set: server.token_file: CREDENTIALS_DIRECTORY is not set; only";
    assert!(code == 0 && warnings.contains(expected), "{warnings}");
}

#[tokio::test]
async fn a_missing_file_is_a_fault_of_the_configuration_and_not_of_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let settings = [
        "server.ca_file=/no/such.pem",
        "destination.league.url=nats://127.0.0.1:9",
        "destination.league.credentials_file=/no/such.creds",
        "source.socketio.enabled=true",
        "source.socketio.listen=127.0.0.1:0",
        "source.socketio.token_file=/no/such.token",
    ];
    let agent = Agent::start(&folder.path().join("queue"), CLOSED_ADDRESS, &settings);
    let advice = "; write the path of a file that exists";
    for expected in [
        format!("server.ca_file: no such file: /no/such.pem{advice}"),
        format!("destination.league.credentials_file: no such file: /no/such.creds{advice}"),
        format!("source.socketio.token_file: no such file: /no/such.token{advice}"),
    ] {
        agent.process.says(&expected).await;
    }
    let hub = [
        "source.nats.enabled=true",
        "source.nats.url=nats://127.0.0.1:9",
        "source.nats.token_file=/no/such.hub",
    ];
    let hub = Agent::start(&folder.path().join("hub"), CLOSED_ADDRESS, &hub);
    hub.process.says(&format!("source.nats.token_file: no such file: /no/such.hub{advice}")).await;
    for destination in ["server", "league"] {
        let series = |outcome: &str| {
            let labels = format!("destination=\"{destination}\",outcome=\"{outcome}\"");
            format!("pitwire_connects_total{{{labels}}}")
        };
        agent.metric_becomes(&series("configuration"), |count| count >= 1.0).await;
        assert_eq!(agent.metric(&series("auth")).await, 0.0);
    }
    let status: serde_json::Value =
        serde_json::from_str(&agent.page("/status").await.1).expect("JSON");
    for destination in status["destinations"].as_array().unwrap() {
        let wrong = destination["wrong"].as_str().unwrap();
        assert!(wrong.contains("Run pitwire check"), "{wrong}");
    }
}

#[tokio::test]
async fn messages_for_a_driver_name_the_keys_of_their_destination() {
    let folder = tempfile::tempdir().unwrap();
    let settings =
        ["destination.club.url=http://club.example", "destination.club.proxy=127.0.0.1:9"];
    let agent = Agent::start(folder.path(), CLOSED_ADDRESS, &settings);
    let wrong = async || {
        let status: serde_json::Value =
            serde_json::from_str(&agent.page("/status").await.1).ok()?;
        let of = |name: &str| {
            let destinations = status["destinations"].as_array()?;
            let found = destinations.iter().find(|destination| destination["name"] == name)?;
            Some(found["wrong"].as_str()?.to_owned())
        };
        Some((of("club")?, status.to_string()))
    };
    let (club, status) = eventually("the club's proxy fails", wrong).await;
    assert!(club.contains("Check destination.club.proxy, or ask"), "{club}");
    assert!(!status.contains("server.proxy"), "{status}");
    let log = agent.process.stderr().join("\n");
    assert!(log.contains("check destination.club.proxy") && !log.contains("server.proxy"), "{log}");
}
