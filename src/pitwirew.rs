//! `pitwirew`: pitwire without a console window, for the start at log-on on Windows.
#![cfg_attr(windows, windows_subsystem = "windows")]

#[path = "main.rs"]
mod program;

fn main() -> std::process::ExitCode {
    program::main()
}
