//! The dashboard server's protocol over a Socket.IO connection: event names and payloads.
//!
//! An acknowledgement does not mean that a frame was stored: the server also acknowledges frames of
//! sessions that it does not know. Joining a session distinguishes the two, and makes the server
//! echo each event that it accepts. The `session` module decides what counts as proof; this module
//! only translates.

mod echoes;
mod identity;

use std::borrow::Cow;
use std::env;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};
use url::Url;

use self::echoes::{Echo, Expected, Listening, ServerEvent};
use super::probe::{Diagnostics, Outcome};
use super::socketio::{AckReceiver, Address, Connection, Outgoing};
use super::{
    Ack, Addressed, EntryId, JoinWait, Joined, Link, Proof, Receipt, Shown, Sink, SinkError,
    Transport,
};
use crate::config;
use crate::config::{Config, Proxy, Secret, ServerConfig, TransportChoice};
use crate::entry::{Entry, Kind, Seq, StintId, content_members};
use crate::remote_text::{RemoteText, Secrets};
use crate::sink::JOIN_TIMEOUT;

/// A dashboard server.
#[derive(Debug)]
pub(crate) struct Dashboard {
    url: String,
    open_timeout: Duration,
    request_timeout: Duration,
    mark: bool,
    access: ServerConfig,
    /// All secrets of the configuration, which are redacted in remote texts.
    secrets: Secrets,
    diagnostics: Diagnostics,
    /// The transport of the latest connection.
    transport: Option<Transport>,
}

impl Dashboard {
    /// Creates the sink for the configured server.
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            url: config.server.url.to_string(),
            open_timeout: config.delivery.open_timeout,
            request_timeout: config.delivery.proof_timeout,
            mark: config.delivery.mark,
            access: config.server.clone(),
            secrets: Secrets::of(config),
            diagnostics: Diagnostics::default(),
            transport: None,
        }
    }

    /// The address and credentials for a connection. The files are read on each call, so a token
    /// can be changed while the agent runs.
    pub(crate) fn address(&self) -> Result<Address, SinkError> {
        let ServerConfig { headers, auth, ca_file, .. } = &self.access;
        let token = self.token()?;
        let token = token.reveal();
        let mut headers: Vec<_> =
            headers.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        if let Some(token) = token {
            if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(SinkError::Auth(
                    "the token has characters that are not allowed in a header".into(),
                ));
            }
            headers.push(("Authorization".into(), format!("Bearer {token}")));
        }
        let proxy = self.proxy()?;
        let proxy_secrets = proxy.as_ref().map(Proxy::secrets).unwrap_or_default();
        let auth = auth.reveal().cloned();
        let ca = match ca_file {
            Some(path) => Some(
                config::read_ca(path).map_err(|fault| self.unusable("server.ca_file", &fault))?,
            ),
            None => None,
        };
        Ok(Address {
            url: format!("{}/socket.io/", self.url),
            open_timeout: self.open_timeout,
            headers,
            auth: auth.or_else(|| token.map(|token| serde_json::json!({"token": token}))),
            ca,
            proxy,
            transport: self.access.transport,
            secrets: self.secrets.and(token.map(str::to_owned).into_iter().chain(proxy_secrets)),
        })
    }

    /// The token of the configuration, or of its file.
    fn token(&self) -> Result<Secret, SinkError> {
        let Some(file) = &self.access.token_file else { return Ok(self.access.token.clone()) };
        let text = file.read().map_err(|fault| self.unusable("server.token_file", &fault))?;
        Ok(Secret::from(text.as_str()))
    }

    fn unusable(&self, key: &str, fault: &config::FileFault) -> SinkError {
        SinkError::Configuration(RemoteText::new(format_args!("{key}: {fault}"), &self.secrets))
    }

    fn proxy(&self) -> Result<Option<Proxy>, SinkError> {
        let Ok(url) = Url::parse(&self.url) else { return Ok(None) };
        let proxy = self.access.proxy.for_server(&url, |name| env::var(name).ok());
        proxy.map_err(|error| SinkError::Proxy(RemoteText::new(error, &self.secrets)))
    }

    /// Logs the transport if it differs from the previous connection's.
    fn log_transport(&mut self, transport: Transport) {
        match (self.transport.replace(transport), transport) {
            (None, Transport::Websocket) => {}
            (Some(previous), _) if previous == transport => {}
            (_, Transport::Websocket) => {
                tracing::info!(transport = transport.as_str(), "WebSocket gets through again");
            }
            (_, Transport::Polling) if self.access.transport == TransportChoice::Polling => {}
            (_, Transport::Polling) => tracing::warn!(
                transport = transport.as_str(),
                "WebSocket does not get through to the server; using HTTP long-polling, which is \
                 slower; let the server and the proxy in front of it accept WebSocket upgrades"
            ),
        }
    }
}

impl Sink for Dashboard {
    type Link = DashboardLink;

    async fn open(&mut self) -> Result<DashboardLink, SinkError> {
        let listening = Listening::default();
        let address = self.address()?;
        let secrets = address.secrets.clone();
        let started = Instant::now();
        let connection = match connect(address, &listening).await {
            Ok(connection) => connection,
            Err(error) => {
                let (took, address) = (started.elapsed(), self.address()?);
                match self.diagnostics.explain(error, took, &address).await {
                    Outcome::Error(error) => return Err(error),
                    Outcome::Moved { url, .. } => {
                        connect(Address { url, ..address }, &listening).await?
                    }
                }
            }
        };
        self.diagnostics.connected();
        self.log_transport(connection.transport());
        Ok(DashboardLink {
            connection,
            listening,
            secrets,
            request_timeout: self.request_timeout,
            mark: self.mark,
            ack_out: None,
            ack_is_late: false,
            requests_acks: true,
            expected: Expected::default(),
        })
    }

    fn server(&self) -> &str {
        &self.url
    }

    fn page(&self, session: &str) -> Option<String> {
        Some(format!("{}/dashboard/{session}", self.url))
    }

    fn identify(&self, entry: &Entry) -> EntryId {
        let id = match entry.kind {
            Kind::Frame => identity::frame(&telemetry(entry, self.mark)),
            Kind::Setup => serde_json::from_str::<SetupText<'_>>(&entry.json)
                .ok()
                .and_then(|text| identity::setup(text.timestamp.get(), text.setup.get())),
        };
        id.unwrap_or_else(|| identity::unreadable(&entry.json))
    }

    fn strongest_proof(&self) -> Proof {
        Proof::Echo
    }
}

/// The text of a setup's entry.
#[derive(Deserialize)]
struct SetupText<'a> {
    #[serde(borrow)]
    timestamp: &'a RawValue,
    #[serde(borrow)]
    setup: &'a RawValue,
}

async fn connect(
    address: Address,
    listening: &Listening,
) -> Result<Connection<ServerEvent>, SinkError> {
    let (listening, secrets) = (listening.clone(), address.secrets.clone());
    Connection::open(address, move |name, payload| listening.read(name, payload, &secrets)).await
}

/// A connection to a dashboard server.
#[derive(Debug)]
pub(crate) struct DashboardLink {
    connection: Connection<ServerEvent>,
    listening: Listening,
    secrets: Secrets,
    request_timeout: Duration,
    mark: bool,
    /// The pending acknowledgement; there is at most one.
    ack_out: Option<AckReceiver>,
    /// Waiting for the pending acknowledgement timed out.
    ack_is_late: bool,
    /// Whether publications that wait for echoes request an acknowledgement too.
    requests_acks: bool,
    /// The entries of the last publication whose echoes are expected.
    expected: Expected,
}

impl Link for DashboardLink {
    async fn request_session(&mut self, _stint: StintId) -> Result<String, SinkError> {
        let request = Outgoing { name: "request_session_id", json: "{}".into() };
        // Discard earlier events: an unsolicited or duplicate id does not answer this request.
        while self.connection.try_next().is_some() {}
        self.connection.emit(vec![request]).await?;
        let assigned = async {
            loop {
                if let ServerEvent::Assigned(id) = self.connection.next().await? {
                    return id.map_err(SinkError::Protocol);
                }
            }
        };
        let limit = self.request_timeout;
        timeout(limit, assigned)
            .await
            .map_err(|_| SinkError::Timeout(limit, "it assigns no session"))?
    }

    async fn join(&mut self, session: &str, answer: JoinWait) -> Result<Joined, SinkError> {
        let asks_for_ack = answer == JoinWait::Ack && self.is_free().await;
        self.listening.to(session);
        // Discard earlier events, which do not answer this join.
        while self.connection.try_next().is_some() {}
        let join = vec![Outgoing { name: "join_session", json: envelope(session, "") }];
        let mut ack = if asks_for_ack {
            Some(self.connection.emit_with_ack(join).await?)
        } else {
            self.connection.emit(join).await?;
            None
        };
        let mut shown = Shown::default();
        let answered = self.read_stored(session, &mut ack, &mut shown);
        let is_answered = match timeout(JOIN_TIMEOUT, answered).await {
            Ok(answered) => answered.map(|()| true)?,
            Err(_) => false,
        };
        if ack.is_some() {
            self.ack_out = ack;
        }
        Ok(match shown {
            Shown { frame: None, setup: None } if is_answered => Joined::Silent,
            Shown { frame: None, setup: None } => Joined::Unanswered,
            shown => Joined::Known(shown),
        })
    }

    async fn publish(
        &mut self,
        entries: &[Addressed<'_>],
        proof: Proof,
        grace: Duration,
    ) -> Result<Receipt, SinkError> {
        let events = entries.iter().map(|entry| self.event(*entry)).collect();
        self.expected = Expected::new(entries, &self.listening);
        let fresh_ack = self.emit(events, proof).await?;
        if proof == Proof::Written {
            return Ok(self.expected.receipt(Ack::None));
        }
        let mut ack = Ack::None;
        let mut acked_out = !fresh_ack;
        let grace_over = sleep(grace);
        tokio::pin!(grace_over);
        loop {
            tokio::select! {
                biased;
                event = self.connection.next() => {
                    if let ServerEvent::Echo(echo) = &event? {
                        self.expected.match_echo(echo);
                    }
                    if self.expected.is_empty() {
                        self.expect_no_ack();
                        return Ok(self.expected.receipt(ack));
                    }
                }
                answer = arrival(&mut self.ack_out) => {
                    let Some(answer) = answer else { return Err(self.closed().await) };
                    // An acknowledgement of an earlier batch proves nothing about this one.
                    if acked_out {
                        acked_out = false;
                        continue;
                    }
                    ack = objection(&answer, &self.secrets);
                    if proof == Proof::Ack || !matches!(ack, Ack::Plain) {
                        return Ok(self.expected.receipt(ack));
                    }
                    grace_over.as_mut().reset(tokio::time::Instant::now() + grace);
                }
                () = &mut grace_over, if ack == Ack::Plain => return Ok(self.expected.receipt(ack)),
            }
        }
    }

    fn request_acks(&mut self, wanted: bool) {
        self.requests_acks = wanted;
    }

    fn skipped(&self) -> Vec<Seq> {
        self.expected.skipped()
    }

    fn came_back(&self) -> Vec<Seq> {
        self.expected.came_back.clone()
    }

    fn transport(&self) -> Option<Transport> {
        Some(self.connection.transport())
    }

    async fn closed(&mut self) -> SinkError {
        // Drain incoming events: a full channel would end the connection.
        loop {
            for _ in 0..32 {
                if let Err(error) = self.connection.next().await {
                    return error;
                }
            }
            // Let other tasks run, even if events arrive continuously.
            yield_now().await;
        }
    }
}

impl DashboardLink {
    /// Reads the server's events after a join into `shown`. Stops at the acknowledgement if one is
    /// pending, else at the frame, which the server sends last.
    async fn read_stored(
        &mut self,
        session: &str,
        ack: &mut Option<AckReceiver>,
        shown: &mut Shown,
    ) -> Result<(), SinkError> {
        let waits_for_ack = ack.is_some();
        loop {
            tokio::select! {
                biased;
                event = self.connection.next() => {
                    let kind = note_stored(&event?, session, shown);
                    if kind == Some(Kind::Frame) && !waits_for_ack {
                        return Ok(());
                    }
                }
                acked = arrival(ack) => {
                    // The sender is only dropped when the connection ends.
                    if acked.is_none() {
                        return Err(self.connection.closed().await);
                    }
                    while let Some(event) = self.connection.try_next() {
                        note_stored(&event, session, shown);
                    }
                    return Ok(());
                }
            }
        }
    }

    /// Whether an acknowledgement may be requested: no earlier one is pending, or it arrives soon.
    async fn is_free(&mut self) -> bool {
        // Wait only once: a server that has not acknowledged by now is unlikely to.
        if self.ack_is_out() && !self.ack_is_late {
            self.ack_is_late = timeout(JOIN_TIMEOUT, arrival(&mut self.ack_out)).await.is_err();
        }
        !self.ack_is_out()
    }

    fn ack_is_out(&mut self) -> bool {
        let is_out = self.ack_out.as_mut().is_some_and(|earlier| {
            matches!(earlier.try_recv(), Err(oneshot::error::TryRecvError::Empty))
        });
        if !is_out {
            self.ack_out = None;
            self.ack_is_late = false;
        }
        is_out
    }

    /// Stops waiting for the pending acknowledgement, so that its arrival does not wake the task.
    fn expect_no_ack(&mut self) {
        let mut nobody = Context::from_waker(Waker::noop());
        // Polling may complete the receiver, which must not be polled again.
        if self.ack_out.as_mut().is_some_and(|ack| Pin::new(ack).poll(&mut nobody).is_ready()) {
            self.ack_out = None;
        }
    }

    /// Emits the events. Returns whether an acknowledgement of the last one was requested, which is
    /// not possible while an earlier one is pending: a batch may be echoed before its
    /// acknowledgement.
    async fn emit(&mut self, events: Vec<Outgoing>, proof: Proof) -> Result<bool, SinkError> {
        let is_wanted = match proof {
            Proof::Written => false,
            Proof::Ack => true,
            Proof::Echo => self.requests_acks,
        };
        if !is_wanted || self.ack_is_out() {
            self.connection.emit(events).await?;
            return Ok(false);
        }
        self.ack_out = Some(self.connection.emit_with_ack(events).await?);
        Ok(true)
    }

    fn event(&self, Addressed { session, entry, .. }: Addressed<'_>) -> Outgoing {
        match entry.kind {
            Kind::Frame => {
                let telemetry = telemetry(entry, self.mark);
                let json = envelope(session, &format!(r#","telemetry":{telemetry}"#));
                Outgoing { name: "telemetry_update", json }
            }
            Kind::Setup => {
                let setup = content_members(entry.kind, "telemetry", &entry.json);
                let json = envelope(session, &format!(",{setup}"));
                Outgoing { name: "setup_data", json }
            }
        }
    }
}

/// If the event shows an entry that the server stores for the session, writes it to `shown` and
/// returns its kind.
fn note_stored(event: &ServerEvent, session: &str, shown: &mut Shown) -> Option<Kind> {
    let Echo { kind, id, .. } = event.echo(session)?;
    match kind {
        Kind::Frame => shown.frame = Some(*id),
        Kind::Setup => shown.setup = Some(*id),
    }
    Some(*kind)
}

/// Waits for the pending acknowledgement; never returns without one. Returns `None` if the
/// connection ends first.
async fn arrival(ack_out: &mut Option<AckReceiver>) -> Option<Value> {
    let Some(ack) = ack_out else { return std::future::pending().await };
    let answer = ack.await.ok();
    *ack_out = None;
    answer
}

fn envelope(session: &str, rest: &str) -> String {
    // Escaped as JSON: a fixed id is user input.
    format!(r#"{{"session_id":{}{rest}}}"#, Value::from(session))
}

/// The JSON to send for a frame; `is_marked` adds the entry's position.
fn telemetry(entry: &Entry, is_marked: bool) -> Cow<'_, str> {
    let marked = if is_marked { mark(&entry.json, entry.seq) } else { None };
    marked.map_or(Cow::Borrowed(&entry.json), Cow::Owned)
}

/// Adds the entry's position to the frame, for servers that pass extra keys through.
fn mark(json: &str, seq: Seq) -> Option<String> {
    let rest = json.strip_prefix('{')?;
    let comma = if rest.trim_start().starts_with('}') { "" } else { "," };
    Some(format!(r#"{{"seq":{seq}{comma}{rest}"#))
}

/// Parses the error in an acknowledgement. Most servers send none.
fn objection(arguments: &Value, secrets: &Secrets) -> Ack {
    let first = arguments.get(0).unwrap_or(&Value::Null);
    let text = match first.get("error") {
        Some(Value::String(text)) => text.clone(),
        Some(error) if !matches!(error, Value::Null | Value::Bool(false)) => error.to_string(),
        _ if first.get("ok") == Some(&Value::Bool(false)) => {
            let reason = ["reason", "message"].iter().find_map(|key| first.get(key)?.as_str());
            reason.unwrap_or_default().to_owned()
        }
        _ => return Ack::Plain,
    };
    if text.to_lowercase().contains("session") {
        Ack::UnknownSession
    } else {
        Ack::Error(RemoteText::new(text, secrets))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_an_acknowledgement_with_an_error_is_an_objection() {
        for (arguments, expected) in [
            (json!([]), Ack::Plain),
            (json!([null]), Ack::Plain),
            (json!([{"ok": true}]), Ack::Plain),
            (json!([{"error": null}]), Ack::Plain),
            (json!([{"error": "lap is below 0"}]), Ack::Error("lap is below 0".into())),
            (json!([{"error": "Unknown session"}]), Ack::UnknownSession),
            (json!([{"ok": false, "reason": "no such session"}]), Ack::UnknownSession),
            (json!([{"ok": false}]), Ack::Error("".into())),
            (json!("text"), Ack::Plain),
        ] {
            assert_eq!(objection(&arguments, &Secrets::default()), expected, "{arguments}");
        }
    }

    #[test]
    fn the_sequence_number_is_inserted_into_the_telemetry() {
        assert_eq!(mark(r#"{"lap":1}"#, Seq(7)).unwrap(), r#"{"seq":7,"lap":1}"#);
        assert_eq!(mark("{}", Seq(7)).unwrap(), r#"{"seq":7}"#);
    }
}
