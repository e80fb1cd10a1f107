//! Short versions of long tests for every run, the long ones with `LONG=1`.

pub fn is_long() -> bool {
    std::env::var_os("LONG").is_some()
}

/// How much to do: `short`, or `long` with `LONG=1`.
pub fn size(short: usize, long: usize) -> usize {
    if is_long() { long } else { short }
}
