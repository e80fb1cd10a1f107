//! The car's setup in the form that the dashboard accepts.

use std::sync::Arc;

use serde_json::Value;

use super::Refused;
use super::change::fingerprint;
use super::json::{self, Json};

/// The car's setup, an object within the limits of a sample. Its contents are not checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    json: Arc<str>,
    fingerprint: u64,
}

impl Setup {
    /// Parses a setup from JSON text.
    ///
    /// # Errors
    /// Refused if the text exceeds [`MAX_SAMPLE_BYTES`], is not UTF-8, not JSON or has a number
    /// that is not finite; and for the reasons of [`Setup::of`].
    ///
    /// [`MAX_SAMPLE_BYTES`]: crate::config::MAX_SAMPLE_BYTES
    pub fn parse(text: &[u8]) -> Result<Self, Refused> {
        Self::checked(json::read(text)?)
    }

    /// Converts a JSON value to a setup.
    ///
    /// # Errors
    /// Refused if it is not an object, nested too deep, or has too many keys or values; or if its
    /// text exceeds [`MAX_SAMPLE_BYTES`].
    ///
    /// [`MAX_SAMPLE_BYTES`]: crate::config::MAX_SAMPLE_BYTES
    pub fn of(setup: &Value) -> Result<Self, Refused> {
        Self::checked(Json::from(setup))
    }

    pub(crate) fn checked(mut setup: Json<'_>) -> Result<Self, Refused> {
        json::object(&setup)?;
        setup.normalize();
        let mut text = Vec::new();
        json::write(&mut text, &setup)?;
        json::bounded(text.len())?;
        Ok(Self { json: json::utf8(text)?.into(), fingerprint: fingerprint(&setup) })
    }

    /// The object as JSON text with sorted keys.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// A fingerprint that depends only on the car's settings and is stable across versions.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Reason;
    use super::*;

    #[test]
    fn a_setup_passes_unread() {
        let setup = json!({"carSetup": {"fuel": "full", "lap": null}});
        assert_eq!(
            serde_json::from_str::<Value>(Setup::of(&setup).unwrap().json()).unwrap(),
            setup
        );
        assert_eq!(Setup::of(&json!([setup])).unwrap_err().reason, Reason::NotObject);
    }

    #[test]
    fn of_two_equal_keys_of_a_setup_the_later_counts_and_goes_out_once() {
        let twice = Setup::parse(br#"{"wing":7,"fuel":{"l":1,"l":2},"wing":9}"#).unwrap();
        assert_eq!(twice.json(), r#"{"fuel":{"l":2},"wing":9}"#);
        assert_eq!(twice, Setup::of(&json!({"wing": 9, "fuel": {"l": 2}})).unwrap());
    }
}
