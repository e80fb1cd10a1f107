//! The server is down for an hour at 2 Hz and comes back: time until everything has arrived, while
//! the car keeps driving.

use std::time::{Duration, Instant};

use crate::agent::Agent;
use crate::lap;
use crate::peers::{Kind, Peer};
use crate::proxy::{Network, Proxy};
use crate::queue::{place, runtime};
use crate::table::Report;

/// An hour at 2 Hz.
const BACKLOG: usize = 7_200;

pub(crate) fn measure(report: &mut Report) {
    for (name, round_trip) in [("loopback", 0), ("50 ms of round trip", 50)] {
        let network = Network::Up { latency: Duration::from_millis(round_trip / 2) };
        report.row(&format!("catch-up on an hour at 2 Hz, {name}"), "s", || {
            runtime().block_on(catch_up(network))
        });
    }
}

/// Measured from the moment the server is reachable, so it includes the wait for the next attempt.
async fn catch_up(network: Network) -> f64 {
    let place = place();
    let server = Peer::start(Kind::Asgi, &[]);
    let proxy = Proxy::start(server.port());
    proxy.set(Network::Down);
    let agent = Agent::start(place.path(), &proxy.url(), &["source.stdin.receipts=false"]);
    let lines: Vec<String> =
        lap::samples(BACKLOG).into_iter().map(|(_, sample)| sample.to_string()).collect();
    agent.feed(&lines);
    let queued = async || agent.metric("pitwire_queue_entries").await;
    while queued().await < BACKLOG as f64 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    proxy.set(network);
    let start = Instant::now();
    let mut fed = start;
    // One frame may be in flight.
    while queued().await > 1.0 {
        if fed.elapsed() >= Duration::from_millis(500) {
            fed = Instant::now();
            agent.feed(&lines[..1]);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    start.elapsed().as_secs_f64()
}
