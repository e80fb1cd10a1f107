//! Every number of the program that an operator cannot set: what follows from a protocol, or is there
//! only so that nothing grows without bound.

use std::ops::Range;
use std::time::Duration;

// What comes in.

/// A configuration file above this is not read.
pub const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// A sample, or a setup, above this is refused: the server closes the connection above 1,000,000
/// bytes a message, and the envelope around it needs some of them.
pub const MAX_SAMPLE_BYTES: usize = 900_000;

/// Objects and arrays within each other; a sample above this is refused.
pub const MAX_SAMPLE_DEPTH: usize = 32;

/// A sample that says it was captured further ahead of this machine's clock than this gets the
/// clock's moment. A day, as a wrong time zone is no more.
pub const MAX_CLOCK_LEAD: Duration = Duration::from_hours(24);

/// The body of one HTTP request above this is refused.
pub const MAX_HTTP_BODY_BYTES: usize = 8 << 20;

/// Samples in one HTTP request; one with more is refused.
pub const MAX_HTTP_ENTRIES: usize = 10_000;

/// From an HTTP request to its answer, at most.
pub const HTTP_TIMEOUT: Duration = Duration::from_secs(30);

/// Lines that are appended together.
pub const MAX_BATCH_LINES: usize = 256;

/// Lines that are there are read together up to this: about as many as are appended together.
pub const LINES_BUFFER_BYTES: usize = 256 << 10;

/// Read of standard input at once, and ahead while lines before it are stored.
pub const STDIN_READ_BYTES: usize = 64 << 10;
pub const STDIN_BUFFER_BYTES: usize = 256 << 10;

/// Between two tries to listen on an address that another program has.
pub const LISTEN_RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Samples a second of the simulated car, and of a recording, where `update_rate_hz` is 0.
pub const SIMULATOR_RATE_HZ: f64 = 2.0;

/// Servers besides `[server]`, and how long the name of one may be.
pub const MAX_DESTINATIONS: usize = 8;
pub const MAX_DESTINATION_NAME_BYTES: usize = 32;

/// Streams that are told apart, pages of stints, and sessions: those that were used last. More than
/// a league has cars.
pub const MAX_STREAMS: usize = 256;
pub const MAX_PAGES: usize = 256;
pub const MAX_SESSIONS: usize = 256;

/// How long a source waits for the disk before its entries count as buffered.
pub const APPEND_TIMEOUT: Duration = Duration::from_secs(1);

// The queue.

/// Commands of the session that wait for the queue's thread; a full channel makes it wait.
pub const QUEUE_CHANNEL_COMMANDS: usize = 256;

/// A removal that no append has flushed with is flushed after this long: until then a power cut
/// makes the entry go out again.
pub const REMOVE_FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// How long to wait for another process, or for the last one's threads, to let go of the store.
pub const STORE_OPEN_TIMEOUT: Duration = Duration::from_secs(1);

/// Between two tries to store what the disk did not take.
pub const STORAGE_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Between two tries to open a queue whose disk is full or read-only.
pub const STORAGE_OPEN_INTERVAL: Duration = Duration::from_secs(2);

/// Entries, and bytes of JSON, that wait in memory for a disk that is slow, full or gone; one
/// more request of a source fits on top.
pub const BUFFER_ENTRIES: usize = 16_384;
pub const BUFFER_BYTES: usize = 12 << 20;

/// Entries that are younger than this, measured against the newest, are never thinned.
pub const RECENT: Duration = Duration::from_secs(60);

/// Entries, and bytes of their records, that are dropped together from the head of the queue.
pub const DROP_STEP_ENTRIES: usize = 1024;
pub const DROP_STEP_BYTES: usize = 1 << 20;

/// Bytes of the setups that have left the queue and are kept for pages that begin anew; two of the
/// largest fit.
pub const MAX_SETUPS_LEFT_BYTES: usize = 2_000_000;

/// Positions that a person may name are below; no queue gets there.
pub const MAX_SEQ: u64 = 1 << 62;

// A person's tools.

/// Entries, and bytes of their records, that a person's tool looks at together; a larger entry comes
/// alone. The queue does nothing else meanwhile.
pub const PAGE_ENTRIES: usize = 1024;
pub const PAGE_BYTES: usize = 1 << 20;

/// Things wrong with one stretch of the queue that are told one by one.
pub const MAX_FINDINGS: usize = 100;

/// A line of an export above this is refused: an entry, and what says where it was.
pub const MAX_LINE_BYTES: usize = MAX_SAMPLE_BYTES + 1024;

/// From a tool's request to the agent's answer, at most.
pub const TOOL_TIMEOUT: Duration = Duration::from_secs(60);

/// An answer of the agent to a tool above this is not read; a page with the largest entry fits.
pub const MAX_TOOL_ANSWER_BYTES: usize = 8 << 20;

// The session with a server.

/// Events of the server that wait for the session; more is a flood and ends the connection. A
/// batch that comes back whole fits four times.
pub const CONNECTION_EVENTS: usize = 4096;

/// Between two looks whether the client library still reads: it can end without a word.
pub const READER_CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// From joining a session to the server's answer, at most; and as long for an earlier
/// acknowledgement that must come first.
pub const JOIN_TIMEOUT: Duration = Duration::from_secs(2);

/// What an earlier link sent may still be on its way through the server: it is asked with this pause
/// between, so often at most, until what it holds stands still.
pub const STORED_PAUSE: Duration = Duration::from_millis(250);
pub const STORED_LOOKS: u32 = 20;

/// The longest session id that is taken from a server; a UUID has 36.
pub const MAX_SESSION_ID_CHARS: usize = 128;

/// So many entries go out together on a link of which nothing is known.
pub const FIRST_WINDOW_ENTRIES: usize = 16;

/// How much longer than an entry alone a batch may take: after less, the next one is twice as large,
/// after more, half as large.
pub const WINDOW_GROWS_BELOW: Duration = Duration::from_millis(250);
pub const WINDOW_SHRINKS_ABOVE: Duration = Duration::from_secs(1);

/// After the acknowledgement of a batch, how long to wait for what has not come back yet.
pub const ECHO_GRACE: Duration = Duration::from_millis(500);

/// Entries that are sent and wait for a stronger proof, at most; each takes about 100 bytes of
/// memory.
pub const MAX_UNPROVEN_ENTRIES: usize = 16_384;

/// With so many unproven entries and nothing more to send, the server is asked after this pause.
pub const VERIFY_SOON_ENTRIES: usize = 32;
pub const VERIFY_SOON: Duration = Duration::from_millis(20);

/// An entry that the server refuses is tried this often, with this pause between: 5 s in all.
pub const REFUSAL_TRIES: u32 = 3;
pub const REFUSAL_PAUSE: Duration = Duration::from_millis(2500);

/// Links on which a server gave a session and no proof, after which it is taken to give none.
pub const WITHOUT_PROOF_LINKS: u32 = 3;

/// How often in a row a server does not answer when a session is joined, after which it is taken to
/// have no such event, or to acknowledge none.
pub const UNANSWERED_JOINS: u32 = 3;

/// A server that confirms nothing has an entry when the connection outlives two times the ping
/// interval (25 s) and timeout (20 s) after it.
pub const WRITTEN_AFTER: Duration = Duration::from_secs(90);

/// What needs a person, such as a wrong token, is tried again no sooner than this.
pub const AUTH_RETRY_INTERVAL: Duration = Duration::from_secs(30);

// NATS.

/// How often a NATS server is asked whether it is still there. A connection over which nothing came
/// for three times this long is lost.
pub const NATS_PING_INTERVAL: Duration = Duration::from_secs(5);

/// How long a stream remembers what it has, to recognise what comes again. It is not the only thing
/// that does, so that it need not span an outage.
pub const NATS_DUPLICATE_WINDOW: Duration = Duration::from_mins(2);

/// From a hub's request to the NATS server to its answer, and from the start of a connection.
pub const NATS_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a hub looks for streams of agents that are new, and the first and the longest wait before
/// a connection that ended is made again: well within [`HUB_LEASE`].
pub const NATS_LOOK_INTERVAL: Duration = Duration::from_secs(5);
pub const NATS_BACKOFF: Range<Duration> = Duration::from_millis(500)..Duration::from_secs(5);

/// Entries of one agent that a hub asks for at once; each is 1 MB at the worst and 700 bytes as a rule.
pub const NATS_FETCH_ENTRIES: usize = 128;

/// A request for entries ends after this long, and the next one is made. A node of a cluster may die
/// with who would have answered: so long is that not seen.
pub const NATS_FETCH_EXPIRES: Duration = Duration::from_secs(10);

/// What a hub reads with is forgotten by the server after so long without a request.
pub const NATS_READER_FORGOTTEN: Duration = Duration::from_secs(60);

/// Entries at the end of the queue that a hub looks through at its start for what it has of each
/// agent, which is given out again.
pub const NATS_LOOK_BACK_ENTRIES: u64 = 32_768;

/// How often a hub writes into the book of its name that it lives, and what it has delivered.
pub const HUB_BEAT: Duration = Duration::from_secs(2);

/// Others take over from a hub that has not written for so long: longer than a restart takes, or a
/// cluster to choose another leader. The hub itself stops that much earlier.
pub const HUB_LEASE: Duration = Duration::from_secs(20);
pub const HUB_MARGIN: Duration = Duration::from_secs(2);

/// How long an agent whom nobody takes is left to a hub that has fewer.
pub const HUB_PATIENCE: Duration = Duration::from_secs(10);

/// How long a hub that comes back keeps what it had, at most, until the one that took over has
/// delivered that; and how long a stint that begins is held up to be handed over, at most.
pub const HUB_HOLD: Duration = Duration::from_secs(30);

/// How often the book is read anew because another hub wrote in between, and the pause before: each
/// hub writes once in [`HUB_BEAT`].
pub const HUB_TRIES: u32 = 8;
pub const HUB_RETRY: Range<Duration> = Duration::from_millis(5)..Duration::from_millis(100);

/// Stints of an agent whose pages are in the book, the newest: an older one is delivered.
pub const HUB_STINTS: usize = 2;

/// A hub that has not written for so long, and has no agents, is struck out of the book.
pub const HUB_FORGOTTEN: Duration = Duration::from_hours(1);

/// Places in an agent's stream that are remembered until what lies before them is delivered; of more,
/// the newest.
pub const HUB_MARKS: usize = 1024;

/// What a hub may wait for of itself; it waits for each to be done.
pub const HUB_ORDERS: usize = 4;

// Where this program is the server.

/// Where this program is the server: a longer message ends its connection, as on the public one.
pub const MAX_MESSAGE_BYTES: usize = 1_000_000;

/// A client that leaves more than this unread, in messages, is cut off: a frame that is silently
/// left out on a connection that stands would look like a frame that was lost.
pub const MAX_OUTBOX_MESSAGES: usize = 65_536;

/// Rooms that a client may be in, and how long the name of one may be; a UUID has 36.
pub const MAX_ROOMS: usize = 1_000;
pub const MAX_ROOM_NAME_BYTES: usize = 100;

/// From a client's connection to its first packet, at most.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(45);

/// How often a server looks whether a client is there, and how long that may take to answer: as the
/// public server has it.
pub const PING_INTERVAL: Duration = Duration::from_secs(25);
pub const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a server that is asked to stop waits for its clients to take their leave.
pub const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// Streams whose newest frame and setup are kept for those who join them: those that sent last.
pub const MAX_LATEST: usize = 8;

/// Between two looks of a browser whether the page of a stream is there yet.
pub const PAGE_REFRESH: Duration = Duration::from_secs(2);

// What is watched and shown.

/// From the request to stop to the end of the process, however slow disk and network are.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two looks whether the ledger balances.
pub const LEDGER_CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// Between two times at which what was measured is filed; some values of 8 bytes a frame wait for it.
pub const METRICS_UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Between two looks at how the queue drains.
pub const DRAIN_INTERVAL: Duration = Duration::from_secs(10);

/// Intervals in a row in which the queue must not get less before the server is said to take less
/// than is driven.
pub const DRAIN_INTERVALS: usize = 3;

/// And so much older than its newest must the oldest entry be: what waits for its proof, which
/// takes up to [`WRITTEN_AFTER`] and a verification, is no backlog.
pub const BEHIND_AFTER: Duration = Duration::from_mins(2);

/// An entry younger than this is live; an older one is part of a backlog.
pub const LIVE_WITHIN: Duration = Duration::from_secs(5);

/// Looks at the queue that the status page shows: an hour of them.
pub const STATUS_LOOKS: usize = 360;

/// What went wrong lately, on the status page: so many lines, the newest.
pub const STATUS_TROUBLES: usize = 5;

/// Between two looks whether the queue's disk fails, for the status page.
pub const TROUBLE_INTERVAL: Duration = Duration::from_secs(5);

/// How long the status page says that the server forgot the session: somebody has to hand the new
/// link on.
pub const FORGOTTEN_SHOWN: Duration = Duration::from_secs(60);

/// The latency on the status page is that of the entries delivered within this time, of the newest
/// so many; each takes 32 bytes of memory.
pub const LATENCY_WINDOW: Duration = Duration::from_secs(60);
pub const LATENCIES: usize = 1000;

/// Between two looks for the line in the terminal, and so between two texts of it, at least.
pub const LINE_INTERVAL: Duration = Duration::from_secs(1);

/// The rates on that line, and the time that is left, are those of this time.
pub const RATE_WINDOW: Duration = Duration::from_secs(10);

/// Texts that wait for a terminal that is stopped; lines of the log beyond that are left out.
pub const TERMINAL_TEXTS: usize = 256;

/// How long the agent waits at its end for such a terminal.
pub const TERMINAL_PATIENCE: Duration = Duration::from_secs(2);

/// A log file above this is kept as the old one, in the place of the old one before.
pub const LOG_FILE_BYTES: u64 = 4 << 20;

/// Between two log lines of the same kind.
pub const LOG_REPEAT_INTERVAL: Duration = Duration::from_secs(10);

/// How much lower than normal the agent's priority is on Linux, on the scale of `nice`: 0 to 19.
/// On Windows it is "below normal".
pub const NICENESS: i32 = 5;

// Demo and chaos.

/// How long the demo waits for a session, and at its end for the queue to drain.
pub const DEMO_DRAIN_TIMEOUT: Duration = Duration::from_secs(20);

/// The longest wait of the demo's agent before a new connection, and between two looks at how its
/// queue drains.
pub const STAGE_BACKOFF_MAX: Duration = Duration::from_secs(3);
pub const STAGE_LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Samples a second of the car in `pitwire chaos`.
pub const CHAOS_RATE_HZ: f64 = 20.0;

/// How long it is calm there between two faults, and how long a fault lasts: sometimes longer than a
/// batch waits for its proof.
pub const CHAOS_CALM: Range<Duration> = Duration::from_secs(1)..Duration::from_secs(4);
pub const CHAOS_FAULT: Range<Duration> = Duration::from_millis(500)..Duration::from_secs(8);

/// The longest chaos, in minutes.
pub const MAX_CHAOS_MINUTES: f64 = 1440.0;

// The doctor.

/// How often the doctor stores something to see how long that takes, and how much: about a frame.
pub const DOCTOR_FSYNCS: usize = 9;
pub const DOCTOR_FSYNC_BYTES: usize = 512;

/// A disk that takes longer than this for it is slow: a source waits four times this long at most
/// ([`APPEND_TIMEOUT`]).
pub const DOCTOR_SLOW_FSYNC: Duration = Duration::from_millis(250);

/// With less than this left on the queue's disk it cannot be told to take less: the smallest
/// `queue.max_bytes`.
pub const DOCTOR_LEAST_FREE_BYTES: u64 = 16 << 20;

/// How long the doctor waits for a disk; and for every entry of the queue to be read.
pub const DOCTOR_DISK_TIMEOUT: Duration = Duration::from_secs(10);
pub const DOCTOR_VERIFY_TIMEOUT: Duration = Duration::from_secs(60);

/// How long it waits for a name to be looked up, for a connection to each address, for TLS, and for
/// an answer to HTTP; the rest has the bounds of `delivery`.
pub const DOCTOR_NETWORK_TIMEOUT: Duration = Duration::from_secs(5);

/// An answer to the doctor above this is not read; `/metrics` and `/status` fit many times.
pub const MAX_DOCTOR_ANSWER_BYTES: usize = 1 << 20;

/// Addresses of one name that the doctor tries, at most.
pub const MAX_DOCTOR_ADDRESSES: usize = 8;

/// A server's clock that is further off than this is said: HTTP tells whole seconds, and the answer
/// is on its way for a while.
pub const DOCTOR_CLOCK_OFFSET: Duration = Duration::from_secs(5);

/// How long the doctor waits for a program that listens where the agent would.
pub const DOCTOR_LOCAL_TIMEOUT: Duration = Duration::from_secs(2);
