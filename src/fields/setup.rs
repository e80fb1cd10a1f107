//! The car's setup in the form that the dashboard accepts.

use std::sync::Arc;

use serde_json::Value;

use super::change::fingerprint;
use super::json::{self, Json};
use super::verbatim::compact;
use super::{Omissions, Reason, Refused, refused};
use crate::entry::CapturedAt;

/// The maximum bytes of a sender's timestamp. Together with the largest setup it still fits into a
/// message to a dashboard server.
const MAX_TIMESTAMP_BYTES: usize = 1024;

/// The car's setup, an object within the limits of a sample. Its contents are not checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    json: Arc<str>,
    /// The sender's timestamp as JSON; `None` if it sent none.
    timestamp: Option<Arc<str>>,
    fingerprint: u64,
    omissions: Omissions,
}

impl Setup {
    /// Parses a setup from JSON text.
    ///
    /// # Errors
    /// Refused if the text exceeds [`MAX_SAMPLE_BYTES`], is not UTF-8 or not JSON; and for the
    /// reasons of [`Setup::of`].
    ///
    /// [`MAX_SAMPLE_BYTES`]: crate::fields::MAX_SAMPLE_BYTES
    pub fn parse(text: &[u8]) -> Result<Self, Refused> {
        json::parse_finite(text, Omissions::default(), Self::checked)
    }

    /// Converts a JSON value to a setup.
    ///
    /// # Errors
    /// Refused if it is not an object, nested too deep, or has too many keys or values; or if its
    /// text exceeds [`MAX_SAMPLE_BYTES`].
    ///
    /// [`MAX_SAMPLE_BYTES`]: crate::fields::MAX_SAMPLE_BYTES
    pub fn of(setup: &Value) -> Result<Self, Refused> {
        let json = Json::from(setup);
        json::object(&json)?;
        Self::checked(json, &setup.to_string(), Omissions::default())
    }

    /// Checks a parsed setup. `text` is its text, from which `omissions` are already missing.
    pub(crate) fn checked(
        mut setup: Json<'_>,
        text: &str,
        omissions: Omissions,
    ) -> Result<Self, Refused> {
        json::object(&setup)?;
        let text = compact(text);
        json::bounded(text.len())?;
        setup.normalize();
        let fingerprint = fingerprint(&setup);
        Ok(Self { json: text.into(), timestamp: None, fingerprint, omissions })
    }

    /// The setup with the sender's timestamp, any JSON value; null counts as absent.
    ///
    /// # Errors
    /// Refused if the timestamp is longer than 1024 bytes or is not JSON.
    pub(crate) fn with_timestamp(self, timestamp: &str) -> Result<Self, Refused> {
        if timestamp.len() > MAX_TIMESTAMP_BYTES {
            let bytes = timestamp.len();
            let message =
                format!("timestamp: {bytes} bytes; send at most {MAX_TIMESTAMP_BYTES} bytes");
            return Err(refused(Reason::TooLarge, message));
        }
        let text = json::text(timestamp.as_bytes())?;
        let timestamp = match json::parse(&text)? {
            Json::Null => None,
            _ => Some(compact(&text).into()),
        };
        Ok(Self { timestamp, ..self })
    }

    /// The sender's timestamp, if it is in RFC 3339 with a time zone.
    pub fn own_timestamp(&self) -> Option<CapturedAt> {
        let timestamp: String = serde_json::from_str(self.timestamp.as_ref()?).ok()?;
        CapturedAt::parse(&timestamp)
    }

    /// The values that are missing from the setup because JSON has no notation for them.
    pub fn omissions(&self) -> &Omissions {
        &self.omissions
    }

    /// The object as JSON text.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// The JSON text of an entry: an object with the setup and its timestamp, `captured_at` if the
    /// sender sent none.
    pub(crate) fn entry_json(&self, captured_at: CapturedAt) -> String {
        let setup = &self.json;
        match &self.timestamp {
            Some(timestamp) => format!(r#"{{"timestamp":{timestamp},"setup":{setup}}}"#),
            None => format!(r#"{{"timestamp":"{captured_at}","setup":{setup}}}"#),
        }
    }

    /// A fingerprint that depends only on the car's settings and is stable across versions.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_setup_object_passes_through_unchanged() {
        let setup = json!({"carSetup": {"fuel": "full", "lap": null}});
        assert_eq!(
            serde_json::from_str::<Value>(Setup::of(&setup).unwrap().json()).unwrap(),
            setup
        );
        assert_eq!(Setup::of(&json!([setup])).unwrap_err().reason, Reason::NotObject);
    }

    #[test]
    fn a_setup_leaves_byte_for_byte_with_the_timestamp_of_its_sender() {
        let text = r#"{"wing":7.0,"fuel":{"l":1e1,"l":2},"a":"\u00e9","wing":9}"#;
        let setup = Setup::parse(format!(" {text}\n").as_bytes()).unwrap();
        assert_eq!(setup.json(), text);
        let at = CapturedAt(1_763_821_822_123);
        for (timestamp, own, expected) in [
            ("1763821822.10", None, "1763821822.10"),
            (r#""2025-11-22T14:30:22.5""#, None, r#""2025-11-22T14:30:22.5""#),
            (r#""2025-11-22T14:30:22.123Z""#, Some(at), r#""2025-11-22T14:30:22.123Z""#),
            ("null", None, r#""2025-11-22T14:30:22.123Z""#),
        ] {
            let setup = setup.clone().with_timestamp(timestamp).unwrap();
            assert_eq!(setup.own_timestamp(), own, "{timestamp}");
            let json = format!(r#"{{"timestamp":{expected},"setup":{text}}}"#);
            assert_eq!(setup.entry_json(at), json, "{timestamp}");
        }
        let long = format!("\"{}\"", "1".repeat(MAX_TIMESTAMP_BYTES));
        assert_eq!(setup.clone().with_timestamp(&long).unwrap_err().reason, Reason::TooLarge);
        assert_eq!(
            setup.fingerprint(),
            Setup::of(&json!({"wing": 9, "fuel": {"l": 2}, "a": "é"})).unwrap().fingerprint()
        );
    }
}
