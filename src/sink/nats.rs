//! Publishes to a NATS JetStream stream, for a league's fleet. The subjects are
//! `pitwire.<agent>.<stint>.telemetry` and `.setup`; the payload is the entry's JSON, unmodified.
//!
//! Each agent has its own stream, `PITWIRE_<agent>`, so that only this agent advances the stream's
//! sequence. Every entry names the sequence that it must follow (`Nats-Expected-Last-Sequence`).
//! Therefore many entries can be in flight: if one is lost, the server refuses the following ones,
//! and late entries of an earlier connection cannot slip in between. Entries in flight together
//! also name their predecessor (`Nats-Expected-Last-Msg-Id`), because another agent of the same
//! name may have taken the sequence number. `Nats-Msg-Id` lets the server's deduplication window
//! detect repetitions.
//!
//! The name of a stint is created here from its number and a random part, because a recreated queue
//! counts its stints from 1 again. The server does not have to remember the name, so a session is
//! never forgotten.

use std::error::Error as _;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{
    CreateStreamError, CreateStreamErrorKind, PublishAckFuture, PublishError, PublishErrorKind,
};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{
    Config as StreamConfig, LastRawMessageErrorKind, StorageType, Stream,
};

use super::{
    Ack, Addressed, EntryId, JoinWait, Joined, Link, Proof, Receipt, Shown, Sink, SinkError,
};
use crate::config::{Config, SERVER};
use crate::entry::{Entry, Kind, Seq, StintId};
use crate::nats::{
    CAPTURED_AT, NatsConnection, NatsError, NatsOptions, SEQ, SETUP, STREAM_PREFIX, TELEMETRY,
};
use crate::remote_text::{RemoteText, Secrets};

/// How long a stream remembers message ids to discard duplicates. Other checks find older
/// duplicates, so this does not have to span an outage.
const NATS_DUPLICATE_WINDOW: Duration = Duration::from_mins(2);

/// A NATS server with this agent's stream.
#[derive(Debug)]
pub struct Nats {
    stream: String,
    agent: String,
    options: NatsOptions,
    replicas: usize,
    max_age: Duration,
}

impl Nats {
    /// Creates the sink for the configured server.
    pub fn new(config: &Config) -> Self {
        let (agent, server) = (config.agent.name(), &config.server);
        Self {
            stream: format!("{STREAM_PREFIX}{agent}"),
            agent,
            options: NatsOptions {
                table: SERVER,
                url: server.url.clone(),
                token: server.token.clone(),
                token_file: server.token_file.clone(),
                credentials_file: server.credentials_file.clone(),
                ca_file: server.ca_file.clone(),
                open_timeout: config.delivery.open_timeout,
                request_timeout: config.delivery.proof_timeout,
                secrets: Secrets::of(config),
            },
            replicas: server.stream_replicas as usize,
            max_age: server.stream_max_age,
        }
    }

    /// The configuration for creating the stream. An existing stream is not changed.
    fn new_stream(&self) -> StreamConfig {
        StreamConfig {
            name: self.stream.clone(),
            description: Some(format!("telemetry of {}, by pitwire", self.agent)),
            subjects: vec![format!("pitwire.{}.>", self.agent)],
            storage: StorageType::File,
            num_replicas: self.replicas,
            max_age: self.max_age,
            duplicate_window: NATS_DUPLICATE_WINDOW.min(self.max_age),
            ..StreamConfig::default()
        }
    }
}

impl Sink for Nats {
    type Link = NatsLink;

    async fn open(&mut self) -> Result<NatsLink, SinkError> {
        let limit = self.options.request_timeout;
        let mut connection = NatsConnection::open(self.options.clone()).await?;
        let context = connection.context();
        let made = connection.wait_for(context.get_or_create_stream(self.new_stream())).await?;
        let stream = made.map_err(|error| no_stream(&self.stream, limit, &error, &connection))?;
        let last = stream.cached_info().state.last_sequence;
        Ok(NatsLink {
            connection,
            stream,
            name: self.stream.clone(),
            agent: self.agent.clone(),
            request_timeout: limit,
            last,
        })
    }

    fn server(&self) -> &str {
        // Without the address: all servers of a cluster use the same name for a stint.
        &self.stream
    }

    fn page(&self, _session: &str) -> Option<String> {
        None
    }

    fn identify(&self, entry: &Entry) -> EntryId {
        // Each message in the stream carries the position of its entry in our queue.
        EntryId(entry.seq.0)
    }

    fn strongest_proof(&self) -> Proof {
        Proof::Ack
    }
}

/// A connection to a NATS server, with the agent's stream.
#[derive(Debug)]
pub struct NatsLink {
    connection: NatsConnection,
    stream: Stream,
    name: String,
    agent: String,
    request_timeout: Duration,
    /// The sequence of the newest message in the stream, as last seen by this link.
    last: u64,
}

impl Link for NatsLink {
    async fn request_session(&mut self, stint: StintId) -> Result<String, SinkError> {
        Ok(format!("{stint}-{:08x}", rand::random::<u32>()))
    }

    async fn join(&mut self, session: &str, _answer: JoinWait) -> Result<Joined, SinkError> {
        let frame = self.newest(session, TELEMETRY).await?;
        let setup = self.newest(session, SETUP).await?;
        Ok(Joined::Known(Shown { frame, setup }))
    }

    async fn publish(
        &mut self,
        entries: &[Addressed<'_>],
        _proof: Proof,
        _grace: Duration,
    ) -> Result<Receipt, SinkError> {
        let mut acks = Vec::with_capacity(entries.len());
        let mut before = None;
        for (entry, follows) in entries.iter().zip(self.last..) {
            let id = self.id(*entry);
            match self.send(*entry, &id, follows, before.as_deref()).await? {
                Ok(ack) => acks.push(ack),
                Err(objection) => return Ok(objected(entries, objection)),
            }
            before = Some(id);
        }
        for ack in acks {
            let acked = self.connection.wait_for(ack.into_future()).await?;
            match acked {
                Ok(ack) if !ack.duplicate && ack.sequence == self.last + 1 => self.last += 1,
                Ok(_) => return Err(self.moved().await),
                Err(error) => match self.understand(error).await {
                    Ok(objection) => return Ok(objected(entries, objection)),
                    Err(error) => return Err(error),
                },
            }
        }
        Ok(Receipt { ack: Ack::Plain, ..Receipt::default() })
    }

    fn skipped(&self) -> Vec<Seq> {
        // The stream accepts entries in order only.
        Vec::new()
    }

    fn came_back(&self) -> Vec<Seq> {
        Vec::new()
    }

    async fn closed(&mut self) -> SinkError {
        self.connection.closed().await.into()
    }
}

impl NatsLink {
    fn id(&self, Addressed { session, entry, .. }: Addressed<'_>) -> String {
        format!("{}.{session}.{}", self.agent, entry.seq)
    }

    /// Sends an entry that must follow the sequence `follows` and, if given, the message with the
    /// id `before`. Returns the server's objection if it would refuse the entry.
    async fn send(
        &mut self,
        Addressed { session, entry, .. }: Addressed<'_>,
        id: &str,
        follows: u64,
        before: Option<&str>,
    ) -> Result<Result<PublishAckFuture, RemoteText>, SinkError> {
        let kind = match entry.kind {
            Kind::Frame => TELEMETRY,
            Kind::Setup => SETUP,
        };
        let mut message = PublishMessage::build()
            .payload(entry.json.clone().into())
            .message_id(id)
            .expected_stream(&self.name)
            .header(SEQ, entry.seq.to_string().as_str())
            .header(CAPTURED_AT, entry.captured_at.to_string().as_str())
            .expected_last_sequence(follows);
        if let Some(before) = before {
            message = message.expected_last_message_id(before);
        }
        let context = self.connection.context();
        let subject = self.subject(session, kind);
        let sent = self.connection.wait_for(context.send_publish(subject, message)).await?;
        match sent {
            Ok(ack) => Ok(Ok(ack)),
            Err(error) => self.understand(error).await.map(Err),
        }
    }

    fn subject(&self, session: &str, kind: &str) -> String {
        format!("pitwire.{}.{session}.{kind}", self.agent)
    }

    /// The newest entry on a subject.
    async fn newest(&mut self, session: &str, kind: &str) -> Result<Option<EntryId>, SinkError> {
        let subject = self.subject(session, kind);
        let asked = self.stream.get_last_raw_message_by_subject(&subject);
        let message = match self.connection.wait_for(asked).await? {
            Ok(message) => message,
            Err(error) => match error.kind() {
                LastRawMessageErrorKind::NoMessageFound => return Ok(None),
                _ => return Err(self.unanswered(&error)),
            },
        };
        let seq = message.headers.get(SEQ).and_then(|seq| seq.as_str().parse().ok());
        seq.map(|seq| Some(EntryId(seq))).ok_or_else(|| {
            SinkError::Stream(self.connection.remote_text(format_args!(
                "the newest entry on {subject} has no {SEQ}: another program publishes there"
            )))
        })
    }

    /// Classifies a publish error: `Ok` with the reason if the server refuses this entry, otherwise
    /// the error that ends the link.
    async fn understand(&mut self, error: PublishError) -> Result<RemoteText, SinkError> {
        let refusal = error.source().and_then(|cause| cause.downcast_ref::<jetstream::Error>());
        let code = refusal.map(jetstream::Error::error_code);
        let text = self.connection.remote_text(&error);
        match error.kind() {
            PublishErrorKind::MaxPayloadExceeded => Ok(text),
            PublishErrorKind::Other if code.is_some_and(is_about_the_entry) => Ok(text),
            PublishErrorKind::WrongLastSequence | PublishErrorKind::WrongLastMessageId => {
                Err(self.moved().await)
            }
            PublishErrorKind::TimedOut => {
                Err(SinkError::Timeout(self.request_timeout, "it acknowledges no entry"))
            }
            PublishErrorKind::StreamNotFound => {
                let name = self.connection.remote_text(&self.name);
                Err(SinkError::Stream(name.within("the stream ", " is gone")))
            }
            PublishErrorKind::BrokenPipe => Err(self.closed().await),
            PublishErrorKind::MaxAckPending | PublishErrorKind::Other => {
                Err(SinkError::Stream(text))
            }
        }
    }

    /// The error for a stream whose sequence has changed unexpectedly. The next link reads the
    /// current one.
    async fn moved(&mut self) -> SinkError {
        let all = format!("pitwire.{}.>", self.agent);
        let asked = self.stream.get_last_raw_message_by_subject(&all);
        let newest = match self.connection.wait_for(asked).await {
            Ok(Ok(newest)) => newest,
            Ok(Err(error)) => return self.unanswered(&error),
            Err(error) => return error.into(),
        };
        let id = newest.headers.get(async_nats::header::NATS_MESSAGE_ID);
        let id = id.map_or("an entry of another program", |id| id.as_str());
        let before = format!("the stream {} moved on to ", self.name);
        let after = format!(
            " unexpectedly: entries of an earlier connection arrived late, or another agent is \
             also named {:?}; give each agent a unique agent.name",
            self.agent
        );
        SinkError::Stream(self.connection.remote_text(id).within(&before, &after))
    }

    fn unanswered(&self, error: &async_nats::jetstream::stream::LastRawMessageError) -> SinkError {
        match error.kind() {
            LastRawMessageErrorKind::Other => {
                SinkError::Timeout(self.request_timeout, "it does not return the newest entry")
            }
            _ => SinkError::Stream(self.connection.remote_text(error)),
        }
    }
}

/// The receipt for a refused entry. All entries are missing: the following ones are refused too,
/// because their expected sequence does not match.
fn objected(entries: &[Addressed<'_>], objection: RemoteText) -> Receipt {
    let missing = entries.iter().map(|addressed| addressed.entry.seq).collect();
    Receipt { ack: Ack::Error(objection), missing, inversions: 0 }
}

fn is_about_the_entry(code: ErrorCode) -> bool {
    [ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM, ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM]
        .contains(&code)
}

fn no_stream(
    stream: &str,
    limit: Duration,
    error: &CreateStreamError,
    connection: &NatsConnection,
) -> SinkError {
    match error.kind() {
        CreateStreamErrorKind::TimedOut => SinkError::Timeout(limit, "it does not show its stream"),
        CreateStreamErrorKind::JetStreamUnavailable => SinkError::Stream(
            "it has no JetStream, or none yet; start nats-server with -js and a store_dir".into(),
        ),
        _ => {
            let text = connection.remote_text(error);
            SinkError::Stream(text.within(&format!("no stream {stream}: "), ""))
        }
    }
}

impl From<NatsError> for SinkError {
    fn from(error: NatsError) -> Self {
        match error {
            NatsError::Refused(text) => Self::Refused(text),
            NatsError::Timeout(limit, what) => Self::Timeout(limit, what),
            NatsError::Tls(text) => Self::Tls(text),
            NatsError::NoTls(address) => Self::NoTls(address),
            NatsError::Auth(text) => Self::Auth(text),
            NatsError::Configuration(text) => Self::Configuration(text),
            NatsError::Unfit(text) => Self::Stream(text),
            NatsError::Lost(text) => Self::Lost(text),
        }
    }
}
