//! Durations and sizes, written as a whole number and a unit.

use std::time::Duration;

use super::ParseError;

/// Name and milliseconds, largest first.
const TIMES: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000), ("ms", 1)];

/// Name and bytes. The binary units come first, largest first, because [`show_size`] uses them.
const SIZES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
];

/// Parses a whole number and a unit, `ms`, `s`, `min`, `h` or `d`: `200ms`, `30 min`, `7d`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, ParseError> {
    let (number, unit) = split(text).ok_or(ParseError("is not a duration"))?;
    if unit.is_empty() {
        return Err(ParseError("has no unit"));
    }
    let factor = factor(&TIMES, unit).ok_or(ParseError("is not a duration"))?;
    let milliseconds = number.checked_mul(factor).ok_or(ParseError("is out of range"))?;
    Ok(Duration::from_millis(milliseconds))
}

/// Parses a size: a whole number, optionally with a unit, `B`, `KB` to `TB` or `KiB` to `TiB`.
pub(super) fn parse_size(text: &str) -> Result<u64, ParseError> {
    let (number, unit) = split(text).ok_or(ParseError("is not a size"))?;
    let unit = if unit.is_empty() { "B" } else { unit };
    let factor = factor(&SIZES, unit).ok_or(ParseError("is not a size"))?;
    number.checked_mul(factor).ok_or(ParseError("is out of range"))
}

/// The shortest text that [`parse_duration`] parses back; truncates to milliseconds.
pub(super) fn show_duration(duration: Duration) -> String {
    let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if milliseconds == 0 { "0s".into() } else { show(&TIMES, milliseconds) }
}

/// The shortest text that [`parse_size`] parses back.
pub(super) fn show_size(bytes: u64) -> String {
    if bytes == 0 { "0B".into() } else { show(&SIZES, bytes) }
}

fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim_start()))
}

fn factor(units: &[(&str, u64)], unit: &str) -> Option<u64> {
    units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).map(|(_, factor)| *factor)
}

fn show(units: &[(&str, u64)], amount: u64) -> String {
    // Each table has a unit of 1, which divides every amount.
    let divides = units.iter().find(|(_, factor)| amount.is_multiple_of(*factor));
    divides.map_or_else(String::new, |(name, factor)| format!("{}{name}", amount / factor))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_and_sizes_are_parsed_with_their_units() {
        for (text, milliseconds) in [
            ("200ms", 200),
            (" 5 s ", 5_000),
            ("30min", 1_800_000),
            ("2H", 7_200_000),
            ("7d", 604_800_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        assert_eq!(parse_duration("7"), Err(ParseError("has no unit")));
        assert_eq!(parse_duration("99999999999999999d"), Err(ParseError("is out of range")));
        for text in ["", "s", "soon", "-5s", "1.5s", "5m", "5 s s", "99999999999999999999s"] {
            assert_eq!(parse_duration(text), Err(ParseError("is not a duration")), "{text}");
        }

        assert_eq!(parse_size("1024"), Ok(1024));
        assert_eq!(parse_size("1 KB"), Ok(1_000));
        assert_eq!(parse_size("2GiB"), Ok(2_147_483_648));
        assert_eq!(parse_size("1tib"), Ok(1_099_511_627_776));
        assert_eq!(parse_size("99999999TiB"), Err(ParseError("is out of range")));
        for text in ["", "GiB", "big", "-1", "1.5GiB", "5 bytes"] {
            assert_eq!(parse_size(text), Err(ParseError("is not a size")), "{text}");
        }
    }

    proptest! {
        #[test]
        fn shown_durations_and_sizes_parse_back(amount: u64) {
            let duration = Duration::from_millis(amount);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
            prop_assert_eq!(parse_size(&show_size(amount)), Ok(amount));
        }
    }
}
