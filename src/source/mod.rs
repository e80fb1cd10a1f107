//! The sources of entries. Every source passes its samples to an [`Intake`]; none of them depends
//! on sessions or sinks.

pub(crate) mod activity;
pub mod http;
pub mod intake;
pub mod line_counts;
pub mod lines;
pub mod lmu;
pub(crate) mod nats;
mod omitted;
pub mod pace;
mod rate;
mod rate_counts;
pub mod recording;
pub mod sample;
pub mod simulator;
pub mod socketio;
pub(crate) mod thread_reader;

pub(crate) use self::activity::{SourceActivity, SourceView};
pub use self::intake::{Intake, Taken};
pub use self::line_counts::LineCounts;
pub(crate) use self::rate_counts::{RateCount, RateCounts};
pub use self::sample::Sample;
