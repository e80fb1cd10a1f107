//! The bare client library that pitwire uses: no queue, no proof, no order, nothing kept. A program
//! that uses it cannot cost less than this.

use std::io::Write;
use std::process::Command;
use std::time::Duration;

use futures_util::FutureExt;
use rust_socketio::asynchronous::ClientBuilder;
use rust_socketio::{Payload, TransportType};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::runtime::Builder;
use tokio::sync::mpsc;

/// The first argument that turns this program into the client.
const NAME: &str = "bare-client";

pub(crate) fn command(server: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([NAME, server]);
    command
}

/// The server, if this process is the client; `None` if it is the report.
pub(crate) fn server() -> Option<String> {
    let mut args = std::env::args().skip(1);
    args.next().filter(|name| name == NAME).and_then(|_| args.next())
}

/// Publishes each line of standard input as a sample and asks for an acknowledgement.
pub(crate) fn publish(server: &str) {
    Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let (assigned, mut session) = mpsc::channel(1);
        let client = ClientBuilder::new(server)
            .transport_type(TransportType::Websocket)
            .on("session_id_assigned", move |payload, _| {
                if let Payload::Text(values) = payload {
                    let _ = assigned.try_send(values[0]["session_id"].to_string());
                }
                async {}.boxed()
            })
            // Parse the echoes, as pitwire must.
            .on("telemetry_update", |_, _| async {}.boxed())
            .connect()
            .await
            .unwrap();
        // The client accepts no event before it is connected, and does not report when it is.
        tokio::time::sleep(Duration::from_millis(500)).await;
        client.emit("request_session_id", json!({})).await.unwrap();
        let session = session.recv().await.unwrap();
        println!("ready");
        std::io::stdout().flush().unwrap();
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        while let Some(line) = lines.next_line().await.unwrap() {
            let json = format!(r#"{{"session_id":{session},"telemetry":{line}}}"#);
            #[allow(deprecated, reason = "the cheapest payload that it takes")]
            let payload = Payload::String(json);
            let acked = |_, _| async {}.boxed();
            let limit = Duration::from_secs(30);
            client.emit_with_ack("telemetry_update", payload, limit, acked).await.unwrap();
        }
    });
}
