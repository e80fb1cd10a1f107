//! rsyslog and syslog-ng with disk queues and an unreachable destination. Neither syncs what it
//! writes.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::ingest::{Ended, bytes_below};

/// Longest time from the start of a daemon until it accepts connections.
const START_UP: Duration = Duration::from_secs(10);

/// Which daemon.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Syslog {
    Rsyslog,
    SyslogNg,
}

pub(crate) const ALL: [Syslog; 2] = [Syslog::Rsyslog, Syslog::SyslogNg];

/// A running daemon; dropping it ends the process.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) child: Ended,
    port: u16,
}

impl Syslog {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rsyslog => "rsyslog",
            Self::SyslogNg => "syslog-ng",
        }
    }

    /// Accepts lines on `port` and forwards them unchanged to `target`.
    fn configuration(self, folder: &Path, port: u16, target: u16) -> String {
        let folder = folder.display();
        match self {
            Self::Rsyslog => format!(
                r#"global(workDirectory="{folder}/queue" maxMessageSize="64k")
module(load="imptcp")
input(type="imptcp" port="{port}" address="127.0.0.1" ruleset="out")
template(name="raw" type="string" string="%rawmsg%\n")
ruleset(name="out" queue.type="Disk" queue.filename="frames" queue.size="10000000"
        queue.maxDiskSpace="4g" queue.checkpointInterval="200") {{
  action(type="omfwd" target="127.0.0.1" port="{target}" protocol="tcp" template="raw"
         action.resumeRetryCount="-1")
}}
"#
            ),
            Self::SyslogNg => format!(
                r#"@version: 3.38
options {{ stats-freq(0); }};
source s {{ network(ip("127.0.0.1") port({port}) transport("tcp") log-msg-size(65536)
                   flags(no-parse)); }};
destination d {{ network("127.0.0.1" port({target}) transport("tcp") template("$MSG\n")
    disk-buffer(reliable(yes) disk-buf-size(4294967296) mem-buf-size(1048576)
                dir("{folder}/queue"))); }};
log {{ source(s); destination(d); flags(flow-control); }};
"#
            ),
        }
    }

    fn command(self, home: &Path, folder: &Path) -> Command {
        let libraries = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "usr/lib/syslog-ng"];
        let libraries = libraries.map(|folder| home.join(folder).display().to_string()).join(":");
        let mut command;
        match self {
            Self::Rsyslog => {
                command = Command::new(home.join("usr/sbin/rsyslogd"));
                command.args(["-n", "-f"]).arg(folder.join("conf"));
                command.arg("-i").arg(folder.join("pid"));
                command.arg("-M").arg(home.join("usr/lib/x86_64-linux-gnu/rsyslog"));
            }
            Self::SyslogNg => {
                command = Command::new(home.join("usr/sbin/syslog-ng"));
                command.args(["-F", "--no-caps", "-f"]).arg(folder.join("conf"));
                for (option, name) in
                    [("--persist-file", "persist"), ("--control", "control"), ("--pidfile", "pid")]
                {
                    command.arg(option).arg(folder.join(name));
                }
                command.arg("--module-path").arg(home.join("usr/lib/syslog-ng/3.38"));
            }
        }
        command.env("LD_LIBRARY_PATH", libraries);
        command
    }
}

/// Where `benches/setup.sh` unpacks the daemons.
pub(crate) fn home() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(std::env::home_dir()?.join(".cache")))?;
    let home = cache.join("pitwire/syslog");
    home.join("ready").exists().then_some(home)
}

/// Starts a daemon that keeps its queue in `folder` and sends to the port `target` of this machine.
pub(crate) fn start(daemon: Syslog, home: &Path, folder: &Path, target: u16) -> Running {
    let port = free_port();
    fs::create_dir_all(folder.join("queue")).unwrap();
    fs::write(folder.join("conf"), daemon.configuration(folder, port, target)).unwrap();
    let child = daemon
        .command(home, folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Running { child: Ended(child), port }
}

impl Running {
    /// Connects as soon as the daemon accepts connections.
    pub(crate) fn connect(&self) -> TcpStream {
        let started = Instant::now();
        loop {
            match TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)) {
                Ok(socket) => return socket,
                Err(error) => assert!(started.elapsed() < START_UP, "{error}"),
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Bytes on disk of its queue in `folder`.
pub(crate) fn queued_bytes(folder: &Path) -> u64 {
    bytes_below(&folder.join("queue"))
}

/// Lines as syslog messages.
pub(crate) fn messages(lines: &[String]) -> Vec<u8> {
    let header = "<134>Nov 28 12:00:00 pc pitwire: ";
    lines.iter().flat_map(|line| [header, line]).collect::<String>().into_bytes()
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}
