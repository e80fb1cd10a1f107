//! pitwire: a store-and-forward telemetry agent for sim racing. This is its map.
//!
//! It takes telemetry frames and the car's setup, writes them to a bounded queue on disk, and
//! replays them in order to the team's dashboard server as soon as a connection and a session
//! exist.
//!
//! # One frame's way: seven calls, one direction
//!
//! ```text
//! 1 source::…::run          a sample arrives; clock::now stamps it
//! 2 fields::Frame           sample -> the dashboard's 20 fields          pure
//! 3 Writer::append          admit or make room, encode, Store::append    -- on disk --
//! 4 Reader::next_batch      the oldest entries of one stint
//! 5 Session::serve          the batch that is out
//! 6 Link::publish           emit, wait for proof
//! 7 Reader::remove(batch)   Store::release                               -- gone --
//! ```
//!
//! No room calls back into an earlier one.
//!
//! # Rooms
//!
//! | room | what it does | it must not |
//! | --- | --- | --- |
//! | [`entry`], [`fields`], [`backoff`], [`drain`] | compute | use a clock, I/O, logs or metrics |
//! | [`source`] | read samples, hand them to the queue | know that sessions or sinks exist |
//! | [`queue`] | keep entries in order within bounds; keep the books | know network, time, chance |
//! | [`session`] | the story: bind, publish, prove, remove; all retrying | know sockets or disks |
//! | [`sink`] | speak to a server over one connection | retry, sleep, know the queue |
//! | [`publisher`] | wire queue, session and sink into one handle | |
//! | [`agent`] | the long-running program: publisher, sources, admin pages | |
//! | [`admin`], [`status`], [`metrics`] | show how things stand | |
//! | [`reload`] | a configuration that is read anew and taken over | |
//! | `contract` | the server's side of the dashboard's events | keep sessions |
//! | [`tools`] | what a person does to a queue by hand, at the agent's address too | know sessions |
//! | [`loopback_guard`] | decide who may use a listener: peer, Host, Origin, token | know what is served |
//! | `request` | ask another program of this PC | |
//! | [`net`] | how every listener accepts and serves, within limits | know what is served |
//! | `body`, `offload` | bound the bodies of HTTP requests; parse large texts on another thread | know what is in them |
//! | [`remote_text`] | text of servers and other programs, made safe to log and show | |
//! | `nats` | one connection to a NATS server, for the sink and the source | retry |
//! | [`dashboard`] | the reference dashboard server, for demo and tests | know the agent |
//! | [`config`] | every number with its unit | |
//! | [`memory`] | one setting of the allocator | |
//! | `planted` | faults on purpose, in a build of the tests alone | |
//! | [`cli`] | what was typed, one file a subcommand | |
//!
//! # Invariants
//!
//! - Sources and session meet only in the queue.
//! - An entry is removed only by handing back the batch that was proven.
//! - A position names one entry for ever, whatever a power cut takes.
//! - Shutdown and crash are the same path: nothing is saved at exit but a flush.
//! - All waiting happens in `session` and in `source`.

pub mod admin;
pub mod agent;
pub mod backoff;
mod body;
pub mod cli;
pub mod clock;
pub mod config;
pub(crate) mod contract;
pub mod dashboard;
pub mod drain;
pub mod entry;
pub mod fields;
pub mod loopback_guard;
pub mod memory;
pub mod metrics;
mod nats;
pub mod net;
mod offload;
mod planted;
pub mod publisher;
pub mod queue;
pub mod reload;
pub mod remote_text;
mod request;
pub mod session;
pub mod sink;
pub mod source;
pub mod status;
pub mod tools;

pub use self::publisher::DashboardPublisher;

/// Compiles the example in the documentation as a doc test.
#[cfg(doctest)]
#[doc = include_str!("../deploy/docs/library.md")]
pub struct DocumentationTests;
