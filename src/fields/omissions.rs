//! The values that were omitted from a sample while the rest of it was kept.

use super::table::FIELDS;
use super::{Reason, Refused, refused, shorten};

/// The values that were omitted from a sample because a dashboard cannot show them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Omissions {
    /// How many values were not finite: `NaN` or an infinity.
    pub not_finite: u64,
    /// How many values of known fields were out of range.
    pub out_of_range: u64,
    first: Option<String>,
    has_known_field: bool,
}

impl Omissions {
    /// The first omitted value, why it was omitted and what to send instead: one line of bounded
    /// length.
    pub fn first(&self) -> Option<&str> {
        self.first.as_deref()
    }

    /// How many values were omitted.
    pub fn count(&self) -> u64 {
        self.not_finite + self.out_of_range
    }

    /// The refusal of a sample that has no other value of a known field than the omitted ones;
    /// `None` if none of these belonged to a known field.
    pub(super) fn refusal(&self) -> Option<Refused> {
        let first = self.first.as_deref().filter(|_| self.has_known_field)?;
        Some(refused(Reason::OutOfRange, format!("no other field has a value: {first}")))
    }

    /// Notes a value that is not finite. `key` is JSON text, empty for an element of an array.
    pub(super) fn note_not_finite(&mut self, key: &str, value: &str) {
        self.not_finite += 1;
        let key = key.trim_matches('"');
        self.has_known_field |= FIELDS.iter().any(|field| field.keys.contains(&key));
        if self.first.is_none() {
            let separator = if key.is_empty() { "" } else { ": " };
            let (key, value) = (shorten(key), shorten(value));
            self.first = Some(format!(
                "{key}{separator}{value} is not a finite number and was omitted; leave the value \
                 out"
            ));
        }
    }

    pub(super) fn note_out_of_range(&mut self, message: String) {
        self.out_of_range += 1;
        self.has_known_field = true;
        self.first.get_or_insert(message);
    }
}
