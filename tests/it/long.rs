//! Sizes of long tests: short by default, full with `LONG=1`.

pub fn is_long() -> bool {
    std::env::var_os("LONG").is_some()
}

/// Returns `short`, or `long` with `LONG=1`.
pub fn size(short: usize, long: usize) -> usize {
    if is_long() { long } else { short }
}
