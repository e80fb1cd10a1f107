//! `pitwire serve`: the embedded dashboard server alone.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::time::Duration;

use crate::cli::log;
use crate::config::{LogConfig, LogFormat, LogLevel};
use crate::dashboard::{Acks, Behaviour, Server};

/// Run the dashboard server alone.
///
/// Agents publish to it over Socket.IO, browsers watch at /dashboard/ID. Sessions live in memory
/// and are gone when it stops.
///
/// GET /api/sessions, /api/sessions/ID/frames and /api/sessions/ID/setups give what it holds as
/// JSON. DELETE /api/sessions forgets all sessions, as a restart would.
///
/// The options under "Misbehaviour" make it fail in the ways in which real servers fail, to see
/// what an agent makes of it. Each works alone or with the others.
#[derive(clap::Args, Debug)]
pub struct Serve {
    /// Where to listen; port 0 takes any free one, 0.0.0.0:5000 lets the network in.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:5000")]
    pub listen: SocketAddr,

    /// Refuse, without a word, what a server in schema mode refuses.
    #[arg(long)]
    pub schema: bool,

    /// Forget all sessions again and again [default: never].
    #[arg(long, value_name = "SECONDS", help_heading = MISBEHAVIOUR)]
    pub forget_every: Option<NonZeroU64>,

    /// Wait before each event is handled; those behind it wait too.
    #[arg(long, value_name = "MS", default_value_t = 0, help_heading = MISBEHAVIOUR)]
    pub delay: u64,

    /// Wait between handling an event and its ack; the events behind it wait too.
    #[arg(long, value_name = "MS", default_value_t = 0, help_heading = MISBEHAVIOUR)]
    pub ack_delay: u64,

    /// Handle events but never acknowledge one.
    #[arg(long, conflicts_with = "ack_delay", help_heading = MISBEHAVIOUR)]
    pub never_ack: bool,

    /// Read every event and do nothing with it.
    #[arg(long, help_heading = MISBEHAVIOUR)]
    pub silent: bool,

    /// Do not send frames and setups back to the connection they came from.
    #[arg(long, help_heading = MISBEHAVIOUR)]
    pub no_echo: bool,

    /// Throw away every Nth frame, acknowledged like the others [default: never].
    #[arg(long, value_name = "N", help_heading = MISBEHAVIOUR)]
    pub refuse_every: Option<NonZeroU64>,

    /// Break the connection at every Nth frame, with that frame unhandled [default: never].
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
}

/// Prints the server's address on stdout and serves until `shutdown` completes.
///
/// # Errors
/// If the address cannot be listened on; the text names it.
pub async fn run(args: Serve, shutdown: impl Future<Output = ()>) -> io::Result<()> {
    log::start(&LogConfig { level: LogLevel::Warn, format: LogFormat::Text, file: None });
    let server = Server::start(args.listen, args.behaviour()).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot listen on {}: {error}", args.listen))
    })?;
    // A closed stdout is no reason not to serve.
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "dashboard server on {}", server.url()).ok();
    stdout.flush().ok();
    drop(stdout);

    shutdown.await;
    server.stop();
    Ok(())
}
