//! Checksummed frames that can be verified on their own and found again in a damaged file.
//!
//! `magic | len u32 | crc32 u32 | seq u64 | payload`, little-endian. The checksum covers the
//! segment's base position, the length, the position and the payload, so that stale bytes of
//! another file are not mistaken for frames of this one.

use crate::entry::Seq;

const MAGIC: [u8; 4] = *b"pwE1";
/// The size of the header that precedes the payload.
pub(super) const HEADER: usize = 20;

/// Encodes `payload` as the frame of position `seq` in the segment `base_seq`.
pub(super) fn encode(base_seq: Seq, seq: Seq, payload: &[u8]) -> Vec<u8> {
    let len = payload.len() as u32;
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(&sum(base_seq, len, seq, payload).to_le_bytes());
    bytes.extend_from_slice(&seq.0.to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Decodes the frame of the segment `base_seq` at the start of `bytes`; `None` if it is incomplete or
/// damaged.
pub(super) fn decode(base_seq: Seq, bytes: &[u8]) -> Option<(Seq, &[u8])> {
    let (magic, rest) = bytes.split_first_chunk()?;
    let (len, rest) = rest.split_first_chunk()?;
    let (stored, rest) = rest.split_first_chunk()?;
    let (seq, rest) = rest.split_first_chunk()?;
    let (len, seq) = (u32::from_le_bytes(*len), Seq(u64::from_le_bytes(*seq)));
    let payload = rest.get(..usize::try_from(len).ok()?)?;
    let whole = *magic == MAGIC && u32::from_le_bytes(*stored) == sum(base_seq, len, seq, payload);
    whole.then_some((seq, payload))
}

/// Scans `bytes` for all intact frames of the segment `base_seq`, and returns each with its offset.
pub(super) fn scan(base_seq: Seq, bytes: &[u8]) -> impl Iterator<Item = (usize, Seq, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let rest = bytes.get(at..)?;
            if let Some((seq, payload)) = decode(base_seq, rest) {
                let offset = at;
                at += HEADER + payload.len();
                return Some((offset, seq, payload));
            }
            // Skip to the next byte that could begin a frame.
            let ahead = rest.get(1..)?.iter().position(|&byte| byte == MAGIC[0])?;
            at += 1 + ahead;
        }
    })
}

fn sum(base_seq: Seq, len: u32, seq: Seq, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&base_seq.0.to_le_bytes());
    hasher.update(&len.to_le_bytes());
    hasher.update(&seq.0.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn frames_after_damaged_bytes_are_found(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 1..8),
            garbage in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            let base_seq = Seq(5);
            let mut bytes = garbage;
            for (i, payload) in payloads.iter().enumerate() {
                bytes.extend(encode(base_seq, Seq(i as u64), payload));
            }
            let found: Vec<_> = scan(base_seq, &bytes).map(|(_, _, payload)| payload.to_vec()).collect();
            prop_assert_eq!(&found, &payloads);
            prop_assert_eq!(scan(Seq(6), &bytes).count(), 0);
        }

        #[test]
        fn a_frame_with_a_flipped_bit_is_rejected(
            payload in proptest::collection::vec(any::<u8>(), 0..60), bit in any::<usize>(),
        ) {
            let mut bytes = encode(Seq(1), Seq(2), &payload);
            let bit = bit % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(decode(Seq(1), &bytes), None);
        }
    }
}
