//! `pitwirew`: pitwire without a console window, for a start at log-on of Windows.
#![cfg_attr(windows, windows_subsystem = "windows")]

#[path = "main.rs"]
mod program;

fn main() -> std::process::ExitCode {
    program::main()
}
