//! What each source of an agent is doing, for the status page and the terminal.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

/// A source counts as active for this long after a sample: samples may be sparse.
const ACTIVE_FOR: Duration = Duration::from_secs(10);

/// The activity of the enabled sources of an agent, in the order in which they were started. Clones
/// share one list.
#[derive(Clone, Debug, Default)]
pub(crate) struct SourceActivity(Arc<Mutex<Vec<SourceState>>>);

#[derive(Debug)]
struct SourceState {
    /// The label in metrics.
    source: &'static str,
    /// The text while samples arrive, such as "Reading standard input".
    active: String,
    /// The text while none arrive, such as "Waiting for samples on standard input".
    waiting: String,
    sampled_at: Option<Instant>,
    /// Whether it waits, although a sample may be recent.
    is_waiting: bool,
}

/// The state of a source, for a driver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct SourceView {
    pub source: &'static str,
    /// Whether samples arrive.
    pub active: bool,
    pub text: String,
}

impl SourceActivity {
    /// Adds a source, with the texts to show while samples arrive and while none do.
    pub(crate) fn add(
        &self,
        source: &'static str,
        active: impl Into<String>,
        waiting: impl Into<String>,
    ) {
        let (active, waiting) = (active.into(), waiting.into());
        self.states().push(SourceState {
            source,
            active,
            waiting,
            sampled_at: None,
            is_waiting: true,
        });
    }

    /// Shows that a source waits, until its next sample; ignores a source that was not added.
    pub(crate) fn set_waiting(&self, source: &str, text: &str) {
        let mut states = self.states();
        if let Some(state) = states.iter_mut().find(|state| state.source == source) {
            text.clone_into(&mut state.waiting);
            state.is_waiting = true;
        }
    }

    /// Removes a source that has ended without a sample, such as an empty standard input.
    pub(crate) fn remove_unused(&self, source: &str) {
        self.states().retain(|state| state.source != source || state.sampled_at.is_some());
    }

    /// Replaces the text of a source that has read all its input.
    pub(crate) fn end(&self, source: &str, text: &str) {
        self.set_waiting(source, text);
        let mut states = self.states();
        if let Some(state) = states.iter_mut().find(|state| state.source == source) {
            state.sampled_at = None;
        }
    }

    /// Records that samples of a source arrived; ignores a source that was not added.
    pub(super) fn sampled(&self, source: &str) {
        let mut states = self.states();
        if let Some(state) = states.iter_mut().find(|state| state.source == source) {
            state.sampled_at = Some(Instant::now());
            state.is_waiting = false;
        }
    }

    /// The current state of each source.
    pub(crate) fn views(&self) -> Vec<SourceView> {
        let now = Instant::now();
        self.states().iter().map(|state| state.view(now)).collect()
    }

    fn states(&self) -> MutexGuard<'_, Vec<SourceState>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SourceState {
    fn view(&self, now: Instant) -> SourceView {
        let age = self.sampled_at.map(|at| now.saturating_duration_since(at));
        let active = !self.is_waiting && age.is_some_and(|age| age < ACTIVE_FOR);
        let text = match age {
            Some(_) if active => self.active.clone(),
            Some(age) => format!("{}; last sample {} ago", self.waiting, rounded(age)),
            None => self.waiting.clone(),
        };
        SourceView { source: self.source, active, text }
    }
}

/// A duration in its largest unit.
fn rounded(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_source_shows_whether_samples_arrive_and_since_when_none_do() {
        let sources = SourceActivity::default();
        sources.add("lmu", "Reading the game", "Waiting for the game (not running)");
        sources.add("http", "Receiving samples", "Waiting for samples");
        let texts = || sources.views().into_iter().map(|view| view.text).collect::<Vec<_>>();
        assert_eq!(texts(), ["Waiting for the game (not running)", "Waiting for samples"]);
        sources.sampled("lmu");
        sources.sampled("unknown");
        assert_eq!(texts(), ["Reading the game", "Waiting for samples"]);
        assert!(sources.views()[0].active && !sources.views()[1].active);
        sources.set_waiting("lmu", "Waiting for the game (paused)");
        assert_eq!(texts()[0], "Waiting for the game (paused); last sample 0 s ago");
        sources.set_waiting("lmu", "Waiting for the game (not running)");
        sources.sampled("lmu");
        for (wait, age) in [(10, "10 s"), (60, "1 min"), (7200, "2 h")] {
            advance(Duration::from_secs(wait)).await;
            let text = format!("Waiting for the game (not running); last sample {age} ago");
            assert_eq!(texts()[0], text);
        }
        sources.remove_unused("lmu");
        sources.end("lmu", "The recording has been read");
        sources.remove_unused("http");
        assert_eq!(texts(), ["The recording has been read"]);
    }
}
