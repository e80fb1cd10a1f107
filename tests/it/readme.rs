//! The tables in the README are the program's own. With `BLESS=1` a test writes
//! what belongs there, and fails once more.

use std::fmt::Write as _;
use std::path::Path;

use clap::CommandFactory;
use pitwire::cli::Cli;
use pitwire::config;
use pitwire::metrics::{Row, TABLE, Type};

const README: &str = include_str!("../../README.md");

#[test]
fn the_readme_has_every_setting_with_its_default() {
    check("configuration", &config::reference());
}

#[test]
fn the_readme_has_every_metric() {
    let mut table =
        String::from("| metric | type | labels | what it is |\n| --- | --- | --- | --- |\n");
    TABLE.iter().for_each(|row| table.push_str(&table_row(row)));
    check("metrics", &table);
}

#[test]
fn the_readme_has_every_tool_of_the_queue() {
    let mut table = String::from("| `pitwire queue …` | what it does |\n| --- | --- |\n");
    let whole = Cli::command();
    let queue = whole.find_subcommand("queue").unwrap();
    for tool in queue.get_subcommands() {
        let _ = writeln!(table, "| `{}` | {} |", tool.get_name(), tool.get_about().unwrap());
    }
    check("tools", &table);
}

/// The table between the marker comments of this name is `expected`.
fn check(name: &str, expected: &str) {
    let begin = format!("<!-- {name}: begin -->\n\n");
    let end = format!("\n<!-- {name}: end -->");
    let (_, rest) = README.split_once(&begin).unwrap_or_else(|| panic!("no {begin}"));
    let (table, _) = rest.split_once(&end).unwrap_or_else(|| panic!("no {end}"));
    let blessed = README.replacen(table, expected, 1);
    bless("README.md", README, &blessed);
}

/// The file holds what belongs there; with `BLESS` in the environment it is made to.
pub fn bless(file: &str, is: &str, belongs: &str) {
    if is == belongs {
        return;
    }
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join(file), belongs).unwrap();
    }
    panic!("{file} is out of date; run this test with BLESS=1 to mend it");
}

fn table_row(&(name, kind, labels, meaning): &Row) -> String {
    let kind = match kind {
        Type::Counter => "counter",
        Type::Gauge => "gauge",
        Type::Histogram => "histogram",
    };
    let mut shown = String::new();
    for (label, values) in labels {
        let separator = if shown.is_empty() { "" } else { "; " };
        let _ = write!(shown, "{separator}`{label}`");
        // Those of the build differ from one platform and version to the next.
        if name != "pitwire_build_info" {
            let _ = write!(shown, ": {}", values.join(", "));
        }
    }
    format!("| `{name}` | {kind} | {shown} | {meaning} |\n")
}
