//! `pitwire simulate`: prints a simulated car's samples on standard output.

use std::convert::Infallible;
use std::io::{self, Write};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use clap::Args;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::cli::{Exit, terminal};
use crate::source::simulator::Car;

/// Print a simulated car's telemetry, one JSON sample per line.
///
/// The car drives laps of about two minutes, burns fuel, wears its tyres and stops for new ones.
/// The samples are like those of a game; pipe them into `pitwire run`, or into a file to replay.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  pitwire simulate                    watch a car at 2 samples a second
  pitwire simulate | pitwire run      send it to a dashboard
  pitwire simulate --frames 7200 --speed 0 > hour.ndjson
                                      record an hour at once")]
pub struct Simulate {
    /// Samples per second of simulated time, from 0.01 to 1000.
    #[arg(long, value_name = "HZ", default_value_t = 2.0, value_parser = rate)]
    pub rate_hz: f64,

    /// Number of samples to print [default: run until stopped].
    #[arg(long, value_name = "N")]
    pub frames: Option<u64>,

    /// Speed relative to real time, up to 10000; 0 is as fast as possible.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = speed)]
    pub speed: f64,

    /// Seed for the car, the driver and the race; the same seed gives the same samples.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    pub seed: u64,
}

/// How long a stopped command may take to write its last sample; the reader of a pipe may be slow.
const LAST_SAMPLE_TIMEOUT: Duration = Duration::from_secs(1);

/// Prints the samples on stdout until the last one or until `shutdown` resolves.
pub async fn simulate(args: Simulate, shutdown: impl Future<Output = ()>) -> Exit {
    // Dropping `stop` wakes the printing thread.
    let (stop, stopped) = mpsc::channel();
    let mut printing = spawn_blocking(move || {
        let mut out = io::BufWriter::new(io::stdout().lock());
        terminal::note_output(run(&args, &mut out, since_now(stopped)));
    });
    tokio::select! {
        biased;
        // An error means that printing panicked, which the panic itself has reported.
        printed = &mut printing => return printed.map_or(Exit::Failed, |()| Exit::Good),
        () = shutdown => drop(stop),
    }
    let _ = timeout(LAST_SAMPLE_TIMEOUT, printing).await;
    Exit::Good
}

/// Whether to print the next sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Print,
    Stop,
}

/// Writes the samples to `out`, which should be buffered: it is flushed after each sample.
///
/// `wait_until` blocks until the given time has passed since the start, or until the user stops the
/// command; [`since_now`] makes one. With `--speed 0`, the time is always zero. A broken pipe counts
/// as success: the reader has finished.
///
/// # Errors
/// If writing to `out` fails, except for a broken pipe.
pub fn run(
    args: &Simulate,
    out: &mut impl Write,
    wait_until: impl FnMut(Duration) -> Next,
) -> io::Result<()> {
    match write_samples(args, out, wait_until) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        ended => ended,
    }
}

/// Makes a `wait_until` that uses the real clock, starting now, until the sender of `stopped` is
/// dropped.
pub fn since_now(stopped: mpsc::Receiver<Infallible>) -> impl FnMut(Duration) -> Next {
    let start = Instant::now();
    move |due| match stopped.recv_timeout(due.saturating_sub(start.elapsed())) {
        Err(RecvTimeoutError::Timeout) => Next::Print,
        Err(RecvTimeoutError::Disconnected) => Next::Stop,
    }
}

fn write_samples(
    args: &Simulate,
    out: &mut impl Write,
    mut wait_until: impl FnMut(Duration) -> Next,
) -> io::Result<()> {
    let step = Duration::from_secs_f64(args.rate_hz.recip());
    let mut car = Car::new(args.seed);
    for number in 0..args.frames.unwrap_or(u64::MAX) {
        // From the number, not from the last deadline, so that errors do not accumulate.
        let due = if args.speed > 0.0 { number as f64 / (args.rate_hz * args.speed) } else { 0.0 };
        if wait_until(Duration::try_from_secs_f64(due).unwrap_or(Duration::MAX)) == Next::Stop {
            break;
        }
        serde_json::to_writer(&mut *out, &car.sample())?;
        out.write_all(b"\n")?;
        if args.speed > 0.0 {
            out.flush()?;
        }
        car.step(step);
    }
    out.flush()
}

fn rate(text: &str) -> Result<f64, String> {
    within(text, 0.01..=1_000.0).ok_or("give a number from 0.01 to 1000".to_string())
}

fn speed(text: &str) -> Result<f64, String> {
    within(text, 0.0..=10_000.0).ok_or("give a number from 0 to 10000".to_string())
}

fn within(text: &str, range: std::ops::RangeInclusive<f64>) -> Option<f64> {
    text.parse().ok().filter(|number| range.contains(number))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::Value;

    use super::*;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        simulate: Simulate,
    }

    fn typed(args: &str) -> Result<Simulate, clap::Error> {
        let words = ["simulate"].into_iter().chain(args.split_whitespace());
        Ok(Typed::try_parse_from(words)?.simulate)
    }

    /// Returns the printed samples, and when each line was due.
    fn printed(args: &str) -> (Vec<Value>, Vec<Duration>) {
        let (mut out, mut dues) = (Vec::new(), Vec::new());
        let wait_until = |due| {
            dues.push(due);
            Next::Print
        };
        run(&typed(args).unwrap(), &mut out, wait_until).unwrap();
        let lines = std::str::from_utf8(&out).unwrap().lines();
        (lines.map(|line| serde_json::from_str(line).unwrap()).collect(), dues)
    }

    #[test]
    fn lines_are_due_at_the_configured_rate_without_drift() {
        let (samples, dues) = printed("--rate-hz 3 --speed 10 --frames 3001");
        assert_eq!((samples.len(), dues.len()), (3001, 3001));
        assert_eq!(dues[0], Duration::ZERO);
        assert_eq!(dues[3000], Duration::from_secs(100));
    }

    #[test]
    fn the_output_speed_does_not_change_the_samples() {
        let (paced, _) = printed("--frames 20 --seed 9");
        let (at_once, dues) = printed("--frames 20 --seed 9 --speed 0");
        assert_eq!(paced, at_once);
        assert_eq!(dues, [Duration::ZERO; 20]);
        assert_ne!(paced, printed("--frames 20 --seed 10").0);
    }

    #[test]
    fn waits_are_measured_from_the_start_of_the_simulation() {
        let start = Instant::now();
        let (stop, stopped) = mpsc::channel();
        let mut wait_until = since_now(stopped);
        std::thread::sleep(Duration::from_millis(30));
        assert_eq!(wait_until(Duration::from_millis(20)), Next::Print);
        assert_eq!(wait_until(Duration::from_millis(60)), Next::Print);
        assert!(start.elapsed() >= Duration::from_millis(60));
        drop(stop);
        assert_eq!(wait_until(Duration::from_secs(3600)), Next::Stop);
    }

    #[test]
    fn a_stopped_simulation_prints_no_further_sample() {
        let mut out = Vec::new();
        let mut left = 3;
        let wait_until = |_| {
            left -= 1;
            if left < 0 { Next::Stop } else { Next::Print }
        };
        run(&typed("--speed 0").unwrap(), &mut out, wait_until).unwrap();
        assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 3);
    }

    #[test]
    fn a_closed_pipe_ends_output_quietly_but_a_full_disk_is_an_error() {
        struct Broken(io::ErrorKind);
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(self.0.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let [broken_pipe, full] = [io::ErrorKind::BrokenPipe, io::ErrorKind::StorageFull]
            .map(|kind| run(&typed("").unwrap(), &mut Broken(kind), |_| Next::Print));
        assert!(broken_pipe.is_ok());
        assert_eq!(full.unwrap_err().kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn invalid_rates_and_speeds_are_refused() {
        for wrong in ["--rate-hz 0", "--rate-hz NaN", "--rate-hz inf", "--speed -1", "--speed x"] {
            assert!(typed(wrong).is_err(), "{wrong}");
        }
        assert!(typed("--rate-hz 0").unwrap_err().to_string().contains("from 0.01 to 1000"));
    }
}
