//! The table of all metrics: names, types, labels and meanings.

/// The kind of a metric in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Counter,
    Gauge,
    Histogram,
}

/// A label and its values.
pub(super) type LabelValues = (&'static str, &'static [&'static str]);

/// One row of the table: name, type, labels, meaning.
pub type Row = (&'static str, Type, &'static [LabelValues], &'static str);

/// The label of the metrics that exist for each destination; its values are the configured names.
pub const DESTINATION: LabelValues = ("destination", &[]);

pub(super) const MODES: &[&str] = &["live", "replay"];
const PROOFS: &[&str] = &["written", "ack", "echo"];
const SOURCES: &[&str] =
    &["lmu", "stdin", "http", "socketio", "nats", "file", "simulator", "publisher"];

/// Sources that read a game directly.
const GAMES: &[&str] = &["lmu"];

/// All metrics of pitwire itself.
pub const TABLE: &[Row] = &[
    (
        "pitwire_build_info",
        Type::Gauge,
        &[("version", &[env!("CARGO_PKG_VERSION")]), ("os", &[std::env::consts::OS])],
        "Always 1; the labels give the version and the operating system.",
    ),
    ("pitwire_queue_entries", Type::Gauge, &[], "Entries in the queue."),
    ("pitwire_queue_bytes", Type::Gauge, &[], "Size of the entries in the queue, in bytes."),
    (
        "pitwire_queue_max_entries",
        Type::Gauge,
        &[],
        "Maximum entries in the queue (queue.max_entries).",
    ),
    (
        "pitwire_queue_max_bytes",
        Type::Gauge,
        &[],
        "Maximum disk use of the queue (queue.max_bytes).",
    ),
    ("pitwire_queue_disk_bytes", Type::Gauge, &[], "Disk use of the queue, in bytes."),
    (
        "pitwire_queue_buffered_entries",
        Type::Gauge,
        &[],
        "Entries in memory that wait for a slow or failing disk.",
    ),
    (
        "pitwire_loss_window_seconds",
        Type::Gauge,
        &[],
        "Age of the oldest entry that a power cut would lose now; 0 if it would lose none.",
    ),
    (
        "pitwire_queue_oldest_timestamp_seconds",
        Type::Gauge,
        &[],
        "Capture time of the oldest entry in the queue; 0 if the queue is empty.",
    ),
    (
        "pitwire_queue_oldest_age_seconds",
        Type::Gauge,
        &[],
        "Time since the oldest entry was queued, whatever the wall clock shows; 0 if the queue is empty.",
    ),
    (
        "pitwire_queue_newest_timestamp_seconds",
        Type::Gauge,
        &[],
        "Capture time of the newest entry ever accepted; 0 if none was.",
    ),
    (
        "pitwire_delivered_newest_timestamp_seconds",
        Type::Gauge,
        &[DESTINATION],
        "Capture time of the newest entry delivered since the start; 0 if none was.",
    ),
    (
        "pitwire_catch_up_seconds",
        Type::Gauge,
        &[DESTINATION],
        "Estimated time until everything is delivered; 0 if it is, +Inf if the queue grows.",
    ),
    ("pitwire_entries_appended_total", Type::Counter, &[], "Entries accepted into the queue."),
    (
        "pitwire_entries_delivered_total",
        Type::Counter,
        &[DESTINATION, ("proof", PROOFS), ("mode", MODES)],
        "Entries delivered, by proof and by mode: live within 5 s of capture, else replay.",
    ),
    (
        "pitwire_entries_resent_total",
        Type::Counter,
        &[DESTINATION],
        "Setups resent to a new session.",
    ),
    (
        "pitwire_entries_dropped_total",
        Type::Counter,
        &[DESTINATION, ("reason", &["queue_full", "expired", "corrupt", "storage", "operator"])],
        "Entries dropped from the queue before delivery, by reason.",
    ),
    (
        "pitwire_entries_downsampled_total",
        Type::Counter,
        &[DESTINATION],
        "Entries removed from a full queue to lower its resolution (downsampled).",
    ),
    (
        "pitwire_entries_dead_lettered_total",
        Type::Counter,
        &[DESTINATION, ("cause", &["refused"])],
        "Entries made dead letters because the server refuses them.",
    ),
    (
        "pitwire_ledger_entries",
        Type::Gauge,
        &[
            DESTINATION,
            (
                "state",
                &["appended", "delivered", "dropped", "downsampled", "dead_letters", "queued"],
            ),
        ],
        "Entries accepted since the queue was created, by state.",
    ),
    (
        "pitwire_ledger_imbalance_entries",
        Type::Gauge,
        &[DESTINATION],
        "Appended minus delivered, dropped, downsampled, dead letters and queued; not 0 is a bug.",
    ),
    (
        "pitwire_connected",
        Type::Gauge,
        &[DESTINATION],
        "1 while there is a connection to the server.",
    ),
    (
        "pitwire_transport",
        Type::Gauge,
        &[DESTINATION, ("transport", &["websocket", "polling"])],
        "1 for the transport of the connection to the dashboard server, 0 for others.",
    ),
    (
        "pitwire_session_bound",
        Type::Gauge,
        &[DESTINATION],
        "1 while a session is bound on the connection.",
    ),
    (
        "pitwire_session_verified",
        Type::Gauge,
        &[DESTINATION],
        "1 once the server has proven on this connection that it knows the session.",
    ),
    (
        "pitwire_connects_total",
        Type::Counter,
        &[
            DESTINATION,
            (
                "outcome",
                &["ok", "refused", "timeout", "tls", "proxy", "auth", "configuration", "protocol"],
            ),
        ],
        "Connection attempts, by outcome.",
    ),
    (
        "pitwire_backoff_seconds",
        Type::Gauge,
        &[DESTINATION],
        "Wait before the next connection attempt; 0 while not waiting.",
    ),
    (
        "pitwire_session_rebinds_total",
        Type::Counter,
        &[DESTINATION, ("cause", &["unknown_on_connect", "forgotten"])],
        "New sessions requested because the server no longer knew the old one.",
    ),
    (
        "pitwire_order_inversions_total",
        Type::Counter,
        &[DESTINATION],
        "Entries that viewers received after a newer entry.",
    ),
    (
        "pitwire_proof_latency_seconds",
        Type::Histogram,
        &[DESTINATION],
        "Time from publishing a batch to its proof.",
    ),
    (
        "pitwire_delivery_latency_seconds",
        Type::Histogram,
        &[DESTINATION, ("mode", MODES)],
        "Time from capture of an entry to its proof.",
    ),
    (
        "pitwire_storage_errors_total",
        Type::Counter,
        &[("op", &["append", "flush", "read", "remove", "maintain"])],
        "Failed disk operations of the queue, by operation.",
    ),
    (
        "pitwire_storage_fsync_duration_seconds",
        Type::Histogram,
        &[],
        "Time to make appended entries durable.",
    ),
    (
        "pitwire_source_samples_total",
        Type::Counter,
        &[("source", SOURCES)],
        "Samples and setups received, by source.",
    ),
    (
        "pitwire_source_rejected_total",
        Type::Counter,
        &[
            ("source", SOURCES),
            (
                "reason",
                &[
                    "not_utf8",
                    "not_json",
                    "not_object",
                    "no_known_field",
                    "too_deep",
                    "too_large",
                    "wrong_type",
                    "unknown_session",
                    "too_many_publishers",
                ],
            ),
        ],
        "Samples and setups refused as invalid, by source and reason.",
    ),
    (
        "pitwire_source_values_omitted_total",
        Type::Counter,
        &[("source", SOURCES), ("reason", &["not_finite", "out_of_range"])],
        "Values omitted from samples that were otherwise accepted, by source and reason.",
    ),
    (
        "pitwire_source_rate_limited_total",
        Type::Counter,
        &[("source", SOURCES)],
        "Samples rate-limited because the source is faster than update_rate_hz.",
    ),
    (
        "pitwire_source_connected",
        Type::Gauge,
        &[("source", &["nats"])],
        "1 while the hub is connected to its NATS server.",
    ),
    (
        "pitwire_source_agents",
        Type::Gauge,
        &[("source", &["nats"])],
        "Agents assigned to this hub; hubs with the same name share the agents.",
    ),
    (
        "pitwire_source_behind_entries",
        Type::Gauge,
        &[("source", &["nats"])],
        "Entries that agents have published and the hub has not received yet.",
    ),
    (
        "pitwire_source_up",
        Type::Gauge,
        &[("source", GAMES)],
        "1 while the game is running, driven or not.",
    ),
    (
        "pitwire_source_gaps_total",
        Type::Counter,
        &[("source", GAMES), ("cause", &["game", "agent"])],
        "Samples missing while driving: the game produced none, or the agent was late.",
    ),
];
