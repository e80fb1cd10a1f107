//! The doctor's findings and their output as text and JSON.

use std::borrow::Cow;

use serde::Serialize;

use crate::cli::queue::count;
use crate::remote_text::{Secrets, escape};

/// How serious a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum FindingSeverity {
    Ok,
    /// Information; not a fault.
    Note,
    /// It works, but not as well as it could.
    Warning,
    /// It does not work.
    Fault,
}

impl FindingSeverity {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Fault => "fault",
        }
    }
}

/// The result of one check.
#[derive(Clone, Debug, Serialize)]
pub(super) struct DoctorFinding {
    pub(super) severity: FindingSeverity,
    pub(super) subject: Cow<'static, str>,
    /// The result, as one phrase.
    pub(super) summary: String,
    /// What to do about it; `None` only if the severity is `Ok`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) advice: Option<String>,
}

impl DoctorFinding {
    /// Removes secrets and session ids.
    pub(super) fn without(self, secrets: &Secrets) -> Self {
        let Self { severity, subject, summary, advice } = self;
        let summary = secrets.redact(&summary);
        let advice = advice.map(|advice| secrets.redact(&advice));
        Self { severity, subject, summary, advice }
    }
}

/// The findings about one subject.
#[derive(Debug)]
pub(super) struct DoctorReport {
    subject: Cow<'static, str>,
    pub(super) findings: Vec<DoctorFinding>,
}

impl DoctorReport {
    pub(super) fn new(subject: impl Into<Cow<'static, str>>) -> Self {
        Self { subject: subject.into(), findings: Vec::new() }
    }

    pub(super) fn ok(&mut self, summary: impl Into<String>) {
        self.add(FindingSeverity::Ok, summary.into(), None);
    }

    pub(super) fn note(&mut self, summary: impl Into<String>, advice: impl Into<String>) {
        self.add(FindingSeverity::Note, summary.into(), Some(advice.into()));
    }

    pub(super) fn warning(&mut self, summary: impl Into<String>, advice: impl Into<String>) {
        self.add(FindingSeverity::Warning, summary.into(), Some(advice.into()));
    }

    pub(super) fn fault(&mut self, summary: impl Into<String>, advice: impl Into<String>) {
        self.add(FindingSeverity::Fault, summary.into(), Some(advice.into()));
    }

    /// Adds a note that `checks` were skipped because they depend on one that failed.
    pub(super) fn not_checked(&mut self, checks: &str) {
        self.note(format!("not checked: {checks}"), "fix the fault above, then check again");
    }

    fn add(&mut self, severity: FindingSeverity, summary: String, advice: Option<String>) {
        // Texts from a server or the system must not break the line.
        let summary = escape(&summary).into_owned();
        let advice = advice.map(|advice| escape(&advice).into_owned());
        self.findings.push(DoctorFinding {
            severity,
            subject: self.subject.clone(),
            summary,
            advice,
        });
    }
}

/// Formats the findings for people: one per line, followed by what to do, and the totals at the
/// end.
pub(super) fn to_text(findings: &[DoctorFinding]) -> String {
    let mut lines = Vec::new();
    for DoctorFinding { severity, subject, summary, advice } in findings {
        lines.push(format!("{:8} {subject}: {summary}", severity.as_str()));
        lines.extend(advice.as_ref().map(|advice| format!("         -> {advice}")));
    }
    lines.push(sum(findings));
    lines.join("\n")
}

/// Formats the findings as JSON for programs.
pub(super) fn to_json(findings: &[DoctorFinding]) -> String {
    #[derive(Serialize)]
    struct Findings<'a> {
        findings: &'a [DoctorFinding],
    }
    serde_json::to_string(&Findings { findings }).unwrap_or_default()
}

fn sum(findings: &[DoctorFinding]) -> String {
    let [faults, warnings] = [FindingSeverity::Fault, FindingSeverity::Warning].map(|severity| {
        findings.iter().filter(|finding| finding.severity == severity).count() as u64
    });
    if faults + warnings == 0 {
        return "all is well".into();
    }
    format!("{}, {}", count(faults, "fault"), count(warnings, "warning"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_and_its_advice_take_one_line_each() {
        let mut report = DoctorReport::new("server");
        report.ok("it is there");
        report.fault("it says \"go\naway\"", "go");
        assert_eq!(
            to_text(&report.findings),
            "ok       server: it is there\nfault    server: it says \"go\\naway\"\n         -> go\n\
             1 fault, 0 warnings"
        );
        assert!(to_text(&report.findings[..1]).ends_with("\nall is well"));
        assert_eq!(
            to_json(&report.findings[1..]),
            r#"{"findings":[{"severity":"fault","subject":"server","summary":"it says \"go\\naway\"","advice":"go"}]}"#
        );
    }
}
