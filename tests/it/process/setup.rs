//! `pitwire setup`, by options and in a terminal.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::agent::pitwire;
use crate::peers::{Kind, Peer};
use crate::screen::Screen;

/// An address that refuses connections.
const CLOSED_ADDRESS: &str = "http://127.0.0.1:9";
/// The longest time that the command may take after its last answer.
const ENDS_WITHIN: Duration = Duration::from_secs(30);
const WIDE: u16 = 200;
const TOKEN: &str = "wh1sper-wh1sper-wh1sper";

/// A separate home directory, with the configuration file that setup writes by default.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self) -> PathBuf {
        self.folder().join("pitwire.toml")
    }

    fn folder(&self) -> PathBuf {
        self.0.path().join("pitwire")
    }

    fn write(&self, text: &str) {
        fs::create_dir_all(self.folder()).unwrap();
        fs::write(self.file(), text).unwrap();
    }

    fn text(&self) -> String {
        fs::read_to_string(self.file()).unwrap()
    }

    fn command(&self, options: &[&str]) -> Command {
        let mut command = pitwire(&["setup"]);
        command.args(options).env("XDG_CONFIG_HOME", self.0.path());
        command.env("XDG_DATA_HOME", self.0.path());
        command
    }

    /// Runs the command without a terminal; returns its exit code and output.
    fn run(&self, options: &[&str]) -> (i32, String) {
        let output = self.command(options).stdin(Stdio::null()).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(said).unwrap())
    }
}

fn mode(file: &Path) -> u32 {
    fs::metadata(file).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn setup_by_options_tries_the_server_and_writes_a_file_that_run_accepts() {
    let (home, server) = (Home::new(), Peer::start(Kind::Embedded, &[]));
    let (code, said) = home.run(&["--server", &server.url(), "--rate", "5", "--autostart", "no"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("ok       server: it sends a frame to all viewers"), "{said}");
    assert!(said.contains(&format!("wrote {}", home.file().display())), "{said}");
    let text = home.text();
    let url = format!("[server]\nurl = \"{}\"\n", server.url());
    assert!(text.contains("update_rate_hz = 5.0\n") && text.contains(&url), "{text}");
    assert_eq!(mode(&home.file()), 0o600);
    let check = pitwire(&["check"]).env("XDG_CONFIG_HOME", home.0.path()).output().unwrap();
    assert_eq!(check.status.code(), Some(0), "{check:?}");

    let (code, said) = home.run(&["--server", &server.url()]);
    assert!(code == 0 && said.contains("The configuration is unchanged."), "{said}");
    assert_eq!(home.text(), text);
}

#[tokio::test]
async fn setup_without_a_terminal_names_the_missing_option() {
    let home = Home::new();
    let (code, said) = home.run(&["--rate", "5"]);
    assert!(code == 2 && said.contains("--server is missing"), "{code} {said}");
    for (options, expected) in [
        (["--server", "localhost:5000"], "write \"http://localhost:5000\""),
        (["--server", "http://pit:5000/?token=x"], "--server: server.url: "),
        (["--config", "old.json"], "name a .toml file"),
    ] {
        let (code, said) = home.run(&options);
        assert!(code == 2 && said.contains(expected), "{options:?}: {said}");
    }
    let (code, said) = home.run(&["--server", CLOSED_ADDRESS, "--rate", "3000"]);
    assert!(code == 2 && said.contains("--rate: update_rate_hz: "), "{said}");
    assert!(!home.folder().exists());
}

#[tokio::test]
async fn an_existing_file_is_changed_only_on_request_and_keeps_the_rest() {
    let home = Home::new();
    let before =
        "# mine\n[server] # pit wall\nurl = \"http://127.0.0.1:8\"\n[queue]\nmax_age = \"2d\"\n";
    home.write(before);
    let (code, said) = home.run(&["--server", CLOSED_ADDRESS]);
    let change = format!("server.url: \"http://127.0.0.1:8\" -> \"{CLOSED_ADDRESS}\"");
    assert!(code == 2 && said.contains("--yes is missing") && said.contains(&change), "{said}");
    assert_eq!(home.text(), before);

    let (code, said) = home.run(&["--server", CLOSED_ADDRESS, "--yes"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("pitwire saves the frames on this PC until the server works."), "{said}");
    let after = home.text();
    for kept in ["# mine\n", "[server] # pit wall\n", "[queue]\nmax_age = \"2d\"\n", CLOSED_ADDRESS]
    {
        assert!(after.contains(kept), "{after}");
    }

    home.write("[server]\nurl = 7\n");
    let (code, said) = home.run(&["--server", CLOSED_ADDRESS, "--yes"]);
    assert!(code == 2 && said.contains("pitwire.toml:2: server.url: "), "{said}");
    assert_eq!(home.text(), "[server]\nurl = 7\n");
}

#[tokio::test]
async fn a_token_is_stored_in_a_private_file_and_never_shown() {
    let home = Home::new();
    home.write("[server]\ntoken = \"an older one\"\n");
    let typed = home.0.path().join("typed");
    fs::write(&typed, format!("{TOKEN}\n")).unwrap();
    let options = ["--server", CLOSED_ADDRESS, "--token-file", "-", "--yes"];
    let output = home.command(&options).stdin(fs::File::open(&typed).unwrap()).output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    let file = home.folder().join("server-token");
    assert_eq!((fs::read_to_string(&file).unwrap(), mode(&file)), (TOKEN.to_owned(), 0o600));
    let text = home.text();
    assert!(text.contains(&format!("token_file = \"{}\"", file.display())), "{text}");
    for shown in [&said, &text] {
        assert!(!shown.contains(TOKEN) && !shown.contains("an older one"), "{shown}");
    }
}

#[tokio::test]
async fn an_empty_or_oversized_token_is_refused() {
    let home = Home::new();
    let typed = home.0.path().join("typed");
    for (token, expected) in
        [(String::new(), "standard input is empty"), ("x".repeat(65_537), "more than 65536 bytes")]
    {
        fs::write(&typed, token).unwrap();
        let options = ["--server", CLOSED_ADDRESS, "--token-file", "-"];
        let output =
            home.command(&options).stdin(fs::File::open(&typed).unwrap()).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && error.contains(expected), "{error}");
        assert!(!home.folder().exists());
    }
}

#[tokio::test]
async fn an_enabled_start_at_log_on_is_changed_only_by_its_option() {
    let home = Home::new();
    let wanted = home.0.path().join("systemd/user/default.target.wants/pitwire.service");
    let entry = "[Service]\nExecStart=/usr/bin/pitwire run --config /home/ana/league.toml\n";
    fs::create_dir_all(wanted.parent().unwrap()).unwrap();
    fs::write(&wanted, entry).unwrap();
    let desktop = home.0.path().join("autostart/pitwire.desktop");
    let (code, said) = home.run(&["--server", CLOSED_ADDRESS]);
    assert_eq!(code, 0, "{said}");
    assert_eq!((fs::read_to_string(&wanted).unwrap().as_str(), desktop.exists()), (entry, false));
    let (code, said) = home.run(&["--server", CLOSED_ADDRESS, "--autostart", "no"]);
    assert!(code == 0 && !wanted.exists(), "{said}");
}

#[tokio::test]
async fn in_a_terminal_setup_asks_again_until_the_server_works() {
    let home = Home::new();
    let server = Peer::start(Kind::Embedded, &[]);
    let mut command = home.command(&["--autostart", "no"]);
    command.env("TERM", "xterm").env("NO_COLOR", "1");
    let mut screen = Screen::start(&command, WIDE, |_| {});
    let address = |row: &str| row.starts_with("Address of the dashboard server [");
    screen.shows("the address", address).await;
    screen.types("localhost:5000\n");
    screen.has("the correction", |row| row.contains("write \"http://localhost:5000\"")).await;
    screen.types(&format!("{CLOSED_ADDRESS}\n"));
    screen.shows("the token", |row| row.starts_with("Token of the server")).await;
    screen.types("\n");
    screen.has("the cause", |row| row.contains("nothing listens at http://127.0.0.1:9")).await;
    screen.shows("the doubt", |row| row.starts_with("Use this server anyway? [y/N]")).await;
    screen.types("\n");
    screen.shows("the address again", address).await;
    screen.types(&format!("{}\n", server.url()));
    screen.shows("the token again", |row| row.starts_with("Token of the server")).await;
    screen.types(&format!("{TOKEN}\n"));
    screen.shows("the rate", |row| row.starts_with("Samples per second")).await;
    screen.types("4\n");
    assert_eq!(screen.exit_code(ENDS_WITHIN).await, Some(0));
    assert!(!screen.written().contains(TOKEN), "{}", screen.written());
    let text = home.text();
    assert!(text.contains("update_rate_hz = 4.0\n") && text.contains(&server.url()), "{text}");
}
