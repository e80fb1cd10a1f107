//! Reports the steps on the way to the server: name, connection, TLS, HTTP.

use std::time::Duration;

use super::DoctorReport;
use crate::cli::queue::count;
use crate::config::ServerUrl;
use crate::remote_text::{RemoteText, Secrets};
use crate::sink::probe::{Passed, Reached};

/// The doctor reports a server clock that is further off than this. HTTP dates have whole seconds,
/// and the response takes time to arrive.
const DOCTOR_CLOCK_OFFSET: Duration = Duration::from_secs(5);

/// Reports what succeeded; the diagnosis is a separate finding.
pub(super) fn passed(
    report: &mut DoctorReport,
    server: &ServerUrl,
    reached: &Reached,
    secrets: &Secrets,
) {
    for passed in &reached.passed {
        report.ok(match passed {
            Passed::Name(name) => format!("the name {name} resolves"),
            Passed::Connection(url, address) => format!("{url} can be reached, at {address}"),
            Passed::Certificate(name) => format!("its certificate is valid for {name}"),
        });
    }
    let base = reached.base.as_str().trim_end_matches('/');
    if base != server.as_str() {
        let base = RemoteText::new(base, secrets);
        report.note(
            format!("{server} redirects to {base}, where pitwire connects"),
            format!("write {base} in server.url to connect faster"),
        );
    }
    if reached.has_response {
        say_clock(report, reached.clock_offset_s);
    }
}

fn say_clock(report: &mut DoctorReport, offset_s: Option<i64>) {
    let Some(offset) = offset_s else {
        return report.note("it does not report its time", "compare its clock with this PC's");
    };
    if Duration::from_secs(offset.unsigned_abs()) <= DOCTOR_CLOCK_OFFSET {
        return report.ok("its clock agrees with this PC's");
    }
    let off = count(offset.unsigned_abs(), "second");
    let (direction, pc) = if offset > 0 { ("ahead of", "slow") } else { ("behind", "fast") };
    report.warning(
        format!("its clock is {off} {direction} this PC's"),
        format!(
            "synchronize both clocks; if this PC's is the {pc} one, its frames have wrong times"
        ),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_skew_above_five_seconds_is_reported() {
        for (offset_s, expected) in [
            (None, "it does not report its time"),
            (Some(5), "its clock agrees with this PC's"),
            (Some(-5), "its clock agrees with this PC's"),
            (Some(6), "its clock is 6 seconds ahead of this PC's"),
            (Some(-3600), "its clock is 3600 seconds behind this PC's"),
        ] {
            let mut report = DoctorReport::new("server");
            say_clock(&mut report, offset_s);
            assert_eq!(report.findings[0].summary, expected);
        }
    }
}
