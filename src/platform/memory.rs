//! Allocator tuning: returns freed memory to the operating system.
//!
//! Sealing or opening a segment briefly allocates a few buffers of 1 MiB. When the first of them is
//! freed, glibc raises its mmap threshold and serves later ones from the heap, which fragments:
//! 75 MB after 60,000 entries, and growing, instead of 28 MB.
//!
//! glibc also gives each thread a separate heap, which never shrinks below its largest job: two
//! threads that had each parsed a body of 8 MB kept 15 MB each. One heap serves all threads here;
//! they allocate too rarely at the same time to wait for each other.

/// Fixes the mmap threshold, so that each large block is returned to the system when it is freed,
/// and lets all threads share one heap. Call it at the start of a program; does nothing with
/// allocators other than glibc's.
#[allow(unsafe_code, reason = "the allocator's parameters have no safe form")]
pub fn give_back_what_is_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const LARGE_BYTES: libc::c_int = 128 << 10;
        // The threshold is the default; setting it explicitly keeps glibc from raising it.
        for (parameter, value) in [(libc::M_MMAP_THRESHOLD, LARGE_BYTES), (libc::M_ARENA_MAX, 1)] {
            // SAFETY: mallopt changes a parameter of the allocator and has no other effect.
            if unsafe { libc::mallopt(parameter, value) } == 0 {
                tracing::debug!(parameter, "cannot tune the allocator; memory use may grow");
            }
        }
    }
}
