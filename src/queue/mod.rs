//! The queue: a bounded, durable FIFO of entries on disk.
//!
//! [`open`] returns a [`Writer`] for the sources and a [`Reader`] for the session of each
//! destination; the queue is the only link between them. An [`Operator`](operator::Operator)
//! inspects and edits the queue by hand. One task, the queue worker, owns the [storage] and runs on
//! its own thread, so that an fsync never blocks another task.
//!
//! Invariants, each checked by a test:
//! - A position identifies one entry forever; positions only increase, also across power cuts.
//! - An entry leaves the queue in one of three ways: [`Reader::ack`] of the batch in which it was
//!   read, a drop with a [`DropReason`](ledger::DropReason), or downsampling.
//! - The [ledger] balances against the positions at all times.

mod batch;
mod buffer;
mod delivered_elsewhere;
mod disk_event;
pub mod disposition;
mod engine;
mod error;
pub mod fsck;
pub mod ledger;
mod limits;
mod new_entry;
mod open;
pub mod operator;
mod reader;
pub mod record;
mod stamps;
mod status;
pub mod storage;
mod watchdog;
mod worker;
mod writer;

pub use self::batch::Batch;
pub use self::buffer::{APPEND_TIMEOUT, BUFFER_BYTES, BUFFER_ENTRIES};
pub(crate) use self::delivered_elsewhere::DeliveredElsewhere;
pub use self::disk_event::{DiskEvent, DiskObserver};
pub use self::engine::{DROP_STEP_ENTRIES, LookedAhead, RECENT};
pub use self::error::{OpenError, QueueError};
pub(crate) use self::fsck::MAX_FINDINGS;
pub use self::limits::{Limit, Limits};
pub use self::new_entry::{Appended, Content, NewEntry};
pub(crate) use self::open::STORAGE_OPEN_INTERVAL;
pub use self::open::{Closed, Destinations, open, open_existing, with_store};
pub(crate) use self::operator::{PAGE_BYTES, PAGE_ENTRIES};
pub use self::reader::Reader;
pub use self::stamps::{Stamp, Stamps};
pub use self::status::{DestinationStatus, QueueStatus, StreamStint};
pub use self::storage::FIRST;
pub(crate) use self::storage::disk::replace_undurably;
pub use self::watchdog::Stuck;
pub use self::worker::{REMOVE_FLUSH_INTERVAL, STORAGE_RETRY_INTERVAL};
pub use self::writer::Writer;
