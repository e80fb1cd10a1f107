//! Maps samples to dashboard frames: a table of fields, and pure functions.
//!
//! There are two kinds of samples:
//! - One with the dashboard's required field names is already a frame. It leaves byte for byte as it
//!   came, with its own timestamp and extra keys; a timestamp is added if it has none. Only white
//!   space between tokens, and values that JSON cannot hold, such as `NaN`, are removed.
//! - From any other sample, only the fields of the table are taken. Every dashboard server accepts
//!   the result, even one that validates, and the page can show it: no nulls, only finite numbers,
//!   integers where required, no values below the minimum, no wheels except `fl`, `fr`, `rl`, `rr`.
//!   A null counts as an absent key. A field without a value is omitted, unless a server requires
//!   it: see `table.rs`. A sample of `Form::AsSent` is not mapped: it keeps its extra keys, and no
//!   field is added.
//!
//! All of them are checked alike. A sample in which no field is known, and a known field of the wrong
//! type, are refused with a message for the sender. A value that is out of range or not finite is
//! omitted and reported as one of the frame's [`Omissions`]; the rest of the sample is kept.
//! `Frame::verbatim` accepts any object instead: an entry that another agent has already checked.

mod change;
mod frame;
mod json;
mod omissions;
mod setup;
mod split;
mod table;
mod verbatim;

pub(crate) use self::change::text_fingerprint;
pub(crate) use self::frame::Form;
pub use self::frame::{Frame, map};
pub use self::json::MAX_OBJECT_KEYS;
pub(crate) use self::json::{Json, decoded, members, parse, parse_finite, text};
pub use self::omissions::Omissions;
pub use self::setup::Setup;
pub(crate) use self::split::{elements, is_one_object};
pub(crate) use self::table::{CONTAINERS, has_known_field};
pub use self::table::{columns, is_text};
pub(crate) use self::verbatim::{remove_non_finite, without_non_finite};

/// The maximum size of a sample or setup; a larger one is refused. The server closes the connection
/// at messages above 1,000,000 bytes, which include the envelope.
pub const MAX_SAMPLE_BYTES: usize = 900_000;

/// The maximum nesting of objects and arrays in a sample; a deeper one is refused.
pub const MAX_SAMPLE_DEPTH: usize = 32;

/// An input that was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// The reason under which it is counted.
    pub reason: Reason,
    /// The field, its value and what to send instead: one line of bounded length.
    pub message: String,
}

/// Why an input was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    NotUtf8,
    NotJson,
    NotObject,
    /// No field of it is known, or none has a value.
    NoKnownField,
    TooDeep,
    TooLarge,
    WrongType,
    /// Every value of a known field is out of range or not finite.
    OutOfRange,
    /// Its session was not assigned by this agent.
    UnknownSession,
    /// More publishers are sending than the agent can distinguish.
    TooManyPublishers,
}

impl Reason {
    /// All reasons, so that a metric can show zeros too.
    pub const ALL: [Self; 10] = [
        Self::NotUtf8,
        Self::NotJson,
        Self::NotObject,
        Self::NoKnownField,
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
            Self::NoKnownField => "no_known_field",
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

/// Formats a value for a message: without control characters, truncated to 40 characters.
pub(crate) fn shorten(value: &(impl ToString + ?Sized)) -> String {
    let text = value.to_string().replace(char::is_control, "\u{fffd}");
    match text.char_indices().nth(40) {
        Some(_) => text.chars().take(39).chain(['…']).collect(),
        None => text,
    }
}
