//! The `pitwire` command: parses the arguments, starts the runtime, handles signals and exits.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use pitwire::cli::{
    Cli, Command, Exit, autostart, check, completions, config, demo, doctor, eprint_line, man,
    print_usage, queue, reload, replay, run, serve, setup, simulate,
};
use pitwire::net::open_files;
use pitwire::platform::memory;

pub(crate) fn main() -> ExitCode {
    memory::give_back_what_is_freed();
    open_files::raise_limit();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return print_usage(&error).unless_output_is_lost().into(),
    };
    match execute(cli) {
        Ok(exit) => exit.unless_output_is_lost().into(),
        Err(error) => {
            eprint_line(format_args!("pitwire: {error:#}"));
            Exit::Failed.into()
        }
    }
}

fn execute(cli: Cli) -> anyhow::Result<Exit> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let exit = runtime.block_on(async {
        Ok(match cli.command {
            Command::Demo(args) => demo::demo(args, shutdown()).await,
            Command::Setup(args) => setup::setup(args).await,
            Command::Run(args) => run::run(args, shutdown()).await,
            Command::Reload(args) => reload::reload(args).await,
            Command::Replay(args) => replay::replay(args, shutdown()).await,
            Command::Serve(args) => {
                serve::run(args, shutdown()).await.context("the dashboard server ended")?
            }
            Command::Simulate(args) => simulate::simulate(args, shutdown()).await,
            Command::Queue(args) => queue::queue(args).await,
            Command::Autostart(args) => autostart::autostart(&args),
            Command::Doctor(args) => doctor::doctor(args).await,
            Command::Check(args) => check::check(&args),
            Command::Config(args) => config::config(&args),
            Command::Completions(args) => completions::completions(&args),
            Command::Man(args) => man::man(&args),
        })
    });
    // A pending read of stdin must not keep the process alive.
    runtime.shutdown_background();
    exit
}

/// Resolves on Ctrl-C or when the system asks the process to terminate.
async fn shutdown() {
    #[cfg(unix)]
    let terminated = async {
        use tokio::signal::unix::{SignalKind, signal};
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    #[cfg(windows)]
    let terminated = async {
        use tokio::signal::windows::{ctrl_break, ctrl_close, ctrl_logoff, ctrl_shutdown};
        let signals = (ctrl_break(), ctrl_close(), ctrl_logoff(), ctrl_shutdown());
        let (Ok(mut pause), Ok(mut close), Ok(mut logoff), Ok(mut shutdown)) = signals else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = pause.recv() => {}
            _ = close.recv() => {}
            _ = logoff.recv() => {}
            _ = shutdown.recv() => {}
        }
    };
    #[cfg(not(any(unix, windows)))]
    let terminated = std::future::pending::<()>();
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminated => {}
    }
}
