//! Checks the start at log-on: whether it is enabled, and whether its program exists.

use std::io;

use super::{DoctorReport, disk};
use crate::cli::autostart::{self, Registered};

pub(super) const SUBJECT: &str = "autostart";

const ANEW: &str = "run pitwire autostart enable with the program that should start";

pub(super) async fn look() -> DoctorReport {
    let mut report = DoctorReport::new(SUBJECT);
    let registered = disk::in_time(|| {
        let registered = autostart::registered()?;
        let is_there = registered.as_ref().is_some_and(Registered::is_there);
        Ok::<_, io::Error>(registered.map(|registered| (registered, is_there)))
    });
    match registered.await.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into())) {
        Ok(None) => report.note(
            "the agent does not start at log-on",
            "run pitwire autostart enable to start it automatically",
        ),
        Ok(Some((Registered { entry, .. }, true))) => {
            report.ok(format!("the agent starts at log-on: {entry}"));
        }
        Ok(Some((Registered { entry, program: None }, false))) => {
            report.warning(format!("the log-on entry is unusable: {entry}"), ANEW);
        }
        Ok(Some((Registered { program: Some(program), .. }, false))) => report.warning(
            format!("the log-on entry starts {}, which does not exist", program.display()),
            ANEW,
        ),
        Err(error) => report.warning(
            format!("cannot read the log-on entry: {error}"),
            "check that HOME is set, and that its files can be read",
        ),
    }
    report
}
