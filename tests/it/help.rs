//! The texts of `--help`, the man pages and the shell completions.

#[cfg(unix)]
use std::collections::BTreeSet;

use clap::{Arg, ArgAction, Command, CommandFactory};
use pitwire::cli::Cli;
use pitwire::config::{Config, values};

#[cfg(unix)]
use crate::agent::pitwire;

/// Each subcommand, including nested ones, with the text of its `--help`.
fn commands() -> Vec<(Command, String)> {
    let mut whole = Cli::command().term_width(0);
    whole.build();
    let mut commands = Vec::new();
    let mut parents = vec![whole];
    while let Some(parent) = parents.pop() {
        for command in parent.get_subcommands().filter(|command| command.get_name() != "help") {
            let mut command = command.clone().term_width(0);
            let help = command.render_help().to_string();
            parents.push(command.clone());
            commands.push((command, help));
        }
    }
    commands
}

/// The line of the help text that describes an option.
fn line<'a>(help: &'a str, option: &Arg) -> &'a str {
    let name = format!("--{}", option.get_long().expect("a long name"));
    // A value that may be left out follows in brackets.
    let is_it =
        |line: &&str| line.split_whitespace().any(|word| word.split('[').next() == Some(&name));
    help.lines().find(is_it).unwrap_or_else(|| panic!("{name} is not in:\n{help}"))
}

/// Whether the option has a default; a switch is off by default.
fn has_default(option: &Arg) -> bool {
    let is_list = matches!(option.get_action(), ArgAction::Append);
    option.get_action().takes_values()
        && !option.is_required_set()
        && (!is_list || !option.get_default_values().is_empty())
}

#[test]
fn every_optional_option_shows_its_default() {
    let mut options = 0;
    for (command, help) in commands() {
        for option in command.get_opts().filter(|option| has_default(option)) {
            let line = line(&help, option);
            assert!(line.contains("[default: "), "pitwire {}: {line}", command.get_name());
            options += 1;
        }
    }
    assert!(options > 15, "{options}");
}

#[test]
fn run_shows_the_defaults_of_the_configuration() {
    let commands = commands();
    let (run, help) = commands.iter().find(|(command, _)| command.get_name() == "run").unwrap();
    let defaults = values(&Config::default());
    for (option, key) in [("server", "server.url"), ("update_rate_hz", "update_rate_hz")] {
        let option = run.get_opts().find(|known| known.get_id() == option).unwrap();
        let (_, default) = defaults.iter().find(|(known, _)| *known == key).unwrap();
        let line = line(help, option);
        assert!(line.contains(&format!("[default: {default}]")), "{line}");
    }
}

#[test]
fn option_help_is_one_sentence_without_a_full_stop() {
    for (command, _) in commands() {
        for option in command.get_arguments() {
            let text = option.get_help().expect("a help text").to_string();
            let place = format!("pitwire {}: {text}", command.get_name());
            assert!(text.starts_with(char::is_uppercase), "{place}");
            assert!(!text.contains(". ") && !text.ends_with('.'), "{place}");
        }
    }
}

#[test]
#[cfg(unix)]
fn each_visible_command_has_a_manual_page() {
    let folder = tempfile::tempdir().unwrap();
    let written = pitwire(&["man"]).arg(folder.path().join("man1")).status().unwrap();
    assert!(written.success());
    let pages = std::fs::read_dir(folder.path().join("man1")).unwrap();
    let pages: BTreeSet<_> =
        pages.map(|page| page.unwrap().file_name().into_string().unwrap()).collect();
    let mut shown = BTreeSet::from(["pitwire.1".to_owned()]);
    for (command, _) in commands().iter().filter(|(command, _)| !command.is_hide_set()) {
        let page = format!("{}.1", command.get_display_name().unwrap());
        let text = std::fs::read_to_string(folder.path().join("man1").join(&page)).unwrap();
        let plain = text.replace("\\-", "-").replace("\\*(Aq", "'");
        let about = command.get_about().unwrap().to_string();
        assert!(plain.contains(&about), "{page}: {plain}");
        shown.insert(page);
    }
    assert_eq!(pages, shown);
}

#[test]
#[cfg(unix)]
fn bash_completes_commands_and_options() {
    let script = pitwire(&["completions", "bash"]).output().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pitwire");
    std::fs::write(&file, script.stdout).unwrap();
    // Calls the completion function as the shell does when TAB is pressed after the last word.
    let complete = "source \"$1\" && complete -p pitwire >&2 && shift && COMP_WORDS=(\"$@\") && \
                    COMP_CWORD=$(($# - 1)) && _pitwire pitwire \"${@: -1}\" \"${@: -2:1}\" && \
                    echo \"${COMPREPLY[@]}\"";
    for (typed, offered) in [
        (&["pitwire", "doc"][..], "doctor\n"),
        (&["pitwire", "doctor", "--b"], "--bundle\n"),
        (&["pitwire", "queue", "ex"], "export\n"),
        (&["pitwire", "completions", "f"], "fish\n"),
    ] {
        let mut bash = std::process::Command::new("bash");
        bash.args(["--norc", "-c", complete, "-"]).arg(&file).args(typed);
        let said = bash.output().unwrap();
        assert_eq!(String::from_utf8_lossy(&said.stdout), offered, "{typed:?}: {said:?}");
        let told = String::from_utf8_lossy(&said.stderr).into_owned();
        let is_complete = told.starts_with("complete ") && told.ends_with(" -F _pitwire pitwire\n");
        assert!(is_complete, "{told}");
    }
}

#[test]
#[cfg(unix)]
fn completions_exist_for_the_other_shells() {
    for shell in ["zsh", "fish", "powershell", "elvish"] {
        let script = pitwire(&["completions", shell]).output().unwrap();
        let script = String::from_utf8(script.stdout).unwrap();
        assert!(script.contains("doctor") && script.contains("bundle"), "{shell}: {script}");
    }
    let refused = pitwire(&["completions", "tcsh"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
}

#[test]
fn command_summaries_fit_the_command_list() {
    for (command, _) in commands() {
        let about = command.get_about().expect("a first line").to_string();
        assert!(about.len() <= 75 && !about.ends_with('.'), "{}: {about}", command.get_name());
    }
}
