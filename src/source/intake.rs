//! Turns a source's samples into queue entries: check, rate-limit, stamp, map, append.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;

use crate::entry::{CapturedAt, CarId, Seq, StintId};
use crate::fields::{self, Frame, Json, Refused, Setup};
use crate::metrics;
use crate::net::LOG_REPEAT_INTERVAL;
use crate::platform::clock;
use crate::platform::clock::MAX_CLOCK_LEAD;
use crate::queue::ledger::DropReason;
use crate::queue::{Appended, Content, NewEntry, QueueError, Stamps, Writer};

/// A sample that a source has read and checked.
#[derive(Clone, Debug, PartialEq)]
pub enum Sample {
    /// A flat object of readings, or a frame that already uses the dashboard's field names.
    Telemetry(Frame),
    /// The car's setup.
    Setup(Setup),
}

impl Sample {
    /// Checks a telemetry sample.
    pub fn telemetry(sample: &Value) -> Result<Self, Refused> {
        Frame::of(sample).map(Self::Telemetry)
    }

    /// Checks a setup.
    pub fn setup(setup: &Value) -> Result<Self, Refused> {
        Setup::of(setup).map(Self::Setup)
    }

    /// Parses one line of text: `{"setup": {…}}`, possibly with a `timestamp`, is a setup, any other
    /// object is telemetry.
    pub fn parse(line: &[u8]) -> Result<Self, Refused> {
        let text = fields::text(line)?;
        let sample = fields::parse(&text)?;
        if has_only_a_setup(&sample) {
            let members = fields::members(&text)?;
            let [setup, timestamp] = ["setup", "timestamp"]
                .map(|key| members.get(key).map_or("null", |value| value.get()));
            let setup = Setup::parse(setup.as_bytes())?;
            return setup.with_timestamp(timestamp).map(Self::Setup);
        }
        Frame::checked(&sample, &text).map(Self::Telemetry)
    }
}

fn has_only_a_setup(sample: &Json<'_>) -> bool {
    sample.as_object().is_some_and(|object| {
        object.get("setup").is_some()
            && object.members().all(|(key, _)| matches!(key, "setup" | "timestamp"))
    })
}

/// An entry that another agent created.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Relayed {
    pub(super) driven_at: CapturedAt,
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
    /// Held in memory, because the disk is too slow or fails.
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
    rate: Mutex<Rate>,
    last_complaint: Mutex<Option<tokio::time::Instant>>,
}

impl Intake {
    /// Creates the intake of `source`, rate-limited to `rate_hz`; 0 keeps every sample.
    pub fn new(writer: Writer, source: &'static str, rate_hz: f64) -> Self {
        let rate = Mutex::new(Rate::new(rate_hz));
        Self { writer, source, is_patient: false, rate, last_complaint: Mutex::default() }
    }

    /// Applies each new value of `hz` as the rate limit.
    #[must_use]
    pub fn following(self, hz: watch::Receiver<f64>) -> Self {
        self.rate().follows = Some(hz);
        self
    }

    /// For a source that loses nothing by waiting, such as a file: [`Intake::take`] waits for the
    /// disk, and with `when_full = "block"` for room in the queue, without a time limit. Its
    /// samples belong to the agent's default stream.
    #[must_use]
    pub(crate) fn patient(self) -> Self {
        Self { is_patient: true, ..self }
    }

    /// Counts and logs input that is not a valid sample.
    pub fn refuse(&self, refused: Refused) {
        metrics::sampled(self.source);
        self.count(&Taken::Refused(refused));
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
        let now = clock::now();
        let count = samples.len();
        let mut taken = Vec::with_capacity(count);
        let appended = if self.is_patient {
            self.writer
                .append_blocking(count, |stamps| self.admit(samples, now, stamps, &mut taken))
                .await?
        } else {
            self.writer
                .append_from(car, |stamps| self.admit(samples, now, stamps, &mut taken))
                .await?
        };
        let mut appended = appended.into_iter().map(Taken::from);
        let taken: Vec<_> =
            taken.into_iter().filter_map(|taken| taken.or_else(|| appended.next())).collect();
        taken.iter().for_each(|taken| self.count(taken));
        Ok(taken)
    }

    /// Makes entries of the samples that are valid and not rate-limited. Pushes an outcome for each
    /// sample to `taken`, `None` for those that the queue decides on.
    fn admit(
        &self,
        samples: Vec<Result<Sample, Refused>>,
        now: CapturedAt,
        stamps: &mut Stamps,
        taken: &mut Vec<Option<Taken>>,
    ) -> Vec<NewEntry> {
        let mut entries = Vec::with_capacity(samples.len());
        for sample in samples {
            metrics::sampled(self.source);
            let sample = match sample {
                Ok(sample) => sample,
                Err(refused) => {
                    taken.push(Some(Taken::Refused(refused)));
                    continue;
                }
            };
            let at = captured_at(&sample, now);
            if matches!(sample, Sample::Telemetry(_)) && !self.rate().is_due(at) {
                taken.push(Some(Taken::RateLimited));
            } else {
                entries.push(entry(sample, stamps.next(at)));
                taken.push(None);
            }
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
        let (now, count) = (clock::now(), entries.len());
        entries.iter().for_each(|_| metrics::sampled(self.source));
        let appended = self.writer.append_blocking_from(car, count, |stamps| {
            entries
                .into_iter()
                .map(|Relayed { driven_at, content, json }| NewEntry {
                    captured_at: stamps.next(now),
                    driven_at: Some(driven_at),
                    content,
                    json,
                })
                .collect()
        });
        let stored = appended.await?.into_iter().filter_map(|appended| match appended {
            Appended::Stored(seq) => Some(seq),
            Appended::Unchanged | Appended::Dropped(_) | Appended::Buffered => None,
        });
        Ok(stored.max())
    }

    fn rate(&self) -> MutexGuard<'_, Rate> {
        let mut rate = lock(&self.rate);
        rate.follow();
        rate
    }

    fn count(&self, taken: &Taken) {
        match taken {
            Taken::RateLimited => metrics::rate_limited(self.source),
            Taken::Refused(refused) => {
                metrics::rejected(self.source, refused.reason.as_str());
                self.complain(refused);
            }
            Taken::Stored(_) | Taken::Unchanged | Taken::Dropped(_) | Taken::Buffered => {}
        }
    }

    /// Logs at most once per [`LOG_REPEAT_INTERVAL`]: a faulty source fails many times a second.
    fn complain(&self, refused: &Refused) {
        let now = tokio::time::Instant::now();
        let mut last = lock(&self.last_complaint);
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

/// The sample's own timestamp, unless it is far ahead of `now`. In the queue, a timestamp in the
/// future would make all earlier entries look expired, and all later ones would inherit it.
fn captured_at(sample: &Sample, now: CapturedAt) -> CapturedAt {
    let own = match sample {
        Sample::Telemetry(frame) => frame.own_timestamp(),
        Sample::Setup(setup) => setup.own_timestamp(),
    };
    let latest = now.0.saturating_add(MAX_CLOCK_LEAD.as_millis() as i64);
    own.filter(|own| own.0 <= latest).unwrap_or(now)
}

fn entry(sample: Sample, captured_at: CapturedAt) -> NewEntry {
    match sample {
        Sample::Telemetry(frame) => {
            let content = Content::Frame(frame.situation());
            NewEntry { driven_at: None, captured_at, content, json: frame.json(captured_at) }
        }
        Sample::Setup(setup) => {
            let content = Content::Setup { fingerprint: setup.fingerprint() };
            NewEntry { driven_at: None, captured_at, content, json: setup.entry_json(captured_at) }
        }
    }
}

/// A rate limiter on capture timestamps, without drift.
#[derive(Debug)]
struct Rate {
    /// 0 keeps every sample.
    period: Duration,
    due: Option<CapturedAt>,
    follows: Option<watch::Receiver<f64>>,
}

impl Rate {
    fn new(hz: f64) -> Self {
        let period = if hz > 0.0 { Duration::from_secs_f64(1.0 / hz) } else { Duration::ZERO };
        Self { period, due: None, follows: None }
    }

    fn follow(&mut self) {
        let Some(hz) = &mut self.follows else { return };
        if hz.has_changed().unwrap_or(false) {
            let hz = *hz.borrow_and_update();
            *self = Self { follows: self.follows.take(), ..Self::new(hz) };
        }
    }

    /// Whether to keep a sample captured at `at`. Up to a quarter of the period early counts as on
    /// time, so that a source with exactly this rate loses nothing to jitter.
    fn is_due(&mut self, at: CapturedAt) -> bool {
        if self.period.is_zero() {
            return true;
        }
        let period = self.period.as_millis() as i64;
        let due = match self.due {
            // A timestamp far before `due` means that the clock was set back.
            Some(due) if at.0 >= due.0 - 2 * period => due,
            _ => at,
        };
        if at.0 < due.0 - period / 4 {
            return false;
        }
        // After a gap, restart the period from this sample.
        let on_time = at.0 < due.0 + period;
        self.due = Some(CapturedAt(if on_time { due.0 } else { at.0 } + period));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_setup_only_if_setup_is_its_sole_key() {
        let setup = Sample::setup(&serde_json::json!({"wing": 7})).unwrap();
        for line in [
            r#"{"setup":{"wing":7}}"#,
            "\u{feff}{ \"setup\" : {\"wing\": 7} }",
            r#"{"setup":{"wing":9},"setup":{"wing":7}}"#,
        ] {
            assert_eq!(Sample::parse(line.as_bytes()).as_ref(), Ok(&setup), "{line}");
        }
        let line = r#"{"timestamp":1763821822.50,"setup":{"wing":7}}"#;
        let Ok(Sample::Setup(setup)) = Sample::parse(line.as_bytes()) else { panic!("{line}") };
        assert_eq!(setup.entry_json(CapturedAt(0)), line);
        for line in [
            r#"{"setup":{"wing":7},"lap":1}"#,
            r#"{"timestamp":"2025-11-22T14:30:22Z"}"#,
            r#"{"lap":1}"#,
            "{}",
        ] {
            let sample = Sample::parse(line.as_bytes());
            assert!(matches!(sample, Ok(Sample::Telemetry(_))), "{line}: {sample:?}");
        }
    }

    fn kept(hz: f64, moments: impl Iterator<Item = i64>) -> Vec<i64> {
        let mut rate = Rate::new(hz);
        moments.filter(|&at| rate.is_due(CapturedAt(at))).collect()
    }

    #[test]
    fn a_faster_source_is_rate_limited_without_drift() {
        for step in [1, 7, 10, 16, 100, 130, 499] {
            let kept = kept(2.0, (0..100_000).step_by(step));
            assert!((199..=202).contains(&kept.len()), "every {step} ms: {}", kept.len());
        }
    }

    #[test]
    fn jitter_at_the_configured_rate_loses_no_sample() {
        let moments = (0..1000).map(|n| n * 500 + [0, 60, -70, 90, -20][n as usize % 5]);
        assert_eq!(kept(2.0, moments).len(), 1000);
    }

    #[test]
    fn rate_0_keeps_every_sample() {
        assert_eq!(kept(0.0, 0..100).len(), 100);
    }

    #[test]
    fn a_clock_step_backwards_does_not_stop_sampling() {
        let moments = (0..10).map(|n| 10_000_000 + n * 500).chain((0..10).map(|n| n * 500));
        assert_eq!(kept(2.0, moments).len(), 20);
    }
}
