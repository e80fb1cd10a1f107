//! Where entries come from.
