//! Encoding and decoding of entries: the on-disk format of a record.
//!
//! A record is a version byte and a MessagePack array `[stint, captured_at, kind, marks, json]`.
//! Version 2, for an entry captured by another agent, appends `driven_at`; `captured_at` is then
//! only its place in the queue's order. The position is the record's key, so it is not in the
//! record. A reader refuses an unknown version; a new version gets a new number and an arm in
//! [`decode`].

use serde::{Deserialize, Serialize};

use crate::entry::{CapturedAt, Entry, Kind, Seq, StintId};

const VERSION: u8 = 1;
const RELAYED: u8 = 2;

/// The highest rank of a frame: a queue that is downsampled this far keeps one frame in nine hours.
const MAX_RANK: u32 = 16;

/// The fields of a record, in their order on disk.
type Record<Text> = (StintId, CapturedAt, Kind, RetentionFlags, Text);
type RelayedRecord<Text> = (StintId, CapturedAt, Kind, RetentionFlags, Text, CapturedAt);

/// The retention flags of a frame, which control downsampling.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RetentionFlags(u8);

impl RetentionFlags {
    /// Downsampling never removes this frame.
    pub const KEEP: Self = Self(1);
    /// Downsampling removes neither this frame nor its predecessor.
    pub const KEEP_WITH_PREDECESSOR: Self = Self(3);

    pub fn is_kept(self) -> bool {
        self.0 & 1 != 0
    }

    pub fn keeps_predecessor(self) -> bool {
        self.0 & 2 != 0
    }

    /// The flags for the entry with this number in its stream: an entry with a higher rank is kept
    /// longer.
    pub fn numbered(number: u64) -> Self {
        Self((number.trailing_zeros().min(MAX_RANK) as u8 + 1) << 2)
    }

    /// The highest downsampling level at which the frame is kept regardless of its content: a frame
    /// has rank k if its number in its stream is a multiple of 2^k. A record of an earlier version
    /// has no number; its position is used instead.
    pub fn rank(self, seq: Seq) -> u32 {
        match self.0 >> 2 {
            0 => seq.0.trailing_zeros(),
            rank => u32::from(rank) - 1,
        }
    }

    /// The union of both sets of flags.
    #[must_use]
    pub fn and(self, more: Self) -> Self {
        Self(self.0 | more.0)
    }
}

/// Why a record could not be decoded.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("the record is empty")]
    Empty,
    #[error("unknown record version {0} (this program supports up to {RELAYED})")]
    Version(u8),
    #[error("cannot decode the record: {0}")]
    Format(#[from] rmp_serde::decode::Error),
    #[error("{0} bytes follow the record")]
    Trailing(usize),
}

/// Why an entry could not be encoded; the only cause is a lack of memory.
#[derive(Debug, thiserror::Error)]
#[error("cannot encode the entry: {0}")]
pub struct EncodeError(#[from] rmp_serde::encode::Error);

/// Encodes an entry.
pub fn encode(
    stint: StintId,
    captured_at: CapturedAt,
    kind: Kind,
    flags: RetentionFlags,
    json: &str,
) -> Result<Vec<u8>, EncodeError> {
    let mut bytes = Vec::with_capacity(json.len() + 32);
    bytes.push(VERSION);
    let record: Record<&str> = (stint, captured_at, kind, flags, json);
    rmp_serde::encode::write(&mut bytes, &record)?;
    Ok(bytes)
}

/// Encodes an entry that another agent captured at `driven_at`.
pub fn encode_relayed(
    stint: StintId,
    captured_at: CapturedAt,
    driven_at: CapturedAt,
    kind: Kind,
    flags: RetentionFlags,
    json: &str,
) -> Result<Vec<u8>, EncodeError> {
    let mut bytes = Vec::with_capacity(json.len() + 48);
    bytes.push(RELAYED);
    let record: RelayedRecord<&str> = (stint, captured_at, kind, flags, json, driven_at);
    rmp_serde::encode::write(&mut bytes, &record)?;
    Ok(bytes)
}

/// Decodes the entry at `seq`.
pub fn decode(seq: Seq, bytes: &[u8]) -> Result<Entry, DecodeError> {
    let (&version, mut rest) = bytes.split_first().ok_or(DecodeError::Empty)?;
    let (stint, captured_at, kind, json) = match version {
        VERSION => {
            let (stint, at, kind, _, json): Record<String> = rmp_serde::from_read(&mut rest)?;
            (stint, at, kind, json)
        }
        RELAYED => {
            let (stint, _, kind, _, json, at): RelayedRecord<String> =
                rmp_serde::from_read(&mut rest)?;
            (stint, at, kind, json)
        }
        version => return Err(DecodeError::Version(version)),
    };
    match rest.len() {
        0 => Ok(Entry { seq, stint, captured_at, kind, json }),
        trailing => Err(DecodeError::Trailing(trailing)),
    }
}

/// The stint, kind and retention flags of a record; `None` if it cannot be decoded.
pub(super) fn retention(bytes: &[u8]) -> Option<(StintId, Kind, RetentionFlags)> {
    let (stint, _, kind, flags, _) = borrow(bytes)?;
    Some((stint, kind, flags))
}

/// The stint of a record, and its `captured_at`, which defines the queue's order.
pub(super) fn stint_and_time(bytes: &[u8]) -> Option<(StintId, CapturedAt)> {
    let (stint, captured_at, ..) = borrow(bytes)?;
    Some((stint, captured_at))
}

/// The fields that both versions have in common, borrowed from the record.
fn borrow(bytes: &[u8]) -> Option<Record<&str>> {
    let (version, rest) = bytes.split_first()?;
    match *version {
        VERSION => rmp_serde::from_slice(rest).ok(),
        RELAYED => {
            let (stint, captured_at, kind, flags, json, _): RelayedRecord<&str> =
                rmp_serde::from_slice(rest).ok()?;
            Some((stint, captured_at, kind, flags, json))
        }
        _ => None,
    }
}

/// The stint of a record.
pub(super) fn stint(bytes: &[u8]) -> Option<StintId> {
    retention(bytes).map(|(stint, ..)| stint)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_entry_round_trips_through_its_encoding(
            stint in any::<u64>(), at in any::<i64>(), setup in any::<bool>(), json in ".{0,200}",
        ) {
            let kind = if setup { Kind::Setup } else { Kind::Frame };
            let entry = Entry {
                seq: Seq(7), stint: StintId(stint), captured_at: CapturedAt(at), kind, json,
            };
            let bytes = encode(entry.stint, entry.captured_at, kind, RetentionFlags::KEEP, &entry.json).unwrap();
            prop_assert_eq!(decode(Seq(7), &bytes).unwrap(), entry);
        }

        #[test]
        fn a_relayed_entry_keeps_its_original_and_its_local_time(
            here in any::<i64>(), there in any::<i64>(), json in ".{0,200}",
        ) {
            let (stint, kind) = (StintId(3), Kind::Frame);
            let (here, there) = (CapturedAt(here), CapturedAt(there));
            let bytes = encode_relayed(stint, here, there, kind, RetentionFlags::KEEP, &json).unwrap();
            let entry = Entry { seq: Seq(7), stint, captured_at: there, kind, json };
            prop_assert_eq!(decode(Seq(7), &bytes).unwrap(), entry);
            prop_assert_eq!(stint_and_time(&bytes), Some((stint, here)));
            prop_assert_eq!(retention(&bytes), Some((stint, kind, RetentionFlags::KEEP)));
        }

        #[test]
        fn decoding_arbitrary_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(Seq(1), &bytes);
        }

        #[test]
        fn a_truncated_record_is_refused(cut in 0_usize..40) {
            let bytes = encode(StintId(1), CapturedAt(2), Kind::Frame, RetentionFlags::default(), &"x".repeat(40)).unwrap();
            prop_assert!(decode(Seq(1), &bytes[..cut]).is_err());
        }
    }

    #[test]
    fn the_on_disk_record_encoding_is_stable() {
        let flags = RetentionFlags::KEEP_WITH_PREDECESSOR;
        let bytes = encode(StintId(3), CapturedAt(1000), Kind::Setup, flags, "{}").unwrap();
        assert_eq!(bytes, b"\x01\x95\x03\xcd\x03\xe8\xa5setup\x03\xa2{}");
        let (here, there) = (CapturedAt(1000), CapturedAt(7));
        let bytes = encode_relayed(StintId(3), here, there, Kind::Setup, flags, "{}").unwrap();
        assert_eq!(bytes, b"\x02\x96\x03\xcd\x03\xe8\xa5setup\x03\xa2{}\x07");
    }
}
