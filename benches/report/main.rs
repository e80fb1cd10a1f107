//! `cargo bench --bench report`: what pitwire does and what it costs, beside what one would take in
//! its place, all in the same run: one table, medians of three runs with the least and the most.
//!
//! ```text
//! cargo bench --bench report                  all of it, about half an hour
//! cargo bench --bench report -- replay ack    the rows whose names hold one of these words
//! cargo bench --bench report -- --json        one JSON object in place of the table
//! ```
//! Needs what `tests/setup.sh` and, for rsyslog and syslog-ng, `benches/setup.sh` install; a client
//! that is not there is named in the table, and left out. Figures of a machine that does other work
//! at the same time are worth little: what counts then are the ratios of one run.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a bench program")]

// Shared with the tests, of which not all is needed here.
#[allow(dead_code, unused_imports, unreachable_pub, reason = "shared")]
#[path = "../../tests/it/agent.rs"]
mod agent;
#[allow(dead_code, unused_imports, unreachable_pub, reason = "shared")]
#[path = "../../tests/it/contract.rs"]
mod contract;
#[allow(dead_code, unused_imports, unreachable_pub, reason = "shared")]
#[path = "../../tests/it/peers.rs"]
mod peers;
#[allow(dead_code, unused_imports, unreachable_pub, reason = "shared")]
#[path = "../../tests/it/proxy.rs"]
mod proxy;

mod bare;
mod catch_up;
mod clients;
mod ingest;
#[path = "../lap/mod.rs"]
mod lap;
mod live;
mod process;
mod queue;
mod replay;
mod syslog;
mod table;

use table::Report;

fn main() {
    if let Some(server) = bare::server() {
        return bare::publish(&server);
    }
    let mut report = Report::from_args();
    queue::measure(&mut report);
    ingest::measure(&mut report);
    replay::measure(&mut report);
    live::measure(&mut report);
    catch_up::measure(&mut report);
    report.print();
}
