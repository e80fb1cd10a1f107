//! The memory of the process: what is freed goes back to the system.
//!
//! Each segment that is sealed or opened takes a few buffers of a mebibyte for a moment. The GNU C
//! library takes the first of them that is freed as a sign to keep such memory from then on, and
//! spreads it: 75 MB after 60,000 entries, growing, instead of 28.

/// Keeps large blocks apart, so that each goes back when it is freed. For the start of a program;
/// does nothing where the system's allocator is another one.
#[allow(unsafe_code, reason = "the allocator's parameters have no safe form")]
pub fn give_back_what_is_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const LARGE_BYTES: libc::c_int = 128 << 10;
        // SAFETY: mallopt changes a parameter of the allocator and has no other effect. The value
        // is its default; that it is set keeps it from rising.
        let done = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES) };
        if done == 0 {
            tracing::debug!("the allocator does not let its threshold be set");
        }
    }
}
