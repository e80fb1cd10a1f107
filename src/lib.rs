//! pitwire: a store-and-forward telemetry agent for sim racing. This page is the architecture map.
//!
//! The agent accepts telemetry frames and the car's setup, writes them to a bounded queue on disk,
//! and replays them in order to the team's dashboard server as soon as a connection and a session
//! exist.
//!
//! # Data path: seven calls, one direction
//!
//! ```text
//! 1 source::…::run          receive a sample
//! 2 fields::Frame           keep a dashboard frame, map any other sample  pure
//! 3 Writer::append          stamp, admit or evict, Storage::append        -- on disk --
//! 4 Reader::next_batch      read the oldest undelivered entries
//! 5 Session::serve          hold the batch that is in flight
//! 6 Link::publish           emit, wait for proof
//! 7 Reader::ack(batch)      Storage::truncate                              -- gone --
//! ```
//!
//! No module calls back into an earlier one.
//!
//! # Modules
//!
//! The last column names every module that a module uses; `tests/it/architecture.rs` compares it with
//! the source and fails if two modules use each other.
//!
//! | module | does | must not | uses |
//! | --- | --- | --- | --- |
//! | [`entry`] | the data that passes through the agent | use a clock, I/O, logs or metrics | – |
//! | [`fields`] | map samples to dashboard frames; pure | use a clock, I/O, logs or metrics | config entry |
//! | [`backoff`] | compute the waits between attempts; pure | use a clock, I/O, logs or metrics | – |
//! | [`source`] | read samples and hand them to the queue | know that sessions or sinks exist | backoff config contract entry fields metrics nats net platform queue remote_text |
//! | [`queue`] | keep entries in order, bounded, accounted for | know network, chance or metrics | config entry fields platform |
//! | [`session`] | the delivery loop: bind, publish, prove, remove, retry | know sockets or disks | backoff config entry fields metrics platform queue sink |
//! | [`sink`] | speak to a server over one connection | retry, know the queue | config entry fields nats net platform remote_text |
//! | [`publisher`] | wire queue, session and sink into one handle | – | backoff config fields metrics platform queue session sink source |
//! | [`agent`] | the long-running program: publisher, sources, admin pages, reload | – | admin config entry metrics net platform publisher queue session source status |
//! | [`admin`] | the routes of the admin address: metrics, health, status page, queue requests | – | config entry metrics net queue session sink source status tools |
//! | [`status`] | what the status page and `/status` show | – | config entry net queue session sink source tools |
//! | [`metrics`] | the Prometheus metrics | know who reports | entry |
//! | `contract` | the server side of the dashboard's Socket.IO events | keep sessions | fields net |
//! | [`tools`] | inspect and change a queue, here or over the admin address | know sessions | config entry fields net platform queue source |
//! | [`net`] | accept and serve the connections of every listener, bounded and guarded; send HTTP requests | know the routes | config |
//! | [`remote_text`] | make text from servers and other programs safe to log and show | – | config |
//! | `nats` | one connection to a NATS server, for the sink and the source | retry | config remote_text |
//! | [`dashboard`] | the reference dashboard server, for `serve`, demo and tests | know the agent | contract entry fields net platform remote_text |
//! | [`config`] | settings with defaults, units and ranges; a limit that is not a setting is next to its user | – | – |
//! | [`platform`] | the wall clock and the uptime, the allocator, threads for long computations | – | entry fields |
//! | [`cli`] | the command line, one file per subcommand | – | admin agent config dashboard entry fields metrics net platform publisher queue remote_text session sink source status tools |
//!
//! `src/vendor/rust_engineio` is a separate crate: rust_engineio 0.6.0 with bounds on what a server
//! may send. Its `README.md` lists the changes.
//!
//! # Threads and channels
//!
//! Async code runs on one thread, so that it wakes one core at a time; whatever may block, or belongs
//! to a library with a separate runtime, has a dedicated thread.
//!
//! ```text
//!  file threads ─┐                                        ┌─ connection thread (Socket.IO), or
//!  game reader ──┤   main thread                          │  NATS thread, one a destination
//!  listeners ────┼─► sources ──► Buffer ──► queue worker ─┼─► session ──► link ──► server
//!  NATS hub ─────┘   (tasks)     (mutex)    (thread)      │   (task)
//!                                              │          │
//!                    parser thread             └─ sled threads, one a database in use
//! ```
//!
//! | from | to | through | bound | at the bound |
//! | --- | --- | --- | --- | --- |
//! | threads of the recording and of standard input that is no pipe | main | `tokio::io::duplex` | 256 KiB each | the thread waits, and so does a pipe |
//! | game reader | storing task | `mpsc` of samples | 256, two minutes at 2 Hz | newer samples are dropped and counted as gaps |
//! | listener | connection task | `net::Connections` | 32 to 512 a listener, by peer | closed or refused, logged |
//! | HTTP bodies | source | `net::body` | 12 MiB in all | the request waits 5 s, then 503 |
//! | large texts | parser thread | a semaphore | one at a time | the request waits |
//! | source | queue worker | `queue::buffer`, a mutex and `Notify` | 16,384 entries, 12 MiB | downsampled, then dropped (`storage`); a file or pipe waits |
//! | queue worker | sled thread | one call at a time | 4 s a call, 4 hung databases | abandoned; the next attempt uses a new folder |
//! | session, tools | queue worker | `mpsc` of requests with `oneshot` replies | 256 | the caller waits |
//! | queue worker | all | `watch` of `QueueStatus` | the newest | – |
//! | session | connection thread | `mpsc` of emits | 1 batch | the session waits |
//! | connection thread | session | `mpsc` of events | 4,096; 100,000 a second | the connection ends as flooded |
//! | session | status page, metrics | `watch` of `SessionStatus` | the newest | – |
//! | hub | session | `mpsc` of gate commands | 4 | the hub waits for each |
//! | log | terminal thread | `sync_channel` of texts | 256 | further lines are discarded |
//!
//! At the end of the agent the sources stop first; the queue worker then stores and flushes what is
//! buffered, within 5 s.
//!
//! # Invariants
//!
//! - Sources and session share nothing but the queue.
//! - An entry is removed only by handing back the batch whose proof arrived.
//! - A sequence number identifies one entry and is never reused, even after a power cut.
//! - Shutdown and crash take the same path: the only work at exit is a flush.
//! - Connections are retried only in `session` and `source`.

pub mod admin;
pub mod agent;
pub mod backoff;
pub mod cli;
pub mod config;
pub(crate) mod contract;
pub mod dashboard;
pub mod entry;
pub mod fields;
pub mod metrics;
mod nats;
pub mod net;
pub mod platform;
pub mod publisher;
pub mod queue;
pub mod remote_text;
pub mod session;
pub mod sink;
pub mod source;
pub mod status;
pub mod tools;

pub use self::publisher::DashboardPublisher;

/// Compiles the example in `deploy/docs/library.md` as a doc test.
#[cfg(doctest)]
#[doc = include_str!("../deploy/docs/library.md")]
pub struct DocumentationTests;
