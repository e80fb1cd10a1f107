//! The README stays short, its links resolve, and the generated tables in `deploy/docs/` match the
//! program. With `BLESS=1` a test writes the current table, and fails once more.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use pitwire::cli::Cli;
use pitwire::config;
use pitwire::metrics::{Row, TABLE, Type};

/// The README is for a reader who has five minutes.
const MAX_README_BYTES: u64 = 10_000;

fn project(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

#[test]
fn the_readme_is_short() {
    let bytes = fs::metadata(project("README.md")).unwrap().len();
    assert!(bytes <= MAX_README_BYTES, "{bytes} bytes");
}

/// Links to other sites are not checked.
#[test]
fn each_documentation_link_points_to_an_existing_file() {
    let mut pages = vec![project("README.md"), project("tests/README.md")];
    for folder in ["deploy/docs", "deploy/docs/troubleshooting"] {
        let files = fs::read_dir(project(folder)).unwrap().map(|file| file.unwrap().path());
        pages.extend(files.filter(|file| file.extension().is_some_and(|end| end == "md")));
    }
    let mut links = 0;
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap();
            if target.starts_with("http") || file.is_empty() {
                continue;
            }
            links += 1;
            let file = page.parent().unwrap().join(file);
            assert!(file.exists(), "{}: {target} leads nowhere", page.display());
        }
    }
    assert!(links > 30, "{links} links");
}

#[test]
fn the_configuration_page_lists_every_setting_with_its_default() {
    check("deploy/docs/configuration.md", "configuration", &config::reference());
}

#[test]
fn the_metrics_page_lists_every_metric() {
    let mut table =
        String::from("| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n");
    TABLE.iter().for_each(|row| table.push_str(&table_row(row)));
    check("deploy/docs/metrics.md", "metrics", &table);
}

#[test]
fn the_queue_tools_page_lists_every_tool() {
    let mut table = String::from("| `pitwire queue …` | what it does |\n| --- | --- |\n");
    let whole = Cli::command();
    let queue = whole.find_subcommand("queue").unwrap();
    for tool in queue.get_subcommands() {
        let _ = writeln!(table, "| `{}` | {} |", tool.get_name(), tool.get_about().unwrap());
    }
    check("deploy/docs/queue-tools.md", "tools", &table);
}

/// Checks that the table between the marker comments of this name in a page is `expected`.
pub fn check(page: &str, name: &str, expected: &str) {
    let text = fs::read_to_string(project(page)).unwrap();
    let begin = format!("<!-- {name}: begin -->\n\n");
    let end = format!("\n<!-- {name}: end -->");
    let (_, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("no {begin}"));
    let (table, _) = rest.split_once(&end).unwrap_or_else(|| panic!("no {end}"));
    let blessed = text.replacen(table, expected, 1);
    bless(page, &text, &blessed);
}

/// Checks that a file is up to date; with `BLESS` in the environment, updates it first.
pub fn bless(file: &str, is: &str, belongs: &str) {
    if is == belongs {
        return;
    }
    if std::env::var_os("BLESS").is_some() {
        fs::write(project(file), belongs).unwrap();
    }
    panic!("{file} is out of date; run this test with BLESS=1 to update it");
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
        // These values depend on the build's platform and version, or on the configuration.
        if name != "pitwire_build_info" && !values.is_empty() {
            let _ = write!(shown, ": {}", values.join(", "));
        }
    }
    format!("| `{name}` | {kind} | {shown} | {meaning} |\n")
}
