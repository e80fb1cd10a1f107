//! Checks a NATS server: whether it accepts the connection and has the stream.

use tokio::time::timeout;

use super::super::DoctorReport;
use super::reason;
use crate::config::Config;
use crate::sink::nats::Nats;
use crate::sink::{Sink, SinkError};

pub(super) async fn look(report: &mut DoctorReport, config: &Config) {
    let mut nats = Nats::new(config);
    let limit = config.delivery.open_timeout;
    let error = match timeout(limit, nats.open()).await {
        Ok(Ok(_)) => {
            report.ok(format!(
                "it speaks NATS, accepts the connection and has the stream {}",
                nats.server()
            ));
            return;
        }
        // The report about the configuration names the file.
        Ok(Err(SinkError::Configuration(_))) => {
            return report.not_checked("whether it can be reached, and its stream");
        }
        Ok(Err(error)) => error,
        Err(_) => SinkError::Timeout(limit, "it does not show its stream"),
    };
    let advice = match &error {
        SinkError::Refused(_) | SinkError::Proxy(_) => {
            "check that server.url has the name and the port of the NATS server, that it runs, and \
             that this PC is online"
        }
        SinkError::Timeout(..) | SinkError::Lost(_) => {
            "try again; check that the server is not overloaded"
        }
        SinkError::Tls(_) => {
            "check that server.ca_file names the authority of the server's certificate, and that \
             the certificate has the name in server.url"
        }
        SinkError::NoTls(_) => {
            "write nats:// instead of tls:// in server.url, or the port that has TLS"
        }
        SinkError::Auth(_) => {
            "ask its operator for a token or a .creds file; put it into server.token or \
             server.token_file, or set server.credentials_file"
        }
        SinkError::Protocol(_)
        | SinkError::Stream(_)
        | SinkError::Configuration(_)
        | SinkError::Diagnosed(_) => {
            "check that server.url is the address of a NATS server that was started with \
             JetStream: nats-server -js"
        }
    };
    report.fault(format!("{}: {}", config.server.url, reason(error)), advice);
}
