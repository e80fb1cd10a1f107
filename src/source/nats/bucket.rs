//! Stores the assignment table of the hubs with one name: a key-value bucket with one key on the
//! NATS server.

use async_nats::jetstream::Context;
use async_nats::jetstream::kv::{Store, UpdateErrorKind};
use async_nats::jetstream::stream::{Config, DiscardPolicy, StorageType};

use super::NATS_TIMEOUT;
use super::assignments::AssignmentTable;
use crate::nats::{NatsConnection, NatsError};
use crate::remote_text::{RemoteText, Secrets};

const KEY: &str = "book";

/// Whether the table was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PutOutcome {
    Yes,
    /// Not written: another hub has written since it was read.
    No,
}

pub(super) struct Bucket {
    store: Store,
    name: String,
}

impl Bucket {
    /// Opens the bucket of the hubs named `durable`, or creates it with this number of replicas.
    pub(super) async fn open(
        connection: &mut NatsConnection,
        durable: &str,
        replicas: usize,
    ) -> Result<Self, NatsError> {
        let name = format!("pitwire-hubs-{durable}");
        let context = connection.context();
        let secrets = connection.secrets().clone();
        let opened = connection.wait_for(get_or_create(&context, &name, replicas, &secrets)).await;
        let store = opened.and_then(|opened| opened).map_err(|error| match error {
            // A refusal ends the connection without naming the request, so add the bucket's name.
            NatsError::Auth(text) => NatsError::Auth(no_bucket(&name, text)),
            error => error,
        })?;
        Ok(Self { store, name })
    }

    /// Reads the table and its version; an empty table and version 0 if the bucket has none.
    pub(super) async fn read(
        &self,
        connection: &mut NatsConnection,
    ) -> Result<(AssignmentTable, u64), NatsError> {
        let read = connection.wait_for(self.store.entry(KEY)).await?;
        let entry = read.map_err(|error| no_answer(&self.name, connection.remote_text(error)))?;
        let Some(entry) = entry else { return Ok((AssignmentTable::default(), 0)) };
        let table = serde_json::from_slice(&entry.value).map_err(|error| {
            let name = &self.name;
            let text = connection.remote_text(error);
            NatsError::Unfit(text.within(
                &format!("the key {KEY:?} of the bucket {name} is not an assignment table: "),
                "",
            ))
        })?;
        Ok((table, entry.revision))
    }

    /// Writes the table if the version on the server is still `version`.
    pub(super) async fn write(
        &self,
        connection: &mut NatsConnection,
        table: &AssignmentTable,
        version: u64,
    ) -> Result<PutOutcome, NatsError> {
        let text = serde_json::to_vec(table)
            .map_err(|error| NatsError::Unfit(connection.remote_text(error)))?;
        let written = self.store.update(KEY, text.into(), version);
        match connection.wait_for(written).await? {
            Ok(_) => Ok(PutOutcome::Yes),
            Err(error) => match error.kind() {
                UpdateErrorKind::WrongLastRevision => Ok(PutOutcome::No),
                UpdateErrorKind::TimedOut => Err(late()),
                _ => Err(no_answer(&self.name, connection.remote_text(error))),
            },
        }
    }
}

fn no_answer(name: &str, error: RemoteText) -> NatsError {
    NatsError::Lost(error.within(&format!("the bucket {name} does not answer: "), ""))
}

fn late() -> NatsError {
    NatsError::Timeout(NATS_TIMEOUT, "it does not store the hubs' assignments")
}

async fn get_or_create(
    context: &Context,
    name: &str,
    replicas: usize,
    secrets: &Secrets,
) -> Result<Store, NatsError> {
    if let Ok(store) = context.get_key_value(name).await {
        return Ok(store);
    }
    // Not `create_key_value`: it relies on a feature that servers as old as Debian's lack.
    let config = Config {
        name: format!("KV_{name}"),
        description: Some("which of pitwire's hubs takes which agent".into()),
        subjects: vec![format!("$KV.{name}.>")],
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        max_messages_per_subject: 1,
        num_replicas: replicas,
        allow_rollup: true,
        deny_delete: true,
        // A hub that takes over must read the current table, not a replica's stale copy.
        allow_direct: false,
        ..Config::default()
    };
    context
        .create_stream(config)
        .await
        .map_err(|error| NatsError::Unfit(no_bucket(name, RemoteText::new(error, secrets))))?;
    let store = context.get_key_value(name).await;
    store.map_err(|error| no_answer(name, RemoteText::new(error, secrets)))
}

fn no_bucket(name: &str, error: RemoteText) -> RemoteText {
    error.within(
        &format!("the bucket {name}, which hubs need, does not exist and cannot be created: "),
        &format!("; let this hub's account create it, or create it yourself: nats kv add {name}"),
    )
}
