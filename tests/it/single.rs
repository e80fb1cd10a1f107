//! Queues with one destination, `server`.

use std::io;

use pitwire::config::{QueueConfig, SERVER, StintConfig};
use pitwire::entry::{CapturedAt, Seq};
use pitwire::platform::clock::{Clock, Reading};
use pitwire::queue::disposition::Disposition;
use pitwire::queue::operator::Operator;
use pitwire::queue::storage::Store;
use pitwire::queue::{self, Closed, Destinations, Limits, OpenError, Reader, Writer};

/// Clocks that both show this many milliseconds.
pub fn reading(ms: i64) -> Reading {
    Reading { wall: CapturedAt(ms), uptime_ms: ms }
}

/// A clock that is stopped at `ms`.
pub fn at(ms: i64) -> Clock {
    Clock::new("test", move || reading(ms))
}

pub fn open(
    queue: &QueueConfig,
    stint: &StintConfig,
    clock: Clock,
) -> Result<(Writer, Reader, Closed), OpenError> {
    let destinations = [SERVER.to_owned()];
    let limits = Limits::new(queue, stint);
    let destinations = Destinations::Configured(&destinations);
    let (writer, mut readers, closed) = queue::open(queue, limits, destinations, clock, |_| {})?;
    Ok((writer, readers.remove(0), closed))
}

pub fn with_store<S: Store>(
    store: S,
    limits: Limits,
    clock: Clock,
) -> io::Result<((Writer, Reader), impl Future<Output = ()> + Send + use<S>)> {
    let destinations = [SERVER.to_owned()];
    let destinations = Destinations::Configured(&destinations);
    let ((writer, mut readers), worker) =
        queue::with_store(Box::new(store), limits, destinations, clock, |_| {})?;
    Ok(((writer, readers.remove(0)), worker))
}

/// The disposition of an entry.
pub async fn disposition(operator: &Operator, seq: Seq) -> Disposition {
    operator.dispositions(seq).await.unwrap()[0].disposition
}
