//! Limits that an operator cannot set: those that follow from a protocol, and those that only keep
//! memory, disk and waiting times bounded.

use std::ops::Range;
use std::time::Duration;

// Input.

/// The maximum size of a configuration file; a larger one is an error.
pub const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// The maximum size of a sample or setup; a larger one is refused. The server closes the connection
/// at messages above 1,000,000 bytes, which include the envelope.
pub const MAX_SAMPLE_BYTES: usize = 900_000;

/// The maximum nesting of objects and arrays in a sample; a deeper one is refused.
pub const MAX_SAMPLE_DEPTH: usize = 32;

/// A sample whose capture time is further in the future than this gets the current time instead.
/// One day tolerates every wrong time zone.
pub const MAX_CLOCK_LEAD: Duration = Duration::from_hours(24);

/// The maximum body of an HTTP request; a larger one is refused.
pub const MAX_HTTP_BODY_BYTES: usize = 8 << 20;

/// The maximum number of samples in an HTTP request; a request with more is refused.
pub const MAX_HTTP_ENTRIES: usize = 10_000;

/// The maximum time from an HTTP request to its response.
pub const HTTP_TIMEOUT: Duration = Duration::from_secs(30);

/// The maximum number of lines that are appended together.
pub const MAX_BATCH_LINES: usize = 256;

/// The read buffer for lines: holds about as many as are appended together.
pub const LINES_BUFFER_BYTES: usize = 256 << 10;

/// Bytes of one read of standard input, and of the read-ahead while earlier lines are stored.
pub const STDIN_READ_BYTES: usize = 64 << 10;
pub const STDIN_BUFFER_BYTES: usize = 256 << 10;

/// The interval between attempts to listen on an address that another program uses.
pub const LISTEN_RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// The rate of the simulated car, and of a recording, when `update_rate_hz` is 0.
pub const SIMULATOR_RATE_HZ: f64 = 2.0;

/// The maximum number of destinations besides `[server]`, and the maximum length of a name.
pub const MAX_DESTINATIONS: usize = 8;
pub const MAX_DESTINATION_NAME_BYTES: usize = 32;

/// The number of cars, stint pages and sessions that are remembered; the least recently used are
/// forgotten. No league has this many cars.
pub const MAX_STREAMS: usize = 256;
pub const MAX_PAGES: usize = 256;
pub const MAX_SESSIONS: usize = 256;

/// How long a source waits for the disk before its entries count as buffered.
pub const APPEND_TIMEOUT: Duration = Duration::from_secs(1);

// The queue.

/// The capacity of the channel from the session to the queue worker; a full channel makes the
/// session wait.
pub const QUEUE_CHANNEL_COMMANDS: usize = 256;

/// A removal is flushed with the next append, or after this long. If power fails before that, the
/// entry is sent again.
pub const REMOVE_FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// How long to wait for another process, or for threads of the previous one, to close the store.
pub const STORE_OPEN_TIMEOUT: Duration = Duration::from_secs(1);

/// The interval between attempts to write entries again after a disk failure.
pub const STORAGE_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The interval between attempts to open a queue whose disk is full or read-only.
pub const STORAGE_OPEN_INTERVAL: Duration = Duration::from_secs(2);

/// The maximum entries, and bytes of JSON, that wait in memory while the disk is slow, full or
/// missing. One request of a source may exceed it.
pub const BUFFER_ENTRIES: usize = 16_384;
pub const BUFFER_BYTES: usize = 12 << 20;

/// Entries younger than this, relative to the newest, are never downsampled.
pub const RECENT: Duration = Duration::from_secs(60);

/// The maximum entries, and bytes of their records, that one step drops from the head of the queue.
pub const DROP_STEP_ENTRIES: usize = 1024;
pub const DROP_STEP_BYTES: usize = 1 << 20;

/// The maximum size of the setups that are kept after they left the queue, to be sent to new pages;
/// two of the largest fit.
pub const MAX_SETUPS_LEFT_BYTES: usize = 2_000_000;

/// Sequence numbers that a user may pass are below this; no queue reaches it.
pub const MAX_SEQ: u64 = 1 << 62;

// Queue tools.

/// The maximum entries, and bytes of their records, that a queue tool reads at once; a larger entry
/// is read alone. The queue worker does nothing else meanwhile.
pub const PAGE_ENTRIES: usize = 1024;
pub const PAGE_BYTES: usize = 1 << 20;

/// The maximum number of findings that are listed for one segment.
pub const MAX_FINDINGS: usize = 100;

/// The maximum line of an export: an entry, its position and its timestamp; a longer one is refused.
pub const MAX_LINE_BYTES: usize = MAX_SAMPLE_BYTES + 2048;

/// The maximum time from a tool's request to the agent's answer.
pub const TOOL_TIMEOUT: Duration = Duration::from_secs(60);

/// The maximum answer of the agent to a tool; a page with the largest entry fits.
pub const MAX_TOOL_ANSWER_BYTES: usize = 8 << 20;

// The session with a server.

/// The maximum server events that wait for the session; more is a flood and ends the connection.
/// The echo of a full batch fits four times.
pub const CONNECTION_EVENTS: usize = 4096;

/// How often to check that the client library still reads: it can stop without an error.
pub const READER_CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// How long to wait for the answer to joining a session, and for an earlier acknowledgement that
/// must arrive first.
pub const JOIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Entries of an earlier link may still be in transit in the server. The session polls what the
/// server holds until that is stable, with this pause and at most this often.
pub const STORED_PAUSE: Duration = Duration::from_millis(250);
pub const STORED_LOOKS: u32 = 20;

/// The longest session id that a server may assign; a UUID has 36 characters.
pub const MAX_SESSION_ID_CHARS: usize = 128;

/// The batch size on a link whose latency is not yet known.
pub const FIRST_WINDOW_ENTRIES: usize = 16;

/// The batch window, by the time that a batch takes in excess of a single entry: the next batch is
/// twice as large below the first bound and half as large above the second.
pub const WINDOW_GROWS_BELOW: Duration = Duration::from_millis(250);
pub const WINDOW_SHRINKS_ABOVE: Duration = Duration::from_secs(1);

/// How long to wait for missing echoes after a batch was acknowledged.
pub const ECHO_GRACE: Duration = Duration::from_millis(500);

/// The maximum number of sent entries that wait for a stronger proof; each takes about 100 bytes of
/// memory.
pub const MAX_UNPROVEN_ENTRIES: usize = 16_384;

/// With this many unproven entries and nothing left to send, the server is asked after this pause.
pub const VERIFY_SOON_ENTRIES: usize = 32;
pub const VERIFY_SOON: Duration = Duration::from_millis(20);

/// The number of attempts for an entry that the server refuses, and the pause between them: 5 s in
/// all.
pub const REFUSAL_TRIES: u32 = 3;
pub const REFUSAL_PAUSE: Duration = Duration::from_millis(2500);

/// After this many links with a session and without a proof, the server is assumed to give none.
pub const WITHOUT_PROOF_LINKS: u32 = 3;

/// After this many consecutive unanswered joins, the server is assumed not to support the event, or
/// not to acknowledge events.
pub const UNANSWERED_JOINS: u32 = 3;

/// On a server that confirms nothing, an entry counts as delivered when the connection outlives
/// twice the ping interval (25 s) and timeout (20 s) after it.
pub const WRITTEN_AFTER: Duration = Duration::from_secs(90);

/// The minimum wait after a failure that an operator has to fix, such as a wrong token.
pub const AUTH_RETRY_INTERVAL: Duration = Duration::from_secs(30);

// NATS.

/// How often a NATS server is pinged. A connection that was silent for three intervals is lost.
pub const NATS_PING_INTERVAL: Duration = Duration::from_secs(5);

/// How long a stream remembers message ids to discard duplicates. Other checks find older
/// duplicates, so this does not have to span an outage.
pub const NATS_DUPLICATE_WINDOW: Duration = Duration::from_mins(2);

/// The maximum time for a NATS server to answer a hub's request, and to accept a connection.
pub const NATS_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a hub looks for streams of new agents, and the first and longest wait before it
/// reconnects: well within [`HUB_LEASE`].
pub const NATS_LOOK_INTERVAL: Duration = Duration::from_secs(5);
pub const NATS_BACKOFF: Range<Duration> = Duration::from_millis(500)..Duration::from_secs(5);

/// Entries of one agent that a hub fetches at once; an entry typically has 700 bytes, at most 1 MB.
pub const NATS_FETCH_ENTRIES: usize = 128;

/// How long a fetch waits before it is repeated. If the cluster node that should answer dies, the
/// hub notices after this long.
pub const NATS_FETCH_EXPIRES: Duration = Duration::from_secs(10);

/// The server deletes a hub's consumer after this long without a request.
pub const NATS_READER_FORGOTTEN: Duration = Duration::from_secs(60);

/// Entries at the end of the queue that a hub scans at its start to find what it has of each agent,
/// because the server delivers those entries again.
pub const NATS_LOOK_BACK_ENTRIES: u64 = 32_768;

/// How often a hub writes a heartbeat and its delivery progress into the assignment table.
pub const HUB_BEAT: Duration = Duration::from_secs(2);

/// A hub's lease: without a heartbeat for this long, other hubs take over. Longer than a restart or
/// a leader election takes. The hub itself stops [`HUB_MARGIN`] earlier.
pub const HUB_LEASE: Duration = Duration::from_secs(20);
pub const HUB_MARGIN: Duration = Duration::from_secs(2);

/// How long a hub leaves an unassigned agent to a hub with fewer agents.
pub const HUB_PATIENCE: Duration = Duration::from_secs(10);

/// The longest time that a returning hub withholds its queued entries until its successor has
/// delivered them, and that a new stint is held back for a handover.
pub const HUB_HOLD: Duration = Duration::from_secs(30);

/// How often an update of the assignment table is retried after a conflicting write, and the pause
/// before a retry. Each hub writes once per [`HUB_BEAT`].
pub const HUB_TRIES: u32 = 8;
pub const HUB_RETRY: Range<Duration> = Duration::from_millis(5)..Duration::from_millis(100);

/// The newest stints of an agent whose pages are in the assignment table; older ones are delivered.
pub const HUB_STINTS: usize = 2;

/// A hub without agents expires from the assignment table after this long without a heartbeat.
pub const HUB_FORGOTTEN: Duration = Duration::from_hours(1);

/// The maximum stream positions per agent that are remembered until the entries before them are
/// delivered; beyond that, the newest are kept.
pub const HUB_MARKS: usize = 1024;

/// The capacity of the channel from a hub to the agent's delivery; the hub waits for each request.
pub const HUB_ORDERS: usize = 4;

// Servers of this program.

/// The longest message that pitwire accepts as a server; a longer one ends the connection, as on
/// the public server.
pub const MAX_MESSAGE_BYTES: usize = 1_000_000;

/// A client with more unread messages than this is disconnected: silently skipping a frame on an
/// open connection would look like a lost frame.
pub const MAX_OUTBOX_MESSAGES: usize = 65_536;

/// The maximum number of rooms of a client, and the maximum length of a name; a UUID has 36 bytes.
pub const MAX_ROOMS: usize = 1_000;
pub const MAX_ROOM_NAME_BYTES: usize = 100;

/// The maximum time from a client's connection to its first packet.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(45);

/// How often a server pings its clients, and how long a client has to answer: the values of the
/// public server.
pub const PING_INTERVAL: Duration = Duration::from_secs(25);
pub const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a stopping server waits for its clients to disconnect.
pub const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// The number of cars whose newest frame and setup are kept for joining clients: the ones that sent
/// most recently.
pub const MAX_LATEST: usize = 8;

/// How often a browser checks whether the page of a car exists yet.
pub const PAGE_REFRESH: Duration = Duration::from_secs(2);

// Monitoring and shutdown.

/// The maximum time from the request to stop to the end of the process, however slow disk and
/// network are.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the ledger is checked.
pub const LEDGER_CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// How often recorded values are folded into the histograms; until then each takes 8 bytes, a few
/// per frame.
pub const METRICS_UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// How often the drain of the queue is judged.
pub const DRAIN_INTERVAL: Duration = Duration::from_secs(10);

/// The queue falls behind only if it has not shrunk for this many consecutive intervals.
pub const DRAIN_INTERVALS: usize = 3;

/// The queue falls behind only if its oldest entry is this much older than its newest. Entries that
/// wait for a proof, which takes up to [`WRITTEN_AFTER`] and a verification, are not a backlog.
pub const BEHIND_AFTER: Duration = Duration::from_mins(2);

/// An entry younger than this is live; an older one is part of a backlog.
pub const LIVE_WITHIN: Duration = Duration::from_secs(5);

/// The number of queue lengths that the status page plots: one hour.
pub const STATUS_LOOKS: usize = 360;

/// The number of recent failures on the status page.
pub const STATUS_TROUBLES: usize = 5;

/// How often the status page's history checks the queue's disk.
pub const TROUBLE_INTERVAL: Duration = Duration::from_secs(5);

/// How long the status page shows that the server forgot the session, so that the driver passes the
/// new link on.
pub const FORGOTTEN_SHOWN: Duration = Duration::from_secs(60);

/// The latencies on the status page cover the entries delivered within this window, at most this
/// many; each takes 32 bytes of memory.
pub const LATENCY_WINDOW: Duration = Duration::from_secs(60);
pub const LATENCIES: usize = 1000;

/// How often the status line in the terminal is updated.
pub const LINE_INTERVAL: Duration = Duration::from_secs(1);

/// The window over which the status line averages its rates and the remaining time.
pub const RATE_WINDOW: Duration = Duration::from_secs(10);

/// The maximum texts that wait for a stopped terminal; further log lines are discarded.
pub const TERMINAL_TEXTS: usize = 256;

/// How long the agent waits for a stopped terminal when it ends.
pub const TERMINAL_PATIENCE: Duration = Duration::from_secs(2);

/// The size at which a log file is rotated; it replaces the previous rotated file.
pub const LOG_FILE_BYTES: u64 = 4 << 20;

/// The minimum time between two log lines of the same kind.
pub const LOG_REPEAT_INTERVAL: Duration = Duration::from_secs(10);

/// The `nice` value of the agent on Linux, 0 to 19. On Windows its priority is "below normal".
pub const NICENESS: i32 = 5;

// Demo and chaos.

// The doctor.

/// The number and size of the writes with which the doctor measures the disk: about a frame each.
pub const DOCTOR_FSYNCS: usize = 9;
pub const DOCTOR_FSYNC_BYTES: usize = 512;

/// The doctor calls a disk slow if a write takes longer than this. A source waits at most four
/// times as long ([`APPEND_TIMEOUT`]).
pub const DOCTOR_SLOW_FSYNC: Duration = Duration::from_millis(250);

/// The doctor reports a disk with less free space than this, the smallest `queue.max_bytes`: the
/// queue cannot be configured to use less.
pub const DOCTOR_LEAST_FREE_BYTES: u64 = 16 << 20;

/// How long the doctor waits for a disk, and for the verification of the whole queue.
pub const DOCTOR_DISK_TIMEOUT: Duration = Duration::from_secs(10);
pub const DOCTOR_VERIFY_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the doctor waits for a name lookup, a connection to each address, a TLS handshake and
/// an HTTP response. The other steps have the limits of `[delivery]`.
pub const DOCTOR_NETWORK_TIMEOUT: Duration = Duration::from_secs(5);

/// The maximum response that the doctor reads; `/metrics` and `/status` fit many times.
pub const MAX_DOCTOR_ANSWER_BYTES: usize = 1 << 20;

/// The doctor reports a server clock that is further off than this. HTTP dates have whole seconds,
/// and the response takes time to arrive.
pub const DOCTOR_CLOCK_OFFSET: Duration = Duration::from_secs(5);

/// How long the doctor waits for an answer from a program on the agent's port.
pub const DOCTOR_LOCAL_TIMEOUT: Duration = Duration::from_secs(2);
