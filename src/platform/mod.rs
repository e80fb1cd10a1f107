//! The process and the operating system: the clock, the allocator, and threads for long computations.

pub mod clock;
pub mod memory;
pub(crate) mod offload;
