//! `cargo bench --bench report`: speed and cost of pitwire beside the alternatives, all in one run.
//! One table; each figure is the median of three runs, with minimum and maximum.
//!
//! ```text
//! cargo bench --bench report                  everything, about half an hour
//! cargo bench --bench report -- replay ack    rows whose names contain one of these words
//! cargo bench --bench report -- --json        one JSON object instead of the table
//! ```
//! Needs what `tests/setup.sh` installs and, for rsyslog and syslog-ng, `benches/setup.sh`. The table
//! names a missing client and skips it. On a machine that does other work at the same time, compare
//! only the ratios within one run.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a bench program")]

// Shared with the tests; the benches use only part of it.
#[allow(dead_code, unused_imports, unreachable_pub, reason = "shared")]
#[path = "../../tests/it/agent.rs"]
mod agent;
#[allow(dead_code, unused_imports, unreachable_pub, reason = "shared")]
#[path = "../../tests/it/contract.rs"]
mod contract;
#[cfg(target_os = "linux")]
#[allow(unreachable_pub, reason = "shared")]
#[path = "../../tests/it/default_ports.rs"]
mod default_ports;
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
