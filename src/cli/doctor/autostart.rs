//! The start at log-on: whether there is one, and whether what it starts is there.

use std::io;

use super::{Report, disk};
use crate::cli::autostart::{self, Registered};

pub(super) const SUBJECT: &str = "autostart";

const ANEW: &str = "pitwire autostart enable, with the pitwire that is to be started";

pub(super) async fn look() -> Report {
    let mut report = Report::new(SUBJECT);
    let registered = disk::in_time(|| {
        let registered = autostart::registered()?;
        let is_there = registered.as_ref().is_some_and(Registered::is_there);
        Ok::<_, io::Error>(registered.map(|registered| (registered, is_there)))
    });
    let silent = || Err(io::ErrorKind::TimedOut.into());
    match registered.await.unwrap_or_else(silent) {
        Ok(None) => report.note(
            "the agent does not start at log-on",
            "pitwire autostart enable, if it is to be always there",
        ),
        Ok(Some((Registered { what, .. }, true))) => {
            report.ok(format!("the agent starts at log-on: {what}"));
        }
        Ok(Some((Registered { what, program: None }, false))) => {
            report.warning(format!("what starts at log-on is {what}"), ANEW);
        }
        Ok(Some((Registered { program: Some(program), .. }, false))) => report.warning(
            format!("{} is to start at log-on, and is not there", program.display()),
            ANEW,
        ),
        Err(error) => report.warning(
            format!("it cannot be seen what starts at log-on: {error}"),
            "see that HOME is set, and that its files can be read",
        ),
    }
    report
}
