//! The configuration: what is wrong with it, and what is probably not meant.

use super::Report;
use crate::config::{Loaded, Problems};

pub(super) fn look(loaded: &Result<Loaded, Problems>) -> Report {
    let mut report = Report::new("configuration");
    match loaded {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                report.warning(warning.to_string(), "mend it where it is, if it is not meant");
            }
            if loaded.warnings.is_empty() {
                report.ok("there is no mistake in it");
            }
        }
        Err(Problems(problems)) => {
            for problem in problems {
                report.fault(problem.to_string(), "mend it there; pitwire check looks again");
            }
        }
    }
    report
}
