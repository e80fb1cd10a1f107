//! Samples: what a source reads, before it becomes an entry.

use serde_json::Value;

use crate::fields::{self, Frame, Json, Refused, Setup};

/// A sample that a source has read and checked.
#[derive(Clone, Debug, PartialEq)]
pub enum Sample {
    /// A flat object of readings, or a frame that already uses the dashboard's field names.
    Telemetry(Frame),
    /// The car's setup.
    Setup(Setup),
}

impl Sample {
    /// Checks a telemetry sample.
    pub fn telemetry(sample: &Value) -> Result<Self, Refused> {
        Frame::of(sample).map(Self::Telemetry)
    }

    /// Checks a setup.
    pub fn setup(setup: &Value) -> Result<Self, Refused> {
        Setup::of(setup).map(Self::Setup)
    }

    /// Parses one line of text: `{"setup": {…}}`, possibly with a `timestamp`, is a setup, any other
    /// object is telemetry.
    pub fn parse(line: &[u8]) -> Result<Self, Refused> {
        let text = fields::text(line)?;
        let sample = fields::parse(&text)?;
        if has_only_a_setup(&sample) {
            let members = fields::members(&text)?;
            let [setup, timestamp] = ["setup", "timestamp"]
                .map(|key| members.get(key).map_or("null", |value| value.get()));
            let setup = Setup::parse(setup.as_bytes())?;
            return setup.with_timestamp(timestamp).map(Self::Setup);
        }
        Frame::checked(&sample, &text).map(Self::Telemetry)
    }
}

fn has_only_a_setup(sample: &Json<'_>) -> bool {
    sample.as_object().is_some_and(|object| {
        object.get("setup").is_some()
            && object.members().all(|(key, _)| matches!(key, "setup" | "timestamp"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::CapturedAt;

    #[test]
    fn a_line_is_a_setup_only_if_setup_is_its_sole_key() {
        let setup = Sample::setup(&serde_json::json!({"wing": 7})).unwrap();
        for line in [
            r#"{"setup":{"wing":7}}"#,
            "\u{feff}{ \"setup\" : {\"wing\": 7} }",
            r#"{"setup":{"wing":9},"setup":{"wing":7}}"#,
        ] {
            assert_eq!(Sample::parse(line.as_bytes()).as_ref(), Ok(&setup), "{line}");
        }
        let line = r#"{"timestamp":1763821822.50,"setup":{"wing":7}}"#;
        let Ok(Sample::Setup(setup)) = Sample::parse(line.as_bytes()) else { panic!("{line}") };
        assert_eq!(setup.entry_json(CapturedAt(0)), line);
        for line in [
            r#"{"setup":{"wing":7},"lap":1}"#,
            r#"{"timestamp":"2025-11-22T14:30:22Z"}"#,
            r#"{"lap":1}"#,
            "{}",
        ] {
            let sample = Sample::parse(line.as_bytes());
            assert!(matches!(sample, Ok(Sample::Telemetry(_))), "{line}: {sample:?}");
        }
    }
}
