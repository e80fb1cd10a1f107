//! Field offsets in the game's records, in bytes from the start of the record. Numbers are
//! little-endian and often unaligned, so they are read from byte slices.

/// One car's physics.
pub(super) mod telemetry {
    pub(crate) const BYTES: usize = 1888;
    pub(crate) const SLOT: usize = 0;
    /// The session time in s, f64; changes with each update.
    pub(crate) const CLOCK: usize = 12;
    pub(crate) const CAR_NAME: usize = 32;
    pub(crate) const TRACK_NAME: usize = 96;
    /// m/s, three f64.
    pub(crate) const VELOCITY: usize = 184;
    pub(crate) const GEAR: usize = 352;
    pub(crate) const RPM: usize = 356;
    /// °C.
    pub(crate) const WATER_TEMP: usize = 364;
    /// L.
    pub(crate) const FUEL: usize = 524;
    /// L.
    pub(crate) const FUEL_CAPACITY: usize = 608;
    /// Four consecutive records: front left, front right, rear left, rear right.
    pub(crate) const WHEELS: usize = 848;
    pub(crate) const WHEEL_BYTES: usize = 260;

    /// Offsets from the start of a wheel record.
    pub(crate) mod wheel {
        /// K.
        pub(crate) const BRAKE_TEMP: usize = 24;
        /// kPa.
        pub(crate) const PRESSURE: usize = 120;
        /// K, three f64 across the tread.
        pub(crate) const SURFACE_TEMP: usize = 128;
        /// 1.0 is a new tyre, 0.0 a worn-out one.
        pub(crate) const CONDITION: usize = 152;
    }
}

/// The session.
pub(super) mod session {
    pub(crate) const BYTES: usize = 548;
    pub(crate) const TRACK_NAME: usize = 0;
    pub(crate) const KIND: usize = 64;
    /// The session time in s, f64.
    pub(crate) const CLOCK: usize = 68;
    /// The session time at which the session ends in s, f64.
    pub(crate) const END: usize = 76;
    /// The length of the session in laps, i32; `i32::MAX` if only time ends it.
    pub(crate) const MAX_LAPS: usize = 84;
    /// The number of cars, i32.
    pub(crate) const CARS: usize = 104;
    /// °C.
    pub(crate) const AIR_TEMP: usize = 228;
    /// °C.
    pub(crate) const TRACK_TEMP: usize = 236;
}

/// One car in the standings.
pub(super) mod standing {
    pub(crate) const BYTES: usize = 584;
    pub(crate) const SLOT: usize = 0;
    pub(crate) const DRIVER_NAME: usize = 4;
    pub(crate) const CAR_NAME: usize = 36;
    /// Laps completed, i16.
    pub(crate) const LAPS: usize = 100;
    pub(crate) const IS_PLAYER: usize = 196;
    pub(crate) const PLACE: usize = 199;
    /// The time since the start of the lap in s.
    pub(crate) const LAP_TIME: usize = 464;
}

/// The size of a driver's name in bytes.
pub(super) const DRIVER_NAME_BYTES: usize = 32;
/// The size of the name of a car or a track in bytes.
pub(super) const NAME_BYTES: usize = 64;

/// Reads N bytes; all zeros if they extend beyond the end of the record.
pub(super) fn bytes<const N: usize>(record: &[u8], at: usize) -> [u8; N] {
    record.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or([0; N])
}

pub(super) fn float(record: &[u8], at: usize) -> f64 {
    f64::from_le_bytes(bytes(record, at))
}

pub(super) fn integer(record: &[u8], at: usize) -> i32 {
    i32::from_le_bytes(bytes(record, at))
}

pub(super) fn short(record: &[u8], at: usize) -> i16 {
    i16::from_le_bytes(bytes(record, at))
}

pub(super) fn byte(record: &[u8], at: usize) -> u8 {
    let [byte] = bytes(record, at);
    byte
}

/// Reads the text in a field of `length` bytes, up to the first NUL, because the bytes after it are
/// stale. Decodes UTF-8 or else Windows-1252, and trims trailing white space.
pub(super) fn text(record: &[u8], at: usize, length: usize) -> String {
    let field = record.get(at..).unwrap_or_default();
    let field = field.get(..length).unwrap_or(field);
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    let text = match std::str::from_utf8(&field[..end]) {
        Ok(text) => text.into(),
        Err(_) => field[..end].iter().map(|&byte| windows_1252(byte)).collect::<String>(),
    };
    text.trim_end().into()
}

fn windows_1252(byte: u8) -> char {
    const FROM_0X80: [char; 32] = [
        '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8D}', 'Ž',
        '\u{8F}', '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9D}',
        'ž', 'Ÿ',
    ];
    // All other bytes are Latin-1, which equals the first 256 Unicode characters.
    match byte {
        0x80..=0x9F => FROM_0X80[usize::from(byte - 0x80)],
        _ => char::from(byte),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_ends_at_the_first_nul_or_the_end_of_its_field() {
        for (field, expected) in [
            (&b"Spa\0rubbish"[..], "Spa"),
            (b"no end here", "no end here"),
            (b"\0all rubbi", ""),
            (b"blank \t \0", "blank"),
            ("Autódromo\0".as_bytes(), "Autódromo"),
            (b"Aut\xF3dromo\0", "Autódromo"),
            (b"\x80 \x8Euk\x92s \xFF", "€ Žuk’s ÿ"),
        ] {
            assert_eq!(text(field, 0, field.len()), expected);
        }
        assert_eq!(text(b"12345678", 2, 3), "345");
    }

    #[test]
    fn fields_beyond_the_end_of_a_record_read_as_zero_or_empty() {
        let record = [0xFF; 10];
        assert_eq!(float(&record, 4), 0.0);
        assert_eq!((integer(&record, 6), integer(&record, 7)), (-1, 0));
        assert_eq!((text(&record, 8, 4), text(&record, 11, 4)), ("ÿÿ".into(), String::new()));
    }
}
