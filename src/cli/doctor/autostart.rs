//! The start at log-on: whether there is one, and whether what it starts is there.

use super::Report;
use crate::cli::autostart::{self, Registered};

pub(super) const SUBJECT: &str = "autostart";

const ANEW: &str = "pitwire autostart enable, with the pitwire that is to be started";

pub(super) async fn look() -> Report {
    let mut report = Report::new(SUBJECT);
    match autostart::registered() {
        Ok(None) => report.note(
            "the agent does not start at log-on",
            "pitwire autostart enable, if it is to be always there",
        ),
        Ok(Some(Registered { what, program: None })) => {
            report.warning(format!("what starts at log-on is {what}"), ANEW);
        }
        Ok(Some(Registered { what, program: Some(program) })) => match program.is_file() {
            true => report.ok(format!("the agent starts at log-on: {what}")),
            false => report.warning(
                format!("{} is to start at log-on, and is not there", program.display()),
                ANEW,
            ),
        },
        Err(error) => report.warning(
            format!("it cannot be seen what starts at log-on: {error}"),
            "see that HOME is set, and that its files can be read",
        ),
    }
    report
}
