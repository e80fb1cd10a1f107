//! `pitwire serve`: runs the embedded dashboard server alone.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use url::form_urlencoded;

use super::{Exit, log, print};
use crate::config::is_loopback;
use crate::config::{self, ConfigFile, LogConfig, LogFormat, LogLevel, Overrides, Secret};
use crate::dashboard::{Acks, Behaviour, Server};
use crate::net::loopback_guard::Access;

/// Run the dashboard server alone.
///
/// Agents publish to the server over Socket.IO, browsers watch at /dashboard/ID, or the newest
/// session at /dashboard/latest. Sessions are kept in memory until the server stops.
///
/// GET /api/sessions, /api/sessions/ID/frames and /api/sessions/ID/setups return the stored data as
/// JSON. DELETE /api/sessions deletes all sessions, as a restart would.
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

    /// Configuration file, of which only the table serve is used [default: pitwire/pitwire.toml in ~/.config or %LOCALAPPDATA%, if it exists].
    #[arg(long, value_name = "FILE", env = "PITWIRE_CONFIG")]
    pub config: Option<PathBuf>,

    /// Token for publishers and viewers, 16 characters or more [default: serve.token, else none].
    #[arg(long, value_name = "TOKEN")]
    pub token: Option<String>,

    /// File that contains the token [default: serve.token_file, else none].
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub token_file: Option<String>,

    /// Let anyone who can connect read and write every session, without a token.
    #[arg(long, conflicts_with_all = ["token", "token_file"])]
    pub insecure_public: bool,

    /// Silently discard what a server in schema mode discards.
    #[arg(long)]
    pub schema: bool,

    /// Delete all sessions every so many seconds [default: never].
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
        if token.reveal().is_none() && !is_loopback(self.listen.ip()) {
            return Err(format!(
                "--listen: {} lets other machines in; add --token {} (publishers set it as their \
                 server.token, viewers open the link that is printed), or --insecure-public to let \
                 anyone read and write every session",
                self.listen,
                uuid::Uuid::new_v4().simple()
            ));
        }
        Ok((access, token))
    }
}

/// The address for viewers. If the server listens on all addresses, one that other machines can
/// reach.
fn viewer_address(listening: SocketAddr) -> SocketAddr {
    if !listening.ip().is_unspecified() {
        return listening;
    }
    SocketAddr::new(network_address().unwrap_or(Ipv4Addr::LOCALHOST.into()), listening.port())
}

/// This PC's address in its network. Connecting a UDP socket selects it and sends nothing.
fn network_address() -> io::Result<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // RFC 5737 reserves 198.51.100.0/24 for documentation.
    socket.connect((Ipv4Addr::new(198, 51, 100, 1), 9))?;
    Ok(socket.local_addr()?.ip())
}

/// The link that viewers open: the list of sessions, with the token if there is one.
fn viewer_link(listening: SocketAddr, token: &Secret) -> String {
    let base = format!("http://{}/", viewer_address(listening));
    match token.reveal() {
        Some(token) => {
            let token: String = form_urlencoded::byte_serialize(token.as_bytes()).collect();
            format!("{base}?token={token}")
        }
        None => base,
    }
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
    let server = Server::start_for(args.listen, args.behaviour(), access).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot listen on {}: {error}", args.listen))
    })?;
    print(format_args!("dashboard server on {}", server.url()));
    if token.reveal().is_some() || !is_loopback(args.listen.ip()) {
        print(format_args!("viewers open {}", viewer_link(server.addr(), &token)));
    }
    shutdown.await;
    server.stop();
    Ok(Exit::Good)
}
