//! The table of figures.

use serde_json::{Value, json};

/// Runs for each figure, of which the median counts.
const RUNS: usize = 3;

/// The figures measured so far.
#[derive(Debug)]
pub(crate) struct Report {
    words: Vec<String>,
    as_json: bool,
    rows: Vec<Row>,
    absent: Vec<String>,
}

/// One figure: the values of all runs in ascending order.
#[derive(Debug)]
struct Row {
    name: String,
    unit: &'static str,
    values: Vec<f64>,
}

impl Row {
    fn median(&self) -> f64 {
        self.values[self.values.len() / 2]
    }
}

impl Report {
    /// Starts an empty report; the words of the command line select rows.
    pub(crate) fn from_args() -> Self {
        let (flags, words): (Vec<_>, Vec<_>) =
            std::env::args().skip(1).partition(|word| word.starts_with("--"));
        let as_json = flags.iter().any(|flag| flag == "--json");
        Self { words, as_json, rows: Vec::new(), absent: Vec::new() }
    }

    fn wants(&self, name: &str) -> bool {
        self.words.is_empty() || self.words.iter().any(|word| name.contains(word))
    }

    /// Measures one figure, with the usual number of runs.
    pub(crate) fn row(&mut self, name: &str, unit: &'static str, mut run: impl FnMut() -> f64) {
        self.rows(name, &[("", unit)], || vec![run()]);
    }

    /// Measures several figures in the same runs; each has a name and a unit.
    pub(crate) fn rows(
        &mut self,
        name: &str,
        figures: &[(&str, &'static str)],
        run: impl FnMut() -> Vec<f64>,
    ) {
        self.rows_of(RUNS, name, figures, run);
    }

    /// Measures several figures in the same runs, with this number of runs.
    pub(crate) fn rows_of(
        &mut self,
        runs: usize,
        name: &str,
        figures: &[(&str, &'static str)],
        mut run: impl FnMut() -> Vec<f64>,
    ) {
        if !self.wants(name) {
            return;
        }
        let measured: Vec<Vec<f64>> = (0..runs).map(|_| run()).collect();
        for (index, (what, unit)) in figures.iter().enumerate() {
            let mut values: Vec<f64> = measured.iter().map(|values| values[index]).collect();
            values.sort_by(f64::total_cmp);
            let name = if what.is_empty() { name.to_owned() } else { format!("{name}: {what}") };
            let row = Row { name, unit, values };
            // Shows progress.
            eprintln!("{}", line(&row));
            self.rows.push(row);
        }
    }

    /// Records that something cannot be measured on this machine.
    pub(crate) fn absent(&mut self, name: &str, why: &str) {
        if self.wants(name) {
            self.absent.push(format!("{name}: {why}"));
        }
    }

    /// Prints the table or the JSON object to standard output.
    pub(crate) fn print(&self) {
        if self.as_json {
            return println!("{:#}", self.to_json());
        }
        println!("{}\n", machine());
        println!("{:<66} {:>10} {:>10} {:>10}", "", "median", "least", "most");
        self.rows.iter().for_each(|row| println!("{}", line(row)));
        self.absent.iter().for_each(|absent| println!("not measured: {absent}"));
    }

    fn to_json(&self) -> Value {
        let row = |row: &Row| {
            let Row { name, unit, values } = row;
            json!({"name": name, "unit": unit, "median": row.median(), "runs": values})
        };
        let rows: Vec<_> = self.rows.iter().map(row).collect();
        json!({"machine": machine(), "rows": rows, "not_measured": self.absent})
    }
}

fn line(row: &Row) -> String {
    let name = format!("{} ({})", row.name, row.unit);
    let [median, least, most] =
        [row.median(), row.values[0], row.values[row.values.len() - 1]].map(shown);
    format!("{name:<66} {median:>10} {least:>10} {most:>10}")
}

/// Formats a number, usually with three significant digits.
fn shown(value: f64) -> String {
    let decimals = match value.abs() {
        100.0.. => 0,
        10.0..100.0 => 1,
        1.0..10.0 => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}

fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let value = |name: &str| {
        let line = cpus.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(": ")).map_or("", |(_, value)| value).to_owned()
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{cores} cores of {}, Linux {}", value("model name"), kernel.trim())
}
