//! The wall clock is set while the agent runs, or between two runs.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use pitwire::entry::CapturedAt;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::sleep;

use crate::agent::{Agent, pitwire};
use crate::fake_clock::FakeClock;

/// Nothing listens there: the entries stay in the queue.
const NOWHERE: &str = "http://127.0.0.1:1";

/// The real time between two frames.
const INTERVAL: Duration = Duration::from_millis(60);

#[tokio::test]
async fn a_step_during_a_run_begins_no_stint_and_dates_later_frames_correctly() {
    for (step, seconds) in
        [("-2h", -7200), ("-5s", -5), ("-1000d", -86_400_000), ("+2h", 7200), ("+10d", 864_000)]
    {
        let pc = Pc::new();
        let agent = pc.start("+0");
        pc.drive(&agent, 1..=6).await;
        pc.clock.set(step);
        pc.drive(&agent, 7..=12).await;
        agent.process.says("the system clock was set").await;
        let entries = pc.entries(agent).await;
        assert_eq!(entries.len(), 12, "{step}");
        assert!(entries.iter().all(|(_, stint)| *stint == 1), "{step}: {entries:?}");
        for (index, pair) in entries.windows(2).enumerate() {
            let after = Duration::from_millis((pair[1].0.0 - pair[0].0.0).unsigned_abs());
            let stepped = (pair[1].0.0 - pair[0].0.0) as f64 / 1000.0 - f64::from(seconds);
            match index {
                5 => assert!((-0.5..30.0).contains(&stepped), "{step}: {entries:?}"),
                // Not one millisecond after the other until the old time is reached.
                _ => assert!(after >= INTERVAL / 2, "{step}: {after:?} in {entries:?}"),
            }
        }
    }
}

#[tokio::test]
async fn a_step_between_two_runs_expires_nothing_and_continues_the_stint() {
    for (before, after) in
        [("@2020-01-01 00:00:00", "+0"), ("+0", "+10d"), ("+0", "-2h"), ("+0", "-1000d")]
    {
        let pc = Pc::new();
        let agent = pc.start(before);
        pc.drive(&agent, 1..=6).await;
        let first = pc.entries(agent).await;
        let agent = pc.start(after);
        pc.drive(&agent, 7..=8).await;
        let entries = pc.entries(agent).await;
        assert_eq!(entries.len(), 8, "{before} to {after}: {entries:?}");
        assert_eq!(entries[..6], first, "{before} to {after}");
        assert!(entries.iter().all(|(_, stint)| *stint == 1), "{before} to {after}: {entries:?}");
    }
}

#[tokio::test]
async fn the_age_of_the_oldest_entry_does_not_depend_on_the_wall_clock() {
    for step in ["+2h", "-2h"] {
        let pc = Pc::new();
        let started = Instant::now();
        let agent = pc.start("+0");
        pc.drive(&agent, 1..=3).await;
        let shortest = 2.0 * INTERVAL.as_secs_f64();
        pc.clock.set(step);
        pc.drive(&agent, 4..=6).await;
        let status: Value = serde_json::from_str(&agent.page("/status").await.1).unwrap();
        let longest = started.elapsed().as_secs_f64();
        let of_server = status["destinations"][0]["oldest_age"].as_f64().unwrap();
        let metric = agent.metric("pitwire_queue_oldest_age_seconds").await;
        for age in [status["oldest_age"].as_f64().unwrap(), of_server] {
            assert!((shortest..=longest).contains(&age), "{step}: {age} s after {longest} s");
        }
        assert!((shortest..=started.elapsed().as_secs_f64()).contains(&metric), "{step}: {metric}");
    }
}

/// A dead battery: the clock starts in 2020, and a time service corrects it while the race runs.
#[tokio::test]
async fn a_clock_that_is_corrected_by_years_costs_nothing() {
    let pc = Pc::new();
    let agent = pc.start("@2020-01-01 00:00:00");
    pc.drive(&agent, 1..=6).await;
    pc.clock.set("+0");
    pc.drive(&agent, 7..=12).await;
    let entries = pc.entries(agent).await;
    assert_eq!(entries.len(), 12);
    assert!(entries.iter().all(|(_, stint)| *stint == 1), "{entries:?}");
    let year = |index: usize| entries[index].0.to_string()[..4].to_owned();
    assert_eq!(year(5), "2020");
    assert!(year(6).as_str() > "2025", "{entries:?}");
}

/// A computer whose wall clock the test sets.
struct Pc {
    folder: TempDir,
    clock: FakeClock,
}

impl Pc {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), clock: FakeClock::at("+0") }
    }

    fn start(&self, clock: &str) -> Agent {
        self.clock.set(clock);
        Agent::in_environment(&self.clock.environment(), &self.queue(), NOWHERE, &[])
    }

    async fn drive(&self, agent: &Agent, laps: std::ops::RangeInclusive<usize>) {
        let before = agent.receipts().len();
        for (sent, lap) in laps.enumerate() {
            agent.feed(&[format!(r#"{{"lap":{lap},"speed":200.5}}"#)]);
            agent.stored(before + sent + 1).await;
            sleep(INTERVAL).await;
        }
    }

    fn queue(&self) -> PathBuf {
        self.folder.path().join("queue")
    }

    /// Stops the agent, and returns the capture time in each queued frame and its stint.
    async fn entries(&self, mut agent: Agent) -> Vec<(CapturedAt, u64)> {
        agent.stop().await;
        let mut export = pitwire(&["queue", "export", "--queue"]);
        let output = export.arg(self.queue()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let entry = |line: &str| {
            let entry: Value = serde_json::from_str(line).unwrap();
            let at = |at: &Value| CapturedAt::parse(at.as_str().unwrap()).unwrap();
            let shown = at(&entry["frame"]["timestamp"]);
            assert_eq!(at(&entry["captured_at"]), shown, "{line}");
            (shown, entry["stint"].as_u64().unwrap())
        };
        text.lines().map(entry).collect()
    }
}
