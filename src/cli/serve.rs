//! `pitwire serve`: runs the embedded dashboard server alone.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use url::form_urlencoded;

use super::{Exit, log, print_prose};
use crate::config::is_loopback;
use crate::config::{self, ConfigFile, LogConfig, LogFormat, LogLevel, Overrides, Secret};
use crate::dashboard::{Acks, Behaviour, Server};
use crate::net::lan;
use crate::net::loopback_guard::Access;

/// Run the dashboard server alone.
///
/// Agents publish to the server over Socket.IO, browsers watch at /dashboard/ID, or the newest
/// session at /dashboard/latest. Sessions are kept in memory until the server stops, or
/// with --store on disk, under the same links after a restart.
///
/// GET /api/sessions, /api/sessions/ID/frames, /api/sessions/ID/setups and /api/sessions/ID/timing
/// (laps, stints and fuel) return the stored data as JSON; /api/sessions/ID/export.csv and
/// /api/sessions/ID/export.ndjson download a session. DELETE /api/sessions deletes all sessions.
///
/// With --lan, phones and other PCs in the same network can connect; the command prints the
/// addresses that they open.
///
/// If other machines can connect, a token is required: publishers send it as their server.token,
/// viewers open the link that is printed. Set it in the environment (PITWIRE_SERVE__TOKEN) or in
/// the configuration file (serve.token): other users of this PC can see the command line.
///
/// The options under "Misbehaviour" make the server fail as real servers do, to test how an agent
/// reacts. They can be combined.
#[derive(clap::Args, Debug)]
pub struct Serve {
    /// Address to listen on; port 0 takes any free port, 0.0.0.0:5000 allows other machines.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:5000")]
    pub listen: SocketAddr,

    /// Listen on all IPv4 addresses, at port 5000 or this one, and print the links for other devices [default: listen on --listen only].
    #[arg(
        long,
        value_name = "PORT",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "5000",
        conflicts_with = "listen"
    )]
    pub lan: Option<u16>,

    /// Configuration file, of which only the table serve is used [default: pitwire/pitwire.toml in ~/.config or %LOCALAPPDATA%, if it exists].
    #[arg(long, value_name = "FILE", env = "PITWIRE_CONFIG")]
    pub config: Option<PathBuf>,

    /// Token for publishers and viewers, 16 characters or more [default: serve.token, else none].
    #[arg(long, value_name = "TOKEN")]
    pub token: Option<String>,

    /// File that contains the token [default: serve.token_file, else none].
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub token_file: Option<String>,

    /// Directory that keeps the sessions over a restart, at most about 2 GiB [default: none].
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,

    /// Let anyone who can connect read and write every session, without a token.
    #[arg(long, conflicts_with_all = ["token", "token_file"])]
    pub insecure_public: bool,

    /// Silently discard the entries that a server in schema mode discards.
    #[arg(long)]
    pub schema: bool,

    /// Delete all sessions at this interval, in seconds [default: never].
    #[arg(long, value_name = "SECONDS", help_heading = MISBEHAVIOUR)]
    pub forget_every: Option<NonZeroU64>,

    /// Delay before each event is handled; later events wait too.
    #[arg(long, value_name = "MS", default_value_t = 0, help_heading = MISBEHAVIOUR)]
    pub delay: u64,

    /// Delay between handling an event and its ack; later events wait too.
    #[arg(long, value_name = "MS", default_value_t = 0, help_heading = MISBEHAVIOUR)]
    pub ack_delay: u64,

    /// Handle events but never acknowledge them.
    #[arg(long, conflicts_with = "ack_delay", help_heading = MISBEHAVIOUR)]
    pub never_ack: bool,

    /// Read every event and ignore it.
    #[arg(long, help_heading = MISBEHAVIOUR)]
    pub silent: bool,

    /// Do not send frames and setups back to the connection that published them.
    #[arg(long, help_heading = MISBEHAVIOUR)]
    pub no_echo: bool,

    /// Discard every Nth frame, but acknowledge it [default: never].
    #[arg(long, value_name = "N", help_heading = MISBEHAVIOUR)]
    pub refuse_every: Option<NonZeroU64>,

    /// Close the connection at every Nth frame, without handling that frame [default: never].
    #[arg(long, value_name = "N", help_heading = MISBEHAVIOUR)]
    pub close_every: Option<NonZeroU64>,
}

const MISBEHAVIOUR: &str = "Misbehaviour";

impl Serve {
    /// The address to listen on.
    fn address(&self) -> SocketAddr {
        self.lan.map_or(self.listen, |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
    }

    fn behaviour(&self) -> Behaviour {
        Behaviour {
            silent: self.silent,
            delay: Duration::from_millis(self.delay),
            acks: match (self.never_ack, self.ack_delay) {
                (true, _) => Acks::Never,
                (false, 0) => Acks::AtOnce,
                (false, wait) => Acks::After(Duration::from_millis(wait)),
            },
            no_echo: self.no_echo,
            refuse_every: self.refuse_every,
            schema: self.schema,
            close_every: self.close_every,
            forget_every: self.forget_every.map(|every| Duration::from_secs(every.get())),
        }
    }

    /// Returns who may use the server, and the token. The error text includes advice for the user.
    fn access(&self) -> Result<(Access, Secret), String> {
        let mut overrides = Overrides::default();
        for (option, key, value) in [
            ("--token", "serve.token", &self.token),
            ("--token-file", "serve.token_file", &self.token_file),
        ] {
            if let Some(value) = value {
                overrides.set(key, value, option);
            }
        }
        // The server has no queue, so it needs no default directory for one.
        overrides.set("queue.path", "unused", "serve");
        let file = ConfigFile::find(self.config.clone());
        let loaded = config::load(file.path(), config::process_environment(), &overrides);
        let serve = loaded.map_err(|problems| problems.to_string())?.config.serve;
        // A token on the command line takes precedence over a file that the configuration names.
        let file = serve.token_file.as_ref().filter(|_| self.token.is_none());
        let access =
            Access::to_listener("serve", &serve.token, file).map_err(|error| error.to_string())?;
        let token = match &access {
            Access::Token(token) => token.clone(),
            _ => Secret::default(),
        };
        if self.insecure_public {
            return match token.reveal() {
                None => Ok((Access::Anyone, token)),
                Some(_) => Err("--insecure-public: serve.token is set; remove one of them".into()),
            };
        }
        if token.reveal().is_none() && !is_loopback(self.address().ip()) {
            let option = if self.lan.is_some() { "lan" } else { "listen" };
            return Err(format!(
                "--{option}: {} lets other machines in; add --token {}, which agents need as their \
                 server.token and which the printed links contain, or --insecure-public to let \
                 anyone read and write every session",
                self.address(),
                uuid::Uuid::new_v4().simple()
            ));
        }
        Ok((access, token))
    }
}

/// The addresses that other devices can open: all of this PC if the server listens on all.
fn open_addresses(listening: SocketAddr) -> Vec<SocketAddr> {
    if !listening.ip().is_unspecified() {
        return vec![listening];
    }
    let addresses = lan::addresses().into_iter().map(IpAddr::V4);
    addresses.map(|address| SocketAddr::new(address, listening.port())).collect()
}

/// The link that viewers open: the list of sessions, with the token if there is one.
fn viewer_link(address: SocketAddr, token: &Secret) -> String {
    let base = format!("http://{address}/");
    match token.reveal() {
        Some(token) => {
            let token: String = form_urlencoded::byte_serialize(token.as_bytes()).collect();
            format!("{base}?token={token}")
        }
        None => base,
    }
}

/// The lines for the people who use the server: its address on this PC, and for other devices the
/// links of viewers and the addresses for agents.
fn greeting(listening: SocketAddr, addresses: &[SocketAddr], token: &Secret) -> Vec<String> {
    let own = match listening.ip() {
        IpAddr::V4(address) if address.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(address) if address.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        address => address,
    };
    let own = SocketAddr::new(own, listening.port());
    let mut lines = vec![format!("dashboard server on http://{own}")];
    let is_for_others = !is_loopback(listening.ip());
    if !is_for_others && token.reveal().is_none() {
        lines.push("Open it in a browser on this PC; --lan lets phones and other PCs in.".into());
        return lines;
    }
    if addresses.is_empty() {
        lines.push(
            "no network found: other devices cannot connect; this link works only on this PC"
                .to_owned(),
        );
        lines.push(format!("viewers open {}", viewer_link(own, token)));
    }
    for (index, address) in addresses.iter().enumerate() {
        let or = if index > 0 { "or " } else { "" };
        lines.push(format!("{or}viewers open {}", viewer_link(*address, token)));
    }
    if let (true, Some(address)) = (is_for_others, addresses.first()) {
        let and_token = if token.reveal().is_some() { ", and the same token" } else { "" };
        lines.push(format!("agents use server.url = \"http://{address}\"{and_token}"));
    }
    lines
}

/// Prints the server's address on stdout and serves until `shutdown` resolves.
///
/// # Errors
/// If the server cannot listen on the address; the text names it.
pub async fn run(args: Serve, shutdown: impl Future<Output = ()>) -> io::Result<Exit> {
    let (access, token) = match args.access() {
        Ok(access) => access,
        Err(text) => return Ok(Exit::WrongUse.because(text)),
    };
    log::start(&LogConfig { level: LogLevel::Warn, format: LogFormat::Text, file: None });
    let (address, store) = (args.address(), args.store.as_deref());
    let server = Server::start_for(address, args.behaviour(), access, store)?;
    greeting(server.addr(), &open_addresses(server.addr()), &token).iter().for_each(print_prose);
    shutdown.await;
    server.stop();
    Ok(Exit::Good)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(listening: &str, addresses: &[&str], token: Option<&str>) -> Vec<String> {
        let addresses: Vec<_> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let token = token.map_or_else(Secret::default, Secret::from);
        greeting(listening.parse().unwrap(), &addresses, &token)
    }

    #[test]
    fn the_printed_links_open_on_other_devices() {
        let addresses = ["192.168.1.20:5000", "10.0.0.2:5000"];
        assert_eq!(
            lines("0.0.0.0:5000", &addresses, Some("a+token-of-16-ch")),
            [
                "dashboard server on http://127.0.0.1:5000",
                "viewers open http://192.168.1.20:5000/?token=a%2Btoken-of-16-ch",
                "or viewers open http://10.0.0.2:5000/?token=a%2Btoken-of-16-ch",
                "agents use server.url = \"http://192.168.1.20:5000\", and the same token",
            ]
        );
        assert_eq!(
            lines("0.0.0.0:5000", &addresses[..1], None)[2],
            "agents use server.url = \"http://192.168.1.20:5000\""
        );
        assert_eq!(
            lines("127.0.0.1:5000", &[], None),
            [
                "dashboard server on http://127.0.0.1:5000",
                "Open it in a browser on this PC; --lan lets phones and other PCs in.",
            ]
        );
        let alone = lines("0.0.0.0:5000", &[], None);
        assert_eq!(
            alone[1..],
            [
                "no network found: other devices cannot connect; this link works only on this PC",
                "viewers open http://127.0.0.1:5000/",
            ]
        );
    }
}
