//! Where entries come from. Every source hands its samples to an [`Intake`]; none of them knows
//! that sessions or sinks exist.

pub mod http;
pub mod intake;
pub mod lines;
pub mod lmu;
pub mod nats;
pub mod simulator;
pub mod socketio;

pub use self::intake::{Intake, Sample, Taken};
