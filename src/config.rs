//! The numbers of the program, each with its unit.

/// The largest sample or setup that is taken, in bytes of JSON.
///
/// The server closes the connection on a message above 1,000,000 bytes; the rest is the envelope.
pub const MAX_SAMPLE_BYTES: usize = 900_000;

/// The deepest nesting of objects and arrays that is taken; a flat object has depth 1.
pub const MAX_SAMPLE_DEPTH: usize = 32;
