//! Where entries come from.

pub mod simulator;
