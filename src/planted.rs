//! Seeded mutations: deliberate faults that show whether the tests would find them.
//! `tests/planted.txt` lists them; `tests/planted.sh` enables each in turn and runs the tests.
//!
//! In every other build the function below is a constant `false` and its calls vanish.

/// Whether this fault is enabled: never, in this build.
#[cfg(not(planted))]
#[inline(always)]
pub(crate) const fn planted(_fault: &str) -> bool {
    false
}

/// Whether this fault is enabled: the environment variable `PLANTED` names it.
#[cfg(planted)]
pub(crate) fn planted(fault: &str) -> bool {
    static PLANTED: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    PLANTED.get_or_init(|| std::env::var("PLANTED").unwrap_or_default()) == fault
}
