//! Authentication, and the messages about a server that does not work as expected.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::thread;
use std::time::Duration;

use async_nats::jetstream::stream::Config;
use nkeys::KeyPair;
use pitwire::entry::{CapturedAt, Entry, Kind, Seq, StintId};
use pitwire::sink::nats::Nats;
use pitwire::sink::{Addressed, EntryId, Link, Proof, Sink};
use serde_json::{Value, json};
use tempfile::tempdir;
use tokio::time::sleep;

use super::{NatsServer, check};
use crate::agent::{Agent, eventually};
use crate::hostile::certificates;
use crate::process::numbered_samples;

const QUARANTINED: &str = r#"pitwire_entries_dead_lettered_total{cause="refused"}"#;

/// Starts an agent with one frame to send.
fn agent(queue: &Path, url: &str, settings: &[&str]) -> Agent {
    let agent = Agent::start(queue, url, &[&["agent.name=pc"], settings].concat());
    agent.feed(&numbered_samples(1, 1));
    agent
}

async fn drained(agent: &Agent, entries: f64) {
    let delivered = r#"pitwire_ledger_entries{state="delivered"}"#;
    agent.metric_becomes(delivered, |count| count >= entries).await;
}

/// The agent's status.
async fn status(agent: &Agent) -> Value {
    serde_json::from_str(&agent.page("/status").await.1).unwrap()
}

/// The problem of its destination that the agent reports in its status.
async fn wrong(agent: &Agent) -> Value {
    status(agent).await["destinations"][0]["wrong"].clone()
}

#[tokio::test]
async fn a_valid_token_is_accepted_and_a_wrong_one_reported_without_showing_it() {
    let server = NatsServer::configured("nats", "authorization { token: pit-lane }");
    let folder = tempdir().unwrap();
    let stranger = agent(&folder.path().join("a"), &server.url(), &["server.token=hunter22"]);
    stranger.process.says("the server refuses access: authorization violation").await;
    let log = stranger.process.stderr().join("\n");
    assert!(!log.contains("hunter22"), "{log}");
    assert!(wrong(&stranger).await.as_str().unwrap().contains("does not let this PC in"));

    let file = folder.path().join("token");
    std::fs::write(&file, "pit-lane\n").unwrap();
    let file = format!("server.token_file={}", file.display());
    let friend = agent(&folder.path().join("b"), &server.url(), &[&file]);
    drained(&friend, 1.0).await;
}

/// A JWT in the NATS format, signed by the issuer's key.
fn jwt(issuer: &KeyPair, subject: &KeyPair, nats: Value) -> String {
    let claims = json!({
        "jti": "1", "iat": 1_700_000_000, "iss": issuer.public_key(), "name": "pit",
        "sub": subject.public_key(), "nats": nats,
    });
    let base64 = |bytes: &[u8]| base64(bytes);
    let head = base64(br#"{"typ":"JWT","alg":"ed25519-nkey"}"#);
    let text = format!("{head}.{}", base64(claims.to_string().as_bytes()));
    let signature = issuer.sign(text.as_bytes()).unwrap();
    format!("{text}.{}", base64(&signature))
}

/// URL-safe base64 without padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        let digits = (0..=chunk.len()).map(|place| bits >> (18 - 6 * place) & 63);
        text.extend(digits.map(|digit| char::from(DIGITS[digit as usize])));
    }
    text
}

#[tokio::test]
async fn a_credentials_file_grants_access() {
    let (operator, user) = (KeyPair::new_operator(), KeyPair::new_user());
    let [account, system] = [KeyPair::new_account(), KeyPair::new_account()];
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
        "conn": -1, "leaf": -1, "mem_storage": -1, "disk_storage": -1,
    });
    let of_operator = jwt(&operator, &operator, json!({"type": "operator", "version": 2}));
    let nats = json!({"type": "account", "version": 2, "limits": limits});
    let of_account = jwt(&operator, &account, nats);
    let of_system = jwt(&operator, &system, json!({"type": "account", "version": 2}));
    let nats = json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1});
    let of_user = jwt(&account, &user, nats);
    let config = format!(
        "operator: {of_operator}\nsystem_account: {system}\nresolver: MEMORY\n\
         resolver_preload: {{ {account}: {of_account}, {system}: {of_system} }}",
        account = account.public_key(),
        system = system.public_key(),
    );
    let server = NatsServer::configured("nats", &config);

    let folder = tempdir().unwrap();
    let file = folder.path().join("pc.creds");
    let seed = user.seed().unwrap();
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{of_user}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    );
    std::fs::write(&file, &text).unwrap();
    let set = format!("server.credentials_file={}", file.display());
    let friend = agent(&folder.path().join("a"), &server.url(), &[&set]);
    drained(&friend, 1.0).await;

    let stranger = agent(&folder.path().join("b"), &server.url(), &[]);
    stranger.process.says("the server refuses access").await;

    std::fs::write(&file, "no credentials").unwrap();
    let damaged = agent(&folder.path().join("c"), &server.url(), &[&set]);
    damaged.process.says("server.credentials_file: cannot parse user JWT").await;

    std::fs::remove_file(&file).unwrap();
    let missing = agent(&folder.path().join("d"), &server.url(), &[&set]);
    missing.process.says("server.credentials_file: no such file: ").await;
}

#[tokio::test]
async fn certificates_are_checked_and_a_configured_ca_is_trusted() {
    let folder = tempdir().unwrap();
    let (ca, certificate, key) = certificates(folder.path());
    let config = format!("tls {{ cert_file: {certificate:?}, key_file: {key:?} }}");
    let server = NatsServer::configured("tls", &config);
    let stranger = agent(&folder.path().join("a"), &server.url(), &[]);
    stranger.process.says("TLS failed: invalid peer certificate").await;

    let ca = format!("server.ca_file={}", ca.display());
    let friend = agent(&folder.path().join("b"), &server.url(), &[&ca]);
    drained(&friend, 1.0).await;
    // A server that requires TLS gets it with a nats:// address too.
    let plain = server.url().replace("tls://", "nats://");
    let friend = agent(&folder.path().join("c"), &plain, &[&ca]);
    drained(&friend, 1.0).await;

    // The certificate is for another host name.
    let other = server.url().replace("127.0.0.1", "localhost");
    let misled = agent(&folder.path().join("d"), &other, &[&ca]);
    misled.process.says("TLS failed: invalid peer certificate").await;

    let nowhere = agent(&folder.path().join("e"), &server.url(), &["server.ca_file=/nowhere.pem"]);
    nowhere.process.says("server.ca_file: no such file: /nowhere.pem; write").await;
}

#[tokio::test]
async fn a_tls_address_refuses_a_server_without_tls() {
    let server = NatsServer::start();
    let folder = tempdir().unwrap();
    let url = server.url().replace("nats://", "tls://");
    let agent = agent(folder.path(), &url, &["server.token=hunter22"]);
    let plain = server.url();
    agent
        .process
        .says(&format!(
            "{url} speaks no TLS; write {plain} in server.url, or the port that has TLS"
        ))
        .await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(server.kept("pc").await, []);
}

/// Starts a server that answers each connection with these bytes, or never. It runs until the test
/// process ends.
fn answering(answer: Option<&'static [u8]>) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        let mut open = Vec::new();
        for mut client in listener.incoming().map_while(Result::ok) {
            if let Some(answer) = answer {
                let _ = client.write_all(answer);
                let _ = client.set_read_timeout(Some(Duration::from_millis(100)));
                let _ = client.read(&mut [0; 1024]);
            }
            open.push(client);
        }
    });
    url
}

#[tokio::test]
async fn a_server_without_nats_or_jetstream_is_reported() {
    let folder = tempdir().unwrap();
    let without_jetstream = NatsServer::without_jetstream();
    let html = answering(Some(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
    let silent = answering(None);
    for (name, url, complaint) in [
        ("a", html.as_str(), "the NATS server accepts no entries: invalid server operation"),
        ("b", silent.as_str(), "did not answer within 1s: it accepts no NATS connection"),
        ("c", "nats://127.0.0.1:1", "cannot reach the server: Connection refused"),
        ("d", "nats://pit.invalid", "cannot reach the server: DNS error"),
        ("e", &without_jetstream.url(), "it has no JetStream, or none yet"),
    ] {
        let settings = ["delivery.open_timeout=1s"];
        let agent = agent(&folder.path().join(name), url, &settings);
        agent.process.says(complaint).await;
        assert!(wrong(&agent).await.is_string(), "{url}");
    }
}

#[tokio::test]
async fn two_agents_with_one_name_are_reported_and_lose_nothing() {
    let server = NatsServer::start();
    let folder = tempdir().unwrap();
    let agents = ["a", "b"].map(|name| agent(&folder.path().join(name), &server.url(), &[]));
    for round in 0..20 {
        for agent in &agents {
            agent.feed(&numbered_samples(2 + round * 20, 20));
        }
        sleep(Duration::from_millis(50)).await;
    }
    for agent in &agents {
        drained(agent, 401.0).await;
    }
    let said = |agent: &Agent| {
        let lines = agent.process.stderr();
        lines.iter().any(|line| line.contains("or another agent is also named \"pc\""))
    };
    assert!(agents.iter().any(said));
    let stored = (1..=401).map(|number| (number, number)).collect();
    let kept = server.kept("pc").await;
    let (one, other): (Vec<_>, Vec<_>) =
        kept.iter().cloned().partition(|entry| entry.stint == kept[0].stint);
    assert_eq!((check(&one, &stored).len(), check(&other, &stored).len()), (1, 1));
}

/// Otherwise the first entry's expected position would be taken by another agent's entry, the
/// second entry would follow it, and the first would be taken for stored.
#[tokio::test]
async fn entries_after_a_rejected_one_are_rejected_too() {
    let server = NatsServer::start();
    let mut config = pitwire::config::Config::default();
    config.server.url = server.url().parse().unwrap();
    config.agent.name = Some("pc".parse().unwrap());
    let mut link = Nats::new(&config).open().await.unwrap();
    let jetstream = server.jetstream().await;
    let other = jetstream.publish("pitwire.pc.9-other.telemetry", "{}".into());
    other.await.unwrap().await.unwrap();

    let entry = |seq: u64| Entry {
        seq: Seq(seq),
        stint: StintId(1),
        captured_at: CapturedAt(seq as i64),
        kind: Kind::Frame,
        json: "{}".into(),
    };
    let entries = [1, 2, 3].map(entry);
    let addressed = entries.each_ref().map(|entry| Addressed {
        session: "1-mine",
        entry,
        id: EntryId(entry.seq.0),
    });
    let published = link.publish(&addressed, Proof::Ack, Duration::ZERO).await;
    assert!(published.is_err(), "{published:?}");
    let mut stream = jetstream.get_stream("PITWIRE_pc").await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, 1);
}

#[tokio::test]
async fn a_deleted_stream_is_recreated() {
    let server = NatsServer::start();
    let folder = tempdir().unwrap();
    let agent = agent(folder.path(), &server.url(), &[]);
    drained(&agent, 1.0).await;
    let jetstream = server.jetstream().await;
    jetstream.delete_stream("PITWIRE_pc").await.unwrap();
    agent.feed(&numbered_samples(2, 100));
    drained(&agent, 101.0).await;
    let kept = server.kept("pc").await;
    assert!(kept.iter().map(|entry| entry.seq).eq(2..=101), "{kept:?}");
}

#[tokio::test]
async fn an_oversized_entry_becomes_a_dead_letter_and_delays_nothing() {
    let server = NatsServer::configured("nats", "max_payload: 4096");
    let folder = tempdir().unwrap();
    let agent = agent(folder.path(), &server.url(), &["delivery.proof_timeout=1s"]);
    drained(&agent, 1.0).await;
    let setup = json!({"notes": "x".repeat(5000)}).to_string();
    agent.post("/v1/setup", setup).await;
    agent.feed(&numbered_samples(2, 50));
    drained(&agent, 51.0).await;
    assert_eq!(agent.metric(QUARANTINED).await, 1.0);
    // The stream's limit instead of the server's.
    let limited = NatsServer::start();
    let config = Config {
        name: "PITWIRE_pc".into(),
        subjects: vec!["pitwire.pc.>".into()],
        max_message_size: 3000,
        ..Config::default()
    };
    limited.jetstream().await.create_stream(config).await.unwrap();
    let agent = self::agent(&folder.path().join("b"), &limited.url(), &[]);
    agent.post("/v1/setup", json!({"notes": "x".repeat(5000)}).to_string()).await;
    agent.feed(&numbered_samples(2, 50));
    drained(&agent, 51.0).await;
    assert_eq!(agent.metric(QUARANTINED).await, 1.0);
    let laps: Vec<_> =
        limited.kept("pc").await.iter().map(|entry| entry.json["lap"].as_u64().unwrap()).collect();
    assert_eq!(laps, (1..=51).collect::<Vec<_>>());
}

#[tokio::test]
async fn delivery_to_nats_has_no_page_and_logs_the_stint_name() {
    let server = NatsServer::start();
    let folder = tempdir().unwrap();
    let agent = agent(folder.path(), &server.url(), &[]);
    drained(&agent, 1.0).await;
    let verified = async || {
        let status = status(&agent).await;
        (status["destinations"][0]["verified"] == true).then_some(status)
    };
    let status = eventually("verified", verified).await;
    let destination = &status["destinations"][0];
    assert_eq!((&destination["page"], &destination["proof"]), (&Value::Null, &json!("ack")));
    assert_eq!(status["badge"]["text"], "Live");
    assert_eq!(agent.page("/readyz").await, (200, "ok\n".into()));
    assert_eq!(agent.links(), Vec::<String>::new());
    let kept = server.kept("pc").await;
    agent.process.says(&format!("name=\"{}\" on=\"PITWIRE_pc\"", kept[0].stint)).await;
}
