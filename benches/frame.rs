//! CPU cost of one frame, from a source's bytes to the record on disk and back.
#![allow(clippy::unwrap_used, missing_docs, reason = "a bench")]

mod lap;

use std::hint::black_box;

use divan::Bencher;
use divan::counter::BytesCount;
use pitwire::entry::{CapturedAt, Kind, QueueTime, Seq, StintId};
use pitwire::fields::{self, Frame, Setup};
use pitwire::queue::record::{self, Record, RetentionFlags};
use pitwire::source::simulator::Car;

/// Two and a half laps: every corner, decreasing fuel, warming tyres.
const FRAMES: usize = 600;
const STINT: StintId = StintId(1);

fn main() {
    divan::main();
}

/// From a source's line to the dashboard frame.
#[divan::bench]
fn frame(bencher: Bencher<'_, '_>) {
    let lines = lap::samples(FRAMES).into_iter().map(|(_, sample)| sample.to_string());
    let mut lines = lines.collect::<Vec<_>>().into_iter().cycle();
    bencher
        .with_inputs(|| lines.next().unwrap())
        .input_counter(BytesCount::of_str)
        .bench_local_refs(|line| Frame::parse(black_box(line.as_bytes())).unwrap());
}

/// From a sample built in memory to the frame's text.
#[divan::bench]
fn map(bencher: Bencher<'_, '_>) {
    let mut samples = lap::samples(FRAMES).into_iter().cycle();
    bencher
        .with_inputs(|| samples.next().unwrap())
        .bench_local_refs(|(at, sample)| fields::map(black_box(sample), *at).unwrap());
}

/// Checks whether a setup has changed.
#[divan::bench]
fn setup_fingerprint(bencher: Bencher<'_, '_>) {
    let setup = Car::new(1).setup();
    bencher.bench_local(|| Setup::of(black_box(&setup)).unwrap().fingerprint());
}

/// From a frame to a queue record.
#[divan::bench]
fn encode(bencher: Bencher<'_, '_>) {
    let mut frames = frames().into_iter().cycle();
    bencher
        .with_inputs(|| frames.next().unwrap())
        .input_counter(|(_, json)| BytesCount::of_str(json))
        .bench_local_refs(|(at, json)| record::encode(&record(*at, black_box(json))).unwrap());
}

/// From a queue record to an entry.
#[divan::bench]
fn decode(bencher: Bencher<'_, '_>) {
    let encode = |(at, json): (_, String)| record::encode(&record(at, &json)).unwrap();
    let mut records = frames().into_iter().map(encode).collect::<Vec<_>>().into_iter().cycle();
    bencher
        .with_inputs(|| records.next().unwrap())
        .input_counter(BytesCount::of_slice)
        .bench_local_refs(|record| record::decode(Seq(1), black_box(record)).unwrap());
}

fn record(at: CapturedAt, json: &str) -> Record<&str> {
    Record::new(STINT, QueueTime(at.0), Kind::Frame, RetentionFlags::default(), json)
}

fn frames() -> Vec<(CapturedAt, String)> {
    let map = |(at, sample)| (at, fields::map(&sample, at).unwrap());
    lap::samples(FRAMES).into_iter().map(map).collect()
}
