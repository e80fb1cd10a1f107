//! Encoding and decoding of entries: the on-disk format of a record.
//!
//! A record is a version byte and a MessagePack array
//! `[stint, queued_at, captured_at, kind, flags, json, origin]`; `origin` is nil unless the entry is
//! relayed from another agent. The position is the record's key, so it is not in the record. A
//! reader refuses an unknown version; a new version gets a new number and an arm in [`decode`].

use serde::{Deserialize, Serialize};

use crate::entry::{CapturedAt, Entry, Kind, QueueTime, Seq, StintId};

const VERSION: u8 = 1;

/// The highest rank of a frame: a queue that is downsampled this far keeps one frame in nine hours.
const MAX_RANK: u32 = 16;

/// The fields of a record, in their order on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record<Text> {
    pub stint: StintId,
    /// Defines the order of the queue, and the age of the entry.
    pub queued_at: QueueTime,
    pub captured_at: CapturedAt,
    pub kind: Kind,
    pub flags: RetentionFlags,
    pub json: Text,
    /// The position of a relayed entry in the queue of the agent that captured it.
    pub origin: Option<Seq>,
}

impl<'a> Record<&'a str> {
    /// An entry captured at the time at which it is queued.
    pub fn new(
        stint: StintId,
        at: QueueTime,
        kind: Kind,
        flags: RetentionFlags,
        json: &'a str,
    ) -> Self {
        let captured_at = CapturedAt(at.0);
        Self { stint, queued_at: at, captured_at, kind, flags, json, origin: None }
    }
}

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
    /// has rank k if its number in its stream is a multiple of 2^k. Without a number, its position is
    /// used instead.
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
    #[error("unknown record version {0} (this program supports {VERSION})")]
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

/// Encodes a record.
pub fn encode(record: &Record<&str>) -> Result<Vec<u8>, EncodeError> {
    let mut bytes = Vec::with_capacity(record.json.len() + 40);
    bytes.push(VERSION);
    rmp_serde::encode::write(&mut bytes, record)?;
    Ok(bytes)
}

/// Decodes the entry at `seq`.
pub fn decode(seq: Seq, bytes: &[u8]) -> Result<Entry, DecodeError> {
    let (&version, mut rest) = bytes.split_first().ok_or(DecodeError::Empty)?;
    if version != VERSION {
        return Err(DecodeError::Version(version));
    }
    let Record { stint, captured_at, kind, json, .. }: Record<String> =
        rmp_serde::from_read(&mut rest)?;
    match rest.len() {
        0 => Ok(Entry { seq, stint, captured_at, kind, json }),
        trailing => Err(DecodeError::Trailing(trailing)),
    }
}

/// The fields of a record, borrowed from it; `None` if it cannot be decoded.
pub fn fields(bytes: &[u8]) -> Option<Record<&str>> {
    let (version, rest) = bytes.split_first()?;
    if *version != VERSION {
        return None;
    }
    rmp_serde::from_slice(rest).ok()
}

/// The stint of a record.
pub(super) fn stint(bytes: &[u8]) -> Option<StintId> {
    fields(bytes).map(|record| record.stint)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(json: &str) -> Record<&str> {
        Record {
            stint: StintId(3),
            queued_at: QueueTime(1000),
            captured_at: CapturedAt(7),
            kind: Kind::Setup,
            flags: RetentionFlags::KEEP_WITH_PREDECESSOR,
            json,
            origin: None,
        }
    }

    proptest! {
        #[test]
        fn an_entry_round_trips_through_its_encoding(
            stint in any::<u64>(), queued_at in any::<i64>(), at in any::<i64>(),
            setup in any::<bool>(), origin in any::<Option<u64>>(), json in ".{0,200}",
        ) {
            let record = Record {
                stint: StintId(stint),
                queued_at: QueueTime(queued_at),
                captured_at: CapturedAt(at),
                kind: if setup { Kind::Setup } else { Kind::Frame },
                origin: origin.map(Seq),
                ..record(&json)
            };
            let bytes = encode(&record).unwrap();
            prop_assert_eq!(fields(&bytes).unwrap(), record.clone());
            let Record { stint, captured_at, kind, .. } = record;
            let entry = Entry { seq: Seq(7), stint, captured_at, kind, json };
            prop_assert_eq!(decode(Seq(7), &bytes).unwrap(), entry);
        }

        #[test]
        fn decoding_arbitrary_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(Seq(1), &bytes);
        }

        #[test]
        fn a_truncated_record_is_refused(cut in 0_usize..40) {
            let text = "x".repeat(40);
            let bytes = encode(&record(&text)).unwrap();
            prop_assert!(decode(Seq(1), &bytes[..cut]).is_err());
        }
    }

    #[test]
    fn the_on_disk_record_encoding_is_stable() {
        let bytes = encode(&record("{}")).unwrap();
        assert_eq!(bytes, b"\x01\x97\x03\xcd\x03\xe8\x07\xa5setup\x03\xa2{}\xc0");
        let bytes = encode(&Record { origin: Some(Seq(9)), ..record("{}") }).unwrap();
        assert_eq!(bytes, b"\x01\x97\x03\xcd\x03\xe8\x07\xa5setup\x03\xa2{}\x09");
    }
}
