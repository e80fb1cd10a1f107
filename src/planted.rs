//! Faults that are planted on purpose, to show that the tests would find them. `tests/planted.txt`
//! lists them all; `tests/planted.sh` builds them in and runs the tests against each.
//!
//! In every other build there is none: the function below is constant and its calls vanish.

/// Whether this fault is there.
#[cfg(not(planted))]
#[inline(always)]
pub(crate) const fn planted(_fault: &str) -> bool {
    false
}

/// Whether this fault is there: the variable `PLANTED` names it.
#[cfg(planted)]
pub(crate) fn planted(fault: &str) -> bool {
    static PLANTED: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    PLANTED.get_or_init(|| std::env::var("PLANTED").unwrap_or_default()) == fault
}
