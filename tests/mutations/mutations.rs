//! Seeded mutations: deliberate faults that show whether the tests would find them. `mutations.sh`
//! adds this module, and the calls of its function, to a copy of the source.

/// Whether this mutation is enabled: the environment variable `MUTATION` names it.
pub(crate) fn mutation(name: &str) -> bool {
    static MUTATION: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    MUTATION.get_or_init(|| std::env::var("MUTATION").unwrap_or_default()) == name
}
