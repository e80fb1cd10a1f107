//! A hand-written dashboard server on raw WebSocket frames, so that it can send what no library
//! would: invalid, late or unknown ids, floods, and malformed packets.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{SinkExt, StreamExt};
use pitwire::sink::Proof;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_tungstenite::tungstenite::Message;

use crate::hostile::Pit;

/// The messages that an impostor sends, each with its delay.
pub type TimedMessages = Vec<(Duration, Message)>;

/// The messages that the impostor sends for the `count`th event of this name, starting at 1, before
/// it answers.
type Aside = dyn Fn(&str, usize) -> TimedMessages + Send + Sync;

/// The answer to the `count`th request for a session, which has this id.
type Assigns = dyn Fn(&str, usize) -> TimedMessages + Send + Sync;

pub struct Script {
    aside: Box<Aside>,
    assigns: Box<Assigns>,
}

impl Script {
    /// Follows the contract, but sends additional messages.
    pub fn aside(aside: impl Fn(&str, usize) -> TimedMessages + Send + Sync + 'static) -> Self {
        Self { aside: Box::new(aside), assigns: Box::new(|id, _| at_once(assigned(id))) }
    }

    /// Follows the contract, except for the session id that it assigns.
    fn assigns(assigns: impl Fn(&str, usize) -> TimedMessages + Send + Sync + 'static) -> Self {
        Self { aside: Box::new(|_, _| Vec::new()), assigns: Box::new(assigns) }
    }
}

fn at_once(message: Message) -> TimedMessages {
    vec![(Duration::ZERO, message)]
}

fn assigned(id: impl Into<Value>) -> Message {
    event("session_id_assigned", json!({"session_id": id.into()}))
}

fn event(name: &str, payload: Value) -> Message {
    Message::text(format!("42{}", json!([name, payload])))
}

/// The frames of each created session, in order of arrival.
type Sessions = Vec<(String, Vec<Value>)>;

/// A running impostor. Dropping it ends its connections.
pub struct Impostor {
    address: SocketAddr,
    sessions: Arc<Mutex<Sessions>>,
    _tasks: JoinSet<()>,
}

impl Impostor {
    pub async fn start(script: Script) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let sessions = Arc::<Mutex<Sessions>>::default();
        let shared =
            Arc::new(Shared { script, sessions: Arc::clone(&sessions), counts: Mutex::default() });
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut clients = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                clients.spawn(talk(client, Arc::clone(&shared)));
            }
        });
        Self { address, sessions, _tasks: tasks }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The laps of each session that has any.
    pub fn laps(&self) -> Vec<Vec<u64>> {
        let sessions = self.sessions.lock().unwrap();
        let lap = |frame: &Value| frame["lap"].as_u64().unwrap();
        let laps = sessions.iter().map(|(_, frames)| frames.iter().map(lap).collect::<Vec<_>>());
        laps.filter(|laps| !laps.is_empty()).collect()
    }
}

struct Shared {
    script: Script,
    sessions: Arc<Mutex<Sessions>>,
    /// The number of times that each event was received.
    counts: Mutex<std::collections::BTreeMap<String, usize>>,
}

/// Serves one connection until it ends.
async fn talk(client: TcpStream, shared: Arc<Shared>) {
    let Ok(socket) = tokio_tungstenite::accept_async(client).await else { return };
    let (mut sink, mut stream) = socket.split();
    let (say, mut said) = unbounded_channel();
    let mut later = JoinSet::new();
    let _ = say.send(Message::text(
        r#"0{"sid":"a","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}"#,
    ));
    let mut joined = Vec::new();
    loop {
        let heard = tokio::select! {
            biased;
            message = said.recv() => {
                // The script has ended, which ends the connection.
                let Some(message) = message else { return };
                if sink.send(message).await.is_err() {
                    return;
                }
                continue;
            }
            heard = stream.next() => heard,
        };
        let Some(Ok(heard)) = heard else { return };
        let Ok(text) = heard.into_text() else { continue };
        if text.starts_with("40") {
            let _ = say.send(Message::text(r#"40{"sid":"a"}"#));
        } else if let Some(text) = text.strip_prefix("42") {
            answer(text, &shared, &mut joined, &say, &mut later);
        }
    }
}

/// Handles one event according to the contract, and sends the script's messages.
fn answer(
    text: &str,
    shared: &Shared,
    joined: &mut Vec<String>,
    say: &UnboundedSender<Message>,
    later: &mut JoinSet<()>,
) {
    let (ack, event_json) = text.split_at(text.find('[').unwrap());
    let (name, payload): (String, Value) = serde_json::from_str(event_json).unwrap();
    let count = {
        let mut counts = shared.counts.lock().unwrap();
        let count = counts.entry(name.clone()).or_default();
        *count += 1;
        *count
    };
    let mut speak = |words: TimedMessages| {
        for (delay, message) in words {
            if delay.is_zero() {
                let _ = say.send(message);
                continue;
            }
            let say = say.clone();
            later.spawn(async move {
                sleep(delay).await;
                let _ = say.send(message);
            });
        }
    };
    speak((shared.script.aside)(&name, count));
    let mut sessions = shared.sessions.lock().unwrap();
    let id = payload["session_id"].as_str().unwrap_or_default().to_owned();
    let known = sessions.iter_mut().find(|(known, _)| *known == id);
    match name.as_str() {
        "request_session_id" => {
            let id = format!("session-{}", sessions.len() + 1);
            sessions.push((id.clone(), Vec::new()));
            speak((shared.script.assigns)(&id, count));
        }
        "join_session" => {
            if let Some(frame) = known.and_then(|(_, frames)| frames.last()) {
                let stored = json!({"session_id": id, "telemetry": frame});
                speak(at_once(event("telemetry_update", stored)));
            }
            joined.push(id);
        }
        "telemetry_update" => {
            if let Some((_, frames)) = known {
                frames.push(payload["telemetry"].clone());
                if joined.contains(&id) {
                    speak(at_once(event("telemetry_update", payload)));
                }
            }
        }
        _ => {}
    }
    if !ack.is_empty() {
        speak(at_once(Message::text(format!("43{ack}[]"))));
    }
}

#[tokio::test]
async fn a_second_or_late_session_id_does_not_split_a_stint() {
    let server = Impostor::start(Script::assigns(|id, _| {
        let later = Duration::from_millis(300);
        vec![
            (Duration::ZERO, assigned(id)),
            (Duration::ZERO, assigned("another")),
            (later, assigned("late")),
            (later, assigned(7)),
        ]
    }))
    .await;
    let pit = Pit::new(&server.url(), &[]);
    pit.store(1..=50, "Ana").await;
    pit.drained().await;
    sleep(Duration::from_millis(400)).await;
    pit.store(51..=60, "Ana").await;
    pit.drained().await;
    assert_eq!(server.laps(), [(1..=60).collect::<Vec<_>>()]);
    assert_eq!((pit.status().connects, pit.status().failures), (1, 0));
}

#[tokio::test]
async fn a_session_id_that_arrives_too_late_is_ignored() {
    let server = Impostor::start(Script::assigns(|id, count| match count {
        1 => vec![(Duration::from_millis(900), assigned(id))],
        _ => at_once(assigned(id)),
    }))
    .await;
    let settings = [("delivery.proof_timeout", "500ms"), ("delivery.backoff_min", "300ms")];
    let pit = Pit::new(&server.url(), &settings);
    pit.store(1..=50, "Ana").await;
    let said = pit.complaint().await;
    assert!(said.contains("it assigns no session"), "{said}");
    pit.drained().await;
    assert_eq!(server.laps(), [(1..=50).collect::<Vec<_>>()]);
}

#[tokio::test]
async fn an_invalid_session_id_is_reported_and_requested_again() {
    for junk in [json!(7), json!(null), json!("../x"), json!("\u{1b}[2J"), json!("x".repeat(9999))]
    {
        let wrong = junk.clone();
        let server = Impostor::start(Script::assigns(move |id, count| match count {
            1 => at_once(assigned(wrong.clone())),
            _ => at_once(assigned(id)),
        }))
        .await;
        let pit = Pit::new(&server.url(), &[("delivery.backoff_min", "300ms")]);
        pit.store(1..=5, "Ana").await;
        let said = pit.complaint().await;
        assert!(said.contains("as a session id") && said.len() < 300, "{junk}: {said}");
        pit.drained().await;
        assert_eq!(server.laps(), [[1, 2, 3, 4, 5]], "{junk}");
    }
}

#[tokio::test]
async fn a_session_id_unknown_to_the_server_removes_nothing_from_the_queue() {
    let mended = Arc::new(AtomicBool::new(false));
    let is_mended = Arc::clone(&mended);
    let server = Impostor::start(Script::assigns(move |id, _| {
        at_once(assigned(if is_mended.load(Ordering::Relaxed) { id } else { "nobody" }))
    }))
    .await;
    let pit = Pit::new(&server.url(), &[]);
    pit.store(1..=50, "Ana").await;
    let said = pit.complaint().await;
    assert!(said.contains("acknowledges entries that it does not store"), "{said}");
    sleep(Duration::from_secs(2)).await;
    assert_eq!(pit.publisher.queue_status().entries, 50);
    assert!(pit.status().failures < 10, "{:?}", pit.status());

    mended.store(true, Ordering::Relaxed);
    pit.drained().await;
    assert_eq!(server.laps(), [(1..=50).collect::<Vec<_>>()]);
}

#[tokio::test]
async fn events_named_like_internal_ones_do_not_disconnect() {
    let server = Impostor::start(Script::aside(|_, _| {
        let names = ["connect", "disconnect", "open", "close", "error", "message"];
        let payloads = [json!({}), json!("odd"), json!(null)];
        let mut words: Vec<_> = names
            .iter()
            .flat_map(|name| payloads.iter().map(|payload| event(name, payload.clone())))
            .collect();
        words.extend([
            Message::text(r#"42["close"]"#),
            Message::text(r#"42["error","odd","even"]"#),
            // An unsolicited acknowledgement.
            Message::text("43999[]"),
            // Another namespace.
            Message::text(r#"42/odd,["telemetry_update",{}]"#),
            Message::text(r#"451-["telemetry_update",{"_placeholder":true,"num":0}]"#),
            Message::binary(vec![0, 159, 146, 150]),
        ]);
        words.into_iter().map(|word| (Duration::ZERO, word)).collect()
    }))
    .await;
    let pit = Pit::new(&server.url(), &[]);
    pit.store(1..=100, "Ana").await;
    pit.drained().await;
    assert_eq!(server.laps(), [(1..=100).collect::<Vec<_>>()]);
    assert_eq!((pit.status().connects, pit.status().last_error), (1, None));
    assert_eq!(pit.status().proof, Some(Proof::Echo));
}

#[tokio::test]
async fn a_flood_of_foreign_frames_does_not_disconnect() {
    let stranger = |n: usize| {
        let telemetry = json!({"timestamp": "2026-11-24T10:00:00.000Z", "lap": n});
        let payload = json!({"session_id": "stranger", "telemetry": telemetry});
        (Duration::from_millis(n as u64 / 10), event("telemetry_update", payload))
    };
    // The flood lasts over half a second; answering the frame itself takes only a moment.
    let server = Impostor::start(Script::aside(move |name, _| match name {
        "telemetry_update" => (1..=6000).map(stranger).collect(),
        _ => Vec::new(),
    }))
    .await;
    let pit = Pit::new(&server.url(), &[("delivery.verify_interval", "9s")]);
    for lap in 1..=3 {
        pit.store(lap..=lap, "Ana").await;
        pit.drained().await;
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(server.laps(), [[1, 2, 3]]);
    assert_eq!((pit.status().connects, pit.status().last_error), (1, None));
}

#[tokio::test]
async fn secrets_echoed_by_the_server_reach_neither_log_nor_status() {
    use crate::agent::{Agent, eventually};

    const SESSION: &str = "5f0b7a5e-8b5e-4f7e-9d0e-0f4c6c1d2e3f";
    let server = Impostor::start(Script {
        aside: Box::new(|name, count| match (name, count) {
            ("telemetry_update", 1) => at_once(event("error", json!(format!("{SESSION} hunter2")))),
            _ => Vec::new(),
        }),
        assigns: Box::new(|_, count| match count {
            1 => at_once(Message::text(r#"44{"message":"no such token: hunter2"}"#)),
            2 => at_once(assigned(format!("{SESSION} is yours"))),
            _ => at_once(assigned(SESSION)),
        }),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let settings = ["server.token=hunter2", "log.level=trace", "delivery.proof=echo"];
    let agent = Agent::start(folder.path(), &server.url(), &settings);
    agent.feed(&[json!({"lap": 1}).to_string()]);
    agent.process.says("reports an error").await;
    let complaints = async || {
        let log = agent.process.stderr();
        log.iter().any(|line| line.contains("as a session id")).then_some(())
    };
    eventually("the wrong id is named", complaints).await;
    let (_, status) = agent.page("/").await;
    let log = agent.process.stderr().join("\n");
    assert!(!log.contains("hunter2") && !log.contains(SESSION), "{log}");
    assert!(!status.contains("hunter2"), "{status}");
}

#[tokio::test]
async fn invalid_packets_cost_at_most_one_connection() {
    let packets = [
        "",
        "z",
        "4",
        "49",
        "42",
        "42[",
        "42[7",
        "42[]",
        "4299999999999[]",
        "43[",
        "45-[]",
        "451-",
        // A binary event whose attachment never arrives or is not binary.
        r#"451-["telemetry_update",{"_placeholder":true,"num":0}]"#,
        "1",
        "41",
        "41/odd,",
        r#"44{"message":"odd"}"#,
        "6",
    ];
    join_all(packets.map(survives)).await;
}

/// Checks that all entries are delivered although the server sends this packet once.
async fn survives(packet: &'static str) {
    let server = Impostor::start(Script::aside(move |name, count| match (name, count) {
        ("telemetry_update", 2) => at_once(Message::text(packet)),
        _ => Vec::new(),
    }))
    .await;
    let pit = Pit::new(&server.url(), &[("delivery.proof_timeout", "1s")]);
    pit.store(1..=1, "Ana").await;
    pit.drained().await;
    pit.store(2..=5, "Ana").await;
    pit.drained().await;
    // A packet that consumes the next frame as its attachment causes that frame to be sent again.
    let mut laps = server.laps().concat();
    laps.sort_unstable();
    laps.dedup();
    assert_eq!(laps, [1, 2, 3, 4, 5], "{packet:?}");
    assert!(pit.status().failures <= 1, "{packet:?}: {:?}", pit.status());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_flood_of_huge_events_stays_within_the_memory_limit() {
    use crate::agent::{Agent, eventually};

    let server = Impostor::start(Script::aside(|name, count| match (name, count) {
        ("telemetry_update", 1) => {
            // Each event takes 15 MB once parsed.
            let huge = format!(
                r#"42["telemetry_update",{{"session_id":"stranger","telemetry":[{}0]}}]"#,
                "0,".repeat(450_000)
            );
            (1..=40).map(|n| (Duration::from_millis(n * 10), Message::text(huge.clone()))).collect()
        }
        _ => Vec::new(),
    }))
    .await;
    let folder = tempfile::tempdir().unwrap();
    let settings = ["delivery.verify_interval=9s", "delivery.proof_timeout=10s"];
    let agent = Agent::start(folder.path(), &server.url(), &settings);
    let line = |lap: u64| json!({"lap": lap}).to_string();
    agent.feed(&[line(1)]);
    eventually("the first frame", async || (!server.laps().is_empty()).then_some(())).await;
    sleep(Duration::from_secs(3)).await;
    agent.feed(&[line(2)]);
    let both = async || (server.laps() == [[1, 2]]).then_some(());
    eventually("the frame behind the flood", both).await;

    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.process.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 200 << 10, "{peak} KiB at the peak");
}
