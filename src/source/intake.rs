//! Turns a source's samples into queue entries: check, rate-limit, stamp, map, append.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::omitted::OmittedValues;
use super::rate::RateLimiter;
use super::rate_counts::RateCounts;
use super::{Sample, SourceActivity};
use crate::entry::{CapturedAt, CarId, Seq, StintId};
use crate::fields::{Omissions, Refused};
use crate::metrics;
use crate::net::LOG_REPEAT_INTERVAL;
use crate::queue::ledger::DropReason;
use crate::queue::{Appended, Content, NewEntry, QueueError, Stamp, Stamps, Writer};

/// An entry that another agent created.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Relayed {
    /// Its position in the queue of that agent.
    pub(super) origin: Seq,
    pub(super) captured_at: CapturedAt,
    pub(super) content: Content,
    pub(super) json: String,
}

/// The outcome for one sample.
#[derive(Clone, Debug, PartialEq)]
pub enum Taken {
    /// Stored in the queue.
    Stored(Seq),
    /// Not stored: the setup equals the previous one.
    Unchanged,
    /// Rate-limited: the source is faster than `update_rate_hz`.
    RateLimited,
    /// Not stored; the queue counts it under this reason.
    Dropped(DropReason),
    /// Kept in memory, because the disk is too slow or fails.
    Buffered,
    /// Not stored: the sample is invalid.
    Refused(Refused),
}

/// The interface through which a source adds entries to the queue.
#[derive(Debug)]
pub struct Intake {
    writer: Writer,
    source: &'static str,
    is_patient: bool,
    rate: Mutex<RateLimiter>,
    counts: RateCounts,
    activity: SourceActivity,
    /// When the last refusal was logged.
    refused_at: Mutex<Option<Instant>>,
    /// The timestamp of the last sample of a recording.
    last_recorded: Mutex<Option<CapturedAt>>,
    omitted: OmittedValues,
}

impl Intake {
    /// Creates the intake of `source`, rate-limited to `rate_hz`; 0 keeps every sample.
    pub fn new(writer: Writer, source: &'static str, rate_hz: f64) -> Self {
        let rate = Mutex::new(RateLimiter::new(rate_hz));
        Self {
            writer,
            source,
            is_patient: false,
            rate,
            counts: RateCounts::default(),
            activity: SourceActivity::default(),
            refused_at: Mutex::default(),
            last_recorded: Mutex::default(),
            omitted: OmittedValues::of(source),
        }
    }

    /// Applies each new value of `hz` as the rate limit.
    #[must_use]
    pub fn following(self, hz: watch::Receiver<f64>) -> Self {
        let rate = self.rate.into_inner().unwrap_or_else(PoisonError::into_inner);
        Self { rate: Mutex::new(rate.following(hz)), ..self }
    }

    /// Counts the samples that the rate limit leaves out in `counts`.
    #[must_use]
    pub(crate) fn counting(self, counts: RateCounts) -> Self {
        Self { counts, ..self }
    }

    /// Records in `activity` when samples arrive.
    #[must_use]
    pub(crate) fn reporting(self, activity: SourceActivity) -> Self {
        Self { activity, ..self }
    }

    /// Where the activity of the source is recorded.
    pub(super) fn activity(&self) -> SourceActivity {
        self.activity.clone()
    }

    /// For a source that loses nothing by waiting, such as a file: [`Intake::take`] waits for the
    /// disk, and with `when_full = "block"` for room in the queue, without a time limit. Its
    /// samples belong to the agent's default stream. A pause between the timestamps of two samples
    /// is a pause in the stint, however fast they are read.
    #[must_use]
    pub(crate) fn patient(self) -> Self {
        Self { is_patient: true, ..self }
    }

    /// Counts and logs input that is not a valid sample.
    pub fn refuse(&self, refused: Refused) {
        metrics::sampled(self.source);
        self.count(&Taken::Refused(refused));
    }

    /// Counts and logs values that a source has omitted before it parsed its samples.
    pub(super) fn note_omissions(&self, omissions: &Omissions) {
        self.omitted.note(omissions);
    }

    /// The current stint of a stream; `None` if no recent entry of the stream was stored.
    pub fn stint(&self, car: &CarId) -> Option<StintId> {
        let stints = self.writer.status().stints;
        stints.iter().find(|(known, _)| known == car).map(|(_, stint)| *stint)
    }

    /// The number of entries in the queue.
    pub fn entries(&self) -> u64 {
        self.writer.status().entries
    }

    /// Stores samples of the agent's own stream in order. Returns when the accepted ones are as
    /// durable as the configuration promises, or the disk is too slow.
    ///
    /// Refused samples are counted and logged; they do not affect the others.
    pub async fn take(
        &self,
        samples: Vec<Result<Sample, Refused>>,
    ) -> Result<Vec<Taken>, QueueError> {
        self.take_from(&CarId::default(), samples).await
    }

    /// Does what [`Intake::take`] does, for samples of any stream.
    pub(crate) async fn take_from(
        &self,
        car: &CarId,
        samples: Vec<Result<Sample, Refused>>,
    ) -> Result<Vec<Taken>, QueueError> {
        let count = samples.len();
        let mut taken = Vec::with_capacity(count);
        let arrival = Instant::now();
        if count > 0 {
            self.activity.sampled(self.source);
        }
        let appended = if self.is_patient {
            self.writer
                .append_blocking(count, |stamps| self.admit(samples, arrival, stamps, &mut taken))
                .await?
        } else {
            self.writer
                .append_from(car, |stamps| self.admit(samples, arrival, stamps, &mut taken))
                .await?
        };
        let mut appended = appended.into_iter().map(Taken::from);
        let taken: Vec<_> =
            taken.into_iter().filter_map(|taken| taken.or_else(|| appended.next())).collect();
        taken.iter().for_each(|taken| self.count(taken));
        let left_out = taken.iter().filter(|taken| **taken == Taken::RateLimited).count();
        let limit = lock(&self.rate).hz();
        self.counts.add(self.source, taken.len() as u64, left_out as u64, limit);
        Ok(taken)
    }

    /// Makes entries of the samples that are valid and not rate-limited. Pushes an outcome for each
    /// sample to `taken`, `None` for a sample that the queue decides on.
    fn admit(
        &self,
        samples: Vec<Result<Sample, Refused>>,
        arrival: Instant,
        stamps: &mut Stamps,
        taken: &mut Vec<Option<Taken>>,
    ) -> Vec<NewEntry> {
        let mut entries = Vec::with_capacity(samples.len());
        let mut rate = lock(&self.rate);
        for sample in samples {
            metrics::sampled(self.source);
            let sample = match sample {
                Ok(sample) => {
                    self.omitted.note(sample.omissions());
                    sample
                }
                Err(refused) => {
                    taken.push(Some(Taken::Refused(refused)));
                    continue;
                }
            };
            let own = own_timestamp(&sample);
            if matches!(sample, Sample::Telemetry(_)) && !rate.admits(own, arrival) {
                taken.push(Some(Taken::RateLimited));
                continue;
            }
            let pause = if self.is_patient { self.recorded_pause(own) } else { Duration::ZERO };
            entries.push(NewEntry { pause, ..entry(sample, own, stamps.stamp()) });
            taken.push(None);
        }
        entries
    }

    /// Stores another agent's entries unchanged and in order. Waits without a time limit until the
    /// queue has accepted them; the caller must keep its copy until then. Returns the position of
    /// the newest entry that was stored.
    pub(super) async fn relay(
        &self,
        car: &CarId,
        entries: Vec<Relayed>,
    ) -> Result<Option<Seq>, QueueError> {
        let count = entries.len();
        entries.iter().for_each(|_| metrics::sampled(self.source));
        self.activity.sampled(self.source);
        let appended = self.writer.append_blocking_from(car, count, |stamps| {
            entries
                .into_iter()
                .map(|Relayed { origin, captured_at, content, json }| NewEntry {
                    origin: Some(origin),
                    captured_at,
                    ..NewEntry::new(stamps.stamp(), content, json)
                })
                .collect()
        });
        let stored = appended.await?.into_iter().filter_map(|appended| match appended {
            Appended::Stored(seq) => Some(seq),
            Appended::Unchanged | Appended::Dropped(_) | Appended::Buffered => None,
        });
        Ok(stored.max())
    }

    /// The pause of a recording before a sample with this timestamp.
    fn recorded_pause(&self, own: Option<CapturedAt>) -> Duration {
        let Some(own) = own else { return Duration::ZERO };
        let before = lock(&self.last_recorded).replace(own);
        before.map_or(Duration::ZERO, |before| before.age(own))
    }

    fn count(&self, taken: &Taken) {
        match taken {
            Taken::RateLimited => metrics::rate_limited(self.source),
            Taken::Refused(refused) => {
                metrics::rejected(self.source, refused.reason.as_str());
                self.log_refusal(refused);
            }
            Taken::Stored(_) | Taken::Unchanged | Taken::Dropped(_) | Taken::Buffered => {}
        }
    }

    /// Logs at most once per [`LOG_REPEAT_INTERVAL`]: a faulty source fails many times a second.
    fn log_refusal(&self, refused: &Refused) {
        let now = Instant::now();
        let mut last = lock(&self.refused_at);
        if last.is_none_or(|last| now - last >= LOG_REPEAT_INTERVAL) {
            *last = Some(now);
            tracing::warn!(source = self.source, reason = refused.reason.as_str(), "{refused}");
        }
    }
}

impl From<Appended> for Taken {
    fn from(appended: Appended) -> Self {
        match appended {
            Appended::Stored(seq) => Self::Stored(seq),
            Appended::Unchanged => Self::Unchanged,
            Appended::Dropped(reason) => Self::Dropped(reason),
            Appended::Buffered => Self::Buffered,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn own_timestamp(sample: &Sample) -> Option<CapturedAt> {
    match sample {
        Sample::Telemetry(frame) => frame.own_timestamp(),
        Sample::Setup(setup) => setup.own_timestamp(),
    }
}

fn entry(sample: Sample, own: Option<CapturedAt>, stamp: Stamp) -> NewEntry {
    let captured_at = own.unwrap_or(stamp.wall);
    let (content, json) = match sample {
        Sample::Telemetry(frame) => (Content::Frame(frame.situation()), frame.json(captured_at)),
        Sample::Setup(setup) => {
            let content = Content::Setup { fingerprint: setup.fingerprint() };
            (content, setup.entry_json(captured_at))
        }
    };
    NewEntry { captured_at, ..NewEntry::new(stamp, content, json) }
}
