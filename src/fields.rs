//! Sample -> dashboard fields: one table, and the pure functions around it.
//!
//! What a [`Frame`] lets out, every dashboard server takes, one that validates included, and the
//! page can paint: no null, no number that is not finite, integers where integers belong, nothing
//! below its minimum, no wheel but `fl`, `fr`, `rl`, `rr`. What it cannot repair without guessing
//! it refuses, with a message for whoever wrote the sample.
//!
//! Two kinds of sample come in. One that has the dashboard's required names already is somebody's
//! frame and passes through, extra keys included. From any other exactly the fields of the table
//! are taken. A null is the same as an absent key, everywhere.

mod change;
mod frame;
mod json;
mod setup;
mod table;

pub(crate) use self::change::text_fingerprint;
pub use self::frame::{Frame, map};
pub(crate) use self::json::{
    Json, Object, elements, is_json, null_what_is_not_finite, quoted, read, read_envelope,
};
pub use self::json::{MAX_OBJECT_KEYS, MAX_SAMPLE_VALUES};
pub use self::setup::Setup;
pub use self::table::columns;

/// An input that was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// What it is counted under.
    pub reason: Reason,
    /// Which field, what it held, what to send instead: one line, of bounded length.
    pub message: String,
}

/// Why an input was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    NotUtf8,
    NotJson,
    NotObject,
    NotFinite,
    TooDeep,
    TooLarge,
    WrongType,
    OutOfRange,
    /// It names a session that the agent did not give out.
    UnknownSession,
    /// More publishers send than the agent tells apart.
    TooManyPublishers,
}

impl Reason {
    /// Every reason, for a metric that shows zeros too.
    pub const ALL: [Self; 10] = [
        Self::NotUtf8,
        Self::NotJson,
        Self::NotObject,
        Self::NotFinite,
        Self::TooDeep,
        Self::TooLarge,
        Self::WrongType,
        Self::OutOfRange,
        Self::UnknownSession,
        Self::TooManyPublishers,
    ];

    /// The reason as a metric's label: lower case, underscores.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotUtf8 => "not_utf8",
            Self::NotJson => "not_json",
            Self::NotObject => "not_object",
            Self::NotFinite => "not_finite",
            Self::TooDeep => "too_deep",
            Self::TooLarge => "too_large",
            Self::WrongType => "wrong_type",
            Self::OutOfRange => "out_of_range",
            Self::UnknownSession => "unknown_session",
            Self::TooManyPublishers => "too_many_publishers",
        }
    }
}

fn refused(reason: Reason, message: String) -> Refused {
    Refused { reason, message }
}

/// A value as a message may quote it: JSON, so that control characters are escaped, and at most
/// 40 characters of it.
pub(crate) fn shorten(value: &(impl ToString + ?Sized)) -> String {
    let text = value.to_string();
    match text.char_indices().nth(40) {
        Some(_) => text.chars().take(39).chain(['…']).collect(),
        None => text,
    }
}
